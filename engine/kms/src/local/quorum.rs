//! Shares in memory until there are enough of them: several people give one each.
//!
//! A share that cannot belong here is refused alone and changes nothing. One that might belong is kept: if as many shares
//! as the threshold do not open the file together, it cannot be determined which is wrong, so all stay, and each further
//! share is tried with every choice of the earlier ones. So neither a mistake nor a forged share costs the holders their
//! quorum.
//!
//! Shares are wiped when the file opens, when the KMS is locked, when the KEK file has been replaced, and a quarter of an
//! hour after the first one, so that an abandoned unlock does not remain half done.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use crate::shares::{Member, SHARES_MAX, Terms};
use crate::{Cause, Class, KmsError};

/// How long given shares are kept: enough to fetch a colleague.
pub(super) const QUORUM_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// Most shares that are kept: as many as a set can have. With 16, the most choices that contain one given share are the
/// 6,435 with a threshold of 8 or 9: some tenths of a second.
pub(super) const CANDIDATES_MAX: usize = SHARES_MAX as usize;

/// Shares that were given and have not opened the file.
#[derive(Debug, Default)]
pub(super) struct ShareQuorum {
    /// Of one set, according to their words; two may have the same number.
    members: Vec<Arc<Member>>,
    terms: Option<Terms>,
    /// When the first was given; `None` while there is none.
    since: Option<Instant>,
}

impl ShareQuorum {
    /// Adds a share of the set with these terms, and returns all of them, the new one last. A share of another set, a
    /// repeated one, and one too many are refused and change nothing.
    pub(super) fn add(
        &mut self,
        member: Member,
        terms: Terms,
        now: Instant,
    ) -> Result<Vec<Arc<Member>>, KmsError> {
        self.expire(now);
        member.check_belongs(terms)?;
        if self.terms.is_some_and(|known| known != terms) {
            self.clear();
        }
        if self.members.iter().any(|given| given.is_same(&member)) {
            return Err(KmsError::new(
                Class::Denied,
                format!("share {} was given already", member.place()),
                "give another share",
            )
            .from_cause(Cause::WrongSecret));
        }
        if self.members.len() >= CANDIDATES_MAX {
            return Err(KmsError::new(
                Class::Denied,
                format!("{CANDIDATES_MAX} shares were given and do not open the KEK file"),
                "begin again: keyway kms lock NAME wipes them, and so does a quarter of an hour",
            )
            .from_cause(Cause::WrongSecret));
        }
        if self.members.is_empty() {
            self.since = Some(now);
            self.terms = Some(terms);
        }
        self.members.push(Arc::new(member));
        Ok(self.members.clone())
    }

    /// Wipes shares that belong to another file.
    pub(super) fn remove(&mut self, strangers: &[Arc<Member>]) {
        self.members
            .retain(|member| !strangers.iter().any(|one| Arc::ptr_eq(one, member)));
        if self.members.is_empty() {
            self.clear();
        }
    }

    /// Returns the number of shares that may open the file together with at least one more: fewer than the threshold.
    pub(super) fn given(&mut self, now: Instant, threshold: u8) -> u8 {
        self.expire(now);
        distinct(&self.members).min(threshold.saturating_sub(1))
    }

    /// Returns when they expire, or `None` if there are none.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + QUORUM_TIMEOUT)
    }

    /// Wipes them if they have expired.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.deadline().is_some_and(|deadline| now >= deadline) {
            self.clear();
        }
    }

    /// Wipes them.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// Returns the number of different share numbers.
pub(super) fn distinct(members: &[Arc<Member>]) -> u8 {
    let mut seen = [false; SHARES_MAX as usize];
    for member in members {
        seen[usize::from(member.place() - 1)] = true;
    }
    // Numbers are below 16.
    seen.iter().filter(|seen| **seen).count() as u8
}

/// Tries every choice of `threshold` shares with different numbers that contains the last of `members`, until `try_it`
/// returns a result.
pub(super) fn choose<T>(
    members: &[Arc<Member>],
    threshold: u8,
    mut try_it: impl FnMut(&[Arc<Member>]) -> Option<T>,
) -> Option<T> {
    let (newest, earlier) = members.split_last()?;
    let mut chosen = vec![Arc::clone(newest)];
    extend(&mut chosen, earlier, usize::from(threshold), &mut try_it)
}

fn extend<T>(
    chosen: &mut Vec<Arc<Member>>,
    rest: &[Arc<Member>],
    threshold: usize,
    try_it: &mut impl FnMut(&[Arc<Member>]) -> Option<T>,
) -> Option<T> {
    if chosen.len() == threshold {
        return try_it(chosen);
    }
    for (at, member) in rest.iter().enumerate() {
        if rest.len() - at < threshold - chosen.len() {
            break;
        }
        if chosen.iter().any(|one| one.place() == member.place()) {
            continue;
        }
        chosen.push(Arc::clone(member));
        if let Some(found) = extend(chosen, &rest[at + 1..], threshold, try_it) {
            return Some(found);
        }
        chosen.pop();
    }
    None
}

/// Returns their numbers, as in `1, 3 and 5`.
pub(super) fn numbers(members: &[Arc<Member>]) -> String {
    let numbers: Vec<String> = members.iter().map(|it| it.place().to_string()).collect();
    match numbers.as_slice() {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} and {last}", first.join(", ")),
    }
}

/// Ensures that waiting shares are wiped in time even without another call. One task does it, and ends when no share is
/// waiting.
pub(super) fn spawn_quorum_expiry(shared: &Arc<Shared>) {
    if std::mem::replace(&mut shared.state().has_wiper, true) {
        return;
    }
    let weak = Arc::downgrade(shared);
    // A KMS that was dropped has wiped its shares.
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

    fn open(members: &[Arc<Member>], threshold: u8) -> Option<[u8; 32]> {
        choose(members, threshold, |chosen| {
            combine(chosen).ok().map(|secret| *secret.expose())
        })
    }

    #[test]
    fn shares_are_wiped_a_quarter_of_an_hour_after_the_first() {
        let (terms, members) = set(3, 5);
        let start = Instant::now();
        let mut gathering = ShareQuorum::default();
        gathering.add(again(&members[0]), terms, start).unwrap();
        // The second does not extend the time of the first.
        let later = start + QUORUM_TIMEOUT - Duration::from_nanos(1);
        gathering.add(again(&members[1]), terms, later).unwrap();
        assert_eq!(gathering.given(later, 3), 2);
        let end = start + QUORUM_TIMEOUT;
        gathering.add(again(&members[2]), terms, end).unwrap();
        assert_eq!(gathering.given(end, 3), 1);
        assert_eq!(gathering.deadline(), Some(end + QUORUM_TIMEOUT));
        assert_eq!(gathering.given(end + QUORUM_TIMEOUT, 3), 0);
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
        let mut gathering = ShareQuorum::default();
        gathering.add(again(&members[0]), terms, now).unwrap();
        let later = now + Duration::from_secs(60);
        for (bad, reason) in [(&members[0], "given already"), (&others[1], "another set")] {
            let error = gathering.add(again(bad), terms, later).unwrap_err();
            assert!(error.what().contains(reason), "{error}");
            assert_eq!(gathering.given(later, 3), 1);
            assert_eq!(gathering.deadline(), Some(now + QUORUM_TIMEOUT));
        }
        // Another file has another set: shares given for the first one no longer count.
        gathering
            .add(again(&others[1]), other_terms, later)
            .unwrap();
        assert_eq!(gathering.given(later, 3), 1);
    }

    /// Three forged shares, one with the number of a genuine one, among four genuine ones.
    #[test]
    fn forged_shares_in_any_order_do_not_keep_a_quorum_from_opening() {
        let (terms, right) = set(4, 5);
        let (_, mut forged) = set(4, 5);
        for member in &mut forged {
            member.terms = terms;
        }
        let all: Vec<&Member> = right[..4].iter().chain(&forged[1..4]).collect();
        for turn in 0..all.len() {
            let mut gathering = ShareQuorum::default();
            let mut opened = None;
            for i in 0..all.len() {
                let member = again(all[(i * 3 + turn) % all.len()]);
                let given = gathering.add(member, terms, Instant::now()).unwrap();
                opened = open(&given, 4);
                if opened.is_some() {
                    break;
                }
                assert!(gathering.given(Instant::now(), 4) < 4);
            }
            assert_eq!(opened, Some([0xa7; 32]), "turn {turn}");
        }
    }

    #[test]
    fn there_is_a_bound_for_shares_that_open_nothing() {
        let now = Instant::now();
        let (terms, _) = set(3, 3);
        let mut gathering = ShareQuorum::default();
        for given in 0..=CANDIDATES_MAX {
            let mut member = set(3, 3).1.swap_remove(0);
            member.terms = terms;
            let added = gathering.add(member, terms, now);
            assert_eq!(added.is_ok(), given < CANDIDATES_MAX);
        }
        assert_eq!(gathering.given(now, 3), 1);
        gathering.clear();
        assert_eq!(gathering.given(now, 3), 0);
    }

    #[test]
    fn numbers_read_as_a_list() {
        let (_, members) = set(3, 5);
        let members: Vec<_> = members.into_iter().map(Arc::new).collect();
        assert_eq!(numbers(&members[..1]), "1");
        assert_eq!(numbers(&members[..3]), "1, 2 and 3");
    }
}
