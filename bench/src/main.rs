//! `keyway-bench`: load against a `keywayd` of its own, measurements, verdicts.
//!
//! ```text
//!  main ─▶ s1, s4, s5 ─┬─▶ server      starts and stops keywayd on its core
//!                      ├─▶ control     setup and STATUS, one request at a time
//!                      ├─▶ load        open-loop generator on the other core
//!                      ├─▶ prometheus  /metrics as a Prometheus server would read it
//!                      └─▶ check, table, plot, report
//! ```
//!
//! `docs/bench/README.md` describes what each scenario measures and how to read its results.

mod bare;
mod check;
mod control;
mod cpu;
mod error;
mod load;
mod machine;
mod plot;
mod prometheus;
mod report;
mod rng;
mod s1;
mod s4;
mod s5;
mod server;
mod table;
mod traffic;
mod zipf;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::cpu::Cores;
use crate::error::{Context, Result};

/// Measures Keyway: each scenario starts a server of its own, loads it, and judges the measurements.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
    /// Where the report, the plots and the server's logs go [default: `bench` in the target directory]
    #[arg(long, global = true)]
    out: Option<PathBuf>,
    /// The server's program [default: `keywayd` beside this program]
    #[arg(long, global = true)]
    server: Option<PathBuf>,
    /// Length of a measured part in seconds: of an arm of S4, of a step of S1's sweep, of a fault of S5 (the outage takes twice as long)
    #[arg(long, global = true, env = "DURATION_S", default_value_t = 30,
          value_parser = clap::value_parser!(u64).range(5..=86_400))]
    duration_s: u64,
}

#[derive(Clone, Copy, Subcommand)]
enum Scenario {
    /// Steady hot keys, against the bare library call
    S1,
    /// The refresh flow: prefetcher on, off and starved; then a stampede
    S4,
    /// A KMS that goes away, is slow, throttles, denies and comes back; cold starts
    S5,
}

/// What a scenario needs to know.
struct Setup {
    server: PathBuf,
    out: PathBuf,
    cores: Cores,
    duration: Duration,
}

fn main() -> ExitCode {
    match run(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("keyway-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the verdict is a pass.
fn run(cli: Cli) -> Result<bool> {
    let own = std::env::current_exe().context(|| "find this program".into())?;
    let folder = own.parent().ok_or("this program lies in no folder")?;
    let server = cli.server.unwrap_or_else(|| folder.join("keywayd"));
    if !server.is_file() {
        let path = server.display();
        return Err(format!("{path} is not there: cargo build --release -p keyway-server").into());
    }
    let out = cli.out.unwrap_or_else(|| folder.with_file_name("bench"));
    std::fs::create_dir_all(&out).context(|| format!("create {}", out.display()))?;
    let cores = Cores::choose()?;
    cpu::pin(cores.load)?;
    let setup = Setup {
        server,
        out,
        cores,
        duration: Duration::from_secs(cli.duration_s),
    };
    match cli.scenario {
        Scenario::S1 => s1::run(&setup),
        Scenario::S4 => s4::run(&setup),
        Scenario::S5 => s5::run(&setup),
    }
}
