//! A real Prometheus that scrapes a test's server.

#![allow(
    clippy::unwrap_used,
    reason = "a helper that fails is a test that fails"
)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use keyway_testkit::process::free_port;

/// A Prometheus on its own port, ended by its id.
pub struct Prometheus {
    child: Child,
    address: String,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Prometheus {
    /// Starts one in `dir` that scrapes `target` under the job name `keyway` and evaluates `rules`, both every second: no
    /// range of a query used here is so short that it matters when a busy machine misses some. Its log is
    /// `prometheus.log` there.
    pub fn start(dir: &Path, target: &str, rules: &str) -> Prometheus {
        let address = format!("127.0.0.1:{}", free_port());
        let config = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\n\
             rule_files: [rules.yml]\n\
             scrape_configs:\n- job_name: keyway\n  \
             static_configs: [{{targets: ['{target}']}}]\n"
        );
        std::fs::write(dir.join("prometheus.yml"), config).unwrap();
        std::fs::write(dir.join("rules.yml"), rules).unwrap();
        let log = std::fs::File::create(dir.join("prometheus.log")).unwrap();
        let child = Command::new("prometheus")
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=tsdb")
            .arg(format!("--web.listen-address={address}"))
            .current_dir(dir)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Prometheus { child, address }
    }

    /// Returns the results of a query, one for each series; none while it is not ready.
    pub fn query(&self, query: &str) -> Vec<f64> {
        let encoded: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = self.get(&format!("query?query={encoded}"));
        let series = answer["data"]["result"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let figure = |text: &serde_json::Value| text.as_str().unwrap().parse().unwrap();
        series.iter().map(|one| figure(&one["value"][1])).collect()
    }

    /// Returns all loaded rules, as in its API: `name`, `query`, `health`, `lastError`.
    pub fn rules(&self) -> Vec<serde_json::Value> {
        let answer = self.get("rules");
        let groups = answer["data"]["groups"].as_array();
        let rules = groups.into_iter().flatten().map(|group| &group["rules"]);
        rules
            .filter_map(|rules| rules.as_array())
            .flatten()
            .cloned()
            .collect()
    }

    /// Returns the answer of the API; null while it is not ready.
    fn get(&self, path: &str) -> serde_json::Value {
        let Ok(mut stream) = TcpStream::connect(&self.address) else {
            return serde_json::Value::Null;
        };
        write!(stream, "GET /api/v1/{path} HTTP/1.0\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).unwrap_or_default()
    }
}
