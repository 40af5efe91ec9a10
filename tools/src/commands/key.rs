//! `key …`, `public` and `refresh`.

use keyway_client::{Answer, KeyFormat, KeyOptions, KeyPath, KeyState, KeyspaceName, ListedKey};
use keyway_protocol::limits::MATERIAL_LEN_MAX;
use serde_json::json;

use super::call;
use crate::args::{Cli, Key, NewKey, Public};
use crate::connect::Server;
use crate::failure::Failure;
use crate::key_file;
use crate::output::{self, Output};
use crate::printable::Lines;
use crate::secret_text::{self, Encoding, Holder};
use crate::streams::{Content, PathOrStdio, Wiped};
use crate::table::{Align, Table};
use crate::text;

/// What to do about a file that is too long to be a key.
pub const MATERIAL_REMEDY: &str = "no key is that long; is it the right file?";

pub fn run(cli: &Cli, command: &Key, output: Output) -> Result<(), Failure> {
    match command {
        Key::Generate { key, alg, options } => {
            let answer = call(cli, "key generate", key, |client| {
                client.key_generate(key, *alg, options.into())
            })?;
            made(output, key, &answer, "generated")
        }
        Key::Import {
            key,
            file,
            alg,
            format,
            encoding,
            options,
        } => {
            let (format, bytes) = material(file, *format, *encoding)?;
            let answer = call(cli, "key import", key, |client| {
                client.key_import(key, *alg, options.into(), format, &bytes)
            })?;
            made(output, key, &answer, "imported")
        }
        Key::List { keyspace } => list(cli, keyspace, output),
        Key::Rotate {
            key,
            file,
            format,
            encoding,
        } => {
            let material = file
                .as_ref()
                .map(|file| material(file, *format, *encoding))
                .transpose()?;
            let answer = call(cli, "key rotate", key, |client| {
                let material = material.as_ref();
                client.key_rotate(
                    key,
                    material.map(|(format, bytes)| (*format, bytes.as_slice())),
                )
            })?;
            made(output, key, &answer, "rotated")
        }
        Key::Revoke {
            key,
            version: Some(version),
        } => {
            let answer = call(cli, "key revoke", key, |client| {
                client.key_revoke_version(key, *version)
            })?;
            let mut document = output::about(key, &answer);
            document.insert("revoked_version".into(), (*version).into());
            output.print_result(
                &document.into(),
                &Lines::of(format!("{key}: version {version} revoked")),
            )
        }
        Key::Trim { key, below } => {
            let answer = call(cli, "key trim", key, |client| client.key_trim(key, *below))?;
            let mut document = output::about(key, &answer);
            document.insert("below".into(), (*below).into());
            output.print_result(
                &document.into(),
                &Lines::of(format!("{key}: versions below {below} removed")),
            )
        }
        Key::Delete { key } => {
            let answer = call(cli, "key delete", key, |client| client.key_delete(key))?;
            let mut document = output::about(key, &answer);
            document.insert("state".into(), "deleted".into());
            output.print_result(&document.into(), &Lines::of(format!("{key}: deleted")))
        }
        Key::Revoke { key, version: None } => {
            let answer = call(cli, "key revoke", key, |client| client.key_revoke(key))?;
            let mut document = output::about(key, &answer);
            document.insert("state".into(), "revoked".into());
            output.print_result(&document.into(), &Lines::of(format!("{key}: revoked")))
        }
        Key::Public(command) => public(cli, command, output),
    }
}

pub fn public(cli: &Cli, command: &Public, output: Output) -> Result<(), Failure> {
    let Public {
        key,
        version,
        der,
        out,
    } = command;
    let answer = call(cli, "public", key, |client| {
        client.public_key(key, *version)
    })?;
    if *der {
        return output.bytes(key, "public_key_der", &answer, out, Content::Open);
    }
    let pem = output::public_pem(&answer.value);
    if !output.json {
        return out.write(pem.as_bytes(), Content::Open);
    }
    let mut document = output::about(key, &answer);
    match out {
        PathOrStdio::Standard => document.insert("public_key_pem".into(), pem.into()),
        PathOrStdio::File(path) => {
            out.write(pem.as_bytes(), Content::Open)?;
            document.insert("out".into(), path.display().to_string().into())
        }
    };
    output.print_result(&document.into(), &Lines::default())
}

pub fn refresh(cli: &Cli, key: &KeyPath, output: Output) -> Result<(), Failure> {
    let answer = call(cli, "refresh", key, |client| client.force_refresh(key))?;
    made(output, key, &answer, "refreshed")
}

fn list(cli: &Cli, keyspace: &KeyspaceName, output: Output) -> Result<(), Failure> {
    let doing = format!("key list {keyspace}");
    let keys = Server::reach(cli)?.call(&doing, Some(keyspace.as_str()), |client| {
        client.key_list(keyspace)
    })?;
    let document = json!({
        "keyspace": keyspace.as_str(),
        "keys": keys.iter().map(|key| json!({
            "key": key.key_id.as_str(),
            "version": key.key_version,
            "algorithm": key.algorithm.map(|algorithm| algorithm.name()),
            "state": key.state.name(),
            "oldest_version": key.versions.map(|versions| versions.oldest),
            "revoked_versions": key.versions.map(|versions| {
                versions.revoked_of(key.key_version).collect::<Vec<_>>()
            }),
        })).collect::<Vec<_>>(),
    });
    let mut text = table(&keys);
    text.append(&remedy(&keys));
    output.print_result(&document, &text)
}

/// What to do about the keys that cannot be read.
fn remedy(keys: &[ListedKey]) -> Lines {
    let damaged = keys.iter().filter(|key| key.state == KeyState::Damaged);
    match damaged.count() as u64 {
        0 => Lines::default(),
        count => Lines::of(format!(
            "{} damaged: the server's store cannot read what it has of them. Import them again from your copy: \
             `keyway key import KEYSPACE/KEY --file FILE`; without a copy, give them up: \
             `keyway key revoke KEYSPACE/KEY`, then `keyway key delete KEYSPACE/KEY`",
            text::count(count, "key")
        )),
    }
}

fn table(keys: &[ListedKey]) -> Lines {
    if keys.is_empty() {
        return Lines::of("no keys");
    }
    let mut table = Table::new(&[
        ("KEY", Align::Left),
        ("VERSION", Align::Right),
        ("ALGORITHM", Align::Left),
        ("STATE", Align::Left),
        ("OLDEST", Align::Right),
        ("REVOKED", Align::Left),
    ]);
    for key in keys {
        table.row([
            key.key_id.to_string(),
            key.key_version.to_string(),
            key.algorithm
                .map_or("-", |algorithm| algorithm.name())
                .to_owned(),
            key.state.to_string(),
            key.versions
                .map_or("-".to_owned(), |versions| versions.oldest.to_string()),
            revoked(key),
        ]);
    }
    let mut text = table.render();
    text.push(text::count(keys.len() as u64, "key"));
    text
}

/// The versions that were revoked one by one.
fn revoked(key: &ListedKey) -> String {
    let versions = key.versions.into_iter();
    let revoked = versions.flat_map(|versions| versions.revoked_of(key.key_version));
    let revoked: Vec<_> = revoked.map(|version| version.to_string()).collect();
    match revoked.is_empty() {
        true => "-".to_owned(),
        false => revoked.join(", "),
    }
}

fn made(output: Output, key: &KeyPath, answer: &Answer<()>, done: &str) -> Result<(), Failure> {
    let text = Lines::of(format!("{key}: {done}, version {}", answer.key_version));
    output.print_result(&output::about(key, answer).into(), &text)
}

fn material(
    file: &PathOrStdio,
    format: KeyFormat,
    encoding: Option<Encoding>,
) -> Result<(KeyFormat, Wiped), Failure> {
    let bytes = key_file::read_from(file)?;
    let name = file.name();
    if bytes.len() > MATERIAL_LEN_MAX {
        let message = format!("{name} has more than {MATERIAL_LEN_MAX} bytes");
        return Err(Failure::usage(message, MATERIAL_REMEDY));
    }
    if bytes.is_empty() {
        let remedy = "give the file of a private key or of a secret";
        return Err(Failure::usage(format!("{name} is empty"), remedy));
    }
    secret_text::prepared(Holder::File, format, encoding, bytes)
        .map_err(|seen| Failure::usage(format!("{name}: nothing was sent"), seen))
}

impl From<&NewKey> for KeyOptions {
    fn from(new_key: &NewKey) -> Self {
        KeyOptions {
            exportable: new_key.exportable,
            usage: new_key.usage.unwrap_or_default(),
            not_after_unix_ms: new_key.not_after.unwrap_or(0),
        }
    }
}
