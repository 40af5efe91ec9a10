//! Retired DEKs: taken back into use for a blob that turns up, and destroyed.

use std::rc::Rc;

use keyway_protocol::{Status, encode_deks_destroyed};

use super::catalogue::By;
use super::kms::Kms;
use super::saver::acknowledge;
use super::unlock::refuse_locked;
use super::{Answer, Control, settings};
use crate::authorise::Principal;
use crate::clock;
use crate::rehydrator::ResealWork;

/// How often retired DEKs are destroyed of which the time is over, at most: a disk that takes nothing is not asked
/// each second.
const LOOK_PERIOD_US: u64 = 600_000_000;

/// DEKs that blobs are sealed under and nobody has, of which the log says so once.
const MISSING_DEKS_MAX: usize = 1_024;

impl<K: Kms + 'static> Control<K> {
    /// A shard has a blob under a DEK that is not in use: out of a backup, most likely. If the DEK is among the retired
    /// ones, it is in use again until all such blobs are sealed under the newest one.
    pub(super) async fn revive(self: Rc<Self>, id: u32, generation: u32) {
        // Another change would count blobs, or destroy this DEK: the shard asks again.
        let Ok(_changing) = self.change_deks(id) else {
            return;
        };
        if self.is_locked(id) {
            return;
        }
        let is_in_use = {
            let catalogue = self.written();
            let deks = catalogue.keyspace(id).and_then(|keyspace| keyspace.deks());
            deks.is_ok_and(|deks| deks.iter().any(|dek| dek.generation == generation))
        };
        // One that is in use comes with the answer that the shard's core has asked for.
        if is_in_use || !self.take_back(id, generation).await {
            return;
        }
        self.hand_out(id).await;
        self.start_resealing(id);
    }

    async fn take_back(self: &Rc<Self>, id: u32, generation: u32) -> bool {
        let is_retired = {
            let catalogue = self.written();
            let keyspace = catalogue.keyspace(id);
            keyspace.is_ok_and(|keyspace| keyspace.retired().any(|(at, _)| at == generation))
        };
        if !is_retired {
            self.report_missing(id, generation);
            return false;
        }
        let by = By::server(clock::moment());
        let taken_back = self
            .edit(&[id], move |catalogue| {
                catalogue.revive_dek(id, generation, &by).map(drop)
            })
            .await;
        if let Err((_, why)) = taken_back {
            tracing::error!(
                keyspace = id,
                generation,
                why,
                "a retired DEK stays retired"
            );
            return false;
        }
        tracing::warn!(
            keyspace = id,
            generation,
            "a blob is sealed under a retired DEK, which is in use again until such blobs are sealed anew"
        );
        true
    }

    fn report_missing(&self, id: u32, generation: u32) {
        let mut missing = self.missing_deks.borrow_mut();
        if missing.len() < MISSING_DEKS_MAX && missing.insert((id, generation)) {
            tracing::error!(
                keyspace = id,
                generation,
                "a blob is sealed under a DEK that was destroyed: restore the key from where it came from, \
                 or keyspaces.json and the logs from the same backup"
            );
        }
    }

    /// Destroys the retired DEKs for good, once no blob needs one of them. Answers with how many there were.
    pub(super) async fn destroy_deks(self: &Rc<Self>, id: u32, who: Principal) -> Answer {
        let _changing = self.change_deks(id)?;
        let (generation, retired) = {
            let catalogue = self.written();
            let keyspace = catalogue.keyspace(id)?;
            if keyspace.deks()?.len() > 1 {
                return Err(self.refuse_resealing(id));
            }
            let retired: Vec<u32> = keyspace.retired().map(|(at, _)| at).collect();
            (keyspace.generation(), retired)
        };
        if !retired.is_empty() {
            let counted = self.pass(id, generation, ResealWork::Count).await;
            let counted = counted.map_err(|_| stopping())?;
            if counted.found > 0 {
                return Err(self.keep_for(id, counted.found, &retired).await);
            }
        }
        let mut payload = Vec::new();
        encode_deks_destroyed(retired.len() as u32, &mut payload);
        if retired.is_empty() {
            return Ok(payload);
        }
        let by = settings::by(who);
        let settled = self
            .edit(&[id], move |catalogue| {
                catalogue.destroy_retired(id, &by).map(drop)
            })
            .await?;
        tracing::info!(keyspace = id, generations = ?retired, %who, "retired DEKs destroyed");
        acknowledge(settled, payload)
    }

    /// Blobs under retired DEKs have turned up: they are sealed anew first.
    async fn keep_for(self: &Rc<Self>, id: u32, found: u64, retired: &[u32]) -> (Status, String) {
        if self.is_locked(id) {
            return refuse_locked();
        }
        let mut is_any_back = false;
        for generation in retired {
            is_any_back |= self.take_back(id, *generation).await;
        }
        if is_any_back {
            self.hand_out(id).await;
            self.start_resealing(id);
        }
        (
            Status::Conflict,
            format!(
                "{found} blobs are sealed under retired DEKs and are being sealed under the newest one; \
                 try again when `keyway keyspace list` shows none left"
            ),
        )
    }

    /// Destroys retired DEKs whose time is over. To be called once a second; it looks now and then.
    pub(super) fn destroy_due_deks(self: &Rc<Self>) {
        let now = clock::moment();
        let waits = self.deks_looked_at.get();
        let waits = waits.is_some_and(|at| now.instant.saturating_since(at) < LOOK_PERIOD_US);
        if waits {
            return;
        }
        self.deks_looked_at.set(Some(now.instant));
        let due = self.written().due_deks(now.unix_ms);
        if due.is_empty() {
            return;
        }
        let mut ids: Vec<u32> = due.iter().map(|(id, _)| *id).collect();
        ids.dedup();
        let control = Rc::clone(self);
        let by = By::expiry(now);
        tokio::task::spawn_local(async move {
            let destroyed = control.edit(&ids, move |catalogue| {
                catalogue.destroy_due(&by);
                Ok(())
            });
            match destroyed.await {
                Ok(_) => {
                    tracing::info!(?due, "retired DEKs were kept for 30 days and are destroyed")
                }
                Err((_, why)) => tracing::error!(why, "retired DEKs are kept longer"),
            }
        });
    }
}

fn stopping() -> (Status, String) {
    (
        Status::Unavailable,
        "the server is stopping; nothing was destroyed".to_owned(),
    )
}
