//! The machine's trust store: the CAs that are trusted if the settings name none.

use std::path::{Path, PathBuf};

use crate::stamp::Stamp;

/// Where distributions keep the list of CAs, as OpenSSL and rustls-native-certs search it.
const PLACES: [&str; 10] = [
    "/etc/ssl/certs",
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/certs",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/certs/ca-certificates.crt",
];
/// Most directories in SSL_CERT_DIR whose changes are seen.
const DIRECTORIES_MAX: usize = 16;

/// Returns the state of the files and directories from which the roots are read. A file that is added to a directory
/// changes the directory's state.
pub(crate) fn stamp() -> Stamp {
    let mut named: Vec<PathBuf> = Vec::new();
    named.extend(std::env::var_os("SSL_CERT_FILE").map(PathBuf::from));
    if let Some(directories) = std::env::var_os("SSL_CERT_DIR") {
        named.extend(std::env::split_paths(&directories).take(DIRECTORIES_MAX));
    }
    // The variables replace the usual places.
    if named.is_empty() {
        return Stamp::of(PLACES.iter().map(Path::new));
    }
    Stamp::of(named.iter().map(PathBuf::as_path))
}
