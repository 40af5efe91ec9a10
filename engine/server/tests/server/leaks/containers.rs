//! Key files in every container, damaged at many positions.

use std::collections::BTreeMap;

use crate::command_line::operator::Operator;
use crate::common::{Server, Setup};

use super::search::{Secrets, base64};
use super::{KEYS, look, make};

/// How many files one import reports one by one (`REPORTED_FAILURES_MAX` in `tools/src/import`).
const REPORTED: usize = 20;

/// Positions of each file at which it is damaged.
const POSITIONS: usize = 14;

/// Makes the containers that OpenSSL and OpenSSH write, of the keys that [`make`] has made.
const WRITTEN: &str = "
    mkdir containers
    for key in ed ec rsa
    do cp $key.pem containers/$key-pkcs8.pem; cp $key.der containers/$key-pkcs8.der
    iconv -f UTF-8 -t UTF-16 $key.pem > containers/$key-utf16.pem
    iconv -f UTF-8 -t UTF-16BE $key.pem > containers/$key-utf16be.pem
    cp $key.pem ssh; chmod 600 ssh
    done
    openssl ec -in ec.pem -out containers/ec-sec1.pem; openssl ec -in ec.pem -outform DER -out containers/ec-sec1.der
    openssl ec -in ec.pem -param_enc explicit -out containers/ec-explicit.pem
    openssl rsa -in rsa.pem -traditional -out containers/rsa-pkcs1.pem
    openssl rsa -in rsa.pem -traditional -outform DER -out containers/rsa-pkcs1.der
    openssl rsa -in rsa.pem -outform MSBLOB -out containers/rsa-msblob.key
    openssl rsa -in rsa.pem -outform PVK -pvk-none -out containers/rsa-pvk.key
    for key in ec rsa
    do cp containers/$key-*1.pem ssh; chmod 600 ssh; ssh-keygen -q -p -P '' -N '' -f ssh; cp ssh containers/$key-openssh
    done";

/// The containers by name, and the secrets in them.
fn containers(operator: &Operator, server: &Server) -> (BTreeMap<String, Vec<u8>>, Secrets) {
    let mut secrets = make(operator, server);
    operator.shell(server, WRITTEN).done();
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(operator.path("containers")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        all.insert(name, std::fs::read(entry.path()).unwrap());
    }
    let mut add = |name: &str, bytes: Vec<u8>| all.insert(name.to_owned(), bytes);
    let url = |bytes: &[u8]| base64(bytes).replace('+', "-").replace('/', "_");
    for (key, _, secret) in KEYS {
        let der = operator.read(&format!("{key}.der"));
        // An outer length that two zeros end instead.
        let head = 2 + usize::from(der[1].saturating_sub(0x80).min(2));
        let contents = &der[head..];
        add(
            &format!("{key}-ber.der"),
            [&[0x30, 0x80], contents, &[0, 0]].concat(),
        );
        let kind = match key {
            "ed" => "\"kty\":\"OKP\",\"crv\":\"Ed25519\"",
            "ec" => "\"kty\":\"EC\",\"crv\":\"P-256\"",
            _ => "\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"",
        };
        let d = url(&der[secret]);
        add(
            &format!("{key}.jwk"),
            format!("{{{kind},\"d\":\"{d}\"}}").into_bytes(),
        );
    }
    let raw: Vec<u8> = (0..48_u8).map(|i| i.wrapping_mul(173) ^ 0xa6).collect();
    secrets.add(&raw);
    let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
    let text = base64(&raw);
    add(
        "secret-oct.jwk",
        format!("{{\"kty\":\"oct\",\"k\":\"{}\"}}", url(&raw)).into_bytes(),
    );
    add("secret-base64url.raw", url(&raw).into_bytes());
    add("secret-base64.raw", text.into_bytes());
    add("secret-hex.raw", hex.into_bytes());
    add("secret-line.raw", [&raw[..], b"\n"].concat());
    add("secret-raw.raw", raw);
    (all, secrets)
}

/// A file with one thing wrong at one place.
fn damaged(bytes: &[u8], at: usize, kind: usize) -> Vec<u8> {
    let (before, behind) = bytes.split_at(at);
    match kind {
        0 => before.to_vec(),
        1 => behind.to_vec(),
        2 => [before, b"#", behind.get(1..).unwrap_or(&[])].concat(),
        3 => [before, b"\n\"", behind].concat(),
        4 => [before, &[0xff, 0], behind].concat(),
        _ => [before, behind.get(3..).unwrap_or(&[])].concat(),
    }
}

const DAMAGES: usize = 6;

#[test]
fn no_part_of_a_key_in_any_container_is_printed_wherever_it_is_damaged() {
    let operator = Operator::new();
    let setup = Setup::new(&operator.path("data")).shards(2);
    let server = setup.flag("--log-level").flag("debug").start();
    let (containers, secrets) = containers(&operator, &server);
    assert!(containers.len() > 25, "{:?}", containers.keys());
    let mut files = Vec::new();
    for (number, (name, bytes)) in containers.iter().enumerate() {
        let (_, extension) = name.rsplit_once('.').unwrap_or((name, "txt"));
        for position in 0..POSITIONS {
            let at = bytes.len() * position / POSITIONS;
            // Each position has two kinds of damage, in turn; each file has them all.
            for kind in [position % DAMAGES, (position + 3) % DAMAGES] {
                let file = format!("k{number}-{position}-{kind}.{extension}");
                files.push((file, damaged(bytes, at, kind)));
            }
        }
    }
    let mut lines = String::new();
    for (batch, files) in files.chunks(REPORTED).enumerate() {
        let folder = operator.path(&format!("batch-{batch}"));
        std::fs::create_dir(&folder).unwrap();
        lines.clear();
        for (name, bytes) in files {
            std::fs::write(folder.join(name), bytes).unwrap();
            // As text where it is text, or else in base64, and with the bytes in other members.
            let text = String::from_utf8(bytes.clone()).unwrap_or_else(|_| base64(bytes));
            let text = serde_json::Value::String(text);
            let id = name.replace('.', "-");
            let line = match batch % 3 {
                0 => format!("{{\"id\":\"{id}\",\"key\":{text}}}\n"),
                1 => format!("{{\"id\":\"{id}\",\"alg\":{text},\"key\":{text}}}\n"),
                _ => format!("{{\"id\":{text},\"usage\":{text},\"key\":{text}}}\n"),
            };
            lines.push_str(&line);
        }
        operator.write("lines", &lines);
        let script = format!(
            "keyway import prod --dir batch-{batch} || test $? = 1
             keyway --json import prod --dir batch-{batch} --alg hmac-sha256 --encoding hex || test $? = 1
             keyway import prod --ndjson lines --encoding base64 || test $? = 1
             keyway --json import prod --ndjson lines || test $? = 1
             for file in $(ls batch-{batch} | sed -n 1,2p)
             do keyway --json key import prod/one-{batch} --file batch-{batch}/$file --format pem || test $? -le 2
             keyway key import prod/two-{batch} --file batch-{batch}/$file --format jwk || test $? -le 2
             done"
        );
        operator.shell(&server, &script).done();
    }
    // Members in each other's places: the server refuses what is in the place of the key.
    let swapped = |at: usize| {
        let (name, bytes) = &files[at];
        assert!(name.ends_with(".raw"), "{name}");
        let id = base64(bytes);
        assert!(id.len() > 40);
        format!("{{\"id\":\"{id}\",\"alg\":\"hmac-sha256\",\"key\":\"cHJvZA==\"}}\n")
    };
    let line = swapped(files.len() - 1);
    operator.write("lines", &(line.clone() + &line));
    let script = "keyway import prod --ndjson lines || test $? = 1
        keyway import prod --ndjson lines --json || test $? = 1
        keyway lock prod; keyway import prod --ndjson lines || test $? = 4";
    operator.shell(&server, script).done();
    look(&operator, &server, &secrets);
    // Hundreds were refused one by one, so there was something to look at. These messages do not quote it either.
    let said = operator.said();
    let has_all = said.contains("keyway: line 1: ") && said.contains("stand for");
    assert!(
        has_all && said.matches("cannot import").count() > 200,
        "too little was refused"
    );
}
