//! The configuration of a server: command-line flags and a TOML file with the same settings.
//!
//! A flag overrides the file, the file overrides the default. Values are checked here, once; past
//! [`Config::resolve`] nothing is out of range.

mod address;
mod fit;
mod kms;
mod quote;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};
use serde::Deserialize;

pub use kms::{KmsConfig, ProviderConfig};

use crate::machine::Machine;

/// Most shards a node can have: the shard map of HELLO must fit one frame.
pub const SHARDS_MAX: u16 = 256;

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Which library does the signing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CryptoProvider {
    /// The faster one for each algorithm.
    Default,
    /// `ring` for everything; caller-made digests are then unsupported.
    Ring,
}

/// keywayd: the Keyway key cache server.
#[derive(Debug, Default, Parser, Deserialize)]
#[command(name = "keywayd", version)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Read settings from this TOML file; flags override it.
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Data directory: blob logs, keyspaces and the local KEK [default: data].
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// TCP address of all shards; shard i listens i + 1 ports above it [default: 127.0.0.1:7420].
    #[arg(long, value_name = "ADDR:PORT", value_parser = address::parse)]
    #[serde(deserialize_with = "address::deserialize")]
    pub listen: Option<SocketAddr>,
    /// Address of the live page, /metrics, /healthz and /readyz [default: 127.0.0.1:9420].
    #[arg(long, value_name = "ADDR:PORT", value_parser = address::parse)]
    #[serde(deserialize_with = "address::deserialize")]
    pub metrics: Option<SocketAddr>,
    /// Accept this host name on the metrics port, in addition to localhost and IP addresses; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub metrics_host: Vec<String>,
    /// Name hot keys on the live page, to anyone who can reach its port.
    #[arg(long)]
    pub page_key_ids: bool,
    /// Unix socket of all shards; shard i listens on PATH.i [default: DATA/keyway.sock].
    #[arg(long, value_name = "PATH")]
    pub unix: Option<PathBuf>,
    /// Number of shards [default: one per core that the process may use, limited by its processor time].
    #[arg(long, value_name = "N")]
    pub shards: Option<u16>,
    /// Development mode: an unprotected KEK, no access control, and the keyspace `prod` is created.
    #[arg(long)]
    pub dev: bool,
    /// Allow listeners that other machines can reach, although there is no TLS.
    #[arg(long)]
    pub listen_beyond_loopback_without_tls: bool,
    /// Start even if key memory cannot be locked (it may then be written to swap).
    #[arg(long)]
    pub allow_unlocked_memory: bool,
    /// Accept keyspaces.json unverified if it has this revision: once, after a restore.
    #[arg(long, value_name = "REVISION")]
    #[serde(skip)]
    pub accept_catalogue: Option<u64>,
    /// Locked memory for unlocked keys, in MiB per shard [default: 64, or what fits].
    #[arg(long, value_name = "MIB")]
    pub arena_mib: Option<usize>,
    /// Most unlocked keys per shard [default: 100000].
    #[arg(long, value_name = "N")]
    pub keys_max: Option<usize>,
    /// Most connections per shard [default: 4096, or what fits].
    #[arg(long, value_name = "N")]
    pub connections_max: Option<usize>,
    /// Read the KEK's passphrase from this open file descriptor.
    #[arg(long, value_name = "FD")]
    pub passphrase_fd: Option<u32>,
    /// Read the KEK's passphrase from this file (mode 0600 or 0400, owned by the server's user).
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
    /// Log format [default: text].
    #[arg(long, value_enum)]
    pub log_format: Option<LogFormat>,
    /// Log filter, as `info` or `keyway_server=debug` [default: info].
    #[arg(long, value_name = "FILTER")]
    pub log_level: Option<String>,
    /// Cryptographic provider [default: default].
    #[arg(long, value_enum)]
    pub crypto_provider: Option<CryptoProvider>,
    /// KMS of new keyspaces that name none [default: the only one, or local].
    #[arg(long, value_name = "NAME")]
    pub default_kms: Option<String>,
    /// KMSes by name; in the file only, as tables `[kms.NAME]`.
    #[arg(skip)]
    pub kms: BTreeMap<String, toml::Table>,
}

/// Checked settings of one server.
#[derive(Clone, Debug)]
pub struct Config {
    /// Data directory.
    pub data: PathBuf,
    /// Where clients connect.
    pub listeners: Listeners,
    /// Metrics and the live page.
    pub exporter: ExporterConfig,
    /// Shards, `1..=SHARDS_MAX`.
    pub shards: u16,
    /// Bounds of what clients and keys may take.
    pub limits: Limits,
    /// Development mode.
    pub dev: bool,
    /// Start without locked memory where locking fails.
    pub allow_unlocked_memory: bool,
    /// Revision of a catalogue that is taken as it is.
    pub accept_catalogue: Option<u64>,
    /// Where the passphrase comes from.
    pub passphrase: Passphrase,
    /// Log output.
    pub log: LogConfig,
    /// Cryptographic provider.
    pub crypto_provider: CryptoProvider,
    /// The KMSes.
    pub kms: KmsConfigs,
}

/// The addresses that all shards share. Each shard has one of its own besides.
#[derive(Clone, Debug)]
pub struct Listeners {
    /// TCP address; port 0 picks free ones.
    pub tcp: SocketAddr,
    /// Unix socket.
    pub unix: PathBuf,
}

/// The exporter of metrics and the live page.
#[derive(Clone, Debug)]
pub struct ExporterConfig {
    /// Its address.
    pub address: SocketAddr,
    /// Host names that it answers to, beside localhost and IP addresses.
    pub hosts: Vec<String>,
    /// Whether the live page names hot keys.
    pub page_key_ids: bool,
}

/// Bounds of what clients and keys may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Arena size of a shard, in bytes.
    pub arena_bytes: usize,
    /// Unlocked keys per shard.
    pub keys_max: usize,
    /// Connections per shard.
    pub connections_max: usize,
    /// Open files that the process may have.
    pub descriptors_max: u64,
}

/// Log output.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// Its format.
    pub format: LogFormat,
    /// Its filter.
    pub level: String,
}

/// The KMSes.
#[derive(Clone, Debug)]
pub struct KmsConfigs {
    /// By name, one at least.
    pub by_name: BTreeMap<String, KmsConfig>,
    /// The KMS of new keyspaces that name none; one of `by_name`.
    pub default: String,
}

/// Where the KEK's passphrase comes from. Never from the command line itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passphrase {
    /// The service manager's credential directory when there is one, else the terminal.
    CredentialOrPrompt,
    /// An open file descriptor.
    Descriptor(u32),
    /// A file that only its owner can read.
    File(PathBuf),
}

/// A setting that cannot be used: what, its value, and the remedy.
#[derive(Debug, PartialEq, Eq)]
pub struct ConfigError(pub String);

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl Options {
    /// What the machine allows, with the process's limits raised to what these settings need, where they can be.
    pub fn machine(&self) -> Machine {
        let shards = self
            .shards
            .map_or_else(|| Machine::find(0, 0).shards(), usize::from);
        let (descriptors, locked_bytes) = fit::wanted(shards, self.connections_max, self.arena_mib);
        Machine::find(descriptors, locked_bytes)
    }

    /// Flags over the file they name.
    pub fn with_file(self) -> Result<Options, ConfigError> {
        let Some(path) = self.config.as_deref() else {
            return Ok(self);
        };
        let file = Options::read(path)?;
        Ok(self.over(file))
    }

    /// The settings of a file.
    pub fn read(path: &Path) -> Result<Options, ConfigError> {
        read_file(path)
    }

    /// The log filter that these settings name, or the default.
    pub fn log_level(&self) -> String {
        self.log_level.clone().unwrap_or_else(|| "info".to_owned())
    }

    fn over(self, file: Options) -> Options {
        Options {
            config: self.config,
            data: self.data.or(file.data),
            listen: self.listen.or(file.listen),
            metrics: self.metrics.or(file.metrics),
            metrics_host: if self.metrics_host.is_empty() {
                file.metrics_host
            } else {
                self.metrics_host
            },
            page_key_ids: self.page_key_ids || file.page_key_ids,
            unix: self.unix.or(file.unix),
            shards: self.shards.or(file.shards),
            dev: self.dev || file.dev,
            listen_beyond_loopback_without_tls: self.listen_beyond_loopback_without_tls
                || file.listen_beyond_loopback_without_tls,
            allow_unlocked_memory: self.allow_unlocked_memory || file.allow_unlocked_memory,
            accept_catalogue: self.accept_catalogue,
            arena_mib: self.arena_mib.or(file.arena_mib),
            keys_max: self.keys_max.or(file.keys_max),
            connections_max: self.connections_max.or(file.connections_max),
            passphrase_fd: self.passphrase_fd.or(file.passphrase_fd),
            passphrase_file: self.passphrase_file.or(file.passphrase_file),
            log_format: self.log_format.or(file.log_format),
            log_level: self.log_level.or(file.log_level),
            crypto_provider: self.crypto_provider.or(file.crypto_provider),
            default_kms: self.default_kms.or(file.default_kms),
            kms: file.kms,
        }
    }
}

impl Config {
    /// Checks every setting against what the machine allows.
    pub fn resolve(options: Options, machine: &Machine) -> Result<Config, ConfigError> {
        let log_level = options.log_level();
        let data = options.data.unwrap_or_else(|| PathBuf::from("data"));
        let listen = options
            .listen
            .unwrap_or(loopback(keyway_protocol::PORT_DEFAULT));
        let metrics = options.metrics.unwrap_or(loopback(9420));
        for (flag, address) in [("listen", listen), ("metrics", metrics)] {
            if !address.ip().is_loopback() && !options.listen_beyond_loopback_without_tls {
                return Err(ConfigError(format!(
                    "--{flag} {address} is reachable from other machines and there is no TLS yet; \
                     use a loopback address, or pass --listen-beyond-loopback-without-tls if the \
                     network itself is trusted"
                )));
            }
        }
        let shards = options
            .shards
            .unwrap_or(machine.shards().min(SHARDS_MAX as usize) as u16);
        in_range("shards", shards as usize, 1, SHARDS_MAX as usize)?;
        if listen.port() != 0 && u32::from(listen.port()) + u32::from(shards) > 65_535 {
            return Err(ConfigError(format!(
                "--listen port {} leaves no room for the ports of {shards} shards after it; \
                 choose a port of at most {}",
                listen.port(),
                65_535 - u32::from(shards)
            )));
        }
        let arena_bytes = fit::arena_bytes(
            options.arena_mib,
            u64::from(shards),
            options.allow_unlocked_memory,
            machine,
        )?;
        let keys_max = options.keys_max.unwrap_or(100_000);
        in_range(
            "keys-max",
            keys_max,
            keyway_node::shard::keys_max_least(),
            100_000_000,
        )?;
        let connections_max =
            fit::connections_max(options.connections_max, u64::from(shards), machine)?;
        let passphrase = match (options.passphrase_fd, options.passphrase_file) {
            (Some(_), Some(_)) => {
                return Err(ConfigError(
                    "--passphrase-fd and --passphrase-file name two sources; give one".to_owned(),
                ));
            }
            (Some(fd), None) => Passphrase::Descriptor(fd),
            (None, Some(file)) => Passphrase::File(file),
            (None, None) => Passphrase::CredentialOrPrompt,
        };
        let kms = kms::resolve(options.kms)?;
        let default_kms = kms::default(&kms, options.default_kms)?;
        Ok(Config {
            listeners: Listeners {
                tcp: listen,
                unix: options.unix.unwrap_or_else(|| data.join("keyway.sock")),
            },
            data,
            exporter: ExporterConfig {
                address: metrics,
                hosts: host_names(options.metrics_host)?,
                page_key_ids: options.page_key_ids,
            },
            shards,
            limits: Limits {
                arena_bytes,
                keys_max,
                connections_max,
                descriptors_max: machine.descriptors_max,
            },
            dev: options.dev,
            allow_unlocked_memory: options.allow_unlocked_memory,
            accept_catalogue: options.accept_catalogue,
            passphrase,
            log: LogConfig {
                format: options.log_format.unwrap_or(LogFormat::Text),
                level: log_level,
            },
            crypto_provider: options.crypto_provider.unwrap_or(CryptoProvider::Default),
            kms: KmsConfigs {
                by_name: kms,
                default: default_kms,
            },
        })
    }
}

/// Most host names that the metrics port answers to.
const HOST_NAMES_MAX: usize = 64;

fn host_names(names: Vec<String>) -> Result<Vec<String>, ConfigError> {
    let is_name = |name: &String| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    };
    if let Some(name) = names.iter().find(|name| !is_name(name)) {
        return Err(ConfigError(format!(
            "--metrics-host {name} is not a host name; give the name alone, without scheme and \
             port, as in --metrics-host keyway-1.example"
        )));
    }
    in_range("metrics-host: names", names.len(), 0, HOST_NAMES_MAX)?;
    Ok(names)
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

fn in_range(flag: &str, value: usize, low: usize, high: usize) -> Result<(), ConfigError> {
    if (low..=high).contains(&value) {
        return Ok(());
    }
    Err(ConfigError(format!(
        "--{flag} {value} is out of range; give {low} to {high}"
    )))
}

fn read_file(path: &Path) -> Result<Options, ConfigError> {
    let text = std::fs::read_to_string(path).map_err(|error| {
        ConfigError(format!(
            "cannot read the configuration {}: {error}",
            path.display()
        ))
    })?;
    toml::from_str(&text).map_err(|error| {
        ConfigError(format!(
            "the configuration {} is not valid: {}",
            path.display(),
            quote::about(&error, &text)
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(flags: &[&str]) -> Result<Config, ConfigError> {
        let argv = std::iter::once("keywayd").chain(flags.iter().copied());
        Config::resolve(Options::try_parse_from(argv).unwrap(), &machine())
    }

    fn machine() -> Machine {
        Machine {
            cores: vec![0, 1],
            descriptors_max: 65_536,
            ..Machine::default()
        }
    }

    #[test]
    fn defaults_are_those_of_the_manual() {
        let config = resolve(&[]).unwrap();
        assert_eq!(config.listeners.tcp.to_string(), "127.0.0.1:7420");
        assert_eq!(config.exporter.address.to_string(), "127.0.0.1:9420");
        assert_eq!(config.listeners.unix, Path::new("data/keyway.sock"));
        assert_eq!(config.shards, 2);
        assert!(!config.dev);
    }

    #[test]
    fn a_listener_beyond_loopback_needs_the_plain_flag() {
        let refused = resolve(&["--listen", "0.0.0.0:7420"]).unwrap_err();
        assert!(
            refused.0.contains("--listen-beyond-loopback-without-tls"),
            "{refused}"
        );
        assert!(
            resolve(&[
                "--listen",
                "0.0.0.0:7420",
                "--listen-beyond-loopback-without-tls"
            ])
            .is_ok()
        );
    }

    #[test]
    fn contradictions_and_ranges_are_refused_with_the_value() {
        assert!(
            resolve(&["--shards", "0"])
                .unwrap_err()
                .0
                .contains("--shards 0")
        );
        assert!(
            resolve(&["--listen", "127.0.0.1:65535"])
                .unwrap_err()
                .0
                .contains("65535")
        );
        assert!(
            resolve(&["--passphrase-fd", "3", "--passphrase-file", "x"])
                .unwrap_err()
                .0
                .contains("two sources")
        );
    }

    #[test]
    fn flags_win_over_the_file_and_both_use_the_same_names() {
        let file: Options =
            toml::from_str("shards = 4\nlisten = \"127.0.0.1:9000\"\nlog_format = \"json\"")
                .unwrap();
        let flags = Options::try_parse_from(["keywayd", "--shards", "1"]).unwrap();
        let config = Config::resolve(flags.over(file), &machine()).unwrap();
        assert_eq!(config.shards, 1);
        assert_eq!(config.listeners.tcp.port(), 9000);
        assert_eq!(config.log.format, LogFormat::Json);
    }

    #[test]
    fn an_unknown_name_in_the_file_is_refused() {
        assert!(toml::from_str::<Options>("sharts = 4").is_err());
    }
}
