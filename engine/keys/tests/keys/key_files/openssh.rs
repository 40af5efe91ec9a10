//! Files of OpenSSH's own format.

use super::corpus::Corpus;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::process::Command;

impl Corpus<'_> {
    pub fn openssh(&mut self) {
        let kinds = [
            ("ed25519", ""),
            ("ecdsa", "-b 256"),
            ("ecdsa", "-b 384"),
            ("rsa", "-b 2048"),
            ("rsa", "-b 3072"),
        ];
        for (kind, options) in kinds {
            let name = format!("OpenSSH {kind} {options}");
            if !self.ssh_keygen(&format!("-q -t {kind} {options} -C a@b -f @ssh"), "") {
                eprintln!("SKIPPED: no ssh-keygen command, so no key of its own was read");
                return;
            }
            let bytes = self.openssl.read("ssh");
            let public = self.ssh_public();
            self.take(name.clone(), bytes.clone());
            self.files.last_mut().unwrap().public = Some(public.clone());
            let text = String::from_utf8(bytes).unwrap().replace('\n', "\r\n");
            self.take(format!("{name}, CRLF"), text);
            self.files.last_mut().unwrap().public = Some(public);
            if kind != "ed25519" {
                assert!(self.ssh_keygen("-q -p -P '' -m PKCS8 -f @ssh", ""));
                self.take(format!("{name}, as PKCS#8"), self.openssl.read("ssh"));
                assert!(self.ssh_keygen("-q -p -P '' -m PEM -f @ssh", ""));
                self.take(format!("{name}, as PEM"), self.openssl.read("ssh"));
            }
        }
        for (name, options, passphrase, words) in [
            (
                "encrypted",
                "-t ed25519",
                "secret",
                "encrypted with a passphrase",
            ),
            (
                "P-521",
                "-t ecdsa -b 521",
                "",
                "the supported curves are P-256",
            ),
        ] {
            assert!(self.ssh_keygen(&format!("-q {options} -f @ssh"), passphrase));
            let bytes = self.openssl.read("ssh");
            self.exclude(&format!("OpenSSH {name}"), bytes, words);
        }
    }

    fn ssh_keygen(&self, line: &str, passphrase: &str) -> bool {
        let path = self.openssl.path("ssh");
        if line.contains("-t ") {
            let _ = std::fs::remove_file(&path);
        }
        let mut command = Command::new("ssh-keygen");
        command.args(["-N", passphrase]);
        for word in line.split_whitespace() {
            match word {
                "@ssh" => command.arg(&path),
                "''" => command.arg(""),
                word => command.arg(word),
            };
        }
        command.output().is_ok_and(|output| output.status.success())
    }

    /// SubjectPublicKeyInfo of the key in `ssh`.
    fn ssh_public(&self) -> Vec<u8> {
        let path = self.openssl.path("ssh");
        let output = Command::new("ssh-keygen")
            .args(["-e", "-m", "PKCS8", "-f"])
            .arg(&path)
            .output()
            .unwrap();
        if output.status.success() {
            self.openssl.write("ssh.public", &output.stdout);
            return self
                .openssl
                .must("pkey -pubin -in @ssh.public -outform DER");
        }
        // ssh-keygen writes no such document of Ed25519: its line ends in the 32 bytes.
        let line = String::from_utf8(self.openssl.read("ssh.pub")).unwrap();
        let blob = STANDARD.decode(line.split(' ').nth(1).unwrap()).unwrap();
        let head = b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";
        [&head[..], &blob[blob.len() - 32..]].concat()
    }
}
