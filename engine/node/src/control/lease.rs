//! DEKs for the shards: one question to the KMS, and its answer to every shard.

use std::rc::Rc;

use keyway_core::{Instant, LeaseEvent};
use keyway_kms::{Class, KmsError, NewDek, SecretKey};
use zeroize::Zeroizing;

use super::Control;
use super::catalogue::WrappedDek;
use super::catalogue_file::FirstSeal;
use super::kms::{Kms, lease_event};
use super::lanes::Lane;
use super::messages::{ControlEvent, DekBytes, DekCopies};

/// A keyspace's DEKs of all generations, unwrapped.
pub(super) struct Deks {
    /// When the oldest of the calls was sent, in µs. The lease counts from here.
    sent_at_us: u64,
    /// By rising generation.
    deks: Vec<(u32, std::sync::Arc<SecretKey>)>,
}

impl Deks {
    /// DEKs that the KMS has just wrapped, and proven by an unwrap: nobody need ask it for another. By rising
    /// generation.
    pub(super) fn of_new(new: impl IntoIterator<Item = (u32, NewDek)>) -> Self {
        let mut sent_at_us = u64::MAX;
        let deks = new.into_iter().map(|(generation, dek)| {
            sent_at_us = sent_at_us.min(dek.sent_at_us);
            (generation, dek.dek)
        });
        let deks = deks.collect();
        Self { sent_at_us, deks }
    }

    /// Generation and secret of each, by rising generation.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &SecretKey)> {
        self.deks
            .iter()
            .map(|(generation, dek)| (*generation, &**dek))
    }

    fn generation(&self) -> u32 {
        self.deks.last().map_or(0, |(generation, _)| *generation)
    }

    fn copies(&self) -> DekCopies {
        let copy = |(generation, dek): (u32, &SecretKey)| {
            Box::new(DekBytes {
                generation,
                bytes: Zeroizing::new(*dek.expose()),
            })
        };
        self.iter().map(copy).collect()
    }
}

impl<K: Kms + 'static> Control<K> {
    /// A shard wants a keyspace's DEKs. The answer goes to every shard: all of them will want it, and one call each
    /// half of a lease is then all that the keyspace costs. Who asks while it is being asked gets that answer.
    pub(super) async fn lease(self: Rc<Self>, keyspace: u32) {
        if !self.asking.borrow_mut().insert(keyspace) {
            return;
        }
        let answer = self.unwrap(keyspace).await;
        self.asking.borrow_mut().remove(&keyspace);
        self.tell_lease(keyspace, &answer).await;
    }

    /// Unwraps the DEKs of all of a keyspace's generations, and makes sure that it was not locked meanwhile.
    pub(super) async fn unwrap(&self, keyspace: u32) -> Result<Deks, KmsError> {
        if self.is_locked(keyspace) {
            // The question crossed the lock on its way.
            return Err(locked());
        }
        let deks = self.unwrap_for_unlock(keyspace).await?;
        if self.is_locked(keyspace) {
            tracing::info!(keyspace, "DEKs came after the lock and are not handed out");
            return Err(locked());
        }
        Ok(deks)
    }

    /// The same of a keyspace that may be locked.
    pub(super) async fn unwrap_for_unlock(&self, keyspace: u32) -> Result<Deks, KmsError> {
        let (name, wrapped) = {
            let catalogue = self.written();
            let found = catalogue.keyspace(keyspace);
            let keyspace = found.map_err(|error| missing(&error.to_string()))?;
            let deks = keyspace.deks();
            let deks = deks.map_err(|error| missing(&error.to_string()))?;
            (keyspace.kms.clone(), deks)
        };
        self.check_section(&name, FirstSeal::Optional).await?;
        let kms = self.kms.get(&name)?;
        Self::unwrap_each(kms, keyspace, wrapped).await
    }

    /// Unwraps these DEKs of a keyspace.
    pub(super) async fn unwrap_each(
        kms: &K,
        keyspace: u32,
        wrapped: Vec<WrappedDek>,
    ) -> Result<Deks, KmsError> {
        let mut unwrapped = Deks {
            sent_at_us: u64::MAX,
            deks: Vec::with_capacity(wrapped.len()),
        };
        for dek in wrapped {
            let answer = kms
                .unwrap_dek(keyspace, dek.generation, &dek.record)
                .await?;
            unwrapped.sent_at_us = unwrapped.sent_at_us.min(answer.sent_at_us);
            unwrapped.deks.push((dek.generation, answer.dek));
        }
        Ok(unwrapped)
    }

    /// Tells every shard what the KMS said.
    pub(super) async fn tell_lease(&self, keyspace: u32, answer: &Result<Deks, KmsError>) {
        if let Ok(kms) = self.kms_name_of(keyspace) {
            let (mut troubles, now) = (self.troubles.borrow_mut(), crate::clock::now());
            match answer {
                Ok(_) => troubles.note_success(&kms, keyspace, now),
                // The keyspace's own lock is no trouble of the KMS's.
                Err(_) if self.is_locked(keyspace) => troubles.forget(&kms, keyspace),
                Err(error) => {
                    troubles.note_failure(&kms, keyspace, error, now, crate::clock::unix_ms());
                }
            }
        }
        let ticket = match answer {
            Ok(_) => self.tickets.borrow_mut().next(keyspace),
            Err(_) => 0,
        };
        for shard in 0..self.shards.len() {
            // Asked before each: a lock may come while a shard's queue is full. What is in a queue before the lock is
            // ahead of it there, and wiped by it.
            let (event, deks) = match answer {
                Ok(_) if self.is_locked(keyspace) => (LeaseEvent::Locked, Vec::new()),
                Ok(deks) => {
                    let granted = LeaseEvent::Granted {
                        sent_at: Instant::from_micros(deks.sent_at_us),
                        generation: deks.generation(),
                    };
                    (granted, deks.copies())
                }
                Err(error) => (lease_event(error), Vec::new()),
            };
            let event = ControlEvent::Lease {
                keyspace,
                event,
                deks,
                ticket,
            };
            self.send(shard as u16, Lane::Ordinary, event).await;
        }
    }
}

fn locked() -> KmsError {
    KmsError::new(
        Class::Locked,
        "the keyspace is locked",
        "unlock it: keyway unlock KEYSPACE",
    )
}

pub(super) fn missing(why: &str) -> KmsError {
    KmsError::new(Class::Misconfigured, why, "check keyspaces.json")
}
