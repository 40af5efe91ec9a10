//! A shard's keys: the arena and what comes out of it, the index of the blob log, and the clock.

use std::rc::Rc;

use keyway_core::{Instant, Loaded};
use keyway_keys::{
    Algorithm, Context, Dek, ImportFormat, Input, KeyError, KeyUsage, UnlockedKey, UseLedger,
    Vault, peek,
};
use keyway_node::messages::DekBytes;
use keyway_node::port::{
    Blob, BlobHead, Cost, Known, Making, Name, NoRoom, OpError, OpenError, Operation, Port, Seal,
    Sealed, Secret, WriteError,
};
use keyway_node::shard::Use;
use keyway_protocol::{InputKind, KeyVersions, Material, NewKey, Request, Status};
use keyway_store::{BlobLog, Versions};

use crate::clock;
use crate::plant;
use crate::runtime::files::RingFiles;

/// Keys in locked memory.
pub struct Keys {
    pub(super) vault: Vault,
    pub(super) uses: UseLedger,
    pub(super) log: Rc<BlobLog<RingFiles>>,
}

impl Port for Keys {
    type Key = UnlockedKey;
    type Dek = Dek;

    #[inline]
    fn now(&self) -> Instant {
        clock::now()
    }

    fn unix_ms(&self) -> u64 {
        clock::unix_ms()
    }

    fn cost(&self, key: &UnlockedKey, operation: &Operation<'_>) -> Cost {
        let cost = match operation.request {
            Request::Sign(sign) => {
                let is_digest = sign.kind == InputKind::Digest;
                key.cost(keyway_keys::KeyOperation::Sign, is_digest)
            }
            Request::Verify(verify) => {
                key.verify_cost(verify.key_version, verify.kind == InputKind::Digest)
            }
            Request::Encrypt(_) if key.needs_reservation() => {
                let version = key.metadata().version;
                return Cost::Unreserved { version };
            }
            _ => keyway_keys::Cost::Fast,
        };
        match cost {
            keyway_keys::Cost::Fast => Cost::Fast,
            keyway_keys::Cost::Slow => Cost::Slow,
        }
    }

    fn perform(
        &self,
        with: Use<'_, UnlockedKey>,
        operation: &Operation<'_>,
        out: &mut Vec<u8>,
    ) -> Result<u32, OpError> {
        perform(with.key(), operation, out).map_err(|error| OpError {
            status: status_of(&error),
            explanation: error.to_string(),
        })
    }

    fn take_dek(&self, mut dek: Box<DekBytes>) -> Result<Dek, NoRoom> {
        let generation = dek.generation;
        let taken = self.vault.dek(generation, &mut dek.bytes);
        taken.map_err(|error| NoRoom(error.to_string()))
    }

    fn open(
        &self,
        dek: &Dek,
        name: Name<'_>,
        blob: &Blob,
        now: Instant,
    ) -> Result<Loaded<UnlockedKey>, OpenError> {
        let context = context(name);
        let revoked = keyway_errands::revoked_versions(&self.log, name, blob.version);
        let is_revoked = |version| is_among(revoked, blob.version, version);
        let opened = self
            .vault
            .open_without(dek, context, blob.version, &blob.bytes, &is_revoked);
        let mut key = opened.map_err(|error| match error.is_transient() {
            true => OpenError::NoRoom(error.to_string()),
            false => OpenError::Corrupt(error.to_string()),
        })?;
        key.count_uses_in(&self.uses, context);
        let metadata = key.metadata();
        let not_after = match metadata.not_after_unix_ms {
            0 => None,
            unix_ms => Some(clock::instant_of_unix_ms(unix_ms, now)),
        };
        Ok(Loaded {
            version: metadata.version,
            dek_generation: metadata.dek_generation,
            key_bytes: key.memory_bytes(),
            not_after,
            value: key,
        })
    }

    fn seal(
        &self,
        under: &Dek,
        name: Name<'_>,
        what: Seal<'_, Dek>,
    ) -> Result<Option<Sealed>, WriteError> {
        let (vault, context) = (&self.vault, context(name));
        let sealed = |version, bytes: Vec<u8>| Some(Sealed { version, bytes });
        let sealed = match what {
            Seal::New {
                new_key,
                secret,
                first_version,
            } => {
                let bytes = self.seal_new(under, context, new_key, secret, first_version)?;
                sealed(first_version, bytes)
            }
            Seal::Rotated(blob, opener, secret) => {
                let import = match secret {
                    Secret::Generated => None,
                    Secret::Pkcs8(pkcs8) => Some((ImportFormat::Pkcs8Der, pkcs8)),
                    Secret::Imported(material) => Some(import_of(material)?),
                };
                let (bytes, version) = vault
                    .seal_rotated(
                        under,
                        context,
                        &blob.bytes,
                        opener,
                        import,
                        clock::unix_ms(),
                    )
                    .map_err(of_keys)?;
                sealed(version, bytes)
            }
            Seal::Trimmed(blob, opener, below) => vault
                .seal_trimmed(under, context, &blob.bytes, opener, below)
                .map_err(of_keys)?
                .and_then(|bytes| sealed(blob.version, bytes)),
            Seal::Resealed(bytes, opener) => {
                let version = peek(bytes).map_err(of_open)?.version;
                let bytes = vault
                    .reseal(under, context, bytes, opener)
                    .map_err(of_keys)?;
                sealed(version, bytes)
            }
        };
        sealed
            .map(|sealed| self.without_revoked(under, name, sealed))
            .transpose()
    }

    fn head_of(&self, blob: &[u8]) -> Result<BlobHead, String> {
        let metadata = peek(blob).map_err(|error| error.to_string())?;
        Ok(BlobHead {
            dek_generation: metadata.dek_generation,
            algorithm: metadata.algorithm.id(),
            versions: metadata.versions.map(|kept| KeyVersions {
                oldest: kept.oldest,
                revoked: kept.revoked,
            }),
        })
    }

    fn can_make(&self, algorithm: Option<u8>) -> Result<Making, WriteError> {
        let Some(code) = algorithm else {
            return Ok(Making::Quick);
        };
        let algorithm = Algorithm::from_id(code).ok_or_else(unknown_algorithm)?;
        Ok(match algorithm.is_slow_to_generate() {
            true => Making::Slow,
            false => Making::Quick,
        })
    }

    fn known(&self, name: Name<'_>) -> Option<Known> {
        keyway_errands::known(&self.log, name)
    }

    fn revoke(&self, name: Name<'_>, unix_ms: u64, takes_reserve: bool) -> Result<(), WriteError> {
        keyway_errands::revoke(&self.log, name, unix_ms, takes_reserve)
    }

    fn revoke_version(
        &self,
        name: Name<'_>,
        version: u32,
        unix_ms: u64,
        takes_reserve: bool,
    ) -> Result<(), WriteError> {
        keyway_errands::revoke_version(&self.log, name, version, unix_ms, takes_reserve)
    }

    #[inline]
    fn panic_if_planted(&self, place: &'static str, key_id: &[u8]) {
        plant::panic_if_planted(place, key_id);
    }
}

/// Tells from the head of a blob whose versions' secrets are in it.
pub fn versions_of(blob: &[u8]) -> Option<Versions> {
    let kept = peek(blob).ok()?.versions?;
    Some(Versions {
        oldest: kept.oldest,
        without: kept.revoked,
    })
}

impl Keys {
    /// Drops from a blob what the log says is revoked, so that its material goes with the next write of the key. The newest
    /// version stays: a blob has one.
    fn without_revoked(
        &self,
        dek: &Dek,
        name: Name<'_>,
        mut sealed: Sealed,
    ) -> Result<Sealed, WriteError> {
        let revoked = keyway_errands::revoked_versions(&self.log, name, sealed.version);
        let older = (1..u128::BITS).filter(|below| revoked >> below & 1 == 1);
        for below in older {
            let version = sealed.version - below;
            let (vault, context) = (&self.vault, context(name));
            match vault.seal_version_revoked(dek, context, &sealed.bytes, dek, version) {
                Ok(Some(bytes)) => sealed.bytes = bytes,
                // It is so already, or was trimmed.
                Ok(None) | Err(KeyError::NoSuchVersion(_)) => {}
                Err(error) => return Err(of_keys(error)),
            }
        }
        Ok(sealed)
    }

    fn seal_new(
        &self,
        under: &Dek,
        context: Context<'_>,
        new_key: &NewKey,
        secret: Secret<'_>,
        first_version: u32,
    ) -> Result<Vec<u8>, WriteError> {
        let algorithm = match new_key.algorithm {
            Some(algorithm) => {
                Some(Algorithm::from_id(algorithm.code()).ok_or_else(unknown_algorithm)?)
            }
            None => None,
        };
        let usage = match new_key.usage.bits() {
            0 => None,
            bits => {
                let unknown = || WriteError::Bad("unknown usage bits".to_owned());
                Some(KeyUsage::from_bits(bits).ok_or_else(unknown)?)
            }
        };
        let new = keyway_keys::NewKey {
            usage,
            exportable: new_key.exportable,
            not_before_unix_ms: 0,
            not_after_unix_ms: new_key.not_after_unix_ms,
            now_unix_ms: clock::unix_ms(),
            first_version,
        };
        let vault = &self.vault;
        let sealed = match (secret, algorithm) {
            (Secret::Generated, Some(algorithm)) => {
                vault.seal_generated(under, context, algorithm, &new)
            }
            (Secret::Generated, None) => Err(KeyError::Metadata("generation needs an algorithm")),
            (Secret::Pkcs8(pkcs8), algorithm) => {
                let format = ImportFormat::Pkcs8Der;
                vault.seal_imported(under, context, algorithm, format, pkcs8, &new)
            }
            (Secret::Imported(material), algorithm) => {
                let (format, bytes) = import_of(material)?;
                vault.seal_imported(under, context, algorithm, format, bytes, &new)
            }
        };
        sealed.map_err(of_keys)
    }
}

/// Returns whether a set of revoked versions, bit `i` for the version `i` below `newest`, has this one.
fn is_among(revoked: u128, newest: u32, version: u32) -> bool {
    let below = newest.checked_sub(version);
    below
        .and_then(|below| revoked.checked_shr(below))
        .is_some_and(|bits| bits & 1 == 1)
}

fn context(name: Name<'_>) -> Context<'_> {
    Context {
        keyspace: name.keyspace,
        key_id: name.key_id,
    }
}

fn import_of<'a>(material: &Material<'a>) -> Result<(ImportFormat, &'a [u8]), WriteError> {
    let format = ImportFormat::from_id(material.format.code());
    let format = format.ok_or_else(|| WriteError::Bad("unknown key format".to_owned()))?;
    Ok((format, material.bytes.bytes()))
}

fn unknown_algorithm() -> WriteError {
    WriteError::Bad("this server does not know the algorithm".to_owned())
}

/// Appends the answer's payload to `out`; the version that was used.
fn perform(
    key: &UnlockedKey,
    operation: &Operation<'_>,
    out: &mut Vec<u8>,
) -> Result<u32, keyway_keys::OpError> {
    if key.metadata().not_before_unix_ms != 0 {
        key.check_time(clock::unix_ms())?;
    }
    let frame = operation.frame;
    match operation.request {
        Request::Sign(sign) => key.sign(
            scheme(sign.scheme.code())?,
            input(sign.kind, &sign.input),
            out,
        ),
        Request::Verify(verify) => key.verify(
            verify.key_version,
            scheme(verify.scheme.code())?,
            input(verify.kind, &verify.input),
            &verify.signature,
        ),
        Request::Mac(message) => key.mac(message, out),
        Request::Encrypt(encrypt) => key.encrypt(&encrypt.aad, &encrypt.plaintext, out),
        // The key reads what ENCRYPT returned as it stands behind the associated data.
        Request::Decrypt(decrypt) => {
            key.decrypt(&decrypt.aad, &frame.payload[4 + decrypt.aad.len()..], out)
        }
        Request::Derive(derive) => {
            key.derive(usize::from(derive.out_len), &derive.salt, &derive.info, out)
        }
        Request::PublicKey { key_version } => key.public_key(*key_version, out),
        Request::Get { key_version } => key.export(*key_version, out),
        _ => Err(keyway_keys::OpError::Unsupported(
            "this operation does not use a key",
        )),
    }
}

fn scheme(code: u8) -> Result<keyway_keys::Scheme, keyway_keys::OpError> {
    let scheme = keyway_keys::Scheme::from_id(code);
    scheme.ok_or(keyway_keys::OpError::Unsupported("this signature scheme"))
}

fn input(kind: InputKind, bytes: &[u8]) -> Input<'_> {
    match kind {
        InputKind::Message => Input::Message(bytes),
        InputKind::Digest => Input::Digest(bytes),
    }
}

fn status_of(error: &keyway_keys::OpError) -> Status {
    use keyway_keys::OpError;
    match error {
        OpError::WrongKeyType | OpError::Unsupported(_) => Status::Unsupported,
        OpError::UsageForbidden
        | OpError::NotExportable
        | OpError::NotYetValid(_)
        | OpError::Expired(_)
        | OpError::UseLimit => Status::Forbidden,
        OpError::Mismatch => Status::Mismatch,
        OpError::BadInput(_) | OpError::DigestLen { .. } => Status::BadRequest,
        OpError::NoSuchVersion => Status::NotFound,
        OpError::VersionRevoked => Status::Revoked,
        _ => Status::Internal,
    }
}

pub(super) fn of_keys(error: KeyError) -> WriteError {
    match error {
        KeyError::Open(open) => of_open(open),
        KeyError::Arena(_) => WriteError::Overloaded(error.to_string()),
        KeyError::Internal(_) => WriteError::Unknown(error.to_string()),
        KeyError::Versions { .. } | KeyError::NewestVersion { .. } => {
            WriteError::Conflict(error.to_string())
        }
        KeyError::NoSuchVersion(_) => WriteError::NotFound,
        _ => WriteError::Bad(error.to_string()),
    }
}

fn of_open(error: keyway_keys::OpenError) -> WriteError {
    match error.is_transient() {
        true => WriteError::Overloaded(error.to_string()),
        false => WriteError::Invalid(error.to_string()),
    }
}
