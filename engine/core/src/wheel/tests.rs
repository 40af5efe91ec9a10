//! Tests of the wheel against a list of timers that is searched linearly.

use super::*;
use proptest::prelude::*;

fn ms(ms: u64) -> Instant {
    Instant::from_micros(ms * TICK_US)
}

fn fired(wheel: &mut Wheel<u32>, now: Instant) -> Vec<u32> {
    wheel.advance(now);
    core::iter::from_fn(|| wheel.pop()).collect()
}

#[test]
fn fires_at_its_tick_and_never_before() {
    let mut wheel = Wheel::new();
    wheel.arm(Instant::from_micros(2_500), 1);
    assert!(fired(&mut wheel, Instant::from_micros(2_999)).is_empty());
    assert_eq!(fired(&mut wheel, Instant::from_micros(3_000)), [1]);
    assert_eq!(wheel.len(), 0);
}

#[test]
fn cancelled_timer_does_not_fire_and_a_stale_cancel_has_no_effect() {
    let mut wheel = Wheel::new();
    let one = wheel.arm(ms(5), 1);
    wheel.cancel(one);
    let two = wheel.arm(ms(5), 2);
    wheel.cancel(one);
    assert!(wheel.is_armed(two) && !wheel.is_armed(one));
    assert_eq!(fired(&mut wheel, ms(5)), [2]);
    wheel.cancel(two);
}

#[test]
fn timer_armed_in_the_past_fires_at_the_next_tick() {
    let mut wheel = Wheel::new();
    wheel.advance(ms(10));
    wheel.arm(ms(3), 1);
    assert!(fired(&mut wheel, ms(10)).is_empty());
    assert_eq!(fired(&mut wheel, ms(11)), [1]);
}

#[test]
fn jump_over_years_fires_everything_once() {
    let mut wheel = Wheel::new();
    let year_ms = 365 * 86_400_000;
    for (item, at) in [1, 63, 64, 65, 4_095, 4_096, 1 << 20, year_ms]
        .into_iter()
        .enumerate()
    {
        wheel.arm(ms(at), item as u32);
    }
    let mut items = fired(&mut wheel, ms(2 * year_ms));
    items.sort_unstable();
    assert_eq!(items, (0..8).collect::<Vec<_>>());
    assert_eq!(wheel.len(), 0);
}

#[test]
fn end_of_time_is_handled() {
    let mut wheel = Wheel::new();
    wheel.arm(Instant::MAX, 1);
    assert!(fired(&mut wheel, Instant::MAX).is_empty());
    wheel.arm(Instant::ZERO, 2);
    wheel.advance(Instant::MAX);
    assert_eq!(wheel.len(), 2);
}

#[test]
fn timers_of_one_tick_fire_in_the_order_they_were_armed() {
    let mut wheel = Wheel::new();
    for item in 0..1_000 {
        wheel.arm(ms(70), item);
    }
    assert_eq!(fired(&mut wheel, ms(70)), (0..1_000).collect::<Vec<_>>());
}

#[derive(Clone, Debug)]
enum Step {
    Arm { after_us: u64 },
    Cancel { which: usize },
    Advance { by_us: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let span = prop_oneof![
        0..3_000_u64,
        0..300_000_u64,
        0..80_000_000_u64,
        0..100_000_000_000_u64
    ];
    prop_oneof![
        4 => span.clone().prop_map(|after_us| Step::Arm { after_us }),
        1 => any::<usize>().prop_map(|which| Step::Cancel { which }),
        3 => span.prop_map(|by_us| Step::Advance { by_us }),
    ]
}

proptest! {
    #[test]
    fn agrees_with_a_naive_model(steps in prop::collection::vec(step(), 1..200)) {
        let mut wheel = Wheel::new();
        // (first tick at which it may fire, item, id)
        let mut model: Vec<(u64, u32, TimerId<u32>)> = Vec::new();
        let mut now = Instant::from_micros(777);
        wheel.advance(now);
        for (item, step) in steps.into_iter().enumerate() {
            let item = item as u32;
            match step {
                Step::Arm { after_us } => {
                    let at = now.plus_us(after_us);
                    let present = now.as_micros() / TICK_US;
                    let tick = at.as_micros().div_ceil(TICK_US).max(present + 1);
                    model.push((tick, item, wheel.arm(at, item)));
                }
                Step::Cancel { which } if !model.is_empty() => {
                    let (_, _, id) = model.swap_remove(which % model.len());
                    wheel.cancel(id);
                }
                Step::Cancel { .. } => {}
                Step::Advance { by_us } => {
                    now = now.plus_us(by_us);
                    let tick = now.as_micros() / TICK_US;
                    let mut expected: Vec<u32> =
                        model.iter().filter(|(at, ..)| *at <= tick).map(|(_, item, _)| *item).collect();
                    model.retain(|(at, ..)| *at > tick);
                    let mut items = fired(&mut wheel, now);
                    expected.sort_unstable();
                    items.sort_unstable();
                    prop_assert_eq!(items, expected);
                }
            }
            prop_assert_eq!(wheel.len(), model.len());
        }
    }
}
