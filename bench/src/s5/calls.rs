//! What the proxy's record of calls says.

use std::time::{Duration, Instant};

use keyway_testkit::fault_proxy::{Call, concurrency_max};
use serde::Serialize;

const SECOND: Duration = Duration::from_secs(1);

/// One second of the record.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct KmsSecond {
    /// The second's start, from the start of the load.
    pub at_s: u64,
    /// Calls that began in it, connections that were closed at once included.
    pub calls: u64,
    /// Of these, answered with 200.
    pub calls_ok: u64,
    /// The most calls in flight at the same time.
    pub concurrency_max: usize,
}

/// The record by second, `count` of them from `start`.
pub fn by_second(calls: &[Call], start: Instant, count: u64) -> Vec<KmsSecond> {
    let second = |at_s: u64| {
        let (from, to) = (
            start + Duration::from_secs(at_s),
            start + Duration::from_secs(at_s + 1),
        );
        let began: Vec<_> = began_within(calls, from, to).collect();
        // Calls that touch the second and overlap at all do so within it, since each reaches into it.
        let touching: Vec<Call> = calls
            .iter()
            .filter(|call| call.at < to && call.ended.is_none_or(|ended| ended > from))
            .cloned()
            .collect();
        KmsSecond {
            at_s,
            calls: began.len() as u64,
            calls_ok: began.iter().filter(|call| call.status == Some(200)).count() as u64,
            concurrency_max: concurrency_max(&touching),
        }
    };
    (0..count).map(second).collect()
}

/// Calls that began at `from` or later and before `to`.
pub fn began_within(
    calls: &[Call],
    from: Instant,
    to: Instant,
) -> impl Iterator<Item = &Call> + Clone {
    calls
        .iter()
        .filter(move |call| from <= call.at && call.at < to)
}

/// The most calls that began within any second, whole or not. `calls` are by their time.
pub fn rate_max<'a>(calls: impl Iterator<Item = &'a Call> + Clone) -> u64 {
    let mut oldest = calls.clone().peekable();
    let (mut within, mut max) = (0_u64, 0);
    for call in calls {
        within += 1;
        while oldest
            .next_if(|first| first.at + SECOND <= call.at)
            .is_some()
        {
            within -= 1;
        }
        max = max.max(within);
    }
    max
}

/// Returns `true` if the call requested a DEK, whatever its outcome.
pub fn is_unwrap(call: &Call) -> bool {
    call.path.contains("/decrypt/")
}

/// Unwraps that succeeded.
pub fn unwraps_ok(calls: &[Call]) -> u64 {
    let ok = |call: &&Call| is_unwrap(call) && call.status == Some(200);
    calls.iter().filter(ok).count() as u64
}

/// Returns when the KMS granted a DEK, in order of time. The lease began no later: it counts
/// from before the call reached the proxy.
pub fn grants(calls: &[Call]) -> Vec<Instant> {
    let grants = calls.iter().filter(|call| {
        let verbs = ["/encrypt/", "/datakey/", "/decrypt/"];
        call.status == Some(200) && verbs.iter().any(|verb| call.path.contains(verb))
    });
    grants.map(|call| call.at).collect()
}

/// The last of `moments`, which are by time, at `at` or before.
pub fn last_by(moments: &[Instant], at: Instant) -> Option<Instant> {
    let after = moments.partition_point(|&moment| moment <= at);
    Some(moments[after.checked_sub(1)?])
}

#[cfg(test)]
mod tests {
    use keyway_testkit::fault_proxy::Fault;

    use super::*;

    fn call(zero: Instant, at_ms: u64, ended_ms: u64, path: &str, status: u16) -> Call {
        Call {
            at: zero + Duration::from_millis(at_ms),
            ended: Some(zero + Duration::from_millis(ended_ms)),
            path: path.to_owned(),
            fault: Fault::Pass,
            status: Some(status),
        }
    }

    #[test]
    fn seconds_hold_what_began_and_what_was_under_way() {
        let zero = Instant::now();
        let calls = [
            call(zero, 100, 2_500, "/v1/transit/decrypt/k", 200),
            call(zero, 900, 1_100, "/v1/transit/decrypt/k", 503),
            call(zero, 2_400, 2_600, "", 200),
        ];
        let seconds = by_second(&calls, zero, 4);
        let seen: Vec<_> = seconds
            .iter()
            .map(|second| (second.calls, second.calls_ok, second.concurrency_max))
            .collect();
        assert_eq!(seen, [(2, 1, 2), (0, 0, 2), (1, 1, 2), (0, 0, 0)]);
    }

    #[test]
    fn the_rate_is_that_of_the_fullest_second_wherever_it_begins() {
        let zero = Instant::now();
        let at = |ms: u64| call(zero, ms, ms + 1, "", 200);
        assert_eq!(rate_max([].iter()), 0);
        let calls = [at(0), at(700), at(900), at(1_600), at(1_700), at(5_000)];
        assert_eq!(rate_max(calls.iter()), 3, "of 900, 1600 and 1700");
    }

    #[test]
    fn a_grant_is_a_success_that_hands_out_a_dek() {
        let zero = Instant::now();
        let calls = [
            call(zero, 0, 1, "/v1/transit/datakey/plaintext/k", 200),
            call(zero, 10, 11, "/v1/transit/decrypt/k", 403),
            call(zero, 20, 21, "/v1/auth/token/renew-self", 200),
            call(zero, 30, 31, "/v1/transit/decrypt/k", 200),
        ];
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let grants = grants(&calls);
        assert_eq!(grants, [at(0), at(30)]);
        assert_eq!(last_by(&grants, at(29)), Some(at(0)));
        assert_eq!(last_by(&grants, at(30)), Some(at(30)));
        assert_eq!(last_by(&grants[1..], at(29)), None);
        assert_eq!(unwraps_ok(&calls), 1);
        assert_eq!(calls.iter().filter(|call| is_unwrap(call)).count(), 2);
    }
}
