//! A hit allocates nothing: 100,000 hits, from received bytes to bytes to send, without one allocation.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use keyway_protocol::Status;

use super::rig::{OWNER, Rig, SIGNATURE, sign};

/// Counts allocations of the current thread.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call is forwarded unchanged to the system's allocator; the count is a plain thread-local cell, whose
// access does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: guaranteed by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: guaranteed by the caller.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: guaranteed by the caller.
        unsafe { System.realloc(ptr, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HITS: u64 = 100_000;
/// Hits in flight at a time.
const PIPELINED: u64 = 64;

#[test]
fn hits_do_not_allocate() {
    let mut rig = Rig::new();
    let at = rig.connect(OWNER);
    let key = rig.key("hot", 0);
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
    // Loads the key, and lets buffers grow to their size.
    rig.receive(at, &sign(1, &key, 0));
    rig.run();
    assert_eq!(rig.answers(at)[0].status, Status::Ok);
    for _ in 0..100 {
        round(&mut rig);
    }
    let before = ALLOCATIONS.with(Cell::get);
    let mut sent = 0;
    for _ in 0..HITS / PIPELINED {
        sent += round(&mut rig);
    }
    let allocated = ALLOCATIONS.with(Cell::get) - before;
    assert_eq!(sent, answer_len * (HITS / PIPELINED * PIPELINED) as usize);
    assert_eq!(allocated, 0, "allocations in {HITS} hits");
}
