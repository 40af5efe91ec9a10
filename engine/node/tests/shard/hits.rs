//! A hit allocates nothing: 100,000 hits, from received bytes to bytes to send, without one allocation.

use crate::counting_allocator::allocations;

use super::rig::{OWNER, Rig, SIGNATURE, sign};

const HITS: u64 = 100_000;
/// A different number of them: `scripts/hit-path` counts the instructions of two runs, and the difference is the hits'.
const HITS_VARIABLE: &str = "KEYWAY_HITS";
/// Hits in flight at a time.
const PIPELINED: u64 = 64;

#[test]
fn hits_do_not_allocate() {
    let hits = match std::env::var(HITS_VARIABLE) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => HITS,
    };
    let mut rig = Rig::new();
    // Loads the key.
    let (at, key) = rig.connect_and_sign(OWNER, "hot");
    let batch: Vec<u8> = (0..PIPELINED).flat_map(|id| sign(id, &key, 0)).collect();
    let answer_len = 32 + SIGNATURE.len();
    let round = |rig: &mut Rig| {
        let space = rig.shard.recv_space(at);
        space[..batch.len()].copy_from_slice(&batch);
        let now = rig.world.now();
        rig.shard.handle_received(now, at, batch.len());
        rig.turn();
        let mut sent = 0;
        while !rig.shard.to_send(at).is_empty() {
            let len = rig.shard.to_send(at).len();
            sent += len;
            rig.shard.handle_sent(at, len);
            rig.turn();
        }
        sent
    };
    // Buffers grow to their size.
    for _ in 0..100 {
        round(&mut rig);
    }
    let before = allocations();
    let mut sent = 0;
    for _ in 0..hits / PIPELINED {
        sent += round(&mut rig);
    }
    let allocated = allocations() - before;
    assert_eq!(sent, answer_len * (hits / PIPELINED * PIPELINED) as usize);
    assert_eq!(allocated, 0, "allocations in {hits} hits");
}
