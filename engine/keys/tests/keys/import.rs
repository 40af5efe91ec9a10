//! Material that cannot be imported is refused with what was found and what to do.

use crate::common::{ALICE, Fixture, NEW, output, rsa_pkcs8, unhex};
use keyway_keys::{Algorithm, IMPORT_LEN_MAX, ImportFormat, KeyError, ProviderChoice};
use proptest::prelude::*;

fn import(
    algorithm: Option<Algorithm>,
    format: ImportFormat,
    bytes: &[u8],
) -> Result<Vec<u8>, KeyError> {
    let fixture = Fixture::new();
    fixture
        .vault
        .seal_imported(&fixture.dek, ALICE, algorithm, format, bytes, &NEW)
}

fn detected(bytes: &[u8]) -> Result<Vec<u8>, KeyError> {
    import(None, ImportFormat::Detect, bytes)
}

#[track_caller]
fn says(result: Result<Vec<u8>, KeyError>, words: &[&str]) {
    let message = result.expect_err("it is to be refused").to_string();
    for word in words {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

#[test]
fn raw_secrets_are_held_to_their_lengths() {
    use Algorithm::*;
    let raw = |algorithm, len| import(Some(algorithm), ImportFormat::Raw, &vec![7; len]);
    for algorithm in [HmacSha256, HmacSha384, HmacSha512, HkdfSha256] {
        for len in [16, 1024] {
            assert!(raw(algorithm, len).is_ok());
        }
        for len in [0, 15, 1025] {
            says(raw(algorithm, len), &["16 to 1024 bytes", &len.to_string()]);
        }
    }
    for algorithm in [Aes256Gcm, ChaCha20Poly1305] {
        assert!(raw(algorithm, 32).is_ok());
        for len in [0, 16, 31, 33, 64] {
            says(raw(algorithm, len), &["exactly 32 bytes"]);
        }
    }
    assert!(raw(Ed25519, 32).is_ok());
    says(raw(Ed25519, 64), &["64 bytes", "exactly 32 bytes"]);
    says(raw(EcdsaP256, 32), &["PKCS#8"]);
    says(raw(Rsa2048, 32), &["PKCS#8"]);
    says(
        import(None, ImportFormat::Raw, &[7; 32]),
        &["name the algorithm"],
    );
}

#[test]
fn raw_secrets_are_detected_by_their_algorithm() {
    let detect = |algorithm, bytes: &[u8]| import(Some(algorithm), ImportFormat::Detect, bytes);
    assert!(detect(Algorithm::Aes256Gcm, &[7; 32]).is_ok());
    assert!(detect(Algorithm::Ed25519, &[7; 32]).is_ok());
    says(
        detected(&[7; 32]),
        &["neither PEM nor DER", "name the algorithm"],
    );
    let document = rsa_pkcs8(Algorithm::Rsa2048);
    says(
        detect(Algorithm::HmacSha256, document),
        &["document", "raw"],
    );
}

#[test]
fn another_algorithm_than_the_named_one_is_refused() {
    let document = rsa_pkcs8(Algorithm::Rsa2048);
    let refused = import(Some(Algorithm::Rsa3072), ImportFormat::Detect, document);
    says(refused, &["rsa-2048", "rsa-3072"]);
    let right = import(Some(Algorithm::Rsa2048), ImportFormat::Detect, document);
    assert!(right.is_ok());
}

#[test]
fn oversized_material_is_refused() {
    says(detected(&[b'-'; IMPORT_LEN_MAX + 1]), &["16,384 bytes"]);
}

#[test]
fn pem_that_holds_no_usable_key_is_refused_by_name() {
    let block = |label: &str| {
        format!("-----BEGIN {label}-----\nAAAA\n-----END {label}-----\n").into_bytes()
    };
    says(
        detected(&block("ENCRYPTED PRIVATE KEY")),
        &["passphrase", "openssl pkcs8"],
    );
    says(detected(&block("OPENSSH PRIVATE KEY")), &["OpenSSH"]);
    says(
        detected(&block("PUBLIC KEY")),
        &["PUBLIC KEY", "private key"],
    );
    says(detected(&block("CERTIFICATE")), &["CERTIFICATE"]);
    says(
        detected(&block("SOMETHING ELSE")),
        &["another kind of block"],
    );
    says(detected(&block("PRIVATE KEY")), &["not a DER document"]);
    says(
        detected(b"-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: x\n\nAAAA\n-----END RSA PRIVATE KEY-----\n"),
        &["passphrase"],
    );
    says(
        detected(b"-----BEGIN PRIVATE KEY-----\nAAAA\n"),
        &["whole file"],
    );
    says(
        detected(b"-----BEGIN PRIVATE KEY-----\nA*AA\n-----END PRIVATE KEY-----\n"),
        &["base64"],
    );
    says(
        import(None, ImportFormat::Pem, b"no key at all"),
        &["BEGIN line"],
    );
}

/// A label of an unknown block was quoted, and a label stands in the file.
#[test]
fn messages_never_show_what_a_file_holds() {
    let secret = "correct-horse-battery-staple";
    let files = [
        format!("-----BEGIN PRIVATE KEY-----\n{secret}\n-----END PRIVATE KEY-----\n"),
        format!("-----BEGIN {secret}-----\nAAAA\n-----END {secret}-----\n"),
        format!("-----BEGIN {secret}\nAAAA\n"),
        format!("-----BEGIN PRIVATE KEY-----\n{secret}: x\nAAAA\n-----END PRIVATE KEY-----\n"),
        format!("{{\"kty\":\"{secret}\",\"{secret}\":1}}"),
        format!("{{\"{secret}\":[\"{secret}\"]}}"),
        format!("{{\"kty\":\"oct\",\"k\":\"{secret}!\",\"alg\":\"{secret}\"}}"),
        format!("{{\"kty\":\"EC\",\"crv\":\"{secret}\",\"d\":\"{secret}\"}}"),
        format!("0{secret}"),
        secret.into(),
    ];
    for file in files {
        for format in 0..5 {
            let format = ImportFormat::from_id(format).unwrap();
            for algorithm in [None, Some(Algorithm::Aes256Gcm), Some(Algorithm::EcdsaP256)] {
                let refused = import(algorithm, format, file.as_bytes());
                let error = refused.expect_err(&file);
                for shown in [error.to_string(), format!("{error:?}")] {
                    assert!(!shown.contains("horse"), "{shown}");
                }
            }
        }
    }
}

#[test]
fn other_documents_are_refused_by_name() {
    let fixture = Fixture::new();
    let key = fixture.key(Algorithm::EcdsaP256);
    let public = output(|out| key.public_key(0, out)).unwrap();
    says(detected(&public), &["public key"]);
    let x25519 = unhex("302e020100300506032b656e04220420");
    says(detected(&[x25519, vec![7; 32]].concat()), &["X25519"]);
}

#[test]
fn a_pair_that_does_not_belong_together_is_refused() {
    // Ed25519, PKCS#8 v2, with a public key of another seed.
    let head = unhex("3051020101300506032b657004220420");
    let document = [head, vec![7; 32], unhex("812100"), vec![9; 32]].concat();
    says(detected(&document), &["do not belong together"]);

    let fixture = Fixture::new();
    let pkcs8 = |key: keyway_keys::UnlockedKey| output(|out| key.export(0, out)).unwrap();
    let one = pkcs8(fixture.key(Algorithm::EcdsaP256));
    let two = pkcs8(fixture.key(Algorithm::EcdsaP256));
    let mixed = [&one[..73], &two[73..]].concat();
    says(detected(&mixed), &["do not belong together"]);

    // The last byte is within qInv.
    let mut rsa = rsa_pkcs8(Algorithm::Rsa2048).to_vec();
    *rsa.last_mut().unwrap() ^= 1;
    assert!(detected(&rsa).is_err());
}

#[test]
fn an_rsa_key_with_a_wrong_exponent_is_refused_by_either_provider() {
    let document = rsa_pkcs8(Algorithm::Rsa2048);
    for choice in [ProviderChoice::Default, ProviderChoice::RingOnly] {
        let fixture = Fixture::with(choice);
        let import = |bytes: &[u8]| {
            let format = ImportFormat::Pkcs8Der;
            fixture
                .vault
                .seal_imported(&fixture.dek, ALICE, None, format, bytes, &NEW)
        };
        assert!(import(document).is_ok());
        // Behind n, e, d, p and q come dP and dQ, of 128 or 129 bytes each; qInv is last.
        let mut changed = document.to_vec();
        let at = changed.len() - 200;
        changed[at] ^= 1;
        assert!(import(&changed).is_err(), "{choice:?}");
    }
}

#[test]
fn a_p256_key_without_its_public_key_is_completed_where_aws_lc_may_help() {
    let scalar = [0x42; 32];
    let sec1 = [&[0x30, 0x25, 2, 1, 1, 4, 0x20][..], &scalar].concat();
    let document = [
        unhex("3041020100301306072a8648ce3d020106082a8648ce3d0301070427"),
        sec1,
    ]
    .concat();
    let fixture = Fixture::new();
    let key = fixture.open(&fixture.seal_pkcs8(&document)).unwrap();
    assert_eq!(key.metadata().algorithm, Algorithm::EcdsaP256);
    let ring = Fixture::with(ProviderChoice::RingOnly);
    let format = ImportFormat::Detect;
    let refused = ring
        .vault
        .seal_imported(&ring.dek, ALICE, None, format, &document, &NEW);
    says(refused, &["without an uncompressed public key"]);
}

proptest! {
    #[test]
    fn any_bytes_are_refused_without_a_panic(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        format in 0..5_u8,
    ) {
        let format = ImportFormat::from_id(format).unwrap();
        prop_assert!(import(None, format, &bytes).is_err());
    }

    #[test]
    fn changed_documents_never_panic(
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<prop::sample::Index>(),
    ) {
        let fixture = Fixture::new();
        let key = fixture.key(Algorithm::EcdsaP384);
        let mut document = output(|out| key.export(0, out)).unwrap();
        let at = at.index(document.len());
        document[at] = byte;
        let _ = detected(&document);
        document.truncate(cut.index(document.len()));
        prop_assert!(detected(&document).is_err());
    }
}
