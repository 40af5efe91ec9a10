//! The wrapped DEKs of a keyspace: in use, and retired.
//!
//! A retired DEK is one that no stored blob needs. It is kept for [`RETIRED_KEPT_MS`], or until an operator destroys it,
//! because a blob restored from a backup may still be sealed under it.

use super::{Catalogue, CatalogueError, Change, ChangeAuthor, Keyspace};

/// How long a retired DEK is kept, in ms: 30 days.
pub const RETIRED_KEPT_MS: u64 = 30 * DAY_MS;

const DAY_MS: u64 = 86_400_000;

/// Most retired DEKs of a keyspace: four a day. None is dropped early to free space; a rotation that would exceed the
/// limit is refused.
pub const RETIRED_DEKS_MAX: usize = 128;

/// A wrapped DEK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedDek {
    /// The DEK's generation.
    pub generation: u32,
    /// The wrapped key, as the KMS returned it.
    pub record: Vec<u8>,
}

impl WrappedDek {
    fn new(generation: u32, record: &[u8]) -> WrappedDek {
        WrappedDek {
            generation,
            record: record.to_vec(),
        }
    }
}

/// A DEK that no stored blob needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetiredDek {
    /// The wrapped key.
    pub(super) record: Vec<u8>,
    /// When it was retired, in wall-clock time.
    pub retired_unix_ms: u64,
}

impl RetiredDek {
    fn is_due(&self, unix_ms: u64) -> bool {
        unix_ms.saturating_sub(self.retired_unix_ms) >= RETIRED_KEPT_MS
    }
}

impl Catalogue {
    /// Checks that the DEK a rotation would retire fits within [`RETIRED_DEKS_MAX`].
    pub fn check_rotation(&self, id: u32) -> Result<(), CatalogueError> {
        let keyspace = self.keyspace(id)?;
        if keyspace.retired.len() < RETIRED_DEKS_MAX {
            return Ok(());
        }
        let days = RETIRED_KEPT_MS / DAY_MS;
        Err(CatalogueError::Conflict(format!(
            "keyspace `{0}` already keeps {RETIRED_DEKS_MAX} retired DEKs for {days} days each, which is the maximum; \
             if no backup from before the last rotation must stay readable, run `keyway keyspace destroy-deks {0}`",
            keyspace.name
        )))
    }

    /// Adds a DEK as the next generation.
    pub fn add_dek(
        &mut self,
        id: u32,
        dek: &WrappedDek,
        by: &ChangeAuthor,
    ) -> Result<(), CatalogueError> {
        let keyspace = self.keyspace_mut(id)?;
        let current = keyspace.generation();
        if current.checked_add(1) != Some(dek.generation) {
            return Err(CatalogueError::Conflict(format!(
                "keyspace `{}` was already rotated to DEK {current}: nothing left to do",
                keyspace.name
            )));
        }
        keyspace.deks.insert(dek.generation, dek.record.clone());
        let change = Change::new(by, "generation").between(current, dek.generation);
        keyspace.history.note(change);
        Ok(())
    }

    /// Retires all DEKs except the current one.
    pub fn retire_deks(&mut self, id: u32, by: &ChangeAuthor) -> Result<(), CatalogueError> {
        let keyspace = self.keyspace_mut(id)?;
        let current = keyspace.deks.split_off(&keyspace.generation());
        let older = std::mem::replace(&mut keyspace.deks, current);
        let retired_unix_ms = by.at.unix_ms;
        let retired = older.into_iter().map(|(generation, record)| {
            let retired = RetiredDek {
                record,
                retired_unix_ms,
            };
            (generation, retired)
        });
        keyspace.retired.extend(retired);
        Ok(())
    }

    /// Puts a retired DEK into use again, because a blob needs it. Returns `false` if no DEK of that generation is
    /// retired.
    pub fn revive_dek(
        &mut self,
        id: u32,
        generation: u32,
        by: &ChangeAuthor,
    ) -> Result<bool, CatalogueError> {
        let keyspace = self.keyspace_mut(id)?;
        let Some(retired) = keyspace.retired.remove(&generation) else {
            return Ok(false);
        };
        keyspace.deks.insert(generation, retired.record);
        let change = Change::new(by, "retired_dek").between(generation, "in use");
        keyspace.history.note(change);
        Ok(true)
    }

    /// Destroys a keyspace's retired DEKs. Returns their generations.
    pub fn destroy_retired(
        &mut self,
        id: u32,
        by: &ChangeAuthor,
    ) -> Result<Vec<u32>, CatalogueError> {
        Ok(self.keyspace_mut(id)?.destroy_retired(by, |_| true))
    }

    /// Returns the retired DEKs that have been kept for [`RETIRED_KEPT_MS`], as (keyspace, generation).
    pub fn due_deks(&self, unix_ms: u64) -> Vec<(u32, u32)> {
        let mut due = Vec::new();
        for (id, keyspace) in self.iter() {
            let retired = keyspace.retired.iter();
            let of_it = retired.filter(|(_, retired)| retired.is_due(unix_ms));
            due.extend(of_it.map(|(generation, _)| (id, *generation)));
        }
        due
    }

    /// Destroys the retired DEKs that have been kept for [`RETIRED_KEPT_MS`].
    pub fn destroy_due(&mut self, by: &ChangeAuthor) {
        let unix_ms = by.at.unix_ms;
        let due = self.due_deks(unix_ms);
        let mut ids: Vec<u32> = due.into_iter().map(|(id, _)| id).collect();
        ids.dedup();
        for id in ids {
            if let Ok(keyspace) = self.keyspace_mut(id) {
                keyspace.destroy_retired(by, |retired| retired.is_due(unix_ms));
            }
        }
    }

    /// Moves a keyspace to another KMS: replaces its DEKs by the same DEKs as that KMS wraps them.
    pub fn rewrap(
        &mut self,
        id: u32,
        kms: &str,
        deks: &[WrappedDek],
        by: &ChangeAuthor,
    ) -> Result<(), CatalogueError> {
        let keyspace = self.keyspace_mut(id)?;
        let known = keyspace.retired.keys().chain(keyspace.deks.keys());
        let mut known: Vec<u32> = known.copied().collect();
        let mut moved: Vec<u32> = deks.iter().map(|dek| dek.generation).collect();
        known.sort_unstable();
        moved.sort_unstable();
        if known != moved {
            return Err(CatalogueError::Conflict(format!(
                "the DEKs of keyspace `{}` have changed in the meantime; try again",
                keyspace.name
            )));
        }
        let change = Change::new(by, "kms").between(&keyspace.kms, kms);
        keyspace.history.note(change);
        kms.clone_into(&mut keyspace.kms);
        for dek in deks {
            let record = dek.record.clone();
            match keyspace.retired.get_mut(&dek.generation) {
                Some(retired) => retired.record = record,
                None => drop(keyspace.deks.insert(dek.generation, record)),
            }
        }
        Ok(())
    }
}

impl Keyspace {
    /// Returns the generation of the current DEK.
    pub fn generation(&self) -> u32 {
        self.deks.keys().next_back().copied().unwrap_or(0)
    }

    /// Returns the generation of the oldest DEK in use.
    pub fn oldest_generation(&self) -> u32 {
        self.deks.keys().next().copied().unwrap_or(0)
    }

    /// Returns the number of DEKs in use: one, or more until a rotation has completed.
    pub fn dek_count(&self) -> usize {
        self.deks.len()
    }

    /// Returns `true` if DEKs older than the current one are in use.
    pub fn has_older_deks(&self) -> bool {
        self.deks.len() > 1
    }

    /// Returns `true` if the DEK is in use.
    pub fn is_in_use(&self, generation: u32) -> bool {
        self.deks.contains_key(&generation)
    }

    /// Returns the wrapped DEKs in use, oldest first. There is at least one; the last is the current DEK.
    pub fn deks(&self) -> Vec<WrappedDek> {
        let deks = self.deks.iter();
        deks.map(|(generation, record)| WrappedDek::new(*generation, record))
            .collect()
    }

    /// Returns the retired DEKs, oldest first.
    pub fn retired_deks(&self) -> Vec<WrappedDek> {
        self.retired()
            .map(|(generation, retired)| WrappedDek::new(generation, &retired.record))
            .collect()
    }

    /// Returns the retired DEKs by generation.
    pub fn retired(&self) -> impl Iterator<Item = (u32, &RetiredDek)> {
        self.retired.iter().map(|(at, retired)| (*at, retired))
    }

    /// Returns how many DEKs are retired, and when the first was, in ms since the epoch. Returns `None` if none is.
    pub fn retired_since(&self) -> Option<(usize, u64)> {
        let oldest = self.retired.values().map(|retired| retired.retired_unix_ms);
        Some((self.retired.len(), oldest.min()?))
    }

    fn destroy_retired(
        &mut self,
        by: &ChangeAuthor,
        is_due: impl Fn(&RetiredDek) -> bool,
    ) -> Vec<u32> {
        let due = self.retired.iter().filter(|(_, retired)| is_due(retired));
        let destroyed: Vec<u32> = due.map(|(generation, _)| *generation).collect();
        self.retired.retain(|_, retired| !is_due(retired));
        if !destroyed.is_empty() {
            let generations: Vec<String> = destroyed.iter().map(u32::to_string).collect();
            let change = Change::new(by, "retired_dek").between(generations.join(" "), "destroyed");
            self.history.note(change);
        }
        destroyed
    }
}
