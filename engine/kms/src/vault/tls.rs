//! The TLS settings of connections, from the files named in the settings.

use std::path::Path;
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::pinned;
use super::settings::{VaultAuth, VaultSettings};
use super::validity::Validity;
use crate::private_file::{self, Rule};
use crate::roots;
use crate::stamp::Stamp;
use crate::{Cause, Class, KmsError};

/// Longest PEM file, in bytes: a machine's whole list of CAs has some 250 KiB.
const PEM_BYTES_MAX: usize = 1024 * 1024;

/// Returns the state of the files that [`tls`] reads.
pub(super) fn stamp(settings: &VaultSettings) -> Stamp {
    let client = match &settings.auth {
        VaultAuth::Cert {
            cert_file,
            key_file,
            ..
        } => vec![cert_file.as_path(), key_file.as_path()],
        VaultAuth::Token { .. } | VaultAuth::Approle { .. } => Vec::new(),
    };
    let files = Stamp::of(settings.ca_file.as_deref().into_iter().chain(client));
    match settings.ca_file {
        Some(_) => files,
        None => files.and(roots::stamp()),
    }
}

/// Reads the files. `is_plain`: without TLS.
pub(super) fn tls(settings: &VaultSettings, is_plain: bool) -> Result<ClientConfig, KmsError> {
    let ring = Arc::new(rustls::crypto::ring::default_provider());
    let unusable = |error: rustls::Error| {
        KmsError::new(
            Class::Misconfigured,
            format!("TLS cannot be set up: {error}"),
            "check that the files of the setting auth are a certificate and its own private key",
        )
    };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&ring))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?;
    let config = match &settings.ca_file {
        // No roots are needed without TLS.
        _ if is_plain => builder.with_root_certificates(RootCertStore::empty()),
        Some(path) => {
            let named = certificates(path)?;
            let roots = roots_of(path, &named)?;
            let verifier = pinned::verifier(roots, named, ring).map_err(|error| {
                KmsError::new(
                    Class::Misconfigured,
                    format!("{} cannot be used: {error}", path.display()),
                    "name a file with the certificates of the server's CA, or the server's own",
                )
                .from_cause(Cause::File)
            })?;
            builder
                .dangerous()
                .with_custom_certificate_verifier(verifier)
        }
        None => builder.with_root_certificates(native_roots()?),
    };
    match &settings.auth {
        VaultAuth::Cert {
            cert_file,
            key_file,
            ..
        } => {
            let chain = certificates(cert_file)?;
            let pem = private_file::read(key_file, Rule::Credential, PEM_BYTES_MAX)?;
            let key = PrivateKeyDer::from_pem_slice(&pem)
                .map_err(|_| bad_pem(key_file, "an unencrypted private key"))?;
            config.with_client_auth_cert(chain, key).map_err(unusable)
        }
        VaultAuth::Token { .. } | VaultAuth::Approle { .. } => Ok(config.with_no_client_auth()),
    }
}

/// Returns `true` if the client certificate in this file is not valid at this time, in s since 1970.
pub(super) fn is_out_of_date(cert_file: &Path, now_unix_s: u64) -> bool {
    let Ok(chain) = certificates(cert_file) else {
        return false;
    };
    let validity = chain.first().and_then(|first| Validity::of(first));
    validity.is_some_and(|validity| {
        !(validity.not_before_unix_s..=validity.not_after_unix_s).contains(&now_unix_s)
    })
}

fn roots_of(path: &Path, named: &[CertificateDer<'static>]) -> Result<RootCertStore, KmsError> {
    let mut roots = RootCertStore::empty();
    for certificate in named {
        roots
            .add(certificate.clone())
            .map_err(|_| bad_pem(path, "a certificate of a CA"))?;
    }
    Ok(roots)
}

fn native_roots() -> Result<RootCertStore, KmsError> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(KmsError::new(
            Class::Misconfigured,
            "this machine trusts no CA",
            "install the package ca-certificates, or name the server's CA in the setting ca_file",
        ));
    }
    Ok(roots)
}

/// Returns the certificates of a PEM file, at least one. They are public, so every user may read the file.
fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, KmsError> {
    let file = std::fs::File::open(path).map_err(|error| {
        KmsError::new(
            Class::Misconfigured,
            format!("cannot open {}: {error}", path.display()),
            "check the path, and that the service's user may read it",
        )
        .from_cause(Cause::File)
    })?;
    let pem = private_file::read_bounded(file, path, PEM_BYTES_MAX)?;
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(bad_pem(path, "certificates")),
    }
}

fn bad_pem(path: &Path, wanted: &str) -> KmsError {
    KmsError::new(
        Class::Misconfigured,
        format!("{} does not hold {wanted} as PEM", path.display()),
        "check that the path names the right file",
    )
    .from_cause(Cause::File)
}
