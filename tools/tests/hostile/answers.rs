//! Well-formed answers to every request, with hostile text in each field that holds text, and ways to damage them.

use keyway_protocol::{
    Algorithm, KeyListAnswer, KeyRow, KeyState, KeyVersions, KmsShares, Octets, Opcode, Sealed,
    encode_deks_destroyed, encode_generation, encode_keyspace_id, encode_ticket,
};
use serde_json::{Value, json};

use super::wire;

/// What acts on a terminal, and a line that would pass for one of the program's own.
pub const EVIL: &str = "x\u{1b}]0;owned\u{7}\u{1b}[2J\r\n\u{9b}31m\u{8}\u{7f}\t\u{202e}\u{2066}\u{200f}\u{200b}\u{feff}\
                        \u{2028}\u{85}\u{e0041}\nFORGED: all is well\nFORGED\r";

/// Stands for [`EVIL`] where a document is written below.
const PLACE: &str = "EVIL";

/// Appends the payload of an OK answer.
pub fn payload(opcode: Opcode, out: &mut Vec<u8>) {
    match opcode {
        Opcode::Hello => wire::hello(out),
        Opcode::Encrypt => {
            let ciphertext = Octets(EVIL.as_bytes());
            let sealed = Sealed {
                key_version: 3,
                nonce: [0x1b; 12],
                ciphertext,
            };
            sealed.encode(out).unwrap();
        }
        Opcode::KeyspaceCreate => encode_keyspace_id(7, out),
        Opcode::KeyspaceRotate => encode_generation(3, out),
        Opcode::KeyspaceDestroyDeks => encode_deks_destroyed(2, out),
        Opcode::Unlock => encode_ticket(42, out),
        Opcode::KmsInit => {
            let shares = ["right words one", "right words two", "right words three"];
            KmsShares::encode(shares.into_iter(), out).unwrap();
        }
        Opcode::KeyList => {
            let row = |key_id, state| KeyRow {
                key_id,
                key_version: 3,
                algorithm: (state == KeyState::Active).then_some(Algorithm::Ed25519),
                state,
                versions: (state == KeyState::Active).then_some(KeyVersions {
                    oldest: 1,
                    revoked: 2,
                }),
            };
            let rows = [
                row("alice", KeyState::Active),
                row("torn", KeyState::Damaged),
            ];
            KeyListAnswer::encode(b"", rows, out).unwrap();
        }
        Opcode::KeyspaceList
        | Opcode::KeyspaceHistory
        | Opcode::KeyspaceHot
        | Opcode::UnlockStatus
        | Opcode::Status
        | Opcode::KmsUnlock => out.extend(filled(document(opcode)).to_string().bytes()),
        Opcode::Sign
        | Opcode::Mac
        | Opcode::Decrypt
        | Opcode::Derive
        | Opcode::PublicKey
        | Opcode::Get => out.extend(EVIL.bytes()),
        _ => {}
    }
}

/// A JSON answer with every member that the client reads.
fn document(opcode: Opcode) -> Value {
    match opcode {
        Opcode::KeyspaceList => {
            let keyspace = |id: u32, name: &str| {
                json!({
                    "id": id, "name": name, "locked": false, "unwritten": true, "kms": PLACE, "generation": 2,
                    "reseal": {"resealed": 1, "left": 2}, "retired_deks": {"count": 1, "oldest_unix_ms": 1},
                    "settings": {"soft_ttl_ms": PLACE, "hard_ttl_ms": "3600000", "max_in_flight": PLACE, PLACE: PLACE},
                    "allow": {"uid:1000": PLACE, PLACE: PLACE},
                    "overrides": {
                        "max_in_flight": {"until_unix_ms": 1, "then": PLACE},
                        "allow:EVIL": {"until_unix_ms": 1, "then": PLACE},
                        PLACE: {"until_unix_ms": 1, "then": PLACE},
                    },
                })
            };
            json!({ "keyspaces": [keyspace(1, "prod"), keyspace(2, PLACE)], "more": false })
        }
        Opcode::KeyspaceHistory => json!({ "changes": [
            {"unix_ms": 1, "who": PLACE, "what": "max_in_flight", "from": PLACE, "to": PLACE, "until_unix_ms": 2},
            {"unix_ms": 1, "who": PLACE, "what": PLACE, "from": PLACE, "to": PLACE},
            {"unix_ms": 1, "who": PLACE, "what": "locked", "from": PLACE, "to": "true"},
        ]}),
        Opcode::KeyspaceHot => {
            let figure = json!({"count": 9, "excess_max": 1});
            json!({
                "by": "requests", "window_ms": 90_000, "requests_counted_one_in": 16, "unlisted_max": 1,
                "totals": {"requests": 10, "waiters": 9, "rehydrate_us": 8},
                "keys": [{"key": PLACE, "shard": 0, "requests": figure, "waiters": figure, "rehydrate_us": figure}],
            })
        }
        Opcode::UnlockStatus => json!({
            "state": "pending", "message": PLACE, "keys_reloaded": 3, "attempts": 2, "remedy": PLACE,
        }),
        Opcode::KmsUnlock => json!({ "kms": PLACE, "state": "locked", "given": 1, "threshold": 3 }),
        _ => status(),
    }
}

/// STATUS. Each kind of trouble that the doctor looks for is there.
fn status() -> Value {
    let latency = json!({"count": 10, "sum": 1.5, "p95": 0.2, "buckets": [1, 2, 3, 4]});
    let kms = |name: &str, state: &str, need: &str, over: bool| {
        json!({
            "name": name, "provider": PLACE, "state": state, "need": need, "breaker": "open", "calls_in_flight": 1,
            "rate_tokens": 0.5, "retry_tokens": 1, "calls_per_hour_forecast": 12.5,
            "calls": [{"keyspace": PLACE, "operation": PLACE, "outcome": "throttled", "count": 2},
                      {"keyspace": "", "operation": PLACE, "outcome": PLACE, "count": 2}],
            "trouble": {"cause": PLACE, "what": PLACE, "remedy": PLACE, "keyspaces": 2, "over": over},
            "key_versions": {"newest": 4, "keyspaces_behind": 2},
        })
    };
    let keyspace = |name: &str, state: &str| {
        json!({
            "name": name, "state": state, "kms": "bao", "dek_lease_left_s": 9.5, "resident_keys": 3,
            "resident_key_bytes": 1_536, "hits": 1, "misses": 2, "evicted_total": 3, "flights": 4,
            "oldest_served_age_ms": 99_999_999, "rehydrate_total": 5, "rehydrate_fail_total": 6,
            "rehydrate_latency_ms": latency, "singleflight_waiters": 7, "singleflight_waiters_max": 8,
            "singleflight_wait_timeout_total": 9, "prefetch_scan_total": 10, "prefetch_trigger_total": 11,
            "prefetch_skipped_total": 12, "kms_trouble": PLACE,
            "requests": [{"operation": PLACE, "outcome": "needs_unlock", "count": 1},
                         {"operation": PLACE, "outcome": PLACE, "count": 1}],
        })
    };
    let shard = |number: u16, serving: bool| {
        json!({
            "shard": number, "serving": serving, "warm_start_settled": false, "warm_start_keys_left": 3, "connections": 2,
            "forwards_in_total": 1, "forwards_out_total": 2, "forwards_refused_total": 3, "parked_requests": 4,
            "load_queue_depth": 5, "load_wait_ms": latency, "slow_queue_depth": 6, "panics_total": 7,
            "turn_ms": latency, "arena_used_bytes": 1_000, "arena_capacity_bytes": 1_001, "store_keys": 1,
            "store_disk_bytes": 2, "store_poisoned": !serving,
        })
    };
    json!({
        "version": PLACE, "pid": 7, "unix_ms": 1_795_653_420_000_u64, "shard_count": 2,
        "latency_bounds_ms": [0.1, 1.0, 2.0],
        "kms": [kms("bao", PLACE, "none", false), kms(PLACE, "locked", PLACE, true),
                kms("local", "uninitialised", "shares", false)],
        "keyspaces": [keyspace("prod", "acquiring"), keyspace(PLACE, "denied"), keyspace("staging", PLACE),
                      keyspace("dev", "locked")],
        "shards": [shard(0, true), shard(1, false)],
    })
}

/// The document with [`EVIL`] in its places, names of members included.
fn filled(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(text.replace(PLACE, EVIL)),
        Value::Array(items) => items.into_iter().map(filled).collect(),
        Value::Object(members) => members
            .into_iter()
            .map(|(name, value)| (name.replace(PLACE, EVIL), filled(value)))
            .collect(),
        other => other,
    }
}

/// A pseudo-random sequence (xorshift64*), the same for each seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % end.max(1)
    }
}

/// A payload made wrong in one way.
pub fn damage(payload: &mut Vec<u8>, dice: &mut Dice) {
    let document: Option<Value> = serde_json::from_slice(payload).ok();
    match (document, dice.below(8)) {
        (Some(mut document), 0..4) => {
            for _ in 0..=dice.below(3) {
                deform(&mut document, dice);
            }
            *payload = document.to_string().into_bytes();
        }
        (Some(mut document), 4) => {
            each_number(
                &mut document,
                &[json!(u64::MAX), json!(1e308), json!(-1)][dice.below(3)],
            );
            *payload = document.to_string().into_bytes();
        }
        (Some(mut document), 5) => {
            each_text(&mut document);
            *payload = document.to_string().into_bytes();
        }
        (_, 0 | 5) => payload.truncate(dice.below(payload.len())),
        (_, 1 | 6) => {
            for _ in 0..4 {
                let at = dice.below(payload.len());
                if let Some(byte) = payload.get_mut(at) {
                    *byte = dice.below(256) as u8;
                }
            }
        }
        (_, 2 | 7) => payload.extend(EVIL.repeat(1 + dice.below(500)).bytes()),
        (_, 3) => *payload = vec![0xff; payload.len().max(8)],
        _ => *payload = [&b"{\"\x1b\xff\xfe\":"[..], &b"[".repeat(5_000)].concat(),
    }
}

/// Makes one node of the document something else, or takes away one of its members.
fn deform(document: &mut Value, dice: &mut Dice) {
    let nodes = count(document);
    let mut at = dice.below(nodes);
    let with = match dice.below(10) {
        0 => Value::Null,
        1 => json!(true),
        2 => json!(-1),
        3 => json!(u64::MAX),
        4 => json!(1e308),
        5 => json!(EVIL),
        6 => json!([]),
        7 => json!({ EVIL: EVIL }),
        8 => json!(EVIL.repeat(300)),
        _ => json!("MISSING"),
    };
    replace(document, &mut at, &with);
}

fn count(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(count).sum(),
        Value::Object(members) => members.values().map(count).sum(),
        _ => 0,
    }
}

fn replace(value: &mut Value, at: &mut usize, with: &Value) {
    if *at == 0 {
        *value = with.clone();
    }
    *at = at.wrapping_sub(1);
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, at, with)),
        Value::Object(members) => {
            members
                .values_mut()
                .for_each(|member| replace(member, at, with));
            members.retain(|_, member| *member != "MISSING");
        }
        _ => {}
    }
}

fn each_number(value: &mut Value, with: &Value) {
    match value {
        Value::Number(_) => *value = with.clone(),
        Value::Array(items) => items.iter_mut().for_each(|item| each_number(item, with)),
        Value::Object(members) => members.values_mut().for_each(|it| each_number(it, with)),
        _ => {}
    }
}

fn each_text(value: &mut Value) {
    match value {
        Value::String(text) => *text = EVIL.into(),
        Value::Array(items) => items.iter_mut().for_each(each_text),
        Value::Object(members) => members.values_mut().for_each(each_text),
        _ => {}
    }
}
