//! Calls of KMS services, each a task of its own, whose answer is returned to the state machine whatever happens.

use std::rc::Rc;
use std::sync::Arc;

use keyway_core::Instant;
use keyway_kms::{
    Initialise, KmsError, Passphrase, Pin, SecretKey, Share, UnlockSecret, Unlocked as Opened,
    UnwrappedDek,
};
use keyway_node::catalogue::WrappedDek;
use keyway_node::control::{
    Deks, FailureClass, FirstSeal, KmsAnswer, KmsFailure, KmsRequest, NewDek, Unlocked,
};
use keyway_node::ids::CallId;
use keyway_node::messages::{DekBytes, Secret};
use keyway_protocol::{KmsShares, UnlockKind};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

use super::Done;
use super::catalogue_file::{CatalogueFile, Checked};
use super::kms::{Kms, KmsSet, failure};

/// The duty to answer: a failure is returned if the task panics or is dropped.
pub(super) struct Promise {
    call: CallId,
    failing: fn(KmsFailure) -> KmsAnswer,
    done: mpsc::UnboundedSender<Done>,
    is_kept: bool,
}

impl Promise {
    pub(super) fn new(
        call: CallId,
        request: &KmsRequest,
        done: mpsc::UnboundedSender<Done>,
    ) -> Promise {
        Promise {
            call,
            failing: request.failing(),
            done,
            is_kept: false,
        }
    }

    fn keep(mut self, answer: KmsAnswer) {
        self.is_kept = true;
        // Without a receiver the server stops.
        let _ = self.done.send(Done::Kms(self.call, answer));
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        if !self.is_kept {
            let answer = (self.failing)(KmsFailure {
                class: FailureClass::Unavailable {
                    retry_after_us: None,
                },
                cause: "unknown",
                what: "the call ended without an answer".to_owned(),
                remedy: "this is a bug: the log says more".to_owned(),
            });
            let _ = self.done.send(Done::Kms(self.call, answer));
        }
    }
}

/// Makes a call.
pub(super) async fn call<K: Kms>(
    set: Rc<KmsSet<K>>,
    file: Option<Arc<CatalogueFile>>,
    name: String,
    request: KmsRequest,
    promise: Promise,
) {
    let caller = Caller {
        set: &set,
        file: file.as_deref(),
        done: promise.done.clone(),
    };
    let answer = match request {
        KmsRequest::Check(first_seal) => {
            let checked = caller.check(&name, first_seal).await;
            KmsAnswer::Checked(checked.map_err(|error| failure(&error)))
        }
        KmsRequest::Unwrap { keyspace, deks } => {
            let unwrapped = caller.unwrap(&name, keyspace, &deks).await;
            KmsAnswer::Unwrapped(unwrapped.map_err(|error| failure(&error)))
        }
        KmsRequest::NewDek {
            keyspace,
            generation,
        } => {
            let made = caller.make(&name, keyspace, generation).await;
            KmsAnswer::Made(made.map_err(|error| failure(&error)))
        }
        KmsRequest::Move {
            keyspace,
            from,
            in_use,
            retired,
        } => {
            let moved = caller.move_all((&from, &name), keyspace, &in_use, &retired);
            KmsAnswer::Moved(moved.await.map_err(|error| failure(&error)))
        }
        KmsRequest::Open { keyspace, secret } => {
            let opened = caller.open(&name, keyspace, secret).await;
            KmsAnswer::Opened(opened.map_err(|error| failure(&error)))
        }
        KmsRequest::Initialise {
            shares,
            threshold,
            passphrase,
        } => {
            let made = caller.initialise(&name, (shares, threshold), passphrase);
            KmsAnswer::Initialised(made.await.map_err(|error| failure(&error)))
        }
    };
    promise.keep(answer);
}

/// Has the seal of a KMS's keyspaces made under the newest version of the KMS's key.
pub(super) async fn renew_seal<K: Kms>(
    set: Rc<KmsSet<K>>,
    file: Arc<CatalogueFile>,
    name: String,
    done: mpsc::UnboundedSender<Done>,
) {
    let caller = Caller {
        set: &set,
        file: Some(&file),
        done,
    };
    match caller.renew_seal(&name).await {
        Ok(true) => tracing::info!(
            kms = name,
            "the seal of the keyspaces now uses the latest version of the KMS's key"
        ),
        Ok(false) => {}
        Err(error) => tracing::warn!(
            kms = name,
            %error,
            "the seal of the keyspaces still uses an older version of the KMS's key"
        ),
    }
}

struct Caller<'a, K> {
    set: &'a KmsSet<K>,
    file: Option<&'a CatalogueFile>,
    done: mpsc::UnboundedSender<Done>,
}

impl<K: Kms> Caller<'_, K> {
    /// Makes sure that the keyspaces of a KMS are what a server has written.
    async fn check(&self, name: &str, first_seal: FirstSeal) -> Result<(), KmsError> {
        let kms = self.set.get(name)?;
        let Some(file) = self.file else {
            return Ok(());
        };
        if file.check(name, kms, first_seal).await? == Checked::Anew {
            let _ = self.done.send(Done::SealDue);
        }
        Ok(())
    }

    /// Renews the seal of a KMS's keyspaces if it is behind. Returns whether it was.
    async fn renew_seal(&self, name: &str) -> Result<bool, KmsError> {
        let Some(file) = self.file else {
            return Ok(false);
        };
        self.check(name, FirstSeal::Optional).await?;
        let is_renewed = file.renew_seal(name, self.set.get(name)?).await?;
        if is_renewed {
            let _ = self.done.send(Done::SealDue);
        }
        Ok(is_renewed)
    }

    async fn unwrap(
        &self,
        name: &str,
        keyspace: u32,
        deks: &[WrappedDek],
    ) -> Result<Deks, KmsError> {
        self.check(name, FirstSeal::Optional).await?;
        let unwrapped = self.unwrap_each(name, keyspace, deks).await?;
        let sent_at_us = unwrapped.iter().map(|dek| dek.sent_at_us);
        Ok(Deks {
            sent_at: Instant::from_micros(sent_at_us.min().unwrap_or(0)),
            deks: deks
                .iter()
                .zip(&unwrapped)
                .map(|(dek, unwrapped)| copy(dek.generation, &unwrapped.dek))
                .collect(),
        })
    }

    async fn unwrap_each(
        &self,
        name: &str,
        keyspace: u32,
        deks: &[WrappedDek],
    ) -> Result<Vec<UnwrappedDek>, KmsError> {
        let kms = self.set.get(name)?;
        let mut unwrapped = Vec::with_capacity(deks.len());
        for dek in deks {
            let answer = kms.unwrap_dek(keyspace, dek.generation, &dek.record);
            unwrapped.push(answer.await?);
        }
        Ok(unwrapped)
    }

    async fn make(&self, name: &str, keyspace: u32, generation: u32) -> Result<NewDek, KmsError> {
        let made = self.set.get(name)?.new_dek(keyspace, generation).await?;
        Ok(NewDek {
            sent_at: Instant::from_micros(made.sent_at_us),
            dek: copy(generation, &made.dek),
            record: made.record,
        })
    }

    /// Wraps at one KMS what another has wrapped.
    async fn move_all(
        &self,
        (from, to): (&str, &str),
        keyspace: u32,
        in_use: &[WrappedDek],
        retired: &[WrappedDek],
    ) -> Result<(Deks, Vec<WrappedDek>), KmsError> {
        self.check(to, FirstSeal::Needed).await?;
        self.check(from, FirstSeal::Optional).await?;
        let mut moved = Deks {
            sent_at: Instant::MAX,
            deks: Vec::with_capacity(in_use.len()),
        };
        let mut records = Vec::with_capacity(in_use.len() + retired.len());
        for (deks, is_used) in [(in_use, true), (retired, false)] {
            let unwrapped = self.unwrap_each(from, keyspace, deks).await?;
            for (dek, unwrapped) in deks.iter().zip(unwrapped) {
                let generation = dek.generation;
                let wrapped = self.set.get(to)?;
                let wrapped = wrapped.wrap_dek(keyspace, generation, &unwrapped.dek);
                let wrapped = wrapped.await?;
                if is_used {
                    let sent_at = Instant::from_micros(wrapped.sent_at_us);
                    moved.sent_at = moved.sent_at.min(sent_at);
                    moved.deks.push(copy(generation, &wrapped.dek));
                }
                let record = wrapped.record;
                records.push(WrappedDek { generation, record });
            }
        }
        // The DEKs are of no use without the key that seals their keyspaces, which no other command wraps again.
        self.renew_seal(to).await?;
        Ok((moved, records))
    }

    async fn open(
        &self,
        name: &str,
        keyspace: Option<u32>,
        secret: Secret,
    ) -> Result<Unlocked, KmsError> {
        let secret = read(secret)?;
        let opened = self.set.get(name)?.unlock(keyspace, secret).await?;
        Ok(match opened {
            Opened::Open => Unlocked::Open,
            Opened::MoreShares { given, threshold } => Unlocked::MoreShares { given, threshold },
        })
    }

    /// The payload's buffer is never moved, so that no copy of a share stays behind.
    async fn initialise(
        &self,
        name: &str,
        (count, threshold): (u8, u8),
        mut passphrase: Zeroizing<Vec<u8>>,
    ) -> Result<(Zeroizing<Vec<u8>>, usize), KmsError> {
        let kms = self.set.get(name)?;
        let how = match count {
            0 => Initialise::Passphrase(Passphrase::new(std::mem::take(&mut *passphrase))?),
            count => Initialise::Shares { count, threshold },
        };
        let shares = kms.initialise(how).await?;
        let mut payload = Zeroizing::new(Vec::with_capacity(KmsShares::LEN_MAX));
        let encoded = KmsShares::encode(shares.iter().map(Share::expose), &mut payload);
        encoded.map_err(|error| {
            let class = keyway_kms::Class::Corrupt;
            KmsError::new(class, error.to_string(), "this is a bug")
        })?;
        Ok((payload, shares.len()))
    }
}

fn copy(generation: u32, dek: &SecretKey) -> Box<DekBytes> {
    Box::new(DekBytes {
        generation,
        bytes: Zeroizing::new(*dek.expose()),
    })
}

/// Checks the form of a secret. What is refused is wiped.
fn read(mut secret: Secret) -> Result<UnlockSecret, KmsError> {
    let bytes = std::mem::take(&mut *secret.bytes);
    Ok(match secret.kind {
        UnlockKind::Nothing => UnlockSecret::Nothing,
        UnlockKind::Passphrase => UnlockSecret::Passphrase(Passphrase::new(bytes)?),
        UnlockKind::Pin if secret.force => UnlockSecret::ForcedPin(Pin::new(bytes)?),
        UnlockKind::Pin => UnlockSecret::Pin(Pin::new(bytes)?),
        UnlockKind::Share => UnlockSecret::Share(Share::new(bytes)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call whose task had panicked was waited for until the server ended.
    #[test]
    fn a_call_that_ends_without_an_answer_has_failed() {
        let (done, mut finished) = mpsc::unbounded_channel();
        let request = KmsRequest::NewDek {
            keyspace: 1,
            generation: 2,
        };
        drop(Promise::new(CallId(7), &request, done.clone()));
        let Ok(Done::Kms(CallId(7), KmsAnswer::Made(Err(failure)))) = finished.try_recv() else {
            panic!("no failure");
        };
        assert!(failure.what.contains("without an answer"));
        Promise::new(CallId(8), &request, done).keep(request.failed(failure));
        assert!(matches!(finished.try_recv(), Ok(Done::Kms(CallId(8), _))));
        assert!(finished.try_recv().is_err(), "once");
    }
}
