//! Diagnosis of a server from its metrics: data in, findings out. Nothing here calls a server or writes a line;
//! `commands::doctor` does both.
//!
//! ```text
//!  Case (status documents, settings, hot keys, changes) ──▶ rules::examine ──▶ Finding
//! ```

mod case;
mod finding;
pub mod rules;

pub use case::{Case, Listed};
pub use finding::{Finding, Severity, Subject};
