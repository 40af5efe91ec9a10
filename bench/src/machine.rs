//! Where and when the measurements were made, for the report.

use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

/// What a reader needs to judge and to repeat a run.
#[derive(Debug, Serialize)]
pub struct Provenance {
    /// The command, without the folder of the program.
    pub command: String,
    /// The commit built from, with `-dirty` if files were changed; `unknown` outside a checkout.
    pub git_commit: String,
    /// UTC, ISO 8601, at the start of the run.
    pub date: String,
    /// The hardware and the kernel.
    pub machine: Machine,
}

/// The hardware and the kernel.
#[derive(Debug, Serialize)]
pub struct Machine {
    /// Logical cores of the machine; the run itself uses two of them.
    pub cores: usize,
    /// As /proc/cpuinfo calls it.
    pub cpu_model: String,
    /// The kernel's release.
    pub kernel: String,
    /// The architecture that was built for.
    pub arch: &'static str,
    /// Processes that needed a core in the minute before the run: near zero for valid measurements.
    pub load_average_1m: Option<f64>,
}

/// Above this much by core something else is running.
const LOAD_AVERAGE_BY_CORE_MAX: f64 = 0.5;

impl Provenance {
    /// Of this process, now.
    pub fn collect() -> Self {
        let mut args = std::env::args();
        let program = args.next().unwrap_or_default();
        let name = program.rsplit('/').next().unwrap_or_default().to_owned();
        let command = std::iter::once(name)
            .chain(args)
            .collect::<Vec<_>>()
            .join(" ");
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let provenance = Self {
            command,
            git_commit: git_commit().unwrap_or_else(|| "unknown".into()),
            date: utc(now.as_secs()),
            machine: Machine {
                cores: core_count(&cpuinfo),
                cpu_model: cpu_model(&cpuinfo),
                kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease")
                    .map_or_else(|_| "unknown".into(), |text| text.trim().to_owned()),
                arch: std::env::consts::ARCH,
                load_average_1m: load_average_1m(),
            },
        };
        provenance.machine.warn_if_busy();
        provenance
    }
}

impl Machine {
    fn warn_if_busy(&self) {
        let busy = LOAD_AVERAGE_BY_CORE_MAX * self.cores.max(1) as f64;
        if let Some(load) = self.load_average_1m.filter(|&load| load > busy) {
            let cores = self.cores;
            eprintln!(
                "The machine is busy (load average {load} on {cores} cores): expect latencies that \
                 say more about the other programs than about Keyway."
            );
        }
    }
}

fn load_average_1m() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

fn git_commit() -> Option<String> {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    Some(if changed.is_empty() {
        commit
    } else {
        format!("{commit}-dirty")
    })
}

/// From /proc/cpuinfo, since this thread is pinned and may itself use one core only.
fn core_count(cpuinfo: &str) -> usize {
    cpuinfo
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count()
}

fn cpu_model(cpuinfo: &str) -> String {
    cpuinfo
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.trim() == "model name")
        .map_or_else(|| "unknown".into(), |(_, model)| model.trim().to_owned())
}

/// Seconds since 1970 as `2026-01-31T12:00:00Z`.
fn utc(unix_s: u64) -> String {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    // Days are counted from 1 March of a year 400-fold before 1970, so that leap days come last.
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}Z",
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(utc(0), "1970-01-01T00:00:00Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00Z");
        assert_eq!(utc(1_767_225_599), "2025-12-31T23:59:59Z");
        assert_eq!(utc(1_767_225_600), "2026-01-01T00:00:00Z");
    }

    #[test]
    fn the_model_is_found_or_said_to_be_unknown() {
        assert_eq!(
            cpu_model("processor\t: 0\nmodel name\t: A CPU @ 2\n"),
            "A CPU @ 2"
        );
        assert_eq!(cpu_model("processor: 0\n"), "unknown");
    }
}
