//! Structured logs, and the limiter that keeps a bad minute from becoming a full disk.

use std::cell::Cell;

use keyway_core::Instant;
use tracing_subscriber::EnvFilter;

use crate::config::{Config, ConfigError, LogFormat};

/// Lines of one kind that a shard writes in a second; the rest are counted.
pub const LINES_PER_SECOND_MAX: u32 = 10;

/// Starts the log on standard error.
pub fn start(config: &Config) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(&config.log_level).map_err(|error| {
        ConfigError(format!(
            "--log-level {}: {error}; try `info`",
            config.log_level
        ))
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Text => builder.with_target(false).with_ansi(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}

/// Lets at most [`LINES_PER_SECOND_MAX`] lines through a second and counts the others.
#[derive(Debug, Default)]
pub struct LineLimit {
    window_start_us: Cell<u64>,
    written: Cell<u32>,
    suppressed: Cell<u64>,
}

impl LineLimit {
    /// Whether to write a line now: `Some(n)` when yes, where `n` lines were held back since the
    /// last one written.
    pub fn admit(&self, now: Instant) -> Option<u64> {
        let now_us = now.as_micros();
        if now_us.saturating_sub(self.window_start_us.get()) >= 1_000_000 {
            self.window_start_us.set(now_us);
            self.written.set(0);
        }
        if self.written.get() >= LINES_PER_SECOND_MAX {
            self.suppressed.set(self.suppressed.get() + 1);
            return None;
        }
        self.written.set(self.written.get() + 1);
        Some(self.suppressed.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_the_next_second_says_how_much_was_held_back() {
        let limit = LineLimit::default();
        let first = Instant::from_micros(5_000_000);
        let admitted = (0..100).filter(|_| limit.admit(first).is_some()).count();
        assert_eq!(admitted, LINES_PER_SECOND_MAX as usize);
        let held_back = 100 - u64::from(LINES_PER_SECOND_MAX);
        assert_eq!(limit.admit(first.plus_us(1_000_000)), Some(held_back));
    }
}
