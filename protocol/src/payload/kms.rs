//! Payloads of UNLOCK, KMS_UNLOCK and KMS_INIT, and of the answer to KMS_INIT.

use alloc::vec::Vec;
use core::fmt;

use crate::limits::{KMS_SHARES_MAX, PAYLOAD_LEN_MAX, UNLOCK_SECRET_LEN_MAX};
use crate::reader::{Reader, at_least, at_most, in_range, zero};
use crate::{Octets, ProtocolError, UnlockKind, check_kms_name};

/// UNLOCK. The answer is a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unlock<'a> {
    /// What the secret is.
    pub kind: UnlockKind,
    /// Whether the server keeps trying until the KMS answers.
    pub watch: bool,
    /// Whether a PIN may be sent as the last attempt that the token allows. Only with a PIN.
    pub force: bool,
    /// Empty if `kind` is `Nothing`, else 1 to `UNLOCK_SECRET_LEN_MAX` bytes.
    pub secret: Octets<'a>,
}

const FLAG_WATCH: u8 = 1;
const FLAG_FORCE: u8 = 2;

impl<'a> Unlock<'a> {
    pub(super) fn decode(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(payload);
        let kind = UnlockKind::try_from(reader.u8("unlock kind")?)?;
        let flags = read_flags(&mut reader, FLAG_WATCH | FLAG_FORCE)?;
        let unlock = Self {
            kind,
            watch: flags & FLAG_WATCH != 0,
            force: flags & FLAG_FORCE != 0,
            secret: Octets(reader.rest()),
        };
        unlock.check()?;
        Ok(unlock)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        self.check()?;
        out.push(self.kind.code());
        out.push(flag(self.watch, FLAG_WATCH) | flag(self.force, FLAG_FORCE));
        out.extend_from_slice(&self.secret);
        Ok(())
    }

    fn check(&self) -> Result<(), ProtocolError> {
        check_force(self.kind, self.force)?;
        check_secret(self.kind, self.secret)
    }
}

/// KMS_UNLOCK: unlocks a KMS that no keyspace uses yet, or provides a share. The answer is JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KmsUnlock<'a> {
    /// What the secret is.
    pub kind: UnlockKind,
    /// As in [`Unlock`].
    pub force: bool,
    /// The KMS.
    pub kms: &'a str,
    /// As in [`Unlock`].
    pub secret: Octets<'a>,
}

impl<'a> KmsUnlock<'a> {
    pub(super) fn decode(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(payload);
        let kind = UnlockKind::try_from(reader.u8("unlock kind")?)?;
        let flags = read_flags(&mut reader, FLAG_FORCE)?;
        let unlock = Self {
            kind,
            force: flags & FLAG_FORCE != 0,
            kms: read_kms_name(&mut reader)?,
            secret: Octets(reader.rest()),
        };
        unlock.check()?;
        Ok(unlock)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        check_kms_name(self.kms.as_bytes())?;
        self.check()?;
        out.push(self.kind.code());
        out.push(flag(self.force, FLAG_FORCE));
        append_kms_name(self.kms, out);
        out.extend_from_slice(&self.secret);
        Ok(())
    }

    fn check(&self) -> Result<(), ProtocolError> {
        check_force(self.kind, self.force)?;
        check_secret(self.kind, self.secret)
    }
}

/// KMS_INIT: has a KMS make its key, where there is none yet. The answer is [`KmsShares`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KmsInit<'a> {
    /// The KMS.
    pub kms: &'a str,
    /// How its secret is kept.
    pub custody: Custody<'a>,
}

/// How the secret of a new KMS key is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Custody<'a> {
    /// Under a passphrase of 1 to `UNLOCK_SECRET_LEN_MAX` bytes.
    Passphrase(Octets<'a>),
    /// In `count` shares, of which any `threshold` open it:
    /// `1 <= threshold <= count <= KMS_SHARES_MAX`.
    Shares {
        /// Shares to make.
        count: u8,
        /// Shares that open it.
        threshold: u8,
    },
}

impl<'a> KmsInit<'a> {
    pub(super) fn decode(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(payload);
        let count = reader.u8("shares")?;
        let threshold = reader.u8("threshold")?;
        let kms = read_kms_name(&mut reader)?;
        let custody = match count {
            0 => {
                zero("threshold", u64::from(threshold))?;
                Custody::Passphrase(Octets(reader.rest()))
            }
            _ => {
                reader.finish("KMS_INIT")?;
                Custody::Shares { count, threshold }
            }
        };
        custody.check()?;
        Ok(Self { kms, custody })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        check_kms_name(self.kms.as_bytes())?;
        self.custody.check()?;
        match self.custody {
            Custody::Passphrase(passphrase) => {
                out.extend_from_slice(&[0, 0]);
                append_kms_name(self.kms, out);
                out.extend_from_slice(&passphrase);
            }
            Custody::Shares { count, threshold } => {
                out.extend_from_slice(&[count, threshold]);
                append_kms_name(self.kms, out);
            }
        }
        Ok(())
    }
}

impl Custody<'_> {
    fn check(&self) -> Result<(), ProtocolError> {
        match *self {
            Self::Passphrase(passphrase) => check_len("passphrase", passphrase),
            Self::Shares { count, threshold } => {
                in_range("shares", u64::from(count), 1, u64::from(KMS_SHARES_MAX))?;
                in_range("threshold", u64::from(threshold), 1, u64::from(count))
            }
        }
    }
}

/// The answer to KMS_INIT: the shares, none if the key is under a passphrase. It is the only time
/// that they are shown. `Debug` prints nothing of them.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct KmsShares<'a> {
    left: u8,
    bytes: &'a [u8],
}

impl<'a> KmsShares<'a> {
    /// The longest answer, in bytes: a buffer with that much room is not moved while it is filled.
    pub const LEN_MAX: usize = 1 + KMS_SHARES_MAX as usize * (2 + UNLOCK_SECRET_LEN_MAX);

    /// Reads the answer and checks every share.
    pub fn decode(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(payload);
        let count = reader.u8("shares")?;
        in_range("shares", u64::from(count), 0, u64::from(KMS_SHARES_MAX))?;
        let bytes = reader.rest();
        let mut reader = Reader::new(bytes);
        for _ in 0..count {
            read_share(&mut reader)?;
        }
        reader.finish("the answer to KMS_INIT")?;
        Ok(Self { left: count, bytes })
    }

    /// Appends an answer; on an error nothing is appended. Each share is 1 to
    /// `UNLOCK_SECRET_LEN_MAX` bytes of printable ASCII.
    pub fn encode<'s>(
        shares: impl ExactSizeIterator<Item = &'s str>,
        out: &mut Vec<u8>,
    ) -> Result<(), ProtocolError> {
        let count = shares.len();
        in_range("shares", count as u64, 0, u64::from(KMS_SHARES_MAX))?;
        let start = out.len();
        out.push(count as u8);
        let appended = shares.into_iter().try_for_each(|share| {
            check_share(share.as_bytes())?;
            out.extend_from_slice(&(share.len() as u16).to_le_bytes());
            out.extend_from_slice(share.as_bytes());
            Ok(())
        });
        if appended.is_err() {
            out.truncate(start);
        }
        appended
    }
}

impl<'a> Iterator for KmsShares<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        self.left = self.left.checked_sub(1)?;
        let mut reader = Reader::new(self.bytes);
        let share = read_share(&mut reader).expect("the answer was checked when it was decoded");
        self.bytes = reader.rest();
        Some(share)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for KmsShares<'_> {}

impl fmt::Debug for KmsShares<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{} shares>", self.left)
    }
}

fn read_share<'a>(reader: &mut Reader<'a>) -> Result<&'a str, ProtocolError> {
    let len = usize::from(reader.u16("share_len")?);
    check_share(reader.bytes("share", len)?)
}

/// Printable ASCII, so that it can be shown on any terminal and written down.
fn check_share(share: &[u8]) -> Result<&str, ProtocolError> {
    check_len("share", Octets(share))?;
    match share.iter().position(|byte| !matches!(byte, b' '..=b'~')) {
        // The byte itself is part of a secret.
        Some(_) => Err(ProtocolError::Rule {
            field: "share",
            rule: "a share is printable ASCII",
        }),
        None => Ok(core::str::from_utf8(share).expect("only ASCII is allowed")),
    }
}

fn read_flags(reader: &mut Reader<'_>, known: u8) -> Result<u8, ProtocolError> {
    let flags = reader.u8("unlock flags")?;
    match flags & !known {
        0 => Ok(flags),
        unknown => Err(ProtocolError::UnknownFlags {
            field: "unlock flags",
            bits: u64::from(unknown),
        }),
    }
}

const fn flag(is_set: bool, flag: u8) -> u8 {
    if is_set { flag } else { 0 }
}

fn check_force(kind: UnlockKind, force: bool) -> Result<(), ProtocolError> {
    if force && kind != UnlockKind::Pin {
        return Err(ProtocolError::Rule {
            field: "unlock flags",
            rule: "force goes with a PIN",
        });
    }
    Ok(())
}

fn check_secret(kind: UnlockKind, secret: Octets<'_>) -> Result<(), ProtocolError> {
    match kind {
        UnlockKind::Nothing => at_most("secret", secret.len(), 0),
        UnlockKind::Passphrase | UnlockKind::Pin | UnlockKind::Share => check_len("secret", secret),
    }
}

fn check_len(field: &'static str, secret: Octets<'_>) -> Result<(), ProtocolError> {
    at_least(field, secret.len(), 1)?;
    at_most(field, secret.len(), UNLOCK_SECRET_LEN_MAX)
}

fn read_kms_name<'a>(reader: &mut Reader<'a>) -> Result<&'a str, ProtocolError> {
    let len = usize::from(reader.u8("name_len")?);
    check_kms_name(reader.bytes("kms name", len)?)
}

/// The name has been checked.
fn append_kms_name(name: &str, out: &mut Vec<u8>) {
    out.push(name.len() as u8);
    out.extend_from_slice(name.as_bytes());
}

const _: () = assert!(KmsShares::LEN_MAX <= PAYLOAD_LEN_MAX, "all shares fit");

#[cfg(test)]
mod tests {
    use alloc::format;
    use alloc::string::String;
    use alloc::vec;

    use super::*;

    #[test]
    fn a_kind_and_its_secret_must_agree() {
        let long = [b'x'; UNLOCK_SECRET_LEN_MAX + 1];
        for (kind, secret, fits) in [
            (UnlockKind::Nothing, &b""[..], true),
            (UnlockKind::Nothing, b"x", false),
            (UnlockKind::Passphrase, b"", false),
            (UnlockKind::Pin, b"1234", true),
            (UnlockKind::Share, &long[1..], true),
            (UnlockKind::Share, &long, false),
        ] {
            let (secret, mut out) = (Octets(secret), Vec::new());
            let unlock = Unlock {
                kind,
                watch: true,
                force: false,
                secret,
            };
            assert_eq!(unlock.encode(&mut out).is_ok(), fits, "{unlock:?}");
            let unlock = KmsUnlock {
                kind,
                force: false,
                kms: "local",
                secret,
            };
            assert_eq!(unlock.encode(&mut out).is_ok(), fits, "{unlock:?}");
        }
    }

    #[test]
    fn only_a_pin_can_be_forced() {
        for (kind, fits) in [
            (UnlockKind::Nothing, false),
            (UnlockKind::Passphrase, false),
            (UnlockKind::Pin, true),
            (UnlockKind::Share, false),
        ] {
            let secret: &[u8] = if kind == UnlockKind::Nothing {
                b""
            } else {
                b"1234"
            };
            let (kind_code, flags) = (kind.code(), [FLAG_FORCE]);
            let unlock = [&[kind_code], &flags[..], secret].concat();
            assert_eq!(Unlock::decode(&unlock).is_ok(), fits, "{kind:?}");
            let kms_unlock = [&[kind_code], &flags[..], &[1, b'k'], secret].concat();
            assert_eq!(KmsUnlock::decode(&kms_unlock).is_ok(), fits, "{kind:?}");
        }
        // Only UNLOCK can be watched.
        let watched = [UnlockKind::Pin.code(), FLAG_WATCH, 1, b'k', b'1'];
        assert!(KmsUnlock::decode(&watched).is_err());
    }

    #[test]
    fn shares_are_between_their_bounds() {
        for (count, threshold, fits) in [
            (1, 1, true),
            (16, 16, true),
            (3, 0, false),
            (3, 4, false),
            (17, 3, false),
            (0, 0, false),
        ] {
            let custody = Custody::Shares { count, threshold };
            assert_eq!(custody.check().is_ok(), fits, "{custody:?}");
        }
    }

    #[test]
    fn shares_come_back_in_order_and_print_nothing() {
        let mut out = Vec::new();
        let shares = ["duckling enlarge", "academic acid"];
        KmsShares::encode(shares.into_iter(), &mut out).unwrap();
        let decoded = KmsShares::decode(&out).unwrap();
        assert_eq!(format!("{decoded:?}"), "<2 shares>");
        assert!(decoded.eq(shares));
    }

    #[test]
    fn a_share_that_cannot_be_written_leaves_nothing_behind() {
        let long = String::from_utf8(vec![b'x'; UNLOCK_SECRET_LEN_MAX + 1]).unwrap();
        for bad in ["", "line\nfeed", "d\u{fc}ckling", &long] {
            let mut out = vec![7];
            assert!(KmsShares::encode(["right", bad].into_iter(), &mut out).is_err());
            assert_eq!(out, [7]);
        }
        let mut out = Vec::new();
        assert!(KmsShares::encode(["x"; 17].into_iter(), &mut out).is_err());
    }

    #[test]
    fn the_longest_answer_has_its_room() {
        let long = String::from_utf8(vec![b'x'; UNLOCK_SECRET_LEN_MAX]).unwrap();
        let mut out = Vec::new();
        KmsShares::encode([long.as_str(); 16].into_iter(), &mut out).unwrap();
        assert_eq!(out.len(), KmsShares::LEN_MAX);
    }
}
