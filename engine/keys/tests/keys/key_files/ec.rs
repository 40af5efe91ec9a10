//! EC keys in every container, with each way of writing the scalar and the curve.

use super::corpus::{Corpus, indefinite, jwk, pem};
use super::der::{self, INTEGER, OCTET_STRING, element, elements, inside};

impl Corpus<'_> {
    /// The key `key`, whose numbers have `len` bytes: its scalar with zeros before it and without those that it has, its curve
    /// named and spelled out, in PKCS#8, SEC1, BER, PEM, JWK and OpenSSH's format.
    pub fn scalars(&mut self, key: &str, len: usize) {
        let openssl = self.openssl;
        let fields = elements(&inside(&self.inner(key)));
        let scalar = fields[1].1.clone();
        // A scalar that begins with a zero. Its key has another public half, which OpenSSL computes.
        let small = scalar[1..].to_vec();
        let document = inside(&self.pkcs8_der(key));
        let named = elements(&document).remove(1).1;
        let explicit = openssl.must(&format!("ec -in @{key} -param_enc explicit -outform DER"));
        let parameters = elements(&inside(&explicit)).remove(2).1;
        let oid = element(0x06, &elements(&named).remove(0).1);
        let explicit = [oid, parameters].concat();
        let full = format!("{key}-small");
        let whole = ec_private_key(&[&[0], &small[..]].concat(), &[]);
        openssl.write(&full, &der::pkcs8(&named, &whole));
        let curve = format!("ecdsa-sha2-nistp{}", 8 * len);
        for (of, digits) in [(key, &scalar), (&full, &small)] {
            let zeros = |count: usize| [&vec![0; count][..], digits].concat();
            let public = self.public(of);
            let point = public[public.len() - 2 * len - 1..].to_vec();
            let (x, y) = point[1..].split_at(len);
            for (written, scalar) in [
                ("as it is", zeros(0)),
                ("of full length", zeros(len - digits.len())),
                ("with more zeros", zeros(len + 9 - digits.len())),
            ] {
                for (params, algorithm) in [("named", &named), ("explicit", &explicit)] {
                    let name = |container: &str| {
                        format!("{of}: scalar {written}, curve {params}, {container}")
                    };
                    let parameters = element(0xa0, &elements_behind_first(algorithm));
                    let sec1 = ec_private_key(&scalar, &parameters);
                    let pkcs8 = der::pkcs8(algorithm, &ec_private_key(&scalar, &[]));
                    self.take_with(name("PKCS#8 DER"), &public, pkcs8.clone());
                    self.take_with(name("PKCS#8 PEM"), &public, pem("PRIVATE KEY", &pkcs8));
                    self.take_with(name("PKCS#8 BER"), &public, indefinite(&pkcs8));
                    self.take_with(name("SEC1 DER"), &public, sec1.clone());
                    self.take_with(name("SEC1 PEM"), &public, pem("EC PRIVATE KEY", &sec1));
                    self.take_with(name("SEC1 BER"), &public, indefinite(&sec1));
                }
                let kind = format!("\"kty\":\"EC\",\"crv\":\"P-{}\"", 8 * len);
                let members = [("x", x), ("y", y), ("d", &scalar)];
                let name = |container: &str| format!("{of}: scalar {written}, {container}");
                self.take_with(name("JWK"), &public, jwk(&kind, &members));
                self.take_with(
                    name("JWK without a point"),
                    &public,
                    jwk(&kind, &members[2..]),
                );
                let document = openssh(&curve, &point, &scalar);
                self.take_with(
                    name("OpenSSH"),
                    &public,
                    pem("OPENSSH PRIVATE KEY", &document),
                );
            }
        }
    }
}

fn ec_private_key(scalar: &[u8], rest: &[u8]) -> Vec<u8> {
    let scalar = element(OCTET_STRING, scalar);
    der::sequence(&[&[INTEGER, 1, 1], &scalar, rest])
}

/// What an AlgorithmIdentifier has behind its name.
fn elements_behind_first(algorithm: &[u8]) -> Vec<u8> {
    let (tag, contents) = elements(algorithm).remove(1);
    element(tag, &contents)
}

/// A key of OpenSSH's own format, as `PROTOCOL.key` describes it.
fn openssh(kind: &str, point: &[u8], scalar: &[u8]) -> Vec<u8> {
    let string = |bytes: &[u8]| {
        let len = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        [&len[..], bytes].concat()
    };
    let curve = kind.rsplit('-').next().unwrap();
    let public = [kind.as_bytes(), curve.as_bytes(), point]
        .map(string)
        .concat();
    // A number with its sign: one whose first bit is set has a zero before it.
    let number = [&[0], scalar].concat();
    let mut private = [&[7; 8][..], &public, &string(&number), &string(b"a@b")].concat();
    for padding in 1..=u8::try_from((8 - private.len() % 8) % 8).unwrap() {
        private.push(padding);
    }
    let none = string(b"none");
    let parts = [
        &none,
        &none,
        &string(b""),
        &vec![0, 0, 0, 1],
        &string(&public),
        &string(&private),
    ];
    let parts: Vec<u8> = parts.into_iter().flatten().copied().collect();
    [&b"openssh-key-v1\0"[..], &parts].concat()
}
