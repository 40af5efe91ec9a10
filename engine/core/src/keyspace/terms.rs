//! The input of the expiry check of a keyspace: TTLs, lease end, epoch.

use crate::entry::Live;
use crate::settings::Settings;
use crate::time::Instant;
use alloc::vec::Vec;

/// Most rises of `hard_ttl_ms` that are distinguished.
const HARD_STEPS_MAX: usize = 8;

#[derive(Debug)]
pub(crate) struct ExpiryRules {
    soft_us: u64,
    jitter_us_max: u64,
    window_us: u64,
    low_water_us: u64,
    hard: HardTtl,
    /// End of the DEK's lease; the origin of time if there is no lease.
    lease_end: Instant,
    /// Counts purges. Keys of an earlier epoch are dead, independent of time.
    epoch: u32,
    /// Counts changes of settings.
    revision: u32,
}

/// The points in a key's life at which something must be done. `hard_at` excludes the lease, whose end is one event for
/// the whole keyspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadlines {
    pub(crate) due_at: Instant,
    pub(crate) urgent_at: Instant,
    pub(crate) soft_at: Instant,
    pub(crate) hard_at: Instant,
}

impl ExpiryRules {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            soft_us: settings.soft_ttl_us(),
            jitter_us_max: settings.jitter_us_max(),
            window_us: settings.refresh_window_us(),
            low_water_us: settings.low_water_us(),
            hard: HardTtl::new(settings.hard_ttl_us()),
            lease_end: Instant::ZERO,
            epoch: 0,
            revision: 0,
        }
    }

    /// Applies new settings. The caller shortens the lease.
    pub(crate) fn change(&mut self, now: Instant, settings: &Settings) {
        self.soft_us = settings.soft_ttl_us();
        self.jitter_us_max = settings.jitter_us_max();
        self.window_us = settings.refresh_window_us();
        self.low_water_us = settings.low_water_us();
        self.hard.change(now, settings.hard_ttl_us());
        self.revision = self.revision.wrapping_add(1);
    }

    pub(crate) fn lease_end(&self) -> Instant {
        self.lease_end
    }

    /// Copies the end of the lease, which [`super::Lease`] determines, for the expiry check.
    pub(crate) fn set_lease_end(&mut self, lease_end: Instant) {
        self.lease_end = lease_end;
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.epoch
    }

    pub(crate) fn revision(&self) -> u32 {
        self.revision
    }

    /// Invalidates every key that is live now.
    pub(crate) fn purge(&mut self) {
        self.epoch = self.epoch.wrapping_add(1);
    }

    /// Returns min(loaded_at + hard TTL, lease end, not_after): the key is not used from this time.
    #[inline]
    pub(crate) fn effective_hard<V>(&self, live: &Live<V>) -> Instant {
        if live.epoch != self.epoch {
            return Instant::ZERO;
        }
        self.own_hard(live).min(self.lease_end)
    }

    /// Returns when a key becomes stale. Jitter only shortens.
    #[inline]
    pub(crate) fn soft_at<V>(&self, live: &Live<V>) -> Instant {
        let jitter_us = (self.jitter_us_max * u64::from(live.jitter)) >> 16;
        live.loaded_at.plus_us(self.soft_us - jitter_us)
    }

    pub(crate) fn points<V>(&self, live: &Live<V>) -> Deadlines {
        let hard_at = self.own_hard(live);
        let soft_at = self.soft_at(live).min(hard_at);
        Deadlines {
            due_at: soft_at.minus_us(self.window_us).max(live.loaded_at),
            urgent_at: soft_at.minus_us(self.low_water_us).max(live.loaded_at),
            soft_at,
            hard_at,
        }
    }

    /// Returns how long after the last check an unused key inside its refresh window is checked again, in µs: eight
    /// checks per window, so that a key that comes into use late is noticed in time.
    pub(crate) fn recheck_us(&self) -> u64 {
        self.window_us / 8
    }

    #[inline]
    fn own_hard<V>(&self, live: &Live<V>) -> Instant {
        live.loaded_at
            .plus_us(self.hard.of(live.loaded_at))
            .min(live.not_after)
    }
}

/// The hard TTL, such that a change never prolongs the life of a loaded key: the lowest value in force since its load
/// began applies to a key.
#[derive(Debug)]
struct HardTtl {
    us: u64,
    /// The time after which `us` is the lowest value; a load that began at exactly this time may have been before the
    /// change.
    since: Instant,
    /// Lower values that apply to keys loaded before, oldest first: (time, µs). Both rise.
    lower: Vec<(Instant, u64)>,
}

impl HardTtl {
    fn new(us: u64) -> Self {
        Self {
            us,
            since: Instant::ZERO,
            lower: Vec::new(),
        }
    }

    #[inline]
    fn of(&self, loaded_at: Instant) -> u64 {
        if loaded_at > self.since || self.lower.is_empty() {
            return self.us;
        }
        self.lower_of(loaded_at)
    }

    #[cold]
    fn lower_of(&self, loaded_at: Instant) -> u64 {
        let step = self
            .lower
            .iter()
            .rev()
            .find(|(since, _)| loaded_at > *since);
        step.or(self.lower.first()).map_or(self.us, |(_, us)| *us)
    }

    fn change(&mut self, now: Instant, us: u64) {
        if us > self.us {
            self.lower.push((self.since, self.us));
            if self.lower.len() > HARD_STEPS_MAX {
                // The two oldest are merged, with the lower value of the first.
                self.lower.remove(1);
            }
            self.since = now;
        }
        while let Some((since, _)) = self.lower.pop_if(|(_, lower_us)| *lower_us >= us) {
            self.since = since;
        }
        self.us = us;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(us: u64) -> Instant {
        Instant::from_micros(us)
    }

    /// Returns the lowest value in force since `loaded_at`, from the full history.
    fn naive(history: &[(u64, u64)], loaded_at: u64) -> u64 {
        let in_force = history
            .iter()
            .rposition(|(since, _)| *since < loaded_at)
            .unwrap_or(0);
        history[in_force..].iter().map(|(_, us)| *us).min().unwrap()
    }

    #[test]
    fn hard_ttl_is_the_lowest_since_the_load() {
        let history = [
            (0, 50),
            (10, 30),
            (20, 40),
            (30, 60),
            (40, 35),
            (50, 90),
            (60, 91),
            (70, 90),
        ];
        let mut hard = HardTtl::new(50);
        for (step, (since, us)) in history.iter().enumerate() {
            if step > 0 {
                hard.change(at(*since), *us);
            }
            for loaded_at in 0..=*since {
                let expected = naive(&history[..=step], loaded_at);
                assert_eq!(
                    hard.of(at(loaded_at)),
                    expected,
                    "step {step}, loaded at {loaded_at}"
                );
            }
        }
    }

    #[test]
    fn long_history_is_merged_without_prolonging_any_key() {
        let mut history = alloc::vec![(0, 10)];
        let mut hard = HardTtl::new(10);
        for step in 1..40 {
            history.push((step * 10, 10 + step));
            hard.change(at(step * 10), 10 + step);
            assert!(hard.lower.len() <= HARD_STEPS_MAX);
        }
        for loaded_at in 0..400 {
            assert!(hard.of(at(loaded_at)) <= naive(&history, loaded_at));
        }
        assert_eq!(hard.of(at(395)), 49);
    }
}
