//! Telling every shard what is in force in a keyspace.
//!
//! A revision goes with it. A shard ignores what is older than what it has, so it does not matter by which lane, or in
//! which order, two of them come.

use std::collections::HashMap;
use std::rc::Rc;

use tokio::sync::{oneshot, watch};

use super::catalogue::CatalogueError;
use super::kms::Kms;
use super::lanes::Lane;
use super::messages::{ControlEvent, KeyspaceConfig};
use super::{Control, task};
use keyway_node::keyspace_change::Guard;

/// What shards were told last.
#[derive(Default)]
pub(super) struct Publications {
    revision: u64,
    of_keyspace: HashMap<u32, Publication>,
}

struct Publication {
    guard: Guard,
    acted: watch::Receiver<bool>,
}

impl Publications {
    /// The revision of what becomes true now.
    pub(super) fn next_revision(&mut self) -> u64 {
        self.revision += 1;
        self.revision
    }
}

impl<K: Kms + 'static> Control<K> {
    /// Tells every shard what is in force in these keyspaces, unless it has been told, and waits until all act by it.
    pub(super) async fn publish(self: &Rc<Self>, keyspaces: &[u32], lane: Lane) {
        // What is not written yet is at no shard.
        let started: Vec<_> = keyspaces
            .iter()
            .filter_map(|id| self.start_to_publish(*id, lane).ok())
            .collect();
        for mut acted in started {
            let _ = acted.wait_for(|acted| *acted).await;
        }
    }

    fn start_to_publish(
        self: &Rc<Self>,
        id: u32,
        lane: Lane,
    ) -> Result<watch::Receiver<bool>, CatalogueError> {
        let (guard, name, seal_floor) = {
            let in_force = self.in_force.borrow();
            let written = in_force.written().keyspace(id)?;
            (
                in_force.guard(id)?,
                written.name.clone(),
                written.generation(),
            )
        };
        let mut published = self.published.borrow_mut();
        if let Some(earlier) = published.of_keyspace.get(&id)
            && earlier.guard == guard
        {
            return Ok(earlier.acted.clone());
        }
        let revision = published.next_revision();
        let (all_act, acted) = watch::channel(false);
        let publication = Publication {
            guard: guard.clone(),
            acted: acted.clone(),
        };
        published.of_keyspace.insert(id, publication);
        drop(published);
        let config = KeyspaceConfig {
            id,
            revision,
            ticket: self.tickets.borrow_mut().current(id),
            name,
            settings: guard.settings,
            policy: guard.policy,
            locked: guard.locked,
            seal_floor,
        };
        let control = Rc::clone(self);
        task::begin(async move {
            let told = control.broadcast(lane, |done| ControlEvent::Keyspace {
                config: Box::new(config.clone()),
                done,
            });
            told.await;
            let _ = all_act.send(true);
        });
        Ok(acted)
    }

    /// Tells every shard, and waits for their answers.
    pub(super) async fn broadcast<T>(
        &self,
        lane: Lane,
        event: impl Fn(oneshot::Sender<T>) -> ControlEvent,
    ) -> Vec<T> {
        let mut waiting = Vec::with_capacity(self.shards.len());
        let mut full = Vec::new();
        for (shard, lanes) in self.shards.iter().enumerate() {
            let (done, wait) = oneshot::channel();
            // A shard whose lane is full keeps no other waiting.
            if let Err(unsent) = lanes.try_send(lane, event(done)) {
                full.push((shard, unsent.into_inner()));
            }
            waiting.push(wait);
        }
        for (shard, event) in full {
            self.shards[shard].send(lane, event).await;
        }
        let mut answers = Vec::with_capacity(waiting.len());
        for wait in waiting {
            // A shard that has stopped holds nothing any more, and has nothing to say.
            answers.extend(wait.await);
        }
        answers
    }

    pub(super) async fn send(&self, shard: u16, lane: Lane, event: ControlEvent) {
        self.shards[usize::from(shard)].send(lane, event).await;
    }
}
