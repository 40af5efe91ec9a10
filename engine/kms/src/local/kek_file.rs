//! The KEK file: JSON, format 1. `docs/OPERATING` describes what to back up; this describes every field.
//!
//! ```json
//! { "format": 1,
//!   "id": "16 random bytes that name this file in what is wrapped under it",
//!   "keks": { "protected": { "argon2id": { "m_kib": 65536, "t": 3, "p": 4 },
//!                            "salt": "16 bytes", "commitment": "32 bytes",
//!                            "versions": [ { "version": 1, "created_unix_ms": 0,
//!                                            "nonce": "12 bytes", "ciphertext": "48 bytes" } ] } },
//!   "checksum": "SHA-256 over all of the above in binary" }
//! ```
//!
//! Byte strings are lower-case hexadecimal. A development file has `"unprotected": { "versions": [ { "version",
//! "created_unix_ms", "key": "32 bytes" } ] }` instead. A file whose secret is split into shares has
//!
//! ```json
//! "shares": { "identifier": 12345, "count": 5, "threshold": 3, "iteration_exponent": 0, "commitment": "32 bytes",
//!             "versions": [ as above ] }
//! ```
//!
//! which identifies the shares that belong to it, and reveals nothing of their contents. One secret guards all versions,
//! and one file cannot mix the kinds, so an attacker cannot slip a KEK of their own into a protected file.
//!
//! The checksum detects accidents before a secret is requested. The AEAD detects tampering: every field that leads to a
//! KEK is its associated data or changes the derived key.

use ring::digest;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::hex::{Hex, HexSecret};
use crate::shares::{ITERATION_EXPONENT_MAX, Quorum, Terms};
use crate::{Class, KmsError};

use super::seal::{Argon2Params, NONCE_BYTES, SALT_BYTES, SEALED_KEK_BYTES};

/// The only format.
pub(super) const FORMAT: u32 = 1;
/// Longest file that is read.
pub(super) const FILE_BYTES_MAX: usize = 64 * 1024;
/// Most KEK versions in a file. keywayd makes files with one; the format has room for more.
pub(super) const KEK_VERSIONS_MAX: usize = 64;
/// Generous size of one version in the file, for the relation below.
const VERSION_TEXT_BYTES_MAX: usize = 512;

const _: () = assert!(KEK_VERSIONS_MAX * VERSION_TEXT_BYTES_MAX + 4096 <= FILE_BYTES_MAX);

const BINDING_MAGIC: [u8; 4] = *b"KWKF";
const SHARES_BINDING_MAGIC: [u8; 4] = *b"KWKS";
/// An identifier has 15 bits.
const IDENTIFIER_MAX: u16 = 0x7fff;

/// The file, parsed and checked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KekFile {
    format: u32,
    pub(super) id: Hex<16>,
    pub(super) keks: Keks,
    checksum: Hex<32>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Keks {
    Protected(Protected),
    Shares(InShares),
    Unprotected(Unprotected),
}

/// What protects the KEKs of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    Passphrase,
    Shares { threshold: u8 },
    Nothing,
}

/// KEKs sealed under a key derived from a secret.
pub(super) trait Sealed {
    fn commitment(&self) -> &[u8; 32];
    fn versions(&self) -> &[SealedKek];
    fn versions_mut(&mut self) -> &mut Vec<SealedKek>;
    /// Returns the associated data of one sealed KEK.
    fn binding(&self, id: &Hex<16>, version: u32, created_unix_ms: u64) -> Vec<u8>;
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Protected {
    pub(super) argon2id: Argon2Params,
    pub(super) salt: Hex<SALT_BYTES>,
    pub(super) commitment: Hex<32>,
    pub(super) versions: Vec<SealedKek>,
}

/// The secret is split: any `threshold` of the set's `count` shares recover it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct InShares {
    pub(super) identifier: u16,
    pub(super) count: u8,
    pub(super) threshold: u8,
    pub(super) iteration_exponent: u8,
    pub(super) commitment: Hex<32>,
    pub(super) versions: Vec<SealedKek>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SealedKek {
    pub(super) version: u32,
    pub(super) created_unix_ms: u64,
    pub(super) nonce: Hex<NONCE_BYTES>,
    pub(super) ciphertext: Hex<SEALED_KEK_BYTES>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Unprotected {
    pub(super) versions: Vec<PlainKek>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PlainKek {
    pub(super) version: u32,
    pub(super) created_unix_ms: u64,
    pub(super) key: HexSecret,
}

impl KekFile {
    /// Creates a file with these KEKs. Their versions ascend from 1 or more, and there is at least one.
    pub(super) fn new(id: Hex<16>, keks: Keks) -> Self {
        let mut file = Self {
            format: FORMAT,
            id,
            keks,
            checksum: Hex([0; 32]),
        };
        file.checksum = file.checksum_now();
        file
    }

    /// Parses and checks. Errors never quote the text.
    pub(super) fn parse(text: &[u8]) -> Result<Self, KmsError> {
        let file: Self = serde_json::from_slice(text).map_err(|error| {
            corrupt(format!(
                "it does not parse (line {}, column {})",
                error.line(),
                error.column()
            ))
        })?;
        if file.format != FORMAT {
            return Err(KmsError::new(
                Class::Misconfigured,
                format!(
                    "the KEK file has format {}, and this program knows {FORMAT}",
                    file.format
                ),
                "use the version of the program that wrote it, or a newer one",
            ));
        }
        if file.checksum != file.checksum_now() {
            return Err(corrupt("its checksum is wrong".into()));
        }
        let versions = file.versions();
        if versions.is_empty() || versions.len() > KEK_VERSIONS_MAX {
            return Err(corrupt(format!(
                "it has {} KEK versions, not 1 to {KEK_VERSIONS_MAX}",
                versions.len()
            )));
        }
        if versions[0] == 0 || !versions.is_sorted_by(|earlier, later| earlier < later) {
            return Err(corrupt(format!(
                "its KEK versions do not ascend from 1: {versions:?}"
            )));
        }
        match &file.keks {
            Keks::Protected(protected) => protected.argon2id.check()?,
            Keks::Shares(shares) => shares.check()?,
            Keks::Unprotected(_) => {}
        }
        Ok(file)
    }

    /// Returns the text of the file. It is a secret if the KEKs are unprotected.
    pub(super) fn to_text(&self) -> Result<Zeroizing<Vec<u8>>, KmsError> {
        // One allocation that is large enough, so that growth leaves no copies.
        let mut text = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX));
        serde_json::to_writer_pretty(&mut *text, self).map_err(|error| {
            KmsError::new(
                Class::Misconfigured,
                format!(
                    "the KEK file cannot be written as JSON ({:?})",
                    error.classify()
                ),
                "report this as a fault of the program",
            )
        })?;
        text.push(b'\n');
        Ok(text)
    }

    pub(super) fn guard(&self) -> Guard {
        match &self.keks {
            Keks::Protected(_) => Guard::Passphrase,
            Keks::Shares(shares) => Guard::Shares {
                threshold: shares.threshold,
            },
            Keks::Unprotected(_) => Guard::Nothing,
        }
    }

    fn versions(&self) -> Vec<u32> {
        let of = |sealed: &[SealedKek]| sealed.iter().map(|kek| kek.version).collect();
        match &self.keks {
            Keks::Protected(protected) => of(&protected.versions),
            Keks::Shares(shares) => of(&shares.versions),
            Keks::Unprotected(unprotected) => {
                unprotected.versions.iter().map(|kek| kek.version).collect()
            }
        }
    }

    fn checksum_now(&self) -> Hex<32> {
        let mut sum = digest::Context::new(&digest::SHA256);
        sum.update(&self.format.to_le_bytes());
        sum.update(&self.id.0);
        match &self.keks {
            Keks::Protected(protected) => {
                sum.update(b"protected");
                add_sealed(&mut sum, &self.id, protected);
            }
            Keks::Shares(shares) => {
                sum.update(b"shares");
                add_sealed(&mut sum, &self.id, shares);
            }
            Keks::Unprotected(unprotected) => {
                sum.update(b"unprotected");
                for kek in &unprotected.versions {
                    sum.update(&kek.version.to_le_bytes());
                    sum.update(&kek.created_unix_ms.to_le_bytes());
                    sum.update(kek.key.0.expose());
                }
            }
        }
        let mut bytes = [0; 32];
        bytes.copy_from_slice(sum.finish().as_ref());
        Hex(bytes)
    }
}

fn add_sealed(sum: &mut digest::Context, id: &Hex<16>, sealed: &impl Sealed) {
    for kek in sealed.versions() {
        sum.update(&sealed.binding(id, kek.version, kek.created_unix_ms));
        sum.update(&kek.nonce.0);
        sum.update(&kek.ciphertext.0);
    }
}

impl Sealed for Protected {
    fn commitment(&self) -> &[u8; 32] {
        &self.commitment.0
    }

    fn versions(&self) -> &[SealedKek] {
        &self.versions
    }

    fn versions_mut(&mut self) -> &mut Vec<SealedKek> {
        &mut self.versions
    }

    /// Encodes, little-endian: magic `KWKF`, format u32, file id, m_kib, t, p u32 each, salt, commitment, version u32,
    /// created u64.
    fn binding(&self, id: &Hex<16>, version: u32, created_unix_ms: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(96);
        bytes.extend_from_slice(&BINDING_MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&id.0);
        bytes.extend_from_slice(&self.argon2id.m_kib.to_le_bytes());
        bytes.extend_from_slice(&self.argon2id.t.to_le_bytes());
        bytes.extend_from_slice(&self.argon2id.p.to_le_bytes());
        bytes.extend_from_slice(&self.salt.0);
        bytes.extend_from_slice(&self.commitment.0);
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&created_unix_ms.to_le_bytes());
        bytes
    }
}

impl InShares {
    /// Returns what the file's shares have in common.
    pub(super) fn terms(&self) -> Terms {
        Terms {
            identifier: self.identifier,
            is_extendable: true,
            iteration_exponent: self.iteration_exponent,
            threshold: self.threshold,
        }
    }

    fn check(&self) -> Result<(), KmsError> {
        if Quorum::new(self.threshold, self.count).is_err() {
            return Err(corrupt(format!(
                "it needs {} of {} shares",
                self.threshold, self.count
            )));
        }
        if self.identifier > IDENTIFIER_MAX {
            return Err(corrupt(format!(
                "its shares' identifier is {}",
                self.identifier
            )));
        }
        if self.iteration_exponent > ITERATION_EXPONENT_MAX {
            return Err(corrupt(format!(
                "its shares' iteration exponent is {}, above {ITERATION_EXPONENT_MAX}",
                self.iteration_exponent
            )));
        }
        Ok(())
    }
}

impl Sealed for InShares {
    fn commitment(&self) -> &[u8; 32] {
        &self.commitment.0
    }

    fn versions(&self) -> &[SealedKek] {
        &self.versions
    }

    fn versions_mut(&mut self) -> &mut Vec<SealedKek> {
        &mut self.versions
    }

    /// Encodes, little-endian: magic `KWKS`, format u32, file id, identifier u16, count, threshold, iteration exponent u8
    /// each, commitment, version u32, created u64.
    fn binding(&self, id: &Hex<16>, version: u32, created_unix_ms: u64) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(73);
        bytes.extend_from_slice(&SHARES_BINDING_MAGIC);
        bytes.extend_from_slice(&FORMAT.to_le_bytes());
        bytes.extend_from_slice(&id.0);
        bytes.extend_from_slice(&self.identifier.to_le_bytes());
        bytes.extend_from_slice(&[self.count, self.threshold, self.iteration_exponent]);
        bytes.extend_from_slice(&self.commitment.0);
        bytes.extend_from_slice(&version.to_le_bytes());
        bytes.extend_from_slice(&created_unix_ms.to_le_bytes());
        bytes
    }
}

/// Creates the error for a corrupt file, with the remedy to restore it.
pub(super) fn corrupt(how: String) -> KmsError {
    KmsError::new(
        Class::Corrupt,
        format!("the KEK file is corrupt: {how}"),
        "restore it from a backup; without it nothing that it wrapped can be opened",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;

    fn dev_file(versions: &[u32]) -> KekFile {
        let versions = versions
            .iter()
            .map(|&version| PlainKek {
                version,
                created_unix_ms: 7,
                key: HexSecret(SecretKey::take(&mut [version as u8; 32])),
            })
            .collect();
        KekFile::new(Hex([1; 16]), Keks::Unprotected(Unprotected { versions }))
    }

    fn refusal(text: &[u8]) -> KmsError {
        KekFile::parse(text).expect_err("the file is bad")
    }

    #[test]
    fn what_is_written_parses_to_the_same_text() {
        let text = dev_file(&[1, 2, 9]).to_text().unwrap();
        let again = KekFile::parse(&text).unwrap();
        assert_eq!(again.to_text().unwrap(), text);
    }

    #[test]
    fn the_largest_file_fits_in_the_limit() {
        let versions: Vec<u32> = (1..)
            .map(|i| u32::MAX - 100 + i)
            .take(KEK_VERSIONS_MAX)
            .collect();
        let file = dev_file(&versions);
        assert!(file.to_text().unwrap().len() < FILE_BYTES_MAX);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let text = dev_file(&[1, 2]).to_text().unwrap();
        for at in 0..text.len() {
            for bit in 0..8 {
                let mut bad = text.to_vec();
                bad[at] ^= 1 << bit;
                if let Ok(file) = KekFile::parse(&bad) {
                    // Only white space may change without being noticed.
                    assert_eq!(file.to_text().unwrap(), text, "byte {at} bit {bit}");
                }
            }
        }
    }

    #[test]
    fn bad_files_are_refused_with_their_fault() {
        let text = |versions: &[u32]| dev_file(versions).to_text().unwrap();
        assert!(refusal(&text(&[])).what().contains("0 KEK versions"));
        assert!(refusal(&text(&[2, 2])).what().contains("ascend"));
        assert!(refusal(&text(&[2, 1])).what().contains("ascend"));
        assert!(refusal(&text(&[0, 1])).what().contains("ascend"));
        assert!(refusal(b"").what().contains("does not parse"));
        let good = text(&[1]);
        assert!(
            refusal(&good[..good.len() - 3])
                .what()
                .contains("does not parse")
        );
        let mut trailing = good.to_vec();
        trailing.extend_from_slice(b"{}");
        assert!(refusal(&trailing).what().contains("does not parse"));
        let newer = String::from_utf8(good.to_vec())
            .unwrap()
            .replace("\"format\": 1", "\"format\": 2");
        let error = refusal(newer.as_bytes());
        assert_eq!(error.class(), Class::Misconfigured);
        assert!(error.what().contains("format 2"), "{error}");
    }

    #[test]
    fn errors_do_not_quote_the_key() {
        let good = String::from_utf8(dev_file(&[1]).to_text().unwrap().to_vec()).unwrap();
        let key = "01".repeat(32);
        assert!(good.contains(&key));
        for bad in [
            good.replace(&key, &key[1..]),
            good.replace("\"key\"", "\"other\""),
            good.replace(&key, &key.replace('0', "2")),
        ] {
            assert!(
                !refusal(bad.as_bytes()).to_string().contains("0101"),
                "the key is quoted"
            );
        }
        assert!(!format!("{:?}", dev_file(&[1])).contains(&key));
    }
}
