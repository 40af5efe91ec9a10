//! The circuit breaker: after several consecutive failures no call is sent for some time, and then one probe. Time is an
//! argument.

use std::time::Duration;

/// The state of the breaker, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls are sent.
    Closed,
    /// Calls are refused.
    Open,
    /// One call is in flight as a probe; others are refused.
    HalfOpen,
}

impl BreakerState {
    /// Returns the state as one lower-case word, for status documents.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failure_count: u32 },
    Open { until: Duration, open_for: Duration },
    HalfOpen { open_for: Duration },
}

/// Permission for one call. Return it with the result of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Permit {
    is_probe: bool,
}

/// What a call showed about the KMS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallResult {
    /// It answers; a refusal is an answer.
    Alive,
    /// It does not answer.
    Down,
    /// Nothing: the call was abandoned.
    Nothing,
}

#[derive(Debug)]
pub(super) struct Breaker {
    failures_max: u32,
    open_for_first: Duration,
    open_for_max: Duration,
    state: State,
}

impl Breaker {
    pub(super) fn new(failures_max: u32, open_for_first: Duration, open_for_max: Duration) -> Self {
        Self {
            failures_max,
            open_for_first,
            open_for_max,
            state: State::Closed { failure_count: 0 },
        }
    }

    /// Returns an error if calls are refused, with the expected duration.
    pub(super) fn check(&self, now: Duration) -> Result<(), Duration> {
        match self.state {
            State::Closed { .. } => Ok(()),
            State::Open { until, .. } if now >= until => Ok(()),
            State::Open { until, .. } => Err(until - now),
            // The probe may end at any moment; the shortest open period is a fair estimate.
            State::HalfOpen { .. } => Err(self.open_for_first),
        }
    }

    /// Returns permission for one call, immediately before it is sent. In the open state, after its period, that call is
    /// the probe.
    pub(super) fn enter(&mut self, now: Duration) -> Result<Permit, Duration> {
        self.check(now)?;
        match self.state {
            State::Open { open_for, .. } => {
                self.state = State::HalfOpen { open_for };
                Ok(Permit { is_probe: true })
            }
            State::Closed { .. } | State::HalfOpen { .. } => Ok(Permit { is_probe: false }),
        }
    }

    /// Records the end of the call of `pass`. Once the breaker is open, earlier calls no longer count: only the probe
    /// decides.
    pub(super) fn record(&mut self, now: Duration, pass: Permit, showed: CallResult) {
        self.state = match (self.state, pass.is_probe, showed) {
            (State::HalfOpen { .. }, true, CallResult::Alive) => State::Closed { failure_count: 0 },
            (State::HalfOpen { open_for }, true, CallResult::Down) => {
                let open_for = (open_for * 2).min(self.open_for_max);
                State::Open {
                    until: now + open_for,
                    open_for,
                }
            }
            // The next call is the probe.
            (State::HalfOpen { open_for }, true, CallResult::Nothing) => State::Open {
                until: now,
                open_for,
            },
            (State::Closed { .. }, _, CallResult::Alive) => State::Closed { failure_count: 0 },
            (State::Closed { failure_count }, _, CallResult::Down)
                if failure_count + 1 >= self.failures_max =>
            {
                State::Open {
                    until: now + self.open_for_first,
                    open_for: self.open_for_first,
                }
            }
            (State::Closed { failure_count }, _, CallResult::Down) => State::Closed {
                failure_count: failure_count + 1,
            },
            (state, _, _) => state,
        };
    }

    /// Lets the next call be the probe, because an operator wants to check.
    pub(super) fn hurry(&mut self, now: Duration) {
        if let State::Open { open_for, .. } = self.state {
            self.state = State::Open {
                until: now,
                open_for,
            };
        }
    }

    pub(super) fn state(&self) -> BreakerState {
        match self.state {
            State::Closed { .. } => BreakerState::Closed,
            State::Open { .. } => BreakerState::Open,
            State::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn open_at_zero() -> Breaker {
        let mut breaker = Breaker::new(2, s(1), s(3));
        for _ in 0..2 {
            let pass = breaker.enter(s(0)).unwrap();
            breaker.record(s(0), pass, CallResult::Down);
        }
        assert_eq!(breaker.state(), BreakerState::Open);
        breaker
    }

    #[test]
    fn an_answer_between_failures_keeps_it_closed() {
        let mut breaker = Breaker::new(2, s(1), s(3));
        for showed in [
            CallResult::Down,
            CallResult::Alive,
            CallResult::Down,
            CallResult::Nothing,
        ] {
            let pass = breaker.enter(s(0)).unwrap();
            breaker.record(s(0), pass, showed);
            assert_eq!(breaker.state(), BreakerState::Closed);
        }
        let pass = breaker.enter(s(0)).unwrap();
        breaker.record(s(0), pass, CallResult::Down);
        assert_eq!(breaker.state(), BreakerState::Open);
    }

    #[test]
    fn half_open_lets_one_probe_through() {
        let mut breaker = open_at_zero();
        assert_eq!(
            breaker.enter(Duration::from_millis(400)),
            Err(Duration::from_millis(600))
        );
        let probe = breaker.enter(s(1)).unwrap();
        assert!(probe.is_probe);
        assert_eq!(breaker.enter(s(1)), Err(s(1)));
        breaker.record(s(2), probe, CallResult::Alive);
        assert_eq!(breaker.state(), BreakerState::Closed);
        assert!(!breaker.enter(s(2)).unwrap().is_probe);
    }

    #[test]
    fn each_failed_probe_doubles_the_time_up_to_the_limit() {
        let mut breaker = open_at_zero();
        let mut now = s(1);
        for open_for in [s(2), s(3), s(3)] {
            let probe = breaker.enter(now).unwrap();
            breaker.record(now, probe, CallResult::Down);
            assert_eq!(breaker.check(now), Err(open_for));
            now += open_for;
        }
    }

    #[test]
    fn an_abandoned_probe_leaves_room_for_the_next() {
        let mut breaker = open_at_zero();
        let probe = breaker.enter(s(1)).unwrap();
        breaker.record(s(1), probe, CallResult::Nothing);
        assert!(breaker.enter(s(1)).unwrap().is_probe);
    }

    #[test]
    fn who_is_in_a_hurry_probes_at_once() {
        let mut breaker = open_at_zero();
        breaker.hurry(Duration::from_millis(1));
        assert!(
            breaker
                .enter(Duration::from_millis(1))
                .is_ok_and(|it| it.is_probe)
        );
        breaker.hurry(s(1));
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
    }

    #[test]
    fn calls_from_before_do_not_decide() {
        let mut breaker = Breaker::new(1, s(1), s(3));
        let early = breaker.enter(s(0)).unwrap();
        let failed = breaker.enter(s(0)).unwrap();
        breaker.record(s(0), failed, CallResult::Down);
        breaker.record(s(0), early, CallResult::Alive);
        assert_eq!(breaker.state(), BreakerState::Open);
        let probe = breaker.enter(s(1)).unwrap();
        breaker.record(s(1), early, CallResult::Down);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        breaker.record(s(1), probe, CallResult::Alive);
        assert_eq!(breaker.state(), BreakerState::Closed);
    }
}
