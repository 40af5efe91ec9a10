//! Calls: requests not yet sent, which know how to read their answers.

mod key;
mod kms;

use std::fmt;
use std::time::Duration;

use keyway_protocol::{
    Algorithm, Decrypt, Derive, Encrypt, Hello, HotBy, InputKind, KeyFormat, KeyGenerate, KeyId,
    KeyImport, KeyList, KeyListAnswer, KeyPath, KeyRotate, KeyspaceCreate, KeyspaceHot,
    KeyspaceName, Material, NewKey, Octets, Opcode, ProtocolError, Request, Scheme, Sealed,
    ServerHello, Settings, Sign, Usage, VERSION, Verify, decode_keyspace_id,
};
use serde::de::DeserializeOwned;

use crate::answer::Reply;
use crate::connection_table::{ConnectionTable, Target};
use crate::exchange::Outgoing;
use crate::{
    Answer, CallEffect, Error, HotKeys, KeyPage, KeyspaceHistory, KeyspacePage, ListedKey, Secret,
    StatusPage,
};

pub use kms::{Custody, UnlockWith};

/// A request that has not been sent yet. Its answer holds a `T`.
///
/// An error in it is reported when it is sent.
#[derive(Clone)]
pub struct Call<T> {
    pub(crate) spec: CallSpec,
    read: fn(&Reply) -> Result<T, String>,
}

/// A call without its type.
#[derive(Clone)]
pub(crate) struct CallSpec {
    pub(crate) opcode: Opcode,
    pub(crate) keyspace: Option<KeyspaceName>,
    pub(crate) key_id: Option<KeyId>,
    /// The shard to ask, if the call is for one.
    pub(crate) shard: Option<u16>,
    pub(crate) payload: Result<Secret, ProtocolError>,
    pub(crate) deadline: Option<Duration>,
}

/// What to sign or verify.
#[derive(Clone, Copy)]
pub enum Input<'a> {
    /// A message of at most 64 KiB.
    Message(&'a [u8]),
    /// A digest made with the scheme's hash; for ECDSA and RSA.
    Digest(&'a [u8]),
}

/// What is fixed about a key when it is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KeyOptions {
    /// Whether `get` may ever give its secret out.
    pub exportable: bool,
    /// What it may be used for; none stands for all that its algorithm can do.
    pub usage: Usage,
    /// When it ceases to be valid, in ms since 1970; 0 for never.
    pub not_after_unix_ms: u64,
}

impl<T> Call<T> {
    /// Sets how long this call may take in total, instead of the client's own deadline.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.spec.deadline = Some(deadline);
        self
    }

    pub(crate) fn read(&self, reply: &Reply) -> Result<Answer<T>, Error> {
        match (self.read)(reply) {
            Ok(value) => Ok(reply.with_value(value)),
            Err(cause) => Err(Error::Answer {
                outcome: CallEffect::of_write(self.spec.opcode.is_write()),
                cause,
            }),
        }
    }

    fn to_server(request: &Request<'_>, read: fn(&Reply) -> Result<T, String>) -> Self {
        let mut payload = Vec::with_capacity(payload_len_guess(request));
        let encoded = request.encode_payload(&mut payload);
        let payload = Secret::new(payload);
        Self {
            spec: CallSpec {
                opcode: request.opcode(),
                keyspace: None,
                key_id: None,
                shard: None,
                payload: encoded.map(|()| payload),
                deadline: None,
            },
            read,
        }
    }

    fn to_keyspace(
        keyspace: &KeyspaceName,
        request: &Request<'_>,
        read: fn(&Reply) -> Result<T, String>,
    ) -> Self {
        let mut call = Self::to_server(request, read);
        call.spec.keyspace = Some(keyspace.clone());
        call
    }

    fn to_key(key: &KeyPath, request: &Request<'_>, read: fn(&Reply) -> Result<T, String>) -> Self {
        let mut call = Self::to_keyspace(&key.keyspace, request, read);
        call.spec.key_id = Some(key.key_id.clone());
        call
    }
}

impl Call<Vec<u8>> {
    /// The call that `Client::sign` makes.
    #[must_use]
    pub fn sign(key: &KeyPath, scheme: Scheme, input: Input<'_>) -> Self {
        let (kind, input) = input.parts();
        let sign = Sign {
            scheme,
            kind,
            input,
        };
        Self::to_key(key, &Request::Sign(sign), bytes)
    }

    /// The call that `Client::mac` makes.
    #[must_use]
    pub fn mac(key: &KeyPath, message: &[u8]) -> Self {
        Self::to_key(key, &Request::Mac(Octets(message)), bytes)
    }

    /// The call that `Client::encrypt` makes.
    #[must_use]
    pub fn encrypt(key: &KeyPath, aad: &[u8], plaintext: &[u8]) -> Self {
        let encrypt = Encrypt {
            aad: Octets(aad),
            plaintext: Octets(plaintext),
        };
        Self::to_key(key, &Request::Encrypt(encrypt), |reply| {
            Sealed::decode(&reply.payload).map_err(|error| error.to_string())?;
            bytes(reply)
        })
    }

    /// The call that `Client::public_key` makes.
    #[must_use]
    pub fn public_key(key: &KeyPath, key_version: u32) -> Self {
        Self::to_key(key, &Request::PublicKey { key_version }, bytes)
    }

    /// The call that `Client::ping` makes.
    #[must_use]
    pub fn ping(payload: &[u8]) -> Self {
        Self::to_server(&Request::Ping(Octets(payload)), bytes)
    }
}

impl Call<Secret> {
    /// The call that `Client::decrypt` makes.
    #[must_use]
    pub fn decrypt(key: &KeyPath, aad: &[u8], sealed: &[u8]) -> Self {
        match Sealed::decode(sealed) {
            Ok(sealed) => {
                let decrypt = Decrypt {
                    aad: Octets(aad),
                    sealed,
                };
                Self::to_key(key, &Request::Decrypt(decrypt), secret)
            }
            Err(error) => {
                let mut call = Self::to_key(key, &Request::Get { key_version: 0 }, secret);
                call.spec.opcode = Opcode::Decrypt;
                call.spec.payload = Err(error);
                call
            }
        }
    }

    /// The call that `Client::derive` makes.
    #[must_use]
    pub fn derive(key: &KeyPath, salt: &[u8], info: &[u8], out_len: u16) -> Self {
        let derive = Derive {
            out_len,
            salt: Octets(salt),
            info: Octets(info),
        };
        Self::to_key(key, &Request::Derive(derive), secret)
    }

    /// The call that `Client::get` makes.
    #[must_use]
    pub fn get(key: &KeyPath, key_version: u32) -> Self {
        Self::to_key(key, &Request::Get { key_version }, secret)
    }
}

impl Call<()> {
    /// The call that `Client::verify` makes.
    #[must_use]
    pub fn verify(
        key: &KeyPath,
        scheme: Scheme,
        input: Input<'_>,
        signature: &[u8],
        key_version: u32,
    ) -> Self {
        let (kind, input) = input.parts();
        let verify = Verify {
            scheme,
            kind,
            key_version,
            signature: Octets(signature),
            input,
        };
        Self::to_key(key, &Request::Verify(verify), nothing)
    }

    /// The call that `Client::verify_mac` makes.
    #[must_use]
    pub fn verify_mac(key: &KeyPath, message: &[u8], tag: &[u8]) -> Self {
        Self::verify(key, Scheme::Default, Input::Message(message), tag, 0)
    }

    /// The call that `Client::key_generate` makes.
    #[must_use]
    pub fn key_generate(key: &KeyPath, algorithm: Algorithm, options: KeyOptions) -> Self {
        let new_key = options.of(Some(algorithm));
        Self::to_key(key, &Request::KeyGenerate(KeyGenerate { new_key }), nothing)
    }

    /// The call that `Client::key_import` makes.
    #[must_use]
    pub fn key_import(
        key: &KeyPath,
        algorithm: Option<Algorithm>,
        options: KeyOptions,
        format: KeyFormat,
        bytes: &[u8],
    ) -> Self {
        let import = KeyImport {
            new_key: options.of(algorithm),
            material: Material {
                format,
                bytes: Octets(bytes),
            },
        };
        Self::to_key(key, &Request::KeyImport(import), nothing)
    }

    /// The call that `Client::key_rotate` makes.
    #[must_use]
    pub fn key_rotate(key: &KeyPath, material: Option<(KeyFormat, &[u8])>) -> Self {
        let material = material.map(|(format, bytes)| Material {
            format,
            bytes: Octets(bytes),
        });
        Self::to_key(key, &Request::KeyRotate(KeyRotate { material }), nothing)
    }

    /// The call that `Client::force_refresh` makes.
    #[must_use]
    pub fn force_refresh(key: &KeyPath) -> Self {
        Self::to_key(key, &Request::ForceRefresh, nothing)
    }

    /// The call that `Client::keyspace_set` makes.
    #[must_use]
    pub fn keyspace_set(keyspace: &KeyspaceName, settings: &[(&str, &str)]) -> Self {
        Self::keyspace_set_lines(keyspace, &lines(settings))
    }

    /// The call that `Client::keyspace_set_for` makes.
    #[must_use]
    pub fn keyspace_set_for(
        keyspace: &KeyspaceName,
        settings: &[(&str, &str)],
        lasts: Duration,
    ) -> Self {
        let for_ms = lasts.as_millis().to_string();
        Self::keyspace_set_lines(
            keyspace,
            &lines(&[settings, &[("for_ms", &for_ms)]].concat()),
        )
    }

    fn keyspace_set_lines(keyspace: &KeyspaceName, lines: &str) -> Self {
        match Settings::new(lines) {
            Ok(settings) => Self::to_keyspace(keyspace, &Request::KeyspaceSet(settings), nothing),
            Err(error) => {
                let none = Request::KeyspaceSet(Settings::NONE);
                let mut call = Self::to_keyspace(keyspace, &none, nothing);
                call.spec.payload = Err(error);
                call
            }
        }
    }
}

impl Call<u32> {
    /// The call that `Client::keyspace_create` makes.
    #[must_use]
    pub fn keyspace_create(name: &KeyspaceName, settings: &[(&str, &str)]) -> Self {
        let lines = lines(settings);
        let settings = Settings::new(&lines);
        let create = KeyspaceCreate {
            name: name.as_str(),
            settings: *settings.as_ref().unwrap_or(&Settings::NONE),
        };
        let mut call = Self::to_server(&Request::KeyspaceCreate(create), |reply| {
            decode_keyspace_id(&reply.payload).map_err(|error| error.to_string())
        });
        if let Err(error) = settings {
            call.spec.payload = Err(error);
        }
        call
    }
}

impl Call<KeyPage> {
    /// One page of the keys that one shard owns: `limit` of them, at most 256, 0 for as many.
    #[must_use]
    pub fn key_list_page(keyspace: &KeyspaceName, shard: u16, limit: u16, cursor: &[u8]) -> Self {
        let list = KeyList {
            shard,
            limit,
            cursor: Octets(cursor),
        };
        let mut call = Self::to_keyspace(keyspace, &Request::KeyList(list), |reply| {
            let answer =
                KeyListAnswer::decode(&reply.payload).map_err(|error| error.to_string())?;
            let keys = answer.rows.map(|row| ListedKey {
                key_id: row.key_id.parse().expect("the decoder checked the key id"),
                key_version: row.key_version,
                algorithm: row.algorithm,
                state: row.state,
                versions: row.versions,
            });
            Ok(KeyPage {
                keys: keys.collect(),
                cursor: answer.cursor.to_vec(),
            })
        });
        call.spec.shard = Some(shard);
        call
    }
}

impl Call<KeyspacePage> {
    /// One page of the keyspaces: those with ids greater than `after`.
    #[must_use]
    pub fn keyspace_list_page(after: u32) -> Self {
        Self::to_server(&Request::KeyspaceList { after }, json)
    }
}

impl Call<KeyspaceHistory> {
    /// The call that `Client::keyspace_history` makes.
    #[must_use]
    pub fn keyspace_history(keyspace: &KeyspaceName) -> Self {
        Self::to_keyspace(keyspace, &Request::KeyspaceHistory, json)
    }
}

impl Call<HotKeys> {
    /// The call that `Client::keyspace_hot` makes.
    #[must_use]
    pub fn keyspace_hot(keyspace: &KeyspaceName, by: HotBy, limit: u16) -> Self {
        let hot = KeyspaceHot { by, limit };
        Self::to_keyspace(keyspace, &Request::KeyspaceHot(hot), json)
    }
}

impl Call<StatusPage> {
    /// One page of the server's status: what comes behind `after`, which is 0 for the first and told by each page.
    #[must_use]
    pub fn status_page(after: u64) -> Self {
        Self::to_server(&Request::Status { after }, |reply| {
            StatusPage::read(&reply.payload)
        })
    }
}

impl Call<ServerHello> {
    pub(crate) fn hello(client_name: &str) -> Self {
        let hello = Hello {
            version_min: VERSION,
            version_max: VERSION,
            client_name,
        };
        Self::to_server(&Request::Hello(hello), |reply| {
            let hello = ServerHello::decode(&reply.payload).map_err(|error| error.to_string())?;
            if hello.version != VERSION {
                return Err(format!(
                    "it speaks version {}, not {VERSION}",
                    hello.version
                ));
            }
            Ok(hello)
        })
    }
}

impl CallSpec {
    /// The id of the keyspace it names, or 0; `None` if the table does not know the keyspace.
    pub(crate) fn keyspace_id<C: Clone>(&self, table: &ConnectionTable<C>) -> Option<u32> {
        match &self.keyspace {
            Some(name) => table.keyspace_id(name),
            None => Some(0),
        }
    }

    /// Whom it is for.
    pub(crate) fn target(&self, keyspace_id: u32) -> Target<'_> {
        match (&self.key_id, self.shard) {
            (Some(key_id), _) => Target::Key {
                keyspace_id,
                key_id: key_id.as_bytes(),
            },
            (None, Some(shard)) => Target::Shard(shard),
            (None, None) => Target::Any,
        }
    }

    /// The frame to be. `payload` is this call's own.
    pub(crate) fn outgoing<'a>(
        &'a self,
        keyspace_id: u32,
        deadline_us: u32,
        payload: &'a [u8],
    ) -> Outgoing<'a> {
        Outgoing {
            opcode: self.opcode,
            keyspace_id,
            deadline_us,
            key_id: self.key_id.as_ref().map_or(b"", KeyId::as_bytes),
            payload,
        }
    }
}

impl<'a> Input<'a> {
    fn parts(self) -> (InputKind, Octets<'a>) {
        match self {
            Self::Message(message) => (InputKind::Message, Octets(message)),
            Self::Digest(digest) => (InputKind::Digest, Octets(digest)),
        }
    }
}

impl KeyOptions {
    fn of(self, algorithm: Option<Algorithm>) -> NewKey {
        NewKey {
            algorithm,
            exportable: self.exportable,
            usage: self.usage,
            not_after_unix_ms: self.not_after_unix_ms,
        }
    }
}

impl<T> fmt::Debug for Call<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.spec.fmt(f)
    }
}

impl fmt::Debug for CallSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.opcode)?;
        match (&self.keyspace, &self.key_id) {
            (Some(keyspace), Some(key_id)) => write!(f, " {keyspace}/{key_id}"),
            (Some(keyspace), None) => write!(f, " {keyspace}"),
            (None, _) => Ok(()),
        }
    }
}

/// At least as long as the payload, so that a secret is written once and never moved.
fn payload_len_guess(request: &Request<'_>) -> usize {
    /// More than the fixed fields of any payload.
    const FIXED_LEN_MAX: usize = 64;
    FIXED_LEN_MAX
        + match request {
            Request::KeyImport(import) => import.material.bytes.len(),
            Request::KeyRotate(rotate) => rotate.material.map_or(0, |it| it.bytes.len()),
            Request::Unlock(unlock) => unlock.secret.len(),
            Request::KmsUnlock(unlock) => unlock.kms.len() + unlock.secret.len(),
            Request::KmsInit(init) => match init.custody {
                keyway_protocol::Custody::Passphrase(secret) => init.kms.len() + secret.len(),
                keyway_protocol::Custody::Shares { .. } => init.kms.len(),
            },
            Request::Encrypt(encrypt) => encrypt.aad.len() + encrypt.plaintext.len(),
            Request::Sign(sign) => sign.input.len(),
            Request::Mac(message) => message.len(),
            _ => 0,
        }
}

fn lines(settings: &[(&str, &str)]) -> String {
    settings
        .iter()
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect()
}

fn bytes(reply: &Reply) -> Result<Vec<u8>, String> {
    Ok(reply.payload.to_vec())
}

fn secret(reply: &Reply) -> Result<Secret, String> {
    Ok(reply.payload.clone())
}

fn nothing(reply: &Reply) -> Result<(), String> {
    match reply.payload.len() {
        0 => Ok(()),
        len => Err(format!("{len} bytes where none were expected")),
    }
}

fn json<T: DeserializeOwned>(reply: &Reply) -> Result<T, String> {
    serde_json::from_slice(&reply.payload).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use keyway_protocol::{KmsInit, KmsUnlock, UnlockKind};

    use super::*;

    fn key() -> KeyPath {
        "prod/alice".parse().unwrap()
    }

    #[test]
    fn calls_beyond_a_limit_carry_what_is_wrong() {
        let too_long = vec![0; 65_537];
        for payload in [
            Call::mac(&key(), &too_long).spec.payload,
            Call::encrypt(&key(), b"a", &too_long[1..]).spec.payload,
            Call::derive(&key(), b"", b"", 0).spec.payload,
            Call::decrypt(&key(), b"", b"too short").spec.payload,
            Call::keyspace_set(&key().keyspace, &[("a b", "")])
                .spec
                .payload,
            Call::keyspace_create(&key().keyspace, &[("a", "1\n2")])
                .spec
                .payload,
            Call::hello(&"n".repeat(65)).spec.payload,
        ] {
            assert!(payload.is_err());
        }
    }

    #[test]
    fn a_secret_payload_is_never_moved_while_it_is_written() {
        let material = vec![7; 16_384];
        let import = KeyImport {
            new_key: KeyOptions::default().of(None),
            material: Material {
                format: KeyFormat::Raw,
                bytes: Octets(&material),
            },
        };
        let (name, secret) = ("a".repeat(64), [b'x'; 1_024]);
        let unlock = KmsUnlock {
            kind: UnlockKind::Share,
            force: false,
            kms: &name,
            secret: Octets(&secret),
        };
        let init = KmsInit {
            kms: &name,
            custody: keyway_protocol::Custody::Passphrase(Octets(&secret)),
        };
        for request in [
            Request::KeyImport(import),
            Request::KmsUnlock(unlock),
            Request::KmsInit(init),
        ] {
            let mut payload = Vec::with_capacity(payload_len_guess(&request));
            let before = payload.as_ptr();
            request.encode_payload(&mut payload).unwrap();
            assert_eq!(payload.as_ptr(), before);
        }
    }
}
