//! Snapshots in flight to the exporter: some are lost, but no counter ever decreases.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keyway_server::metrics::exporter::{self, Message, Page, collect};
use keyway_server::metrics::snapshot::{KeyspaceSnapshot, ShardSnapshot, Snapshot};
use shuttle::future::block_on;
use shuttle::thread;
use tokio::sync::{mpsc, oneshot};

const SHARDS: u16 = 2;
const SNAPSHOTS: u64 = 5;
const INBOX_MAX: usize = 2;

#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    None,
    /// A snapshot arrives after later ones.
    Delays,
    /// A shard resets its counters.
    StartsAnew,
}

fn snapshot(shard: u16, hits: u64) -> Snapshot {
    Snapshot::Shard(Box::new(ShardSnapshot {
        shard,
        serving: true,
        keyspaces: vec![KeyspaceSnapshot {
            id: 1,
            name: "prod".to_owned(),
            hits,
            ..KeyspaceSnapshot::default()
        }],
        ..ShardSnapshot::default()
    }))
}

/// Returns the keyspace's hits on /metrics or in STATUS; 0 before the first snapshot.
fn hits(document: &str) -> u64 {
    let document: serde_json::Value = serde_json::from_str(document).expect("STATUS is JSON");
    let keyspaces = document["keyspaces"].as_array().expect("a list");
    keyspaces
        .first()
        .map_or(0, |k| k["hits"].as_u64().expect("a count"))
}

/// Delays the first snapshot until five more have passed.
fn delay_first(mut from: mpsc::Receiver<Message>, to: mpsc::Sender<Message>) {
    let mut first = None;
    let mut snapshots = 0;
    while let Some(message) = block_on(from.recv()) {
        if matches!(message, Message::Snapshot(_)) {
            snapshots += 1;
        }
        if snapshots == 1 && first.is_none() {
            first = Some(message);
            continue;
        }
        let _ = block_on(to.send(message));
        if snapshots == 6
            && let Some(first) = first.take()
        {
            let _ = block_on(to.send(first));
        }
    }
}

fn shards_and_a_scrape(flaw: Flaw) {
    let (to_exporter, mut inbox) = mpsc::channel(INBOX_MAX);
    if flaw == Flaw::Delays {
        let (to_delayed, delayed) = mpsc::channel(INBOX_MAX);
        let straight = std::mem::replace(&mut inbox, delayed);
        thread::spawn(move || delay_first(straight, to_delayed));
    }
    let (pages, asked) = mpsc::channel(1);
    let exporter = thread::spawn(move || block_on(collect(SHARDS, inbox, asked)));
    let all_seen = Arc::new(AtomicBool::new(false));
    let shards: Vec<_> = (0..SHARDS)
        .map(|shard| {
            let (to_exporter, all_seen) = (to_exporter.clone(), Arc::clone(&all_seen));
            thread::spawn(move || {
                let mut hits = 0;
                // The last values are sent again each second, as an idle shard does.
                while !all_seen.load(Ordering::SeqCst) {
                    hits = (hits + 1).min(SNAPSHOTS);
                    if flaw == Flaw::StartsAnew && hits == SNAPSHOTS {
                        hits = 0;
                    }
                    exporter::offer(&to_exporter, snapshot(shard, hits));
                    thread::yield_now();
                }
            })
        })
        .collect();
    let mut seen = 0;
    while seen < u64::from(SHARDS) * SNAPSHOTS {
        let (answer, answered) = oneshot::channel();
        let sent = block_on(to_exporter.send(Message::Status { after: 0, answer }));
        assert!(sent.is_ok(), "the exporter is there");
        let now = hits(&block_on(answered).expect("STATUS is answered"));
        assert!(now >= seen, "a counter went from {seen} back to {now}");
        seen = now;
        thread::yield_now();
    }
    all_seen.store(true, Ordering::SeqCst);
    let (answer, answered) = oneshot::channel();
    let sent = block_on(pages.send((Page::Metrics, answer)));
    assert!(sent.is_ok(), "the exporter is there");
    let (_, _, page) = block_on(answered).expect("a page is answered");
    assert!(page.contains("prod"), "{page}");
    for shard in shards {
        shard.join().expect("shards end");
    }
    // The exporter ends with the last of its senders.
    drop(to_exporter);
    exporter.join().expect("the exporter ends");
}

#[test]
fn counters_rise_and_arrive_whatever_snapshots_are_lost() {
    super::explore(|| shards_and_a_scrape(Flaw::None));
}

#[test]
fn counters_that_go_backwards_are_found() {
    super::finds("a snapshot that is overtaken", || {
        shards_and_a_scrape(Flaw::Delays)
    });
    super::finds("a shard that resets its counters", || {
        shards_and_a_scrape(Flaw::StartsAnew);
    });
}
