//! Requests forwarded from shard to shard: each is answered once, or refused immediately.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use keyway_core::Instant;
use keyway_node::messages::{Lane, ToPeer};
use keyway_node::policy::Principal;
use keyway_node::shard::Forwarder;
use shuttle::thread;

const SHARDS: usize = 3;
/// Requests of a shard to each other shard in a turn, and the turns that have some: more than a queue and its lane hold,
/// so that some are refused.
const BURST: usize = 700;
const BURSTS: usize = 3;
/// Batches that a lane holds.
const LANE_BATCHES_MAX: usize = 2;

#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    None,
    /// Loses a batch.
    LosesBatch,
    /// What a full lane returns lacks a message.
    KeepsMessage,
    /// Delivers a batch twice.
    Repeats,
}

fn ask(token: u64, number: usize) -> ToPeer {
    ToPeer::Forward {
        token,
        who: Principal::Anonymous,
        deadline: None,
        lane: Lane::Ordinary,
        frame: number.to_le_bytes().to_vec(),
    }
}

fn answer(token: u64) -> ToPeer {
    ToPeer::Reply {
        token,
        good_until: Instant::MAX,
        frame: Vec::new(),
    }
}

fn copy(message: &ToPeer) -> ToPeer {
    match message {
        ToPeer::Forward { token, frame, .. } => ToPeer::Forward {
            token: *token,
            who: Principal::Anonymous,
            deadline: None,
            lane: Lane::Ordinary,
            frame: frame.clone(),
        },
        ToPeer::Reply { token, .. } => answer(*token),
    }
}

struct Queue {
    batches: Mutex<VecDeque<Vec<ToPeer>>>,
    sent: AtomicUsize,
    flaw: Flaw,
}

impl Queue {
    fn receive(&self) -> Option<Vec<ToPeer>> {
        thread::yield_now();
        self.batches.lock().expect("not poisoned").pop_front()
    }

    /// Accepts a batch, or returns it if the lane is full.
    fn send(&self, mut batch: Vec<ToPeer>) -> Option<Vec<ToPeer>> {
        thread::yield_now();
        let mut batches = self.batches.lock().expect("not poisoned");
        if batches.len() >= LANE_BATCHES_MAX {
            if self.flaw == Flaw::KeepsMessage {
                batch.pop();
            }
            return Some(batch);
        }
        let is_third = self.sent.fetch_add(1, Ordering::SeqCst) == 2;
        match self.flaw {
            Flaw::LosesBatch if is_third => return None,
            Flaw::Repeats if is_third => batches.push_back(batch.iter().map(copy).collect()),
            _ => {}
        }
        batches.push_back(batch);
        None
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Outcome {
    Open,
    Answered,
    Refused,
}

fn shard(index: usize, queues: &[Vec<Arc<Queue>>], done: &AtomicUsize) -> usize {
    let mut forwarder = Forwarder::new(SHARDS as u16);
    let mut waiting = BTreeMap::new();
    let mut outcomes = Vec::new();
    let mut heard = [None; SHARDS];
    let mut is_done = false;
    for turn in 0.. {
        let peers = (0..SHARDS).filter(|peer| *peer != index);
        for peer in peers.clone() {
            for message in queues[peer][index].receive().into_iter().flatten() {
                match message {
                    ToPeer::Forward { token, frame, .. } => {
                        let number = usize::from_le_bytes(frame.try_into().expect("a number"));
                        assert!(
                            heard[peer] < Some(number),
                            "received twice, or out of order"
                        );
                        heard[peer] = Some(number);
                        forwarder.reply(peer as u16, answer(token));
                    }
                    ToPeer::Reply { token, .. } => {
                        let number: usize = waiting.remove(&token).expect("answered once");
                        assert_eq!(outcomes[number], Outcome::Open);
                        outcomes[number] = Outcome::Answered;
                    }
                }
            }
        }
        if turn < BURSTS {
            for peer in peers {
                for _ in 0..BURST {
                    let number = outcomes.len();
                    let token = number as u64;
                    match forwarder.forward(peer as u16, ask(token, number)) {
                        Ok(()) => {
                            waiting.insert(token, number);
                            outcomes.push(Outcome::Open);
                        }
                        Err(_) => outcomes.push(Outcome::Refused),
                    }
                }
            }
        }
        for to in forwarder.waiting().collect::<Vec<_>>() {
            while let Some(batch) = forwarder.take_batch(to) {
                if let Some(batch) = queues[index][usize::from(to)].send(batch) {
                    forwarder.give_back(to, batch);
                    break;
                }
            }
        }
        if turn >= BURSTS && waiting.is_empty() && !is_done {
            assert!(!outcomes.contains(&Outcome::Open));
            is_done = true;
            done.fetch_add(1, Ordering::SeqCst);
        }
        if done.load(Ordering::SeqCst) == SHARDS {
            break;
        }
    }
    outcomes.iter().filter(|o| **o == Outcome::Refused).count()
}

fn shards_ask_each_other(flaw: Flaw) -> usize {
    let queue = |_| {
        Arc::new(Queue {
            batches: Mutex::default(),
            sent: AtomicUsize::new(0),
            flaw,
        })
    };
    let queues: Arc<Vec<Vec<_>>> = Arc::new(
        (0..SHARDS)
            .map(|_| (0..SHARDS).map(queue).collect())
            .collect(),
    );
    let done = Arc::new(AtomicUsize::new(0));
    let shards: Vec<_> = (0..SHARDS)
        .map(|index| {
            let (queues, done) = (Arc::clone(&queues), Arc::clone(&done));
            thread::spawn(move || shard(index, &queues, &done))
        })
        .collect();
    shards
        .into_iter()
        .map(|shard| shard.join().expect("shards end"))
        .sum()
}

#[test]
fn a_request_for_another_shard_is_answered_once_or_refused_at_once() {
    let refused = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&refused);
    super::explore(move || {
        count.fetch_add(shards_ask_each_other(Flaw::None), Ordering::SeqCst);
    });
    assert!(refused.load(Ordering::SeqCst) > 0, "no queue was ever full");
}

#[test]
fn a_mesh_that_loses_keeps_or_repeats_messages_is_found() {
    for (flaw, what) in [
        (Flaw::LosesBatch, "a lost batch"),
        (Flaw::KeepsMessage, "a full lane that keeps a message"),
        (Flaw::Repeats, "a batch that arrives twice"),
    ] {
        super::finds(what, move || {
            shards_ask_each_other(flaw);
        });
    }
}
