//! OpenBao, the open-source Vault: a real server for each test, with its own storage, root token and, if asked for,
//! certificates.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{Process, free_port};
use crate::tools::path_or_skip;

mod certificates;

use certificates::Certificates;

/// How a server keeps its data, and how it is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Plain HTTP; everything is lost with the process.
    InMemory,
    /// Plain HTTP; the data survive [`OpenBao::kill`] and [`OpenBao::restart`].
    Durable,
    /// As `Durable`, and HTTPS: [`OpenBao::ca_file`] signed the server's certificate, and a client certificate.
    Tls,
}

/// A running server, initialised and unsealed. Its log is printed if the test fails.
#[derive(Debug)]
pub struct OpenBao {
    program: PathBuf,
    mode: Mode,
    port: u16,
    process: Process,
    dir: TempDir,
    certificates: Option<Certificates>,
    unseal_key: String,
    root_token: String,
}

impl OpenBao {
    /// Starts a server on a port of its own. `None`: it is not installed, and the test should return.
    ///
    /// # Panics
    /// If it does not start, and in CI if it is not installed.
    pub fn start_or_skip(mode: Mode) -> Option<OpenBao> {
        let program = path_or_skip("OpenBao", &["openbao/bin/bao"])?;
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let certificates = (mode == Mode::Tls).then(|| Certificates::make(dir.path()));
        write_config(dir.path(), mode, port, certificates.as_ref());
        let process = start_process(&program, dir.path());
        let mut server = OpenBao {
            program,
            mode,
            port,
            process,
            dir,
            certificates,
            unseal_key: String::new(),
            root_token: String::new(),
        };
        server.wait_until_it_answers();
        let init = [
            "operator",
            "init",
            "-format=json",
            "-key-shares=1",
            "-key-threshold=1",
        ];
        let keys = answer("operator", "init", &run(&mut server.command(&init)));
        server.unseal_key = text(&keys["unseal_keys_b64"][0]);
        server.root_token = text(&keys["root_token"]);
        server.unseal();
        Some(server)
    }

    /// Where it listens: `http://127.0.0.1:PORT`, or `https://127.0.0.1:PORT` with [`Mode::Tls`].
    pub fn url(&self) -> String {
        let scheme = if self.certificates.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// The port it listens on, on 127.0.0.1; the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The one key that unseals it.
    pub fn unseal_key(&self) -> &str {
        &self.unseal_key
    }

    /// The program, which is its command line as well.
    pub fn program(&self) -> &Path {
        &self.program
    }

    /// The token that may do everything.
    pub fn root_token(&self) -> &str {
        &self.root_token
    }

    /// A directory of the test's own, which goes with the server: a place for token files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The CA that signed the certificates of [`Mode::Tls`], as PEM.
    pub fn ca_file(&self) -> &Path {
        &self.certificates().ca
    }

    /// A client certificate, as PEM. Its common name is `keyway`.
    pub fn client_cert_file(&self) -> &Path {
        &self.certificates().client_cert
    }

    /// The client certificate's private key, as PEM with mode 0600.
    pub fn client_key_file(&self) -> &Path {
        &self.certificates().client_key
    }

    /// A self-signed certificate that is not the server's, as PEM.
    pub fn other_cert_file(&self) -> &Path {
        &self.certificates().other_cert
    }

    /// Its private key, as PEM with mode 0600.
    pub fn other_key_file(&self) -> &Path {
        &self.certificates().other_key
    }

    /// Mounts a transit engine. In a namespace: `namespace/mount`.
    pub fn enable_transit(&self, mount: &str) {
        self.write(&in_sys("mounts", mount), &json!({"type": "transit"}));
    }

    /// Creates an AES-256-GCM key in the transit engine at `transit`. A derived key requires a context with every call.
    pub fn create_key(&self, name: &str, derived: bool) {
        self.create_key_at("transit", name, derived);
    }

    /// As [`OpenBao::create_key`], in the engine at `mount`.
    pub fn create_key_at(&self, mount: &str, name: &str, derived: bool) {
        let how = json!({"type": "aes256-gcm96", "derived": derived});
        self.write(&format!("{mount}/keys/{name}"), &how);
    }

    /// Makes or replaces a policy, written in HCL.
    pub fn write_policy(&self, name: &str, hcl: &str) {
        self.write(&in_sys("policies/acl", name), &json!({"policy": hcl}));
    }

    /// A policy that lets its holder wrap, unwrap and generate with one transit key, and nothing else.
    pub fn write_key_policy(&self, policy: &str, mount: &str, key: &str) {
        let hcl: String = ["encrypt", "decrypt", "datakey/plaintext"]
            .map(|verb| {
                format!("path \"{mount}/{verb}/{key}\" {{ capabilities = [\"update\"] }}\n")
            })
            .concat();
        self.write_policy(policy, &hcl);
    }

    /// Removes a policy: tokens that name it lose what it allowed, at once.
    pub fn remove_policy(&self, name: &str) {
        self.delete(&in_sys("policies/acl", name));
    }

    /// A token with `policies`. `options` are those of `auth/token/create`, such as `{"ttl": "5s"}` or
    /// `{"period": "5s"}`.
    pub fn token_for(&self, policies: &[&str], options: &Value) -> String {
        let mut body = json!({"policies": policies, "no_parent": true});
        for (name, value) in options.as_object().unwrap() {
            body[name] = value.clone();
        }
        text(&self.write("auth/token/create", &body)["auth"]["client_token"])
    }

    /// Makes an AppRole at `approle`, which is enabled if it is not yet. `options` are those of
    /// `auth/approle/role/NAME`, such as `{"token_ttl": "5s"}`. Returns the role id and a secret id.
    pub fn approle(&self, role: &str, policies: &[&str], options: &Value) -> (String, String) {
        self.enable_auth("approle");
        let mut body = json!({"token_policies": policies});
        for (name, value) in options.as_object().unwrap() {
            body[name] = value.clone();
        }
        let path = format!("auth/approle/role/{role}");
        self.write(&path, &body);
        let role_id = self
            .read(&format!("{path}/role-id"))
            .expect("the role is there");
        (text(&role_id["data"]["role_id"]), self.secret_id(role))
    }

    /// Another secret id for an AppRole.
    pub fn secret_id(&self, role: &str) -> String {
        let made = self.write(&format!("auth/approle/role/{role}/secret-id"), &json!({}));
        text(&made["data"]["secret_id"])
    }

    /// Lets the client certificate log in at `cert`, under the name `keyway`, for `policies`.
    pub fn enable_cert_auth(&self, policies: &[&str]) {
        self.enable_auth("cert");
        let ca = std::fs::read_to_string(self.ca_file()).unwrap();
        let body = json!({"certificate": ca, "token_policies": policies});
        self.write("auth/cert/certs/keyway", &body);
    }

    /// Enables an auth method at the path of its name, if it is not enabled.
    pub fn enable_auth(&self, method: &str) {
        let enabled = self.read("sys/auth").expect("sys/auth is always there");
        if enabled["data"].get(format!("{method}/")).is_none() {
            self.write(&in_sys("auth", method), &json!({"type": method}));
        }
    }

    /// Seals it: it answers, and knows nothing.
    pub fn seal(&self) {
        self.write("sys/seal", &json!({}));
    }

    /// Unseals it, and waits until it can be used.
    pub fn unseal(&mut self) {
        self.write("sys/unseal", &json!({"key": self.unseal_key}));
        let mut asking = self.command(&["read", "sys/mounts"]);
        self.process
            .wait_until(|| run(&mut asking).status.success());
    }

    /// Kills it, as `kill -9` does.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Kills it if it runs, starts it again with the same data on the same port, and unseals it.
    ///
    /// # Panics
    /// With [`Mode::InMemory`], which has no data to start with.
    pub fn restart(&mut self) {
        assert_ne!(self.mode, Mode::InMemory, "its data went with the process");
        self.process.kill();
        self.process = start_process(&self.program, self.dir.path());
        self.wait_until_it_answers();
        self.unseal();
    }

    /// Regenerates all certificates of [`Mode::Tls`], under another CA and in the same files, and restarts with them.
    pub fn renew_certificates(&mut self) {
        Certificates::make(self.dir.path());
        self.restart();
    }

    /// Restarts with a certificate whose time is over.
    pub fn let_certificate_end(&mut self) {
        self.certificates().sign_ended_server(self.dir.path());
        // It counts in whole seconds and holds through its last: a connection of that second would outlast it.
        std::thread::sleep(Duration::from_secs(2));
        self.restart();
    }

    /// Restarts with a certificate that it signed itself, which then is [`OpenBao::ca_file`].
    pub fn sign_itself(&mut self) {
        self.certificates().sign_server_with_itself();
        self.restart();
    }

    /// Regenerates the client certificate, for this common name and in the same files.
    pub fn renew_client_certificate(&self, common_name: &str) {
        self.certificates().sign_client(common_name);
    }

    /// Makes the client certificate one whose time is over, in the same files.
    pub fn let_client_certificate_end(&self) {
        self.certificates()
            .sign_ended_client(self.dir.path(), "keyway");
        // It counts in whole seconds and holds through its last.
        std::thread::sleep(Duration::from_secs(2));
    }

    /// Stops it where it is, as a hung machine would.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Lets a paused server go on.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// Writes `body` at a path of the API, without the leading `v1/`, as root. Returns the whole answer: `data`, `auth`
    /// and so on; `null` if there is none.
    ///
    /// # Panics
    /// If it is refused.
    pub fn write(&self, path: &str, body: &Value) -> Value {
        let mut command = self.command(&["write", "-format=json", path, "-"]);
        command.stdin(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut input = child.stdin.take().expect("it is piped");
        input.write_all(body.to_string().as_bytes()).unwrap();
        drop(input);
        answer("write", path, &child.wait_with_output().unwrap())
    }

    /// Reads a path as root. `None`: there is nothing.
    ///
    /// # Panics
    /// If it is refused.
    pub fn read(&self, path: &str) -> Option<Value> {
        let output = run(&mut self.command(&["read", "-format=json", path]));
        (!is_nothing(&output)).then(|| answer("read", path, &output))
    }

    /// Deletes a path as root.
    ///
    /// # Panics
    /// If it is refused.
    pub fn delete(&self, path: &str) {
        answer(
            "delete",
            path,
            &run(&mut self.command(&["delete", "-format=json", path])),
        );
    }

    /// Lists the names below a path as root.
    ///
    /// # Panics
    /// If it is refused.
    pub fn list(&self, path: &str) -> Vec<String> {
        let output = run(&mut self.command(&["list", "-format=json", path]));
        if is_nothing(&output) {
            return Vec::new();
        }
        let names = answer("list", path, &output);
        names.as_array().unwrap().iter().map(text).collect()
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = client(&self.program, self.dir.path());
        command
            .args(arguments)
            .env("BAO_ADDR", self.url())
            .env("BAO_TOKEN", &self.root_token)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if self.certificates.is_some() {
            // Whatever certificate the test has given it.
            command.env("BAO_SKIP_VERIFY", "true");
        }
        command
    }

    fn wait_until_it_answers(&mut self) {
        // `bao status` ends with 0 (unsealed) or 2 (sealed) once there is an answer, and with 1 before.
        let mut asking = self.command(&["status"]);
        self.process
            .wait_until(|| matches!(run(&mut asking).status.code(), Some(0 | 2)));
    }

    fn certificates(&self) -> &Certificates {
        self.certificates
            .as_ref()
            .expect("Mode::Tls has certificates")
    }
}

impl Drop for OpenBao {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = std::fs::read_to_string(log_path(self.dir.path())).unwrap_or_default();
            eprintln!("OpenBao's log:\n{log}");
        }
    }
}

/// The path of something named `namespace/name` below `sys/KIND` of its namespace.
fn in_sys(kind: &str, name: &str) -> String {
    match name.rsplit_once('/') {
        Some((namespace, name)) => format!("{namespace}/sys/{kind}/{name}"),
        None => format!("sys/{kind}/{name}"),
    }
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .unwrap_or_else(|| panic!("{value} is no text"))
        .to_owned()
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap()
}

/// `read` and `list` fail alike for a refusal and for nothing; only a refusal has a reason.
fn is_nothing(output: &Output) -> bool {
    let reason = String::from_utf8_lossy(&output.stderr);
    !output.status.success() && (reason.is_empty() || reason.starts_with("No value found"))
}

fn answer(verb: &str, path: &str, output: &Output) -> Value {
    assert!(
        output.status.success(),
        "bao {verb} {path} is refused: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
}

/// A command that takes nothing from the environment's own OpenBao, and tries once.
fn client(program: &Path, home: &Path) -> Command {
    let mut command = Command::new(program);
    for name in [
        "BAO_NAMESPACE",
        "VAULT_NAMESPACE",
        "VAULT_ADDR",
        "VAULT_TOKEN",
        "BAO_CACERT",
    ] {
        command.env_remove(name);
    }
    command.env("BAO_MAX_RETRIES", "0").env("HOME", home);
    command
}

fn log_path(dir: &Path) -> PathBuf {
    dir.join("openbao.log")
}

fn start_process(program: &Path, dir: &Path) -> Process {
    let log = File::options()
        .create(true)
        .append(true)
        .open(log_path(dir))
        .unwrap();
    let mut command = client(program, dir);
    command
        .arg("server")
        .arg(format!("-config={}", dir.join("openbao.json").display()))
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    Process::start("OpenBao", &mut command)
}

fn write_config(dir: &Path, mode: Mode, port: u16, certificates: Option<&Certificates>) {
    let storage = match mode {
        Mode::InMemory => json!({"inmem": {}}),
        Mode::Durable | Mode::Tls => {
            let data = dir.join("data");
            std::fs::create_dir(&data).unwrap();
            json!({"raft": {"path": data, "node_id": "one", "performance_multiplier": "1"}})
        }
    };
    let address = format!("127.0.0.1:{port}");
    let listener = match certificates {
        None => json!({"address": address, "tls_disable": true}),
        Some(certificates) => json!({
            "address": address,
            "tls_cert_file": certificates.server_cert,
            "tls_key_file": certificates.server_key,
        }),
    };
    let config = json!({
        "storage": storage,
        "listener": {"tcp": listener},
        // Raft requires them, though no node joins.
        "api_addr": format!("http://{address}"),
        "cluster_addr": format!("https://127.0.0.1:{}", free_port()),
    });
    std::fs::write(dir.join("openbao.json"), config.to_string()).unwrap();
}
