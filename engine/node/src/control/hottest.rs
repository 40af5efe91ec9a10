//! KEYSPACE_HOT: merges the counts of the shards. A key has one owner, so no key appears twice.

use keyway_protocol::HotBy;
use serde_json::{Value, json};

use super::Control;
use super::commands::{Answering, Begun};
use super::event::{Event, ShardAnswer};
use crate::hot::{Estimate, HotShare};
use crate::ids::WorkId;
use crate::messages::{Lane, ToShard};

/// A request for hot keys in progress at the shards.
pub(super) struct Hottest {
    keyspace: u32,
    by: HotBy,
    keys_max: usize,
    shares: Vec<HotShare>,
    /// Number of shards that have not answered.
    left: usize,
    /// `None` if the request is for the live page.
    answering: Option<Answering>,
}

impl Control {
    pub(super) fn hot(
        &mut self,
        answering: Answering,
        keyspace: u32,
        by: HotBy,
        keys_max: usize,
    ) -> Begun {
        self.request_hot(Some(answering), keyspace, by, keys_max);
        Begun::Begun
    }

    /// Requests hot keys from every shard, for a command or for the live page.
    pub(super) fn request_hot(
        &mut self,
        answering: Option<Answering>,
        keyspace: u32,
        by: HotBy,
        keys_max: usize,
    ) {
        let work = self.works.begin();
        let shards: Vec<u16> = self.published.running().collect();
        let hottest = Hottest {
            keyspace,
            by,
            keys_max,
            shares: Vec::with_capacity(shards.len()),
            left: shards.len(),
            answering,
        };
        for shard in &shards {
            let question = self.works.question(work, *shard);
            let ask = ToShard::Hot {
                question,
                keyspace,
                by,
                keys_max,
            };
            self.send_to(*shard, Lane::Ordinary, ask);
        }
        match shards.is_empty() {
            true => self.end_hottest(hottest),
            false => self.works.wait(work, hottest),
        }
    }

    pub(super) fn step_hottest(&mut self, work: WorkId, mut hottest: Hottest, event: Event) {
        match event {
            Event::Shard(ShardAnswer::Hot(share)) => {
                hottest.shares.extend(share);
                hottest.left -= 1;
            }
            Event::Shard(_) => hottest.left -= 1,
            _ => {}
        }
        match hottest.left {
            0 => self.end_hottest(hottest),
            _ => self.works.wait(work, hottest),
        }
    }

    fn end_hottest(&mut self, mut hottest: Hottest) {
        let Hottest {
            keyspace,
            by,
            keys_max,
            ..
        } = hottest;
        // In the order of the shards, independent of the order of their answers.
        hottest.shares.sort_by_key(|share| share.shard);
        let document = merged(by, keys_max, hottest.shares);
        match hottest.answering {
            Some(answering) => self.answer_read(answering, Ok(document.to_string().into_bytes())),
            None => self.push_hot(keyspace, by, document),
        }
    }
}

fn merged(by: HotBy, keys_max: usize, shares: Vec<HotShare>) -> Value {
    let of_all = |figure: fn(&HotShare) -> u64| shares.iter().map(figure).max().unwrap_or(0);
    let window_us = of_all(|share| share.window_us);
    let one_in = of_all(|share| u64::from(share.requests_counted_one_in)).max(1);
    let unlisted_max = of_all(|share| share.unlisted_max);
    let totals = shares.iter().fold([0_u64; 3], |sum, share| {
        std::array::from_fn(|at| sum[at].saturating_add(share.totals[at]))
    });
    let mut keys: Vec<_> = shares
        .iter()
        .flat_map(|share| share.keys.iter().map(|key| (share.shard, key)))
        .collect();
    keys.sort_unstable_by(|(_, a), (_, b)| a.rank(by).cmp(&b.rank(by)));
    let first_left_out = keys.get(keys_max).map_or(0, |(_, key)| key.rank(by).0.0);
    keys.truncate(keys_max);
    let [requests, waiters, rehydrate_us] = totals;
    let keys: Vec<_> = keys
        .into_iter()
        .map(|(shard, key)| {
            let [requests, waiters, rehydrate_us] = key.figures.map(document);
            json!({
                // The wire format restricts key ids to printable ASCII.
                "key": String::from_utf8_lossy(&key.key_id),
                "shard": shard,
                "requests": requests,
                "waiters": waiters,
                "rehydrate_us": rehydrate_us,
            })
        })
        .collect();
    json!({
        "by": by.name(),
        "window_ms": window_us.div_ceil(1_000),
        "requests_counted_one_in": one_in,
        "unlisted_max": unlisted_max.max(first_left_out),
        "totals": { "requests": requests, "waiters": waiters, "rehydrate_us": rehydrate_us },
        "keys": keys,
    })
}

fn document(estimate: Estimate) -> Value {
    let Estimate { count, excess_max } = estimate;
    json!({ "count": count, "excess_max": excess_max })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hot::RankedKey;
    use keyway_protocol::limits::{HOT_KEYS_MAX, KEY_ID_LEN_MAX, PAYLOAD_LEN_MAX};

    fn share(shard: u16, keys: &[(&str, u64)], unlisted_max: u64) -> HotShare {
        let total = keys.iter().map(|(_, count)| count).sum();
        let estimate = |count| Estimate {
            count,
            excess_max: 1,
        };
        let keys = keys.iter().map(|(key, count)| RankedKey {
            key_id: key.as_bytes().into(),
            figures: [estimate(*count), estimate(0), estimate(7)],
        });
        HotShare {
            shard,
            keys: keys.collect(),
            unlisted_max,
            totals: [total, 0, 70],
            window_us: 60_000_000 + u64::from(shard),
            requests_counted_one_in: u32::from(shard) + 1,
        }
    }

    #[test]
    fn hottest_keys_of_all_shards_come_first_with_their_owners() {
        let shares = || {
            vec![
                share(0, &[("a", 50), ("b", 4)], 2),
                share(1, &[("c", 70), ("d", 3)], 3),
            ]
        };
        let all = merged(HotBy::Requests, 10, shares());
        let names = |document: &Value| -> Vec<(String, u64)> {
            let keys = document["keys"].as_array().unwrap().iter();
            keys.map(|key| {
                let name = key["key"].as_str().unwrap().to_owned();
                (name, key["shard"].as_u64().unwrap())
            })
            .collect()
        };
        let expected = [("c", 1), ("a", 0), ("b", 0), ("d", 1)];
        assert_eq!(
            names(&all),
            expected.map(|(key, shard)| (key.to_owned(), shard))
        );
        assert_eq!(
            all["keys"][0]["requests"],
            json!({ "count": 70, "excess_max": 1 })
        );
        assert_eq!(all["totals"]["requests"], 127);
        assert_eq!(all["totals"]["rehydrate_us"], 140);
        assert_eq!(all["unlisted_max"], 3);
        assert_eq!(all["window_ms"], 60_001);
        assert_eq!(all["requests_counted_one_in"], 2);

        let cut = merged(HotBy::Requests, 2, shares());
        assert_eq!(names(&cut), names(&all)[..2]);
        assert_eq!(cut["unlisted_max"], 4, "that of b, which is left out");
    }

    #[test]
    fn no_answering_shard_means_an_empty_list() {
        let nothing = merged(HotBy::Waiters, 10, Vec::new());
        assert_eq!(
            (&nothing["keys"], &nothing["by"]),
            (&json!([]), &json!("waiters"))
        );
    }

    #[test]
    fn longest_answer_fits_into_a_payload() {
        let key_id = "\\".repeat(KEY_ID_LEN_MAX);
        let estimate = Estimate::at_most(u64::MAX);
        let share = HotShare {
            shard: u16::MAX,
            keys: (0..HOT_KEYS_MAX)
                .map(|_| RankedKey {
                    key_id: key_id.as_bytes().into(),
                    figures: [estimate; 3],
                })
                .collect(),
            unlisted_max: u64::MAX,
            totals: [u64::MAX; 3],
            window_us: u64::MAX,
            requests_counted_one_in: u32::MAX,
        };
        let longest = merged(HotBy::RehydrateTime, usize::from(HOT_KEYS_MAX), vec![share]);
        assert!(longest.to_string().len() <= PAYLOAD_LEN_MAX);
    }
}
