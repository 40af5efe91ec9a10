//! A server in the test's own process that speaks the real codec, and the binary run against it.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::TcpListener;
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

mod hot;
mod kms;
mod wire;

use keyway_protocol::{
    Algorithm, KeyListAnswer, KeyRow, KeyState, KeyVersions, Octets, Request, RequestFrame,
    ResponseFlags, ResponseHead, ResponseWriter, Sealed, Status, Unlock, UnlockKind,
    encode_deks_destroyed, encode_generation, encode_keyspace_id, encode_ticket,
};

/// What the server has been told, and how it is to behave.
#[derive(Default)]
pub struct State {
    /// Versions by key id.
    pub keys: BTreeMap<String, u32>,
    /// Settings as they came.
    pub settings: Vec<String>,
    /// What came to unlock keyspaces and KMSes with.
    pub secrets: Vec<(UnlockKind, Vec<u8>)>,
    /// Unlocks that were to be watched.
    pub watched: u32,
    /// Unlocks whose PIN could be the last attempt.
    pub forced: u32,
    /// Shares that were right.
    pub shares_given: u8,
    /// The listed overrides, as JSON members.
    pub overrides: &'static str,
    /// Keys that a rotation has yet to seal again.
    pub reseal_left: u64,
    /// After that many more imports, the server behaves as if it had been killed.
    pub imports_left: Option<u32>,
    /// How often an unlock is still pending.
    pub pending: u32,
    /// Status documents to answer with, one after the other; the last stays.
    pub statuses: Vec<String>,
    /// Hot keys and history are refused.
    pub reticent: bool,
    /// It answers nothing any more.
    pub dead: bool,
}

const HISTORY: &[u8] = br#"{"changes":[
{"unix_ms":1795653300000,"who":"expired","what":"max_in_flight","from":"256","to":"64"},
{"unix_ms":1795652400000,"who":"uid:1000","what":"max_in_flight","from":"64","to":"256",
"until_unix_ms":1795653300000},
{"unix_ms":1795600000000,"who":"server","what":"created"}]}"#;

pub struct Server {
    pub addr: String,
    pub state: Arc<Mutex<State>>,
}

impl Server {
    pub fn start() -> Self {
        Self::with(State::default())
    }

    pub fn with(state: State) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(state));
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = Arc::clone(&shared);
                thread::spawn(move || {
                    wire::serve(stream.unwrap(), |frame, out| {
                        answer(frame, &mut shared.lock().unwrap(), out)
                    });
                });
            }
        });
        Self { addr, state }
    }

    /// Runs `keyway` with these arguments, split at spaces.
    pub fn keyway(&self, args: &str) -> Output {
        self.keyway_with(args, b"")
    }

    pub fn keyway_with(&self, args: &str, input: &[u8]) -> Output {
        let mut child = self
            .command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that reads no input may be gone by now.
        let _ = child.stdin.take().unwrap().write_all(input);
        child.wait_with_output().unwrap()
    }

    pub fn command(&self, args: &str) -> Command {
        let mut command = keyway();
        command.env("KEYWAY_ADDR", &self.addr).args(args.split(' '));
        command
    }
}

/// The binary, without the surroundings' settings.
pub fn keyway() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyway"));
    command.env_remove("KEYWAY_ADDR");
    command
}

/// Appends the answer; `false` if the connection is to end without one.
fn answer(frame: &RequestFrame<'_>, state: &mut State, out: &mut Vec<u8>) -> bool {
    let key_id = String::from_utf8(frame.key_id.to_vec()).unwrap();
    let mut writer = ResponseWriter::begin(out, frame.request_id);
    if state.dead {
        return false;
    }
    match key_id.as_str() {
        "locked" => {
            writer.finish_needs_unlock(42);
            return true;
        }
        "forbidden" => {
            let head = ResponseHead::status(Status::Forbidden);
            writer.finish_with_explanation(head, "uid:1000 may not sign in prod");
            return true;
        }
        "unavailable" => {
            let head = ResponseHead {
                after_us: 60_000_000,
                ..ResponseHead::status(Status::Unavailable)
            };
            writer.finish_with_explanation(head, "");
            return true;
        }
        "hostile" => {
            let words = "no\u{1b}]0;owned\u{7}\u{1b}[2J\u{9b}2J\u{202e}\r\nkeyway: done";
            writer.finish_with_explanation(ResponseHead::status(Status::Forbidden), words);
            return true;
        }
        "gone" => return false,
        _ => {}
    }
    let with_key = ResponseHead {
        flags: ResponseFlags::STALE,
        key_version: 3,
        key_age_ms: 250,
        ..ResponseHead::OK
    };
    let version = |version| ResponseHead {
        key_version: version,
        ..ResponseHead::OK
    };
    let out = writer.payload();
    let head = match Request::decode(frame).unwrap() {
        Request::Hello(_) => {
            wire::hello(out);
            ResponseHead::OK
        }
        Request::Sign(sign) => {
            out.extend(format!("{}:{}:", sign.scheme, sign.kind).bytes());
            out.extend_from_slice(&sign.input);
            with_key
        }
        Request::Verify(verify) if &*verify.signature == b"good" => version(2),
        Request::Verify(_) => ResponseHead::status(Status::Mismatch),
        Request::Mac(message) => {
            out.extend(message.iter().rev());
            with_key
        }
        Request::Encrypt(encrypt) => {
            let ciphertext = [&encrypt.aad[..], &encrypt.plaintext, &[9; 16]].concat();
            let sealed = Sealed {
                key_version: 3,
                nonce: [0; 12],
                ciphertext: Octets(&ciphertext),
            };
            sealed.encode(out).unwrap();
            with_key
        }
        Request::Decrypt(decrypt) => {
            let ciphertext = &decrypt.sealed.ciphertext;
            out.extend_from_slice(&ciphertext[decrypt.aad.len()..ciphertext.len() - 16]);
            with_key
        }
        Request::Derive(derive) => {
            out.resize(out.len() + usize::from(derive.out_len), derive.info[0]);
            with_key
        }
        Request::PublicKey { .. } | Request::Get { .. } => {
            out.extend_from_slice(b"\0\x01\x02");
            with_key
        }
        Request::KeyspaceCreate(create) => {
            state.settings.push(create.settings.as_str().to_owned());
            encode_keyspace_id(7, out);
            ResponseHead::OK
        }
        Request::KeyspaceSet(settings) => {
            state.settings.push(settings.as_str().to_owned());
            ResponseHead::OK
        }
        Request::KeyspaceList { after: 0 } => {
            out.extend_from_slice(kms::list(state).as_bytes());
            ResponseHead::OK
        }
        Request::KeyspaceList { .. } => {
            out.extend_from_slice(br#"{"keyspaces":[{"id":7,"name":"staging","locked":true}]}"#);
            ResponseHead::OK
        }
        // The first one finds the second there.
        Request::KeyImport(_) if key_id == "overtaken" && state.keys.remove("came").is_none() => {
            state.keys.insert("came".to_owned(), 1);
            ResponseHead::status(Status::Conflict)
        }
        Request::KeyGenerate(_) | Request::KeyImport(_) if state.keys.contains_key(&key_id) => {
            ResponseHead::status(Status::Conflict)
        }
        Request::KeyGenerate(_) => {
            state.keys.insert(key_id, 1);
            version(1)
        }
        Request::KeyImport(import) if &*import.material.bytes == b"bad" => {
            ResponseHead::status(Status::BadRequest)
        }
        Request::KeyImport(_) => {
            match &mut state.imports_left {
                Some(0) => {
                    state.dead = true;
                    return false;
                }
                Some(left) => *left -= 1,
                None => {}
            }
            state.keys.insert(key_id, 1);
            version(1)
        }
        Request::KeyRotate(_) => version(4),
        Request::KeyRevoke(_) | Request::KeyTrim(_) | Request::KeyDelete => version(3),
        Request::ForceRefresh => with_key,
        Request::KeyList(list) => {
            // Each shard owns one of these; the first has its in two pages.
            let row = |key_id, key_version, state| KeyRow {
                key_id,
                key_version,
                algorithm: (state == KeyState::Active).then_some(Algorithm::Ed25519),
                state,
                versions: (state == KeyState::Active).then_some(KeyVersions {
                    oldest: key_version.div_ceil(2),
                    revoked: u128::from(key_version > 5) * 0b10_1000,
                }),
            };
            let torn = (list.shard == 1).then(|| row("torn", 3, KeyState::Damaged));
            let (cursor, row): (&[u8], _) = match (list.shard, &*list.cursor) {
                (0, b"") => (b"more", row("zoe", 12, KeyState::Active)),
                (0, _) => (b"", row("alice", 1, KeyState::Active)),
                _ => (b"", row("bob", 2, KeyState::Revoked)),
            };
            KeyListAnswer::encode(cursor, [row].into_iter().chain(torn), out).unwrap();
            ResponseHead::OK
        }
        Request::Lock => ResponseHead::OK,
        Request::Unlock(Unlock {
            kind,
            watch,
            force,
            secret,
        }) => {
            state.secrets.push((kind, secret.to_vec()));
            state.watched += u32::from(watch);
            state.forced += u32::from(force);
            let ticket = match kind {
                UnlockKind::Share => kms::give_share(state, &secret),
                _ => 42,
            };
            encode_ticket(ticket, out);
            ResponseHead::OK
        }
        Request::KeyspaceRotate => {
            encode_generation(3, out);
            ResponseHead::OK
        }
        Request::KeyspaceHistory | Request::KeyspaceHot(_) if state.reticent => {
            ResponseHead::status(Status::Forbidden)
        }
        Request::KeyspaceHistory => {
            out.extend_from_slice(HISTORY);
            ResponseHead::OK
        }
        Request::KeyspaceRewrap { kms } => kms::rewrap(kms),
        Request::KeyspaceDestroyDeks => {
            encode_deks_destroyed(2, out);
            ResponseHead::OK
        }
        Request::KmsLock { kms } => kms::rewrap(kms),
        Request::LockAll => ResponseHead::OK,
        Request::KeyspaceHot(hot) => {
            out.extend_from_slice(hot::document(&hot).as_bytes());
            ResponseHead::OK
        }
        Request::KmsInit(init) => kms::init(state, &init, out),
        Request::KmsUnlock(unlock) => kms::unlock(state, &unlock, out),
        Request::UnlockStatus { ticket } => {
            let json = match (ticket, state.pending) {
                (kms::SHARE_TICKET, 0) => kms::shares_status(state),
                (42, 0) => r#"{"state":"done","message":"","keys_reloaded":3}"#.into(),
                (42 | kms::SHARE_TICKET, _) => kms::pending(state),
                _ => r#"{"state":"failed","message":"wrong passphrase","keys_reloaded":0}"#.into(),
            };
            state.pending = state.pending.saturating_sub(1);
            out.extend_from_slice(json.as_bytes());
            ResponseHead::OK
        }
        Request::Status { .. } => {
            match state.statuses.first() {
                None => out.extend_from_slice(kms::STATUS.as_bytes()),
                Some(status) => out.extend_from_slice(status.as_bytes()),
            }
            if state.statuses.len() > 1 {
                state.statuses.remove(0);
            }
            ResponseHead::OK
        }
        Request::Ping(_) => ResponseHead::OK,
    };
    writer.finish(head);
    true
}
