//! Tests of the service over a scripted provider, in paused time: the runtime advances the clock whenever all tasks wait,
//! so hours pass instantly and every time is exact.

use std::sync::Weak;

use tokio::task::{JoinSet, yield_now};
use tokio::time::Instant;

use super::fake_provider::{FakeProvider, Step};
use super::*;
use crate::RECORD_BYTES_MAX;

pub(super) const NOW: Step = Step::Ok(Duration::ZERO);
const DOWN: Step = Step::Fail(Class::Unavailable { retry_after: None });

pub(super) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn wrapped(keyspace: u32) -> [u8; 32] {
    let mut bytes = [0x5a; 32];
    bytes[..4].copy_from_slice(&keyspace.to_le_bytes());
    bytes
}

/// A service, its provider, and the origin of its clock.
pub(super) struct Bench {
    pub(super) service: Service,
    pub(super) provider: Arc<FakeProvider>,
    start: Instant,
}

impl Bench {
    pub(super) fn new(
        script: impl IntoIterator<Item = Step>,
        afterwards: Step,
        budget: Budget,
    ) -> Self {
        let provider = Arc::new(FakeProvider::new(script, afterwards));
        let start = Instant::now();
        let clock = move || u64::try_from(start.elapsed().as_micros()).unwrap();
        let service = Service::new(provider.clone(), [1; 16], budget, clock).unwrap();
        Self {
            service,
            provider,
            start,
        }
    }

    async fn unwrap(&self, keyspace: u32) -> Result<UnwrappedDek, KmsError> {
        self.service
            .unwrap_dek(keyspace, 1, &wrapped(keyspace))
            .await
    }

    async fn class(&self, keyspace: u32) -> Class {
        self.unwrap(keyspace).await.unwrap_err().class()
    }

    pub(super) fn count(&self, outcome: KmsOutcome) -> u64 {
        self.service.counters().count(KmsOperation::Unwrap, outcome)
    }

    /// Returns when each call arrived, in ms from the start.
    fn call_times_ms(&self) -> Vec<u128> {
        self.provider
            .calls()
            .iter()
            .map(|at| (*at - self.start).as_millis())
            .collect()
    }

    fn spawn_unwraps(
        &self,
        keyspaces: impl IntoIterator<Item = u32>,
    ) -> JoinSet<Result<UnwrappedDek, KmsError>> {
        let mut tasks = JoinSet::new();
        for keyspace in keyspaces {
            let service = self.service.clone();
            tasks.spawn(async move { service.unwrap_dek(keyspace, 1, &wrapped(keyspace)).await });
        }
        tasks
    }
}

#[tokio::test(start_paused = true)]
async fn a_thousand_callers_share_one_call_and_one_secret() {
    let bench = Bench::new([], Step::Ok(ms(20)), Budget::default());
    let answers = bench.spawn_unwraps([7; 1000]).join_all().await;
    assert_eq!(bench.provider.call_count(), 1);
    assert_eq!(bench.count(KmsOutcome::Ok), 1);
    let first = answers[0].as_ref().unwrap();
    assert_eq!(first.dek.expose(), &wrapped(7));
    for answer in &answers {
        assert!(Arc::ptr_eq(&answer.as_ref().unwrap().dek, &first.dek));
    }
    // Only the callers hold it: it is dropped with the last of them.
    let weak: Weak<SecretKey> = Arc::downgrade(&first.dek);
    drop(answers);
    assert!(weak.upgrade().is_none());
    // The next caller makes its own call.
    bench.unwrap(7).await.unwrap();
    assert_eq!(bench.provider.call_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn callers_who_disagree_about_the_wrapped_key_share_nothing() {
    let bench = Bench::new([], Step::Ok(ms(20)), Budget::default());
    let (mine, theirs) = (wrapped(1), wrapped(2));
    let (mine, theirs) = tokio::join!(
        bench.service.unwrap_dek(7, 1, &mine),
        bench.service.unwrap_dek(7, 1, &theirs)
    );
    assert!(!mine.unwrap().dek.is_same(&theirs.unwrap().dek));
    for bad in [&[][..], &[0; RECORD_BYTES_MAX + 1]] {
        assert_eq!(
            bench
                .service
                .unwrap_dek(7, 1, bad)
                .await
                .unwrap_err()
                .class(),
            Class::Corrupt
        );
    }
    assert_eq!(bench.provider.call_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_changes_nothing_for_the_others() {
    let bench = Bench::new([], Step::Ok(ms(20)), Budget::default());
    let mut first = bench.spawn_unwraps([7]);
    yield_now().await;
    let others = bench.spawn_unwraps([7, 7]);
    tokio::time::sleep(ms(5)).await;
    first.abort_all();
    assert!(others.join_all().await.iter().all(Result::is_ok));
    assert_eq!(bench.provider.call_count(), 1);
    assert!(first.join_next().await.unwrap().unwrap_err().is_cancelled());
    assert_eq!(bench.service.gauges().unwraps, 0);
}

#[tokio::test(start_paused = true)]
async fn a_panic_reaches_every_caller_and_the_next_one_can_load() {
    let bench = Bench::new([Step::Panic], NOW, Budget::default());
    for answer in bench.spawn_unwraps([7; 10]).join_all().await {
        assert_eq!(
            answer.unwrap_err().class(),
            Class::Unavailable { retry_after: None }
        );
    }
    assert_eq!(bench.provider.call_count(), 1);
    bench.unwrap(7).await.unwrap();
    let gauges = bench.service.gauges();
    assert_eq!((gauges.in_flight, gauges.unwraps), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_cold_keyspaces_stay_within_rate_and_concurrency() {
    let bench = Bench::new([], Step::Ok(ms(30)), Budget::default());
    let answers = bench.spawn_unwraps(0..1000).join_all().await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(bench.provider.call_count(), 1000);
    assert!(bench.provider.under_way_max() <= 8);
    for (index, at) in bench.call_times_ms().into_iter().enumerate() {
        // 100 immediately, then one per 20 ms.
        let earliest_ms = index.saturating_sub(99) * 20;
        assert!(
            at >= earliest_ms as u128,
            "call {index} came at {at} ms, before {earliest_ms} ms"
        );
    }
    let gauges = bench.service.gauges();
    assert_eq!((gauges.in_flight, gauges.unwraps), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn only_what_can_help_is_tried_again() {
    for class in [
        Class::Denied,
        Class::Disabled,
        Class::Locked,
        Class::Corrupt,
        Class::Misconfigured,
    ] {
        let bench = Bench::new([], Step::Fail(class), Budget::default());
        assert_eq!(bench.class(7).await, class);
        assert_eq!(bench.provider.call_count(), 1, "{}", class.name());
        assert_eq!(bench.start.elapsed(), Duration::ZERO);
        assert_eq!(bench.service.gauges().breaker, BreakerState::Closed);
    }
    let bench = Bench::new(
        [],
        DOWN,
        Budget {
            breaker_failures: 100,
            ..Budget::default()
        },
    );
    assert_eq!(
        bench.class(7).await,
        Class::Unavailable { retry_after: None }
    );
    assert_eq!(bench.provider.call_count(), 4);
    assert_eq!(bench.count(KmsOutcome::Unavailable), 4);
}

#[tokio::test(start_paused = true)]
async fn the_lease_counts_from_when_the_successful_try_was_sent() {
    let bench = Bench::new([DOWN, Step::Ok(ms(300))], NOW, Budget::default());
    let answer = bench.unwrap(7).await.unwrap();
    let sent_ms = bench.call_times_ms();
    assert_eq!(u128::from(answer.sent_at_us / 1000), sent_ms[1]);
    assert_eq!(bench.start.elapsed().as_millis(), sent_ms[1] + 300);
}

#[tokio::test(start_paused = true)]
async fn retries_stop_when_their_budget_is_spent() {
    let budget = Budget {
        retry_tokens_max: 3,
        breaker_failures: 1000,
        ..Budget::default()
    };
    let bench = Bench::new([], DOWN, budget);
    for keyspace in 0..10 {
        bench.class(keyspace).await;
    }
    assert_eq!(bench.provider.call_count(), 10 + 3);
    assert_eq!(bench.service.gauges().retry_tokens, 0);
}

#[tokio::test(start_paused = true)]
async fn throttling_holds_everybody_for_as_long_as_was_asked() {
    let asked = Class::Throttled {
        retry_after: Some(ms(2_000)),
    };
    let bench = Bench::new([Step::Fail(asked)], NOW, Budget::default());
    let first = bench.spawn_unwraps([1]);
    tokio::time::sleep(ms(10)).await;
    assert_eq!(bench.provider.call_count(), 1);
    let others = bench.spawn_unwraps(2..5);
    assert!(others.join_all().await.iter().all(Result::is_ok));
    assert!(first.join_all().await.iter().all(Result::is_ok));
    let times_ms = bench.call_times_ms();
    // No call before the time has passed, and no burst then.
    assert!(times_ms[1..].iter().all(|&at| at >= 2_000), "{times_ms:?}");
    assert!(
        times_ms[1..].is_sorted_by(|earlier, later| later - earlier >= 20),
        "{times_ms:?}"
    );
    assert_eq!(bench.count(KmsOutcome::Throttled), 1);
    assert_eq!(bench.service.gauges().breaker, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_wait_beyond_the_time_limit_is_not_begun() {
    let asked = Class::Throttled {
        retry_after: Some(ms(120_000)),
    };
    let budget = Budget {
        throttle_ms_max: 120_000,
        ..Budget::default()
    };
    let bench = Bench::new([Step::Fail(asked)], NOW, budget);
    assert_eq!(bench.class(1).await, asked);
    assert!(matches!(
        bench.class(2).await,
        Class::Throttled {
            retry_after: Some(_)
        }
    ));
    assert_eq!(bench.start.elapsed(), Duration::ZERO);
    assert_eq!(
        (
            bench.count(KmsOutcome::Throttled),
            bench.count(KmsOutcome::OverBudget)
        ),
        (1, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn the_breaker_opens_and_lets_one_probe_through() {
    let bench = Bench::new(
        [DOWN; 5],
        Step::Ok(ms(50)),
        Budget {
            attempts_max: 1,
            ..Budget::default()
        },
    );
    for keyspace in 0..5 {
        bench.class(keyspace).await;
    }
    assert_eq!(bench.service.gauges().breaker, BreakerState::Open);

    // Open: no call is sent, and every caller immediately gets the remaining time.
    let retry_after = bench.class(9).await.retry_after().unwrap();
    assert_eq!(retry_after, ms(1_000));
    assert_eq!(bench.provider.call_count(), 5);

    // Half-open: of ten concurrent calls, one is sent.
    tokio::time::sleep(ms(1_000)).await;
    let answers = bench.spawn_unwraps(10..20).join_all().await;
    assert_eq!(bench.provider.call_count(), 6);
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert_eq!(bench.count(KmsOutcome::BreakerOpen), 1 + 9);

    // The probe succeeded: closed.
    assert_eq!(bench.service.gauges().breaker, BreakerState::Closed);
    assert!(
        bench
            .spawn_unwraps(20..30)
            .join_all()
            .await
            .iter()
            .all(Result::is_ok)
    );
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_opens_it_again_for_longer() {
    let bench = Bench::new(
        [],
        DOWN,
        Budget {
            attempts_max: 1,
            ..Budget::default()
        },
    );
    for keyspace in 0..5 {
        bench.class(keyspace).await;
    }
    for open_ms in [1_000, 2_000, 4_000, 8_000, 10_000, 10_000] {
        assert_eq!(bench.class(0).await.retry_after(), Some(ms(open_ms)));
        tokio::time::sleep(ms(open_ms)).await;
        assert_eq!(
            bench.class(0).await,
            Class::Unavailable { retry_after: None }
        );
    }
    assert_eq!(bench.provider.call_count(), 5 + 6);
    bench.provider.set_afterwards(NOW);
    tokio::time::sleep(ms(10_000)).await;
    bench.unwrap(0).await.unwrap();
    assert_eq!(bench.service.gauges().breaker, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_call_without_an_answer_ends_at_its_limit() {
    let bench = Bench::new(
        [],
        Step::Hang,
        Budget {
            attempts_max: 1,
            ..Budget::default()
        },
    );
    let answers = bench.spawn_unwraps(0..5).join_all().await;
    assert!(answers.iter().all(Result::is_err));
    // The five leave one after the other: there is no burst at the start.
    assert_eq!(bench.start.elapsed(), ms(5_080));
    assert_eq!(bench.count(KmsOutcome::TimedOut), 5);
    // No answer is a failure to the breaker.
    assert_eq!(bench.service.gauges().breaker, BreakerState::Open);
    assert_eq!(bench.service.gauges().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_locked_costs_no_call() {
    let bench = Bench::new([], Step::Ok(ms(20)), Budget::default());
    bench.service.lock();
    assert_eq!(bench.service.state(), ProviderState::Locked);
    assert_eq!(bench.class(7).await, Class::Locked);
    assert_eq!(
        bench.service.new_dek(7, 1).await.unwrap_err().class(),
        Class::Locked
    );
    assert_eq!(bench.provider.call_count(), 0);
    assert_eq!(bench.count(KmsOutcome::Locked), 1);
    bench
        .service
        .unlock(None, UnlockSecret::Nothing)
        .await
        .unwrap();
    bench.unwrap(7).await.unwrap();
    assert_eq!(
        bench
            .service
            .counters()
            .count(KmsOperation::Unlock, KmsOutcome::Ok),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn an_answer_from_before_a_lock_is_not_handed_out_after_it() {
    let bench = Bench::new([], Step::Ok(ms(20)), Budget::default());
    let waiting = bench.spawn_unwraps([7]);
    tokio::time::sleep(ms(10)).await;
    bench.service.lock();
    let answers = waiting.join_all().await;
    assert_eq!(answers[0].as_ref().unwrap_err().class(), Class::Locked);
}

/// A flight from before a lock remained in the table: a caller after the lock joined it, read the unchanged number of
/// locks, and got the DEK from a KMS that was locked the whole time.
#[tokio::test(start_paused = true)]
async fn who_comes_after_a_lock_shares_no_answer_from_before_it() {
    let bench = Bench::new([], Step::Ok(ms(20)), Budget::default());
    let before = bench.spawn_unwraps([7]);
    tokio::time::sleep(ms(10)).await;
    bench.service.lock();
    assert_eq!(bench.class(7).await, Class::Locked);
    let answers = before.join_all().await;
    assert_eq!(answers[0].as_ref().unwrap_err().class(), Class::Locked);
    assert_eq!(bench.provider.call_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_unlock_is_tried_once_and_has_a_limit() {
    let bench = Bench::new([DOWN, Step::Hang], NOW, Budget::default());
    let class = bench
        .service
        .unlock(None, UnlockSecret::Nothing)
        .await
        .unwrap_err()
        .class();
    assert_eq!(class, Class::Unavailable { retry_after: None });
    assert!(
        bench
            .service
            .unlock(None, UnlockSecret::Nothing)
            .await
            .is_err()
    );
    assert_eq!(bench.start.elapsed(), ms(60_000));
    let counters = bench.service.counters();
    assert_eq!(
        counters.count(KmsOperation::Unlock, KmsOutcome::Unavailable),
        1
    );
    assert_eq!(
        counters.count(KmsOperation::Unlock, KmsOutcome::TimedOut),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn more_keyspaces_than_may_wait_are_refused_at_once() {
    let budget = Budget {
        concurrency_max: 1,
        waiting_max: 2,
        ..Budget::default()
    };
    let bench = Bench::new([], Step::Ok(ms(20)), budget);
    let answers = bench.spawn_unwraps([1, 1, 2, 3]).join_all().await;
    let refused: Vec<Class> = answers
        .iter()
        .filter_map(|answer| Some(answer.as_ref().err()?.class()))
        .collect();
    assert_eq!(
        refused,
        [Class::Throttled {
            retry_after: Some(FULL_RETRY_AFTER)
        }]
    );
    assert_eq!(bench.provider.call_count(), 2);
    assert_eq!(bench.count(KmsOutcome::OverBudget), 1);
}

#[tokio::test(start_paused = true)]
async fn call_times_out_when_the_limiter_is_full() {
    let budget = Budget {
        concurrency_max: 1,
        total_ms_max: 5_000,
        ..Budget::default()
    };
    let bench = Bench::new([], Step::Hang, budget);
    // The first is at the KMS until 5 s, the second from then until 10 s; the third can wait until 7 s.
    let mut tasks = Vec::new();
    for keyspace in 1..=3 {
        tasks.push(bench.spawn_unwraps([keyspace]));
        tokio::time::sleep(ms(1_000)).await;
    }
    let third = tasks.pop().unwrap().join_all().await;
    assert_eq!(
        third[0].as_ref().unwrap_err().class(),
        Class::Throttled {
            retry_after: Some(ms(1_000))
        }
    );
    assert_eq!(bench.start.elapsed(), ms(7_000));
    for task in tasks {
        assert!(task.join_all().await[0].is_err());
    }
    assert_eq!(bench.provider.call_count(), 2);
    assert_eq!(
        (
            bench.count(KmsOutcome::TimedOut),
            bench.count(KmsOutcome::OverBudget)
        ),
        (2, 1)
    );
}

#[tokio::test(start_paused = true)]
async fn every_call_is_counted_once() {
    let script = [
        DOWN,
        NOW,
        Step::Fail(Class::Denied),
        Step::Fail(Class::Disabled),
        NOW,
        NOW,
    ];
    let bench = Bench::new(script, NOW, Budget::default());
    for keyspace in 0..3 {
        let _ = bench.unwrap(keyspace).await;
    }
    bench.service.new_dek(9, 1).await.unwrap();
    let total: u64 = bench
        .service
        .counters()
        .iter()
        .map(|(_, _, count)| count)
        .sum();
    assert_eq!(total, bench.provider.call_count() as u64);
}

#[test]
fn a_budget_that_contradicts_itself_is_refused() {
    let provider = Arc::new(FakeProvider::new([], NOW));
    let budget = Budget {
        burst: 0,
        ..Budget::default()
    };
    let error = Service::new(provider, [1; 16], budget, || 0).unwrap_err();
    assert_eq!(error.class(), Class::Misconfigured);
}
