//! The exporter, as far as STATUS needs it: the latest snapshots of the shards, up to a second old. What they say is
//! compared with what happens around the shards.

use super::books::Asked;
use super::sockets::ReceivedAnswer;
use super::{Event, World};
use crate::oracle::{Checked, ensure};
use keyway_node::ids::QuestionId;
use keyway_node::shard::figures::{KeyspaceFigures, ShardFigures};
use serde_json::{Value, json};
use std::collections::BTreeMap;

const EXPORTER: u64 = 213;
/// A shard publishes its snapshot as often, µs.
const PERIOD_US: u64 = 1_000_000;

/// Snapshots by shard, with when each was taken.
#[derive(Default)]
pub(super) struct Exporter {
    snapshots: BTreeMap<u16, (u64, ShardFigures)>,
}

impl World<'_> {
    /// Control asks for a page of STATUS.
    pub(super) fn ask_exporter(&mut self, question: QuestionId) {
        let takes_us = self.dice(EXPORTER, 0).range(10, 20_000);
        self.schedule(self.now + takes_us, Event::Exported(question));
    }

    /// The exporter answers; rarely it has stopped.
    pub(super) fn export(&mut self, question: QuestionId) -> Checked {
        let has_stopped = !self.is_calm && self.dice(EXPORTER, 1).one_in(30);
        let page = match has_stopped {
            true => None,
            false => Some(self.status_page()?.to_string()),
        };
        self.trace.note(self.now, || format!("exporter: {page:?}"));
        self.control.handle_status(self.moment(), question, page);
        self.control_effects()
    }

    fn status_page(&mut self) -> Checked<Value> {
        let mut locked: BTreeMap<u32, Vec<bool>> = BTreeMap::new();
        for number in 0..self.sites.len() as u16 {
            self.publish(number)?;
            if let Some((_, figures)) = self.exporter.snapshots.get(&number) {
                for keyspace in &figures.keyspaces {
                    let all = locked.entry(keyspace.id).or_default();
                    all.push(keyspace.gauges.locked);
                }
            }
        }
        let rows = locked
            .iter()
            .map(|(id, all)| json!({ "id": id, "locked": all.iter().all(|locked| *locked) }));
        Ok(json!({ "made_us": self.now, "keyspaces": rows.collect::<Vec<_>>(), "more": false }))
    }

    /// A shard's snapshot is taken, unless there is one of the last second. It tells no untruth.
    fn publish(&mut self, number: u16) -> Checked {
        let site = &mut self.sites[usize::from(number)];
        let now = site.clock.now();
        let last = self.exporter.snapshots.get(&number);
        if last.is_some_and(|(at, _)| *at + PERIOD_US > now) {
            return Ok(());
        }
        let figures = site.shard.figures();
        let connected = site.handles.len() + site.strangers.len();
        ensure!(
            43,
            figures.connections == connected as u64,
            "shard {number}: it shows {} connections, and there are {connected}",
            figures.connections
        );
        for keyspace in &figures.keyspaces {
            self.check_shown(number, now, keyspace)?;
        }
        self.exporter.snapshots.insert(number, (now, figures));
        Ok(())
    }

    fn check_shown(&self, number: u16, now: u64, shown: &KeyspaceFigures) -> Checked {
        let id = shown.id;
        let book = self.books.keyspaces.get(&id);
        let locked = book.and_then(|book| book.locked);
        ensure!(
            43,
            shown.gauges.locked || locked.is_none_or(|taken| taken.at >= now),
            "shard {number}: keyspace {id} is shown as open at {now}, and {locked:?} was answered"
        );
        let resident = shown.counters.resident_keys;
        let in_memory = self.shared.memory.count(number, id);
        ensure!(
            43,
            resident <= in_memory,
            "shard {number}: {resident} keys of keyspace {id} are shown, and {in_memory} are in memory"
        );
        Ok(())
    }

    /// A page of STATUS has reached its client: it was made for it.
    pub(super) fn status_shown(&self, answer: &ReceivedAnswer, asked: &Asked) -> Checked {
        let page: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
        let made_us = page["made_us"].as_u64();
        ensure!(
            43,
            made_us.is_some_and(|made_us| (asked.sent_at..=self.now).contains(&made_us)),
            "#{}: sent at {}, and the page of STATUS was made at {made_us:?}",
            answer.request,
            asked.sent_at
        );
        Ok(())
    }

    /// At rest: what the shards have counted are the answers that there were.
    pub(super) fn check_counts(&mut self) -> Checked {
        let mut counted: BTreeMap<_, u64> = BTreeMap::new();
        let mut forwarded = 0;
        for site in &mut self.sites {
            let figures = site.shard.figures();
            forwarded += figures.totals.forwards_in_total;
            for keyspace in &figures.keyspaces {
                for (operation, outcome, count) in keyspace.requests.iter() {
                    let at = (keyspace.id, operation.name(), outcome.name());
                    *counted.entry(at).or_default() += count;
                }
            }
        }
        let of_process = &self.books.of_process;
        for (at, released) in &of_process.released {
            let counted = counted.get(at).copied().unwrap_or(0);
            ensure!(
                43,
                counted >= *released || at.0 > self.plan.keyspaces,
                "{at:?}: {released} answers left, and {counted} are counted"
            );
        }
        // A request that was forwarded may have been answered on both shards.
        let released: u64 = of_process.released.values().sum();
        let counted: u64 = counted.values().sum();
        let most = released + of_process.lost + forwarded;
        ensure!(
            43,
            counted <= most,
            "{counted} answers are counted; {released} left, {} requests were lost, {forwarded} were forwarded",
            of_process.lost
        );
        Ok(())
    }
}
