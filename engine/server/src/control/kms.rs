//! Between the KMS's words and the shard's: opening the provider, unwrapping a DEK, error classes.

use std::path::Path;
use std::sync::Arc;

use keyway_core::{Instant, LeaseEvent};
use keyway_kms::{
    Argon2Params, Asking, Budget, Class, DevKek, KmsError, Local, NewDek, PassphraseSource,
    ProviderState, Service, UnlockNeed, UnlockSecret, Unlocked, UnwrappedDek,
};
use keyway_protocol::Status;
use zeroize::Zeroizing;

use super::Control;
use super::messages::DekBytes;
use crate::clock;
use crate::config::{Config, Passphrase};
use crate::metrics::snapshot::KmsSnapshot;

/// Name of the local KEK's file in the data directory.
pub const KEK_FILE: &str = "kek.json";

/// Opens the local KMS, making its KEK at the first start, and unlocks it if a passphrase is
/// given.
///
/// Errors: permissions, a damaged file, a wrong passphrase; the text names the remedy.
pub async fn open(config: &Config, cluster_id: [u8; 16]) -> Result<Service, KmsError> {
    let path = config.data.join(KEK_FILE);
    let local = if path.exists() {
        Local::open(
            &path,
            if config.dev {
                DevKek::Allow
            } else {
                DevKek::Refuse
            },
        )?
    } else {
        create(config, &path).await?
    };
    let service = Service::new(Arc::new(local), cluster_id, Budget::in_process(), || {
        clock::now().as_micros()
    })?;
    if service.state() == ProviderState::Locked {
        match source(config)? {
            Some(source) => {
                let passphrase = source.read(Asking::Existing)?;
                service.unlock(UnlockSecret::Passphrase(passphrase)).await?;
            }
            None => tracing::warn!(
                "the KEK is locked: keyspaces answer NEEDS_UNLOCK until `keyway unlock`"
            ),
        }
    }
    if service.is_unprotected() {
        tracing::warn!(
            "--dev: the KEK lies UNPROTECTED in {}; never keep real keys here",
            path.display()
        );
    }
    Ok(service)
}

async fn create(config: &Config, path: &Path) -> Result<Local, KmsError> {
    if config.dev {
        return Local::create_unprotected(path);
    }
    let source = source(config)?.ok_or_else(|| {
        KmsError::new(
            Class::Misconfigured,
            "there is no KEK yet and no passphrase to protect a new one with",
            "start on a terminal, or give --passphrase-fd or --passphrase-file",
        )
    })?;
    Local::create(path, source.read(Asking::New)?, Argon2Params::default()).await
}

/// Where the passphrase comes from; `None` when there is neither a credential nor a terminal.
fn source(config: &Config) -> Result<Option<PassphraseSource>, KmsError> {
    Ok(match &config.passphrase {
        Passphrase::Descriptor(fd) => Some(PassphraseSource::Descriptor(*fd)),
        Passphrase::File(path) => Some(PassphraseSource::File(path.clone())),
        Passphrase::CredentialOrPrompt => {
            if std::env::var_os("CREDENTIALS_DIRECTORY").is_some() {
                Some(PassphraseSource::service_manager()?)
            } else if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
                Some(PassphraseSource::Prompt)
            } else {
                None
            }
        }
    })
}

/// The KMS as the control thread needs it; [`Service`] is one.
pub trait Kms {
    /// Makes a DEK.
    fn new_dek(
        &self,
        keyspace: u32,
        generation: u32,
    ) -> impl Future<Output = Result<NewDek, KmsError>>;

    /// Unwraps a DEK.
    fn unwrap_dek(
        &self,
        keyspace: u32,
        generation: u32,
        wrapped: &[u8],
    ) -> impl Future<Output = Result<UnwrappedDek, KmsError>>;

    /// Unlocks the provider.
    fn unlock(&self, secret: UnlockSecret) -> impl Future<Output = Result<Unlocked, KmsError>>;

    /// Whether the provider can reach its key now.
    fn state(&self) -> ProviderState;

    /// What an unlock wants.
    fn unlock_need(&self) -> UnlockNeed;

    /// What the exporter is to know.
    fn figures(&self) -> KmsSnapshot;
}

impl Kms for Service {
    async fn new_dek(&self, keyspace: u32, generation: u32) -> Result<NewDek, KmsError> {
        Service::new_dek(self, keyspace, generation).await
    }

    async fn unwrap_dek(
        &self,
        keyspace: u32,
        generation: u32,
        wrapped: &[u8],
    ) -> Result<UnwrappedDek, KmsError> {
        Service::unwrap_dek(self, keyspace, generation, wrapped).await
    }

    async fn unlock(&self, secret: UnlockSecret) -> Result<Unlocked, KmsError> {
        Service::unlock(self, secret).await
    }

    fn state(&self) -> ProviderState {
        Service::state(self)
    }

    fn unlock_need(&self) -> UnlockNeed {
        Service::unlock_need(self)
    }

    fn figures(&self) -> KmsSnapshot {
        let calls = self.counters();
        KmsSnapshot {
            calls: calls
                .iter()
                .map(|(operation, outcome, count)| {
                    (
                        operation.name().to_owned(),
                        outcome.name().to_owned(),
                        count,
                    )
                })
                .collect(),
            provider: self.provider_name().to_owned(),
            locked: self.state() == ProviderState::Locked,
        }
    }
}

impl<K: Kms + 'static> Control<K> {
    /// Asks for a keyspace's DEK; what the shard is to be told.
    pub(super) async fn unwrap(&self, keyspace: u32) -> (LeaseEvent, Option<Box<DekBytes>>) {
        if self.is_locked(keyspace) {
            // The question crossed the lock on its way.
            return (LeaseEvent::Locked, None);
        }
        let (generation, wrapped) = match self.wrapped_dek(keyspace) {
            Ok(dek) => dek,
            Err(error) => {
                tracing::error!(keyspace, %error, "no DEK to unwrap");
                return (LeaseEvent::Failed, None);
            }
        };
        match self.kms.unwrap_dek(keyspace, generation, &wrapped).await {
            Ok(_) if self.is_locked(keyspace) => {
                tracing::info!(keyspace, "a DEK came after the lock and is not handed out");
                (LeaseEvent::Locked, None)
            }
            Ok(unwrapped) => {
                let sent_at = Instant::from_micros(unwrapped.sent_at_us);
                let bytes = Zeroizing::new(*unwrapped.dek.expose());
                let dek = Box::new(DekBytes { generation, bytes });
                (
                    LeaseEvent::Granted {
                        sent_at,
                        generation,
                    },
                    Some(dek),
                )
            }
            Err(error) => {
                tracing::warn!(keyspace, %error, "the DEK was not unwrapped");
                (lease_event(&error), None)
            }
        }
    }
}

fn lease_event(error: &KmsError) -> LeaseEvent {
    match error.class() {
        Class::Denied => LeaseEvent::Denied,
        Class::Disabled => LeaseEvent::Disabled,
        Class::Locked => LeaseEvent::Locked,
        Class::Throttled { retry_after } | Class::Unavailable { retry_after } => {
            let retry_after_us = retry_after.map_or(0, |after| after.as_micros() as u64);
            LeaseEvent::Unavailable { retry_after_us }
        }
        Class::Corrupt | Class::Misconfigured => LeaseEvent::Failed,
    }
}

/// How an administrator's request ends that the KMS refused.
pub(super) fn refusal(error: &KmsError) -> (Status, String) {
    let status = match error.class() {
        Class::Denied | Class::Disabled => Status::Forbidden,
        Class::Locked => Status::Unavailable,
        Class::Throttled { .. } | Class::Unavailable { .. } => Status::Unavailable,
        Class::Corrupt | Class::Misconfigured => Status::Internal,
    };
    (status, error.to_string())
}
