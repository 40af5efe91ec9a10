//! Requests handed from shard to shard: each is answered once, or refused at once.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use keyway_server::runtime::mesh::Message;
use keyway_server::runtime::mesh::outgoing::{Handed, Lane, Outgoing};
use keyway_server::shard::waiting::WaitingRoom;
use shuttle::thread;

const SHARDS: usize = 3;
/// Requests that a shard has for each other shard in a turn, and the turns that bring some: more
/// than a queue and its lane hold, so that some are refused.
const BURST: usize = 700;
const BURSTS: usize = 3;
/// Batches that a lane holds.
const LANE_BATCHES_MAX: usize = 2;

#[derive(Clone, Copy, PartialEq)]
enum Flaw {
    None,
    /// A batch goes missing.
    LosesBatch,
    /// What comes back from a full lane lacks a message.
    KeepsMessage,
    /// A batch arrives twice.
    Repeats,
}

#[derive(Clone)]
enum Note {
    Ask { token: u64, number: usize },
    Answer { token: u64 },
}

impl Message for Note {
    fn must_arrive(&self) -> bool {
        matches!(self, Note::Answer { .. })
    }
}

struct Queue {
    batches: Mutex<VecDeque<Vec<Note>>>,
    sent: AtomicUsize,
    flaw: Flaw,
}

impl Queue {
    fn receive(&self) -> Option<Vec<Note>> {
        thread::yield_now();
        self.batches
            .lock()
            .expect("nobody panics with it")
            .pop_front()
    }
}

struct End(Arc<Queue>);

impl Lane<Note> for End {
    fn try_send(&self, mut batch: Vec<Note>) -> Handed<Note> {
        thread::yield_now();
        let mut batches = self.0.batches.lock().expect("nobody panics with it");
        if batches.len() >= LANE_BATCHES_MAX {
            if self.0.flaw == Flaw::KeepsMessage {
                batch.pop();
            }
            return Handed::Full(batch);
        }
        let is_third = self.0.sent.fetch_add(1, Ordering::SeqCst) == 2;
        match self.0.flaw {
            Flaw::LosesBatch if is_third => return Handed::Sent,
            Flaw::Repeats if is_third => batches.push_back(batch.clone()),
            _ => {}
        }
        batches.push_back(batch);
        Handed::Sent
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Outcome {
    Open,
    Answered,
    Refused,
}

fn shard(index: usize, queues: &[Vec<Arc<Queue>>], done: &AtomicUsize) -> usize {
    let lanes = (0..SHARDS).map(|to| (to != index).then(|| End(Arc::clone(&queues[index][to]))));
    let mesh = Outgoing::new(lanes.collect());
    let room = WaitingRoom::default();
    let mut outcomes = Vec::new();
    let mut heard = [None; SHARDS];
    let mut is_done = false;
    for turn in 0.. {
        let peers = (0..SHARDS).filter(|peer| *peer != index);
        for peer in peers.clone() {
            for note in queues[peer][index].receive().into_iter().flatten() {
                match note {
                    Note::Ask { token, number } => {
                        assert!(heard[peer] < Some(number), "heard twice, or out of order");
                        heard[peer] = Some(number);
                        let posted = mesh.post(peer as u16, Note::Answer { token });
                        assert!(posted.is_ok(), "an answer was refused");
                    }
                    Note::Answer { token } => {
                        let number: usize = room.take(token).expect("answered once");
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
                    let ask = |token| Note::Ask { token, number };
                    outcomes.push(Outcome::Open);
                    if let Err(number) = room.forward(&mesh, peer as u16, ask, number) {
                        outcomes[number] = Outcome::Refused;
                    }
                }
            }
        }
        mesh.flush();
        if turn >= BURSTS && room.is_empty() && !is_done {
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
