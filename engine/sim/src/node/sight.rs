//! What the port and the log of a shard have seen it do.

use super::World;
use super::books::UsedKey;
use super::label::Label;
use super::plan::{Asks, Key};
use super::port::{Seen, Used};
use super::terms::Freshness;
use crate::control::kms::{Dek, read};
use crate::oracle::{Checked, ensure};
use keyway_core::TICK_US;
use keyway_node::port::{Expect, Write};
use keyway_node::shard::{Errand, OwnedName};

/// A turn that took so long had the processor taken away, µs.
const LOST_US: u64 = 100_000;
/// After a deadline a tick has to come, and the shard's wheel counts in ticks.
const OVERDUE_US: u64 = 3 * TICK_US;

impl World<'_> {
    /// Takes what a shard's port has seen in a turn.
    pub(super) fn take_seen(&mut self, number: u16) -> Checked {
        let port = self.sites[usize::from(number)].shard.port();
        let seen = std::mem::take(&mut *port.seen.borrow_mut());
        for seen in seen {
            match seen {
                Seen::Used(used) => self.used(number, used)?,
                Seen::Opened(opened) => {
                    self.books.loads.insert(opened.load, (number, opened));
                }
                Seen::Sealed(dek, at) => self.sealed(number, dek, at)?,
                Seen::Broken(violation) => return Err(violation),
            }
        }
        Ok(())
    }

    fn used(&mut self, number: u16, used: Used) -> Checked {
        self.outcome.served += 1;
        let keyspace = used.keyspace;
        let loaded = self.books.loads.get(&used.load).copied();
        let Some((_, opened)) = loaded.filter(|(shard, _)| *shard == number) else {
            ensure!(
                0,
                false,
                "shard {number}: #{} used a key that it has not loaded",
                used.request
            );
            return Ok(());
        };
        let site = &self.sites[usize::from(number)];
        let end = site
            .terms
            .get(&keyspace)
            .map_or(0, |terms| terms.end_of(&opened));
        self.trace.note(used.began_at, || {
            format!(
                "  shard {number}: #{} uses version {} of load {}, which ends at {end}, until {}",
                used.request, used.version, used.load, used.ended_at
            )
        });
        ensure!(
            25,
            end > 0,
            "shard {number}: #{} uses a key of keyspace {keyspace}, which the shard has said to be locked",
            used.request
        );
        ensure!(
            23,
            used.began_at < end && used.began_at < used.expires_at,
            "shard {number}: #{} uses a key at {}, which ends at {end} (the shard says at {})",
            used.request,
            used.began_at,
            used.expires_at
        );
        ensure!(
            2,
            used.expires_at <= end,
            "shard {number}: the key of #{} ends at {end}, and the shard says at {}",
            used.request,
            used.expires_at
        );
        let terms = site.terms.get(&keyspace);
        let freshness = terms.map_or(Freshness::default(), |it| {
            it.freshness_of(&opened, used.began_at)
        });
        self.books.uses.insert(
            used.number,
            UsedKey {
                used,
                end,
                freshness,
            },
        );
        self.check_rights(number, &used)
    }

    fn check_rights(&mut self, number: u16, used: &Used) -> Checked {
        let at = used.began_at;
        let Some(asked) = self.books.requests.get(&used.request) else {
            ensure!(31, false, "#{}: no client has asked for it", used.request);
            return Ok(());
        };
        let (asks, user, deadline) = (asked.asks, asked.user, asked.deadline);
        ensure!(
            32,
            deadline.is_none_or(|deadline| at <= deadline + OVERDUE_US),
            "#{}: it is begun at {at}, after its deadline {deadline:?}",
            used.request
        );
        if let Some(book) = self.books.keyspaces.get(&used.keyspace) {
            let is_after = |taken: Option<&super::books::Taken>| taken.is_some_and(|it| at > it.at);
            ensure!(
                25,
                !is_after(book.locked.as_ref()),
                "shard {number}: #{} uses a key of keyspace {} at {at}: {:?} was answered",
                used.request,
                used.keyspace,
                book.locked
            );
            let withdrawn = user.and_then(|who| book.withdrawn.get(&who));
            ensure!(
                25,
                !is_after(withdrawn),
                "shard {number}: #{} uses a key for user {user:?} at {at}: {withdrawn:?} was answered",
                used.request
            );
        }
        ensure!(
            25,
            user.is_none() || asks.is_none_or(Asks::is_granted),
            "shard {number}: user {user:?} is granted to sign, and #{} is {asks:?}",
            used.request
        );
        let key = asks
            .and_then(Asks::key)
            .and_then(|key| self.books.keys.get(&key));
        let revoked = key.and_then(|key| key.versions_revoked.get(&used.version));
        ensure!(
            25,
            revoked.is_none_or(|taken| at <= taken.at),
            "shard {number}: #{} uses version {} at {at}, which was revoked alone: {revoked:?}",
            used.request,
            used.version
        );
        let trimmed = key.and_then(|key| key.trimmed);
        ensure!(
            42,
            trimmed.is_none_or(|it| at <= it.at || used.version >= it.below),
            "shard {number}: #{} uses version {} at {at}: {trimmed:?} was answered",
            used.request,
            used.version
        );
        let revoked = key.and_then(|key| key.revoked);
        ensure!(
            25,
            revoked.is_none_or(|it| at <= it.at || used.version > it.through),
            "shard {number}: #{} uses version {} at {at}: {revoked:?} was answered",
            used.request,
            used.version
        );
        Ok(())
    }

    fn sealed(&mut self, number: u16, dek: Dek, at: u64) -> Checked {
        let book = self.books.keyspaces.get(&dek.keyspace);
        let rotated = book.and_then(|book| book.rotated);
        ensure!(
            29,
            rotated.is_none_or(|(newest, since)| at <= since || dek.generation >= newest),
            "shard {number} seals under {dek:?} at {at}: {rotated:?} was answered"
        );
        ensure!(
            28,
            self.is_durable(dek),
            "shard {number} seals under {dek:?}, which keyspaces.json does not have"
        );
        Ok(())
    }

    /// After a turn: what it had to do is done.
    pub(super) fn look_at(&mut self, number: u16) -> Checked {
        let site = &self.sites[usize::from(number)];
        let (began_at, ended_at) = (site.turn_began_at, site.clock.now());
        if ended_at > began_at + LOST_US {
            self.books.trouble_at = self.books.trouble_at.max(ended_at);
        }
        ensure!(
            0,
            !site.shard.is_broken(),
            "shard {number}: its core is broken"
        );
        let ticked_until = site.ticked.until;
        let Some(deadlines) = self.books.deadlines.get_mut(&number) else {
            return Ok(());
        };
        while let Some((deadline, request)) = deadlines.first().copied() {
            if deadline + OVERDUE_US > ticked_until {
                break;
            }
            deadlines.pop_first();
            let asked = self.books.requests.get(&request);
            ensure!(
                32,
                asked.is_none_or(|it| it.released_at.is_some() || it.is_lost),
                "#{request}: no answer at {ended_at}, and its deadline was {deadline}: {asked:?}"
            );
        }
        Ok(())
    }

    /// What a shard asks its log for is in time.
    pub(super) fn check_errand(&mut self, number: u16, errand: &Errand) -> Checked {
        let began_at = self.sites[usize::from(number)].turn_began_at;
        self.trace
            .note(began_at, || format!("  shard {number}: {errand:?}"));
        let Errand::Put(name, write) = errand else {
            return Ok(());
        };
        if let Write::Blob {
            sealed,
            expect: Expect::Revision(version, _),
        } = write
            && *version == sealed.version
        {
            // It is resealed, which no client has asked for.
            return Ok(());
        }
        let Some(key) = key_of(name) else {
            return Ok(());
        };
        let is_it = |asks: Asks| {
            asks.key() == Some(key)
                && match write {
                    Write::Blob { .. } => asks.makes_version(),
                    Write::Revocation => matches!(asks, Asks::Revoke(_)),
                    Write::VersionRevocation(of) => {
                        matches!(asks, Asks::RevokeVersion { version, .. } if version == *of)
                    }
                    Write::Deletion => matches!(asks, Asks::Delete(_)),
                }
        };
        let mut writes = self.books.requests.values();
        ensure!(
            32,
            writes.any(|asked| {
                asked.asks.is_some_and(is_it)
                    && asked.deadline.is_none_or(|deadline| began_at < deadline)
                    && asked.may_act_after(began_at)
            }),
            "shard {number}: {write:?} of {key:?} begins at {began_at}, and no request for it is within its deadline"
        );
        Ok(())
    }

    /// A shard's log has come on: what it has is sealed as was promised, and opens.
    pub(super) fn look_at_log(&mut self, shard: u16) -> Checked {
        let landed = self.logs[usize::from(shard)].borrow_mut().take_landed();
        for (label, _) in landed.iter().filter_map(|blob| Label::read(blob)) {
            let dek = label.dek;
            let book = self.books.keyspaces.get(&dek.keyspace);
            let rotated = book.and_then(|book| book.rotated);
            ensure!(
                29,
                rotated.is_none_or(|(newest, _)| dek.generation >= newest),
                "shard {shard}: a blob under {dek:?} comes into the log, and {rotated:?} was answered"
            );
            ensure!(
                28,
                self.opens(dek),
                "shard {shard} has a blob under {dek:?}, which is not among the DEKs in keyspaces.json"
            );
        }
        Ok(())
    }

    /// Every blob opens: the catalogue that is durable has its DEK in use. Also one whose revocation is only in force:
    /// the process may die before it is written.
    pub(super) fn check_blobs(&self) -> Checked {
        for (shard, log) in self.logs.iter().enumerate() {
            let log = log.borrow();
            for record in log.records() {
                let Some((label, _)) = Label::read(&record.bytes) else {
                    continue;
                };
                let name = (record.keyspace, &record.key_id);
                ensure!(
                    28,
                    self.opens(label.dek),
                    "shard {shard} has a blob of {name:?} under {:?}, which is not among the DEKs in keyspaces.json",
                    label.dek
                );
            }
        }
        Ok(())
    }

    /// Whether a DEK is in use by the durable catalogue.
    fn opens(&self, dek: Dek) -> bool {
        let keyspace = self.disk.durable.keyspace(dek.keyspace);
        let deks = keyspace.map(|keyspace| keyspace.deks()).unwrap_or_default();
        let mut deks = deks.iter().filter_map(|it| read(&it.record));
        deks.any(|(_, other)| other == dek)
    }

    /// Whether the durable catalogue, or the one before it, has a DEK, in use or retired.
    pub(super) fn is_durable(&self, dek: Dek) -> bool {
        let catalogues = [Some(&self.disk.durable), self.disk.before.as_ref()];
        let mut catalogues = catalogues.into_iter().flatten();
        catalogues.any(|catalogue| {
            let Ok(keyspace) = catalogue.keyspace(dek.keyspace) else {
                return false;
            };
            let deks = keyspace.deks();
            let retired = keyspace.retired_deks();
            let mut records = deks.iter().chain(&retired);
            records.any(|it| read(&it.record).is_some_and(|(_, of)| of == dek))
        })
    }
}

fn key_of(name: &OwnedName) -> Option<Key> {
    let number = std::str::from_utf8(&name.key_id).ok()?;
    let number = number.strip_prefix("key-")?.parse().ok()?;
    Some(Key {
        keyspace: name.keyspace,
        number,
    })
}
