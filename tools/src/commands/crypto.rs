//! `sign`, `verify`, `mac`, `encrypt`, `decrypt`, `derive` and `get`.

use keyway_client::{Error, Input, Scheme, Status};
use keyway_protocol::limits::{PAYLOAD_LEN_MAX, SALT_LEN_MAX, SIGNATURE_LEN_MAX};
use serde_json::json;

use super::{ENCRYPT_REMEDY, MAC_REMEDY, MESSAGE_LEN_MAX, SIGN_REMEDY, call, message};
use crate::args::{
    Cli, Crypt, Derive, Get, Mac, SecretOut, Sign, SignatureArgs, SignatureFormat, Verify,
};
use crate::connect::Server;
use crate::failure::{Exit, Failure};
use crate::output::{self, Output};
use crate::printable::Lines;
use crate::streams::{Content, PathOrStdio, Wiped};

pub fn sign(cli: &Cli, command: &Sign, output: Output) -> Result<(), Failure> {
    let Sign { key, io, how } = command;
    let message = how.read(&io.input)?;
    let answer = call(cli, "sign", key, |client| {
        client.sign(key, how.scheme(), how.input(&message))
    })?;
    output.bytes(key, "signature", &answer, &io.out, Content::Open)
}

pub fn verify(cli: &Cli, command: &Verify, output: Output) -> Result<Exit, Failure> {
    let Verify {
        key,
        input,
        sig,
        version,
        how,
    } = command;
    if (input, sig) == (&PathOrStdio::Standard, &PathOrStdio::Standard) {
        return Err(Failure::usage(
            "both the input and the signature are to come from standard input",
            "name a file for one of them, with --in or --sig",
        ));
    }
    let signature = sig.read(SIGNATURE_LEN_MAX, "no signature or tag is that long")?;
    let message = how.read(input)?;
    let server = Server::reach(cli)?;
    let client = server.client();
    match client.verify(key, how.scheme(), how.input(&message), &signature, *version) {
        Ok(answer) => {
            let mut document = output::about(key, &answer);
            document.insert("verified".into(), true.into());
            let text = Lines::of(format!("Verified OK (version {})", answer.key_version));
            output.print_result(&document.into(), &text)?;
            Ok(Exit::Done)
        }
        Err(Error::Refused(refusal)) if refusal.status == Status::Mismatch => {
            let document = json!({
                "keyspace": key.keyspace.as_str(),
                "key": key.key_id.as_str(),
                "verified": false,
            });
            output.print_result(&document, &Lines::of("Verification failed"))?;
            Ok(Exit::Refused)
        }
        Err(error) => {
            let keyspace = Some(key.keyspace.as_str());
            Err(server.failure(&format!("verify {key}"), keyspace, &error))
        }
    }
}

pub fn mac(cli: &Cli, command: &Mac, output: Output) -> Result<(), Failure> {
    let Mac { key, io } = command;
    let message = message(&io.input, MAC_REMEDY)?;
    let answer = call(cli, "mac", key, |client| client.mac(key, &message))?;
    output.bytes(key, "tag", &answer, &io.out, Content::Open)
}

pub fn encrypt(cli: &Cli, command: &Crypt, output: Output) -> Result<(), Failure> {
    let Crypt { key, io, aad } = command;
    let aad = aad.load("--aad", MESSAGE_LEN_MAX)?;
    let plaintext = message(&io.input, ENCRYPT_REMEDY)?;
    let answer = call(cli, "encrypt", key, |client| {
        client.encrypt(key, &aad, &plaintext)
    })?;
    output.bytes(key, "ciphertext", &answer, &io.out, Content::Open)
}

pub fn decrypt(cli: &Cli, command: &Crypt, output: Output) -> Result<(), Failure> {
    let Crypt { key, io, aad } = command;
    let aad = aad.load("--aad", MESSAGE_LEN_MAX)?;
    let sealed = io
        .input
        .read(PAYLOAD_LEN_MAX, "`keyway encrypt` never writes that much")?;
    let answer = call(cli, "decrypt", key, |client| {
        client.decrypt(key, &aad, &sealed)
    })?;
    output.bytes(key, "plaintext", &answer, &io.out, Content::Open)
}

pub fn derive(cli: &Cli, command: &Derive, output: Output) -> Result<(), Failure> {
    let Derive {
        key,
        len,
        salt,
        info,
        out,
    } = command;
    out.out.check(out.content())?;
    let salt = salt.load("--salt", SALT_LEN_MAX)?;
    let info = info.load("--info", MESSAGE_LEN_MAX)?;
    let answer = call(cli, "derive", key, |client| {
        client.derive(key, &salt, &info, *len)
    })?;
    output.bytes(key, "bytes", &answer, &out.out, out.content())
}

pub fn get(cli: &Cli, command: &Get, output: Output) -> Result<(), Failure> {
    let Get { key, version, out } = command;
    out.out.check(out.content())?;
    let answer = call(cli, "get", key, |client| client.get(key, *version))?;
    output.bytes(key, "secret", &answer, &out.out, out.content())
}

impl SignatureArgs {
    /// Reads the message, or the digest, whose length the scheme may tell.
    fn read(&self, place: &PathOrStdio) -> Result<Wiped, Failure> {
        let input = message(place, SIGN_REMEDY)?;
        let expected = self.scheme.digest_len().filter(|_| self.digest);
        match expected {
            Some(expected) if expected != input.len() => Err(Failure::usage(
                format!(
                    "{}: a digest of {} bytes, and {} takes {expected}",
                    place.name(),
                    input.len(),
                    self.scheme
                ),
                "name the scheme of the hash that made it with --scheme; the digest must be binary, \
                 as `openssl dgst -binary` writes it",
            )),
            _ => Ok(input),
        }
    }

    fn scheme(&self) -> Scheme {
        match self.format {
            SignatureFormat::Der => self.scheme,
            SignatureFormat::Jws => self.scheme.jws(),
        }
    }

    fn input<'a>(&self, bytes: &'a [u8]) -> Input<'a> {
        if self.digest {
            Input::Digest(bytes)
        } else {
            Input::Message(bytes)
        }
    }
}

impl SecretOut {
    fn content(&self) -> Content {
        Content::Secret { force: self.force }
    }
}
