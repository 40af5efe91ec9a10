//! Errors: a sentence that says what went wrong, with what value, and what to do.

/// Whatever stops a scenario. It is printed, nothing decides on it.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// A result of the bench.
pub type Result<T> = std::result::Result<T, Error>;

/// Says what was being done when an error came up.
pub trait Context<T> {
    /// Puts `what()` and a colon before the error's own text.
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: std::fmt::Display> Context<T> for std::result::Result<T, E> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| format!("{}: {error}", what()).into())
    }
}
