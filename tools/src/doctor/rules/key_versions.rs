//! Keyspaces that are wrapped under an old version of their KMS's key: a warning before the KMS stops decrypting with it.

use crate::doctor::{Evidence, Finding, Severity, Subject};
use crate::text;

pub fn examine(case: &Evidence, findings: &mut Vec<Finding>) {
    for kms in &case.change().now.kms {
        let Some(versions) = &kms.key_versions else {
            continue;
        };
        if versions.keyspaces_behind == 0 {
            continue;
        }
        let evidence = format!(
            "{} wrapped under versions older than {}",
            text::count(versions.keyspaces_behind, "keyspace"),
            versions.newest
        );
        findings.push(
            Finding::new(
                "kms-key-version",
                Severity::Warning,
                Subject::Kms(kms.name.clone()),
                "data keys are wrapped under an old version of the KMS's key",
                evidence,
            )
            .because(
                "the key was rotated at the KMS; once that stops decrypting with old versions (min_decryption_version), \
                 the keys of these keyspaces are lost to it",
            )
            .next("keyway keyspace list")
            .next(format!("keyway keyspace rewrap KEYSPACE --kms {}", kms.name)),
        );
    }
}
