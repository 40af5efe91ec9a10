//! Files that are refused by policy.

use super::corpus::{Corpus, pem};

impl Corpus<'_> {
    pub fn excluded(&mut self) {
        let openssl = self.openssl;
        for (name, options, words) in [
            ("ed448", "-algorithm ed448", "Ed448"),
            ("x25519", "-algorithm x25519", "X25519"),
            ("x448", "-algorithm x448", "X448"),
            (
                "P-521",
                "-algorithm EC -pkeyopt ec_paramgen_curve:P-521",
                "the supported curves are P-256",
            ),
            (
                "secp256k1",
                "-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1",
                "the supported curves are P-256",
            ),
            (
                "secp256k1, explicit",
                "-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1 \
                 -pkeyopt ec_param_enc:explicit",
                "the supported curves are P-256",
            ),
            (
                "a binary field",
                "-algorithm EC -pkeyopt ec_paramgen_curve:sect283r1 \
                 -pkeyopt ec_param_enc:explicit",
                "the supported curves are P-256",
            ),
            (
                "rsa1024",
                "-algorithm RSA -pkeyopt rsa_keygen_bits:1024",
                "RSA keys have 2048, 3072 or 4096 bits",
            ),
            (
                "rsa2056",
                "-algorithm RSA -pkeyopt rsa_keygen_bits:2056",
                "RSA keys have 2048, 3072 or 4096 bits",
            ),
            (
                "rsa with exponent 3",
                "-algorithm RSA -pkeyopt rsa_keygen_bits:2048 -pkeyopt rsa_keygen_pubexp:3",
                "the public exponent is from 65537 to 2^33 - 1",
            ),
            (
                "rsa with exponent 2^33 + 1",
                "-algorithm RSA -pkeyopt rsa_keygen_bits:2048 -pkeyopt rsa_keygen_pubexp:8589934593",
                "the public exponent is from 65537 to 2^33 - 1",
            ),
            (
                "rsa of three primes",
                "-algorithm RSA -pkeyopt rsa_keygen_bits:2048 -pkeyopt rsa_keygen_primes:3",
                "more than two primes",
            ),
            (
                "encrypted",
                "-algorithm ed25519 -aes-128-cbc -pass pass:x",
                "encrypted with a passphrase",
            ),
        ] {
            openssl.must(&format!("genpkey {options} -out @excluded"));
            self.exclude(name, openssl.read("excluded"), words);
        }
        openssl.must("rsa -in @rsa2048 -traditional -aes128 -passout pass:x -out @excluded");
        let text = openssl.read("excluded");
        self.exclude(
            "traditional, encrypted",
            text,
            "encrypted with a passphrase",
        );
        openssl.must(
            "pkcs8 -topk8 -in @p256 -outform DER -v1 PBE-SHA1-3DES -passout pass:x -out @excluded",
        );
        let der = openssl.read("excluded");
        self.exclude("DER, encrypted", der, "encrypted with a passphrase");
        openssl.must("dsaparam -genkey -noout -out @excluded 1024");
        self.exclude("DSA", openssl.read("excluded"), "DSA");
        let der = openssl.must("pkcs8 -topk8 -nocrypt -in @excluded -outform DER");
        self.exclude("DSA, PKCS#8", der, "DSA");
        openssl.must("genpkey -algorithm DH -pkeyopt group:ffdhe2048 -out @excluded");
        self.exclude("DH", openssl.read("excluded"), "Diffie-Hellman");
        openssl.must("req -x509 -new -key @p256 -subj /CN=x -days 9 -out @certificate");
        self.exclude(
            "a certificate",
            openssl.read("certificate"),
            "no private key",
        );
        openssl.must("pkcs12 -export -inkey @p256 -in @certificate -passout pass: -out @excluded");
        self.exclude("PKCS#12", openssl.read("excluded"), "a PKCS#12 container");
        let text = openssl.read("p256");
        self.exclude("two keys", text.repeat(2), "more than one private key");
        let text = String::from_utf8(text).unwrap();
        let units = |order: fn(u16) -> [u8; 2]| -> Vec<u8> {
            text.encode_utf16().flat_map(order).collect()
        };
        self.exclude("UTF-16LE", units(u16::to_le_bytes), "text in UTF-16");
        self.exclude("UTF-16BE", units(u16::to_be_bytes), "text in UTF-16");
        let marked = [&[0xff, 0xfe], &units(u16::to_le_bytes)[..]].concat();
        self.exclude("UTF-16 with a mark", marked, "text in UTF-16");
        let units: Vec<u8> = text
            .chars()
            .flat_map(|c| u32::from(c).to_le_bytes())
            .collect();
        let marked = [&[0xff, 0xfe, 0, 0], &units[..]].concat();
        self.exclude("UTF-32", marked, "text in UTF-32");
        self.exclude(
            "written out",
            text.replace('\n', "\\n"),
            "line ends are written out",
        );
        let joined = text.trim_end().replace('\n', " ");
        self.exclude("one line", joined, "PEM on one line");
        let among = "PEM among other text";
        self.exclude("in quotation marks", format!("\"{text}\""), among);
        let escaped = text.replace('\n', "\\n");
        self.exclude("a JSON text", format!("\"{escaped}\""), among);
        self.exclude("a variable", format!("KEY='{text}'\n"), among);
        let document = format!("{{\"type\":\"service_account\",\"private_key\":\"{escaped}\"}}");
        self.exclude("a JSON document", document, "JSON that holds PEM");
        let der = openssl.must("pkcs8 -topk8 -nocrypt -in @p256 -outform DER");
        self.exclude("two documents", der.repeat(2), "more behind it");
        let putty = "PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n";
        self.exclude("PuTTY", putty, "PuTTY's format");
        let public = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA x\n";
        self.exclude("OpenSSH, public", public, "a public key");
        let one = "{\"kty\":\"oct\",\"k\":\"AAECAwQFBgcICQoLDA0ODw\"}";
        let set = format!("{{\"keys\":[{one},{one}]}}");
        self.exclude("a set of two JWKs", set, "JWKs");
        // An OpenSSH key whose secret stays in its device.
        let string = |bytes: &[u8]| {
            let len = u32::try_from(bytes.len()).unwrap().to_be_bytes();
            [&len[..], bytes].concat()
        };
        let kind = string(b"sk-ssh-ed25519@openssh.com");
        let private = string(&[&[7; 8][..], &kind].concat());
        let none = string(b"none");
        let blob = [
            &b"openssh-key-v1\0"[..],
            &none,
            &none,
            &string(b""),
            &[0, 0, 0, 1],
            &string(&kind),
            &private,
        ];
        let text = pem("OPENSSH PRIVATE KEY", &blob.concat());
        self.exclude("OpenSSH security key", text, "a security key");
    }
}
