//! Signatures and tags through `keyway`, in each scheme and form, checked by OpenSSL and made by OpenSSL; and what is possible
//! with a file that is longer than a message.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use crate::command_line::operator::Operator;
use crate::common::{Server, Setup};

const PSS: &str = "-sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest";

/// A scheme, its hash, and options of OpenSSL's.
type Scheme = (&'static str, &'static str, &'static str);

/// Each key's schemes with their hashes, and what `openssl dgst` needs besides. The first row is the key's default.
const KEYS: [(&str, &[Scheme]); 3] = [
    (
        "p256",
        &[
            ("default", "sha256", ""),
            ("ecdsa-sha256", "sha256", ""),
            ("ecdsa-sha384", "sha384", ""),
            ("ecdsa-sha512", "sha512", ""),
        ],
    ),
    (
        "p384",
        &[
            ("default", "sha384", ""),
            ("ecdsa-sha256", "sha256", ""),
            ("ecdsa-sha384", "sha384", ""),
            ("ecdsa-sha512", "sha512", ""),
        ],
    ),
    (
        "rsa",
        &[
            ("default", "sha256", PSS),
            ("rsa-pss-sha256", "sha256", PSS),
            ("rsa-pss-sha384", "sha384", PSS),
            ("rsa-pss-sha512", "sha512", PSS),
            ("rsa-pkcs1-sha256", "sha256", ""),
            ("rsa-pkcs1-sha384", "sha384", ""),
            ("rsa-pkcs1-sha512", "sha512", ""),
        ],
    ),
];

/// A server with the private keys of the files `NAME.pem`, and their public halves in `NAME.pub`.
fn start(operator: &Operator) -> Server {
    let server = Setup::new(&operator.path("data")).shards(1).start();
    let made = operator.shell(
        &server,
        "openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out p256.pem
         openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out p384.pem
         openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out rsa.pem
         openssl genpkey -algorithm ed25519 -out ed25519.pem
         for key in p256 p384 rsa ed25519; do keyway key import prod/$key --file $key.pem; keyway public prod/$key --out $key.pub; done
         head -c 1048576 /dev/urandom > big; echo 'pay 10 to bob' > msg; echo 'pay 90 to bob' > other
         for hash in sha256 sha384 sha512; do openssl dgst -$hash -binary big > big.$hash; openssl dgst -$hash -binary msg > msg.$hash; done",
    );
    made.done();
    server
}

/// r and s of an ASN.1 signature, each of `len` bytes. An independent reader: lengths below 128 only.
fn jws_of(der: &[u8], len: usize) -> Vec<u8> {
    assert_eq!((der[0], usize::from(der[1]) + 2), (0x30, der.len()));
    let mut rest = &der[2..];
    let mut jws = Vec::new();
    while let [2, count, behind @ ..] = rest {
        let (number, behind) = behind.split_at(usize::from(*count));
        let digits = number.strip_prefix(&[0]).unwrap_or(number);
        jws.extend(vec![0; len - digits.len()]);
        jws.extend(digits);
        rest = behind;
    }
    assert_eq!((jws.len(), rest), (2 * len, &[][..]));
    jws
}

/// The ASN.1 form of r and s.
fn der_of(jws: &[u8]) -> Vec<u8> {
    let mut numbers = Vec::new();
    for number in jws.chunks(jws.len() / 2) {
        let zeros = number.iter().take_while(|byte| **byte == 0).count();
        let mut digits = number[zeros..].to_vec();
        if digits.first().is_none_or(|byte| *byte >= 0x80) {
            digits.insert(0, 0);
        }
        numbers.extend([2, digits.len() as u8]);
        numbers.extend(digits);
    }
    [&[0x30, numbers.len() as u8][..], &numbers].concat()
}

#[test]
fn openssl_and_keyway_accept_each_others_signatures_in_every_scheme_and_form() {
    let operator = Operator::new();
    let server = start(&operator);
    let shell = |script: &str| operator.shell(&server, script).done();
    for (name, schemes) in KEYS {
        for (scheme, hash, options) in schemes {
            let number_len = if name == "p384" { 48 } else { 32 };
            shell(&format!(
                "openssl dgst -{hash} {options} -sign {name}.pem -out theirs msg"
            ));
            let theirs = operator.read("theirs");
            let is_ecdsa = name.starts_with('p');
            let theirs_jws = match is_ecdsa {
                true => jws_of(&theirs, number_len),
                false => theirs,
            };
            std::fs::write(operator.path("theirs.jws"), theirs_jws).unwrap();
            for (input, kind) in [("msg".to_owned(), ""), (format!("msg.{hash}"), "--digest")] {
                let how = format!("--scheme {scheme} {kind}");
                shell(&format!(
                    "keyway sign prod/{name} --in {input} {how} --out sig
                     openssl dgst -{hash} {options} -verify {name}.pub -signature sig msg
                     ! openssl dgst -{hash} {options} -verify {name}.pub -signature sig other
                     keyway verify prod/{name} --in {input} {how} --sig sig
                     keyway verify prod/{name} --in {input} {how} --sig theirs
                     keyway sign prod/{name} --in {input} {how} --format jws --out sig.jws
                     keyway verify prod/{name} --in {input} {how} --format jws --sig sig.jws
                     keyway verify prod/{name} --in {input} {how} --format jws --sig theirs.jws"
                ));
                let jws = operator.read("sig.jws");
                if is_ecdsa {
                    assert_eq!(jws.len(), 2 * number_len, "{name} {how}");
                    std::fs::write(operator.path("sig.der"), der_of(&jws)).unwrap();
                    // Neither form passes for the other.
                    shell(&format!(
                        "! keyway verify prod/{name} --in {input} {how} --sig sig.jws
                         ! keyway verify prod/{name} --in {input} {how} --format jws --sig sig"
                    ));
                } else {
                    std::fs::write(operator.path("sig.der"), jws).unwrap();
                }
                shell(&format!(
                    "openssl dgst -{hash} {options} -verify {name}.pub -signature sig.der msg
                     ! openssl dgst -{hash} {options} -verify {name}.pub -signature sig.der other
                     ! keyway verify prod/{name} --in other --scheme {scheme} --sig theirs"
                ));
            }
        }
    }
    shell(
        "openssl pkeyutl -sign -inkey ed25519.pem -rawin -in msg -out theirs
         for form in der jws; do
         keyway sign prod/ed25519 --in msg --format $form --out sig
         openssl pkeyutl -verify -pubin -inkey ed25519.pub -rawin -in msg -sigfile sig
         keyway verify prod/ed25519 --in msg --format $form --sig theirs
         done
         ! keyway verify prod/ed25519 --in other --sig theirs",
    );
}

/// The fault: `sign --digest` with an Ed25519 key said to send the message, and `sign` with a longer message than the limit
/// said to give `--digest`.
#[test]
fn a_file_that_is_longer_than_a_message_is_signed_as_the_messages_say() {
    let operator = Operator::new();
    let server = start(&operator);
    let shell = |script: &str| operator.shell(&server, script);
    for (name, schemes) in KEYS {
        for (scheme, hash, options) in schemes {
            shell(&format!(
                "! keyway sign prod/{name} --scheme {scheme} --in big --out sig
                 keyway sign prod/{name} --scheme {scheme} --digest --in big.{hash} --out sig
                 openssl dgst -{hash} {options} -verify {name}.pub -signature sig big
                 ! openssl dgst -{hash} {options} -verify {name}.pub -signature sig msg"
            ))
            .done();
        }
    }
    // What each refusal says, as it is typed.
    for (name, scheme) in [("p256", ""), ("rsa", ""), ("p384", "--scheme ecdsa-sha256")] {
        let line = format!("keyway sign prod/{name} --in big --out sig");
        let said = operator.run(&server, &line);
        said.refused(
            2,
            &["give --digest (and --scheme ecdsa-sha256 if the key is on P-384)"],
        );
        let options = if name == "rsa" { PSS } else { "" };
        let script = format!(
            "openssl dgst -sha256 -binary big > DIGEST
             keyway sign prod/{name} --digest {scheme} --in DIGEST --out sig
             openssl dgst -sha256 {options} -verify {name}.pub -signature sig big"
        );
        shell(&script).done();
    }
    let long = operator.run(&server, "keyway sign prod/ed25519 --in big --out sig");
    let typed = "openssl dgst -sha256 -binary FILE > DIGEST";
    long.refused(
        2,
        &[
            typed,
            "with an Ed25519 key, sign DIGEST as the message, without --digest",
        ],
    );
    let digest = operator.run(
        &server,
        "keyway sign prod/ed25519 --digest --in big.sha256 --out sig",
    );
    digest.refused(
        1,
        &[
            "leave out --digest",
            "above 64 KiB",
            "sign this digest as the message",
        ],
    );
    let script = format!(
        "{}
         keyway sign prod/ed25519 --in DIGEST --out sig
         keyway verify prod/ed25519 --in DIGEST --sig sig
         openssl pkeyutl -verify -pubin -inkey ed25519.pub -rawin -in DIGEST -sigfile sig",
        typed.replace("FILE", "big")
    );
    shell(&script).done();
    let key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    operator.write("mac.key", key);
    let long = operator.run(
        &server,
        "keyway key import prod/mac --alg hmac-sha256 --encoding hex --file mac.key",
    );
    long.done();
    let long = operator.run(&server, "keyway mac prod/mac --in big --out tag");
    let typed = "openssl dgst -sha512 -binary FILE > DIGEST";
    long.refused(2, &[typed, "authenticate it as the message"]);
    let script = format!(
        "{}
         keyway mac prod/mac --in DIGEST --out tag
         keyway verify prod/mac --in DIGEST --sig tag
         openssl dgst -sha256 -mac HMAC -macopt hexkey:{key} -binary DIGEST > theirs
         cmp tag theirs",
        typed.replace("FILE", "big")
    );
    shell(&script).done();
    let digest = operator.run(
        &server,
        "keyway verify prod/mac --digest --in DIGEST --sig tag",
    );
    digest.refused(1, &["leave out --digest"]);
}
