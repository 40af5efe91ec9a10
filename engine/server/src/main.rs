//! The keywayd process: flags, then [`keyway_server::node::run`].

use std::process::ExitCode;

use clap::Parser;
use keyway_server::config::{Config, Options};
use keyway_server::os_error::{Attempt, explain};
use keyway_server::{exit, logging, node, signals};

/// Wipes what ring and others leave on the heap when they free it.
#[global_allocator]
static ALLOCATOR: keyway_keys::ZeroingAllocator = keyway_keys::ZeroingAllocator;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            logging::last_words(&error);
            exit::now(1)
        }
    }
}

fn start() -> Result<(), String> {
    // Before anything that takes time: as process 1 a signal without a handler is lost.
    let stop = signals::take().map_err(|error| {
        format!(
            "signals cannot be handled: {}",
            explain(&error, Attempt::Thread)
        )
    })?;
    let options = Options::parse();
    let (file, is_flag) = (options.config.clone(), options.log_level.is_some());
    let options = options.with_file().map_err(|error| error.to_string())?;
    let machine = options.machine();
    let config = Config::resolve(options, &machine).map_err(|error| error.to_string())?;
    logging::start(&config, file, is_flag).map_err(|error| error.to_string())?;
    node::run(config, &machine, &stop)
}
