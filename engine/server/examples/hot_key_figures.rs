//! Measures what finding hot keys costs a shard.
//!
//! ```text
//! cargo run --release -p keyway-server --example hot_key_figures
//! ```
//!
//! Each figure is the fastest of several batches, per call: the least disturbed one. Key ids have 20 bytes.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::{Duration, Instant};

use keyway_core::Instant as Moment;
use keyway_node::hot::{HotKeyCounter, PLACES_MAX, SpaceSaving};
use keyway_protocol::HotBy;
use keyway_protocol::limits::HOT_KEYS_MAX;

#[path = "../../../testkit/machine.rs"]
mod machine;

const BATCHES: usize = 50;
/// Calls in a batch.
const CALLS: usize = 100_000;

/// Among so many keyspaces a request's is found.
const KEYSPACES: u32 = 10;

/// One window for all of it.
const NOW: Moment = Moment::from_micros(1);

fn main() {
    println!("{}", machine::description());
    for (traffic, keys) in [
        ("one key", 1),
        ("200 keys", 200),
        ("a million keys", 1_000_000),
    ] {
        println!("\n{traffic}");
        let keys = at_random(keys);
        let mut tallies: BTreeMap<u32, HotKeyCounter> = (1..=KEYSPACES)
            .map(|id| (id, HotKeyCounter::new(NOW)))
            .collect();
        let mut request = |key: &[u8]| {
            if let Some(tally) = tallies.get_mut(&black_box(KEYSPACES)) {
                tally.request(NOW, key);
            }
        };
        // Past the requests that are counted one by one.
        keys.iter().take(10_000).for_each(|key| request(key));
        report("a request, 1 in 16 counted", &keys, &mut request);
        let mut sketch = SpaceSaving::new(PLACES_MAX);
        report("a request, counted; a wait; a load", &keys, |key| {
            sketch.add(key, 1)
        });
        if let Some(tally) = tallies.get_mut(&KEYSPACES) {
            let keys_max = usize::from(HOT_KEYS_MAX);
            let answer = || drop(black_box(tally.share(0, NOW, HotBy::Requests, keys_max)));
            println!(
                "{:<40} {:>8.0} us",
                "an answer to `keyway hot`",
                fastest(20, answer) * 1e6
            );
        }
    }
}

fn report(what: &str, keys: &[Vec<u8>], mut call: impl FnMut(&[u8])) {
    let batch = || keys.iter().for_each(|key| call(black_box(key)));
    let each = fastest(BATCHES, batch) / keys.len() as f64;
    println!("{what:<40} {:>8.1} ns", each * 1e9);
}

/// Seconds that `work` took, the fastest of `times` runs.
fn fastest(times: usize, mut work: impl FnMut()) -> f64 {
    let took = (0..times).map(|_| {
        let began = Instant::now();
        work();
        began.elapsed()
    });
    took.min().unwrap_or(Duration::ZERO).as_secs_f64()
}

/// A batch of requests for keys 0 to `count`, each as likely.
fn at_random(count: u64) -> Vec<Vec<u8>> {
    let mut random = 1_u64;
    let mut next = || {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        random >> 33
    };
    (0..CALLS)
        .map(|_| format!("tenants/key-{:08}", next() % count).into_bytes())
        .collect()
}
