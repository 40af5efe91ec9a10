//! Setup, unlocks and STATUS, beside the load: through the client, as any program does it.

use std::net::SocketAddr;
use std::time::Duration;

use keyway_client::blocking::Client;
use keyway_client::{KeyspaceName, Options, UnlockWith};
use serde_json::Value;

use crate::error::{Context, Result};

const TIME_LIMIT: Duration = Duration::from_secs(20);

/// A client for setup.
pub struct Control {
    client: Client,
}

impl Control {
    /// Connects.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let what = || format!("connect to {address}");
        let options = Options::new(address.to_string().parse().context(what)?)
            .deadline(TIME_LIMIT)
            .client_name("keyway-bench");
        let client = Client::connect_with(options).context(what)?;
        Ok(Self { client })
    }

    /// Creates a keyspace; `settings` are lines `name=value`. Returns its id.
    pub fn create_keyspace(&self, name: &str, settings: &str) -> Result<u32> {
        let what = || format!("create keyspace {name}");
        let settings: Vec<(&str, &str)> = settings
            .lines()
            .filter_map(|line| line.split_once('='))
            .collect();
        let name: KeyspaceName = name.parse().context(what)?;
        let answer = self.client.keyspace_create(&name, &settings);
        Ok(answer.context(what)?.value)
    }

    /// Starts an unlock that needs no secret.
    pub fn unlock(&self, name: &str) -> Result<()> {
        let what = || format!("unlock {name}");
        let name: KeyspaceName = name.parse().context(what)?;
        let started = self.client.unlock(&name, UnlockWith::Nothing);
        started.map(drop).context(what)
    }

    /// Returns the server's metrics of one keyspace.
    pub fn status(&self, keyspace: &str) -> Result<KeyspaceStatus> {
        let answer = self.client.status().context(|| "STATUS".into())?;
        let all: Value = serde_json::from_str(&answer.value).context(|| "STATUS".into())?;
        let rows = all["keyspaces"]
            .as_array()
            .ok_or("STATUS lacks keyspaces[]")?;
        let row = rows.iter().find(|row| row["name"] == keyspace);
        let row = row.ok_or_else(|| format!("STATUS does not list keyspace {keyspace}"))?;
        Ok(KeyspaceStatus {
            name: keyspace.to_owned(),
            row: row.clone(),
        })
    }
}

/// One keyspace's part of STATUS.
#[derive(Clone, Debug)]
pub struct KeyspaceStatus {
    name: String,
    row: Value,
}

impl KeyspaceStatus {
    /// Returns a whole number by its name.
    pub fn count(&self, field: &str) -> Result<u64> {
        self.row[field].as_u64().ok_or_else(|| self.lacks(field))
    }

    /// Returns a value of `rehydrate_latency_ms`: `p50`, `p95`, `p99`, `p999`, `max` or `count`.
    pub fn rehydrate_latency_ms(&self, figure: &str) -> Result<f64> {
        let value = &self.row["rehydrate_latency_ms"][figure];
        value
            .as_f64()
            .ok_or_else(|| self.lacks(&format!("rehydrate_latency_ms.{figure}")))
    }

    fn lacks(&self, field: &str) -> crate::error::Error {
        format!("STATUS of keyspace {} lacks {field}", self.name).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_figure_is_named() {
        let status = KeyspaceStatus {
            name: "s4".into(),
            row: serde_json::json!({"hits": 3, "rehydrate_latency_ms": {"p50": 0.1}}),
        };
        assert_eq!(status.count("hits").unwrap(), 3);
        assert_eq!(status.rehydrate_latency_ms("p50").unwrap(), 0.1);
        let error = status.count("misses").unwrap_err().to_string();
        assert_eq!(error, "STATUS of keyspace s4 lacks misses");
    }
}
