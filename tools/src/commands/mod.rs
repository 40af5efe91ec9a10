//! The commands, a file for each group.

mod crypto;
mod doctor;
mod figures;
mod hot;
mod key;
mod keyspace;
mod kms;
mod lock;
mod poll;
mod status;
mod top;

use keyway_client::KeyPath;

use crate::args::{Cli, Command};
use crate::connect::Server;
use crate::failure::{Exit, Failure};
use crate::import;
use crate::output::Output;
use crate::streams::Wiped;

/// The longest message that is signed, verified, authenticated or encrypted, in bytes.
const MESSAGE_LEN_MAX: usize = keyway_protocol::limits::MESSAGE_LEN_MAX;

/// What to do about a message that is too long to be signed or verified.
const SIGN_REMEDY: &str = "a message has at most 65536 bytes. With an ECDSA or RSA key, make a digest \
                           and give --digest (and --scheme ecdsa-sha256 if the key is on P-384): \
                           openssl dgst -sha256 -binary FILE > DIGEST; with an Ed25519 key, sign DIGEST as the message, without --digest, and have it \
                           verified likewise";

/// What to do about a message that is too long for a MAC.
const MAC_REMEDY: &str = "a message has at most 65536 bytes. Make a digest, authenticate it as the \
                          message, and have it verified likewise: openssl dgst -sha512 -binary FILE \
                          > DIGEST";

/// What to do about a plaintext that is too long.
const ENCRYPT_REMEDY: &str = "a plaintext has at most 65536 bytes, associated data included: encrypt \
                              it in parts";

/// Does what the command line asks for.
pub fn run(cli: Cli) -> Result<Exit, Failure> {
    let output = Output { json: cli.json };
    match &cli.command {
        Command::Keyspace(command) => keyspace::run(&cli, command, output)?,
        Command::Key(command) => key::run(&cli, command, output)?,
        Command::Public(command) => key::public(&cli, command, output)?,
        Command::Import(command) => return import::run(&cli, command, output),
        Command::Sign(command) => crypto::sign(&cli, command, output)?,
        Command::Verify(command) => return crypto::verify(&cli, command, output),
        Command::Mac(command) => crypto::mac(&cli, command, output)?,
        Command::Encrypt(command) => crypto::encrypt(&cli, command, output)?,
        Command::Decrypt(command) => crypto::decrypt(&cli, command, output)?,
        Command::Derive(command) => crypto::derive(&cli, command, output)?,
        Command::Get(command) => crypto::get(&cli, command, output)?,
        Command::Refresh { key } => key::refresh(&cli, key, output)?,
        Command::Lock { keyspace, .. } => lock::lock(&cli, keyspace.as_ref(), output)?,
        Command::Unlock(command) => lock::unlock(&cli, command, output)?,
        Command::Kms(command) => kms::run(&cli, command, output)?,
        Command::Hot(command) => hot::run(&cli, command, output)?,
        Command::Status => status::run(&cli, output)?,
        Command::Top(command) => top::run(&cli, command, output)?,
        Command::Doctor(command) => return doctor::run(&cli, command, output),
    }
    Ok(Exit::Done)
}

/// One call about a key, named `doing` in messages.
fn call<T>(
    cli: &Cli,
    doing: &str,
    key: &KeyPath,
    call: impl FnOnce(&keyway_client::blocking::Client) -> Result<T, keyway_client::Error>,
) -> Result<T, Failure> {
    let doing = format!("{doing} {key}");
    Server::reach(cli)?.call(&doing, Some(key.keyspace.as_str()), call)
}

/// Reads a message; `remedy` is what to do if it is too long.
fn message(place: &crate::streams::PathOrStdio, remedy: &str) -> Result<Wiped, Failure> {
    place.read(MESSAGE_LEN_MAX, remedy)
}
