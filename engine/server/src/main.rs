//! The keywayd process: flags, then [`keyway_server::node::run`].

use std::process::ExitCode;

use clap::Parser;
use keyway_server::config::{Config, Options};
use keyway_server::runtime::executor;
use keyway_server::{logging, node};

/// Wipes what ring and others leave on the heap when they free it.
#[global_allocator]
static ALLOCATOR: keyway_keys::ZeroingAllocator = keyway_keys::ZeroingAllocator;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("keywayd: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<(), String> {
    let options = Options::parse()
        .with_file()
        .map_err(|error| error.to_string())?;
    let cores = executor::cores();
    let config = Config::resolve(options, cores.len()).map_err(|error| error.to_string())?;
    logging::start(&config).map_err(|error| error.to_string())?;
    node::run(config, &cores)
}
