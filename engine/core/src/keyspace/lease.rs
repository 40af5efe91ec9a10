//! The lease of a keyspace's DEK: when it ends, and when the KMS is asked again.
//!
//! The end moves later only by [`Lease::granted`], which is called with a KMS success.

use crate::backoff::{Backoff, UNWRAP_BACKOFF_US_MAX, UNWRAP_BACKOFF_US_MIN};
use crate::ewma::Ewma;
use crate::rng::Rng;
use crate::time::{Instant, TICK_US};

/// Between two questions for a DEK that a live lease has not brought, µs.
const WANTED_AGAIN_US: u64 = 1_000_000;
/// Between the first refusal and the second question, µs.
const DENIED_AGAIN_US: u64 = 1_000_000;
/// An unwrap that was not answered for so long is given up and counts as unavailable, µs. Longer
/// than any time limit of a KMS client: it only guards against an answer that got lost.
const UNWRAP_TIME_LIMIT_US: u64 = 120_000_000;
/// The longest hint of a KMS that is followed, µs.
const RETRY_AFTER_US_MAX: u64 = 60_000_000;
/// Looks at whether to renew are this part of the lease apart, and nearer its end less.
const LOOKS_PER_LEASE: u64 = 16;
/// Parts in a whole that is counted in parts per million.
const PPM: u64 = 1_000_000;

#[derive(Debug, Default)]
pub(crate) struct Lease {
    held: Option<Held>,
    asking_since: Option<Instant>,
    /// When the last question was asked.
    asked_at: Instant,
    standing: Standing,
    /// The first of the refusals in a row.
    denied_at: Option<Instant>,
    /// Bars questions until its time; an answer that grants clears it.
    backoff: Backoff,
    /// How long unwraps took that were granted.
    unwrap_us: Ewma,
    /// No renewal before this.
    idle_until: Instant,
    /// By how much of it a renewal comes before half of the lease.
    renew_early_ppm: u32,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    sent_at: Instant,
    ends_at: Instant,
    generation: u32,
}

/// What the KMS answered last, as far as it decides what is done next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Standing {
    /// It granted, failed, or was not asked yet: only the back-off tells these apart.
    #[default]
    Open,
    Denied,
    Locked,
}

/// What a lease's timer finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alarm {
    /// Ask the KMS.
    Ask,
    /// The question was not answered.
    Lost,
    /// Nothing to do now.
    Rest,
}

impl Lease {
    /// No lease yet. `renew_early_ppm`: as in [`Limits`](crate::Limits::renew_early_ppm).
    pub(crate) fn new(renew_early_ppm: u32) -> Self {
        Self {
            renew_early_ppm,
            ..Self::default()
        }
    }

    pub(crate) fn ends_at(&self) -> Instant {
        self.held.map_or(Instant::ZERO, |held| held.ends_at)
    }

    /// Newest generation under the lease, 0 if there is none.
    pub(crate) fn generation(&self) -> u32 {
        self.held.map_or(0, |held| held.generation)
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    pub(crate) fn is_asking(&self) -> bool {
        self.asking_since.is_some()
    }

    /// The KMS said that it waits to be unlocked.
    pub(crate) fn is_kms_locked(&self) -> bool {
        self.standing == Standing::Locked
    }

    pub(crate) fn retry_at(&self) -> Instant {
        self.backoff.retry_at()
    }

    /// Whether a question may be asked now: none is under way, and no back-off bars it.
    pub(crate) fn may_ask(&self, now: Instant) -> bool {
        !self.is_asking() && self.backoff.left_us(now).is_none()
    }

    pub(crate) fn asked(&mut self, now: Instant) {
        self.asking_since = Some(now);
        self.asked_at = now;
    }

    /// When the KMS may be asked for what a live lease has not brought.
    fn again_at(&self) -> Instant {
        self.asked_at.plus_us(WANTED_AGAIN_US)
    }

    /// Whether to ask now for somebody who waits for a DEK that is not at hand.
    pub(crate) fn may_ask_for_waiting(&self, now: Instant) -> bool {
        self.may_ask(now) && (self.held.is_none() || now >= self.again_at())
    }

    /// Whether somebody with `budget_us` to spare can hope to see the DEK. Optimistic as long as
    /// nothing is known of how long an unwrap takes.
    pub(crate) fn fits(&self, now: Instant, budget_us: u64) -> bool {
        let barred = !self.is_asking() && self.backoff.left_us(now).is_some();
        !barred && self.expected_us(now) <= budget_us
    }

    /// How much longer the unwrap is expected to take, µs: what is left of the usual time, or, once
    /// that is over, as long again as it is overdue.
    fn expected_us(&self, now: Instant) -> u64 {
        let spent_us = self
            .asking_since
            .map_or(0, |since| now.saturating_since(since));
        self.unwrap_us.us().unwrap_or(0).abs_diff(spent_us)
    }

    /// The question is over, however it ended.
    pub(crate) fn answered(&mut self) {
        self.asking_since = None;
    }

    /// A KMS success. The lease counts from when the question was sent, and never gets shorter by
    /// it. Returns false, and changes nothing, if it would have ended already.
    pub(crate) fn granted(
        &mut self,
        now: Instant,
        sent_at: Instant,
        generation: u32,
        lease_us: u64,
    ) -> bool {
        if let Some(since) = self.asking_since.take() {
            self.unwrap_us.add_us(now.saturating_since(since));
        }
        let sent_at = sent_at.min(now);
        let ends_at = sent_at.plus_us(lease_us);
        if ends_at <= now {
            return false;
        }
        let (sent_at, ends_at) = match self.held {
            Some(held) if held.ends_at > ends_at => (held.sent_at, held.ends_at),
            _ => (sent_at, ends_at),
        };
        let generation = self.generation().max(generation);
        self.held = Some(Held {
            sent_at,
            ends_at,
            generation,
        });
        self.standing = Standing::Open;
        self.denied_at = None;
        self.backoff.clear();
        // A grant that is old already must not lead to the next question at once.
        self.idle_until = now.plus_us((lease_us / LOOKS_PER_LEASE).max(TICK_US));
        true
    }

    /// A refusal. True if it is the second, at least a second after the first: one that comes sooner
    /// says nothing new.
    pub(crate) fn denied(&mut self, now: Instant) -> bool {
        self.answered();
        self.standing = Standing::Denied;
        let first_at = *self.denied_at.get_or_insert(now);
        if first_at < now && now >= first_at.plus_us(DENIED_AGAIN_US) {
            return true;
        }
        // It answers: no back-off from before stands against asking once more.
        self.backoff.clear();
        self.backoff.not_before(first_at.plus_us(DENIED_AGAIN_US));
        false
    }

    /// No answer, or a failure. Returns when to ask again.
    pub(crate) fn unavailable(
        &mut self,
        now: Instant,
        rng: &mut Rng,
        retry_after_us: u64,
        kms_locked: bool,
    ) -> Instant {
        self.answered();
        self.standing = if kms_locked {
            Standing::Locked
        } else {
            Standing::Open
        };
        self.backoff
            .failed(now, rng, UNWRAP_BACKOFF_US_MIN, UNWRAP_BACKOFF_US_MAX);
        self.backoff
            .not_before(now.plus_us(retry_after_us.min(RETRY_AFTER_US_MAX)));
        self.backoff.retry_at()
    }

    /// The lease is over; a question that is under way stays so.
    pub(crate) fn lost(&mut self) {
        self.held = None;
    }

    /// Somebody unlocked the keyspace: whatever the KMS said before is out of date.
    pub(crate) fn pardoned(&mut self) {
        self.standing = Standing::Open;
        self.denied_at = None;
        self.backoff.clear();
    }

    /// The lease may be shortened by a change of the setting, never prolonged.
    pub(crate) fn shorten(&mut self, lease_us: u64) {
        if let Some(held) = &mut self.held {
            held.ends_at = held.ends_at.min(held.sent_at.plus_us(lease_us));
            // The next look was planned for the longer lease.
            self.idle_until = self.idle_until.min(held.renew_at(self.renew_early_ppm));
        }
    }

    /// When the timer should go off next. `awaited`: somebody waits for a DEK that is not at hand.
    pub(crate) fn alarm_at(&self, now: Instant, awaited: bool) -> Option<Instant> {
        if let Some(since) = self.asking_since {
            return Some(since.plus_us(UNWRAP_TIME_LIMIT_US));
        }
        if self.backoff.retry_at() > now {
            return Some(self.backoff.retry_at());
        }
        let Some(held) = self.held else {
            return awaited.then_some(now);
        };
        let renew_at = held.renew_at(self.renew_early_ppm).max(self.idle_until);
        Some(match awaited {
            true => renew_at.min(self.again_at()),
            false => renew_at,
        })
    }

    /// The timer went off. `wanted`: somebody used the keyspace since the last grant.
    pub(crate) fn alarm(&mut self, now: Instant, wanted: bool) -> Alarm {
        if let Some(since) = self.asking_since {
            let lost = now >= since.plus_us(UNWRAP_TIME_LIMIT_US);
            return if lost { Alarm::Lost } else { Alarm::Rest };
        }
        if self.backoff.left_us(now).is_some() {
            return Alarm::Rest;
        }
        if self.standing == Standing::Denied {
            // Whether the refusal stands is worth knowing even if nobody asks for a key.
            return Alarm::Ask;
        }
        match self.held {
            None if wanted => Alarm::Ask,
            None => Alarm::Rest,
            Some(held) if now < held.renew_at(self.renew_early_ppm) => Alarm::Rest,
            Some(_) if wanted => Alarm::Ask,
            Some(held) => {
                self.idle_until = held.next_look(now);
                Alarm::Rest
            }
        }
    }
}

impl Held {
    /// Half of the lease, less `early_ppm` of that half: never later than half.
    fn renew_at(&self, early_ppm: u32) -> Instant {
        let half_us = self.ends_at.saturating_since(self.sent_at) / 2;
        let early_us = half_us * u64::from(early_ppm) / PPM;
        self.sent_at.plus_us(half_us - early_us)
    }

    /// When to look again at a lease that nobody uses: the nearer its end, the sooner, so that a
    /// keyspace that comes into use shortly before is renewed and not purged under its users.
    fn next_look(self, now: Instant) -> Instant {
        let lease_us = self.ends_at.saturating_since(self.sent_at);
        let left_us = self.ends_at.saturating_since(now);
        now.plus_us((lease_us / LOOKS_PER_LEASE).min(left_us / 4).max(TICK_US))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::RENEW_EARLY_PPM_MAX;
    use alloc::vec::Vec;

    const S: u64 = 1_000_000;

    fn s(s: u64) -> Instant {
        Instant::from_micros(s * S)
    }

    fn held() -> Lease {
        held_renewed_early(0)
    }

    /// From 10 s to 110 s.
    fn held_renewed_early(renew_early_ppm: u32) -> Lease {
        let mut lease = Lease::new(renew_early_ppm);
        lease.asked(s(10));
        assert!(lease.granted(s(11), s(10), 1, 100 * S));
        lease
    }

    #[test]
    fn a_lease_counts_from_when_the_question_was_sent() {
        assert_eq!(held().ends_at(), s(110));
        assert_eq!(held().alarm_at(s(11), false), Some(s(60)));
    }

    #[test]
    fn a_grant_never_shortens_and_one_that_is_over_does_nothing() {
        let mut lease = held();
        assert!(lease.granted(s(12), s(5), 1, 100 * S));
        assert_eq!(lease.ends_at(), s(110));
        assert!(!lease.granted(s(300), s(5), 9, 100 * S));
        assert_eq!((lease.ends_at(), lease.generation()), (s(110), 1));
    }

    #[test]
    fn a_grant_from_the_future_counts_from_now() {
        let mut lease = Lease::default();
        assert!(lease.granted(s(10), s(99), 1, 5 * S));
        assert_eq!(lease.ends_at(), s(15));
    }

    #[test]
    fn failures_move_nothing() {
        let mut lease = held();
        let mut rng = Rng::new(1);
        lease.unavailable(s(60), &mut rng, 0, false);
        lease.denied(s(61));
        assert_eq!(lease.ends_at(), s(110));
    }

    #[test]
    fn the_second_refusal_counts_a_second_after_the_first() {
        let mut lease = held();
        assert!(!lease.denied(s(20)));
        assert!(!lease.denied(s(20).plus_us(1_000)), "an echo of the first");
        assert_eq!(lease.alarm_at(s(20), false), Some(s(21)));
        assert_eq!(lease.alarm(s(21), false), Alarm::Ask);
        lease.asked(s(21));
        assert!(lease.denied(s(21).plus_us(1_000)));
    }

    #[test]
    fn an_idle_lease_is_looked_at_again_and_renewed_when_used() {
        let mut lease = held();
        assert_eq!(lease.alarm(s(60), false), Alarm::Rest);
        let next = lease.alarm_at(s(60), false).unwrap();
        assert!(next > s(60) && next < s(70));
        assert_eq!(lease.alarm(next, true), Alarm::Ask);
    }

    /// Looks were a sixteenth of the lease apart up to its end, found by the simulator: of a keyspace
    /// that came into use in the last sixteenth, all keys were purged while they were in use.
    #[test]
    fn an_idle_lease_that_comes_into_use_shortly_before_its_end_is_renewed() {
        let mut lease = held();
        let mut now = s(60);
        while now < s(110).minus_us(50_000) {
            assert_eq!(lease.alarm(now, false), Alarm::Rest);
            let next = lease.alarm_at(now, false).expect("it is looked at again");
            assert!(next > now && next < s(110), "{next:?} after {now:?}");
            now = next;
        }
        assert_eq!(lease.alarm(now, true), Alarm::Ask);
    }

    /// A lease that was shortened kept the next look that had been planned for the longer one,
    /// found by the simulator: it ended, and took its keys along, before anybody thought of renewal.
    #[test]
    fn a_lease_that_is_shortened_is_renewed_at_half_its_new_time() {
        let mut lease = held();
        lease.shorten(4 * S);
        assert_eq!(lease.ends_at(), s(14));
        assert_eq!(lease.alarm_at(s(11), false), Some(s(12)));
        assert_eq!(lease.alarm(s(12), true), Alarm::Ask);
    }

    #[test]
    fn a_renewal_comes_earlier_than_half_by_exactly_its_figure() {
        for (early_ppm, early_us) in [(0, 0), (1, 50), (33_333, 1_666_650), (200_000, 10 * S)] {
            let mut lease = held_renewed_early(early_ppm);
            let renew_at = s(60).minus_us(early_us);
            assert_eq!(lease.ends_at(), s(110), "the end is what it was");
            assert_eq!(
                lease.alarm_at(s(11), false),
                Some(renew_at),
                "{early_ppm} ppm"
            );
            assert_eq!(lease.alarm(renew_at.minus_us(1), true), Alarm::Rest);
            assert_eq!(lease.alarm(renew_at, true), Alarm::Ask);
        }
    }

    #[test]
    fn a_renewal_is_never_later_than_half_and_never_within_two_fifths() {
        for lease_us in [1, 3, 100_001, 100 * S, 31_536_000 * S] {
            for early_ppm in 0..=RENEW_EARLY_PPM_MAX {
                let held = Held {
                    sent_at: s(10),
                    ends_at: s(10).plus_us(lease_us),
                    generation: 1,
                };
                let after_us = held.renew_at(early_ppm).saturating_since(s(10));
                assert!(after_us <= lease_us / 2, "{lease_us} us, {early_ppm} ppm");
                assert!(
                    after_us >= lease_us / 5 * 2,
                    "{lease_us} us, {early_ppm} ppm"
                );
            }
        }
    }

    #[test]
    fn a_lease_that_is_shortened_is_renewed_as_early_for_its_new_time() {
        let mut lease = held_renewed_early(100_000);
        lease.shorten(40 * S);
        assert_eq!(lease.ends_at(), s(50));
        assert_eq!(lease.alarm_at(s(11), false), Some(s(28)));
        assert_eq!(lease.alarm(s(28).minus_us(1), true), Alarm::Rest);
        assert_eq!(lease.alarm(s(28), true), Alarm::Ask);
    }

    /// The look that was planned must not hide the renewal, which comes before half.
    #[test]
    fn an_idle_lease_that_is_shortened_is_looked_at_in_time_for_its_early_renewal() {
        let mut lease = held_renewed_early(200_000);
        lease.shorten(15 * S);
        assert_eq!(
            lease.alarm_at(s(11), false),
            Some(s(16)),
            "planned for 17.25 s"
        );
    }

    /// Two processes that began together: each renewal takes them further apart.
    #[test]
    fn leases_with_different_figures_drift_apart() {
        let renewals = |early_ppm| {
            let mut lease = Lease::new(early_ppm);
            let mut now = s(10);
            let mut at = Vec::new();
            for _ in 0..5 {
                lease.asked(now);
                assert!(lease.granted(now, now, 1, 100 * S));
                now = lease.alarm_at(now, false).expect("it is to be renewed");
                assert_eq!(lease.alarm(now, true), Alarm::Ask);
                at.push(now.saturating_since(s(10)));
            }
            at
        };
        let (one, other) = (renewals(10_000), renewals(30_000));
        let apart: Vec<u64> = one
            .iter()
            .zip(&other)
            .map(|(one, other)| one - other)
            .collect();
        assert_eq!(apart, [S, 2 * S, 3 * S, 4 * S, 5 * S]);
    }

    #[test]
    fn a_question_without_answer_is_given_up() {
        let mut lease = Lease::default();
        lease.asked(s(1));
        let limit = lease.alarm_at(s(1), false).unwrap();
        assert_eq!(lease.alarm(limit.minus_us(1), true), Alarm::Rest);
        assert_eq!(lease.alarm(limit, true), Alarm::Lost);
    }

    #[test]
    fn waiting_fits_until_unwraps_are_known_to_take_longer() {
        let mut lease = Lease::default();
        assert!(lease.fits(s(1), 3_000));
        lease.asked(s(1));
        lease.granted(s(1).plus_us(20_000), s(1), 1, S);
        lease.lost();
        assert!(!lease.fits(s(9), 3_000));
        lease.asked(s(9));
        assert!(lease.fits(s(9).plus_us(17_000), 3_000));
        assert!(lease.fits(s(9).plus_us(23_000), 3_000), "a little overdue");
        assert!(!lease.fits(s(9).plus_us(24_000), 3_000), "it may hang");
    }

    #[test]
    fn a_kms_that_does_not_answer_bars_questions_for_a_while() {
        let mut lease = Lease::default();
        let mut rng = Rng::new(1);
        lease.asked(s(1));
        let retry_at = lease.unavailable(s(1), &mut rng, 5 * S, false);
        assert!(retry_at >= s(6));
        assert!(!lease.may_ask(s(2)));
        assert!(!lease.fits(s(2), u64::MAX));
        assert!(lease.may_ask(retry_at));
        assert!(lease.fits(retry_at, u64::MAX));
        lease.pardoned();
        assert!(lease.may_ask(s(2)));
    }
}
