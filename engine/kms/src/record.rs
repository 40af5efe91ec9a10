//! The stored record of a wrapped DEK: the provider's wrapped key, what it is bound to, and how to distinguish corruption
//! from a failing device.
//!
//! ```text
//! magic "KWRD" │ format u8 = 1 │ zero u8 × 3 │ context 32 │ commitment 32 │ checksum 32 │ the provider's bytes
//! ```
//!
//! The context is [`Context::to_bytes`]. The commitment is HMAC-SHA-256 under the DEK over a label and the context, so an
//! answer of the KMS that is not the DEK is detected, whatever the provider binds. The checksum is SHA-256 over all the
//! rest: a corrupt record costs no call. Neither the commitment nor the checksum is a secret.
//!
//! Bytes without the magic are a provider's wrapped key from before records existed; they are used unchanged.

use ring::digest::SHA256;
use ring::hmac;
use subtle::ConstantTimeEq;

use crate::context::{CONTEXT_BYTES, PURPOSE_AT};
use crate::provider::{WRAPPED_BYTES_MAX, Wrapped};
use crate::{Class, Context, KmsError, Purpose, SecretKey};

const MAGIC: [u8; 4] = *b"KWRD";
const FORMAT: u8 = 1;
const CONTEXT_AT: usize = 8;
const COMMITMENT_AT: usize = CONTEXT_AT + CONTEXT_BYTES;
const CHECKSUM_AT: usize = COMMITMENT_AT + 32;
const HEAD_BYTES: usize = CHECKSUM_AT + 32;

/// Longest record, in bytes.
pub const RECORD_BYTES_MAX: usize = HEAD_BYTES + WRAPPED_BYTES_MAX;

const COMMITMENT_LABEL: &[u8] = b"keyway dek record commitment v1";

/// Returns the purpose stated in a record. Only the KMS can verify it.
pub(crate) fn purpose_of(bytes: &[u8]) -> Purpose {
    let known = [
        Purpose::DataKey,
        Purpose::CatalogueKey,
        Purpose::SealedDataKey,
    ];
    let said = match bytes.starts_with(&MAGIC) {
        true => bytes.get(CONTEXT_AT + PURPOSE_AT),
        false => None,
    };
    let mut known = known.into_iter();
    known
        .find(|purpose| said == Some(&(*purpose as u8)))
        .unwrap_or(Purpose::DataKey)
}

/// Returns `true` if a wrapped DEK belongs in an authenticated catalogue: see [`Purpose::SealedDataKey`]. If this is
/// changed in a record, no KMS unwraps it.
pub fn is_sealed_data_key(record: &[u8]) -> bool {
    purpose_of(record) == Purpose::SealedDataKey
}

/// A record that is intact and bound to the requested context.
#[derive(Debug)]
pub(crate) struct Record<'a> {
    context: Context,
    commitment: Option<[u8; 32]>,
    wrapped: &'a [u8],
}

/// Builds the record of `dek`, which the provider wrapped as `wrapped` under `context`.
pub(crate) fn seal(context: &Context, dek: &SecretKey, wrapped: &Wrapped) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + wrapped.0.len());
    bytes.extend(MAGIC);
    bytes.extend([FORMAT, 0, 0, 0]);
    bytes.extend(context.to_bytes());
    bytes.extend(commitment(context, dek));
    bytes.extend(checksum(&bytes, &wrapped.0));
    bytes.extend(&wrapped.0);
    bytes
}

impl<'a> Record<'a> {
    /// Parses a record, before the KMS is called.
    ///
    /// Errors: [`Class::Corrupt`] if it is corrupt, of another format, or bound to another context.
    pub(crate) fn open(context: &Context, bytes: &'a [u8]) -> Result<Self, KmsError> {
        let corrupt = |what: &str| {
            Err(KmsError::new(
                Class::Corrupt,
                format!("the wrapped DEK of {context} {what}"),
                "restore keyspaces.json from a backup",
            ))
        };
        if bytes.is_empty() || bytes.len() > RECORD_BYTES_MAX {
            return corrupt(&format!(
                "has {} bytes, not 1 to {RECORD_BYTES_MAX}",
                bytes.len()
            ));
        }
        if !bytes.starts_with(&MAGIC) {
            return Ok(Self {
                context: *context,
                commitment: None,
                wrapped: bytes,
            });
        }
        let Some((head, wrapped)) = bytes.split_at_checked(HEAD_BYTES) else {
            return corrupt("is truncated");
        };
        if checksum(&head[..CHECKSUM_AT], wrapped) != head[CHECKSUM_AT..] {
            return corrupt("is corrupt: its checksum is wrong");
        }
        if head[4..CONTEXT_AT] != [FORMAT, 0, 0, 0] {
            return corrupt(&format!(
                "has record format {}, not {FORMAT}: a later Keyway wrote it",
                head[4]
            ));
        }
        if head[CONTEXT_AT..COMMITMENT_AT] != context.to_bytes() {
            return corrupt("was made for another cluster, keyspace or generation");
        }
        let mut commitment = [0; 32];
        commitment.copy_from_slice(&head[COMMITMENT_AT..CHECKSUM_AT]);
        Ok(Self {
            context: *context,
            commitment: Some(commitment),
            wrapped,
        })
    }

    /// Returns the bytes that the provider must unwrap.
    pub(crate) fn wrapped(&self) -> &'a [u8] {
        self.wrapped
    }

    /// Checks that the KMS returned the DEK.
    pub(crate) fn check(&self, dek: &SecretKey, provider: &str) -> Result<(), KmsError> {
        let is_it = self.commitment.is_none_or(|expected| {
            expected.ct_eq(&commitment(&self.context, dek)).unwrap_u8() == 1
        });
        if is_it {
            return Ok(());
        }
        Err(KmsError::new(
            Class::Corrupt,
            format!(
                "the KMS {provider} returned a key that is not the DEK of {}",
                self.context
            ),
            "check that it is the KMS and the key under which the DEK was wrapped",
        ))
    }
}

fn commitment(context: &Context, dek: &SecretKey) -> [u8; 32] {
    let mut state = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, dek.expose()));
    state.update(COMMITMENT_LABEL);
    state.update(&context.to_bytes());
    let mut bytes = [0; 32];
    bytes.copy_from_slice(state.sign().as_ref());
    crate::secret::scrub_stack();
    bytes
}

fn checksum(head: &[u8], wrapped: &[u8]) -> [u8; 32] {
    let mut state = ring::digest::Context::new(&SHA256);
    state.update(head);
    state.update(wrapped);
    let mut bytes = [0; 32];
    bytes.copy_from_slice(state.finish().as_ref());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTEXT: Context = Context {
        cluster: [7; 16],
        keyspace: 3,
        generation: 2,
        purpose: Purpose::DataKey,
    };

    fn dek() -> SecretKey {
        SecretKey::take(&mut [9; 32])
    }

    fn record() -> Vec<u8> {
        seal(&CONTEXT, &dek(), &Wrapped(b"from the provider".to_vec()))
    }

    #[test]
    fn a_record_says_what_its_key_is_for() {
        assert!(!is_sealed_data_key(&record()));
        assert!(!is_sealed_data_key(b"vault:v1:raw"));
        let context = Context {
            purpose: Purpose::SealedDataKey,
            ..CONTEXT
        };
        let sealed = seal(&context, &dek(), &Wrapped(b"from the provider".to_vec()));
        assert!(is_sealed_data_key(&sealed));
        assert!(Record::open(&CONTEXT, &sealed).is_err());
    }

    #[test]
    fn what_was_sealed_is_opened_and_committed_to_its_dek() {
        let bytes = record();
        let opened = Record::open(&CONTEXT, &bytes).unwrap();
        assert_eq!(opened.wrapped(), b"from the provider");
        opened.check(&dek(), "test").unwrap();
        let other = SecretKey::take(&mut [8; 32]);
        let error = opened.check(&other, "test").unwrap_err();
        assert_eq!(error.class(), Class::Corrupt);
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_found_before_the_kms_is_asked() {
        let good = record();
        for at in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                match Record::open(&CONTEXT, &bad) {
                    Err(error) => assert_eq!(error.class(), Class::Corrupt),
                    // Without the magic these are a provider's bytes, which the provider refuses.
                    Ok(bare) => assert!(at < 4 && bare.wrapped() == bad),
                }
            }
        }
        for len in 4..good.len() {
            let error = Record::open(&CONTEXT, &good[..len]).unwrap_err();
            assert_eq!(error.class(), Class::Corrupt, "{len}");
        }
    }

    #[test]
    fn another_context_is_refused() {
        let bytes = record();
        for context in [
            Context {
                cluster: [8; 16],
                ..CONTEXT
            },
            Context {
                keyspace: 4,
                ..CONTEXT
            },
            Context {
                generation: 3,
                ..CONTEXT
            },
        ] {
            let error = Record::open(&context, &bytes).unwrap_err();
            assert!(error.what().contains("another"), "{error}");
        }
    }

    #[test]
    fn bytes_from_before_there_were_records_are_taken_as_they_are() {
        let bare = Record::open(&CONTEXT, b"KWLK and more").unwrap();
        assert_eq!(bare.wrapped(), b"KWLK and more");
        bare.check(&dek(), "test").unwrap();
    }

    #[test]
    fn lengths_are_bounded() {
        for bytes in [vec![], vec![0; RECORD_BYTES_MAX + 1]] {
            assert!(Record::open(&CONTEXT, &bytes).is_err());
        }
    }
}
