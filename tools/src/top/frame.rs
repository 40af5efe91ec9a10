//! One frame: every figure that is shown, as text in cells.

use keyway_client::HotKeys;
use serde_json::{Value, json};

use super::Order;
use crate::printable::Lines;
use crate::table::{Align, Table};
use crate::text;
use crate::vitals::{Change, Keyspace, Kms, ServerStatus, Shard};

const KEYSPACES: [(&str, Align); 11] = [
    ("KEYSPACE", Align::Left),
    ("STATE", Align::Left),
    ("LEASE LEFT", Align::Right),
    ("REQ/S", Align::Right),
    ("HITS", Align::Right),
    ("WAITERS", Align::Right),
    ("TIMEOUTS/S", Align::Right),
    ("FLIGHTS", Align::Right),
    ("LOADS/S", Align::Right),
    ("LOAD P95 MS", Align::Right),
    ("SKIPPED/S", Align::Right),
];

const SHARDS: [(&str, Align); 9] = [
    ("SHARD", Align::Right),
    ("TURNS/S", Align::Right),
    ("BUSY", Align::Right),
    ("TURN P99 MS", Align::Right),
    ("CONNECTIONS", Align::Right),
    ("FORWARDS/S", Align::Right),
    ("PARKED", Align::Right),
    ("LOADS QUEUED", Align::Right),
    ("SLOW QUEUE", Align::Right),
];

const HOT: [(&str, Align); 5] = [
    ("HOT KEY", Align::Left),
    ("SHARD", Align::Right),
    ("REQ/S", Align::Right),
    ("WAITERS", Align::Right),
    ("SHARE", Align::Right),
];

/// A table, as text in cells.
#[derive(Clone, Debug)]
pub struct Grid<const N: usize> {
    /// What stands over each column, and to which side it is set.
    pub columns: [(&'static str, Align); N],
    /// The cells.
    pub rows: Vec<[String; N]>,
}

impl<const N: usize> Grid<N> {
    fn text(&self) -> Lines {
        let mut table = Table::new(&self.columns);
        for row in &self.rows {
            table.row(row.clone());
        }
        table.render()
    }

    /// The rows as objects, with the headings in lower case as names.
    fn document(&self) -> Value {
        let name = |heading: &str| heading.to_lowercase().replace([' ', '/'], "_");
        let rows = self.rows.iter().map(|row| {
            let members = self.columns.iter().zip(row);
            let members = members.map(|((heading, _), cell)| (name(heading), json!(cell)));
            Value::Object(members.collect())
        });
        rows.collect()
    }
}

/// One frame.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The server, in a line.
    pub head: String,
    /// The KMSes, in a line.
    pub kms: String,
    /// The keyspaces, in order.
    pub keyspaces: Grid<11>,
    /// The shards.
    pub shards: Grid<9>,
    /// Whose hot keys those are.
    pub hot_of: Option<String>,
    /// Its hot keys, or why there are none.
    pub hot: Result<Grid<5>, String>,
}

impl Frame {
    /// What two status documents say; no hot keys yet.
    pub fn new(before: &ServerStatus, now: &ServerStatus, order: Order) -> Self {
        let change = Change { before, now };
        let mut keyspaces: Vec<_> = change.keyspaces().collect();
        keyspaces.sort_by(|one, two| {
            let weight = |(before, now): &(Keyspace, &Keyspace)| weight(change, before, now, order);
            let heavier = weight(two).total_cmp(&weight(one));
            heavier.then_with(|| one.1.name.cmp(&two.1.name))
        });
        let keyspaces = keyspaces.iter();
        let shards = change.shards();
        Self {
            head: format!(
                "keywayd {}, pid {}, {}, {}, ordered by {}",
                now.version,
                now.pid,
                text::count(now.keyspaces.len() as u64, "keyspace"),
                text::count(now.shards.len() as u64, "shard"),
                order.name()
            ),
            kms: match now.kms.is_empty() {
                true => "no KMS".into(),
                false => now.kms.iter().map(kms).collect::<Vec<_>>().join(" | "),
            },
            keyspaces: Grid {
                columns: KEYSPACES,
                rows: keyspaces
                    .map(|(before, now)| keyspace(change, before, now))
                    .collect(),
            },
            shards: Grid {
                columns: SHARDS,
                rows: shards
                    .map(|(before, now)| shard(change, &before, now))
                    .collect(),
            },
            hot_of: None,
            hot: Err("not asked yet".into()),
        }
    }

    /// With the hot keys of a keyspace, or why they could not be asked for.
    pub fn with_hot(mut self, keyspace: String, hot: Result<&HotKeys, String>) -> Self {
        self.hot_of = Some(keyspace);
        self.hot = hot.map(hot_keys);
        self
    }

    /// The names of the keyspaces, in order.
    pub fn names(&self) -> Vec<String> {
        self.keyspaces
            .rows
            .iter()
            .map(|row| row[0].clone())
            .collect()
    }

    /// As text.
    pub fn text(&self) -> Lines {
        let mut head = Lines::of(&self.head);
        head.push(format!("KMS {}", self.kms));
        let mut parts = vec![head, self.keyspaces.text(), self.shards.text()];
        if let Some(keyspace) = &self.hot_of {
            parts.push(match &self.hot {
                Ok(hot) if hot.rows.is_empty() => {
                    Lines::of(format!("{keyspace}: no key was asked for"))
                }
                Ok(hot) => {
                    let mut text = Lines::of(format!("{keyspace}:"));
                    text.append(&hot.text());
                    text
                }
                Err(why) => Lines::of(format!("{keyspace}: {why}")),
            });
        }
        Lines::paragraphs(&parts)
    }

    /// As a document: the same cells, by name.
    pub fn document(&self) -> Value {
        json!({
            "server": self.head,
            "kms": self.kms,
            "keyspaces": self.keyspaces.document(),
            "shards": self.shards.document(),
            "hot_of": self.hot_of,
            "hot": self.hot.as_ref().map(Grid::document).ok(),
        })
    }
}

fn weight(change: Change<'_>, before: &Keyspace, now: &Keyspace, order: Order) -> f64 {
    match order {
        Order::Requests => change.rate(before.answered_in_all(), now.answered_in_all()),
        Order::Waiters => now.singleflight_waiters as f64,
        Order::Loads => change.rate(before.rehydrate_total, now.rehydrate_total),
        Order::Name => 0.0,
    }
}

fn keyspace(change: Change<'_>, before: &Keyspace, now: &Keyspace) -> [String; 11] {
    let rate = |of: fn(&Keyspace) -> u64| per_second(change.rate(of(before), of(now)));
    let hits = now.hits.saturating_sub(before.hits);
    let all = hits.saturating_add(now.misses.saturating_sub(before.misses));
    let loads = change.spread(&before.rehydrate_latency_ms, &now.rehydrate_latency_ms);
    [
        now.name.clone(),
        now.state.clone(),
        match now.dek_lease_left_s {
            left if left > 0.0 => text::seconds(left as u64),
            _ => "-".into(),
        },
        rate(Keyspace::answered_in_all),
        match all {
            0 => "-".into(),
            _ => format!("{:.2}%", 100.0 * hits as f64 / all as f64),
        },
        now.singleflight_waiters.to_string(),
        rate(|it| it.singleflight_wait_timeout_total),
        now.flights.to_string(),
        rate(|it| it.rehydrate_total),
        at_most(loads.quantile_ms(0.95)),
        rate(|it| it.prefetch_skipped_total),
    ]
}

fn shard(change: Change<'_>, before: &Shard, now: &Shard) -> [String; 9] {
    let turns = change.spread(&before.turn_ms, &now.turn_ms);
    let busy = (turns.sum_ms / 10.0 / change.seconds()).min(100.0);
    [
        now.shard.to_string(),
        per_second(change.rate(before.turn_ms.count, now.turn_ms.count)),
        format!("{busy:.0}%"),
        at_most(turns.quantile_ms(0.99)),
        now.connections.to_string(),
        per_second(change.rate(before.forwards_in_total, now.forwards_in_total)),
        now.parked_requests.to_string(),
        now.load_queue_depth.to_string(),
        now.slow_queue_depth.to_string(),
    ]
}

fn kms(kms: &Kms) -> String {
    format!(
        "{} ({}): {}, breaker {}, {} in flight, {:.0} more at once, {:.0} an hour needed",
        kms.name,
        kms.provider,
        kms.state,
        kms.breaker,
        text::count(kms.calls_in_flight, "call"),
        kms.rate_tokens,
        kms.calls_per_hour_forecast
    )
}

fn hot_keys(hot: &HotKeys) -> Grid<5> {
    let rows = hot.keys.iter().map(|key| {
        let requests = key.requests.count as f64;
        [
            key.key.clone(),
            key.shard.to_string(),
            per_second(requests * 1_000.0 / hot.window_ms.max(1) as f64),
            key.waiters.count.to_string(),
            format!(
                "{:.1}%",
                100.0 * requests / hot.totals.requests.max(1) as f64
            ),
        ]
    });
    Grid {
        columns: HOT,
        rows: rows.collect(),
    }
}

/// One decimal below ten.
fn per_second(rate: f64) -> String {
    match rate {
        rate if rate > 0.0 && rate < 10.0 => format!("{rate:.1}"),
        rate => format!("{rate:.0}"),
    }
}

/// A bound of a bucket, in ms.
fn at_most(bound_ms: Option<f64>) -> String {
    bound_ms.map_or_else(|| "-".into(), |bound| format!("<={bound}"))
}
