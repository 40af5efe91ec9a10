//! `unlock` and `kms …`: what unlocks a KMS, and where it comes from.

use std::time::Duration;

use clap::{Args, Subcommand, value_parser};
use keyway_client::{KeyspaceName, KmsName};

use super::SecretOut;
use crate::text;

/// `unlock`
#[derive(Debug, Args)]
pub struct Unlock {
    /// The keyspace.
    pub keyspace: KeyspaceName,
    /// Wait until it is done or has failed; for 10 minutes if no time is given.
    #[arg(
        long,
        value_name = "TIME",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "10m",
        value_parser = text::duration
    )]
    pub wait: Option<Duration>,
    /// Keep trying on the server until the KMS answers.
    #[arg(long, alias = "watch")]
    pub retry: bool,
    #[command(flatten)]
    pub opener: UnlockSecretArgs,
    /// Send the PIN even as the last attempt that the token allows: a wrong one locks the token.
    #[arg(long)]
    pub force: bool,
    /// Start nothing; show the status of the unlock with this ticket.
    #[arg(long, value_name = "TICKET", conflicts_with_all = ["opener", "retry", "force"])]
    pub ticket: Option<u64>,
}

/// What unlocks a KMS: nothing, or one secret from the terminal or a file descriptor.
#[derive(Clone, Debug, Args)]
#[group(id = "opener", multiple = false)]
pub struct UnlockSecretArgs {
    /// Prompt for the passphrase on the terminal.
    #[arg(long)]
    passphrase: bool,
    /// Read the passphrase from this file descriptor, up to the first line feed.
    #[arg(long, value_name = "N")]
    passphrase_fd: Option<u32>,
    /// Prompt for the token's PIN on the terminal.
    #[arg(long)]
    pin: bool,
    /// Read the token's PIN from this file descriptor, up to the first line feed.
    #[arg(long, value_name = "N")]
    pin_fd: Option<u32>,
    /// Prompt for one share on the terminal.
    #[arg(long)]
    share: bool,
    /// Read one share from this file descriptor, up to the first line feed.
    #[arg(long, value_name = "N")]
    share_fd: Option<u32>,
}

/// `kms …`
#[derive(Debug, Subcommand)]
pub enum Kms {
    /// Generate a KMS's key, in shares or under a passphrase.
    Init(KmsInit),
    /// Unlock a KMS, or provide one share. Without a secret: a KMS that needs none, or has it in a file.
    Unlock(KmsUnlock),
    /// Wipe what a KMS holds in memory (its key, PIN or token), and lock every keyspace that it wraps.
    Lock {
        /// The KMS, as the server's configuration names it.
        kms: KmsName,
    },
    /// List the KMSes and their status.
    List,
}

/// `kms init`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("custody").required(true))]
pub struct KmsInit {
    /// The KMS, as the server's configuration names it.
    #[arg(default_value = "local")]
    pub kms: KmsName,
    /// Split the key into this many shares: 1 to 16.
    #[arg(
        long,
        value_name = "N",
        group = "custody",
        requires = "threshold",
        value_parser = value_parser!(u8).range(1..=16)
    )]
    pub shares: Option<u8>,
    /// How many of the shares unlock it: 1 to the number of shares.
    #[arg(
        long,
        value_name = "K",
        requires = "shares",
        value_parser = value_parser!(u8).range(1..=16)
    )]
    pub threshold: Option<u8>,
    /// Prompt for the new passphrase on the terminal.
    #[arg(long, group = "custody")]
    passphrase: bool,
    /// Read the new passphrase from this file descriptor, up to the first line feed.
    #[arg(long, value_name = "N", group = "custody")]
    passphrase_fd: Option<u32>,
    #[command(flatten)]
    pub out: SecretOut,
}

/// `kms unlock`
#[derive(Debug, Args)]
pub struct KmsUnlock {
    /// The KMS, as the server's configuration names it.
    #[arg(default_value = "local")]
    pub kms: KmsName,
    #[command(flatten)]
    pub opener: UnlockSecretArgs,
    /// Send the PIN even as the last attempt that the token allows: a wrong one locks the token.
    #[arg(long)]
    pub force: bool,
}

/// What a secret is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretKind {
    /// A passphrase.
    Passphrase,
    /// A token's PIN.
    Pin,
    /// One share of several.
    Share,
}

/// Where a secret comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The terminal, without an echo.
    Terminal,
    /// A file descriptor that the shell has opened.
    Fd(u32),
}

impl UnlockSecretArgs {
    /// The secret that was asked for, if there is one.
    pub fn secret(&self) -> Option<(SecretKind, Source)> {
        [
            (SecretKind::Passphrase, self.passphrase, self.passphrase_fd),
            (SecretKind::Pin, self.pin, self.pin_fd),
            (SecretKind::Share, self.share, self.share_fd),
        ]
        .into_iter()
        .find_map(|(kind, ask, fd)| match (ask, fd) {
            (_, Some(fd)) => Some((kind, Source::Fd(fd))),
            (true, None) => Some((kind, Source::Terminal)),
            (false, None) => None,
        })
    }
}

impl KmsInit {
    /// Where the passphrase comes from; of no meaning if there are shares.
    pub fn passphrase(&self) -> Source {
        self.passphrase_fd.map_or(Source::Terminal, Source::Fd)
    }
}

impl SecretKind {
    /// Its name, as options and messages write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Passphrase => "passphrase",
            Self::Pin => "PIN",
            Self::Share => "share",
        }
    }

    /// The option that reads it from a file descriptor.
    pub fn fd_option(self) -> &'static str {
        match self {
            Self::Passphrase => "--passphrase-fd",
            Self::Pin => "--pin-fd",
            Self::Share => "--share-fd",
        }
    }
}
