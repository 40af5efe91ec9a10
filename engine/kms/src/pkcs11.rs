//! A token or HSM through PKCS#11: DEKs are sealed with AES-GCM under an AES key that never leaves the token.
//!
//! ```text
//!  wrap, unwrap, unlock ──▶ bounded queue ──▶ worker thread ──▶ module (.so) ──▶ token
//!  lock ──▶ gate: answers from before it are not handed out; the worker logs out as its next step
//! ```
//!
//! - The calls of a module block and may hang, so one thread of its own makes them, one after the other. A caller
//!   waits for its time limit and no longer. A call whose caller left before its turn is not made, and what a later
//!   answer holds is wiped on the thread.
//! - A PIN is sent once for each [`Provider::unlock`] and never again by itself: tokens count wrong PINs and lock. The
//!   attempt that may be the last is made only with [`UnlockSecret::ForcedPin`].
//! - With a PIN file the worker logs in without an operator, at the first call and whenever the login is lost, unless a
//!   lock came; the PIN in the file is sent only while the token reports no refused PIN, or after the file changed.
//! - A PIN that is given while the token is open is compared with the one that opened it, and not sent.
//! - There is no `generate`: a DEK that the token made would have to leave it in the clear all the same, which takes a
//!   second call and an extractable object on the token; our own random numbers cost neither.

mod attempts;
mod classify;
mod format;
mod gate;
mod module;
mod settings;
mod token;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::provider::{
    Provider, ProviderFuture, ProviderState, UnlockNeed, UnlockSecret, Unlocked, Wrapped,
};
use crate::{Class, Context, KmsError, SecretKey};

use gate::{Visit, VisitGate};
pub use settings::Pkcs11Settings;
use worker::{Job, ReplySender, UnlockPin, Worker};

/// Calls that wait for the worker. A token takes milliseconds for each, so that the last one waits less than a call's
/// usual time limit.
const QUEUE_LEN_MAX: usize = 64;

/// How soon to try again when the queue is full: a token works off a part of it in this time.
const FULL_RETRY_AFTER: Duration = Duration::from_millis(100);

/// A key on a token. Cloning gives another handle to the same one. When the last handle is dropped, the worker logs out
/// and ends.
#[derive(Clone)]
pub struct Pkcs11(Arc<Shared>);

struct Shared {
    settings: Pkcs11Settings,
    gate: Arc<VisitGate>,
    queue: SyncSender<Job>,
}

impl Pkcs11 {
    /// Checks the settings and starts the worker. The module is loaded and the token looked for at the first unlock, so
    /// that neither of them, when absent, stands in the way of a start.
    pub fn open(settings: Pkcs11Settings) -> Result<Self, KmsError> {
        settings.check()?;
        let gate = Arc::new(VisitGate::new(settings.pin_file.is_some()));
        let (queue, jobs) = sync_channel(QUEUE_LEN_MAX);
        let worker = Worker::new(settings.clone(), Arc::clone(&gate))?;
        std::thread::Builder::new()
            .name("keyway-pkcs11".into())
            .spawn(move || worker.run(&jobs))
            .map_err(|error| {
                KmsError::new(
                    Class::Unavailable { retry_after: None },
                    format!("cannot start the thread of the PKCS#11 module: {error}"),
                    "raise the service's limit of threads",
                )
            })?;
        Ok(Self(Arc::new(Shared {
            settings,
            gate,
            queue,
        })))
    }
}

impl Shared {
    /// Hands a job to the worker and waits for its answer, at most `limit_ms`.
    async fn ask<T>(
        &self,
        limit_ms: u64,
        job: impl FnOnce(ReplySender<T>) -> Job,
    ) -> Result<T, KmsError> {
        let (answer, answered) = oneshot::channel();
        self.queue.try_send(job(answer)).map_err(|error| match error {
            TrySendError::Full(_) => KmsError::new(
                Class::Throttled {
                    retry_after: Some(FULL_RETRY_AFTER),
                },
                format!("{QUEUE_LEN_MAX} calls wait for the token already"),
                "wait; if it stays so, the module hangs: check the token, then restart the server",
            ),
            TrySendError::Disconnected(_) => worker_gone(),
        })?;
        match tokio::time::timeout(Duration::from_millis(limit_ms), answered).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(worker_gone()),
            Err(_) => Err(KmsError::new(
                Class::Unavailable { retry_after: None },
                format!(
                    "the PKCS#11 module {} gave no answer within {limit_ms} ms",
                    self.settings.module.display()
                ),
                "check the token and the way to it; if the call never ends, restart the server",
            )),
        }
    }

    /// As [`Shared::ask`], for who may ask only while the token is open. An answer from before a lock is not handed out
    /// after it.
    async fn ask_open<T>(
        &self,
        job: impl FnOnce(Visit, ReplySender<T>) -> Job,
    ) -> Result<T, KmsError> {
        let visit = self.gate.enter().ok_or_else(|| locked(&self.settings))?;
        let result = self
            .ask(self.settings.call_ms_max, |answer| job(visit, answer))
            .await;
        if self.gate.was_locked_since(visit) {
            return Err(locked(&self.settings));
        }
        result
    }

    fn pin_of(&self, secret: UnlockSecret) -> Result<UnlockPin, KmsError> {
        match (secret, &self.settings.pin_file) {
            (UnlockSecret::Pin(pin), _) => Ok(UnlockPin::Given {
                pin,
                is_forced: false,
            }),
            (UnlockSecret::ForcedPin(pin), _) => Ok(UnlockPin::Given {
                pin,
                is_forced: true,
            }),
            (UnlockSecret::Nothing, Some(path)) => Ok(UnlockPin::InFile(path.clone())),
            (UnlockSecret::Nothing, None) => Err(KmsError::new(
                Class::Locked,
                "a token needs a PIN and was given nothing",
                "unlock it with the token's user PIN: keyway kms unlock NAME --pin",
            )),
            (secret, _) => Err(KmsError::new(
                Class::Misconfigured,
                format!("a token needs a PIN and was given {}", secret.what()),
                "unlock it with the token's user PIN: keyway kms unlock NAME --pin",
            )),
        }
    }
}

impl Provider for Pkcs11 {
    fn name(&self) -> &'static str {
        "pkcs11"
    }

    fn state(&self) -> ProviderState {
        match self.0.gate.enter() {
            Some(_) => ProviderState::Unlocked,
            None => ProviderState::Locked,
        }
    }

    fn is_unprotected(&self) -> bool {
        false
    }

    /// A PIN; nothing, if there is a file with it that the token has not refused.
    fn unlock_need(&self) -> UnlockNeed {
        if self.0.settings.pin_file.is_some() && !self.0.gate.is_file_pin_refused() {
            UnlockNeed::Nothing
        } else {
            UnlockNeed::Pin
        }
    }

    fn wrap<'a>(&'a self, context: &'a Context, dek: &'a SecretKey) -> ProviderFuture<'a, Wrapped> {
        Box::pin(self.0.ask_open(move |visit, answer| Job::Wrap {
            visit,
            context: *context,
            dek: copy(dek),
            answer,
        }))
    }

    fn unwrap<'a>(
        &'a self,
        context: &'a Context,
        wrapped: &'a [u8],
    ) -> ProviderFuture<'a, SecretKey> {
        Box::pin(async move {
            // What is damaged on its face costs the token nothing.
            let sealed = format::Sealed::parse(wrapped).ok_or_else(|| {
                KmsError::new(
                    Class::Corrupt,
                    format!(
                        "the wrapped key of {context} was not made by the pkcs11 provider ({} bytes)",
                        wrapped.len()
                    ),
                    "check which KMS the keyspace uses; restore the wrapped key from a backup",
                )
            })?;
            self.0
                .ask_open(move |visit, answer| Job::Unwrap {
                    visit,
                    context: *context,
                    sealed,
                    answer,
                })
                .await
        })
    }

    /// Logs in to the token. A token checks a PIN only at a login: while it is open, the PIN is compared with the one that
    /// opened it, and a wrong one changes nothing and costs no attempt. [`UnlockSecret::ForcedPin`] logs out first and
    /// lets the token check it.
    fn unlock(&self, secret: UnlockSecret) -> ProviderFuture<'_, Unlocked> {
        let visit = self.0.gate.visit();
        Box::pin(async move {
            let pin = self.0.pin_of(secret)?;
            self.0
                .ask(self.0.settings.unlock_ms_max, |answer| Job::Unlock {
                    visit,
                    pin,
                    answer,
                })
                .await
        })
    }

    fn lock(&self) {
        self.0.gate.lock();
        // Wakes an idle worker. If the queue is full, the worker is awake and looks at the gate before its next call.
        let _ = self.0.queue.try_send(Job::Wake);
    }
}

impl fmt::Debug for Pkcs11 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pkcs11")
            .field("settings", &self.0.settings)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

fn copy(dek: &SecretKey) -> SecretKey {
    let filled: Result<_, std::convert::Infallible> = SecretKey::try_fill(|bytes| {
        bytes.copy_from_slice(dek.expose());
        Ok(())
    });
    match filled {
        Ok(copy) => copy,
    }
}

fn locked(settings: &Pkcs11Settings) -> KmsError {
    KmsError::new(
        Class::Locked,
        format!("token {} is locked", settings.token),
        "unlock it: keyway unlock KEYSPACE",
    )
}

fn worker_gone() -> KmsError {
    KmsError::new(
        Class::Unavailable { retry_after: None },
        "the thread of the PKCS#11 module has ended: it panicked, or the process is shutting down",
        "restart the server; report it if it comes back",
    )
}
