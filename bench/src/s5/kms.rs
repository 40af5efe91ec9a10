//! The real KMSes of the scenario: an OpenBao with a proxy in front that makes it fail, and one without.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use keyway_testkit::fault_proxy::FaultProxy;
use keyway_testkit::openbao::{Mode, OpenBao};
use serde::Serialize;
use serde_json::json;

use crate::error::{Context, Result};

/// Name of the KMS that is reached through the proxy.
pub const FAULTY: &str = "bao";
/// Name of the KMS that never fails.
pub const SOUND: &str = "sound";

const KEY: &str = "keyway";
const POLICY: &str = "keyway";

/// The part of a KMS's call budget that the scenario judges; the rest is as by default.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Budget {
    /// Calls a second, in the long run.
    pub rate_per_s: u32,
    /// Calls that may go at once after a rest.
    pub burst: u32,
    /// Calls in flight at the same time.
    pub concurrency_max: u32,
}

/// As by default: for a shared remote KMS.
pub const BUDGET: Budget = Budget {
    rate_per_s: 50,
    burst: 100,
    concurrency_max: 8,
};

/// To make a thousand keyspaces in a few seconds, before anything is measured.
pub const GENEROUS: Budget = Budget {
    rate_per_s: 10_000,
    burst: 10_000,
    concurrency_max: 64,
};

/// Two running OpenBaos: one behind a proxy, which fails, and one that does not.
pub struct Kms {
    failing: Transit,
    sound: Transit,
    proxy: FaultProxy,
}

impl Kms {
    /// Starts all three.
    pub fn start() -> Result<Self> {
        let failing = Transit::start(Mode::Durable)?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, failing.bao.port()));
        Ok(Self {
            failing,
            sound: Transit::start(Mode::InMemory)?,
            proxy: FaultProxy::start(address),
        })
    }

    /// What stands between the server and the OpenBao that fails.
    pub fn proxy(&self) -> &FaultProxy {
        &self.proxy
    }

    /// Kills the OpenBao behind the proxy, as `kill -9` does.
    pub fn kill(&mut self) {
        self.failing.bao.kill();
    }

    /// Starts it again with its data, and unseals it.
    pub fn restart(&mut self) {
        self.failing.bao.restart();
    }

    /// A server's configuration: the KMS through the proxy, the sound one, and a local one for the
    /// keyspace that a development server creates automatically.
    pub fn config(&self, budget: Budget) -> String {
        let through_proxy = format!("http://{}", self.proxy.address());
        format!(
            "default_kms = \"local\"\n[kms.local]\nprovider = \"local\"\n{}{}",
            self.failing.table(FAULTY, &through_proxy, budget),
            self.sound.table(SOUND, &self.sound.bao.url(), budget)
        )
    }
}

/// An OpenBao with a derived transit key and a token that may use it and nothing else.
struct Transit {
    bao: OpenBao,
    token_file: PathBuf,
}

impl Transit {
    fn start(mode: Mode) -> Result<Self> {
        let bao =
            OpenBao::start_or_skip(mode).ok_or("OpenBao is not installed; run `make deps`")?;
        bao.enable_transit("transit");
        bao.create_key(KEY, true);
        bao.write_key_policy(POLICY, "transit", KEY);
        let token = bao.token_for(&[POLICY], &json!({"period": "24h"}));
        let token_file = bao.dir().join("keyway-token");
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&token_file)
            .and_then(|mut file| file.write_all(token.as_bytes()))
            .context(|| format!("write {}", token_file.display()))?;
        Ok(Self { bao, token_file })
    }

    fn table(&self, name: &str, address: &str, budget: Budget) -> String {
        let Budget {
            rate_per_s,
            burst,
            concurrency_max,
        } = budget;
        let token_file = self.token_file.display();
        format!(
            "[kms.{name}]\nprovider = \"vault\"\naddress = \"{address}\"\nkey = \"{KEY}\"\n\
             auth = {{ method = \"token\", token_file = \"{token_file}\" }}\n\
             [kms.{name}.budget]\nrate_per_s = {rate_per_s}\nburst = {burst}\n\
             concurrency_max = {concurrency_max}\n"
        )
    }
}
