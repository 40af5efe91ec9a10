//! What callers saw, by group of keys.

use std::ops::AddAssign;
use std::time::{Duration, Instant};

use keyway_protocol::Status;
use serde::Serialize;

use crate::load::Answered;

/// One answer.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    /// The group that the key is of.
    pub group: usize,
    /// When the request was due.
    pub due: Instant,
    /// When the answer came.
    pub at: Instant,
    pub status: Status,
    pub is_stale: bool,
}

impl Seen {
    /// An answer to a request with a key of this group.
    pub fn new(group: usize, answer: Answered) -> Self {
        Self {
            group,
            due: answer.due,
            at: answer.at,
            status: answer.status,
            is_stale: answer.is_stale,
        }
    }
}

/// Answers by what they said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub ok: u64,
    /// Of `ok`, with the stale flag.
    pub stale: u64,
    pub needs_unlock: u64,
    pub unavailable: u64,
    pub retry: u64,
    pub other: u64,
}

impl Counts {
    /// Of these answers.
    pub fn of<'a>(answers: impl Iterator<Item = &'a Seen>) -> Self {
        let mut counts = Self::default();
        for answer in answers {
            counts.add(answer);
        }
        counts
    }

    fn add(&mut self, answer: &Seen) {
        *match answer.status {
            Status::Ok => &mut self.ok,
            Status::NeedsUnlock => &mut self.needs_unlock,
            Status::Unavailable => &mut self.unavailable,
            Status::Retry => &mut self.retry,
            _ => &mut self.other,
        } += 1;
        self.stale += u64::from(answer.status == Status::Ok && answer.is_stale);
    }

    /// All answers.
    pub fn all(&self) -> u64 {
        self.ok + self.not_ok()
    }

    /// Answers without a result.
    pub fn not_ok(&self) -> u64 {
        self.needs_unlock + self.unavailable + self.retry + self.other
    }

    /// Goodput: the part of the answers that are OK; 0 if there are none.
    pub fn ok_share(&self) -> f64 {
        self.ok as f64 / self.all().max(1) as f64
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.ok += other.ok;
        self.stale += other.stale;
        self.needs_unlock += other.needs_unlock;
        self.unavailable += other.unavailable;
        self.retry += other.retry;
        self.other += other.other;
    }
}

/// Counts of each of `count` seconds from `start`, by the time at which requests were due, of each
/// of `GROUPS` groups. Requests that were due outside are left out.
pub fn by_second<const GROUPS: usize>(
    answers: &[Seen],
    start: Instant,
    count: u64,
) -> Vec<[Counts; GROUPS]> {
    let mut seconds = vec![[Counts::default(); GROUPS]; count as usize];
    for answer in answers {
        let second = answer.due.checked_duration_since(start);
        let second = second.and_then(|since| seconds.get_mut(since.as_secs() as usize));
        if let Some(second) = second {
            second[answer.group].add(answer);
        }
    }
    seconds
}

/// How many whole seconds after the first of `seconds` the goodput reached `share` and kept it to
/// the end; `None` if it does not have it at the end.
pub fn recovered_after(seconds: &[Counts], share: f64) -> Option<u64> {
    let bad = |counts: &Counts| counts.ok_share() < share;
    let after = seconds.iter().rposition(bad).map_or(0, |last| last + 1);
    (after < seconds.len()).then_some(after as u64)
}

/// Results that nothing allowed: OK answers to requests that were due after the end of the last
/// lease granted before the answer. `last_grant` says when that was granted.
pub fn past_lease<'a>(
    answers: impl Iterator<Item = &'a Seen>,
    lease: Duration,
    last_grant: impl Fn(Instant) -> Option<Instant>,
) -> u64 {
    let is_past = |answer: &&Seen| {
        answer.status == Status::Ok
            && last_grant(answer.at).is_none_or(|grant| answer.due >= grant + lease)
    };
    answers.filter(is_past).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(zero: Instant, group: usize, due_ms: u64, status: Status) -> Seen {
        let due = zero + Duration::from_millis(due_ms);
        Seen {
            group,
            due,
            at: due + Duration::from_millis(1),
            status,
            is_stale: false,
        }
    }

    #[test]
    fn answers_are_counted_by_second_and_group() {
        let zero = Instant::now();
        let answers = [
            seen(zero, 0, 0, Status::Ok),
            seen(zero, 1, 999, Status::NeedsUnlock),
            seen(zero, 1, 1_000, Status::Ok),
            seen(zero, 1, 1_500, Status::Forbidden),
            seen(zero, 0, 2_000, Status::Ok),
        ];
        let seconds = by_second::<2>(&answers, zero, 2);
        assert_eq!((seconds[0][0].ok, seconds[0][1].needs_unlock), (1, 1));
        assert_eq!(seconds[1][0].all(), 0);
        assert_eq!((seconds[1][1].ok, seconds[1][1].other), (1, 1));
        assert_eq!(seconds[1][1].ok_share(), 0.5);
        let mut sum = seconds[0][1];
        sum += seconds[1][1];
        assert_eq!((sum.all(), sum.not_ok()), (3, 2));
    }

    #[test]
    fn recovery_must_last() {
        let second = |ok: u64| Counts {
            ok,
            unavailable: 100 - ok,
            ..Counts::default()
        };
        let of = |oks: &[u64]| {
            let seconds: Vec<_> = oks.iter().map(|&ok| second(ok)).collect();
            recovered_after(&seconds, 0.95)
        };
        assert_eq!(of(&[0, 50, 95, 100]), Some(2));
        assert_eq!(of(&[100, 100]), Some(0));
        assert_eq!(of(&[0, 100, 94, 100]), Some(3), "it had not lasted");
        assert_eq!(of(&[100, 94]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_result_past_the_lease_is_found() {
        let zero = Instant::now();
        let answers = [
            seen(zero, 0, 1_999, Status::Ok),
            seen(zero, 0, 2_000, Status::Ok),
            seen(zero, 0, 2_000, Status::Unavailable),
            seen(zero, 0, 5_000, Status::Ok),
        ];
        let grants = [zero, zero + Duration::from_millis(5_001)];
        let last = |at: Instant| grants.iter().copied().filter(|&grant| grant <= at).max();
        let lease = Duration::from_secs(2);
        assert_eq!(past_lease(answers.iter(), lease, last), 1);
        assert_eq!(past_lease(answers.iter(), lease, |_| None), 3);
    }
}
