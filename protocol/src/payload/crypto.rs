//! Payloads of SIGN, VERIFY, ENCRYPT, DECRYPT and DERIVE, and of the answer to ENCRYPT.

use alloc::vec::Vec;

use crate::limits::{
    DERIVED_LEN_MAX, DIGEST_LEN_MAX, MESSAGE_LEN_MAX, NONCE_LEN, SALT_LEN_MAX, SIGNATURE_LEN_MAX,
    TAG_LEN,
};
use crate::reader::{Reader, at_least, at_most, in_range};
use crate::{InputKind, Octets, ProtocolError, Scheme};

/// SIGN. The answer is the signature's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sign<'a> {
    /// How to sign.
    pub scheme: Scheme,
    /// What `input` is.
    pub kind: InputKind,
    /// The message, at most `MESSAGE_LEN_MAX` bytes, or the digest.
    pub input: Octets<'a>,
}

impl<'a> Sign<'a> {
    pub(super) fn decode(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(payload);
        let scheme = Scheme::try_from(reader.u8("scheme")?)?;
        let kind = InputKind::try_from(reader.u8("input kind")?)?;
        reader.reserved::<2>("reserved")?;
        let input = Octets(reader.rest());
        check_input(kind, &input)?;
        Ok(Self {
            scheme,
            kind,
            input,
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        check_input(self.kind, &self.input)?;
        out.extend_from_slice(&[self.scheme.code(), self.kind.code(), 0, 0]);
        out.extend_from_slice(&self.input);
        Ok(())
    }
}

/// VERIFY. The answer is empty and its `key_version` says which version verified; a signature that
/// does not verify is answered MISMATCH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verify<'a> {
    /// How it was signed; `Default` for MAC keys.
    pub scheme: Scheme,
    /// What `input` is.
    pub kind: InputKind,
    /// The key version to verify with; 0 for any live one.
    pub key_version: u32,
    /// The signature or tag, at most `SIGNATURE_LEN_MAX` bytes.
    pub signature: Octets<'a>,
    /// The message or digest.
    pub input: Octets<'a>,
}

impl<'a> Verify<'a> {
    pub(super) fn decode(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(payload);
        let scheme = Scheme::try_from(reader.u8("scheme")?)?;
        let kind = InputKind::try_from(reader.u8("input kind")?)?;
        let signature_len = usize::from(reader.u16("sig_len")?);
        let key_version = reader.u32("version")?;
        let verify = Self {
            scheme,
            kind,
            key_version,
            signature: Octets(reader.bytes("signature", signature_len)?),
            input: Octets(reader.rest()),
        };
        verify.check()?;
        Ok(verify)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        self.check()?;
        out.extend_from_slice(&[self.scheme.code(), self.kind.code()]);
        out.extend_from_slice(&(self.signature.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.key_version.to_le_bytes());
        out.extend_from_slice(&self.signature);
        out.extend_from_slice(&self.input);
        Ok(())
    }

    fn check(&self) -> Result<(), ProtocolError> {
        at_least("signature", self.signature.len(), 1)?;
        at_most("signature", self.signature.len(), SIGNATURE_LEN_MAX)?;
        check_input(self.kind, &self.input)
    }
}

/// ENCRYPT. The answer is a [`Sealed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Encrypt<'a> {
    /// Associated data: authenticated, not encrypted, not stored.
    pub aad: Octets<'a>,
    /// The plaintext; with the associated data at most `MESSAGE_LEN_MAX` bytes.
    pub plaintext: Octets<'a>,
}

impl<'a> Encrypt<'a> {
    pub(super) fn decode(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(payload);
        let aad = read_aad(&mut reader)?;
        let encrypt = Self {
            aad,
            plaintext: Octets(reader.rest()),
        };
        encrypt.check()?;
        Ok(encrypt)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        self.check()?;
        out.extend_from_slice(&(self.aad.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.aad);
        out.extend_from_slice(&self.plaintext);
        Ok(())
    }

    fn check(&self) -> Result<(), ProtocolError> {
        check_sealable(self.aad.len(), self.plaintext.len())
    }
}

/// What ENCRYPT gives and DECRYPT takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sealed<'a> {
    /// The version of the key that encrypted.
    pub key_version: u32,
    /// The nonce.
    pub nonce: [u8; NONCE_LEN],
    /// The ciphertext with the tag behind it: at least `TAG_LEN` bytes.
    pub ciphertext: Octets<'a>,
}

impl<'a> Sealed<'a> {
    /// Reads an answer to ENCRYPT.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(bytes);
        let sealed = Self {
            key_version: reader.u32("key_version")?,
            nonce: reader.array("nonce")?,
            ciphertext: Octets(reader.rest()),
        };
        sealed.check(0)?;
        Ok(sealed)
    }

    /// Appends the answer to ENCRYPT.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        self.check(0)?;
        self.append(out);
        Ok(())
    }

    fn append(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.key_version.to_le_bytes());
        out.extend_from_slice(&self.nonce);
        out.extend_from_slice(&self.ciphertext);
    }

    fn check(&self, aad_len: usize) -> Result<(), ProtocolError> {
        at_least("ciphertext", self.ciphertext.len(), TAG_LEN)?;
        check_sealable(aad_len, self.ciphertext.len() - TAG_LEN)
    }
}

/// DECRYPT. The answer is the plaintext, or MISMATCH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decrypt<'a> {
    /// The associated data that was encrypted with.
    pub aad: Octets<'a>,
    /// What ENCRYPT gave.
    pub sealed: Sealed<'a>,
}

impl<'a> Decrypt<'a> {
    pub(super) fn decode(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(payload);
        let aad = read_aad(&mut reader)?;
        let sealed = Sealed::decode(reader.rest())?;
        sealed.check(aad.len())?;
        Ok(Self { aad, sealed })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        self.sealed.check(self.aad.len())?;
        out.extend_from_slice(&(self.aad.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.aad);
        self.sealed.append(out);
        Ok(())
    }
}

/// DERIVE, by HKDF. The answer is `out_len` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Derive<'a> {
    /// How many bytes: 1 to `DERIVED_LEN_MAX`.
    pub out_len: u16,
    /// HKDF's salt, at most `SALT_LEN_MAX` bytes; may be empty.
    pub salt: Octets<'a>,
    /// HKDF's info, at most `MESSAGE_LEN_MAX` bytes; may be empty.
    pub info: Octets<'a>,
}

impl<'a> Derive<'a> {
    pub(super) fn decode(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(payload);
        let out_len = reader.u16("out_len")?;
        let salt_len = usize::from(reader.u16("salt_len")?);
        let derive = Self {
            out_len,
            salt: Octets(reader.bytes("salt", salt_len)?),
            info: Octets(reader.rest()),
        };
        derive.check()?;
        Ok(derive)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        self.check()?;
        out.extend_from_slice(&self.out_len.to_le_bytes());
        out.extend_from_slice(&(self.salt.len() as u16).to_le_bytes());
        out.extend_from_slice(&self.salt);
        out.extend_from_slice(&self.info);
        Ok(())
    }

    fn check(&self) -> Result<(), ProtocolError> {
        in_range(
            "out_len",
            u64::from(self.out_len),
            1,
            DERIVED_LEN_MAX as u64,
        )?;
        at_most("salt", self.salt.len(), SALT_LEN_MAX)?;
        at_most("info", self.info.len(), MESSAGE_LEN_MAX)
    }
}

fn check_input(kind: InputKind, input: &[u8]) -> Result<(), ProtocolError> {
    match kind {
        InputKind::Message => at_most("message", input.len(), MESSAGE_LEN_MAX),
        // The exact length depends on the scheme, and the default scheme on the key.
        InputKind::Digest => {
            at_least("digest", input.len(), 1)?;
            at_most("digest", input.len(), DIGEST_LEN_MAX)
        }
    }
}

fn read_aad<'a>(reader: &mut Reader<'a>) -> Result<Octets<'a>, ProtocolError> {
    let len = reader.u32("aad_len")?;
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    at_most("aad", len, MESSAGE_LEN_MAX)?;
    reader.bytes("aad", len).map(Octets)
}

fn check_sealable(aad_len: usize, plaintext_len: usize) -> Result<(), ProtocolError> {
    at_most(
        "aad and plaintext together",
        aad_len.saturating_add(plaintext_len),
        MESSAGE_LEN_MAX,
    )
}
