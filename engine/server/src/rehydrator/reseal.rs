//! After a DEK's rotation: finds the blobs that are sealed under an older DEK, and seals them anew.
//!
//! A pass over the log that finds none proves that the older DEKs are not needed any more, if no blob that was sealed
//! under one of them was on its way into the log when the pass began: [`SealsUnderWay`] knows of those.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use keyway_keys::{Context, peek};
use keyway_store::{Expect, KeyState, PutError, Row};

use super::{Rehydrator, WriteError};

/// What a page's blobs are looked at for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResealWork {
    /// Only to count those under an older DEK.
    Count,
    /// To seal them anew.
    Reseal,
}

/// What one page of the log held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResealPage {
    /// Where the next page begins; empty at the end.
    pub cursor: Vec<u8>,
    /// Blobs under an older DEK.
    pub found: u64,
    /// Those that are sealed under the newest one now, by us or by somebody who came before us.
    pub resealed: u64,
    /// Those that cannot be opened.
    pub unreadable: u64,
}

impl Rehydrator {
    /// Works through one page of a keyspace's blobs, those that are not sealed under the DEK of `generation`.
    ///
    /// Errors: [`WriteError::DekMissing`] if that DEK, or an older one that is needed, is not at hand;
    /// [`WriteError::Overloaded`] if a pass cannot begin yet; what the disk says.
    pub async fn reseal_page(
        &self,
        keyspace: u32,
        generation: u32,
        work: ResealWork,
        cursor: &[u8],
        limit: usize,
    ) -> Result<ResealPage, WriteError> {
        if cursor.is_empty() && self.seals.any_below(keyspace, generation) {
            return Err(WriteError::Overloaded(
                "a blob under the older DEK is still being written".to_owned(),
            ));
        }
        let listed = self.log.list(cursor, limit, Some(keyspace)).await;
        let listed = listed.map_err(|error| WriteError::Store(error.to_string()))?;
        let mut page = ResealPage {
            cursor: listed.cursor,
            ..ResealPage::default()
        };
        for row in listed.rows {
            let is_older = row.state != KeyState::Revoked
                && peek(&row.blob).is_ok_and(|blob| blob.dek_generation < generation);
            if !is_older {
                continue;
            }
            page.found += 1;
            if work == ResealWork::Count {
                continue;
            }
            match self.reseal(keyspace, generation, &row).await {
                Ok(()) => page.resealed += 1,
                Err(WriteError::Invalid(reason)) => {
                    tracing::error!(
                        keyspace,
                        key = %String::from_utf8_lossy(&row.key_id),
                        %reason,
                        "key cache invalid: a blob cannot be sealed under the new DEK"
                    );
                    page.unreadable += 1;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(page)
    }

    async fn reseal(&self, keyspace: u32, generation: u32, row: &Row) -> Result<(), WriteError> {
        let key_id = row.key_id.as_slice();
        let context = Context { keyspace, key_id };
        let blob = {
            let deks = self.deks.borrow();
            let deks = deks.get(&keyspace).ok_or(WriteError::DekMissing)?;
            let sealed_under = peek(&row.blob)?.dek_generation;
            let opener = deks.get(&sealed_under).ok_or(WriteError::DekMissing)?;
            let sealer = deks.get(&generation).ok_or(WriteError::DekMissing)?;
            self.vault.reseal(sealer, context, &row.blob, opener)?
        };
        let expect = Expect::Version(row.version);
        let stored = self
            .log
            .put_blob(keyspace, key_id, row.version, blob, expect)
            .await;
        match stored {
            Ok(_) => Ok(()),
            // Somebody wrote or revoked it since: it is under the newest DEK, or none is needed.
            Err(PutError::Conflict { .. } | PutError::Revoked | PutError::NotFound) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Blobs that are sealed and on their way into the log, by keyspace and DEK generation.
#[derive(Default)]
pub(super) struct SealsUnderWay(Rc<RefCell<BTreeMap<(u32, u32), usize>>>);

/// One such blob, until this is dropped.
pub(super) struct SealUnderWay {
    seals: Rc<RefCell<BTreeMap<(u32, u32), usize>>>,
    key: (u32, u32),
}

impl SealsUnderWay {
    pub(super) fn begin(&self, keyspace: u32, generation: u32) -> SealUnderWay {
        let key = (keyspace, generation);
        *self.0.borrow_mut().entry(key).or_default() += 1;
        SealUnderWay {
            seals: Rc::clone(&self.0),
            key,
        }
    }

    fn any_below(&self, keyspace: u32, generation: u32) -> bool {
        let below = (keyspace, 0)..(keyspace, generation);
        self.0.borrow().range(below).next().is_some()
    }
}

impl Drop for SealUnderWay {
    fn drop(&mut self) {
        let mut seals = self.seals.borrow_mut();
        if let Some(count) = seals.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                seals.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_older_seals_of_the_same_keyspace_count() {
        let seals = SealsUnderWay::default();
        let (first, second) = (seals.begin(7, 1), seals.begin(7, 1));
        let _newest = seals.begin(7, 2);
        let _elsewhere = seals.begin(8, 1);
        drop(first);
        assert!(seals.any_below(7, 2), "one is still under way");
        assert!(!seals.any_below(7, 1));
        drop(second);
        assert!(!seals.any_below(7, 2));
        assert!(seals.any_below(7, 3));
    }
}
