//! Opening the configured KMSes at start.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use keyway_kms::{
    Argon2Params, Asking, Class, DevKek, KmsError, Local, PassphraseSource, Provider,
    ProviderState, Service, UnlockNeed, UnlockSecret,
};

use super::catalogue::Catalogue;
use super::kms::{self, KmsSet};
use crate::clock;
use crate::config::{Config, KmsConfig, Passphrase, ProviderConfig};

/// Name of the local KEK's file in the data directory.
const KEK_FILE: &str = "kek.json";

/// Opens every KMS of the configuration and unlocks those that can be without an operator. None is called over a
/// network: a server starts during an outage.
///
/// Errors: permissions, a file that is damaged, or gone although `keyspaces` need it, a wrong passphrase; the text names
/// the remedy.
pub async fn open(
    config: &Config,
    cluster_id: [u8; 16],
    keyspaces: &Catalogue,
) -> Result<KmsSet<Service>, KmsError> {
    let mut set = BTreeMap::new();
    for (name, kms) in &config.kms.by_name {
        let wrapped = keyspaces.iter().filter(|(_, it)| it.kms == *name);
        let wrapped: Vec<&str> = wrapped.map(|(_, it)| it.name.as_str()).collect();
        let provider = open_provider(config, kms, &wrapped).await?;
        let clock = || clock::now().as_micros();
        let service = Service::new(provider, cluster_id, kms.budget, clock)?;
        unlock(config, name, &service).await?;
        service.look_after_logins();
        set.insert(name.clone(), service);
    }
    let without_secret = config.kms.by_name.iter();
    let without_secret = without_secret.filter(|(_, kms)| kms.unlock_without_secret);
    let without_secret = without_secret.map(|(name, _)| name.clone()).collect();
    Ok(KmsSet::new(set, config.kms.default.clone()).unlocking_without_secret(without_secret))
}

async fn open_provider(
    config: &Config,
    kms: &KmsConfig,
    wrapped: &[&str],
) -> Result<Arc<dyn Provider>, KmsError> {
    Ok(match &kms.provider {
        ProviderConfig::Local(local) => {
            let in_data = || config.data.join(KEK_FILE);
            let path = local.file.clone().unwrap_or_else(in_data);
            if !path.exists() && !wrapped.is_empty() {
                return Err(kek_missing(&path, wrapped));
            }
            Arc::new(open_local(config, &path).await?)
        }
        ProviderConfig::Vault(settings) => {
            Arc::new(keyway_kms::TransitProvider::open(settings.clone())?)
        }
        ProviderConfig::Pkcs11(settings) => Arc::new(keyway_kms::Pkcs11::open(settings.clone())?),
        #[cfg(feature = "aws")]
        ProviderConfig::Aws(settings) => Arc::new(keyway_kms::Aws::open(settings.clone())?),
    })
}

async fn open_local(config: &Config, path: &Path) -> Result<Local, KmsError> {
    if path.exists() {
        let dev = if config.dev {
            DevKek::Allow
        } else {
            DevKek::Refuse
        };
        return Local::open(path, dev);
    }
    if config.dev {
        return Local::create_unprotected(path);
    }
    match source(config)? {
        Some(source) => {
            Local::create(path, source.read(Asking::New)?, Argon2Params::default()).await
        }
        // `keyway kms init` makes it.
        None => Local::open_or_uninitialised(path, DevKek::Refuse),
    }
}

/// Another KEK in its place would open none of these keyspaces.
fn kek_missing(path: &Path, wrapped: &[&str]) -> KmsError {
    /// Keyspaces that the message names.
    const NAMED_MAX: usize = 5;
    let named = wrapped.iter().take(NAMED_MAX).copied();
    let mut names: Vec<&str> = named.collect();
    if wrapped.len() > NAMED_MAX {
        names.push("…");
    }
    KmsError::new(
        Class::Misconfigured,
        format!(
            "{} is missing, and {} keyspaces are wrapped under it: {}",
            path.display(),
            wrapped.len(),
            names.join(", ")
        ),
        "restore it from a backup, or name the file that it is in (kms.NAME.file); without it their keys cannot be \
         opened",
    )
}

async fn unlock(config: &Config, name: &str, service: &Service) -> Result<(), KmsError> {
    if service.is_unprotected() {
        tracing::warn!(
            kms = name,
            "--dev: the KEK lies UNPROTECTED on the disk; never keep real keys here"
        );
    }
    if service.state() == ProviderState::Unlocked {
        return Ok(());
    }
    if service.unlock_need() == UnlockNeed::Passphrase
        && let Some(source) = source(config)?
    {
        let passphrase = source.read(Asking::Existing)?;
        service
            .unlock(None, UnlockSecret::Passphrase(passphrase))
            .await?;
        return Ok(());
    }
    let need = kms::need(service.unlock_need());
    tracing::warn!(
        kms = name,
        needs = need.word(),
        "the KMS is locked: its keyspaces answer NEEDS_UNLOCK; {}",
        need.remedy_of_kms(name)
    );
    Ok(())
}

/// Where the passphrase comes from; `None` when there is neither a credential nor a terminal.
fn source(config: &Config) -> Result<Option<PassphraseSource>, KmsError> {
    Ok(match &config.passphrase {
        Passphrase::Descriptor(fd) => Some(PassphraseSource::Descriptor(*fd)),
        Passphrase::File(path) => Some(PassphraseSource::File(path.clone())),
        Passphrase::CredentialOrPrompt => {
            if PassphraseSource::has_service_manager() {
                Some(PassphraseSource::service_manager()?)
            } else if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
                Some(PassphraseSource::Prompt)
            } else {
                None
            }
        }
    })
}
