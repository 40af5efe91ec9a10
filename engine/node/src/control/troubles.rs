//! What is wrong at the KMSes: the last failure of each keyspace, in the provider's words, and a log that says each thing
//! once. An outage of one KMS with 200 keyspaces is one trouble, not 200, and not again at each try.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use keyway_core::Instant;
use keyway_kms::{Cause, Class, KmsError};

use crate::metrics::snapshot::KmsTrouble;

/// How often a trouble that goes on is logged.
const AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How long a trouble that is over is told of.
const TOLD_FOR: Duration = Duration::from_secs(15 * 60);

/// The troubles of all KMSes, by the KMS's name. Those of a KMS are at most as many as its keyspaces.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    of_kms: BTreeMap<String, OfKms>,
    /// The latest of each KMS that is over, and when it ended.
    past: BTreeMap<String, (KmsTrouble, Instant)>,
}

#[derive(Debug)]
struct OfKms {
    /// Of each keyspace whose last call failed.
    of_keyspaces: BTreeMap<u32, (Class, Cause)>,
    latest: KmsError,
    since: Instant,
    since_unix_ms: u64,
    /// Causes that the log has named since then.
    logged: BTreeSet<Cause>,
    log_next_at: Instant,
    /// Failures since the log's last line.
    unlogged_count: u64,
}

impl Troubles {
    /// A call for `keyspace` failed. Returns whether the log has a line on it.
    pub(super) fn note_failure(
        &mut self,
        kms: &str,
        keyspace: u32,
        error: &KmsError,
        now: Instant,
        now_unix_ms: u64,
    ) -> bool {
        let of_kms = self.of_kms.entry(kms.to_owned()).or_insert_with(|| OfKms {
            of_keyspaces: BTreeMap::new(),
            latest: error.clone(),
            since: now,
            since_unix_ms: now_unix_ms,
            logged: BTreeSet::new(),
            log_next_at: now,
            unlogged_count: 0,
        });
        let kind = (error.class(), error.cause());
        of_kms.of_keyspaces.insert(keyspace, kind);
        of_kms.latest = error.clone();
        if of_kms.logged.insert(error.cause()) {
            of_kms.log_next_at = now.plus(AGAIN_AFTER);
            tracing::warn!(
                kms, keyspace, cause = error.cause().name(), %error,
                "the DEKs were not unwrapped"
            );
            return true;
        }
        of_kms.unlogged_count += 1;
        let is_due = now >= of_kms.log_next_at;
        if is_due {
            of_kms.log_next_at = now.plus(AGAIN_AFTER);
            tracing::warn!(
                kms,
                keyspaces = of_kms.of_keyspaces.len(),
                failures = std::mem::take(&mut of_kms.unlogged_count),
                cause = error.cause().name(),
                %error,
                "the DEKs are still not unwrapped"
            );
        }
        is_due
    }

    /// A call for `keyspace` succeeded.
    pub(super) fn note_success(&mut self, kms: &str, keyspace: u32, now: Instant) {
        let Some(of_kms) = self.of_kms.get_mut(kms) else {
            return;
        };
        if of_kms.of_keyspaces.remove(&keyspace).is_none() || !of_kms.of_keyspaces.is_empty() {
            return;
        }
        let mut over = of_kms.snapshot();
        over.is_over = true;
        let lasted_s = now.saturating_since(of_kms.since) / 1_000_000;
        tracing::info!(
            kms,
            lasted_s,
            "the DEKs of all its keyspaces are unwrapped again"
        );
        self.of_kms.remove(kms);
        self.past.insert(kms.to_owned(), (over, now));
    }

    /// The keyspace is gone from this KMS.
    pub(super) fn forget(&mut self, kms: &str, keyspace: u32) {
        if let Some(of_kms) = self.of_kms.get_mut(kms) {
            of_kms.of_keyspaces.remove(&keyspace);
            if of_kms.of_keyspaces.is_empty() {
                self.of_kms.remove(kms);
            }
        }
    }

    /// Keyspaces of the KMS whose last call failed.
    pub(super) fn keyspaces_of(&self, kms: &str) -> Vec<u32> {
        let of_kms = self.of_kms.get(kms);
        of_kms.map_or_else(Vec::new, |it| it.of_keyspaces.keys().copied().collect())
    }

    /// What the exporter is told of one KMS: what is wrong, or was within the last quarter of an hour.
    pub(super) fn snapshot(&self, kms: &str, now: Instant) -> Option<KmsTrouble> {
        if let Some(of_kms) = self.of_kms.get(kms) {
            return Some(of_kms.snapshot());
        }
        let (over, ended) = self.past.get(kms)?;
        (now < ended.plus(TOLD_FOR)).then(|| over.clone())
    }
}

impl OfKms {
    fn snapshot(&self) -> KmsTrouble {
        KmsTrouble {
            class: self.latest.class().name(),
            cause: self.latest.cause().name(),
            what: self.latest.what().to_owned(),
            remedy: self.latest.remedy().to_owned(),
            since_unix_ms: self.since_unix_ms,
            is_over: false,
            of_keyspaces: self
                .of_keyspaces
                .iter()
                .map(|(id, (_, cause))| (*id, cause.name()))
                .collect(),
        }
    }
}

trait Plus {
    fn plus(self, duration: Duration) -> Self;
}

impl Plus for Instant {
    fn plus(self, duration: Duration) -> Self {
        self.plus_us(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Instant {
        Instant::from_micros(s * 1_000_000)
    }

    fn sealed() -> KmsError {
        let class = Class::Unavailable { retry_after: None };
        KmsError::new(class, "it is sealed", "unseal it").from_cause(Cause::Sealed)
    }

    #[test]
    fn a_trouble_lasts_until_every_keyspace_is_well() {
        let mut troubles = Troubles::default();
        assert!(troubles.snapshot("bao", at(5)).is_none());
        for keyspace in 1..=3 {
            troubles.note_failure("bao", keyspace, &sealed(), at(5), 5_000);
        }
        let trouble = troubles.snapshot("bao", at(5)).unwrap();
        assert_eq!((trouble.class, trouble.cause), ("unavailable", "sealed"));
        assert_eq!(trouble.of_keyspaces.len(), 3);
        assert_eq!(trouble.since_unix_ms, 5_000);
        troubles.note_success("bao", 1, at(6));
        troubles.note_success("other", 2, at(6));
        troubles.forget("bao", 3);
        assert_eq!(troubles.keyspaces_of("bao"), [2]);
        troubles.note_success("bao", 2, at(7));
        // It is told of for a while, as over.
        let over = troubles.snapshot("bao", at(8)).unwrap();
        assert!(over.is_over && over.of_keyspaces.is_empty());
        assert!(troubles.snapshot("bao", at(7 + 15 * 60)).is_none());
        // The next outage begins anew.
        troubles.note_failure("bao", 1, &sealed(), at(9), 9_000);
        let again = troubles.snapshot("bao", at(9)).unwrap();
        assert!(!again.is_over && again.since_unix_ms == 9_000);
    }

    #[test]
    fn an_outage_of_many_keyspaces_is_a_line_a_cause_and_one_a_minute() {
        let mut troubles = Troubles::default();
        let mut lines = 0;
        for s in 0..120 {
            for keyspace in 0..200 {
                lines += u32::from(troubles.note_failure("bao", keyspace, &sealed(), at(s), 0));
            }
        }
        assert_eq!(lines, 2);
    }
}
