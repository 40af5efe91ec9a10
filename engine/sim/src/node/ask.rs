//! What clients ask for, as bytes.

use super::World;
use super::books::Asked;
use super::label::{FAST, GOOD, SLOW};
use super::plan::{Asks, Key};
use super::process::uid_of;
use crate::control::kms::NAMES;
use keyway_protocol::{
    Algorithm, Custody, Decrypt, Derive, Encrypt, Hello, HotBy, InputKind, KeyFormat, KeyGenerate,
    KeyImport, KeyList, KeyRevoke, KeyRotate, KeyTrim, KeyspaceCreate, KeyspaceHot, KmsInit,
    KmsUnlock, Material, NewKey, Octets, Opcode, Request, RequestFrame, Scheme, Scope, Sealed,
    Settings, Sign, Unlock, UnlockKind, Usage, Verify,
};

/// An emergency command is answered within this, µs: 4 s of it are for a disk that hangs.
const ANSWERED_WITHIN_US: u64 = 6_000_000;

impl Key {
    pub(super) fn id(self) -> Vec<u8> {
        format!("key-{}", self.number).into_bytes()
    }

    /// One key in four is slow to make and to use.
    pub(super) fn algorithm(self) -> u8 {
        if self.number % 4 == 3 { SLOW } else { FAST }
    }

    fn made(self) -> NewKey {
        NewKey {
            algorithm: Algorithm::try_from(self.algorithm()).ok(),
            exportable: false,
            usage: Usage::NONE,
            not_after_unix_ms: 0,
        }
    }
}

impl Asks {
    /// Whether it may take something away. Then a shard does not answer for the part of the node that executes it, and it may
    /// be in force although it is not written.
    pub(super) fn may_take_away(self) -> bool {
        matches!(
            self,
            Asks::Lock(_)
                | Asks::LockAll
                | Asks::LockKms(_)
                | Asks::Revoke(_)
                | Asks::RevokeVersion { .. }
                | Asks::Withdraw { .. }
                | Asks::Set { .. }
                // To whom it was granted already.
                | Asks::Grant { .. }
        )
    }

    pub(super) fn opcode(self) -> Opcode {
        match self {
            Asks::Sign(_) => Opcode::Sign,
            Asks::Mac(_) => Opcode::Mac,
            Asks::Encrypt(_) => Opcode::Encrypt,
            Asks::Get(_) => Opcode::Get,
            Asks::Derive(_) => Opcode::Derive,
            Asks::PublicKey(_) => Opcode::PublicKey,
            Asks::Verify { .. } => Opcode::Verify,
            Asks::Decrypt { .. } => Opcode::Decrypt,
            Asks::Generate(_) => Opcode::KeyGenerate,
            Asks::Import(_) => Opcode::KeyImport,
            Asks::Rotate(_) => Opcode::KeyRotate,
            Asks::Revoke(_) | Asks::RevokeVersion { .. } => Opcode::KeyRevoke,
            Asks::Trim { .. } => Opcode::KeyTrim,
            Asks::Delete(_) => Opcode::KeyDelete,
            Asks::Refresh(_) => Opcode::ForceRefresh,
            Asks::List { .. } => Opcode::KeyList,
            Asks::Lock(_) => Opcode::Lock,
            Asks::LockAll => Opcode::LockAll,
            Asks::LockKms(_) => Opcode::KmsLock,
            Asks::Unlock { .. } => Opcode::Unlock,
            Asks::UnlockKms(_) => Opcode::KmsUnlock,
            Asks::Set { .. } | Asks::Grant { .. } | Asks::Withdraw { .. } => Opcode::KeyspaceSet,
            Asks::RotateDek(_) => Opcode::KeyspaceRotate,
            Asks::DestroyDeks(_) => Opcode::KeyspaceDestroyDeks,
            Asks::Rewrap { .. } => Opcode::KeyspaceRewrap,
            Asks::History(_) => Opcode::KeyspaceHistory,
            Asks::Hot(_) => Opcode::KeyspaceHot,
            Asks::Create(_) => Opcode::KeyspaceCreate,
            Asks::InitKms(_) => Opcode::KmsInit,
            Asks::Status => Opcode::Status,
            Asks::Malformed(opcode) | Asks::Unknown(opcode) => opcode,
            Asks::UnlockStatus { .. } => Opcode::UnlockStatus,
            Asks::Ping(_) => Opcode::Ping,
            Asks::Keyspaces | Asks::Page { .. } => Opcode::KeyspaceList,
        }
    }

    /// The key that is asked for.
    pub(super) fn key(self) -> Option<Key> {
        match self {
            Asks::Sign(key)
            | Asks::Mac(key)
            | Asks::Encrypt(key)
            | Asks::Get(key)
            | Asks::Derive(key)
            | Asks::PublicKey(key)
            | Asks::Verify { key, .. }
            | Asks::Decrypt { key, .. }
            | Asks::Generate(key)
            | Asks::Import(key)
            | Asks::Rotate(key)
            | Asks::Revoke(key)
            | Asks::RevokeVersion { key, .. }
            | Asks::Trim { key, .. }
            | Asks::Delete(key)
            | Asks::Refresh(key) => Some(key),
            _ => None,
        }
    }

    pub(super) fn keyspace(self) -> Option<u32> {
        match self {
            Asks::List { keyspace, .. }
            | Asks::Lock(keyspace)
            | Asks::Unlock { keyspace, .. }
            | Asks::Set { keyspace, .. }
            | Asks::Grant { keyspace, .. }
            | Asks::Withdraw { keyspace, .. }
            | Asks::RotateDek(keyspace)
            | Asks::DestroyDeks(keyspace)
            | Asks::Rewrap { keyspace, .. }
            | Asks::History(keyspace)
            | Asks::Hot(keyspace)
            | Asks::UnlockStatus { keyspace, .. } => Some(keyspace),
            _ => self.key().map(|key| key.keyspace),
        }
    }

    /// Whether it makes a key, which must not be there yet.
    pub(super) fn makes_key(self) -> bool {
        matches!(self, Asks::Generate(_) | Asks::Import(_))
    }

    /// Whether it changes the newest version of its key.
    pub(super) fn makes_version(self) -> bool {
        self.makes_key() || matches!(self, Asks::Rotate(_))
    }

    /// Whether the users of a keyspace may do it, who are granted `sign`.
    pub(super) fn is_granted(self) -> bool {
        matches!(self, Asks::Sign(_) | Asks::PublicKey(_))
    }

    /// Whether it uses a key, and its answer has the result.
    pub(super) fn is_use(self) -> bool {
        let of_operators = matches!(
            self,
            Asks::Mac(_)
                | Asks::Encrypt(_)
                | Asks::Get(_)
                | Asks::Derive(_)
                | Asks::Verify { .. }
                | Asks::Decrypt { .. }
        );
        self.is_granted() || of_operators
    }

    /// Whether it breaks a rule of the protocol.
    pub(super) fn breaks_a_rule(self) -> bool {
        matches!(self, Asks::Malformed(_) | Asks::Unknown(_))
    }

    /// The keyspace that it is counted for.
    pub(super) fn keyspace_of_frame(self) -> Option<u32> {
        match self {
            Asks::Malformed(_) => Some(1),
            Asks::Unknown(opcode) if opcode.scope() != Scope::Server => Some(1),
            _ => self.keyspace(),
        }
    }

    /// Whether it needs no right.
    pub(super) fn is_anybodys(self) -> bool {
        matches!(self, Asks::Ping(_) | Asks::Keyspaces | Asks::Page { .. })
    }

    /// The version of its key that it names, if it names one. The others use the newest one, or any.
    pub(super) fn version(self) -> Option<u32> {
        match self {
            Asks::Verify { version, .. } | Asks::Decrypt { version, .. } => {
                Some(version).filter(|version| *version > 0)
            }
            _ => None,
        }
    }

    /// Whether what it asks to be verified was made with the key.
    pub(super) fn is_good(self) -> bool {
        !matches!(
            self,
            Asks::Verify { good: false, .. } | Asks::Decrypt { good: false, .. }
        )
    }
}

impl World<'_> {
    /// A client asks for something. Returns the request's id.
    pub(super) fn ask(&mut self, client: usize, asks: Asks, deadline_us: u32) -> u64 {
        self.connect(client);
        let user = self.plan.clients[client].user;
        let request = self
            .books
            .ask(Asked::new(client, user, asks, deadline_us, self.now));
        if matches!(
            asks,
            Asks::Lock(_) | Asks::LockAll | Asks::Revoke(_) | Asks::RevokeVersion { .. }
        ) {
            let at = self.now + ANSWERED_WITHIN_US;
            self.schedule(at, super::Event::MustBeAnswered(request));
        }
        self.trace.note(self.now, || {
            format!("client {client} asks #{request}: {asks:?}")
        });
        let bytes = self.encode(request, asks, deadline_us);
        self.send_frame(client, request, bytes);
        request
    }

    pub(super) fn say_hello(&mut self, client: usize) {
        let hello = Request::Hello(Hello {
            version_min: 1,
            version_max: 1,
            client_name: "",
        });
        let request = self.books.ask_hello(client, self.now);
        let bytes = frame(request, Opcode::Hello, (0, b""), 0, &hello);
        self.send_frame(client, request, bytes);
    }

    fn encode(&self, request: u64, asks: Asks, deadline_us: u32) -> Vec<u8> {
        let key_id = asks.key().map(Key::id).unwrap_or_default();
        let at = (asks.keyspace().unwrap_or(0), key_id.as_slice());
        let write = |what: &Request<'_>| frame(request, asks.opcode(), at, deadline_us, what);
        let set = |text: String| write(&Request::KeyspaceSet(settings(&text)));
        match asks {
            Asks::Sign(_) => write(&Request::Sign(Sign {
                scheme: Scheme::Default,
                kind: InputKind::Message,
                input: Octets(b"message"),
            })),
            Asks::Mac(_) => write(&Request::Mac(Octets(b"message"))),
            Asks::Encrypt(_) => write(&Request::Encrypt(Encrypt {
                aad: Octets(b""),
                plaintext: Octets(b"message"),
            })),
            Asks::Get(_) => write(&Request::Get { key_version: 0 }),
            Asks::Derive(_) => write(&Request::Derive(Derive {
                out_len: 8,
                salt: Octets(b""),
                info: Octets(b""),
            })),
            Asks::Verify { version, .. } => write(&Request::Verify(Verify {
                scheme: Scheme::Default,
                kind: InputKind::Message,
                key_version: version,
                signature: Octets(made(asks)),
                input: Octets(b"message"),
            })),
            Asks::Decrypt { version, .. } => write(&Request::Decrypt(Decrypt {
                aad: Octets(b""),
                sealed: Sealed {
                    key_version: version,
                    nonce: [0; 12],
                    ciphertext: Octets(made(asks)),
                },
            })),
            Asks::PublicKey(_) => write(&Request::PublicKey { key_version: 0 }),
            Asks::Generate(key) => write(&Request::KeyGenerate(KeyGenerate {
                new_key: key.made(),
            })),
            Asks::Import(key) => write(&Request::KeyImport(KeyImport {
                new_key: key.made(),
                material: Material {
                    format: KeyFormat::Raw,
                    bytes: Octets(&[7; 32]),
                },
            })),
            Asks::Rotate(_) => write(&Request::KeyRotate(KeyRotate { material: None })),
            Asks::Revoke(_) => write(&Request::KeyRevoke(KeyRevoke { key_version: 0 })),
            Asks::RevokeVersion { version, .. } => write(&Request::KeyRevoke(KeyRevoke {
                key_version: version,
            })),
            Asks::Trim { below, .. } => write(&Request::KeyTrim(KeyTrim { below })),
            Asks::Delete(_) => write(&Request::KeyDelete),
            Asks::Refresh(_) => write(&Request::ForceRefresh),
            Asks::List { shard, listing, .. } => {
                let cursor = self.books.cursor_of(listing);
                write(&Request::KeyList(KeyList {
                    shard,
                    limit: 3,
                    cursor: Octets(&cursor),
                }))
            }
            Asks::Lock(_) => write(&Request::Lock),
            Asks::LockAll => write(&Request::LockAll),
            Asks::LockKms(kms) => write(&Request::KmsLock { kms: NAMES[kms] }),
            Asks::Unlock { watch, secret, .. } => write(&Request::Unlock(Unlock {
                kind: kind_of(secret),
                watch,
                force: false,
                secret: Octets(secret_of(secret)),
            })),
            Asks::UnlockKms(kms) => write(&Request::KmsUnlock(KmsUnlock {
                kind: kind_of(true),
                force: false,
                kms: NAMES[kms],
                secret: Octets(secret_of(true)),
            })),
            Asks::Set { name, value, .. } => set(format!("{name}={value}\n")),
            Asks::Grant { who, .. } => set(format!("allow:uid:{}=sign\n", uid_of(Some(who)))),
            Asks::Withdraw { who, .. } => set(format!("allow:uid:{}=none\n", uid_of(Some(who)))),
            Asks::RotateDek(_) => write(&Request::KeyspaceRotate),
            Asks::DestroyDeks(_) => write(&Request::KeyspaceDestroyDeks),
            Asks::Rewrap { kms, .. } => write(&Request::KeyspaceRewrap { kms: NAMES[kms] }),
            Asks::History(_) => write(&Request::KeyspaceHistory),
            Asks::Hot(_) => write(&Request::KeyspaceHot(KeyspaceHot {
                by: HotBy::Requests,
                limit: 0,
            })),
            Asks::Status => write(&Request::Status { after: 0 }),
            Asks::InitKms(kms) => write(&Request::KmsInit(KmsInit {
                kms: NAMES[kms],
                custody: Custody::Passphrase(Octets(secret_of(true))),
            })),
            Asks::Malformed(opcode) => malformed(request, opcode, deadline_us),
            Asks::Unknown(opcode) => unknown(request, opcode, deadline_us),
            Asks::Create(kms) => {
                let (name, kms) = (format!("made-{request}"), format!("kms={}\n", NAMES[kms]));
                write(&Request::KeyspaceCreate(KeyspaceCreate {
                    name: &name,
                    settings: settings(&kms),
                }))
            }
            Asks::UnlockStatus { ticket, .. } => write(&Request::UnlockStatus { ticket }),
            Asks::Ping(len) => write(&Request::Ping(Octets(&vec![7; len]))),
            Asks::Keyspaces => write(&Request::KeyspaceList { after: 0 }),
            Asks::Page { after, .. } => write(&Request::KeyspaceList { after }),
        }
    }
}

fn made(asks: Asks) -> &'static [u8] {
    match asks.is_good() {
        true => GOOD,
        false => b"made with another",
    }
}

fn malformed(request: u64, opcode: Opcode, deadline_us: u32) -> Vec<u8> {
    let (keyspace_id, key_id): (u32, &[u8]) = match opcode.scope() {
        Scope::Server => (1, b""),
        Scope::Keyspace => (1, b"key-0"),
        Scope::Key => (1, b""),
    };
    raw_frame(request, opcode, (keyspace_id, key_id), deadline_us, b"")
}

/// Operations whose payload begins with an id, each with the rest of a payload that is valid otherwise.
pub(super) const WITH_ID: [(Opcode, &[u8]); 8] = [
    (Opcode::Sign, b"\0\0\0message"),
    (Opcode::Verify, b"\0\x01\0\0\0\0\0smessage"),
    (Opcode::KeyGenerate, &[0; 11]),
    (Opcode::KeyImport, b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0material"),
    (Opcode::KeyRotate, b"\0\0\0material"),
    (Opcode::KeyspaceHot, &[0; 3]),
    (Opcode::Unlock, b"\0secret"),
    (Opcode::KmsUnlock, b"\0\x05firstsecret"),
];
const NO_ID: u8 = 0xee;

fn unknown(request: u64, opcode: Opcode, deadline_us: u32) -> Vec<u8> {
    let (_, rest) = WITH_ID
        .iter()
        .find(|(of, _)| *of == opcode)
        .expect("one of them");
    let payload = [&[NO_ID], *rest].concat();
    let at: (u32, &[u8]) = match opcode.scope() {
        Scope::Server => (0, b""),
        Scope::Keyspace => (1, b""),
        Scope::Key => (1, b"key-0"),
    };
    raw_frame(request, opcode, at, deadline_us, &payload)
}

fn raw_frame(
    request: u64,
    opcode: Opcode,
    (keyspace_id, key_id): (u32, &[u8]),
    deadline_us: u32,
    payload: &[u8],
) -> Vec<u8> {
    let frame = RequestFrame {
        code: opcode.code(),
        request_id: request,
        keyspace_id,
        deadline_us,
        key_id: Octets(key_id),
        payload: Octets(payload),
    };
    let mut bytes = Vec::new();
    frame.encode(&mut bytes).expect("it is short");
    bytes
}

fn settings(lines: &str) -> Settings<'_> {
    Settings::new(lines).expect("the lines are settings")
}

fn kind_of(secret: bool) -> UnlockKind {
    match secret {
        true => UnlockKind::Passphrase,
        false => UnlockKind::Nothing,
    }
}

fn secret_of(secret: bool) -> &'static [u8] {
    if secret { b"secret" } else { b"" }
}

fn frame(
    request: u64,
    opcode: Opcode,
    (keyspace_id, key_id): (u32, &[u8]),
    deadline_us: u32,
    what: &Request<'_>,
) -> Vec<u8> {
    let mut payload = Vec::new();
    what.encode_payload(&mut payload).expect("it is short");
    raw_frame(
        request,
        opcode,
        (keyspace_id, key_id),
        deadline_us,
        &payload,
    )
}
