//! Key files that people have, made with OpenSSL and OpenSSH and by hand: what OpenSSL reads is
//! imported, but for the exclusions of `docs/CLI.md`, and what was imported signs as the file's own
//! key does.
//!
//! The fault: of 88 files from public bug reports, many that OpenSSL reads were refused: with a
//! byte order mark, with curves spelled out, RSA without its NULL, PSS keys, PKCS#8 under an older
//! label, OpenSSH's own format, and Ed25519 as ring wrote it before 0.17.

mod corpus;
mod der;
mod ec;
mod excluded;
mod oct;
mod openssh;

use crate::common::{ALICE, Fixture, NEW, output};
use crate::openssl::OpenSsl;
use corpus::{File, Wanted};
use keyway_keys::{Algorithm, ImportFormat, Input, KeyError, Scheme, UnlockedKey};
use std::collections::BTreeSet;

const MESSAGE: &[u8] = b"signed by the file's own key";

#[test]
fn what_openssl_reads_is_imported_and_signs_as_the_files_own_key() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    openssl.write("message", MESSAGE);
    let mut faults = Vec::new();
    let files = corpus::files(&openssl);
    assert!(files.len() > 150, "the corpus has shrunk");
    for file in &files {
        if let Err(fault) = check(&openssl, file) {
            faults.push(format!("{}: {fault}", file.name));
        }
    }
    let (all, wrong) = (files.len(), faults.len());
    assert!(faults.is_empty(), "{wrong} of {all}: {faults:#?}");
}

/// Each exclusion stands in the table of the command line's page, the table has no other, and there is a file for each.
#[test]
fn the_exclusions_are_those_of_the_documentation() {
    let page = include_str!("../../../../../docs/CLI.md");
    let table = page.split("### Key files that are not taken").nth(1);
    let table = table.expect("docs/CLI.md has the table");
    let table = table.split("\n## ").next().unwrap();
    // The first column's words in backticks, without the heading's rows.
    let rows = table.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.filter_map(|row| row.split(" | ").next());
    let documented: BTreeSet<&str> = cells
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    let known: BTreeSet<&str> = corpus::EXCLUSIONS.into_iter().collect();
    assert_eq!(documented, known, "left: docs/CLI.md; right: the corpus");
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    let files = corpus::files(&openssl);
    let seen = files.iter().filter_map(|file| match file.wanted {
        Wanted::Excluded(words) => Some(words),
        Wanted::Taken | Wanted::TakenAs(_) => None,
    });
    let seen: BTreeSet<&str> = seen.chain([NAMED_WRONGLY]).collect();
    assert_eq!(seen, known, "left: what a file shows; right: the corpus");
}

/// Shown for every file that is not PEM, by [`check`].
const NAMED_WRONGLY: &str = "under the name of another format";

fn check(openssl: &OpenSsl, file: &File) -> Result<(), String> {
    let fixture = Fixture::new();
    let imported = import(&fixture, file, ImportFormat::Detect);
    check_named(&fixture, file)?;
    openssl.write("file", &file.bytes);
    let read = openssl.run("pkey -in @file -passin pass: -pubout -outform DER");
    let reads = read.status.success();
    let words = match file.wanted {
        Wanted::Excluded(words) => words,
        Wanted::Taken | Wanted::TakenAs(_) => {
            let key = imported
                .map_err(|error| format!("refused (OpenSSL reads it: {reads}): {error}"))?;
            let public = file.public.as_ref();
            let public = public.cloned().or(reads.then_some(read.stdout));
            return signs(openssl, &key, &public.ok_or("its public key is not known")?);
        }
    };
    match imported {
        Ok(_) => Err("taken, though it is excluded".into()),
        Err(error) if error.to_string().contains(words) => Ok(()),
        Err(error) => Err(format!("not {words:?}: {error}")),
    }
}

/// As PEM, by name: a file with a BEGIN line is judged as without a name, and another is refused as what it is.
fn check_named(fixture: &Fixture, file: &File) -> Result<(), String> {
    let has_begin = file
        .bytes
        .windows(11)
        .any(|window| window == b"-----BEGIN ");
    let named = import(fixture, file, ImportFormat::Pem).map(drop);
    let words = match file.wanted {
        Wanted::Taken | Wanted::TakenAs(_) if has_begin => {
            return named.map_err(|error| format!("as PEM: {error}"));
        }
        Wanted::Excluded(words) if has_begin => words,
        Wanted::Taken | Wanted::TakenAs(_) => NAMED_WRONGLY,
        // Not recognisable as any format.
        Wanted::Excluded(_) => return Ok(()),
    };
    match named {
        Err(error) if error.to_string().contains(words) => Ok(()),
        Err(error) => Err(format!("as PEM: not {words:?}: {error}")),
        Ok(()) => Err("as PEM: taken".into()),
    }
}

fn import(fixture: &Fixture, file: &File, format: ImportFormat) -> Result<UnlockedKey, KeyError> {
    let algorithm = match file.wanted {
        Wanted::TakenAs(algorithm) => Some(algorithm),
        _ => None,
    };
    let blob =
        fixture
            .vault
            .seal_imported(&fixture.dek, ALICE, algorithm, format, &file.bytes, &NEW)?;
    Ok(fixture.open(&blob).expect("what was sealed opens"))
}

/// That the key's signature verifies at OpenSSL under the public key that the file's own tools
/// tell of it.
fn signs(openssl: &OpenSsl, key: &UnlockedKey, public: &[u8]) -> Result<(), String> {
    let (scheme, options) = match key.metadata().algorithm {
        Algorithm::Ed25519 => (Scheme::Default, "-rawin"),
        Algorithm::EcdsaP256 => (Scheme::Default, "-rawin -digest sha256"),
        Algorithm::EcdsaP384 => (Scheme::Default, "-rawin -digest sha384"),
        _ => (
            Scheme::RsaPssSha256,
            "-rawin -digest sha256 -pkeyopt rsa_padding_mode:pss -pkeyopt rsa_pss_saltlen:digest",
        ),
    };
    let input = Input::Message(MESSAGE);
    let signature = output(|out| key.sign(scheme, input, out)).map_err(|e| e.to_string())?;
    openssl.write("signature", &signature);
    openssl.write("public", public);
    let verified = openssl.run(&format!(
        "pkeyutl -verify -pubin -keyform DER -inkey @public -in @message -sigfile @signature \
         {options}"
    ));
    match verified.status.success() {
        true => Ok(()),
        false => Err(format!(
            "its signature does not verify: {}",
            String::from_utf8_lossy(&verified.stderr)
        )),
    }
}
