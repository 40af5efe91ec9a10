//! What takes something away is never answered DEADLINE_EXCEEDED while it is in force: its client would not know.

use super::World;
use super::books::Asked;
use super::plan::Asks;
use super::process::uid_of;
use super::sockets::ReceivedAnswer;
use crate::oracle::{Checked, ensure};
use keyway_node::policy::Principal;
use keyway_node::port::{KeyState, Name};
use keyway_protocol::{Grants, Status};

impl World<'_> {
    pub(super) fn check_verdict(
        &self,
        answer: &ReceivedAnswer,
        asked: &Asked,
        asks: Asks,
    ) -> Checked {
        if answer.status != Status::DeadlineExceeded {
            return Ok(());
        }
        // Otherwise it may be in force because of another request.
        let is_alone = {
            let mut all = self.books.requests.iter();
            let is_other = |id: u64| id != answer.request;
            let does_it = |other: &Asked| other.asks.is_some_and(|other| does_as(other, asks));
            !all.any(|(id, other)| is_other(*id) && does_it(other))
        };
        ensure!(
            22,
            !is_alone || !self.is_in_force(asks),
            "#{}: {asked:?} is answered DEADLINE_EXCEEDED, and is in force",
            answer.request
        );
        Ok(())
    }

    fn is_in_force(&self, asks: Asks) -> bool {
        match asks {
            Asks::Revoke(key) => {
                let id = key.id();
                let name = Name {
                    keyspace: key.keyspace,
                    key_id: &id,
                };
                let mut logs = self.logs.iter();
                logs.any(|log| {
                    let known = log.borrow().known(name);
                    known.is_some_and(|known| known.state == KeyState::Revoked)
                })
            }
            Asks::RevokeVersion { key, version } => {
                let id = key.id();
                let name = Name {
                    keyspace: key.keyspace,
                    key_id: &id,
                };
                let mut logs = self.logs.iter();
                logs.any(|log| log.borrow().is_version_revoked(name, version))
            }
            Asks::Lock(keyspace) => self
                .control
                .state_of(keyspace)
                .is_some_and(|[state, ..]| matches!(state, "locking" | "locked")),
            // Users have rights in the keyspaces that there are at the start.
            Asks::Withdraw { keyspace, who } if keyspace <= self.plan.keyspaces => {
                let of = |id: u32| (id, keyway_node::ids::Revision(0))..;
                let told = &self.books.of_control.told;
                let newest = told
                    .range(of(keyspace))
                    .take_while(|((id, _), _)| *id == keyspace);
                newest.last().is_some_and(|(_, change)| {
                    let who = Principal::Uid(uid_of(Some(who)));
                    change.guard.policy.rights(who) == Grants::NONE
                })
            }
            _ => false,
        }
    }
}

/// Whether another request takes away what this one does.
fn does_as(other: Asks, asks: Asks) -> bool {
    match asks {
        Asks::Lock(_) => matches!(other, Asks::LockAll | Asks::LockKms(_)) || other == asks,
        _ => other == asks,
    }
}
