//! Shares on their way to a quorum: they come one at a time, from different people, and wait in memory for the rest.
//!
//! They are wiped when there are enough of them, whatever comes of it; when the KMS is locked; when the KEK file is
//! another one than before; and a quarter of an hour after the first one, so that an unlock that was broken off does
//! not leave the next one short of one share.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use crate::KmsError;
use crate::shares::{Member, Terms};

/// How long given shares wait for the rest: time to fetch a colleague.
pub(super) const SHARES_WAIT: Duration = Duration::from_secs(15 * 60);

/// Shares that were given and are not yet enough.
#[derive(Debug, Default)]
pub(super) struct Gathering {
    /// Fewer than the threshold, with distinct numbers, of one set.
    members: Vec<Member>,
    /// When the first of them came; `None` while there is none.
    since: Option<Instant>,
}

/// What one more share led to.
#[derive(Debug)]
pub(super) enum Progress {
    /// More are needed.
    Waiting {
        /// Different shares given so far.
        given: u8,
    },
    /// As many as the threshold: they are no longer kept here.
    Complete(Vec<Member>),
}

impl Gathering {
    /// Takes a share of the set with these terms. A share of another set, and one that was given already, are refused
    /// and change nothing.
    pub(super) fn add(
        &mut self,
        member: Member,
        terms: Terms,
        now: Instant,
    ) -> Result<Progress, KmsError> {
        self.expire(now);
        member.check_belongs(terms)?;
        if self
            .members
            .first()
            .is_some_and(|first| first.terms != terms)
        {
            self.clear();
        }
        member.check_new(&self.members)?;
        if self.members.is_empty() {
            self.since = Some(now);
        }
        self.members.push(member);
        let given = self.count();
        if given < terms.threshold {
            return Ok(Progress::Waiting { given });
        }
        self.since = None;
        Ok(Progress::Complete(std::mem::take(&mut self.members)))
    }

    /// Different shares that are waiting.
    pub(super) fn given(&mut self, now: Instant) -> u8 {
        self.expire(now);
        self.count()
    }

    /// When they will have waited for too long; `None`: there are none.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + SHARES_WAIT)
    }

    /// Wipes them if they have waited for too long.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.deadline().is_some_and(|deadline| now >= deadline) {
            self.clear();
        }
    }

    /// Wipes them.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    fn count(&self) -> u8 {
        // Numbers are distinct and below 16.
        self.members.len() as u8
    }
}

/// Sees to it that waiting shares are wiped in time even if nobody asks again. One task does it, and it ends when no
/// share is waiting.
pub(super) fn wipe_in_time(shared: &Arc<Shared>) {
    if std::mem::replace(&mut shared.state().has_wiper, true) {
        return;
    }
    let weak = Arc::downgrade(shared);
    // A KMS that is gone has wiped its shares.
    tokio::spawn(async move {
        while let Some(shared) = weak.upgrade() {
            let deadline = {
                let mut state = shared.state();
                state.gathering.expire(Instant::now());
                state.has_wiper = state.gathering.deadline().is_some();
                state.gathering.deadline()
            };
            drop(shared);
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => return,
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;

    use super::*;
    use crate::SecretKey;
    use crate::shares::{Quorum, combine, split};

    fn set(threshold: u8, count: u8) -> (Terms, Vec<Member>) {
        let secret = SecretKey::take(&mut [0xa7; 32]);
        let quorum = Quorum::new(threshold, count).unwrap();
        split(&SystemRandom::new(), &secret, quorum).unwrap()
    }

    fn again(member: &Member) -> Member {
        Member::parse(&member.to_share().unwrap()).unwrap()
    }

    #[test]
    fn enough_shares_leave_as_a_whole() {
        let (terms, members) = set(3, 5);
        let now = Instant::now();
        let mut gathering = Gathering::default();
        for (member, expected) in [(&members[4], 1), (&members[0], 2)] {
            let progress = gathering.add(again(member), terms, now).unwrap();
            assert!(matches!(progress, Progress::Waiting { given } if given == expected));
            assert_eq!(gathering.given(now), expected);
        }
        let Progress::Complete(taken) = gathering.add(again(&members[2]), terms, now).unwrap()
        else {
            panic!("three of three")
        };
        assert_eq!(combine(&taken).unwrap().expose(), &[0xa7; 32]);
        assert_eq!((gathering.given(now), gathering.deadline()), (0, None));
    }

    #[test]
    fn shares_are_wiped_a_quarter_of_an_hour_after_the_first() {
        let (terms, members) = set(3, 5);
        let start = Instant::now();
        let mut gathering = Gathering::default();
        gathering.add(again(&members[0]), terms, start).unwrap();
        // The second one gives the first one no more time.
        let later = start + SHARES_WAIT - Duration::from_nanos(1);
        gathering.add(again(&members[1]), terms, later).unwrap();
        assert_eq!(gathering.given(later), 2);
        let end = start + SHARES_WAIT;
        let progress = gathering.add(again(&members[2]), terms, end).unwrap();
        assert!(matches!(progress, Progress::Waiting { given: 1 }));
        assert_eq!(gathering.deadline(), Some(end + SHARES_WAIT));
        assert_eq!(gathering.given(end + SHARES_WAIT), 0);
    }

    #[test]
    fn a_refused_share_changes_nothing() {
        let (terms, members) = set(3, 5);
        let (other_terms, others) = loop {
            let (terms_found, found) = set(3, 5);
            if terms_found.identifier != terms.identifier {
                break (terms_found, found);
            }
        };
        let now = Instant::now();
        let mut gathering = Gathering::default();
        gathering.add(again(&members[0]), terms, now).unwrap();
        let later = now + Duration::from_secs(60);
        for (bad, reason) in [(&members[0], "given already"), (&others[1], "another set")] {
            let error = gathering.add(again(bad), terms, later).unwrap_err();
            assert!(error.what().contains(reason), "{error}");
            assert_eq!(gathering.given(later), 1);
            assert_eq!(gathering.deadline(), Some(now + SHARES_WAIT));
        }
        // A share with a number that was given, and another value.
        let mut forged = again(&others[0]);
        forged.terms = terms;
        let error = gathering.add(forged, terms, later).unwrap_err();
        assert!(error.what().contains("another share 1"), "{error}");
        // Another file has another set: what was given for the first one counts no more.
        gathering
            .add(again(&others[1]), other_terms, later)
            .unwrap();
        assert_eq!(gathering.given(later), 1);
    }
}
