//! A stand-in for a Vault server whose answers the test delays, so that requests wait as long as the test needs.

use std::collections::HashMap;
use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::Setup;

/// The KMS. It keeps the wrapped keys in memory, outlives the servers of a test and ends with it.
pub struct HeldKms {
    port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    /// Wrapped keys, by their ciphertext.
    wrapped: Mutex<HashMap<String, String>>,
    held: Mutex<bool>,
    released: Condvar,
    /// Unwraps that are delayed now.
    waiting: AtomicUsize,
}

impl HeldKms {
    /// Starts one on its own port.
    pub fn start() -> HeldKms {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let state = Arc::<State>::default();
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || state.serve(stream));
            }
        });
        HeldKms { port, state }
    }

    /// Returns a production server whose only KMS this is, with its own directory in `dir`.
    pub fn setup(&self, dir: &Path) -> Setup {
        let token = dir.join("token");
        std::fs::write(&token, b"s.token").unwrap();
        std::fs::set_permissions(&token, Permissions::from_mode(0o600)).unwrap();
        let config = dir.join("keywayd.toml");
        let text = format!(
            "[kms.held]\nprovider = \"vault\"\naddress = \"http://127.0.0.1:{}\"\nkey = \"keyway\"\n\
             auth = {{ method = \"token\", token_file = {token:?} }}\n",
            self.port,
        );
        std::fs::write(&config, text).unwrap();
        Setup::new(&dir.join("data"))
            .production()
            .flag("--config")
            .flag(config.to_str().unwrap())
    }

    /// Delays unwraps until [`HeldKms::release`].
    pub fn hold(&self) {
        *self.state.held.lock().unwrap() = true;
    }

    /// Waits until the server has requested an unwrap that is delayed.
    pub fn wait_until_asked(&self) {
        super::wait_until("an unwrap", super::WITHIN, || {
            self.state.waiting.load(Ordering::SeqCst) > 0
        });
    }

    /// Answers the delayed requests, and all later ones.
    pub fn release(&self) {
        *self.state.held.lock().unwrap() = false;
        self.state.released.notify_all();
    }
}

impl State {
    fn serve(&self, stream: TcpStream) {
        let mut writer = stream.try_clone().unwrap();
        let mut reader = BufReader::new(stream);
        while let Some((path, body)) = request(&mut reader) {
            let (status, answer) = self.answer(&path, &body);
            let body = answer.to_string();
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            if writer.write_all((head + &body).as_bytes()).is_err() {
                return;
            }
        }
    }

    fn answer(&self, path: &str, body: &Value) -> (&'static str, Value) {
        if path.ends_with("lookup-self") {
            return (
                "200 OK",
                json!({ "data": { "ttl": 0, "renewable": false } }),
            );
        }
        let bad = |text: &str| ("400 Bad Request", json!({ "errors": [text] }));
        if path.contains("/datakey/") {
            let plaintext = BASE64.encode([self.wrapped.lock().unwrap().len() as u8 + 1; 32]);
            return ("200 OK", json!({ "data": self.wrap(plaintext) }));
        }
        if path.contains("/encrypt/") {
            let plaintext = body["plaintext"].as_str().unwrap_or_default().to_owned();
            return ("200 OK", json!({ "data": self.wrap(plaintext) }));
        }
        if path.contains("/decrypt/") {
            let held = self.held.lock().unwrap();
            self.waiting.fetch_add(1, Ordering::SeqCst);
            drop(self.released.wait_while(held, |held| *held).unwrap());
            self.waiting.fetch_sub(1, Ordering::SeqCst);
            if body["context"].as_str().is_none() {
                return bad("missing 'context' for key derivation");
            }
            let wrapped = self.wrapped.lock().unwrap();
            return match wrapped.get(body["ciphertext"].as_str().unwrap_or_default()) {
                Some(plaintext) => ("200 OK", json!({ "data": { "plaintext": plaintext } })),
                None => bad("invalid ciphertext"),
            };
        }
        ("404 Not Found", json!({ "errors": [] }))
    }

    fn wrap(&self, plaintext: String) -> Value {
        let mut wrapped = self.wrapped.lock().unwrap();
        let mut bytes = [0; 60];
        bytes[..8].copy_from_slice(&(wrapped.len() as u64).to_le_bytes());
        let ciphertext = format!("vault:v1:{}", BASE64.encode(bytes));
        wrapped.insert(ciphertext.clone(), plaintext.clone());
        json!({ "plaintext": plaintext, "ciphertext": ciphertext })
    }
}

/// Reads the next request of a connection: its path and its body.
fn request(reader: &mut BufReader<TcpStream>) -> Option<(String, Value)> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let path = line.split(' ').nth(1)?.to_owned();
    let mut len = 0;
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header).ok()? == 0 {
            return None;
        }
        let header = header.trim_end().to_ascii_lowercase();
        if header.is_empty() {
            break;
        }
        if let Some(value) = header.strip_prefix("content-length:") {
            len = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body).ok()?;
    Some((path, serde_json::from_slice(&body).unwrap_or(Value::Null)))
}
