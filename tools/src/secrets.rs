//! Input of passphrases, PINs and shares: from the terminal or a file descriptor, never
//! from the command line or the environment.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use keyway_client::UnlockWith;
use keyway_protocol::limits::UNLOCK_SECRET_LEN_MAX;
use zeroize::Zeroizing;

use crate::args::{SecretKind, Source, UnlockSecretArgs};
use crate::failure::Failure;
use crate::streams::Wiped;

/// What an operator gives to unlock a KMS: one secret, or nothing.
pub struct Given {
    secret: Option<(SecretKind, Wiped)>,
    /// Whether a PIN may be the last attempt that the token allows.
    force: bool,
}

impl Given {
    /// Reads what the options ask for; `to` is what it opens, for the prompt. `force` goes with a PIN only.
    pub fn read(opener: &UnlockSecretArgs, force: bool, to: &str) -> Result<Self, Failure> {
        let source = opener.secret();
        if force && source.is_none_or(|(kind, _)| kind != SecretKind::Pin) {
            return Err(Failure::usage(
                "--force is for a token's PIN",
                "leave it out, or add --pin or --pin-fd",
            ));
        }
        let Some((kind, source)) = source else {
            return Ok(Self {
                secret: None,
                force,
            });
        };
        let prompt = match kind {
            SecretKind::Passphrase => format!("Passphrase for {to}: "),
            SecretKind::Pin => format!("PIN for {to}: "),
            SecretKind::Share => format!("Your share for {to}: "),
        };
        Ok(Self {
            secret: Some((kind, read(kind, source, &prompt)?)),
            force,
        })
    }

    /// Whether it is one share of several.
    pub fn is_share(&self) -> bool {
        matches!(self.secret, Some((SecretKind::Share, _)))
    }

    /// As the client takes it.
    pub fn with(&self) -> UnlockWith<'_> {
        match &self.secret {
            None => UnlockWith::Nothing,
            Some((SecretKind::Passphrase, secret)) => UnlockWith::Passphrase(secret),
            Some((SecretKind::Pin, secret)) if self.force => UnlockWith::ForcedPin(secret),
            Some((SecretKind::Pin, secret)) => UnlockWith::Pin(secret),
            Some((SecretKind::Share, secret)) => UnlockWith::Share(secret),
        }
    }
}

/// Reads a passphrase that is new; on the terminal it is asked for twice.
pub fn new_passphrase(source: Source, of: &str) -> Result<Wiped, Failure> {
    let kind = SecretKind::Passphrase;
    let passphrase = read(kind, source, &format!("New passphrase for {of}: "))?;
    if source == Source::Terminal {
        let again = read(kind, source, "The same again: ")?;
        if *passphrase != *again {
            return Err(Failure::usage(
                "the two passphrases are not the same",
                "nothing was done; type it again",
            ));
        }
    }
    Ok(passphrase)
}

fn read(kind: SecretKind, source: Source, prompt: &str) -> Result<Wiped, Failure> {
    let secret = match source {
        Source::Fd(fd) => read_fd(kind, fd)?,
        Source::Terminal => {
            let typed = rpassword::prompt_password(prompt).map_err(|error| {
                Failure::usage(
                    format!(
                        "cannot ask for the {} on the terminal: {error}",
                        kind.name()
                    ),
                    format!(
                        "give it on a file descriptor, as in {} 3 3<FILE",
                        kind.fd_option()
                    ),
                )
            })?;
            Zeroizing::new(typed.into_bytes())
        }
    };
    checked(kind, secret)
}

fn read_fd(kind: SecretKind, fd: u32) -> Result<Wiped, Failure> {
    let path = PathBuf::from(format!("/dev/fd/{fd}"));
    let failure = |error: io::Error| {
        Failure::usage(
            format!(
                "cannot read the {} from file descriptor {fd}: {error}",
                kind.name()
            ),
            format!("open it for keyway, as in {} 3 3<FILE", kind.fd_option()),
        )
    };
    let file = File::open(path).map_err(failure)?;
    // All of its room at the start: a vector that grows leaves the old bytes behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(UNLOCK_SECRET_LEN_MAX + 2));
    file.take(UNLOCK_SECRET_LEN_MAX as u64 + 2)
        .read_to_end(&mut bytes)
        .map_err(failure)?;
    if let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
        bytes.truncate(end);
    }
    Ok(bytes)
}

fn checked(kind: SecretKind, secret: Wiped) -> Result<Wiped, Failure> {
    let name = kind.name();
    match secret.len() {
        0 => Err(Failure::usage(
            format!("the {name} is empty"),
            "if the KMS needs none, leave the options for it out",
        )),
        len if len > UNLOCK_SECRET_LEN_MAX => Err(Failure::usage(
            format!("the {name} has more than {UNLOCK_SECRET_LEN_MAX} bytes"),
            "is it the right file?",
        )),
        _ => Ok(secret),
    }
}
