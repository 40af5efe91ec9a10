//! `keyway`, the command line of Keyway.
//!
//! ```text
//!  args ──▶ commands ──▶ connect ──▶ (the server)
//!   secrets,   │  │
//!   streams ◀──┘  ├──▶ output (tables, JSON)      failure: messages and exit codes
//!                 └──▶ vitals (STATUS with types) ──▶ doctor (rules), top (frames)
//! ```
//!
//! It speaks to `keywayd` through `keyway-client`, as any program would; only `connect` names it.
//! What a person or a script asked for goes to standard output, messages go to standard error.

mod args;
mod commands;
mod connect;
mod doctor;
mod failure;
mod import;
mod key_file;
mod output;
mod printable;
mod quote;
mod secret_text;
mod secrets;
mod streams;
mod table;
mod text;
mod top;
mod unlocking;
mod vitals;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = args::Cli::parse();
    let json = cli.json;
    match commands::run(cli) {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report(json).into(),
    }
}
