//! A CA for one test, made by the `openssl` program: no key lies in the repository, and none expires there.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The files, all PEM. The private keys have mode 0600.
#[derive(Debug)]
pub(super) struct Certificates {
    pub(super) ca: PathBuf,
    pub(super) server_cert: PathBuf,
    pub(super) server_key: PathBuf,
    pub(super) client_cert: PathBuf,
    pub(super) client_key: PathBuf,
    /// Signed by itself: neither its CA nor its client is known to the server.
    pub(super) other_cert: PathBuf,
    pub(super) other_key: PathBuf,
}

impl Certificates {
    /// Makes a CA in `dir`, a certificate for 127.0.0.1 and localhost, and one for the client `keyway`.
    pub(super) fn make(dir: &Path) -> Certificates {
        let ca = dir.join("ca.pem");
        let ca_key = dir.join("ca.key");
        openssl(
            request(&ca, &ca_key)
                .args(["-subj", "/CN=Keyway test CA"])
                .args(["-addext", "basicConstraints=critical,CA:TRUE"])
                .args(["-addext", "keyUsage=critical,keyCertSign"]),
        );
        let other_cert = dir.join("other.pem");
        let other_key = dir.join("other.key");
        openssl(request(&other_cert, &other_key).args(["-subj", "/CN=other"]));
        let signed = |name: &str, extensions: [&str; 2]| {
            let cert = dir.join(format!("{name}.pem"));
            let key = dir.join(format!("{name}.key"));
            openssl(
                request(&cert, &key)
                    .args(["-subj", &format!("/CN={name}")])
                    .args(["-addext", "basicConstraints=critical,CA:FALSE"])
                    .args(
                        extensions
                            .iter()
                            .flat_map(|extension| ["-addext", extension]),
                    )
                    .arg("-CA")
                    .arg(&ca)
                    .arg("-CAkey")
                    .arg(&ca_key),
            );
            (cert, key)
        };
        let (server_cert, server_key) = signed(
            "localhost",
            [
                "subjectAltName=IP:127.0.0.1,DNS:localhost",
                "extendedKeyUsage=serverAuth",
            ],
        );
        let (client_cert, client_key) = signed(
            "keyway",
            ["subjectAltName=DNS:keyway", "extendedKeyUsage=clientAuth"],
        );
        Certificates {
            ca,
            server_cert,
            server_key,
            client_cert,
            client_key,
            other_cert,
            other_key,
        }
    }
}

/// A new P-256 key and a certificate for it, valid for a day.
fn request(cert: &Path, key: &Path) -> Command {
    let mut command = Command::new("openssl");
    command
        .args(["req", "-x509", "-nodes", "-days", "1", "-newkey", "ec"])
        .args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-out"])
        .arg(cert)
        .arg("-keyout")
        .arg(key);
    command
}

fn openssl(command: &mut Command) {
    let output = command.output().expect("the openssl program is installed");
    assert!(
        output.status.success(),
        "openssl fails: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
