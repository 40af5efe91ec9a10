//! The steps of a history of the logs, and the outcomes of their errands.

use super::books::{Key, name_of, versions_of, violation};
use super::plan::{KEYS, What};
use super::{Asked, Listing, World, route};
use crate::oracle::{Checked, ensure};
use keyway_node::port::{Expect, Found, KeyState, Name, Page, Sealed, Write, WriteError};
use keyway_node::shard::{Done, Errand, OwnedName};
use keyway_store::Versions;
use std::collections::BTreeMap;

/// Errands in flight, at most.
const IN_FLIGHT_MAX: usize = 40;

pub(super) fn key_of(number: u64) -> Key {
    let keyspace = 1 + (number % 2) as u32;
    (keyspace, format!("key-{}", number % KEYS).into_bytes())
}

fn owned(key: &Key) -> OwnedName {
    OwnedName {
        keyspace: key.0,
        key_id: key.1.clone().into(),
    }
}

pub(super) fn name(key: &Key) -> Name<'_> {
    Name {
        keyspace: key.0,
        key_id: &key.1,
    }
}

impl World {
    pub(super) fn shard_of(&self, key: &Key) -> usize {
        route(self.logs.len() as u16)(key.0, &key.1)
    }

    pub(super) fn step(&mut self, what: What) -> Checked {
        match what {
            What::Mood(mood) => self.disk.set_mood(mood),
            What::Crash {
                is_power_cut,
                shards,
            } => return self.crash(is_power_cut, shards),
            _ if self.asked.len() >= IN_FLIGHT_MAX => {}
            What::Put { key, len } => self.put(key_of(key), len),
            What::Read(key) => {
                let key = key_of(key);
                let before = self.books.told(&key);
                let errand = Errand::Read(owned(&key));
                self.begin(self.shard_of(&key), Asked::Read(key, before), errand);
            }
            What::Revoke(key) => self.revoke(key_of(key)),
            What::RevokeVersion { key, below } => self.revoke_version(key_of(key), below),
            What::Trim { key, kept } => self.trim(key_of(key), kept),
            What::Delete(key) => {
                let key = key_of(key);
                self.books.try_delete(&key);
                let errand = Errand::Put(owned(&key), Write::Deletion);
                self.begin(self.shard_of(&key), Asked::Delete(key), errand);
            }
            What::RevokedAt(key) => {
                let key = key_of(key);
                let before = self.books.told(&key);
                let errand = Errand::RevokedAt(owned(&key));
                self.begin(self.shard_of(&key), Asked::RevokedAt(key, before), errand);
            }
            What::Reserve(key) => self.reserve(key_of(key)),
            What::List { keyspace, rows_max } => self.list(keyspace, rows_max),
        }
        Ok(())
    }

    fn begin(&mut self, shard: usize, asked: Asked, errand: Errand) {
        let number = self.next;
        self.next += 1;
        self.outcome.errands += 1;
        self.asked.insert(number, asked);
        self.logs[shard].begin(self.now_us, number, errand);
    }

    /// Puts the next version, as a shard does it: by what the index says.
    pub(super) fn put(&mut self, key: Key, len: usize) {
        let shard = self.shard_of(&key);
        let known = self.logs[shard].known(name(&key));
        let (version, oldest, without, expect) = match self.logs[shard].blob_now(owned(&key)) {
            None => {
                let version = known.map_or(1, |known| known.version + 1);
                (version, version, 0, Expect::Absent)
            }
            Some(blob) => {
                let versions = versions_of(&blob.bytes).expect("it was put here");
                let expect = Expect::Revision(blob.version, blob.revision);
                let without = versions.without << 1;
                (blob.version + 1, versions.oldest, without, expect)
            }
        };
        self.seal(key, version, Versions { oldest, without }, (len, expect));
    }

    /// Trims a key, if there is something to be trimmed.
    fn trim(&mut self, key: Key, kept: u32) {
        let Some(blob) = self.logs[self.shard_of(&key)].blob_now(owned(&key)) else {
            return;
        };
        let mut versions = versions_of(&blob.bytes).expect("it was put here");
        let oldest = blob.version.saturating_sub(kept);
        if oldest > versions.oldest {
            versions.oldest = oldest;
            let expect = Expect::Revision(blob.version, blob.revision);
            self.seal(key, blob.version, versions, (blob.bytes.len(), expect));
        }
    }

    /// Puts a blob without what is revoked, except the newest version: as the server seals it.
    fn seal(
        &mut self,
        key: Key,
        version: u32,
        mut versions: Versions,
        (len, expect): (usize, Expect),
    ) {
        let shard = self.shard_of(&key);
        versions.without |= self.logs[shard].revoked_versions(name(&key), version) & !1;
        let (attempt, bytes) = self.books.try_put(&key, version, versions, len);
        let write = Write::Blob {
            sealed: Sealed { version, bytes },
            expect,
        };
        let errand = Errand::Put(owned(&key), write);
        self.begin(shard, Asked::Put(attempt), errand);
    }

    /// Revokes a key, as a shard does it: in force first, then written.
    fn revoke(&mut self, key: Key) {
        let shard = self.shard_of(&key);
        let unix_ms = 1_900_000_000_000 + self.now_us;
        let was = self.logs[shard].known(name(&key));
        if self.logs[shard].revoke(name(&key), unix_ms).is_ok() {
            if was.is_none_or(|was| was.state != KeyState::Revoked) {
                // Not known yet: a put is in flight, and revoked with it.
                let known = self.logs[shard].known(name(&key));
                let version = known.map_or(0, |known| known.version);
                self.books.revoke(&key, version, unix_ms);
            }
            let errand = Errand::Put(owned(&key), Write::Revocation);
            self.begin(shard, Asked::Revoke(key), errand);
        }
    }

    /// Revokes one version of a key: in force first, then written.
    fn revoke_version(&mut self, key: Key, below: u32) {
        let shard = self.shard_of(&key);
        let Some(known) = self.logs[shard].known(name(&key)) else {
            return;
        };
        let version = known.version.saturating_sub(below).max(1);
        self.books.try_revoke_version(&key, version);
        let revoked = self.logs[shard].revoke_version(name(&key), version, self.now_us);
        if revoked.is_ok() {
            self.books.revoke_version(&key, version);
            let errand = Errand::Put(owned(&key), Write::VersionRevocation(version));
            self.begin(shard, Asked::RevokeVersion(key, version), errand);
        }
    }

    /// Reserves uses of a live key, one block at a time.
    fn reserve(&mut self, key: Key) {
        let shard = self.shard_of(&key);
        let is_asked = self
            .asked
            .values()
            .any(|asked| matches!(asked, Asked::Reserve(of, _) if *of == key));
        let known = self.logs[shard].known(name(&key));
        if let Some(known) = known
            && known.state == KeyState::Live
            && !is_asked
        {
            let errand = Errand::Reserve(owned(&key), known.version);
            self.begin(shard, Asked::Reserve(key, known.version), errand);
        }
    }

    fn list(&mut self, keyspace: u32, rows_max: usize) {
        for shard in 0..self.logs.len() {
            let here = self.books.there(keyspace);
            let here = here.filter(|(key, _)| self.shard_of(key) == shard);
            let before = here.map(|(key, told)| (key.clone(), told.clone()));
            let listing = Listing {
                shard,
                keyspace,
                rows_max,
                before: before.collect(),
                shown: BTreeMap::new(),
            };
            self.page(listing, Vec::new());
        }
    }

    fn page(&mut self, listing: Listing, cursor: Vec<u8>) {
        let errand = Errand::List {
            keyspace: listing.keyspace,
            cursor,
            rows_max: listing.rows_max,
        };
        self.begin(listing.shard, Asked::List(listing), errand);
    }

    /// Lets time pass.
    pub(super) fn pass(&mut self, us: u64) -> Checked {
        let until = self.now_us + us;
        loop {
            let next = self.logs.iter().filter_map(|log| log.next_at()).min();
            self.now_us = next.map_or(until, |at| at.clamp(self.now_us, until));
            for shard in 0..self.logs.len() {
                for (number, done) in self.logs[shard].take_done(self.now_us) {
                    self.end(number, done)?;
                }
            }
            let is_more = |at: u64| at <= until;
            if !self
                .logs
                .iter()
                .filter_map(|log| log.next_at())
                .any(is_more)
            {
                self.now_us = until;
                return Ok(());
            }
        }
    }

    fn end(&mut self, number: u64, done: Done) -> Checked {
        let now_us = self.now_us;
        self.trace.note(now_us, || format!("  #{number}: {done:?}"));
        let Some(asked) = self.asked.remove(&number) else {
            return Err(violation(31, format!("errand {number} ends twice")));
        };
        match (asked, done) {
            (Asked::Put(attempt), Done::Put(result)) => {
                self.outcome.acknowledged += u64::from(result.is_ok());
                self.books.end_put(attempt, &result)
            }
            (Asked::Read(key, before), Done::Read(result)) => match result {
                Ok(Found::Blob(blob)) => {
                    self.books
                        .check_blob(&key, &before, blob.version, &blob.bytes)?;
                    let log = &self.logs[self.shard_of(&key)];
                    let known = log.known(name(&key));
                    // One that was replaced since is read again: a node does not open it.
                    if known.is_some_and(|known| known.revision != blob.revision) {
                        return Ok(());
                    }
                    let revoked = log.revoked_versions(name(&key), blob.version);
                    self.books
                        .check_versions(&key, blob.version, &blob.bytes, revoked)
                }
                Ok(Found::Missing) => self.books.check_missing(&key, &before),
                Ok(Found::Revoked) => self.books.check_revoked(&key),
                Err(keyway_node::port::ReadError::Io(_)) => Ok(()),
                Err(error) => Err(violation(16, format!("{}: {error:?}", name_of(&key)))),
            },
            (Asked::Revoke(key), Done::Put(result)) => {
                if let Ok(version) = result {
                    self.outcome.acknowledged += 1;
                    self.books.end_revoke(&key, version);
                }
                Ok(())
            }
            (Asked::RevokeVersion(key, version), Done::Put(result)) => {
                if result.is_ok() {
                    self.outcome.acknowledged += 1;
                    self.books.end_revoke_version(&key, version);
                }
                Ok(())
            }
            (Asked::Delete(key), Done::Put(result)) => {
                self.outcome.acknowledged += u64::from(result.is_ok());
                self.books.end_delete(&key, &result);
                Ok(())
            }
            (Asked::RevokedAt(key, before), Done::RevokedAt(result)) => {
                self.check_revoked_at(&key, &before, &result)
            }
            (Asked::Reserve(key, version), Done::Reserved(result)) => {
                if result.is_ok() {
                    self.outcome.acknowledged += 1;
                    let shard = self.shard_of(&key);
                    let uses = self.logs[shard].uses(name(&key));
                    let holds = uses.is_some_and(|(of, _)| of >= version);
                    ensure!(16, holds, "{}: {uses:?} after a reserve", name_of(&key));
                    self.books.end_reserve(&key, uses.unwrap_or_default());
                }
                Ok(())
            }
            (Asked::List(listing), Done::Listed(result)) => match result {
                Ok(page) => self.end_page(listing, page),
                Err(_) => Ok(()),
            },
            (_, done) => Err(violation(31, format!("errand {number} ends with {done:?}"))),
        }
    }

    fn check_revoked_at(
        &self,
        key: &Key,
        before: &super::Told,
        result: &Result<Option<u64>, WriteError>,
    ) -> Checked {
        let told = self.books.told(key);
        if let (Ok(Some(at)), Some(expected)) = (result, before.revoked_at)
            && told.deletions_tried == 0
        {
            let name = name_of(key);
            ensure!(
                16,
                *at == expected,
                "{name}: revoked at {expected}, not {at}"
            );
        }
        Ok(())
    }

    fn end_page(&mut self, mut listing: Listing, page: Page) -> Checked {
        for row in page.rows {
            let key = (listing.keyspace, row.key_id);
            let before = self.books.told(&key);
            match row.state {
                KeyState::Live => {
                    let at_first = listing.before.get(&key).cloned().unwrap_or_default();
                    let (version, bytes) = (row.blob.version, row.blob.bytes);
                    self.books.check_blob(&key, &at_first, version, &bytes)?;
                }
                KeyState::Revoked => self.books.check_revoked(&key)?,
                state => {
                    let name = name_of(&key);
                    return Err(violation(16, format!("{name}: {state:?}, {before:?}")));
                }
            }
            *listing.shown.entry(key).or_default() += 1;
        }
        if !page.cursor.is_empty() {
            self.page(listing, page.cursor);
            return Ok(());
        }
        for (key, before) in &listing.before {
            // One that was deleted meanwhile may be missing, or be there again.
            if self.books.told(key).deletions_tried == before.deletions_tried {
                let times = listing.shown.get(key).copied().unwrap_or(0);
                let name = name_of(key);
                ensure!(39, times == 1, "{name} is shown {times} times in a listing");
            }
        }
        Ok(())
    }
}
