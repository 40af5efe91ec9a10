//! Waiting for what goes on at the server: asked again and again, with progress on a terminal.

use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::Failure;
use crate::printable;

/// How often the server is asked.
const POLL_PERIOD: Duration = Duration::from_millis(200);

/// The status.
pub enum Step<T> {
    /// Not over yet; in words, which may be none.
    Pending(String),
    /// Over.
    Over(T),
}

/// Asks until it is over. After `patience` it ends with a failure that says `remedy`.
pub fn poll_until_done<T>(
    doing: &str,
    patience: Duration,
    remedy: &str,
    mut ask: impl FnMut() -> Result<Step<T>, Failure>,
) -> Result<T, Failure> {
    let started = Instant::now();
    let progress = ProgressBar::new_spinner().with_style(
        ProgressStyle::with_template("{spinner} {prefix} {elapsed}  {msg}")
            .expect("the template is well-formed"),
    );
    progress.set_prefix(doing.to_owned());
    loop {
        match ask()? {
            Step::Over(value) => {
                progress.finish_and_clear();
                return Ok(value);
            }
            Step::Pending(_) if started.elapsed() >= patience => {
                progress.finish_and_clear();
                let message = format!("{doing}: still pending after {patience:?}");
                return Err(Failure::later(message, remedy));
            }
            Step::Pending(words) => {
                progress.set_message(printable::line(&words));
                progress.tick();
                thread::sleep(POLL_PERIOD);
            }
        }
    }
}
