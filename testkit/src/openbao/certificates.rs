//! A CA for one test, made by the `openssl` program: no key lies in the repository, and none expires there.

use std::path::{Path, PathBuf};
use std::process::Command;

const SERVER_NAMES: &str = "subjectAltName=IP:127.0.0.1,DNS:localhost";

/// The files, all PEM. The private keys have mode 0600.
#[derive(Debug)]
pub(super) struct Certificates {
    pub(super) ca: PathBuf,
    ca_key: PathBuf,
    pub(super) server_cert: PathBuf,
    pub(super) server_key: PathBuf,
    pub(super) client_cert: PathBuf,
    pub(super) client_key: PathBuf,
    /// Self-signed: neither its CA nor its client is known to the server.
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
        let certificates = Certificates {
            ca,
            ca_key,
            server_cert: dir.join("localhost.pem"),
            server_key: dir.join("localhost.key"),
            client_cert: dir.join("keyway.pem"),
            client_key: dir.join("keyway.key"),
            other_cert,
            other_key,
        };
        let (cert, key) = (&certificates.server_cert, &certificates.server_key);
        let extensions = [SERVER_NAMES, "extendedKeyUsage=serverAuth"];
        certificates.sign("localhost", extensions, cert, key);
        certificates.sign_client("keyway");
        certificates
    }

    /// Makes a client certificate for this common name.
    pub(super) fn sign_client(&self, common_name: &str) {
        let names = format!("subjectAltName=DNS:{common_name}");
        let extensions = [names.as_str(), "extendedKeyUsage=clientAuth"];
        self.sign(common_name, extensions, &self.client_cert, &self.client_key);
    }

    /// Makes a server's certificate that is its own CA, as `openssl req -x509` does, and names it as the CA.
    pub(super) fn sign_server_with_itself(&self) {
        openssl(request(&self.server_cert, &self.server_key).args([
            "-subj",
            "/CN=localhost",
            "-addext",
            SERVER_NAMES,
        ]));
        std::fs::copy(&self.server_cert, &self.ca).unwrap();
    }

    /// Makes a server's certificate that ends in the moment in which it begins.
    pub(super) fn sign_ended_server(&self, dir: &Path) {
        let (cert, key) = (&self.server_cert, &self.server_key);
        self.sign_ended(dir, "localhost", SERVER_NAMES, (cert, key));
    }

    /// Makes a client certificate that ends in the moment in which it begins.
    pub(super) fn sign_ended_client(&self, dir: &Path, common_name: &str) {
        let names = format!("subjectAltName=DNS:{common_name}");
        let (cert, key) = (&self.client_cert, &self.client_key);
        self.sign_ended(dir, common_name, &names, (cert, key));
    }

    fn sign_ended(&self, dir: &Path, common_name: &str, names: &str, (cert, key): (&Path, &Path)) {
        let request = dir.join("ended.csr");
        let mut command = Command::new("openssl");
        command.args(["req", "-new", "-nodes", "-newkey", "ec", "-subj"]);
        command.arg(format!("/CN={common_name}"));
        command.args(["-addext", names]);
        command.args(["-pkeyopt", "ec_paramgen_curve:prime256v1", "-keyout"]);
        openssl(command.arg(key).arg("-out").arg(&request));
        let mut command = Command::new("openssl");
        command.args(["x509", "-req", "-days", "0", "-copy_extensions", "copyall"]);
        command.arg("-in").arg(&request).arg("-CA").arg(&self.ca);
        command.arg("-CAkey").arg(&self.ca_key);
        openssl(command.arg("-out").arg(cert));
    }

    fn sign(&self, common_name: &str, extensions: [&str; 2], cert: &Path, key: &Path) {
        openssl(
            request(cert, key)
                .args(["-subj", &format!("/CN={common_name}")])
                .args(["-addext", "basicConstraints=critical,CA:FALSE"])
                .args(
                    extensions
                        .iter()
                        .flat_map(|extension| ["-addext", extension]),
                )
                .arg("-CA")
                .arg(&self.ca)
                .arg("-CAkey")
                .arg(&self.ca_key),
        );
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
