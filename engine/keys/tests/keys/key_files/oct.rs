//! Secrets as JWKs of every size, compared with HMAC of OpenSSL.

use super::corpus::jwk;
use crate::common::{ALICE, Fixture, NEW, output};
use crate::openssl::OpenSsl;
use keyway_keys::{Algorithm, ImportFormat};

/// Around the lengths of hashes and of their blocks, and the shortest and longest that are taken.
const LENS: [usize; 13] = [16, 17, 31, 32, 33, 48, 63, 64, 65, 127, 128, 129, 1_024];

#[test]
fn a_secret_in_a_jwk_makes_the_tags_that_openssl_makes() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    openssl.write("message", b"authenticated by both");
    for (algorithm, own, hash) in [
        (Algorithm::HmacSha256, "HS256", "sha256"),
        (Algorithm::HmacSha384, "HS384", "sha384"),
        (Algorithm::HmacSha512, "HS512", "sha512"),
    ] {
        for len in LENS {
            // With zeros at both ends, which are a part of it.
            let mut secret: Vec<u8> = (0..len).map(|at| (at * 151 + len) as u8).collect();
            (secret[0], secret[len - 1]) = (0, 0);
            let digits: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
            let theirs = openssl.must(&format!(
                "dgst -{hash} -mac HMAC -macopt hexkey:{digits} -binary @message"
            ));
            let named = jwk("\"kty\":\"oct\"", &[("k", &secret)]);
            let telling = jwk(
                &format!("\"kty\":\"oct\",\"alg\":\"{own}\""),
                &[("k", &secret)],
            );
            for (text, algorithm) in [
                (&named, Some(algorithm)),
                (&telling, None),
                (&telling, Some(algorithm)),
            ] {
                let fixture = Fixture::new();
                for format in [ImportFormat::Detect, ImportFormat::Jwk] {
                    let vault = &fixture.vault;
                    let bytes = text.as_bytes();
                    let blob =
                        vault.seal_imported(&fixture.dek, ALICE, algorithm, format, bytes, &NEW);
                    let key = fixture.open(&blob.unwrap()).unwrap();
                    let ours = output(|out| key.mac(b"authenticated by both", out)).unwrap();
                    assert_eq!(ours, theirs, "{own}, {len} bytes");
                }
            }
        }
        // One byte too few, and one too many.
        for len in [15, 1_025] {
            let text = jwk("\"kty\":\"oct\"", &[("k", &vec![7; len])]);
            let fixture = Fixture::new();
            let (format, bytes) = (ImportFormat::Detect, text.as_bytes());
            let refused = fixture.vault.seal_imported(
                &fixture.dek,
                ALICE,
                Some(algorithm),
                format,
                bytes,
                &NEW,
            );
            let message = refused.unwrap_err().to_string();
            assert!(
                message.contains("the secret has 16 to 1024 bytes"),
                "{message}"
            );
        }
    }
}
