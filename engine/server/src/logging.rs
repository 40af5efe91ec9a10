//! Structured logs on standard error, and the limits that keep a bad minute from becoming a full disk.
//!
//! A log that cannot be written never ends, blocks or keeps alive the server: see [`writer`].

mod repeats;
mod writer;

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{Config, ConfigError, LogFormat, Options};
use writer::Queue;

/// Lines of one event that are written in a second, or in a minute for [`PER_MINUTE`] events; the rest are counted.
const LINES_MAX: u32 = 10;

/// The name of events whose lines are limited per minute: those of each keyspace in an outage of their KMS.
pub const PER_MINUTE: &str = "per minute";

/// How long the process's end waits for its last lines to be written.
const FLUSH_WITHIN: Duration = Duration::from_secs(5);

static QUEUE: OnceLock<Option<Queue>> = OnceLock::new();
static LEVEL: OnceLock<LevelSource> = OnceLock::new();

/// Where the level comes from, and how it is changed.
struct LevelSource {
    handle: reload::Handle<EnvFilter, Registry>,
    /// The configuration file.
    file: Option<PathBuf>,
    /// A flag gave the level, and wins over the file.
    is_flag: bool,
}

fn queue() -> Option<&'static Queue> {
    let start = || {
        let look = |lost| {
            if lost > 0 {
                tracing::warn!(lost, "log lines were lost: standard error took none");
            }
            repeats::report();
        };
        // Without a thread for it there is no log.
        Queue::start(std::io::stderr(), look).ok()
    };
    QUEUE.get_or_init(start).as_ref()
}

/// Starts the log on standard error. `file` is the configuration that SIGHUP reads again, unless a flag gave the level.
pub fn start(config: &Config, file: Option<PathBuf>, is_flag: bool) -> Result<(), ConfigError> {
    let (filter, handle) = reload::Layer::new(filter_of(&config.log.level)?);
    let _ = LEVEL.set(LevelSource {
        handle,
        file,
        is_flag,
    });
    let Some(queue) = queue() else {
        return Ok(());
    };
    let lines = fmt::layer().with_writer(queue.clone());
    let lines = match config.log.format {
        LogFormat::Text => lines.with_target(false).with_ansi(false).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    let subscriber = Registry::default()
        .with(filter)
        .with(lines.with_filter(repeats::Limit));
    // A second start in one process keeps the first one's log.
    let _ = tracing::subscriber::set_global_default(subscriber);
    // The default hook writes to standard error directly, and would wait for a reader.
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("without a name");
        tracing::error!("thread {name} {panic}");
    }));
    Ok(())
}

fn filter_of(level: &str) -> Result<EnvFilter, ConfigError> {
    EnvFilter::try_new(level)
        .map_err(|error| ConfigError(format!("--log-level {level}: {error}; try `info`")))
}

/// Takes the log level from the configuration file again. Whatever is wrong with it, the level stays as it was.
pub fn reload_level() {
    let Some(source) = LEVEL.get() else { return };
    let Some(file) = &source.file else {
        return tracing::info!("SIGHUP: there is no --config file, so nothing is read again");
    };
    if source.is_flag {
        return tracing::info!("SIGHUP: --log-level wins over the file, so nothing is read again");
    }
    let level = Options::read(file).map(|options| options.log_level());
    let changed = level.and_then(|level| {
        let filter = filter_of(&level)?;
        let changed = source.handle.reload(filter);
        changed.map_err(|error| ConfigError(error.to_string()))?;
        Ok(level)
    });
    match changed {
        Ok(level) => tracing::info!(log_level = level, "SIGHUP: the log level was read again"),
        Err(error) => tracing::warn!(%error, "SIGHUP: the log level stays as it was"),
    }
}

/// Waits a little until the last lines are written.
pub fn flush() {
    if let Some(queue) = queue() {
        queue.flush(FLUSH_WITHIN);
    }
}

/// Says why the process ends, whether the log has been started or not.
pub fn last_words(text: &str) {
    let line = format!("keywayd: {text}\n");
    match queue() {
        Some(queue) => queue.offer(line.into_bytes()),
        // No thread could be started for the log.
        None => writer::write_now(std::io::stderr(), line.as_bytes(), FLUSH_WITHIN),
    }
    flush();
}
