//! Answers: what passes a shard's release mark, and what reaches a client.

use super::World;
use super::books::{Asked, Listing, Revoked, Taken, UsedKey};
use super::coverage::is_permitted;
use super::plan::{Asks, Key};
use super::sockets::ReceivedAnswer;
use crate::oracle::{Checked, ensure};
use keyway_node::shard::figures::{CountedOperation, CountedOutcome};
use keyway_protocol::{KeyListAnswer, Opcode, Status, decode_generation, decode_ticket};

impl World<'_> {
    /// An answer has passed the release mark of a client's shard.
    pub(super) fn released(
        &mut self,
        number: u16,
        client: usize,
        answer: &ReceivedAnswer,
    ) -> Checked {
        let site = &self.sites[usize::from(number)];
        let (turn_began_at, now) = (site.turn_began_at, site.clock.now());
        self.trace.note(now, || {
            format!(
                "  #{} is answered: {:?} {}",
                answer.request, answer.status, answer.version
            )
        });
        let asked = self.books.requests.get_mut(&answer.request);
        let Some(asked) = asked.filter(|asked| asked.client == client) else {
            ensure!(
                31,
                false,
                "client {client}: an answer that no request waits for: {answer:?}"
            );
            return Ok(());
        };
        ensure!(
            31,
            asked.released_at.replace(now).is_none(),
            "#{}: a second answer, {:?}",
            answer.request,
            answer.status
        );
        let asked = asked.clone();
        self.outcome.answers += 1;
        let Some(asks) = asked.asks else {
            let opcode = Opcode::Hello;
            self.outcome.coverage.reached(opcode, answer.status);
            ensure!(
                22,
                answer.status == Status::Ok,
                "HELLO is answered {:?}",
                answer.status
            );
            return self.check_hello(answer, client);
        };
        self.outcome.coverage.reached(asks.opcode(), answer.status);
        self.note_released(answer, asks);
        self.check_status(answer, &asked, asks)?;
        self.check_verdict(answer, &asked, asks)?;
        ensure!(
            15,
            answer.status != Status::Ok
                || asked.user.is_none()
                || asks.is_granted()
                || asks.is_anybodys(),
            "#{}: user {:?} is granted to sign, and {asks:?} is done",
            answer.request,
            asked.user
        );
        if answer.status == Status::Ok && asks.is_use() {
            self.check_result(answer, turn_began_at)?;
        }
        if answer.status == Status::NeedsUnlock {
            self.give_ticket(answer, &asked, asks)?;
        }
        Ok(())
    }

    fn note_released(&mut self, answer: &ReceivedAnswer, asks: Asks) {
        let operation = CountedOperation::of(asks.opcode()).name();
        let outcome = match answer.is_stale {
            true => CountedOutcome::OkStale,
            false => CountedOutcome::Status(answer.status),
        };
        if let Some(keyspace) = asks.keyspace_of_frame() {
            let at = (keyspace, operation, outcome.name());
            *self.books.of_process.released.entry(at).or_default() += 1;
        }
    }

    /// The result of an operation leaves in time.
    fn check_result(&mut self, answer: &ReceivedAnswer, turn_began_at: u64) -> Checked {
        let number = answer
            .payload
            .first_chunk()
            .map_or(0, |it| u64::from_le_bytes(*it));
        let found = self.books.uses.get(&number).copied();
        let Some(UsedKey {
            used,
            end,
            freshness,
        }) = found.filter(|it| it.used.request == answer.request)
        else {
            ensure!(31, false, "#{}: the result is not its own", answer.request);
            return Ok(());
        };
        ensure!(
            23,
            used.ended_at < end && turn_began_at < end,
            "#{}: the key's time is over at {end}, the result was there at {}, and leaves in a turn that began at {turn_began_at}",
            answer.request,
            used.ended_at
        );
        ensure!(
            22,
            used.version == answer.version,
            "#{}: version {} was used, and the answer says {}",
            answer.request,
            used.version,
            answer.version
        );
        ensure!(
            34,
            match answer.is_stale {
                true => freshness.may_be_stale,
                false => freshness.may_be_fresh,
            },
            "#{}: stale: {}, and by the settings in force: {freshness:?}",
            answer.request,
            answer.is_stale
        );
        Ok(())
    }

    /// The answer is one that the request can have.
    fn check_status(&self, answer: &ReceivedAnswer, asked: &Asked, asks: Asks) -> Checked {
        let status = answer.status;
        ensure!(
            22,
            is_permitted(asks.opcode(), status),
            "#{}: {asks:?} is answered {status:?}, which no answer to it is",
            answer.request
        );
        let key = asks.key().and_then(|key| self.books.keys.get(&key));
        let is_certain = key.is_some_and(|key| key.is_certain() && key.least(asked.sent_at) > 0);
        let (invariant, is_possible) = match status {
            Status::Ok => {
                let is_made_twice = is_certain && asks.makes_key();
                (37, !is_made_twice && !asks.breaks_a_rule())
            }
            Status::NotFound => self.may_be_not_found(asked, asks),
            Status::Revoked => (38, self.may_be_revoked(asks)),
            Status::Conflict => {
                let may_be_there = key.is_none_or(|key| key.generates_sent > 1);
                (38, !asks.makes_key() || may_be_there)
            }
            Status::Forbidden => (22, self.may_be_forbidden(asked, asks)),
            // Who may not do everything does not learn which keyspaces there are.
            Status::NoKeyspace => (22, self.may_be_missing(asks) && asked.user.is_none()),
            Status::DeadlineExceeded => (32, asked.deadline.is_some()),
            Status::NotPersisted => (22, asks.may_take_away()),
            Status::Internal => (31, self.may_fail(asks)),
            // What takes something away has places of its own.
            Status::Overloaded => (27, !is_emergency(asks)),
            Status::Mismatch => (22, !asks.is_good()),
            // No blob is corrupt, and clients name what there is.
            Status::Invalid => (22, false),
            Status::Unsupported => (22, matches!(asks, Asks::Unknown(_))),
            // A rotation or a creation at a KMS that is configured wrong.
            Status::BadRequest => (22, asks.key().is_none()),
            Status::Retry | Status::NeedsUnlock | Status::Unavailable => (22, true),
        };
        let text = String::from_utf8_lossy(&answer.payload);
        if !is_possible {
            return Err(crate::oracle::Violation {
                invariant,
                what: format!(
                    "#{}: {asks:?} is answered {status:?}: {text}",
                    answer.request
                ),
            });
        }
        Ok(())
    }

    fn may_be_forbidden(&self, asked: &Asked, asks: Asks) -> bool {
        // The KMS can deny what is asked of it.
        if self.may_ask_kms(asks) {
            return true;
        }
        let Some(who) = asked.user else { return false };
        let book = asks
            .keyspace()
            .and_then(|keyspace| self.books.keyspaces.get(&keyspace));
        let is_first = asks.keyspace().is_some_and(|it| it <= self.plan.keyspaces);
        !asks.is_granted()
            || !is_first
            || book.is_some_and(|book| book.may_be_withdrawn.contains(&who))
    }

    fn may_ask_kms(&self, asks: Asks) -> bool {
        matches!(
            asks,
            Asks::RotateDek(_)
                | Asks::Create(_)
                | Asks::InitKms(_)
                | Asks::Rewrap { .. }
                | Asks::Grant { .. }
                | Asks::Set { .. }
                | Asks::Unlock { .. }
                | Asks::UnlockKms(_)
        )
    }

    fn may_be_missing(&self, asks: Asks) -> bool {
        match asks.keyspace() {
            Some(keyspace) => keyspace > self.plan.keyspaces,
            None => false,
        }
    }

    /// The server may say that it has failed.
    fn may_fail(&self, asks: Asks) -> bool {
        let is_read = asks.is_anybodys()
            || asks.breaks_a_rule()
            || matches!(asks, Asks::History(_) | Asks::Hot(_));
        !(asks.is_use() || is_read) || self.books.was_panic_planted()
    }

    /// An answer has reached its client.
    pub(super) fn answered(&mut self, client: usize, answer: &ReceivedAnswer) -> Checked {
        let now = self.now;
        let Some(asked) = self.books.close(answer.request, answer.status, now) else {
            ensure!(
                31,
                false,
                "client {client}: an answer that no request waits for: {answer:?}"
            );
            return Ok(());
        };
        let Some(asks) = asked.asks else {
            return Ok(());
        };
        if let Some(key) = asks.key() {
            self.key_answered(key, answer, &asked, asks)?;
        }
        let is_in_force = matches!(answer.status, Status::Ok | Status::NotPersisted);
        let taken = Taken {
            at: now,
            is_written: answer.status == Status::Ok,
        };
        match asks {
            Asks::Lock(keyspace) if is_in_force => self.lock_answered(keyspace, &asked, taken),
            Asks::LockAll if is_in_force => {
                let first = 1..=self.plan.keyspaces;
                first
                    .into_iter()
                    .try_for_each(|id| self.lock_answered(id, &asked, taken))
            }
            Asks::LockKms(kms) if is_in_force => {
                let all = 1..=self.plan.keyspaces;
                let wrapped = all.filter(|id| self.is_surely_at(*id, kms, &asked));
                let wrapped: Vec<u32> = wrapped.collect();
                wrapped
                    .into_iter()
                    .try_for_each(|id| self.lock_answered(id, &asked, taken))
            }
            Asks::Rewrap { keyspace, kms } => {
                self.rewrap_answered((keyspace, kms), &asked, answer.status)
            }
            Asks::History(keyspace) if answer.status == Status::Ok => {
                self.history_shown(keyspace, answer, &asked)
            }
            Asks::Hot(keyspace) if answer.status == Status::Ok => self.hot_shown(keyspace, answer),
            Asks::Status if answer.status == Status::Ok => self.status_shown(answer, &asked),
            Asks::RevokeVersion { key, version } if is_in_force => {
                let book = self.books.keys.entry(key).or_default();
                book.note_version_revoked(version, taken);
                Ok(())
            }
            Asks::Withdraw { keyspace, who } if is_in_force => {
                let grant = Some(Asks::Grant { keyspace, who });
                if !self.may_overlap(&asked, |other| other.asks == grant) {
                    self.books.of(keyspace).withdrawn.insert(who, taken);
                }
                Ok(())
            }
            Asks::Set {
                keyspace,
                name,
                value,
            } => self.set_answered((keyspace, name), value, &asked, answer.status),
            Asks::RotateDek(keyspace) if answer.status == Status::Ok => {
                let generation = decode_generation(&answer.payload).unwrap_or(0);
                let rotated = &mut self.books.of(keyspace).rotated;
                if rotated.is_none_or(|(newest, _)| newest < generation) {
                    *rotated = Some((generation, now));
                }
                self.check_rotated(keyspace, generation)
            }
            Asks::Unlock { keyspace, .. } if answer.status == Status::Ok => {
                self.unlock_answered(keyspace, decode_ticket(&answer.payload).unwrap_or(0))
            }
            Asks::UnlockStatus { keyspace, ticket } if answer.status == Status::Ok => {
                self.status_answered(keyspace, ticket, answer);
                Ok(())
            }
            Asks::List { listing, .. } => self.page_answered(listing, answer),
            Asks::Page { walk, .. } => self.walk_on(walk, answer),
            _ => Ok(()),
        }
    }

    /// Whether another request may have taken effect after this one.
    pub(super) fn may_overlap(&self, asked: &Asked, is_other: impl Fn(&Asked) -> bool) -> bool {
        let mut others = self.books.requests.values();
        others.any(|other| is_other(other) && other.may_act_after(asked.sent_at))
    }

    fn lock_answered(&mut self, keyspace: u32, asked: &Asked, taken: Taken) -> Checked {
        let is_unlock = |other: &Asked| matches!(other.asks, Some(Asks::Unlock { keyspace: of, .. }) if of == keyspace);
        if self.may_overlap(asked, is_unlock) {
            return Ok(());
        }
        self.books.of(keyspace).locked = Some(taken);
        for shard in 0..self.sites.len() as u16 {
            let left = self.shared.memory.count(shard, keyspace);
            ensure!(
                25,
                left == 0,
                "keyspace {keyspace}: its lock was answered, and shard {shard} has {left} keys and DEKs in memory"
            );
        }
        Ok(())
    }

    fn key_answered(
        &mut self,
        key: Key,
        answer: &ReceivedAnswer,
        asked: &Asked,
        asks: Asks,
    ) -> Checked {
        let now = self.now;
        let is_generate = |other: &Asked| {
            let other = other.asks.filter(|other| other.makes_key());
            other.and_then(Asks::key) == Some(key)
        };
        let may_be_made = self.may_overlap(asked, is_generate);
        let book = self.books.keys.entry(key).or_default();
        let most = book.most();
        book.note_answered(asks, answer.status);
        let least = book.least(asked.sent_at);
        match answer.status {
            Status::Ok => {}
            Status::NotPersisted if matches!(asks, Asks::Revoke(_)) => {}
            _ => return Ok(()),
        }
        match asks {
            Asks::Revoke(_) => {
                book.note_taken(answer.version);
                let through = if may_be_made { least } else { u32::MAX };
                let is_written = answer.status == Status::Ok;
                book.revoked = Some(Revoked {
                    at: now,
                    through,
                    is_written,
                });
            }
            Asks::Delete(_) => book.note_taken(answer.version),
            _ => {
                let version = answer.version;
                let from = match asks {
                    // Any that is live.
                    Asks::Verify { version: 0, .. } => 1,
                    _ => asks
                        .version()
                        .unwrap_or(least + u32::from(asks.makes_version())),
                };
                ensure!(
                    37,
                    asks.version().is_none_or(|named| named == version),
                    "{key:?}: {asks:?} is answered with version {version}"
                );
                if let Asks::Trim { below, .. } = asks {
                    ensure!(
                        42,
                        below <= version,
                        "{key:?}: all below {below} were trimmed, and the newest is {version}"
                    );
                    book.note_trimmed(now, below);
                }
                ensure!(
                    37,
                    version >= from,
                    "{key:?}: {asks:?} of version {version}, and version {least} was acknowledged before it was sent"
                );
                ensure!(
                    38,
                    version <= most,
                    "{key:?}: {asks:?} of version {version}, and no more than {most} were made"
                );
                book.learn(now, version);
            }
        }
        Ok(())
    }

    fn page_answered(&mut self, number: u64, answer: &ReceivedAnswer) -> Checked {
        if answer.status != Status::Ok {
            self.books.listings.remove(&number);
            return Ok(());
        }
        let page = KeyListAnswer::decode(&answer.payload);
        let Some(listing) = self.books.listings.get_mut(&number) else {
            return Ok(());
        };
        let Ok(page) = page else {
            ensure!(33, false, "a page of keys cannot be read: {page:?}");
            return Ok(());
        };
        let rows = page.rows.map(|row| row.key_id.as_bytes().to_vec());
        listing.seen.extend(rows);
        listing.cursor = page.cursor.to_vec();
        if !listing.cursor.is_empty() {
            let (client, keyspace, shard) = (listing.client, listing.keyspace, listing.shard);
            // As long as it is connected; otherwise the listing ends here.
            if self.sockets[client].is_open {
                self.ask(
                    client,
                    Asks::List {
                        keyspace,
                        shard,
                        listing: number,
                    },
                    0,
                );
            }
            return Ok(());
        }
        let Some(listing) = self.books.listings.remove(&number) else {
            return Ok(());
        };
        self.check_listing(&listing)
    }

    fn check_listing(&self, listing: &Listing) -> Checked {
        let mut once = listing.seen.clone();
        once.sort();
        once.dedup();
        ensure!(
            33,
            once.len() == listing.seen.len(),
            "keyspace {}: a listing shows a key twice: {:?}",
            listing.keyspace,
            listing.seen
        );
        for key in &listing.expected {
            let book = self.books.keys.get(key);
            let is_deleted = book.is_none_or(|book| book.deletes_sent > 0);
            ensure!(
                39,
                is_deleted || once.contains(&key.id()),
                "{key:?} was there before the listing began at {}, which does not show it: {:?}",
                listing.began_at,
                listing.seen
            );
        }
        Ok(())
    }
}

/// Settings of which a lower value takes something away.
pub(super) const TIME_LIMITS: [&str; 3] = ["soft_ttl_ms", "hard_ttl_ms", "dek_lease_ms"];

/// Whether a command overtakes others, and finds a place while there is none for them.
fn is_emergency(asks: Asks) -> bool {
    match asks {
        Asks::Lock(_) | Asks::LockAll | Asks::LockKms(_) => true,
        Asks::Revoke(_) | Asks::Withdraw { .. } => true,
        Asks::Set { name, .. } => TIME_LIMITS.contains(&name),
        _ => false,
    }
}
