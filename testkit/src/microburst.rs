//! microburst: a proxy that speaks AWS's wire format and answers with AWS's errors where configured to.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::http;
use crate::moto::Moto;
use crate::process::{Process, free_port};
use crate::tools;

/// The proxy in front of a [`Moto`], killed when dropped. Without rules it passes everything on.
#[derive(Debug)]
pub struct Microburst {
    _process: Process,
    port: u16,
}

impl Microburst {
    /// Starts it. `None`: it is not installed, and the test should return.
    pub fn start(upstream: &Moto) -> Option<Self> {
        let program = tools::path_or_skip("microburst", &["microburst/bin/microburst"])?;
        let port = free_port();
        let mut command = Command::new(program);
        command.args(["--host", "127.0.0.1", "--port", &port.to_string()]);
        command.args(["--no-resign", "--upstream", &upstream.endpoint_url()]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = Process::start("microburst", &mut command);
        let is_up = || http::request("GET", port, "/_microburst/health", &[], "").is_ok();
        process.wait_until(is_up);
        Some(Self {
            _process: process,
            port,
        })
    }

    /// Its URL, to be used as AWS's.
    pub fn endpoint_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// From now on every KMS call is answered with this error, in AWS's envelope.
    pub fn answer_error(&self, code: &str, status: u16, message: &str) {
        let error = json!({ "code": code, "status": status, "message": message });
        self.set_rule(json!({ "service": "kms", "error": error }));
    }

    /// From now on every KMS call is held back for `latency_ms` before it is passed on.
    pub fn delay(&self, latency_ms: u64) {
        self.set_rule(json!({ "service": "kms", "latency": latency_ms }));
    }

    /// Later requests have their connection cut instead of an answer.
    pub fn reset_connections(&self) {
        self.set_rule(json!({ "service": "kms", "reset": true }));
    }

    /// From now on half of the answer's body is lost on the way.
    pub fn truncate_answers(&self) {
        self.set_rule(json!({ "service": "kms", "response": { "truncate_frac": 0.5 } }));
    }

    /// From now on everything is passed on.
    pub fn pass(&self) {
        self.put_rules(&json!([]));
    }

    /// Faults so far: a test that expects an error should see this grow.
    pub fn fault_count(&self) -> usize {
        let answer = self.control("GET", "fired?limit=1000000", "");
        answer.as_array().unwrap().len()
    }

    fn set_rule(&self, rule: Value) {
        self.put_rules(&json!([rule]));
    }

    fn put_rules(&self, rules: &Value) {
        self.control("POST", "rules", &rules.to_string());
    }

    fn control(&self, method: &str, path: &str, body: &str) -> Value {
        let headers = [("Content-Type", "application/json")];
        let path = format!("/_microburst/{path}");
        let answer = http::request(method, self.port, &path, &headers, body).unwrap();
        assert_eq!(answer.status, 200, "microburst refuses: {}", answer.body);
        serde_json::from_str(&answer.body).unwrap()
    }
}
