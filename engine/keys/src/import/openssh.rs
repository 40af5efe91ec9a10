//! OpenSSH's own format of private keys (`PROTOCOL.key` in its sources), without a passphrase.

use super::rsa::RsaParts;
use super::{Importer, Material, damaged, encrypted};
use crate::der::without_zeros;
use crate::error::KeyError;
use crate::material::{P256, P384};

const MAGIC: &[u8] = b"openssh-key-v1\0";

/// The file is cut short, or not of the form.
struct Malformed;

impl Importer<'_> {
    /// A key from what the PEM block holds.
    pub(super) fn openssh(&self, document: &[u8]) -> Result<Material, KeyError> {
        let damaged = |Malformed| damaged("OpenSSH");
        let mut outer = Fields(document);
        outer.expect(MAGIC).map_err(damaged)?;
        let cipher = outer.string().map_err(damaged)?;
        if cipher != b"none" {
            return Err(encrypted());
        }
        let mut private = Fields(outer.private_part().map_err(damaged)?);
        let kind = private.kind().map_err(damaged)?;
        match kind {
            b"ssh-ed25519" => {
                let (public, pair) = private.two().map_err(damaged)?;
                // The seed, and the public key once more.
                match pair.split_at_checked(32) {
                    Some((seed, again)) if again == public => self.ed25519(seed, Some(public)),
                    _ => Err(super::damaged("OpenSSH")),
                }
            }
            b"ecdsa-sha2-nistp256" | b"ecdsa-sha2-nistp384" => {
                let curve = if kind.ends_with(b"256") { P256 } else { P384 };
                let (_, point) = private.two().map_err(damaged)?;
                let scalar = private.string().map_err(damaged)?;
                self.ecdsa(curve, scalar, Some(point))
            }
            b"ssh-rsa" => self.rsa(private.rsa().map_err(damaged)?),
            b"ecdsa-sha2-nistp521" => Err(super::ec::other_curve("P-521")),
            other => Err(super::document::unsupported(name(other))),
        }
    }
}

/// The names that a message may have.
fn name(kind: &[u8]) -> &'static str {
    match kind {
        b"ssh-dss" => "DSA",
        kind if kind.starts_with(b"sk-") => "a security key, which stays in its device",
        _ => "an unknown OpenSSH type",
    }
}

/// Strings with their lengths before them, as RFC 4251 writes them.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn expect(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        self.0 = self.0.strip_prefix(bytes).ok_or(Malformed)?;
        Ok(())
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        let (number, rest) = self.0.split_first_chunk().ok_or(Malformed)?;
        self.0 = rest;
        Ok(u32::from_be_bytes(*number))
    }

    fn string(&mut self) -> Result<&'a [u8], Malformed> {
        let len = usize::try_from(self.u32()?).map_err(|_| Malformed)?;
        let (string, rest) = self.0.split_at_checked(len).ok_or(Malformed)?;
        self.0 = rest;
        Ok(string)
    }

    fn two(&mut self) -> Result<(&'a [u8], &'a [u8]), Malformed> {
        Ok((self.string()?, self.string()?))
    }

    /// A number's digits, without leading zeros.
    fn number(&mut self) -> Result<&'a [u8], Malformed> {
        self.string().map(without_zeros)
    }

    /// The one private key of a file that is not encrypted, behind its cipher's name.
    fn private_part(&mut self) -> Result<&'a [u8], Malformed> {
        let (_kdf, _options) = self.two()?;
        if self.u32()? != 1 {
            return Err(Malformed);
        }
        let _public = self.string()?;
        self.string()
    }

    /// The type of key, behind the two numbers that show a right passphrase.
    fn kind(&mut self) -> Result<&'a [u8], Malformed> {
        if self.u32()? != self.u32()? {
            return Err(Malformed);
        }
        self.string()
    }

    fn rsa(&mut self) -> Result<RsaParts<'a>, Malformed> {
        let (n, e, d) = (self.number()?, self.number()?, self.number()?);
        // It has qInv, but neither dP nor dQ: all three are computed.
        let _qinv = self.number()?;
        let (p, q) = (self.number()?, self.number()?);
        let crt = None;
        Ok(RsaParts { n, e, d, p, q, crt })
    }
}
