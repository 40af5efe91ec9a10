//! The lease of a keyspace's DEK: when it ends, and when the KMS is called again.
//!
//! The end moves later only by [`Lease::granted`], which is called with a KMS success.

use crate::backoff::{Backoff, UNWRAP_BACKOFF_US_MAX, UNWRAP_BACKOFF_US_MIN};
use crate::ewma::Ewma;
use crate::rng::Rng;
use crate::time::{Instant, TICK_US};

/// Pause between two requests for a DEK that the live lease does not include, in µs.
const WANTED_AGAIN_US: u64 = 1_000_000;
/// Pause between the first refusal and the second request, in µs.
const DENIAL_CONFIRM_US: u64 = 1_000_000;
/// Time after which an unanswered unwrap is given up and counts as unavailable, in µs. Longer than any time limit of a
/// KMS client, since it only guards against a lost answer.
const UNWRAP_TIME_LIMIT_US: u64 = 120_000_000;
/// Longest wait requested by a KMS that is honoured, in µs.
const RETRY_AFTER_US_MAX: u64 = 60_000_000;
/// Renewal checks are this fraction of the lease apart, and less near its end.
const RENEWAL_CHECKS_PER_LEASE: u64 = 16;
/// Parts per million in a whole.
const PPM: u64 = 1_000_000;

#[derive(Debug, Default)]
pub(crate) struct Lease {
    held: Option<Held>,
    asking_since: Option<Instant>,
    /// When the last unwrap request was sent.
    asked_at: Instant,
    standing: LastAnswer,
    /// The first of the consecutive refusals.
    denied_at: Option<Instant>,
    /// Blocks requests until its time; a grant clears it.
    backoff: Backoff,
    /// Durations of granted unwraps.
    unwrap_us: Ewma,
    /// No renewal before this time.
    idle_until: Instant,
    /// How much earlier than half of the lease it is renewed, in ppm of that half.
    renew_early_ppm: u32,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    sent_at: Instant,
    ends_at: Instant,
    generation: u32,
}

/// The last answer of the KMS, as far as it determines the next step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LastAnswer {
    /// It granted, failed, or was not called yet: only the backoff distinguishes these.
    #[default]
    Open,
    Denied,
    Locked,
}

/// What a lease's timer must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaseTimerAction {
    /// Request an unwrap.
    Ask,
    /// The request was not answered.
    Lost,
    /// Nothing.
    Rest,
}

impl Lease {
    /// Creates a state without lease. `renew_early_ppm`: as in [`Limits`](crate::Limits::renew_early_ppm).
    pub(crate) fn new(renew_early_ppm: u32) -> Self {
        Self {
            renew_early_ppm,
            ..Self::default()
        }
    }

    pub(crate) fn ends_at(&self) -> Instant {
        self.held.map_or(Instant::ZERO, |held| held.ends_at)
    }

    /// Returns the latest generation under the lease, or 0 if there is none.
    pub(crate) fn generation(&self) -> u32 {
        self.held.map_or(0, |held| held.generation)
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    pub(crate) fn is_asking(&self) -> bool {
        self.asking_since.is_some()
    }

    /// Records that the KMS must be unlocked.
    pub(crate) fn is_kms_locked(&self) -> bool {
        self.standing == LastAnswer::Locked
    }

    pub(crate) fn retry_at(&self) -> Instant {
        self.backoff.retry_at()
    }

    /// Returns `true` if an unwrap may be requested now: none is in flight, and no backoff blocks it.
    pub(crate) fn may_ask(&self, now: Instant) -> bool {
        !self.is_asking() && self.backoff.left_us(now).is_none()
    }

    pub(crate) fn asked(&mut self, now: Instant) {
        self.asking_since = Some(now);
        self.asked_at = now;
    }

    /// Returns when the KMS may be asked for a DEK that a live lease does not include.
    fn again_at(&self) -> Instant {
        self.asked_at.plus_us(WANTED_AGAIN_US)
    }

    /// Returns `true` if an unwrap may be requested now for a waiter whose DEK is not available.
    pub(crate) fn may_ask_for_waiting(&self, now: Instant) -> bool {
        self.may_ask(now) && (self.held.is_none() || now >= self.again_at())
    }

    /// Returns `true` if a request with a budget of `budget_us` may see the DEK in time. Optimistic while the duration of
    /// an unwrap is unknown.
    pub(crate) fn can_unwrap_within(&self, now: Instant, budget_us: u64) -> bool {
        let barred = !self.is_asking() && self.backoff.left_us(now).is_some();
        !barred && self.expected_us(now) <= budget_us
    }

    /// Returns how much longer the unwrap is expected to take, in µs: the rest of the usual time, or, once that has
    /// passed, as long again as it is overdue.
    fn expected_us(&self, now: Instant) -> u64 {
        let spent_us = self
            .asking_since
            .map_or(0, |since| now.saturating_since(since));
        self.unwrap_us.us().unwrap_or(0).abs_diff(spent_us)
    }

    /// Marks the request as answered.
    pub(crate) fn answered(&mut self) {
        self.asking_since = None;
    }

    /// Handles a KMS success. The lease counts from when the request was sent, and never gets shorter. Returns `false`,
    /// without a change, if it would already have ended.
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
        self.standing = LastAnswer::Open;
        self.denied_at = None;
        self.backoff.clear();
        // A grant that is old on arrival must not cause the next request immediately.
        self.idle_until = now.plus_us((lease_us / RENEWAL_CHECKS_PER_LEASE).max(TICK_US));
        true
    }

    /// Handles a refusal. Returns `true` if it is the second, at least a second after the first; an earlier one gives no
    /// new information.
    pub(crate) fn denied(&mut self, now: Instant) -> bool {
        self.answered();
        self.standing = LastAnswer::Denied;
        let first_at = *self.denied_at.get_or_insert(now);
        if first_at < now && now >= first_at.plus_us(DENIAL_CONFIRM_US) {
            return true;
        }
        // The KMS answers, so no earlier backoff prevents another request.
        self.backoff.clear();
        self.backoff.not_before(first_at.plus_us(DENIAL_CONFIRM_US));
        false
    }

    /// Handles a missing answer, or a failure. Returns when to retry.
    pub(crate) fn unavailable(
        &mut self,
        now: Instant,
        rng: &mut Rng,
        retry_after_us: u64,
        kms_locked: bool,
    ) -> Instant {
        self.answered();
        self.standing = if kms_locked {
            LastAnswer::Locked
        } else {
            LastAnswer::Open
        };
        self.backoff
            .failed(now, rng, UNWRAP_BACKOFF_US_MIN, UNWRAP_BACKOFF_US_MAX);
        self.backoff
            .not_before(now.plus_us(retry_after_us.min(RETRY_AFTER_US_MAX)));
        self.backoff.retry_at()
    }

    /// Ends the lease. A request in flight remains in flight.
    pub(crate) fn expire(&mut self) {
        self.held = None;
    }

    /// Clears refusals after an operator's unlock: earlier answers of the KMS no longer apply.
    pub(crate) fn clear_refusals(&mut self) {
        self.standing = LastAnswer::Open;
        self.denied_at = None;
        self.backoff.clear();
    }

    /// Shortens the lease after a change of the setting. It is never prolonged.
    pub(crate) fn shorten(&mut self, lease_us: u64) {
        if let Some(held) = &mut self.held {
            held.ends_at = held.ends_at.min(held.sent_at.plus_us(lease_us));
            // The next check was planned for the longer lease.
            self.idle_until = self.idle_until.min(held.renew_at(self.renew_early_ppm));
        }
    }

    /// Returns when the timer must fire next. `awaited`: a request waits for a DEK that is not available.
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

    /// Handles the timer. `wanted`: the keyspace was used since the last grant.
    pub(crate) fn alarm(&mut self, now: Instant, wanted: bool) -> LeaseTimerAction {
        if let Some(since) = self.asking_since {
            let lost = now >= since.plus_us(UNWRAP_TIME_LIMIT_US);
            return if lost {
                LeaseTimerAction::Lost
            } else {
                LeaseTimerAction::Rest
            };
        }
        if self.backoff.left_us(now).is_some() {
            return LeaseTimerAction::Rest;
        }
        if self.standing == LastAnswer::Denied {
            // Confirm a refusal even if no request needs a key.
            return LeaseTimerAction::Ask;
        }
        match self.held {
            None if wanted => LeaseTimerAction::Ask,
            None => LeaseTimerAction::Rest,
            Some(held) if now < held.renew_at(self.renew_early_ppm) => LeaseTimerAction::Rest,
            Some(_) if wanted => LeaseTimerAction::Ask,
            Some(held) => {
                self.idle_until = held.next_renewal_check(now);
                LeaseTimerAction::Rest
            }
        }
    }
}

impl Held {
    /// Returns half of the lease, less `early_ppm` of that half: never later than half.
    fn renew_at(&self, early_ppm: u32) -> Instant {
        let half_us = self.ends_at.saturating_since(self.sent_at) / 2;
        let early_us = half_us * u64::from(early_ppm) / PPM;
        self.sent_at.plus_us(half_us - early_us)
    }

    /// Returns the time of the next renewal check of an idle lease. Checks become more frequent towards its end, so that
    /// a keyspace that comes into use shortly before is renewed and not purged while in use.
    fn next_renewal_check(self, now: Instant) -> Instant {
        let lease_us = self.ends_at.saturating_since(self.sent_at);
        let left_us = self.ends_at.saturating_since(now);
        now.plus_us(
            (lease_us / RENEWAL_CHECKS_PER_LEASE)
                .min(left_us / 4)
                .max(TICK_US),
        )
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

    /// Creates a lease from 10 s to 110 s.
    fn held_renewed_early(renew_early_ppm: u32) -> Lease {
        let mut lease = Lease::new(renew_early_ppm);
        lease.asked(s(10));
        assert!(lease.granted(s(11), s(10), 1, 100 * S));
        lease
    }

    #[test]
    fn lease_counts_from_when_the_request_was_sent() {
        assert_eq!(held().ends_at(), s(110));
        assert_eq!(held().alarm_at(s(11), false), Some(s(60)));
    }

    #[test]
    fn grant_never_shortens_a_lease_and_an_expired_grant_is_ignored() {
        let mut lease = held();
        assert!(lease.granted(s(12), s(5), 1, 100 * S));
        assert_eq!(lease.ends_at(), s(110));
        assert!(!lease.granted(s(300), s(5), 9, 100 * S));
        assert_eq!((lease.ends_at(), lease.generation()), (s(110), 1));
    }

    #[test]
    fn grant_from_the_future_counts_from_now() {
        let mut lease = Lease::default();
        assert!(lease.granted(s(10), s(99), 1, 5 * S));
        assert_eq!(lease.ends_at(), s(15));
    }

    #[test]
    fn failures_do_not_change_the_lease() {
        let mut lease = held();
        let mut rng = Rng::new(1);
        lease.unavailable(s(60), &mut rng, 0, false);
        lease.denied(s(61));
        assert_eq!(lease.ends_at(), s(110));
    }

    #[test]
    fn second_refusal_counts_after_a_second() {
        let mut lease = held();
        assert!(!lease.denied(s(20)));
        assert!(!lease.denied(s(20).plus_us(1_000)), "an echo of the first");
        assert_eq!(lease.alarm_at(s(20), false), Some(s(21)));
        assert_eq!(lease.alarm(s(21), false), LeaseTimerAction::Ask);
        lease.asked(s(21));
        assert!(lease.denied(s(21).plus_us(1_000)));
    }

    #[test]
    fn idle_lease_is_checked_again_and_renewed_when_used() {
        let mut lease = held();
        assert_eq!(lease.alarm(s(60), false), LeaseTimerAction::Rest);
        let next = lease.alarm_at(s(60), false).unwrap();
        assert!(next > s(60) && next < s(70));
        assert_eq!(lease.alarm(next, true), LeaseTimerAction::Ask);
    }

    /// Found by the simulator: renewal checks were a sixteenth of the lease apart up to its end, so all keys of a
    /// keyspace that came into use in the last sixteenth were purged while in use.
    #[test]
    fn idle_lease_used_shortly_before_its_end_is_renewed() {
        let mut lease = held();
        let mut now = s(60);
        while now < s(110).minus_us(50_000) {
            assert_eq!(lease.alarm(now, false), LeaseTimerAction::Rest);
            let next = lease.alarm_at(now, false).expect("it is checked again");
            assert!(next > now && next < s(110), "{next:?} after {now:?}");
            now = next;
        }
        assert_eq!(lease.alarm(now, true), LeaseTimerAction::Ask);
    }

    /// Found by the simulator: a lease that was shortened kept the next check planned for the longer one. It ended, and
    /// its keys with it, before a renewal was considered.
    #[test]
    fn shortened_lease_is_renewed_at_half_its_new_duration() {
        let mut lease = held();
        lease.shorten(4 * S);
        assert_eq!(lease.ends_at(), s(14));
        assert_eq!(lease.alarm_at(s(11), false), Some(s(12)));
        assert_eq!(lease.alarm(s(12), true), LeaseTimerAction::Ask);
    }

    #[test]
    fn renewal_is_earlier_than_half_by_exactly_its_ppm() {
        for (early_ppm, early_us) in [(0, 0), (1, 50), (33_333, 1_666_650), (200_000, 10 * S)] {
            let mut lease = held_renewed_early(early_ppm);
            let renew_at = s(60).minus_us(early_us);
            assert_eq!(lease.ends_at(), s(110), "the end is unchanged");
            assert_eq!(
                lease.alarm_at(s(11), false),
                Some(renew_at),
                "{early_ppm} ppm"
            );
            assert_eq!(
                lease.alarm(renew_at.minus_us(1), true),
                LeaseTimerAction::Rest
            );
            assert_eq!(lease.alarm(renew_at, true), LeaseTimerAction::Ask);
        }
    }

    #[test]
    fn renewal_is_between_two_fifths_and_half_of_the_lease() {
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
    fn shortened_lease_is_renewed_early_for_its_new_duration() {
        let mut lease = held_renewed_early(100_000);
        lease.shorten(40 * S);
        assert_eq!(lease.ends_at(), s(50));
        assert_eq!(lease.alarm_at(s(11), false), Some(s(28)));
        assert_eq!(lease.alarm(s(28).minus_us(1), true), LeaseTimerAction::Rest);
        assert_eq!(lease.alarm(s(28), true), LeaseTimerAction::Ask);
    }

    /// The planned check must not delay the renewal, which comes before half.
    #[test]
    fn shortened_idle_lease_is_checked_in_time_for_its_early_renewal() {
        let mut lease = held_renewed_early(200_000);
        lease.shorten(15 * S);
        assert_eq!(
            lease.alarm_at(s(11), false),
            Some(s(16)),
            "planned for 17.25 s"
        );
    }

    /// Two processes started together: each renewal increases their distance.
    #[test]
    fn leases_with_different_renew_early_ppm_drift_apart() {
        let renewals = |early_ppm| {
            let mut lease = Lease::new(early_ppm);
            let mut now = s(10);
            let mut at = Vec::new();
            for _ in 0..5 {
                lease.asked(now);
                assert!(lease.granted(now, now, 1, 100 * S));
                now = lease.alarm_at(now, false).expect("it must be renewed");
                assert_eq!(lease.alarm(now, true), LeaseTimerAction::Ask);
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
    fn unanswered_request_is_given_up() {
        let mut lease = Lease::default();
        lease.asked(s(1));
        let limit = lease.alarm_at(s(1), false).unwrap();
        assert_eq!(lease.alarm(limit.minus_us(1), true), LeaseTimerAction::Rest);
        assert_eq!(lease.alarm(limit, true), LeaseTimerAction::Lost);
    }

    #[test]
    fn waiting_is_allowed_until_unwraps_are_known_to_take_longer() {
        let mut lease = Lease::default();
        assert!(lease.can_unwrap_within(s(1), 3_000));
        lease.asked(s(1));
        lease.granted(s(1).plus_us(20_000), s(1), 1, S);
        lease.expire();
        assert!(!lease.can_unwrap_within(s(9), 3_000));
        lease.asked(s(9));
        assert!(lease.can_unwrap_within(s(9).plus_us(17_000), 3_000));
        assert!(
            lease.can_unwrap_within(s(9).plus_us(23_000), 3_000),
            "a little overdue"
        );
        assert!(
            !lease.can_unwrap_within(s(9).plus_us(24_000), 3_000),
            "it may hang"
        );
    }

    #[test]
    fn unresponsive_kms_blocks_requests_temporarily() {
        let mut lease = Lease::default();
        let mut rng = Rng::new(1);
        lease.asked(s(1));
        let retry_at = lease.unavailable(s(1), &mut rng, 5 * S, false);
        assert!(retry_at >= s(6));
        assert!(!lease.may_ask(s(2)));
        assert!(!lease.can_unwrap_within(s(2), u64::MAX));
        assert!(lease.may_ask(retry_at));
        assert!(lease.can_unwrap_within(retry_at, u64::MAX));
        lease.clear_refusals();
        assert!(lease.may_ask(s(2)));
    }
}
