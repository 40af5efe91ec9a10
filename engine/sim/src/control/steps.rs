//! The planned steps, the commands of administrators and their answers.

use super::books::{Asked, BUDGET, SOFT_TTL};
use super::kms::NAMES;
use super::plan::{Asks, Step};
use super::process::{OPERATOR, uid_of};
use super::{Event, World};
use crate::oracle::{Checked, ensure};
use keyway_core::Instant;
use keyway_node::catalogue::SettingsChange;
use keyway_node::messages::{Command, Request, Secret, ToControl};
use keyway_node::policy::Principal;
use keyway_protocol::{Grants, Status, UnlockKind, decode_generation, decode_ticket};
use zeroize::Zeroizing;

/// Time within which a tightening is in force on every shard, in µs: 150 ms, and the time for which a shard's thread did
/// not run.
pub(super) const IN_FORCE_WITHIN_US: u64 = 150_000;
/// Time within which an emergency command is answered, in µs: 4 s of it are for a disk that hangs, which is checked once
/// a second.
const ANSWERED_WITHIN_US: u64 = 5_500_000;

impl World<'_> {
    pub(super) fn carry_out(&mut self, number: u64, step: Step) -> Checked {
        self.trace
            .note(self.now, || format!("step {number}: {step:?}"));
        match step {
            Step::Ask {
                shard,
                asks,
                deadline_us,
            } => {
                self.ask(shard, asks, deadline_us);
                Ok(())
            }
            Step::Use {
                shard,
                keyspace,
                who,
            } => self.use_key(shard, keyspace, who),
            Step::Write {
                shard,
                keyspace,
                takes_us,
            } => self.write(shard, keyspace, takes_us),
            Step::LeaseEnds { shard, keyspace } => {
                let site = &mut self.shards[usize::from(shard)];
                if let Some(known) = site.keyspaces.get_mut(&keyspace) {
                    known.drop_deks();
                }
                Ok(())
            }
            Step::Kms {
                kms,
                mood,
                takes_us,
            } => {
                self.kms[kms].mood = mood;
                self.kms[kms].takes_us = takes_us;
                Ok(())
            }
            Step::Disk { mood, takes_us } => {
                self.disk.mood = mood;
                self.disk.takes_us = takes_us;
                Ok(())
            }
            Step::Stall { shard, us } => {
                self.shards[usize::from(shard)].stalled_until = self.now + us;
                Ok(())
            }
            Step::Pages { shard, fail } => {
                self.shards[usize::from(shard)].pages_fail = fail;
                Ok(())
            }
            Step::Crash => self.crash(number),
        }
    }

    /// Receives an administrator's command at a shard.
    pub(super) fn ask(&mut self, shard: u16, asks: Asks, deadline_us: Option<u64>) -> u64 {
        self.tokens += 1;
        let token = self.tokens;
        let (command, ticket) = self.command(asks);
        let deadline = deadline_us.map(|us| self.now + us);
        let asked = Asked {
            asks,
            ticket,
            deadline,
            number: 0,
            is_answered: false,
            locks: Vec::new(),
        };
        self.books.requests.insert(token, asked);
        let request = Request {
            token,
            who: Principal::Uid(OPERATOR),
            deadline: deadline.map(Instant::from_micros),
            command,
        };
        self.say(shard, ToControl::Request(request));
        token
    }

    fn command(&self, asks: Asks) -> (Command, Option<u64>) {
        let secret = |kind| Secret {
            kind,
            bytes: Zeroizing::new(Vec::new()),
            force: false,
        };
        let set = |keyspace, name: &str, value: &str| Command::Set {
            keyspace,
            change: SettingsChange::parse([(name, value)]).expect("the change is valid"),
        };
        let grant = |who| format!("allow:uid:{}", uid_of(who));
        let command = match asks {
            Asks::Lock { keyspace } => Command::Lock { keyspace },
            Asks::LockAll => Command::LockAll,
            Asks::LockKms { kms } => Command::LockKms {
                kms: NAMES[kms].to_owned(),
            },
            Asks::Unlock {
                keyspace,
                watch,
                secret: has_secret,
            } => Command::Unlock {
                keyspace,
                secret: secret(match has_secret {
                    true => UnlockKind::Passphrase,
                    false => UnlockKind::Nothing,
                }),
                watch,
            },
            Asks::UnlockKms { kms } => Command::UnlockKms {
                kms: NAMES[kms].to_owned(),
                secret: secret(UnlockKind::Passphrase),
            },
            Asks::Set {
                keyspace,
                budget_us,
            } => set(keyspace, BUDGET, &budget_us.to_string()),
            Asks::SoftTtl { keyspace, ms } => set(keyspace, SOFT_TTL, &ms.to_string()),
            Asks::Grant { keyspace, who } => set(keyspace, &grant(who), "sign"),
            Asks::Withdraw { keyspace, who } => set(keyspace, &grant(who), "none"),
            Asks::Rotate { keyspace } => Command::Rotate { keyspace },
            Asks::Rewrap { keyspace, kms } => Command::Rewrap {
                keyspace,
                kms: NAMES[kms].to_owned(),
            },
            Asks::DestroyDeks { keyspace } => Command::DestroyDeks { keyspace },
            Asks::Create { kms } => Command::Create {
                name: format!("made-{}", self.tokens),
                kms: Some(NAMES[kms].to_owned()),
                change: SettingsChange::default(),
            },
            Asks::UnlockStatus { keyspace, which } => {
                let tickets = &self.books.tickets;
                let of_keyspace = tickets.given.iter().chain(&tickets.of_unlocks);
                let of_keyspace = of_keyspace.filter(|(of, _)| *of == keyspace);
                let mut newest_first: Vec<u64> = of_keyspace.map(|(_, ticket)| *ticket).collect();
                newest_first.reverse();
                let ticket = newest_first.get(which % newest_first.len().max(1)).copied();
                let command = Command::UnlockStatus {
                    keyspace,
                    ticket: ticket.unwrap_or(1),
                };
                return (command, ticket);
            }
            Asks::List => Command::List {
                after: 0,
                visible: self.disk.durable.iter().map(|(id, _)| id).collect(),
            },
        };
        (command, None)
    }

    /// Requests the status of a ticket.
    pub(super) fn ask_status(&mut self, keyspace: u32, ticket: u64) -> u64 {
        self.tokens += 1;
        let token = self.tokens;
        let asked = Asked {
            asks: Asks::UnlockStatus { keyspace, which: 0 },
            ticket: Some(ticket),
            deadline: None,
            number: 0,
            is_answered: false,
            locks: Vec::new(),
        };
        self.books.requests.insert(token, asked);
        let request = Request {
            token,
            who: Principal::Uid(OPERATOR),
            deadline: None,
            command: Command::UnlockStatus { keyspace, ticket },
        };
        self.say(0, ToControl::Request(request));
        token
    }

    /// Records that control is about to begin a command: its effects are known afterwards.
    pub(super) fn note_begun(&mut self, message: &ToControl) {
        let ToControl::Request(request) = message else {
            return;
        };
        let Some((number, asks)) = self.books.begin(request.token, self.now) else {
            return;
        };
        let locks = self.locked_by(asks);
        if let Some(asked) = self.books.requests.get_mut(&request.token) {
            asked.locks.clone_from(&locks);
        }
        for keyspace in locks {
            self.books.of(keyspace).last_lock = number;
            self.schedule(
                self.now + IN_FORCE_WITHIN_US,
                Event::MustBeLocked {
                    keyspace,
                    lock: number,
                },
            );
        }
        match asks {
            Asks::Lock { .. } | Asks::LockAll | Asks::LockKms { .. } => {
                let token = request.token;
                self.schedule(
                    self.now + ANSWERED_WITHIN_US,
                    Event::MustBeAnswered { token },
                );
            }
            Asks::Unlock { keyspace, .. } => {
                let book = self.books.of(keyspace);
                book.last_unlock = number;
                (book.is_sealed, book.is_lock_written) = (false, false);
            }
            Asks::Grant { keyspace, who } => {
                let book = self.books.of(keyspace);
                book.last_grant.insert(who, number);
                book.withdrawn.remove(&who);
            }
            _ => {}
        }
        if let Asks::Withdraw { keyspace, who } = asks {
            self.books.of(keyspace).last_grant.insert(who, number);
            let token = request.token;
            let at = self.now + IN_FORCE_WITHIN_US;
            self.schedule(at, Event::MustBeWithdrawn { token });
        }
    }

    /// Returns the keyspaces that a command certainly locks.
    fn locked_by(&self, asks: Asks) -> Vec<u32> {
        let written = self.control.written().iter().map(|(id, _)| id);
        match asks {
            Asks::Lock { keyspace } => written.filter(|id| *id == keyspace).collect(),
            Asks::LockAll => written.collect(),
            _ => Vec::new(),
        }
    }

    pub(super) fn check_locked(&mut self, keyspace: u32, lock: u64) -> Checked {
        let book = self.books.of(keyspace);
        if book.last_lock != lock || book.last_unlock > lock {
            return Ok(());
        }
        for (number, shard) in self.shards.iter().enumerate() {
            let known = shard.keyspaces.get(&keyspace);
            let is_locked = known.is_none_or(|known| known.change.guard.locked);
            let was_stalled = shard.stalled_until + IN_FORCE_WITHIN_US > self.now;
            ensure!(
                26,
                is_locked || was_stalled,
                "keyspace {keyspace}: {IN_FORCE_WITHIN_US} us after its LOCK began, shard {number} does not act by it"
            );
        }
        Ok(())
    }

    pub(super) fn check_answered(&mut self, token: u64) -> Checked {
        let asked = self.books.requests.get(&token);
        ensure!(
            27,
            asked.is_none_or(|asked| asked.is_answered),
            "{asked:?}: no answer {ANSWERED_WITHIN_US} us after it began"
        );
        Ok(())
    }

    /// Handles the answer to a command at its shard.
    pub(super) fn answered(&mut self, token: u64, status: Status, payload: &[u8]) -> Checked {
        let Some(asked) = self.books.requests.get_mut(&token) else {
            ensure!(
                31,
                false,
                "an answer without a request: {token}, {status:?}"
            );
            return Ok(());
        };
        ensure!(
            31,
            !asked.is_answered,
            "{asked:?}: a second answer, {status:?}"
        );
        asked.is_answered = true;
        let asked = asked.clone();
        self.trace.note(self.now, || {
            let text = String::from_utf8_lossy(payload);
            format!("  {:?}: {status:?} {text}", asked.asks)
        });
        let is_in_force = matches!(status, Status::Ok | Status::NotPersisted);
        match asked.asks {
            Asks::Lock { .. } | Asks::LockAll if is_in_force => {
                for keyspace in asked.locks.clone() {
                    self.lock_answered(keyspace, asked.number, status)?;
                }
            }
            Asks::Grant { keyspace, who } => {
                // A concurrent withdrawal may come before it.
                let withdrawal = Asks::Withdraw { keyspace, who };
                let mut others = self.books.requests.values();
                if others.any(|other| !other.is_answered && other.asks == withdrawal) {
                    self.books.of(keyspace).last_grant.insert(who, u64::MAX);
                }
            }
            Asks::Withdraw { keyspace, who } if is_in_force => {
                // A concurrent command may come after it.
                let grant = Asks::Grant { keyspace, who };
                let mut others = self.books.requests.values();
                if others.any(|other| !other.is_answered && other.asks == grant) {
                    return Ok(());
                }
                let book = self.books.of(keyspace);
                if book.last_grant.get(&who) == Some(&asked.number) {
                    book.withdrawn.insert(who, status == Status::Ok);
                }
            }
            Asks::Set {
                keyspace,
                budget_us,
            } => self.set_answered(keyspace, BUDGET, budget_us, &asked, status),
            Asks::SoftTtl { keyspace, ms } => {
                self.set_answered(keyspace, SOFT_TTL, ms, &asked, status);
            }
            Asks::Rotate { keyspace } if status == Status::Ok => {
                let generation = decode_generation(payload).unwrap_or(0);
                let durable = self.disk.durable.keyspace(keyspace).ok();
                let newest = durable.map_or(0, |keyspace| keyspace.generation());
                ensure!(
                    28,
                    newest >= generation && generation > 1,
                    "keyspace {keyspace}: ROTATE was answered with {generation}, and {newest} is written"
                );
                let rotated = self.books.rotated.entry(keyspace).or_default();
                *rotated = generation.max(*rotated);
            }
            Asks::Unlock { keyspace, .. } if status == Status::Ok => {
                let ticket = decode_ticket(payload).unwrap_or(0);
                let tickets = &mut self.books.tickets;
                let mut known = tickets.given.iter().chain(&tickets.of_unlocks);
                ensure!(
                    30,
                    known.all(|(_, other)| *other != ticket),
                    "keyspace {keyspace}: UNLOCK was answered with ticket {ticket}, which is another's"
                );
                tickets.of_unlocks.push((keyspace, ticket));
            }
            Asks::UnlockStatus { .. } if status == Status::Ok => {
                let state = state_of(payload);
                self.books.states.insert(token, state.clone());
                if let (Some(ticket), "done") = (asked.ticket, state.as_str()) {
                    let tickets = &mut self.books.tickets;
                    if tickets.given.iter().any(|(_, given)| *given == ticket) {
                        tickets.done.insert(ticket);
                    }
                }
            }
            _ => {}
        }
        match status {
            Status::Ok => self.check_visible(&asked),
            _ => Ok(()),
        }
    }

    fn lock_answered(&mut self, keyspace: u32, number: u64, status: Status) -> Checked {
        let book = self.books.of(keyspace);
        if book.last_unlock > number {
            return Ok(());
        }
        book.is_sealed = true;
        book.is_lock_written |= status == Status::Ok;
        for (number, shard) in self.shards.iter().enumerate() {
            let known = shard.keyspaces.get(&keyspace);
            ensure!(
                25,
                known.is_none_or(|known| known.deks.is_empty() && !known.has_keys),
                "keyspace {keyspace}: its LOCK was answered {status:?}, and shard {number} holds {known:?}"
            );
        }
        Ok(())
    }

    fn set_answered(
        &mut self,
        keyspace: u32,
        name: &'static str,
        value: u64,
        asked: &Asked,
        status: Status,
    ) {
        let is_same = |other: &Asks| match (other, name) {
            (Asks::Set { keyspace: of, .. }, BUDGET) => *of == keyspace,
            (Asks::SoftTtl { keyspace: of, .. }, SOFT_TTL) => *of == keyspace,
            _ => false,
        };
        // Concurrent commands are applied in either order.
        let others = self.books.requests.values();
        let others = others.filter(|other| !other.is_answered && is_same(&other.asks));
        let overlapping = others.map(|other| other.number.max(asked.number)).max();
        match status {
            Status::Ok | Status::NotPersisted => {
                let setting = self.books.of(keyspace).settings.entry(name).or_default();
                if setting.set.is_none_or(|(number, _)| number < asked.number) {
                    setting.set = Some((asked.number, value));
                }
                if status == Status::NotPersisted {
                    // A restart may undo it.
                    setting.unknown = setting.unknown.max(asked.number);
                }
                setting.unknown = setting.unknown.max(overlapping.unwrap_or(0));
            }
            _ => {
                let setting = self.books.of(keyspace).settings.entry(name).or_default();
                let failed = overlapping.unwrap_or(asked.number);
                setting.failed = setting.failed.max(failed);
            }
        }
    }

    /// Uses a key at a shard.
    fn use_key(&mut self, shard: u16, keyspace: u32, who: u32) -> Checked {
        let site = &self.shards[usize::from(shard)];
        let Some(known) = site.keyspaces.get(&keyspace) else {
            return Ok(());
        };
        let principal = Principal::Uid(uid_of(who));
        let rights = known.change.guard.policy.rights(principal);
        if site.stalled_until > self.now || !rights.intersects(Grants::SIGN) {
            return Ok(());
        }
        let (is_open, is_locked) = (known.is_open(self.now), known.change.guard.locked);
        let ticket = known.ticket;
        if is_open {
            self.served += 1;
            let book = self.books.of(keyspace);
            ensure!(
                25,
                !book.is_sealed,
                "keyspace {keyspace}: used at shard {shard}, and its LOCK was answered"
            );
            ensure!(
                25,
                !book.withdrawn.contains_key(&who),
                "keyspace {keyspace}: used at shard {shard} by {principal}, whose right was withdrawn"
            );
            return Ok(());
        }
        self.books.give(keyspace, ticket)?;
        if !is_locked {
            self.say(shard, ToControl::Unwrap { keyspace });
        }
        Ok(())
    }

    /// Writes a key: it is sealed here, and in the log some time later.
    fn write(&mut self, shard: u16, keyspace: u32, takes_us: u64) -> Checked {
        let (now, seal) = (self.now, self.seals);
        let site = &mut self.shards[usize::from(shard)];
        if site.stalled_until > now {
            return Ok(());
        }
        let Some(known) = site.keyspaces.get_mut(&keyspace) else {
            return Ok(());
        };
        let Some(dek) = known.sealer(now) else {
            if !known.change.guard.locked {
                self.say(shard, ToControl::Unwrap { keyspace });
            }
            return Ok(());
        };
        known.seals.insert(seal, dek);
        self.seals += 1;
        self.served += 1;
        self.schedule(
            now + takes_us,
            Event::Landed {
                shard,
                keyspace,
                seal,
            },
        );
        self.check_seal(dek)
    }
}

/// Returns the state in an answer to UNLOCK_STATUS.
pub(super) fn state_of(payload: &[u8]) -> String {
    let document: serde_json::Value = serde_json::from_slice(payload).unwrap_or_default();
    document["state"].as_str().unwrap_or_default().to_owned()
}
