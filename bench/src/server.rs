//! A `keywayd` of the bench's own, stopped whatever happens.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use keyway_testkit::http::{self, HttpResponse};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::cpu::{Cores, ProcessCpu, pin};
use crate::error::{Context, Result};
use crate::prometheus::Scrape;

const READY_TIME_LIMIT: Duration = Duration::from_secs(30);
const STOP_TIME_LIMIT: Duration = Duration::from_secs(5);
const POLL_PERIOD: Duration = Duration::from_millis(20);
const PORT_ATTEMPTS: usize = 64;
/// Lines of the server's log that are shown when it fails.
const LOG_TAIL_LINES: usize = 20;

/// A running server with one shard, pinned to its core, with a data directory of its own. Dropping
/// it stops the process and removes the data.
pub struct Server {
    child: Child,
    launch: Launch,
}

/// What every start of one server has in common.
struct Launch {
    program: PathBuf,
    config: PathBuf,
    cores: Cores,
    listen: SocketAddr,
    metrics: SocketAddr,
    log: PathBuf,
    data: TempDir,
    sockets: TempDir,
}

impl Server {
    /// Starts `program` on the server's core and waits until it is ready. Data and log (`NAME.log`)
    /// lie in `folder`, which is on a real disk where the machine has one.
    pub fn start(program: &Path, folder: &Path, name: &str, cores: Cores) -> Result<Self> {
        Self::start_with(program, folder, name, cores, "")
    }

    /// The same with a configuration file of this text.
    pub fn start_with(
        program: &Path,
        folder: &Path,
        name: &str,
        cores: Cores,
        config: &str,
    ) -> Result<Self> {
        let data = tempfile::Builder::new().prefix("data-").tempdir_in(folder);
        let data = data.context(|| "make a data directory".into())?;
        // Socket paths are bounded to about 100 bytes, so they go where paths are short.
        let sockets = TempDir::new().context(|| "make a directory for sockets".into())?;
        let log = folder.join(format!("{name}.log"));
        File::create(&log).context(|| format!("create {}", log.display()))?;
        let launch = Launch {
            program: program.to_owned(),
            config: sockets.path().join("keywayd.toml"),
            cores,
            listen: free_ports(2)?,
            metrics: free_ports(1)?,
            log,
            data,
            sockets,
        };
        let mut server = Self {
            child: launch.spawn(config)?,
            launch,
        };
        server.wait_until_ready()?;
        Ok(server)
    }

    /// Stops it and starts it again on the same data, with a configuration file of this text:
    /// nothing is unlocked then. Its addresses are others, since the old ports may be a client's by
    /// now.
    pub fn restart(&mut self, config: &str) -> Result<()> {
        stop(&mut self.child);
        self.launch.listen = free_ports(2)?;
        self.launch.metrics = free_ports(1)?;
        self.child = self.launch.spawn(config)?;
        self.wait_until_ready()
    }

    /// Where it takes requests.
    pub fn address(&self) -> SocketAddr {
        self.launch.listen
    }

    /// Where it is scraped.
    pub fn metrics_address(&self) -> SocketAddr {
        self.launch.metrics
    }

    /// CPU time that it has used so far.
    pub fn cpu(&self) -> Result<ProcessCpu> {
        ProcessCpu::of(self.child.id())
    }

    /// The result of working with this server; an error gets the end of its log, where the reason
    /// mostly stands.
    pub fn explain<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| format!("{error}\n{}", self.log_tail()).into())
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let start = Instant::now();
        loop {
            if let Some(status) = self
                .child
                .try_wait()
                .context(|| "wait for the server".into())?
            {
                return Err(
                    format!("the server ended at start: {status}\n{}", self.log_tail()).into(),
                );
            }
            if get(self.launch.metrics, "/readyz").is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            if start.elapsed() > READY_TIME_LIMIT {
                let limit = READY_TIME_LIMIT.as_secs();
                return Err(format!("not ready after {limit} s\n{}", self.log_tail()).into());
            }
            sleep(POLL_PERIOD);
        }
    }

    fn log_tail(&self) -> String {
        let text = std::fs::read_to_string(&self.launch.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(LOG_TAIL_LINES);
        format!("The server's log ends with:\n{}", lines[from..].join("\n"))
    }
}

impl Launch {
    fn spawn(&self, config: &str) -> Result<Child> {
        std::fs::write(&self.config, config).context(|| "write the configuration".into())?;
        let output = File::options().append(true).open(&self.log);
        let output = output.context(|| format!("open {}", self.log.display()))?;
        let errors = output.try_clone().context(|| "share the log".into())?;
        let mut command = Command::new(&self.program);
        command
            .args(["--dev", "--shards", "1"])
            .args(["--listen", &self.listen.to_string()])
            .args(["--metrics", &self.metrics.to_string()])
            .arg("--config")
            .arg(&self.config)
            .arg("--data")
            .arg(self.data.path())
            .arg("--unix")
            .arg(self.sockets.path().join("keyway.sock"))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(errors);
        // The child inherits the core of the thread that starts it.
        pin(self.cores.server)?;
        let child = command.spawn();
        pin(self.cores.load)?;
        child.context(|| format!("start {}", self.program.display()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

fn get(metrics: SocketAddr, path: &str) -> Result<HttpResponse> {
    http::request("GET", metrics.port(), path, &[], "")
        .context(|| format!("GET http://{metrics}{path}"))
}

/// Scrapes `/metrics`.
pub fn scrape(metrics: SocketAddr) -> Result<Scrape> {
    let answer = get(metrics, "/metrics")?;
    match answer.status {
        200 => Scrape::parse(&answer.body),
        status => Err(format!("/metrics answered {status}").into()),
    }
}

/// SIGTERM, and SIGKILL if that is not enough. By process id; the child has not been reaped, so
/// the id is still its own.
fn stop(child: &mut Child) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let (Some(pid), Ok(None)) = (pid, child.try_wait()) {
        // An error means that it is gone already.
        let _gone = kill_process(pid, Signal::TERM);
    }
    let start = Instant::now();
    while start.elapsed() < STOP_TIME_LIMIT {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        sleep(POLL_PERIOD);
    }
    let _gone = child.kill();
    let _status = child.wait();
}

/// An address on loopback behind whose port `count` ports in a row are free now: the server takes
/// the one named and the next for its shard.
fn free_ports(count: u16) -> Result<SocketAddr> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    for _ in 0..PORT_ATTEMPTS {
        let first = bind(0).context(|| "find a free port".into())?;
        let address = first.local_addr().context(|| "find a free port".into())?;
        let others: Option<Vec<_>> = (1..count)
            .map(|offset| bind(address.port().checked_add(offset)?).ok())
            .collect();
        if others.is_some() {
            return Ok(address);
        }
    }
    Err(format!("no {count} free ports in a row on 127.0.0.1").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_stopped_and_reaped() {
        let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
        stop(&mut child);
        let status = child.try_wait().unwrap().unwrap();
        assert!(!status.success());
    }

    #[test]
    fn a_program_that_ends_at_once_is_reported_with_its_log() {
        let folder = tempfile::tempdir().unwrap();
        let cores = Cores::choose().unwrap();
        let failed = Server::start(Path::new("false"), folder.path(), "x", cores);
        let text = failed.err().unwrap().to_string();
        assert!(text.contains("the server ended at start"), "{text}");
    }
}
