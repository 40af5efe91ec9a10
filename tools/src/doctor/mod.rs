//! Diagnosis of a server from its metrics: data in, findings out. Nothing here calls a server or writes a line;
//! `commands::doctor` does both.
//!
//! ```text
//!  Case (status documents, settings, hot keys, changes) ──▶ rules::examine ──▶ Finding
//! ```

mod evidence;
mod finding;
pub mod rules;

pub use evidence::{Evidence, KeyspaceDetails};
pub use finding::{Finding, Severity, Subject};
