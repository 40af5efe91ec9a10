//! Measures what finding hot keys costs a shard.
//!
//! ```text
//! cargo run --release -p keyway-server --example hot_key_figures
//! ```
//!
//! Each figure is the fastest of several batches, per call: the least disturbed one. Key ids have 20 bytes.

use std::hint::black_box;
use std::time::{Duration, Instant};

use keyway_core::Instant as Moment;
use keyway_protocol::HotBy;
use keyway_protocol::limits::HOT_KEYS_MAX;
use keyway_server::shard::hot::{PLACES_MAX, SpaceSaving, Tally};

const BATCHES: usize = 50;
const CALLS: usize = 100_000;

/// One window for all of it.
const NOW: Moment = Moment::from_micros(1);

fn main() {
    machine();
    for (traffic, keys) in [
        ("one key", 1),
        ("200 keys", 200),
        ("a million keys", 1_000_000),
    ] {
        println!("\n{traffic}");
        let keys = in_random_order(keys);
        let mut tally = Tally::new(NOW);
        // Past the requests that are counted one by one.
        keys.iter()
            .cycle()
            .take(10_000)
            .for_each(|key| tally.request(NOW, key));
        report("a request, 1 in 16 counted", &keys, |key| {
            tally.request(NOW, key)
        });
        let mut sketch = SpaceSaving::new(PLACES_MAX);
        report("a request, counted; a wait; a load", &keys, |key| {
            sketch.add(key, 1)
        });
        let began = Instant::now();
        black_box(tally.share(0, NOW, HotBy::Requests, usize::from(HOT_KEYS_MAX)));
        println!(
            "{:<40} {:>8.0} us",
            "an answer to `keyway hot`",
            began.elapsed().as_secs_f64() * 1e6
        );
    }
}

fn report(what: &str, keys: &[Vec<u8>], mut call: impl FnMut(&[u8])) {
    let mut fastest = Duration::MAX;
    let mut next = keys.iter().cycle();
    for _ in 0..BATCHES {
        let began = Instant::now();
        for key in next.by_ref().take(CALLS) {
            call(black_box(key));
        }
        fastest = fastest.min(began.elapsed());
    }
    println!(
        "{what:<40} {:>8.1} ns",
        fastest.as_secs_f64() * 1e9 / CALLS as f64
    );
}

/// Keys 0 to `count`, shuffled, and at least a batch of them.
fn in_random_order(count: u64) -> Vec<Vec<u8>> {
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

fn machine() {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpuinfo.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.split_once(": "));
        value.map_or("unknown", |(_, value)| value).to_owned()
    };
    println!(
        "cpu: {} (family {}, model {}), {} cores, {}",
        field("model name"),
        field("cpu family"),
        field("model\t"),
        std::thread::available_parallelism().map_or(0, usize::from),
        std::env::consts::ARCH,
    );
}
