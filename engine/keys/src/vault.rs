//! Where blobs are sealed and opened: a shard's arena and its choice of providers.

use crate::algorithm::{Algorithm, KeyUsage};
use crate::arena::{Arena, ArenaBytes, ArenaError};
use crate::dek::{DEK_LEN, Dek};
use crate::envelope::{
    self, Context, Entry, Format, Header, Metadata, Payload, SALT_LEN, VersionsKept,
};
use crate::error::{KeyError, OpenError};
use crate::import::{ImportFormat, Importer, Material};
use crate::key::UnlockedKey;
use crate::providers::ProviderChoice;
use crate::wipe::scrub_stack;
use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rsa::KeySize;
use ring::rand::{SecureRandom as _, SystemRandom};
use zeroize::Zeroizing;

/// A shard's arena and its choice of providers. Cloning is cheap and shares the arena.
#[derive(Debug, Clone)]
pub struct Vault {
    arena: Arena,
    choice: ProviderChoice,
}

/// What a new key is to be like. The algorithm is named separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewKey {
    /// What it may be used for; `None` is all that the algorithm can do.
    pub usage: Option<KeyUsage>,
    /// Whether callers may have the secret. Cannot be changed later.
    pub exportable: bool,
    /// Start of validity, Unix time in milliseconds; 0 is none.
    pub not_before_unix_ms: u64,
    /// End of validity, Unix time in milliseconds; 0 is none.
    pub not_after_unix_ms: u64,
    /// The time, Unix time in milliseconds.
    pub now_unix_ms: u64,
    /// The number of its first version: 1, or more for an id that had a key before.
    pub first_version: u32,
}

impl Vault {
    /// A vault over this arena.
    pub fn new(arena: Arena, choice: ProviderChoice) -> Self {
        Self { arena, choice }
    }

    /// The arena that everything unlocked lies in.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// Moves a DEK into the arena and wipes `bytes`.
    pub fn dek(&self, generation: u32, bytes: &mut [u8; DEK_LEN]) -> Result<Dek, ArenaError> {
        Dek::new(&self.arena, generation, bytes)
    }

    /// The blob of a new key with one version, [`NewKey::first_version`]. For RSA this takes 30 ms to seconds; see
    /// [`generate_rsa_pkcs8`].
    pub fn seal_generated(
        &self,
        dek: &Dek,
        context: Context<'_>,
        algorithm: Algorithm,
        new: &NewKey,
    ) -> Result<Vec<u8>, KeyError> {
        self.scrubbed(|vault| {
            // Before the costly part.
            new.metadata(dek, algorithm)?;
            let material = vault.importer().generate(algorithm)?;
            vault.seal_first(dek, context, &material, new)
        })
    }

    /// The blob of an imported key with one version. `algorithm` is needed for raw secrets only, and
    /// checked if given. Takes up to 5 ms for RSA-4096 (its parts are checked against each other).
    pub fn seal_imported(
        &self,
        dek: &Dek,
        context: Context<'_>,
        algorithm: Option<Algorithm>,
        format: ImportFormat,
        bytes: &[u8],
        new: &NewKey,
    ) -> Result<Vec<u8>, KeyError> {
        self.scrubbed(|vault| {
            let material = vault.importer().import(algorithm, format, bytes)?;
            vault.seal_first(dek, context, &material, new)
        })
    }

    /// The blob of a key with a further version, generated or imported, and that version's number.
    /// `dek` seals the new blob, `dek_of_blob` opens the present one; they may be the same.
    /// Algorithm, usage, exportability and validity stay as they are, and so do all versions that
    /// the key has: if no further one fits, that is [`KeyError::Versions`].
    pub fn seal_rotated(
        &self,
        dek: &Dek,
        context: Context<'_>,
        blob: &[u8],
        dek_of_blob: &Dek,
        import: Option<(ImportFormat, &[u8])>,
        now_unix_ms: u64,
    ) -> Result<(Vec<u8>, u32), KeyError> {
        self.scrubbed(|vault| {
            let (present, payload) = vault.open_payload(dek_of_blob, context, 0, blob)?;
            let algorithm = present.algorithm;
            if present.not_after_unix_ms != 0 && present.not_after_unix_ms <= now_unix_ms {
                return Err(KeyError::Metadata(
                    "the key's validity has ended, and a rotation does not extend it; \
                     make a new key",
                ));
            }
            let Some(version) = present.version.checked_add(1) else {
                return Err(KeyError::Metadata(
                    "the key has used up its version numbers",
                ));
            };
            let material = match import {
                None => vault.importer().generate(algorithm)?,
                Some((format, bytes)) => vault.importer().import(Some(algorithm), format, bytes)?,
            };
            let newest = Entry {
                version,
                created_unix_ms: now_unix_ms,
                material: &material.bytes,
            };
            let entries: Vec<_> = std::iter::once(newest).chain(payload.entries()).collect();
            if envelope::payload_len(&entries).is_none() {
                return Err(KeyError::Versions {
                    count: payload.versions().len(),
                    oldest: payload.versions().last().map_or(0, |at| at.version),
                });
            }
            let metadata = Metadata {
                version,
                dek_generation: dek.generation(),
                created_unix_ms: now_unix_ms,
                ..present
            };
            let blob = vault.seal(dek, context, metadata, &entries)?;
            Ok((blob, version))
        })
    }

    /// The blob of the same key, sealed under `dek` instead of `dek_of_blob`: nothing else of it changes.
    pub fn reseal(
        &self,
        dek: &Dek,
        context: Context<'_>,
        blob: &[u8],
        dek_of_blob: &Dek,
    ) -> Result<Vec<u8>, KeyError> {
        self.scrubbed(|vault| {
            let (present, payload) = vault.open_payload(dek_of_blob, context, 0, blob)?;
            let entries: Vec<_> = payload.entries().collect();
            vault.seal_again(dek, context, present, &entries)
        })
    }

    /// The blob of the same key without the versions below `below`, sealed under `dek`. `None`: it
    /// has none of those.
    ///
    /// Errors: [`KeyError::NewestVersion`] if nothing would be left.
    pub fn seal_trimmed(
        &self,
        dek: &Dek,
        context: Context<'_>,
        blob: &[u8],
        dek_of_blob: &Dek,
        below: u32,
    ) -> Result<Option<Vec<u8>>, KeyError> {
        self.scrubbed(|vault| {
            let (present, payload) = vault.open_payload(dek_of_blob, context, 0, blob)?;
            if below > present.version {
                return Err(KeyError::NewestVersion {
                    newest: present.version,
                });
            }
            let stays = |entry: &Entry<'_>| entry.version >= below;
            let entries: Vec<_> = payload.entries().filter(stays).collect();
            if entries.len() == payload.versions().len() {
                return Ok(None);
            }
            vault.seal_again(dek, context, present, &entries).map(Some)
        })
    }

    /// The blob of the same key with one version revoked, sealed under `dek`: the version's number
    /// stays, its material goes. `None`: it is revoked already.
    ///
    /// Errors: [`KeyError::NewestVersion`], [`KeyError::NoSuchVersion`].
    pub fn seal_version_revoked(
        &self,
        dek: &Dek,
        context: Context<'_>,
        blob: &[u8],
        dek_of_blob: &Dek,
        version: u32,
    ) -> Result<Option<Vec<u8>>, KeyError> {
        self.scrubbed(|vault| {
            let (present, payload) = vault.open_payload(dek_of_blob, context, 0, blob)?;
            if version == present.version {
                return Err(KeyError::NewestVersion { newest: version });
            }
            let mut entries: Vec<_> = payload.entries().collect();
            let entry = entries.iter_mut().find(|entry| entry.version == version);
            let entry = entry.ok_or(KeyError::NoSuchVersion(version))?;
            if entry.material.is_empty() {
                return Ok(None);
            }
            entry.material = &[];
            vault.seal_again(dek, context, present, &entries).map(Some)
        })
    }

    /// Opens a blob. It has to be bound to `context`, sealed under `dek`, and of
    /// `version_expected` or newer; 0 takes any version.
    ///
    /// Costs about 2 µs plus what the algorithm's key needs (12 µs for P-256, 0.4 ms for P-384
    /// with ring only).
    pub fn open(
        &self,
        dek: &Dek,
        context: Context<'_>,
        version_expected: u32,
        blob: &[u8],
    ) -> Result<UnlockedKey, OpenError> {
        self.open_without(dek, context, version_expected, blob, &|_| false)
    }

    /// Opens a blob, as [`Vault::open`] does, without the versions that are revoked although the blob does not say so.
    pub fn open_without(
        &self,
        dek: &Dek,
        context: Context<'_>,
        version_expected: u32,
        blob: &[u8],
        is_revoked: &dyn Fn(u32) -> bool,
    ) -> Result<UnlockedKey, OpenError> {
        self.scrubbed(|vault| {
            let (metadata, mut payload) =
                vault.open_payload(dek, context, version_expected, blob)?;
            payload.revoke(is_revoked);
            UnlockedKey::new(&vault.arena, vault.choice, metadata, payload)
        })
    }

    fn importer(&self) -> Importer<'_> {
        Importer {
            arena: &self.arena,
            choice: self.choice,
        }
    }

    /// Runs `work` in frames of its own, and overwrites them afterwards.
    fn scrubbed<R>(&self, work: impl FnOnce(&Self) -> R) -> R {
        #[inline(never)]
        fn framed<R>(vault: &Vault, work: impl FnOnce(&Vault) -> R) -> R {
            work(vault)
        }
        let result = framed(self, work);
        scrub_stack();
        result
    }

    fn open_payload(
        &self,
        dek: &Dek,
        context: Context<'_>,
        version_expected: u32,
        blob: &[u8],
    ) -> Result<(Metadata, Payload), OpenError> {
        let (header, parts) = Header::parse(blob)?;
        let metadata = header.metadata;
        if header.keyspace != context.keyspace {
            return Err(OpenError::WrongKeyspace {
                found: header.keyspace,
                expected: context.keyspace,
            });
        }
        if header.key_id != context.key_id {
            return Err(OpenError::WrongKeyId);
        }
        if metadata.version < version_expected {
            return Err(OpenError::OlderVersion {
                found: metadata.version,
                expected: version_expected,
            });
        }
        if metadata.dek_generation != dek.generation() {
            return Err(OpenError::OtherDekGeneration {
                found: metadata.dek_generation,
                available: dek.generation(),
            });
        }
        let mut bytes = ArenaBytes::copied(&self.arena, parts.sealed)?;
        envelope::open(dek, &header, parts, &mut bytes)?;
        let payload =
            Payload::parse(bytes, metadata.algorithm, header.format).map_err(OpenError::Payload)?;
        let newest = payload.newest();
        if newest.version != metadata.version || newest.created_unix_ms != metadata.created_unix_ms
        {
            return Err(OpenError::Payload("its newest version is not the header's"));
        }
        let kept = payload.versions().iter();
        let kept = VersionsKept::of(kept.map(|at| (at.version, at.is_revoked())));
        if metadata.versions.is_some_and(|told| told != kept) {
            return Err(OpenError::Payload("its versions are not the header's"));
        }
        Ok((metadata, payload))
    }

    fn seal_first(
        &self,
        dek: &Dek,
        context: Context<'_>,
        material: &Material,
        new: &NewKey,
    ) -> Result<Vec<u8>, KeyError> {
        let metadata = new.metadata(dek, material.algorithm)?;
        let entry = Entry {
            version: metadata.version,
            created_unix_ms: metadata.created_unix_ms,
            material: &material.bytes,
        };
        self.seal(dek, context, metadata, &[entry])
    }

    /// Seals versions of a key that is there already, under `dek`.
    fn seal_again(
        &self,
        dek: &Dek,
        context: Context<'_>,
        present: Metadata,
        entries: &[Entry<'_>],
    ) -> Result<Vec<u8>, KeyError> {
        let metadata = Metadata {
            dek_generation: dek.generation(),
            ..present
        };
        self.seal(dek, context, metadata, entries)
    }

    fn seal(
        &self,
        dek: &Dek,
        context: Context<'_>,
        metadata: Metadata,
        entries: &[Entry<'_>],
    ) -> Result<Vec<u8>, KeyError> {
        if context.keyspace == 0 {
            return Err(KeyError::Metadata("keyspace numbers begin at 1"));
        }
        if !envelope::key_id_is_valid(context.key_id) {
            return Err(KeyError::Metadata(
                "a key id has 1 to 128 bytes of printable ASCII without spaces",
            ));
        }
        let mut salt = [0; SALT_LEN];
        SystemRandom::new()
            .fill(&mut salt)
            .map_err(|_| KeyError::Internal("no randomness"))?;
        let payload = envelope::write_payload(&self.arena, entries)?;
        let versions = entries.iter();
        let versions = versions.map(|entry| (entry.version, entry.material.is_empty()));
        let versions = VersionsKept::of(versions);
        let header = Header {
            format: Format::Three,
            keyspace: context.keyspace,
            key_id: context.key_id,
            metadata: Metadata {
                versions: Some(versions),
                ..metadata
            },
            salt,
            commitment: [0; 32],
            payload_len: payload.len() - envelope::TAG_LEN,
        };
        let mut blob = Vec::new();
        envelope::seal(dek, header, payload, &mut blob)
            .map_err(|_| KeyError::Internal("ring did not encrypt"))?;
        Ok(blob)
    }
}

impl NewKey {
    fn metadata(&self, dek: &Dek, algorithm: Algorithm) -> Result<Metadata, KeyError> {
        let metadata = Metadata {
            version: self.first_version,
            dek_generation: dek.generation(),
            algorithm,
            usage: self.usage.unwrap_or(algorithm.usage_default()),
            exportable: self.exportable,
            created_unix_ms: self.now_unix_ms,
            not_before_unix_ms: self.not_before_unix_ms,
            not_after_unix_ms: self.not_after_unix_ms,
            versions: None,
        };
        if let Some(rule) = metadata.broken_rule() {
            return Err(KeyError::Metadata(rule));
        }
        if metadata.not_after_unix_ms != 0 && metadata.not_after_unix_ms <= self.now_unix_ms {
            return Err(KeyError::NotAfterPassed {
                not_after_unix_ms: metadata.not_after_unix_ms,
                now_unix_ms: self.now_unix_ms,
            });
        }
        Ok(metadata)
    }
}

/// A new RSA private key, PKCS#8 DER, to be imported by a shard's vault. Needs no vault and may run
/// on any thread; takes 30 to 100 ms for 2048 bits, 0.2 to 1 s for 4096, occasionally more.
pub fn generate_rsa_pkcs8(algorithm: Algorithm) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let size = match algorithm {
        Algorithm::Rsa2048 => KeySize::Rsa2048,
        Algorithm::Rsa3072 => KeySize::Rsa3072,
        Algorithm::Rsa4096 => KeySize::Rsa4096,
        _ => return Err(KeyError::Metadata("this algorithm is not RSA")),
    };
    let failed = |_| KeyError::Internal("AWS-LC made no RSA key");
    let key = aws_lc_rs::rsa::KeyPair::generate(size).map_err(failed)?;
    let document: Pkcs8V1Der<'_> = key.as_der().map_err(failed)?;
    Ok(Zeroizing::new(document.as_ref().to_vec()))
}
