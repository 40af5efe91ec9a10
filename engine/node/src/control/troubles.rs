//! Failures at the KMSes: the last failure of each keyspace, as the provider reports it, and log lines without
//! repetition. An outage of one KMS with 200 keyspaces is one line, not 200, and not one per attempt. A KMS that fails
//! again and again has one outage with interruptions, and not two lines for each of them.

use std::collections::{BTreeMap, BTreeSet};

use keyway_core::Instant;

use super::kms::KmsFailure;
use super::report::Report;
use crate::figures::KmsTrouble;
use crate::time::Moment;

/// Period of log lines while an outage lasts, in µs. An outage that begins within this time after another continues it.
const AGAIN_AFTER_US: u64 = 60_000_000;

/// How long an outage that is over is reported, in µs.
const TOLD_FOR_US: u64 = 15 * 60_000_000;

/// The failures of all KMSes, by name. A KMS has at most one per keyspace.
#[derive(Debug, Default)]
pub(super) struct Troubles {
    of_kms: BTreeMap<String, OfKms>,
    /// The latest outage of each KMS that is over.
    past: BTreeMap<String, Past>,
}

#[derive(Debug)]
struct Past {
    trouble: KmsTrouble,
    ended: Instant,
    lines: Lines,
    /// Its end is logged once the KMS has worked for a minute.
    is_end_due: bool,
}

/// What has been logged of an outage with its interruptions.
#[derive(Clone, Debug)]
struct Lines {
    since: Instant,
    /// Causes logged since the outage began.
    logged: BTreeSet<&'static str>,
    next_at: Instant,
    /// Failures since the last log line.
    unlogged_count: u64,
    /// How often it was over for a short time.
    interruptions: u32,
}

#[derive(Debug)]
struct OfKms {
    /// The cause of each keyspace whose last call failed.
    of_keyspaces: BTreeMap<u32, &'static str>,
    latest: KmsFailure,
    since_unix_ms: u64,
    lines: Lines,
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
        let past = &mut self.past;
        let of_kms = self.of_kms.entry(kms.to_owned()).or_insert_with(|| OfKms {
            of_keyspaces: BTreeMap::new(),
            latest: failure.clone(),
            since_unix_ms: now.unix_ms,
            lines: Lines::of_outage(past.get_mut(kms), now.instant),
        });
        of_kms.of_keyspaces.insert(keyspace, failure.cause);
        of_kms.latest = failure.clone();
        let (kms, failure) = (kms.to_owned(), failure.clone());
        let lines = &mut of_kms.lines;
        if lines.logged.insert(failure.cause) {
            lines.next_at = now.instant.plus_us(AGAIN_AFTER_US);
            return Some(Report::KmsFails {
                kms,
                keyspace,
                failure,
            });
        }
        lines.unlogged_count += 1;
        if now.instant < lines.next_at {
            return None;
        }
        lines.next_at = now.instant.plus_us(AGAIN_AFTER_US);
        Some(Report::KmsStillFails {
            kms,
            keyspaces: of_kms.of_keyspaces.len(),
            failures: std::mem::take(&mut lines.unlogged_count),
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
        let mut trouble = of_kms.snapshot();
        trouble.is_over = true;
        let lines = of_kms.lines.clone();
        self.of_kms.remove(kms);
        let past = Past {
            trouble,
            ended: now,
            is_end_due: lines.interruptions > 0,
            lines,
        };
        let report = (!past.is_end_due).then(|| past.report(kms));
        self.past.insert(kms.to_owned(), past);
        report
    }

    /// Returns the ends of outages with interruptions, of KMSes that have worked for a minute.
    pub(super) fn ended(&mut self, now: Instant) -> Vec<Report> {
        let past = self.past.iter_mut();
        let ended = past.filter(|(_, past)| past.is_end_due && !past.continues(now));
        ended
            .map(|(kms, past)| {
                past.is_end_due = false;
                past.report(kms)
            })
            .collect()
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
        let past = self.past.get(kms)?;
        (now < past.ended.plus_us(TOLD_FOR_US)).then(|| past.trouble.clone())
    }
}

impl Past {
    /// Whether an outage that begins now is the same, interrupted.
    fn continues(&self, now: Instant) -> bool {
        now < self.ended.plus_us(AGAIN_AFTER_US)
    }

    fn report(&self, kms: &str) -> Report {
        Report::KmsWorks {
            kms: kms.to_owned(),
            lasted_s: self.ended.saturating_since(self.lines.since) / 1_000_000,
        }
    }
}

impl Lines {
    /// Those of an outage that begins now, after that one.
    fn of_outage(past: Option<&mut Past>, now: Instant) -> Lines {
        if let Some(past) = past.filter(|past| past.continues(now)) {
            past.is_end_due = false;
            let mut lines = past.lines.clone();
            if lines.interruptions == 0 {
                // The log says that it works.
                lines.logged.clear();
            }
            lines.interruptions += 1;
            return lines;
        }
        Lines {
            since: now,
            logged: BTreeSet::new(),
            next_at: now,
            unlogged_count: 0,
            interruptions: 0,
        }
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

    /// It logged two lines each time.
    #[test]
    fn kms_that_fails_every_other_second_has_one_outage() {
        let mut troubles = Troubles::default();
        let mut lines = Vec::new();
        for s in (0..600).step_by(2) {
            lines.extend(troubles.note_failure("bao", 1, &sealed(), moment(s)));
            lines.extend(troubles.note_success("bao", 1, at(s + 1)));
            lines.extend(troubles.ended(at(s + 1)));
        }
        // It fails, works, fails; and goes on failing, once a minute.
        assert_eq!(lines.len(), 3 + 9, "{lines:?}");
        assert!(matches!(lines[1], Report::KmsWorks { .. }));
        assert!(matches!(lines[11], Report::KmsStillFails { .. }));
        assert!(troubles.ended(at(658)).is_empty());
        let over = troubles.ended(at(659));
        let [Report::KmsWorks { lasted_s: 599, .. }] = over[..] else {
            panic!("{over:?}");
        };
        assert!(troubles.ended(at(660)).is_empty(), "once");
        let next = troubles.note_failure("bao", 1, &sealed(), moment(700));
        assert!(matches!(next, Some(Report::KmsFails { .. })));
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
