//! The command line: what can be asked for.

mod doctor;
mod hot;
mod key;
mod keyspace;
mod kms;
mod top;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use keyway_client::{Address, Algorithm, KeyFormat, KeyPath, KeyspaceName, Scheme};

use crate::secret_text::Encoding;
use crate::streams::{Bytes, PathOrStdio};
use crate::text;

pub use doctor::Doctor;
pub use hot::Hot;
pub use key::{Key, NewKey};
pub use keyspace::Keyspace;
pub use kms::{Kms, KmsInit, KmsUnlock, SecretKind, Source, Unlock, UnlockSecretArgs};
pub use top::Top;

/// The command line of Keyway, a key cache.
///
/// Keys are named KEYSPACE/KEY, as in prod/alice. FILE may be `-`, standard input or output.
/// Exit codes: 0 done, 1 refused or not verified, 2 usage or local file, 3 server not reached,
/// 4 try again later.
#[derive(Debug, Parser)]
#[command(name = "keyway", version)]
pub struct Cli {
    /// The server: HOST:PORT or unix:/PATH.
    #[arg(
        long,
        global = true,
        env = "KEYWAY_ADDR",
        default_value = "127.0.0.1:7420"
    )]
    pub addr: Address,
    /// Write one JSON document instead of text (binary values in base64).
    #[arg(long, global = true)]
    pub json: bool,
    /// How long to wait for each answer: 500ms, 10s, 2m.
    #[arg(
        long,
        global = true,
        env = "KEYWAY_TIMEOUT",
        default_value = "10s",
        value_parser = text::duration
    )]
    pub timeout: Duration,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create, change and list keyspaces.
    #[command(subcommand)]
    Keyspace(Keyspace),
    /// Generate, import, rotate, revoke and list keys.
    #[command(subcommand)]
    Key(Key),
    /// Write a key's public half (the same as `key public`).
    Public(Public),
    /// Import many keys, from a directory or a file of JSON lines.
    Import(BulkImport),
    /// Sign a message of at most 64 KiB, or a digest.
    Sign(Sign),
    /// Verify a signature or a MAC.
    Verify(Verify),
    /// Compute a MAC.
    Mac(Mac),
    /// Encrypt. The output contains the key's version and the nonce.
    Encrypt(Crypt),
    /// Decrypt the output of `encrypt`.
    Decrypt(Crypt),
    /// Derive bytes from a key (HKDF).
    Derive(Derive),
    /// Write the secret of an exportable key: raw, or PKCS#8 DER.
    Get(Get),
    /// Reload a key immediately (ForceRefresh).
    Refresh {
        /// The key.
        #[arg(value_name = "KEYSPACE/KEY")]
        key: KeyPath,
    },
    /// Lock a keyspace: wipe its keys from memory and refuse requests until it is unlocked.
    #[command(group = clap::ArgGroup::new("what").required(true))]
    Lock {
        /// The keyspace.
        #[arg(group = "what")]
        keyspace: Option<KeyspaceName>,
        /// Every keyspace and every KMS. The key, PIN or token of each KMS is wiped.
        #[arg(long, group = "what")]
        all: bool,
    },
    /// Unlock a keyspace. Returns immediately unless --wait is given.
    Unlock(Unlock),
    /// Initialise, unlock, lock and list KMSes.
    #[command(subcommand)]
    Kms(Kms),
    /// Show a keyspace's hot keys of the last one to two minutes.
    Hot(Hot),
    /// Show the status of the server.
    Status,
    /// Watch the server for a few seconds and report what is wrong and what to do.
    Doctor(Doctor),
    /// Show keyspaces, shards and hot keys on the terminal, updated every second. Press q to quit.
    Top(Top),
}

/// `public`
#[derive(Debug, Args)]
pub struct Public {
    /// The key.
    #[arg(value_name = "KEYSPACE/KEY")]
    pub key: KeyPath,
    /// The version; the latest if not given.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub version: u32,
    /// Write SubjectPublicKeyInfo as DER, not PEM.
    #[arg(long)]
    pub der: bool,
    /// The output.
    #[arg(long, default_value = "-", value_name = "FILE")]
    pub out: PathOrStdio,
}

/// `import`
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("source").required(true))]
pub struct BulkImport {
    /// The keyspace.
    pub keyspace: KeyspaceName,
    /// Import each file of this directory; its name without the extension is the key id.
    #[arg(long, group = "source")]
    pub dir: Option<PathBuf>,
    /// Import each line: {"id":…,"key":base64 or PEM,"alg":…,"format":…,"exportable":…}.
    #[arg(long, value_name = "FILE", group = "source")]
    pub ndjson: Option<PathOrStdio>,
    /// The algorithm of keys that do not specify one.
    #[arg(long, value_name = "ALGORITHM")]
    pub alg: Option<Algorithm>,
    /// The format of keys that do not specify one: detect, pem, pkcs8-der, jwk or raw.
    #[arg(long, default_value = "detect")]
    pub format: KeyFormat,
    /// The encoding of raw secrets that do not specify one; for lines, within their base64.
    #[arg(long, value_enum)]
    pub encoding: Option<Encoding>,
    #[command(flatten)]
    pub options: NewKey,
    /// Skip ids that the server has already, to resume an import. Its keys are not compared with the files.
    #[arg(long)]
    pub skip_existing: bool,
    /// Append each key id to this file as soon as the server has acknowledged the key.
    #[arg(long, value_name = "FILE")]
    pub acked: Option<PathBuf>,
    /// How many keys are in flight at the same time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub window: u16,
}

/// `sign`
#[derive(Debug, Args)]
pub struct Sign {
    /// The key.
    #[arg(value_name = "KEYSPACE/KEY")]
    pub key: KeyPath,
    #[command(flatten)]
    pub io: InOut,
    #[command(flatten)]
    pub how: SignatureArgs,
}

/// The form of a signature.
#[derive(Debug, Args)]
pub struct SignatureArgs {
    /// The scheme: rsa-pss-sha256, rsa-pkcs1-sha256, ecdsa-sha256, …; the key's default if not
    /// given.
    #[arg(long, default_value = "default", hide_default_value = true)]
    pub scheme: Scheme,
    /// The format of an ECDSA signature: der, as in OpenSSL and X.509, or jws (r and s
    /// concatenated), as in JSON Web Signatures.
    #[arg(long, value_enum, default_value_t = SignatureFormat::Der, hide_default_value = true)]
    pub format: SignatureFormat,
    /// The input is a digest, computed with the scheme's hash; not for Ed25519.
    #[arg(long)]
    pub digest: bool,
}

/// The format of an ECDSA signature. Other signatures are the same bytes in both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SignatureFormat {
    /// ASN.1 DER.
    Der,
    /// `r || s`.
    Jws,
}

/// Where input comes from and output goes to.
#[derive(Debug, Args)]
pub struct InOut {
    /// The input.
    #[arg(long = "in", default_value = "-", value_name = "FILE")]
    pub input: PathOrStdio,
    /// The output.
    #[arg(long, default_value = "-", value_name = "FILE")]
    pub out: PathOrStdio,
}

/// `verify`
#[derive(Debug, Args)]
pub struct Verify {
    /// The key.
    #[arg(value_name = "KEYSPACE/KEY")]
    pub key: KeyPath,
    /// The message or digest.
    #[arg(long = "in", default_value = "-", value_name = "FILE")]
    pub input: PathOrStdio,
    /// The signature or tag.
    #[arg(long, value_name = "FILE")]
    pub sig: PathOrStdio,
    /// The version to verify with; any live one if not given.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub version: u32,
    #[command(flatten)]
    pub how: SignatureArgs,
}

/// `mac`
#[derive(Debug, Args)]
pub struct Mac {
    /// The key.
    #[arg(value_name = "KEYSPACE/KEY")]
    pub key: KeyPath,
    #[command(flatten)]
    pub io: InOut,
}

/// `encrypt`, `decrypt`
#[derive(Debug, Args)]
pub struct Crypt {
    /// The key.
    #[arg(value_name = "KEYSPACE/KEY")]
    pub key: KeyPath,
    #[command(flatten)]
    pub io: InOut,
    /// Associated data: text, hex:… or @FILE.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub aad: Bytes,
}

/// `derive`
#[derive(Debug, Args)]
pub struct Derive {
    /// The key.
    #[arg(value_name = "KEYSPACE/KEY")]
    pub key: KeyPath,
    /// How many bytes: 1 to 4096.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub len: u16,
    /// The salt: text, hex:… or @FILE.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub salt: Bytes,
    /// What the bytes are for: text, hex:… or @FILE.
    #[arg(long, default_value = "", hide_default_value = true)]
    pub info: Bytes,
    #[command(flatten)]
    pub out: SecretOut,
}

/// Where a secret goes to.
#[derive(Debug, Args)]
pub struct SecretOut {
    /// The output; a file is created readable by its owner only.
    #[arg(long, default_value = "-", value_name = "FILE")]
    pub out: PathOrStdio,
    /// Write it even to a terminal.
    #[arg(long)]
    pub force: bool,
}

/// `get`
#[derive(Debug, Args)]
pub struct Get {
    /// The key.
    #[arg(value_name = "KEYSPACE/KEY")]
    pub key: KeyPath,
    /// The version; the latest if not given.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub version: u32,
    #[command(flatten)]
    pub out: SecretOut,
}

/// One `NAME=VALUE`, as it goes to the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Up to the first `=`.
    pub name: String,
    /// After it.
    pub value: String,
}

fn setting(text: &str) -> Result<Setting, String> {
    let wrong = |rule| format!("{rule}; write NAME=VALUE, as in max_in_flight=0");
    let (name, value) = text.split_once('=').ok_or_else(|| wrong("it has no `=`"))?;
    let (name, value) = (name.trim(), value.trim());
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(wrong("the name must be printable ASCII without spaces"));
    }
    if !value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(wrong("the value must be printable ASCII"));
    }
    Ok(Setting {
        name: name.to_owned(),
        value: value.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_are_understood() {
        for line in [
            "keyway keyspace create prod soft_ttl_ms=60000",
            "keyway keyspace create prod --kms vault-eu soft_ttl_ms=60000",
            "keyway keyspace rotate prod",
            "keyway keyspace rotate prod --wait=1h",
            "keyway keyspace rewrap prod --kms vault-eu",
            "keyway keyspace destroy-deks prod",
            "keyway keyspace destroy-deks prod --yes",
            "keyway keyspace set prod max_in_flight=0 allow:uid:1000=sign,verify",
            "keyway keyspace list --json",
            "keyway keyspace list prod",
            "keyway key generate prod/alice --alg ed25519 --exportable --usage sign,verify \
             --not-after 2027-01-31T12:00:00Z",
            "keyway key import prod/bob --file key.pem",
            "keyway key import prod/mac --file - --alg hmac-sha256 --format raw",
            "keyway key list prod",
            "keyway key rotate prod/alice --file new.pem --format pem",
            "keyway key revoke prod/alice",
            "keyway key revoke prod/alice --version 3",
            "keyway key trim prod/alice --below 5",
            "keyway key delete prod/alice",
            "keyway key public prod/alice --version 2 --der --out alice.der",
            "keyway public prod/alice",
            "keyway sign prod/alice --in msg --out sig --scheme rsa-pss-sha256 --digest",
            "keyway verify prod/alice --in msg --sig sig --version 1",
            "keyway verify prod/alice --in msg --sig sig --format jws",
            "keyway sign prod/alice --scheme ecdsa-sha512 --format jws",
            "keyway mac prod/m --in msg",
            "keyway encrypt prod/e --aad hex:00ff --in plain --out sealed",
            "keyway decrypt prod/e --aad @file",
            "keyway derive prod/d --len 32 --salt s --info i --out -",
            "keyway get prod/alice --out alice.der --force",
            "keyway refresh prod/tenants/7/alice",
            "keyway lock prod",
            "keyway lock --all",
            "keyway unlock prod --wait --passphrase",
            "keyway unlock prod --wait=30s --passphrase-fd 3",
            "keyway unlock prod --pin --wait",
            "keyway unlock prod --pin-fd 3",
            "keyway unlock prod --share",
            "keyway unlock prod --share-fd 3 --wait",
            "keyway unlock prod --retry",
            "keyway unlock prod --watch",
            "keyway doctor prod --watch-for 2s",
            "keyway unlock prod --ticket 7",
            "keyway kms list",
            "keyway kms init --shares 5 --threshold 3",
            "keyway kms init local --shares 5 --threshold 3 --out shares.txt",
            "keyway kms init local --passphrase",
            "keyway kms init local --passphrase-fd 3",
            "keyway kms unlock --share",
            "keyway kms unlock hsm --pin-fd 3",
            "keyway kms unlock bao",
            "keyway kms lock local",
            "keyway hot prod",
            "keyway hot prod --by rehydrate-time --limit 128 --json",
            "keyway status --addr unix:/run/keyway.sock --timeout 500ms",
            "keyway import prod --dir keys --skip-existing --acked done --window 8",
            "keyway import prod --ndjson - --alg ed25519",
        ] {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn every_command_that_the_manual_shows_is_understood() {
        let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/CLI.md");
        let manual = std::fs::read_to_string(manual).unwrap();
        let shown = manual.lines().filter_map(|line| line.strip_prefix("    "));
        let parts = shown.flat_map(|line| line.trim_start_matches("$ ").split(" | "));
        let mut count = 0;
        for command in parts.filter(|part| part.starts_with("keyway ")) {
            // The shell takes the redirections.
            let words = command.split(' ').filter(|word| !word.contains('<'));
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{command}: {error}");
            }
            count += 1;
        }
        assert!(count > 50, "only {count} commands were found");
    }

    #[test]
    fn what_contradicts_itself_or_is_no_name_is_a_usage_error() {
        for line in [
            "keyway",
            "keyway sign alice",
            "keyway lock Prod",
            "keyway lock",
            "keyway lock prod --all",
            "keyway kms lock",
            "keyway keyspace destroy-deks",
            "keyway key generate prod/alice",
            "keyway key generate prod/alice --alg ed25518",
            "keyway key rotate prod/alice --format pem",
            "keyway keyspace set prod",
            "keyway keyspace set prod max_in_flight",
            "keyway import prod",
            "keyway import prod --dir a --ndjson b",
            "keyway import prod --dir a --window 0",
            "keyway derive prod/d --len 5000",
            "keyway unlock prod --passphrase --passphrase-fd 3",
            "keyway unlock prod --share --pin",
            "keyway unlock prod --ticket 7 --share-fd 3",
            "keyway unlock prod --ticket 7 --retry",
            "keyway keyspace create prod --kms Vault",
            "keyway keyspace rewrap prod",
            "keyway kms init",
            "keyway kms init --shares 5",
            "keyway kms init --threshold 3",
            "keyway kms init --shares 17 --threshold 3",
            "keyway kms init --shares 5 --threshold 0",
            "keyway kms init --shares 5 --threshold 3 --passphrase",
            "keyway hot",
            "keyway hot prod --by name",
            "keyway hot prod --limit 0",
            "keyway hot prod --limit 129",
            "keyway doctor prod --duration 1s",
            "keyway top --interval 0s",
            "keyway status --addr nowhere",
            "keyway status --timeout 0s",
            "keyway verify prod/alice --in msg",
            "keyway encrypt prod/e --aad hex:0",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn a_setting_is_split_at_its_first_equals_sign_and_goes_on_as_it_is() {
        let setting = setting("allow:uid:1000=sign,verify=x").unwrap();
        assert_eq!(setting.name, "allow:uid:1000");
        assert_eq!(setting.value, "sign,verify=x");
        assert!(super::setting("maxInFlight=0").is_ok());
        assert!(super::setting("a b=1").is_err());
        assert!(super::setting("a=1\nb=2").is_err());
    }
}
