//! One page of the answer to STATUS, which fits its frame whatever there is of keyspaces, KMSes and shards.
//!
//! Rows come in one order: keyspaces by id; then each KMS, followed by its calls for each keyspace; then shards. A page
//! says behind which row the next one begins: the upper bits name the section, the lower 32 the row in it.

use std::collections::{BTreeMap, BTreeSet};

use keyway_protocol::limits::PAYLOAD_LEN_MAX;
use serde_json::{Map, Value, json};

use super::collector::LatestSnapshots;
use super::snapshot::{KmsSnapshot, ShardSnapshot};
use super::{kms_series, status};

/// The first section of a KMS, of which each has its own, and that of the shards. Below 2^53, so that JSON readers with
/// floating-point numbers read it.
const KMS_SECTION: u64 = 1;
const SHARD_SECTION: u64 = 1 << 20;

/// Keyspaces that are looked at for one page: more rows than fit.
const KEYSPACES_AT_ONCE: usize = 128;

/// A payload's room, less what stands around the rows.
const ROWS_LEN_MAX: usize = PAYLOAD_LEN_MAX - 2_048;

struct Page {
    /// By name.
    kms: BTreeMap<String, Map<String, Value>>,
    keyspaces: Vec<Value>,
    shards: Vec<Value>,
    len: usize,
    after: u64,
}

impl Page {
    /// Returns `true` if a row of `len` bytes still fits. The first always does, since rows are shorter than a page.
    fn admits(&mut self, at: u64, len: usize) -> bool {
        let is_first = self.len == 0;
        if !is_first && self.len + len > ROWS_LEN_MAX {
            return false;
        }
        self.len += len;
        self.after = at;
        true
    }

    fn add_calls(&mut self, kms: &str, calls: Vec<Value>) {
        let row = self.kms.entry(kms.to_owned()).or_default();
        row.entry("name").or_insert_with(|| kms.into());
        let all = row.entry("calls").or_insert_with(|| json!([]));
        if let Some(all) = all.as_array_mut() {
            all.extend(calls);
        }
    }
}

/// The page behind the row `after`, 0 for the first.
pub fn page(latest: &LatestSnapshots, shard_count: u16, after: u64) -> String {
    let mut page = Page {
        kms: BTreeMap::new(),
        keyspaces: Vec::new(),
        shards: Vec::new(),
        len: 0,
        after,
    };
    let more = fill(&mut page, latest);
    let mut document = status::head(shard_count);
    document["kms"] = page.kms.into_values().map(Value::Object).collect();
    document["keyspaces"] = page.keyspaces.into();
    document["shards"] = page.shards.into();
    document["more"] = more.into();
    if more {
        document["after"] = page.after.into();
    }
    document.to_string()
}

/// Fills a page; whether there is more.
fn fill(page: &mut Page, latest: &LatestSnapshots) -> bool {
    let live = latest.live_keyspaces();
    let kms = (KMS_SECTION..SHARD_SECTION).zip(latest.kms());
    !(add_keyspaces(page, latest)
        && kms
            .into_iter()
            .all(|(section, kms)| add_kms(page, section, kms, latest, &live))
        && latest.shards().all(|shard| add_shard(page, shard)))
}

/// Adds the keyspaces behind those of the page before; whether all of them fitted. The others alike.
fn add_keyspaces(page: &mut Page, latest: &LatestSnapshots) -> bool {
    while let Ok(after) = u32::try_from(page.after) {
        let keyspaces = latest.keyspaces_after(after, KEYSPACES_AT_ONCE);
        for keyspace in &keyspaces {
            let row = status::keyspace(keyspace, latest.kms_of(keyspace.id));
            if !page.admits(keyspace.id.into(), row.to_string().len() + 1) {
                return false;
            }
            page.keyspaces.push(row);
        }
        if keyspaces.len() < KEYSPACES_AT_ONCE {
            break;
        }
    }
    true
}

fn add_kms(
    page: &mut Page,
    section: u64,
    kms: &KmsSnapshot,
    latest: &LatestSnapshots,
    live: &BTreeSet<u32>,
) -> bool {
    let first = section << 32;
    if page.after < first {
        let row = kms_series::row(kms, live);
        let calls = calls_for(kms, 0, "");
        if !page.admits(first, len_of(&row) + len_of(&calls)) {
            return false;
        }
        page.add_calls(&kms.name, calls);
        if let Some(of_page) = page.kms.get_mut(&kms.name) {
            of_page.extend(row);
        }
    }
    if page.after >> 32 != section {
        return true;
    }
    let mut keyspaces = kms.keyspaces_after(page.after as u32);
    keyspaces.all(|id| {
        let Some(name) = latest.name_of(id) else {
            // No shard has loaded it yet.
            return true;
        };
        let calls = calls_for(kms, id, name);
        if !page.admits(first | u64::from(id), kms.name.len() + 24 + len_of(&calls)) {
            return false;
        }
        page.add_calls(&kms.name, calls);
        true
    })
}

fn add_shard(page: &mut Page, shard: &ShardSnapshot) -> bool {
    let at = SHARD_SECTION << 32 | u64::from(shard.shard);
    if at <= page.after {
        return true;
    }
    let row = status::shard(shard);
    if !page.admits(at, row.to_string().len() + 1) {
        return false;
    }
    page.shards.push(row);
    true
}

/// The length of a row as JSON, with what stands between it and the next one.
fn len_of(row: &impl serde::Serialize) -> usize {
    serde_json::to_string(row).map_or(0, |text| text.len() + 1)
}

fn calls_for(kms: &KmsSnapshot, keyspace: u32, name: &str) -> Vec<Value> {
    let calls = kms.calls_for(keyspace).iter().map(|calls| {
        json!({
            "keyspace": name,
            "operation": calls.operation,
            "outcome": calls.outcome,
            "count": calls.count,
        })
    });
    calls.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::requests::{CountedOperation, CountedOutcome};
    use crate::metrics::snapshot::{KeyspaceSnapshot, KmsCalls, Snapshot};

    const KEYSPACES: u32 = 500;
    const SHARDS: u16 = 200;
    const KMSES: usize = 40;

    fn shard(shard: u16, keyspaces: u32) -> Snapshot {
        let keyspace = |id| {
            let mut keyspace = KeyspaceSnapshot {
                id,
                name: format!("{id:0>64}"),
                ..KeyspaceSnapshot::default()
            };
            keyspace.rehydrate_latency.record_ns(1_000);
            for operation in CountedOperation::ALL {
                for outcome in CountedOutcome::all() {
                    keyspace.requests.add(operation, outcome, u64::MAX);
                }
            }
            keyspace
        };
        Snapshot::Shard(Box::new(ShardSnapshot {
            shard,
            keyspaces: (1..=keyspaces).map(keyspace).collect(),
            ..ShardSnapshot::default()
        }))
    }

    /// As much as there can be of everything, in every page.
    fn crowded() -> LatestSnapshots {
        let mut latest = LatestSnapshots::default();
        latest.take(shard(0, KEYSPACES));
        (1..SHARDS).for_each(|index| latest.take(shard(index, 0)));
        let calls = |keyspace| {
            CountedOutcome::all().map(move |outcome| KmsCalls {
                keyspace,
                operation: "initialise",
                outcome: outcome.name(),
                count: u64::MAX,
            })
        };
        let kms = |index| KmsSnapshot {
            name: format!("{index:0>64}"),
            calls: (0..=KEYSPACES)
                .filter(|id| *id < 2 || index == 1)
                .flat_map(calls)
                .collect(),
            lease_calls_per_hour: (1..=KEYSPACES)
                .filter(|_| index == 3)
                .map(|id| (id, 1.0))
                .collect(),
            ..KmsSnapshot::default()
        };
        latest.take(Snapshot::Kms((0..KMSES).map(kms).collect()));
        latest
    }

    /// The answer was refused as too long from some hundred keyspaces on.
    #[test]
    fn every_page_fits_its_frame_and_all_of_them_have_each_row_once() {
        let latest = crowded();
        let (mut keyspaces, mut shards, mut names, mut calls) = (Vec::new(), 0, BTreeSet::new(), 0);
        let (mut after, mut pages) = (0, 0);
        loop {
            let text = page(&latest, SHARDS, after);
            assert!(text.len() <= PAYLOAD_LEN_MAX, "{} bytes", text.len());
            let document: Value = serde_json::from_str(&text).unwrap();
            let rows = |list: &str| document[list].as_array().unwrap().clone();
            for row in rows("keyspaces") {
                assert_eq!(row["kms"], format!("{:0>64}", 3));
                keyspaces.push(row["id"].as_u64().unwrap());
            }
            shards += rows("shards").len();
            for row in rows("kms") {
                calls += row["calls"].as_array().unwrap().len();
                if row.get("state").is_some() {
                    assert!(names.insert(row["name"].as_str().unwrap().to_owned()));
                }
            }
            pages += 1;
            if document["more"] == false {
                break;
            }
            let next = document["after"].as_u64().unwrap();
            assert!(next > after);
            after = next;
        }
        assert!(pages > 10);
        assert_eq!(keyspaces, (1..=u64::from(KEYSPACES)).collect::<Vec<_>>());
        assert_eq!((shards, names.len()), (usize::from(SHARDS), KMSES));
        let expected = (KMSES * 2 + KEYSPACES as usize - 1) * CountedOutcome::COUNT;
        assert_eq!(calls, expected);
    }

    #[test]
    fn a_small_server_has_one_page() {
        let mut latest = LatestSnapshots::default();
        latest.take(shard(0, 2));
        let document: Value = serde_json::from_str(&page(&latest, 1, 0)).unwrap();
        assert_eq!(
            (
                &document["more"],
                document["keyspaces"].as_array().unwrap().len()
            ),
            (&json!(false), 2)
        );
    }
}
