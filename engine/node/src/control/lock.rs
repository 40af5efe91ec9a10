//! Locks: they act on every shard before the disk is asked, and wait for no KMS.

use std::rc::Rc;

use tokio::sync::watch;

use super::in_force::Wanted;
use super::kms::Kms;
use super::lanes::Lane;
use super::messages::ControlEvent;
use super::saver::{acknowledge, settled};
use super::{Answer, Control, settings, task};
use crate::authorise::Principal;

impl<K: Kms + 'static> Control<K> {
    /// Wipes keyspaces on every shard, and keeps them locked until an unlock. Answers when nothing of them is left, and
    /// says whether that is written.
    pub(super) async fn lock(self: &Rc<Self>, keyspaces: Vec<u32>, who: Principal) -> Answer {
        let by = settings::by(who);
        let all = keyspaces.clone();
        let Wanted { outcome, .. } = self.want(&keyspaces, move |catalogue| {
            all.iter()
                .try_for_each(|id| catalogue.set_locked(*id, true, &by))
        })?;
        let wiping: Vec<_> = keyspaces.iter().map(|id| self.wipe(*id)).collect();
        for mut wiped in wiping {
            // The other end is dropped only when the server stops.
            let _ = wiped.wait_for(|wiped| *wiped).await;
        }
        for id in keyspaces {
            tracing::info!(keyspace = id, %who, "keyspace locked");
        }
        acknowledge(settled(outcome).await?, Vec::new())
    }

    /// Begins to wipe a locked keyspace on every shard; commands that come while that is under way join it. Whatever
    /// began before this, an unlock or an unwrap, is void.
    fn wipe(self: &Rc<Self>, id: u32) -> watch::Receiver<bool> {
        *self.locks.borrow_mut().entry(id).or_default() += 1;
        let mut wiping = self.wiping.borrow_mut();
        if let Some(wiped) = wiping.get(&id)
            && !*wiped.borrow()
        {
            return wiped.clone();
        }
        let revision = self.published.borrow_mut().next_revision();
        let (all_wiped, wiped) = watch::channel(false);
        wiping.insert(id, wiped.clone());
        drop(wiping);
        let control = Rc::clone(self);
        task::begin(async move {
            let told = control.broadcast(Lane::Emergency, |done| ControlEvent::Lock {
                keyspace: id,
                revision,
                done,
            });
            told.await;
            let _ = all_wiped.send(true);
        });
        wiped
    }

    /// A keyspace is about to be open again: a lock that comes now wipes it anew.
    pub(super) fn end_wiping(&self, id: u32) {
        self.wiping.borrow_mut().remove(&id);
    }

    /// Whether a keyspace is locked, written or not.
    pub(super) fn is_locked(&self, id: u32) -> bool {
        self.in_force.borrow().is_locked(id)
    }

    /// Locks of a keyspace so far.
    pub(super) fn locks_of(&self, id: u32) -> u64 {
        self.locks.borrow().get(&id).copied().unwrap_or(0)
    }
}
