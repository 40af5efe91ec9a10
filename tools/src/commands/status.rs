//! `status`: the server's own document, or tables of what matters in it.

use serde_json::Value;

use super::figures::{self, dash, number, p95, rows, size, word};
use super::kms;
use crate::args::Cli;
use crate::connect::Server;
use crate::failure::Failure;
use crate::output::Output;
use crate::printable::Lines;
use crate::table::{Align, Table};
use crate::text;

pub fn run(cli: &Cli, output: Output) -> Result<(), Failure> {
    let document = figures::of(&Server::reach(cli)?, "status")?;
    output.print_result(&document, &render(&document))
}

fn render(document: &Value) -> Lines {
    let kmses = rows(&document["kms"]);
    let head = Lines::of(format!(
        "keywayd {}, pid {}, {}",
        word(&document["version"]),
        word(&document["pid"]),
        text::count(document["shard_count"].as_u64().unwrap_or(0), "shard"),
    ));
    let parts = [
        head,
        kms::table(kmses),
        kms::troubles(kmses),
        kms::calls(kmses),
        keyspaces(rows(&document["keyspaces"]), kmses),
        shards(rows(&document["shards"])),
    ];
    Lines::paragraphs(&parts)
}

fn keyspaces(keyspaces: &[Value], kmses: &[Value]) -> Lines {
    if keyspaces.is_empty() {
        return Lines::of("no keyspaces");
    }
    let mut table = Table::new(&[
        ("KEYSPACE", Align::Left),
        ("STATE", Align::Left),
        ("LEASE LEFT", Align::Right),
        ("RESIDENT", Align::Right),
        ("MEMORY", Align::Right),
        ("HIT RATIO", Align::Right),
        ("REHYDRATES", Align::Right),
        ("FAILED", Align::Right),
        ("P95 MS", Align::Right),
        ("WAITERS", Align::Right),
        ("TIMEOUTS", Align::Right),
        ("PREFETCHED", Align::Right),
        ("SKIPPED", Align::Right),
    ]);
    for keyspace in keyspaces {
        table.row([
            word(&keyspace["name"]),
            state(keyspace, kmses),
            number(&keyspace["dek_lease_left_s"]).map_or_else(dash, |s| text::seconds(s as u64)),
            word(&keyspace["resident_keys"]),
            size(&keyspace["resident_key_bytes"]),
            hit_ratio(&keyspace["hits"], &keyspace["misses"]),
            word(&keyspace["rehydrate_total"]),
            word(&keyspace["rehydrate_fail_total"]),
            p95(&keyspace["rehydrate_latency_ms"]),
            word(&keyspace["singleflight_waiters"]),
            word(&keyspace["singleflight_wait_timeout_total"]),
            word(&keyspace["prefetch_trigger_total"]),
            word(&keyspace["prefetch_skipped_total"]),
        ]);
    }
    table.render()
}

/// A keyspace's state, with the cause if its KMS does not give it its data key.
fn state(keyspace: &Value, kmses: &[Value]) -> String {
    let state = word(&keyspace["state"]);
    if !matches!(&*state, "acquiring" | "denied" | "renewing") {
        return state;
    }
    let mut of_it = kmses.iter().filter(|kms| kms["name"] == keyspace["kms"]);
    let trouble = of_it.find(|kms| kms["trouble"]["over"] == Value::Bool(false));
    match trouble {
        Some(kms) => format!("{state}: {}", word(&kms["trouble"]["cause"])),
        None => state,
    }
}

fn shards(shards: &[Value]) -> Lines {
    if shards.is_empty() {
        return Lines::of("no shards");
    }
    let mut table = Table::new(&[
        ("SHARD", Align::Right),
        ("STATE", Align::Left),
        ("CONNECTIONS", Align::Right),
        ("FORWARDS IN", Align::Right),
        ("OUT", Align::Right),
        ("REFUSED", Align::Right),
        ("QUEUED", Align::Right),
        ("TURN P95 MS", Align::Right),
        ("ARENA", Align::Right),
        ("STORED KEYS", Align::Right),
        ("ON DISK", Align::Right),
    ]);
    for shard in shards {
        let queues = ["parked_requests", "load_queue_depth", "slow_queue_depth"];
        let queued = text::sum(queues.iter().filter_map(|name| shard[name].as_u64()));
        let state = match (
            shard["store_poisoned"].as_bool(),
            shard["serving"].as_bool(),
        ) {
            (Some(true), _) => "store failed",
            (_, Some(true)) => "serving",
            (_, Some(false)) => "starting",
            (_, None) => "-",
        };
        let arena = match (
            shard["arena_used_bytes"].as_u64(),
            shard["arena_capacity_bytes"].as_u64(),
        ) {
            (Some(used), Some(capacity)) => {
                format!("{} of {}", text::bytes(used), text::bytes(capacity))
            }
            _ => dash(),
        };
        table.row([
            word(&shard["shard"]),
            state.into(),
            word(&shard["connections"]),
            word(&shard["forwards_in_total"]),
            word(&shard["forwards_out_total"]),
            word(&shard["forwards_refused_total"]),
            queued.to_string(),
            p95(&shard["turn_ms"]),
            arena,
            word(&shard["store_keys"]),
            size(&shard["store_disk_bytes"]),
        ]);
    }
    table.render()
}

fn hit_ratio(hits: &Value, misses: &Value) -> String {
    match (number(hits), number(misses)) {
        (Some(hits), Some(misses)) if hits + misses > 0.0 => {
            format!("{:.2}%", 100.0 * hits / (hits + misses))
        }
        _ => dash(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_figures_of_the_runbook_stand_in_a_table() {
        let document = json!({
            "version": "0.1.0", "pid": 7, "shard_count": 1,
            "kms": [{
                "name": "local", "provider": "local", "state": "unlocked", "calls_in_flight": 0,
                "rate_tokens": 9.5, "retry_tokens": 10, "breaker": "closed",
                "calls_per_hour_forecast": 12.04,
                "calls": [
                    {"keyspace": "prod", "operation": "unwrap", "outcome": "ok", "count": 1},
                    {"keyspace": "", "operation": "unlock", "outcome": "denied", "count": 2},
                ],
            }, {
                "name": "vault-eu", "provider": "vault", "state": "locked", "calls_in_flight": 1,
                "rate_tokens": 0, "retry_tokens": 0.25, "breaker": "open",
                "calls_per_hour_forecast": 0, "calls": [],
            }],
            "keyspaces": [{
                "name": "prod", "state": "live", "dek_lease_left_s": 3540.5,
                "resident_keys": 3, "resident_key_bytes": 1536, "hits": 999, "misses": 1,
                "rehydrate_total": 4, "rehydrate_fail_total": 0,
                "rehydrate_latency_ms": {"count": 4, "p95": 0.1234},
                "singleflight_waiters": 0, "singleflight_wait_timeout_total": 2,
                "prefetch_trigger_total": 5, "prefetch_skipped_total": 6,
            }],
            "shards": [{
                "shard": 0, "serving": true, "connections": 2, "forwards_in_total": 0,
                "forwards_out_total": 0, "forwards_refused_total": 0, "parked_requests": 1,
                "load_queue_depth": 2, "slow_queue_depth": 0, "turn_ms": {"count": 0, "p95": 0.0},
                "arena_used_bytes": 4096, "arena_capacity_bytes": 1048576,
                "store_keys": 3, "store_disk_bytes": 2048, "store_poisoned": false,
            }],
        });
        assert_eq!(
            render(&document).as_str(),
            "\
keywayd 0.1.0, pid 7, 1 shard

KMS       PROVIDER  STATE     CALLS IN FLIGHT  RATE LEFT  RETRIES LEFT  BREAKER  CALLS/H FORECAST
local     local     unlocked                0        9.5            10  closed               12.0
vault-eu  vault     locked                  1          0           0.2  open                    0

vault-eu: locked; run `keyway kms unlock vault-eu`

KMS    KEYSPACE  OPERATION  OUTCOME  CALLS
local  prod      unwrap     ok           1
local  -         unlock     denied       2

KEYSPACE  STATE  LEASE LEFT  RESIDENT   MEMORY  HIT RATIO  REHYDRATES  FAILED  P95 MS  WAITERS  TIMEOUTS  PREFETCHED  SKIPPED
prod      live       59 min         3  1.5 KiB     99.90%           4       0   0.123        0         2           5        6

SHARD  STATE    CONNECTIONS  FORWARDS IN  OUT  REFUSED  QUEUED  TURN P95 MS               ARENA  STORED KEYS  ON DISK
    0  serving            2            0    0        0       3            -  4.0 KiB of 1.0 MiB            3  2.0 KiB
"
        );
    }

    #[test]
    fn members_that_are_not_there_are_dashes() {
        let document = json!({ "keyspaces": [{"name": "prod"}], "shards": [{}] });
        let text = render(&document);
        let text = text.as_str();
        assert!(text.starts_with("keywayd -, pid -, 0 shards\n\nno KMSes\n"));
        assert!(text.contains("prod      -"));
        assert_eq!(
            render(&json!({})).as_str().lines().last(),
            Some("no shards")
        );
    }

    /// A keyspace's state alone did not say why.
    #[test]
    fn a_keyspace_without_a_data_key_has_the_cause_of_its_kms() {
        let trouble = |over: bool| json!({"cause": "sealed", "what": "it is sealed", "remedy": "unseal it", "keyspaces": 1, "over": over});
        let document = |over: bool| {
            json!({
                "kms": [{"name": "bao", "trouble": trouble(over)}],
                "keyspaces": [
                    {"name": "a", "state": "acquiring", "kms": "bao"},
                    {"name": "b", "state": "acquiring", "kms": "local"},
                    {"name": "c", "state": "live", "kms": "bao"},
                ],
            })
        };
        let text = render(&document(false));
        let text = text.as_str();
        assert!(
            text.contains("bao: sealed (1 keyspace): it is sealed; unseal it"),
            "{text}"
        );
        let states: Vec<&str> = text
            .lines()
            .filter(|line| line.contains("acquiring"))
            .collect();
        assert!(states[0].contains("acquiring: sealed"), "{text}");
        assert!(!states[1].contains("sealed"), "{text}");
        assert!(
            !render(&document(true)).as_str().contains("sealed"),
            "{text}"
        );
    }
}
