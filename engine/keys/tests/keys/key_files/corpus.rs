//! The files.

use super::der::{self, INTEGER, OCTET_STRING, SEQUENCE, element, elements, inside, long_element};
use crate::common::unhex;
use crate::openssl::OpenSsl;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use keyway_keys::Algorithm;

/// A file, and what is to become of it.
pub struct File {
    pub name: String,
    pub bytes: Vec<u8>,
    /// The public key, where OpenSSL does not read the file.
    pub public: Option<Vec<u8>>,
    pub wanted: Wanted,
}

#[derive(Clone, Copy)]
pub enum Wanted {
    Taken,
    /// Taken if the algorithm is named, since the file does not tell the curve.
    TakenAs(Algorithm),
    /// Refused, in these words.
    Excluded(&'static str),
}

/// What is refused by policy. Each stands in the table of `docs/CLI.md`.
pub const EXCLUSIONS: [&str; 31] = [
    "encrypted with a passphrase",
    "more than one private key",
    "more than two primes",
    "RSA keys have 2048, 3072 or 4096 bits",
    "the public exponent is from 65537 to 2^33 - 1",
    "without its primes",
    "primes of different lengths",
    "the supported curves are P-256",
    "does not say which curve",
    "Ed448",
    "X25519",
    "X448",
    "DSA",
    "Diffie-Hellman",
    "a PKCS#12 container",
    "a security key",
    "parts do not belong together",
    "no private key",
    "a public key",
    "text in UTF-16",
    "text in UTF-32",
    "line ends are written out",
    "PEM on one line",
    "PEM among other text",
    "JSON that holds PEM",
    "more behind it",
    "PuTTY's format",
    "JWKs",
    "key material is at most 16,384 bytes long",
    "under the name of another format",
    "not base64url",
];

/// All files.
pub fn files(openssl: &OpenSsl) -> Vec<File> {
    let mut corpus = Corpus {
        openssl,
        files: Vec::new(),
    };
    for (name, options) in [
        ("ed25519", "-algorithm ed25519"),
        ("p256", "-algorithm EC -pkeyopt ec_paramgen_curve:P-256"),
        ("p384", "-algorithm EC -pkeyopt ec_paramgen_curve:P-384"),
        ("rsa2048", "-algorithm RSA -pkeyopt rsa_keygen_bits:2048"),
        ("rsa3072", "-algorithm RSA -pkeyopt rsa_keygen_bits:3072"),
        ("pss", "-algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048"),
        (
            "pss-sha256",
            "-algorithm RSA-PSS -pkeyopt rsa_keygen_bits:2048 -pkeyopt rsa_pss_keygen_md:sha256 \
             -pkeyopt rsa_pss_keygen_mgf1_md:sha256 -pkeyopt rsa_pss_keygen_saltlen:32",
        ),
    ] {
        openssl.must(&format!("genpkey {options} -out @{name}"));
        corpus.encodings(name);
    }
    corpus.curves("p256", 32);
    corpus.curves("p384", 48);
    corpus.scalars("p256", 32);
    corpus.scalars("p384", 48);
    corpus.rsa();
    corpus.ed25519();
    corpus.openssh();
    corpus.excluded();
    corpus.files
}

pub struct Corpus<'a> {
    pub openssl: &'a OpenSsl,
    pub files: Vec<File>,
}

impl Corpus<'_> {
    fn add(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>, wanted: Wanted) {
        self.files.push(File {
            name: name.into(),
            bytes: bytes.into(),
            public: None,
            wanted,
        });
    }

    pub fn take(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.add(name, bytes, Wanted::Taken);
    }

    /// Taken, with this public key.
    pub fn take_with(&mut self, name: impl Into<String>, public: &[u8], bytes: impl Into<Vec<u8>>) {
        self.take(name, bytes);
        self.files.last_mut().unwrap().public = Some(public.to_vec());
    }

    /// Taken, with the public key of the file `of`.
    fn take_as(&mut self, name: impl Into<String>, of: &str, bytes: impl Into<Vec<u8>>) {
        let public = self.public(of);
        self.take_with(name, &public, bytes);
    }

    pub fn exclude(&mut self, name: &str, bytes: impl Into<Vec<u8>>, words: &'static str) {
        assert!(EXCLUSIONS.contains(&words), "{words}");
        self.add(name, bytes, Wanted::Excluded(words));
    }

    pub fn public(&self, of: &str) -> Vec<u8> {
        let line = format!("pkey -in @{of} -pubout -outform DER");
        self.openssl.must(&line)
    }

    pub fn pkcs8_der(&self, of: &str) -> Vec<u8> {
        let line = format!("pkcs8 -topk8 -nocrypt -in @{of} -outform DER");
        self.openssl.must(&line)
    }

    /// The RSAPrivateKey or ECPrivateKey in the key's PKCS#8 document.
    pub fn inner(&self, of: &str) -> Vec<u8> {
        elements(&inside(&self.pkcs8_der(of))).remove(2).1
    }

    /// One key in the encodings that all keys have, and what editors and shells make of them.
    fn encodings(&mut self, key: &str) {
        let name = |variant: &str| format!("{key}: {variant}");
        let der = self.pkcs8_der(key);
        let body = STANDARD.encode(&der);
        let text = pem("PRIVATE KEY", &der);
        self.take(name("DER"), der.clone());
        self.take(name("PEM"), text.clone());
        self.take(name("as made"), self.openssl.read(key));
        self.take_as(
            name("DER and a line end"),
            key,
            [&der[..], b"\r\n"].concat(),
        );
        self.take(name("DER and zeros"), [&der[..], &[0; 3]].concat());
        self.take_as(name("byte order mark"), key, format!("\u{feff}{text}"));
        self.take(name("CRLF"), text.replace('\n', "\r\n"));
        self.take_as(name("CR"), key, text.replace('\n', "\r"));
        self.take(name("no last line end"), text.trim_end());
        self.take(name("trailing spaces"), text.replace('\n', "  \n"));
        self.take_as(name("indented"), key, text.replace('\n', "\n  "));
        self.take_as(name("blank lines"), key, text.replace('\n', "\n\n"));
        for width in [1_000_000, 76, 60, 20] {
            let lines = STANDARD.encode(&der);
            let lines = lines.as_bytes().chunks(width).map(|line| {
                let line = std::str::from_utf8(line).unwrap();
                format!("{line}\n")
            });
            let lines: String = lines.collect();
            let text = format!("-----BEGIN PRIVATE KEY-----\n{lines}-----END PRIVATE KEY-----\n");
            self.take_as(name(&format!("lines of {width}")), key, text);
        }
        let spaces = format!("-----BEGIN PRIVATE KEY-----\n{body} \n-----END PRIVATE KEY-----\n");
        self.take_as(name("one line"), key, spaces.replace("MI", "MI "));
        self.take(
            name("text around"),
            format!("Bag Attributes\n  x: y\n{text}the end\n"),
        );
        let latin = [&b"Schl\xfcssel\n"[..], text.as_bytes(), b"\xff\xfe\n"].concat();
        self.take(name("text that is not UTF-8"), latin);
        let other = pem("CERTIFICATE", b"no certificate");
        self.take_as(name("before a certificate"), key, format!("{text}{other}"));
        self.take_as(name("behind a certificate"), key, format!("{other}{text}"));
        let other = pem("DH PARAMETERS", b"none");
        self.take_as(name("beside parameters"), key, format!("{other}{text}"));
        let public = pem("PUBLIC KEY", &self.public(key));
        self.take(name("behind its public key"), format!("{public}{text}"));
        let attributes = [der::inside(&der), vec![0xa0, 0]].concat();
        self.take(name("attributes"), element(SEQUENCE, &attributes));
        self.take_as(name("long lengths"), key, lengthened(&der));
        self.take_as(name("BER"), key, indefinite(&der));
        self.take_as(
            name("BER and a line end"),
            key,
            [&indefinite(&der)[..], b"\n"].concat(),
        );
        let text = pem("PRIVATE KEY", &indefinite(&der));
        self.take_as(name("BER in PEM"), key, text.clone());
        let long = pem("CERTIFICATE", &[7; 16_000]);
        self.exclude(
            &name("beside a long chain"),
            format!("{text}{long}"),
            "key material is at most 16,384 bytes long",
        );
        for label in ["RSA PRIVATE KEY", "EC PRIVATE KEY", "ANY PRIVATE KEY"] {
            let text = pem(label, &der);
            self.take_as(name(&format!("PKCS#8 as {label}")), key, text);
        }
        if key == "ed25519" {
            return;
        }
        let inner = self.inner(key);
        let label = if key.starts_with('p') && !key.starts_with("pss") {
            "EC PRIVATE KEY"
        } else {
            "RSA PRIVATE KEY"
        };
        let plain = key.replace("-sha256", "").replace("pss", "");
        if label == "RSA PRIVATE KEY" && !plain.is_empty() {
            self.take(name("PKCS#1 DER"), inner.clone());
            self.take(name("PKCS#1 PEM"), pem(label, &inner));
            let header = "Comment: made by hand\n\n";
            let text = pem(label, &inner);
            let text = text.replacen("-----\n", &format!("-----\n{header}"), 1);
            self.take_as(name("PKCS#1 with a header"), key, text);
            let text = pem("PRIVATE KEY", &inner);
            self.take_as(name("PKCS#1 as PRIVATE KEY"), key, text);
        }
    }

    /// EC keys in the forms that only they have.
    fn curves(&mut self, key: &str, len: usize) {
        let openssl = self.openssl;
        let name = |variant: &str| format!("{key}: {variant}");
        for encoding in ["named_curve", "explicit"] {
            for form in ["uncompressed", "compressed", "hybrid"] {
                let options = format!("-param_enc {encoding} -conv_form {form}");
                let sec1 = openssl.must(&format!("ec -in @{key} {options}"));
                assert!(sec1.starts_with(b"-----BEGIN EC PRIVATE KEY"));
                openssl.write("sec1", &sec1);
                self.take(name(&format!("SEC1, {options}")), sec1);
                let der = openssl.must("ec -in @sec1 -outform DER");
                self.take(name(&format!("SEC1 DER, {options}")), der);
                let pkcs8 = openssl.must("pkcs8 -topk8 -nocrypt -in @sec1");
                self.take(name(&format!("PKCS#8, {options}")), pkcs8);
            }
            let options = format!("-param_enc {encoding} -no_public");
            let sec1 = openssl.must(&format!("ec -in @{key} {options}"));
            self.take_as(name(&format!("SEC1, {options}")), key, sec1);
        }
        let curve = if len == 32 { "prime256v1" } else { "secp384r1" };
        let both = openssl.must(&format!("ecparam -name {curve} -genkey"));
        self.take(name("with its parameters' block"), both);

        let document = inside(&self.pkcs8_der(key));
        let algorithm = elements(&document).remove(1).1;
        let fields = elements(&inside(&self.inner(key)));
        let (scalar, public) = (&fields[1].1, element(0xa1, &fields[2].1));
        let version = [INTEGER, 1, 1];
        let with = |scalar: &[u8], rest: &[u8]| {
            let scalar = element(OCTET_STRING, scalar);
            der::sequence(&[&version, &scalar, rest])
        };
        let zeros = [&[0, 0], &scalar[..]].concat();
        let padded = der::pkcs8(&algorithm, &with(&zeros, &public));
        self.take_as(name("scalar with leading zeros"), key, padded);
        // A scalar of one byte less, as writers of minimal numbers make it.
        let small = &scalar[1..];
        let short = der::pkcs8(&algorithm, &with(small, &[]));
        let full = der::pkcs8(&algorithm, &with(&[&[0], small].concat(), &[]));
        openssl.write("full", &full);
        self.take_as(name("scalar cut short"), "full", short);
        // The algorithm's own parameters gone, and those of the inner document as well.
        let sec1 = with(scalar, &public);
        self.take_as(
            name("SEC1 without parameters"),
            key,
            pem("EC PRIVATE KEY", &sec1),
        );
        let oid = element(0x06, &elements(&algorithm)[0].1);
        let bare = der::pkcs8(&oid, &sec1);
        self.take_as(name("PKCS#8 without parameters"), key, bare);
        let named = match len {
            32 => Algorithm::EcdsaP256,
            _ => Algorithm::EcdsaP384,
        };
        let nothing = with(scalar, &[]);
        self.take_as(name("a scalar only"), key, pem("EC PRIVATE KEY", &nothing));
        self.files.last_mut().unwrap().wanted = Wanted::TakenAs(named);
        self.exclude(
            &name("a scalar only, and no algorithm named"),
            pem("EC PRIVATE KEY", &nothing),
            "does not say which curve",
        );
        let jwk_point = inside(&fields[2].1)[2..].to_vec();
        let (x, y) = jwk_point.split_at(len);
        let crv = if len == 32 { "P-256" } else { "P-384" };
        let members = [("x", x), ("y", y), ("d", scalar)];
        let jwk = jwk(&format!("\"kty\":\"EC\",\"crv\":\"{crv}\""), &members);
        self.take_as(name("JWK"), key, jwk.clone());
        self.take_as(name("JWK with a mark"), key, format!("\u{feff}\n{jwk}\r\n"));
        let other = der::pkcs8(
            &algorithm,
            &with(&scalar.iter().map(|b| b ^ 1).collect::<Vec<_>>(), &public),
        );
        self.exclude(&name("of two keys"), other, "parts do not belong together");
        // Another generator (CVE-2020-0601) makes another curve.
        let explicit = openssl.must(&format!("ec -in @{key} -param_enc explicit -outform DER"));
        let mut forged = explicit.clone();
        let generator = forged
            .windows(2)
            .position(|pair| pair == [OCTET_STRING, if len == 32 { 65 } else { 97 }]);
        forged[generator.unwrap() + 10] ^= 1;
        self.exclude(
            &name("another generator"),
            forged,
            "the supported curves are P-256",
        );
    }

    fn rsa(&mut self) {
        let (key, openssl) = ("rsa2048", self.openssl);
        let inner = self.inner(key);
        let oid = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01";
        self.take("rsa: no NULL", der::pkcs8(oid, &inner));
        let numbers: Vec<Vec<u8>> = elements(&inside(&inner)).into_iter().map(|e| e.1).collect();
        let document = |order: [usize; 9]| {
            let fields: Vec<Vec<u8>> = order
                .iter()
                .map(|at| element(INTEGER, &numbers[*at]))
                .collect();
            element(SEQUENCE, &fields.concat())
        };
        assert_eq!(document([0, 1, 2, 3, 4, 5, 6, 7, 8]), inner);
        // qInv does not fit any more, and is computed.
        let swapped = document([0, 1, 2, 3, 5, 4, 7, 6, 8]);
        self.take_as("rsa: the smaller prime first", key, swapped);
        let digits = |at: usize| {
            let zeros = numbers[at].iter().take_while(|digit| **digit == 0).count();
            &numbers[at][zeros..]
        };
        let names = ["n", "e", "d", "p", "q", "dp", "dq", "qi"];
        let members: Vec<(&str, &[u8])> = names
            .into_iter()
            .enumerate()
            .map(|(at, name)| (name, digits(at + 1)))
            .collect();
        let kind = "\"kty\":\"RSA\",\"alg\":\"PS256\",\"key_ops\":[\"sign\"]";
        let text = jwk(kind, &members);
        let standard = text.replace('-', "+").replace('_', "/");
        let standard = standard.replace("key/ops", "key_ops");
        assert!(standard.contains('+') && standard.contains('/'));
        self.take_as("rsa: JWK in standard base64", key, standard.clone());
        self.exclude(
            "rsa: JWK in two alphabets",
            standard.replacen('+', "-", 1),
            "not base64url",
        );
        let escaped = standard
            .replace('/', "\\/")
            .replace("PS256", "PS\\u00325\\u0036");
        self.take_as("rsa: JWK with escapes", key, escaped);
        let escaped = text.replace('A', "\\u0041").replace("kty", "\\u006Bty");
        self.take_as("rsa: JWK with escapes of letters", key, escaped);
        self.take_as("rsa: JWK", key, text);
        for (form, options) in [("MSBLOB", ""), ("PVK", "-pvk-none")] {
            let blob = openssl.must(&format!("rsa -in @{key} -outform {form} {options}"));
            self.take(format!("rsa: {form}"), blob.clone());
            self.take(format!("rsa: {form} and more"), [&blob[..], b"\n"].concat());
        }
        let mut blob = openssl.must(&format!("rsa -in @{key} -outform MSBLOB"));
        blob[8..12].copy_from_slice(b"DSS2");
        self.exclude("DSA: MSBLOB", blob, "DSA");
        let mut blob = openssl.must(&format!("rsa -in @{key} -outform PVK -pvk-none"));
        blob[12] = 1;
        self.exclude("rsa: PVK, encrypted", blob, "encrypted with a passphrase");
        self.take_as("rsa: JWK without CRT", key, jwk(kind, &members[..5]));
        self.exclude(
            "rsa: JWK without primes",
            jwk(kind, &members[..3]),
            "without its primes",
        );
        self.exclude(
            "rsa: of other numbers",
            document([0, 1, 2, 3, 4, 5, 7, 6, 8]),
            "parts do not belong together",
        );
        let mut three = elements(&inside(&inner));
        three[0].1 = vec![1];
        three.push((SEQUENCE, vec![INTEGER, 1, 3]));
        let three: Vec<Vec<u8>> = three.iter().map(|(tag, e)| element(*tag, e)).collect();
        let three = element(SEQUENCE, &three.concat());
        let words = "more than two primes";
        self.exclude("rsa: three primes", three.clone(), words);
        self.exclude(
            "rsa: three primes, PEM",
            pem("RSA PRIVATE KEY", &three),
            words,
        );
        self.exclude("rsa: three primes, BER", indefinite(&three), words);
        let pkcs8 = der::pkcs8(&[&oid[..], &[5, 0]].concat(), &three);
        self.exclude("rsa: three primes, PKCS#8", pkcs8, words);
        let oth = jwk(kind, &members).replace("\"kid\"", "\"oth\":[{\"r\":\"AQ\"}],\"kid\"");
        self.exclude("rsa: three primes, JWK", oth, words);
        self.unequal_primes();
    }

    /// Of 2,048 bits, from primes of 1,040 and 1,008 bits. OpenSSL makes no such key, and reads it.
    fn unequal_primes(&mut self) {
        let pkcs1 = unhex(include_str!("rsa-primes-1040-1008.hex"));
        let oid = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\0";
        let pkcs8 = der::pkcs8(oid, &pkcs1);
        let words = "primes of different lengths";
        self.exclude("rsa: unequal primes, PKCS#1", pkcs1.clone(), words);
        let text = pem("RSA PRIVATE KEY", &pkcs1);
        self.exclude("rsa: unequal primes, PEM", text, words);
        self.exclude("rsa: unequal primes, PKCS#8", pkcs8, words);
        let numbers = elements(&inside(&pkcs1));
        let names = ["n", "e", "d", "p", "q"].into_iter();
        let numbers = numbers[1..].iter().map(|(_, number)| &number[..]);
        let members: Vec<(&str, &[u8])> = names.zip(numbers).collect();
        let text = jwk("\"kty\":\"RSA\"", &members);
        self.exclude("rsa: unequal primes, JWK without CRT", text, words);
    }

    fn ed25519(&mut self) {
        let key = "ed25519";
        let seed = inside(&self.inner(key));
        let public = self.public(key).split_off(12);
        let oid = [0x06, 3, 0x2b, 0x65, 0x70];
        let algorithm = element(SEQUENCE, &oid);
        let private = element(OCTET_STRING, &element(OCTET_STRING, &seed));
        let bits = [&[0], &public[..]].concat();
        for (name, version, public) in [
            ("version 2", 1, element(0x81, &bits)),
            // ring before 0.17.
            (
                "version 2, tagged explicitly",
                1,
                element(0xa1, &element(3, &bits)),
            ),
            ("version 1 with a public key", 0, element(0x81, &bits)),
        ] {
            let parts = [&[INTEGER, 1, version][..], &algorithm, &private, &public];
            let document = der::sequence(&parts);
            self.take_as(format!("ed25519: {name}"), key, document.clone());
            let text = pem("PRIVATE KEY", &document);
            self.take_as(format!("ed25519: {name}, PEM"), key, text);
        }
        let wrong = [&[0], &[7; 32][..]].concat();
        let parts = [
            &[INTEGER, 1, 1][..],
            &algorithm,
            &private,
            &element(0x81, &wrong),
        ];
        self.exclude(
            "ed25519: of two keys",
            der::sequence(&parts),
            "parts do not belong together",
        );
        let members = [("x", &public[..]), ("d", &seed)];
        let kind = "\"kty\":\"OKP\",\"crv\":\"Ed25519\"";
        self.take_as("ed25519: JWK", key, jwk(kind, &members));
        let set = format!("{{\"keys\":[{}]}}", jwk(kind, &members));
        self.take_as("ed25519: a set of one JWK", key, set);
    }
}

pub fn pem(label: &str, der: &[u8]) -> String {
    let body = STANDARD.encode(der);
    let lines = body.as_bytes().chunks(64).map(|line| {
        let line = std::str::from_utf8(line).unwrap();
        format!("{line}\n")
    });
    let lines: String = lines.collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

/// A document whose elements have lengths of four bytes, inside as well.
fn lengthened(der: &[u8]) -> Vec<u8> {
    let elements = elements(der).into_iter().map(|(tag, contents)| {
        let contents = match tag {
            SEQUENCE => lengthened(&contents),
            _ => contents,
        };
        long_element(tag, &contents)
    });
    elements.collect::<Vec<_>>().concat()
}

/// A document whose SEQUENCEs have no length, and whose OCTET STRINGs are in two pieces.
pub fn indefinite(der: &[u8]) -> Vec<u8> {
    let elements = elements(der).into_iter().map(|(tag, contents)| match tag {
        SEQUENCE => [&[tag, 0x80][..], &indefinite(&contents), &[0, 0]].concat(),
        OCTET_STRING => {
            let (one, two) = contents.split_at(contents.len() / 3);
            let pieces = [element(tag, one), element(tag, two)].concat();
            [&[tag | 0x20, 0x80][..], &pieces, &[0, 0]].concat()
        }
        _ => element(tag, &contents),
    });
    elements.collect::<Vec<_>>().concat()
}

pub fn jwk(kind: &str, members: &[(&str, &[u8])]) -> String {
    let members = members.iter().map(|(name, bytes)| {
        let text = URL_SAFE_NO_PAD.encode(bytes);
        format!(",\"{name}\":\"{text}\"")
    });
    format!(
        "{{{kind}{},\"kid\":\"a \\\"b\"}}",
        members.collect::<String>()
    )
}
