//! Messages between control and shards, as the world between them sees them, and tickets.

use super::World;
use super::answers::TIME_LIMITS;
use super::books::Asked;
use super::plan::Asks;
use super::sockets::ReceivedAnswer;
use crate::control::kms::dek_of;
use crate::oracle::{Checked, ensure};
use keyway_core::SettingName;
use keyway_node::keyspace_change::{Guard, KeyspaceChange};
use keyway_node::messages::{Command, ToControl, ToShard};
use keyway_protocol::{Status, decode_ticket};

/// What tightens is in force on every shard within this, µs.
const IN_FORCE_WITHIN_US: u64 = 150_000;

impl World<'_> {
    /// What control tells shards is no looser than what is durable, and is what the durable catalogue has.
    pub(super) fn check_told(&mut self, message: &ToShard) -> Checked {
        match message {
            ToShard::Keyspace(change) => self.check_change(change),
            ToShard::Lease {
                keyspace,
                deks,
                ticket,
                ..
            } => {
                self.books.of_control.tickets.insert((*keyspace, *ticket));
                let state = self.control.state_of(*keyspace);
                let is_locked =
                    state.is_some_and(|[state, ..]| matches!(state, "locking" | "locked"));
                ensure!(
                    25,
                    deks.is_empty() || !is_locked,
                    "keyspace {keyspace}: {} DEKs are handed out while it is locked",
                    deks.len()
                );
                for dek in deks {
                    let dek = dek_of(dek);
                    ensure!(
                        35,
                        self.is_durable(dek),
                        "keyspace {keyspace}: {dek:?} is handed out, and keyspaces.json does not have it"
                    );
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check_change(&mut self, change: &KeyspaceChange) -> Checked {
        let id = change.id;
        let durable = self.disk.durable.keyspace(id).ok();
        let guard = durable.map(Guard::of);
        ensure!(
            35,
            guard
                .as_ref()
                .is_some_and(|it| !it.is_tighter_than(&change.guard)),
            "keyspace {id}: shards receive {:?}, and keyspaces.json has {guard:?}",
            change.guard
        );
        let newest = durable.map_or(0, keyway_node::catalogue::Keyspace::generation);
        ensure!(
            35,
            change.seal_floor <= newest,
            "keyspace {id}: shards are to seal under {}, and keyspaces.json has {newest}",
            change.seal_floor
        );
        self.books.of_control.tickets.insert((id, change.ticket));
        let at = (id, change.revision);
        let told = self.books.of_control.told.entry(at);
        let told = told.or_insert_with(|| change.clone());
        ensure!(
            34,
            told == change,
            "keyspace {id}: revision {} was {told:?}, and is {change:?}",
            change.revision.0
        );
        Ok(())
    }

    /// A command begins at control: what it must do is known after this.
    pub(super) fn note_begun(&mut self, message: &ToControl) {
        let ToControl::Request(request) = message else {
            return;
        };
        let now = self.now;
        if request
            .deadline
            .is_some_and(|deadline| deadline.as_micros() <= now)
        {
            return;
        }
        let locked = match &request.command {
            Command::Lock { keyspace } => vec![*keyspace],
            Command::LockAll => self.control.written().iter().map(|(id, _)| id).collect(),
            _ => Vec::new(),
        };
        for keyspace in locked {
            let at = now + IN_FORCE_WITHIN_US;
            let begun_at = now;
            self.schedule(at, super::Event::MustBeLocked { keyspace, begun_at });
        }
    }

    pub(super) fn check_locked(&mut self, keyspace: u32, begun_at: u64) -> Checked {
        let mut others = self.books.requests.values();
        let may_be_open = others.any(|other| {
            matches!(other.asks, Some(Asks::Unlock { keyspace: of, .. }) if of == keyspace)
                && other.may_act_after(begun_at)
        });
        if may_be_open || self.books.trouble_at + IN_FORCE_WITHIN_US > begun_at {
            return Ok(());
        }
        for (number, site) in self.sites.iter().enumerate() {
            let terms = site.terms.get(&keyspace);
            ensure!(
                26,
                terms.is_none_or(|terms| terms.acted.guard.locked) || site.busy_until > self.now,
                "keyspace {keyspace}: {IN_FORCE_WITHIN_US} us after its LOCK began, shard {number} does not act by it"
            );
        }
        Ok(())
    }

    pub(super) fn check_answered(&mut self, request: u64) -> Checked {
        let Some(asked) = self.books.requests.get(&request) else {
            return Ok(());
        };
        let was_disturbed = self.books.trouble_at >= asked.sent_at;
        ensure!(
            27,
            asked.released_at.is_some() || asked.is_lost || was_disturbed,
            "#{request}: {asked:?} has no answer at {}",
            self.now
        );
        Ok(())
    }

    /// What a shard says to control is so.
    pub(super) fn check_said(&mut self, number: u16, message: &ToControl) -> Checked {
        match message {
            ToControl::Wiped { keyspace, epoch } => {
                let site = &self.sites[usize::from(number)];
                let terms = site.terms.get(keyspace);
                let is_locked = terms
                    .is_some_and(|terms| terms.told.guard.locked && terms.told.epoch == *epoch);
                let left = self.shared.memory.count(number, *keyspace);
                ensure!(
                    25,
                    left == 0 || !is_locked,
                    "shard {number} has {left} keys and DEKs of keyspace {keyspace}, and says that nothing is left"
                );
                Ok(())
            }
            ToControl::Confirmed {
                keyspace,
                generation,
            } => {
                let log = self.logs[usize::from(number)].borrow();
                let older = super::log::pending_under_older(&log, *keyspace, *generation);
                ensure!(
                    28,
                    older.is_none(),
                    "shard {number}: floor {generation} of keyspace {keyspace} is confirmed while {older:?} is in flight"
                );
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// NEEDS_UNLOCK carried a ticket.
    pub(super) fn give_ticket(
        &mut self,
        answer: &ReceivedAnswer,
        asked: &Asked,
        asks: Asks,
    ) -> Checked {
        let keyspace = asks.keyspace().unwrap_or(0);
        let ticket = decode_ticket(&answer.payload);
        ensure!(
            33,
            ticket.is_ok(),
            "#{}: NEEDS_UNLOCK without a ticket",
            answer.request
        );
        let ticket = ticket.unwrap_or(0);
        ensure!(
            30,
            self.books.of_control.tickets.contains(&(keyspace, ticket)),
            "keyspace {keyspace}: NEEDS_UNLOCK with ticket {ticket}, which control has not issued"
        );
        let tickets = &mut self.books.tickets;
        let done_at = tickets.done.get(&ticket).copied();
        ensure!(
            30,
            done_at.is_none_or(|at| at >= asked.sent_at),
            "keyspace {keyspace}: NEEDS_UNLOCK with ticket {ticket}, of which it was said at {done_at:?} that it is done"
        );
        let mut others = tickets.given.iter().chain(&tickets.of_unlocks);
        let other = others.find(|(of, known)| *known == ticket && *of != keyspace);
        ensure!(
            30,
            other.is_none(),
            "keyspace {keyspace}: ticket {ticket} is also one of {other:?}"
        );
        if !tickets.given.contains(&(keyspace, ticket)) {
            tickets.given.push((keyspace, ticket));
        }
        Ok(())
    }

    pub(super) fn unlock_answered(&mut self, keyspace: u32, ticket: u64) -> Checked {
        let tickets = &mut self.books.tickets;
        let mut known = tickets.given.iter().chain(&tickets.of_unlocks);
        ensure!(
            30,
            known.all(|(_, other)| *other != ticket),
            "keyspace {keyspace}: UNLOCK was answered with ticket {ticket}, which is another's"
        );
        tickets.of_unlocks.push((keyspace, ticket));
        Ok(())
    }

    pub(super) fn status_answered(&mut self, keyspace: u32, ticket: u64, answer: &ReceivedAnswer) {
        let state = state_of(&answer.payload);
        let now = self.now;
        self.trace
            .note(now, || format!("  ticket {ticket} is {state}"));
        let tickets = &mut self.books.tickets;
        if state == "done" && tickets.given.contains(&(keyspace, ticket)) {
            tickets.done.entry(ticket).or_insert(now);
        }
        tickets.states.insert(answer.request, state);
    }

    pub(super) fn check_rotated(&self, keyspace: u32, generation: u32) -> Checked {
        let durable = self.disk.durable.keyspace(keyspace).ok();
        let newest = durable.map_or(0, keyway_node::catalogue::Keyspace::generation);
        ensure!(
            28,
            newest >= generation && generation > 1,
            "keyspace {keyspace}: ROTATE was answered with {generation}, and {newest} is written"
        );
        Ok(())
    }

    pub(super) fn set_answered(
        &mut self,
        (keyspace, name): (u32, &'static str),
        value: u64,
        asked: &Asked,
        status: Status,
    ) -> Checked {
        let is_same = |other: &Asked| match other.asks {
            Some(Asks::Set {
                keyspace: of,
                name: other,
                ..
            }) => of == keyspace && other == name,
            _ => false,
        };
        let is_alone = {
            let others = self.books.requests.values();
            let overlapping = |other: &Asked| is_same(other) && other.may_act_after(asked.sent_at);
            others.filter(|other| overlapping(other)).nth(1).is_none()
        };
        if is_alone && matches!(status, Status::Ok | Status::NotPersisted) {
            self.check_limit((keyspace, name), value)?;
        }
        let setting = self.books.of(keyspace).settings.entry(name).or_default();
        match status {
            Status::Ok | Status::NotPersisted if is_alone => {
                setting.value = Some(value);
                setting.is_unsure = status == Status::NotPersisted;
            }
            Status::Ok | Status::NotPersisted => setting.value = None,
            // Refused: it has changed nothing. A disk that took it and said that it did not shows it after a restart.
            Status::DeadlineExceeded | Status::Internal => setting.value = None,
            _ => setting.is_unsure = true,
        }
        Ok(())
    }

    /// A time limit whose KEYSPACE_SET was answered is in force on every shard.
    fn check_limit(&self, (keyspace, name): (u32, &'static str), value: u64) -> Checked {
        let Some(limit) = SettingName::parse(name).filter(|_| TIME_LIMITS.contains(&name)) else {
            return Ok(());
        };
        for (number, site) in self.sites.iter().enumerate() {
            let in_force = site.terms.get(&keyspace).map(|terms| {
                let settings = &terms.acted.guard.settings;
                settings.get(limit).to_string().parse().unwrap_or(u64::MAX)
            });
            ensure!(
                26,
                in_force.is_none_or(|in_force| in_force <= value),
                "keyspace {keyspace}: {name}={value} was answered, and shard {number} acts by {in_force:?}"
            );
        }
        Ok(())
    }
}

/// The state in an answer to UNLOCK_STATUS.
fn state_of(payload: &[u8]) -> String {
    let document: serde_json::Value = serde_json::from_slice(payload).unwrap_or_default();
    document["state"].as_str().unwrap_or_default().to_owned()
}
