//! Failures at the KMSes: the last failure of each keyspace, as the provider reports it, and log lines without
//! repetition. An outage of one KMS with 200 keyspaces is one line, not 200, and not one per attempt.

use std::collections::{BTreeMap, BTreeSet};

use keyway_core::Instant;

use super::kms::KmsFailure;
use super::report::Report;
use crate::figures::KmsTrouble;
use crate::time::Moment;

/// Period of log lines while an outage lasts, in µs.
const AGAIN_AFTER_US: u64 = 60_000_000;

/// How long an outage that is over is reported, in µs.
const TOLD_FOR_US: u64 = 15 * 60_000_000;

/// The failures of all KMSes, by name. A KMS has at most one per keyspace.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    of_kms: BTreeMap<String, OfKms>,
    /// The latest outage of each KMS that is over, and when it ended.
    past: BTreeMap<String, (KmsTrouble, Instant)>,
}

#[derive(Debug)]
struct OfKms {
    /// The cause of each keyspace whose last call failed.
    of_keyspaces: BTreeMap<u32, &'static str>,
    latest: KmsFailure,
    since: Instant,
    since_unix_ms: u64,
    /// Causes logged since the outage began.
    logged: BTreeSet<&'static str>,
    log_next_at: Instant,
    /// Failures since the last log line.
    unlogged_count: u64,
}

impl Troubles {
    /// Records a failed call for `keyspace`. Returns a log event, if one is due.
    pub(super) fn note_failure(
        &mut self,
        kms: &str,
        keyspace: u32,
        failure: &KmsFailure,
        now: Moment,
    ) -> Option<Report> {
        let of_kms = self.of_kms.entry(kms.to_owned()).or_insert_with(|| OfKms {
            of_keyspaces: BTreeMap::new(),
            latest: failure.clone(),
            since: now.instant,
            since_unix_ms: now.unix_ms,
            logged: BTreeSet::new(),
            log_next_at: now.instant,
            unlogged_count: 0,
        });
        of_kms.of_keyspaces.insert(keyspace, failure.cause);
        of_kms.latest = failure.clone();
        let (kms, failure) = (kms.to_owned(), failure.clone());
        if of_kms.logged.insert(failure.cause) {
            of_kms.log_next_at = now.instant.plus_us(AGAIN_AFTER_US);
            return Some(Report::KmsFails {
                kms,
                keyspace,
                failure,
            });
        }
        of_kms.unlogged_count += 1;
        if now.instant < of_kms.log_next_at {
            return None;
        }
        of_kms.log_next_at = now.instant.plus_us(AGAIN_AFTER_US);
        Some(Report::KmsStillFails {
            kms,
            keyspaces: of_kms.of_keyspaces.len(),
            failures: std::mem::take(&mut of_kms.unlogged_count),
            failure,
        })
    }

    /// Records a successful call for `keyspace`. Returns a log event, if it was the last that failed.
    pub(super) fn note_success(
        &mut self,
        kms: &str,
        keyspace: u32,
        now: Instant,
    ) -> Option<Report> {
        let of_kms = self.of_kms.get_mut(kms)?;
        if of_kms.of_keyspaces.remove(&keyspace).is_none() || !of_kms.of_keyspaces.is_empty() {
            return None;
        }
        let mut over = of_kms.snapshot();
        over.is_over = true;
        let lasted_s = now.saturating_since(of_kms.since) / 1_000_000;
        self.of_kms.remove(kms);
        self.past.insert(kms.to_owned(), (over, now));
        Some(Report::KmsWorks {
            kms: kms.to_owned(),
            lasted_s,
        })
    }

    /// Discards the failure of a keyspace that has left this KMS.
    pub(super) fn forget(&mut self, kms: &str, keyspace: u32) {
        if let Some(of_kms) = self.of_kms.get_mut(kms) {
            of_kms.of_keyspaces.remove(&keyspace);
            if of_kms.of_keyspaces.is_empty() {
                self.of_kms.remove(kms);
            }
        }
    }

    /// Returns the keyspaces of the KMS whose last call failed.
    pub(super) fn keyspaces_of(&self, kms: &str) -> Vec<u32> {
        let of_kms = self.of_kms.get(kms);
        of_kms.map_or_else(Vec::new, |it| it.of_keyspaces.keys().copied().collect())
    }

    /// Returns the failure at a KMS for the exporter: the current one, or one of the last quarter of an hour.
    pub(super) fn snapshot(&self, kms: &str, now: Instant) -> Option<KmsTrouble> {
        if let Some(of_kms) = self.of_kms.get(kms) {
            return Some(of_kms.snapshot());
        }
        let (over, ended) = self.past.get(kms)?;
        (now < ended.plus_us(TOLD_FOR_US)).then(|| over.clone())
    }
}

impl OfKms {
    fn snapshot(&self) -> KmsTrouble {
        KmsTrouble {
            class: self.latest.class.name(),
            cause: self.latest.cause,
            what: self.latest.what.clone(),
            remedy: self.latest.remedy.clone(),
            since_unix_ms: self.since_unix_ms,
            is_over: false,
            of_keyspaces: self.of_keyspaces.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kms::FailureClass;
    use super::*;

    fn at(s: u64) -> Instant {
        Instant::from_micros(s * 1_000_000)
    }

    fn moment(s: u64) -> Moment {
        Moment {
            unix_ms: s * 1_000,
            instant: at(s),
        }
    }

    fn sealed() -> KmsFailure {
        KmsFailure {
            class: FailureClass::Unavailable {
                retry_after_us: None,
            },
            cause: "sealed",
            what: "it is sealed".to_owned(),
            remedy: "unseal it".to_owned(),
        }
    }

    #[test]
    fn outage_lasts_until_every_keyspace_recovers() {
        let mut troubles = Troubles::default();
        assert!(troubles.snapshot("bao", at(5)).is_none());
        for keyspace in 1..=3 {
            troubles.note_failure("bao", keyspace, &sealed(), moment(5));
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
        // It is still reported for a time, as over.
        let over = troubles.snapshot("bao", at(8)).unwrap();
        assert!(over.is_over && over.of_keyspaces.is_empty());
        assert!(troubles.snapshot("bao", at(7 + 15 * 60)).is_none());
        // The next outage is a new one.
        troubles.note_failure("bao", 1, &sealed(), moment(9));
        let again = troubles.snapshot("bao", at(9)).unwrap();
        assert!(!again.is_over && again.since_unix_ms == 9_000);
    }

    #[test]
    fn outage_of_many_keyspaces_logs_one_line_per_cause_and_minute() {
        let mut troubles = Troubles::default();
        let mut lines = 0;
        for s in 0..120 {
            for keyspace in 0..200 {
                let line = troubles.note_failure("bao", keyspace, &sealed(), moment(s));
                lines += u32::from(line.is_some());
            }
        }
        assert_eq!(lines, 2);
    }
}
