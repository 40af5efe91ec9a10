//! OpenSSL as a second opinion: its keys are imported, our signatures verify there.

use crate::common::{Fixture, output, rsa_pkcs8};
use keyway_keys::{Algorithm, ImportFormat, Input, Scheme, UnlockedKey};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const MESSAGE: &[u8] = b"a message for another implementation";

/// OpenSSL and a folder for its files.
pub struct OpenSsl {
    dir: TempDir,
}

impl OpenSsl {
    /// `None`, said aloud, where there is no `openssl` command; with CI=true that is a failure.
    pub fn find() -> Option<Self> {
        if Command::new("openssl").arg("version").output().is_ok() {
            let dir = tempfile::tempdir().unwrap();
            return Some(Self { dir });
        }
        let ci = std::env::var("CI").is_ok_and(|value| value == "true");
        assert!(
            !ci,
            "the openssl command is needed: apt-get install openssl"
        );
        eprintln!("SKIPPED: no openssl command, so nothing was compared with it");
        None
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Runs a command line whose words beginning with '@' are files in the folder.
    pub fn run(&self, line: &str) -> Output {
        let words = line
            .split_whitespace()
            .map(|word| match word.strip_prefix('@') {
                Some(name) => self.path(name).into_os_string(),
                None => word.into(),
            });
        Command::new("openssl").args(words).output().unwrap()
    }

    #[track_caller]
    pub fn must(&self, line: &str) -> Vec<u8> {
        let output = self.run(line);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {line}: {stderr}");
        output.stdout
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }
}

fn import(bytes: &[u8]) -> (Fixture, UnlockedKey) {
    let fixture = Fixture::new();
    let blob = fixture.vault.seal_imported(
        &fixture.dek,
        crate::common::ALICE,
        None,
        ImportFormat::Detect,
        bytes,
        &crate::common::NEW,
    );
    let key = fixture.open(&blob.unwrap()).unwrap();
    (fixture, key)
}

/// Both read the same public key from what `openssl` wrote.
#[track_caller]
fn same_public_key(openssl: &OpenSsl, key: &UnlockedKey, private_key: &Path) {
    let public = output(|out| key.public_key(0, out)).unwrap();
    let name = private_key.file_name().unwrap().to_str().unwrap();
    let theirs = openssl.must(&format!("pkey -in @{name} -pubout -outform DER"));
    assert_eq!(public, theirs, "{name}");
}

#[test]
fn keys_that_openssl_made_are_imported_in_every_encoding() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    let kinds = [
        ("ed25519", Algorithm::Ed25519, "-algorithm ed25519"),
        (
            "p256",
            Algorithm::EcdsaP256,
            "-algorithm EC -pkeyopt ec_paramgen_curve:P-256",
        ),
        (
            "p384",
            Algorithm::EcdsaP384,
            "-algorithm EC -pkeyopt ec_paramgen_curve:P-384",
        ),
        (
            "rsa",
            Algorithm::Rsa2048,
            "-algorithm RSA -pkeyopt rsa_keygen_bits:2048",
        ),
    ];
    for (name, algorithm, options) in kinds {
        openssl.must(&format!("genpkey {options} -out @{name}.pem"));
        openssl.must(&format!(
            "pkcs8 -topk8 -nocrypt -in @{name}.pem -outform DER -out @{name}.der"
        ));
        for file in [format!("{name}.pem"), format!("{name}.der")] {
            let (_fixture, key) = import(&openssl.read(&file));
            assert_eq!(key.metadata().algorithm, algorithm);
            same_public_key(&openssl, &key, &openssl.path(&file));
        }
    }
    openssl.must("rsa -in @rsa.pem -traditional -out @rsa.pkcs1.pem");
    openssl.must("ec -in @p256.pem -out @p256.sec1.pem");
    openssl.must("ec -in @p256.pem -no_public -out @p256.nopublic.pem");
    openssl.must("ec -in @p384.pem -conv_form compressed -out @p384.compressed.pem");
    // Both a parameters block and the key.
    openssl.must("ecparam -name secp384r1 -genkey -out @p384.parameters.pem");
    for (file, label) in [
        ("rsa.pkcs1.pem", "BEGIN RSA PRIVATE KEY"),
        ("p256.sec1.pem", "BEGIN EC PRIVATE KEY"),
        ("p256.nopublic.pem", "BEGIN EC PRIVATE KEY"),
        ("p384.compressed.pem", "BEGIN EC PRIVATE KEY"),
        ("p384.parameters.pem", "BEGIN EC PARAMETERS"),
    ] {
        let text = openssl.read(file);
        assert!(String::from_utf8_lossy(&text).contains(label), "{file}");
        let (_fixture, key) = import(&text);
        if file != "p384.compressed.pem" {
            same_public_key(&openssl, &key, &openssl.path(file));
        }
    }
}

#[test]
fn keys_that_openssl_made_and_we_do_not_take_are_refused_by_name() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    for (options, word) in [
        ("-algorithm EC -pkeyopt ec_paramgen_curve:P-521", "P-521"),
        (
            "-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1",
            "secp256k1",
        ),
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:1024", "1024 bits"),
        ("-algorithm ed448", "Ed448"),
        (
            "-algorithm EC -pkeyopt ec_paramgen_curve:P-256 -aes-128-cbc -pass pass:x",
            "passphrase",
        ),
    ] {
        openssl.must(&format!("genpkey {options} -out @key.pem"));
        let fixture = Fixture::new();
        let refused = fixture.vault.seal_imported(
            &fixture.dek,
            crate::common::ALICE,
            None,
            ImportFormat::Detect,
            &openssl.read("key.pem"),
            &crate::common::NEW,
        );
        let message = refused.unwrap_err().to_string();
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

#[test]
fn exported_keys_are_read_by_openssl() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    let fixture = Fixture::new();
    for algorithm in Algorithm::ALL.into_iter().filter(|a| a.is_asymmetric()) {
        let key = fixture.key(algorithm);
        let exported = output(|out| key.export(0, out)).unwrap();
        let path = openssl.write("exported.der", &exported);
        same_public_key(&openssl, &key, &path);
    }
}

#[test]
fn our_signatures_verify_with_openssl() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    let fixture = Fixture::new();
    openssl.write("message", MESSAGE);
    let pss = |hash| {
        format!(
            "-digest {hash} -pkeyopt rsa_padding_mode:pss -pkeyopt rsa_pss_saltlen:digest \
             -pkeyopt rsa_mgf1_md:{hash}"
        )
    };
    let pkcs1 = |hash| format!("-digest {hash} -pkeyopt rsa_padding_mode:pkcs1");
    let cases = [
        (Algorithm::Ed25519, Scheme::Ed25519, String::new()),
        (
            Algorithm::EcdsaP256,
            Scheme::EcdsaSha256,
            "-digest sha256".into(),
        ),
        (
            Algorithm::EcdsaP384,
            Scheme::EcdsaSha384,
            "-digest sha384".into(),
        ),
        (Algorithm::Rsa2048, Scheme::RsaPkcs1Sha256, pkcs1("sha256")),
        (Algorithm::Rsa3072, Scheme::RsaPkcs1Sha384, pkcs1("sha384")),
        (Algorithm::Rsa4096, Scheme::RsaPkcs1Sha512, pkcs1("sha512")),
        (Algorithm::Rsa2048, Scheme::RsaPssSha256, pss("sha256")),
        (Algorithm::Rsa3072, Scheme::RsaPssSha384, pss("sha384")),
        (Algorithm::Rsa4096, Scheme::RsaPssSha512, pss("sha512")),
    ];
    for (algorithm, scheme, options) in cases {
        let key = fixture.key(algorithm);
        let public = output(|out| key.public_key(0, out)).unwrap();
        openssl.write("public.der", &public);
        let input = Input::Message(MESSAGE);
        let signature = output(|out| key.sign(scheme, input, out)).unwrap();
        openssl.write("signature", &signature);
        let line = format!(
            "pkeyutl -verify -pubin -keyform DER -inkey @public.der -rawin -in @message \
             -sigfile @signature {options}"
        );
        let said = String::from_utf8(openssl.must(&line)).unwrap();
        assert!(said.contains("Verified Successfully"), "{scheme:?}: {said}");
        openssl.write("message", b"another message");
        assert!(!openssl.run(&line).status.success(), "{scheme:?}");
        openssl.write("message", MESSAGE);
    }
}

/// `--format jws` and ECDSA with other hashes than the curve's: JOSE needs the first, some
/// protocols the second, and both were refused.
#[test]
fn ecdsa_signatures_of_every_hash_and_form_are_those_of_openssl() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    use Scheme::*;
    openssl.write("message", MESSAGE);
    let fixture = Fixture::new();
    for (algorithm, len) in [(Algorithm::EcdsaP256, 32), (Algorithm::EcdsaP384, 48)] {
        let key = fixture.key(algorithm);
        openssl.write("public.der", &output(|out| key.public_key(0, out)).unwrap());
        openssl.write("private.der", &output(|out| key.export(0, out)).unwrap());
        for (hash, der, jws) in [
            ("sha256", EcdsaSha256, EcdsaSha256Jws),
            ("sha384", EcdsaSha384, EcdsaSha384Jws),
            ("sha512", EcdsaSha512, EcdsaSha512Jws),
        ] {
            let input = Input::Message(MESSAGE);
            let ours = output(|out| key.sign(der, input, out)).unwrap();
            openssl.write("signature", &ours);
            let options = format!("-rawin -digest {hash} -in @message");
            openssl.must(&format!(
                "pkeyutl -verify -pubin -keyform DER -inkey @public.der -sigfile @signature \
                 {options}"
            ));
            openssl.must(&format!(
                "pkeyutl -sign -keyform DER -inkey @private.der -out @theirs {options}"
            ));
            let theirs = openssl.read("theirs");
            assert_eq!(
                key.verify(0, der, input, &theirs),
                Ok(1),
                "{algorithm} {hash}"
            );
            let raw = raw(&openssl, &theirs, len);
            assert_eq!(key.verify(0, jws, input, &raw), Ok(1), "{algorithm} {hash}");
            let ours = output(|out| key.sign(jws, input, out)).unwrap();
            assert_eq!(ours.len(), 2 * len);
            assert_eq!(key.verify(0, jws, input, &ours), Ok(1));
            // Neither form is taken for the other.
            assert!(key.verify(0, der, input, &ours).is_err());
            assert!(key.verify(0, jws, input, &theirs).is_err());
        }
    }
}

/// r and s of a signature in DER, as OpenSSL reads them, one after the other.
fn raw(openssl: &OpenSsl, der: &[u8], len: usize) -> Vec<u8> {
    openssl.write("parsed", der);
    let text = openssl.must("asn1parse -inform DER -in @parsed");
    let text = String::from_utf8(text).unwrap();
    let numbers = text.lines().filter_map(|line| line.split_once("INTEGER"));
    let both: String = numbers
        .map(|(_, number)| format!("{:0>1$}", number.trim().trim_start_matches(':'), 2 * len))
        .collect();
    crate::common::unhex(&both)
}

#[test]
fn our_signatures_over_digests_verify_with_openssl_and_theirs_with_us() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    let fixture = Fixture::new();
    openssl.write("message", MESSAGE);
    for (algorithm, scheme, hash, options) in [
        (Algorithm::EcdsaP256, Scheme::EcdsaSha256, "sha256", ""),
        (Algorithm::EcdsaP384, Scheme::EcdsaSha384, "sha384", ""),
        (
            Algorithm::Rsa2048,
            Scheme::RsaPkcs1Sha512,
            "sha512",
            "-pkeyopt digest:sha512",
        ),
        (
            Algorithm::Rsa2048,
            Scheme::RsaPssSha256,
            "sha256",
            "-pkeyopt digest:sha256 -pkeyopt rsa_padding_mode:pss -pkeyopt rsa_pss_saltlen:digest",
        ),
    ] {
        let key = fixture.key(algorithm);
        let digest = openssl.must(&format!("dgst -{hash} -binary @message"));
        openssl.write("digest", &digest);
        openssl.write("public.der", &output(|out| key.public_key(0, out)).unwrap());
        openssl.write("private.der", &output(|out| key.export(0, out)).unwrap());
        let input = Input::Digest(&digest);
        let signature = output(|out| key.sign(scheme, input, out)).unwrap();
        openssl.write("signature", &signature);
        openssl.must(&format!(
            "pkeyutl -verify -pubin -keyform DER -inkey @public.der -in @digest \
             -sigfile @signature {options}"
        ));
        openssl.must(&format!(
            "pkeyutl -sign -keyform DER -inkey @private.der -in @digest -out @theirs {options}"
        ));
        let theirs = openssl.read("theirs");
        for input in [input, Input::Message(MESSAGE)] {
            assert_eq!(key.verify(0, scheme, input, &theirs), Ok(1), "{scheme:?}");
        }
    }
}

#[test]
fn openssl_makes_the_same_rsa_public_key_of_what_we_generate() {
    let Some(openssl) = OpenSsl::find() else {
        return;
    };
    for algorithm in [Algorithm::Rsa2048, Algorithm::Rsa3072, Algorithm::Rsa4096] {
        let path = openssl.write("generated.der", rsa_pkcs8(algorithm));
        let said = openssl.must("pkey -in @generated.der -check -noout");
        assert!(String::from_utf8_lossy(&said).contains("valid"));
        let (_fixture, key) = import(rsa_pkcs8(algorithm));
        same_public_key(&openssl, &key, &path);
    }
}
