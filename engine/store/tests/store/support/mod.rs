//! What the store's tests share.

pub mod faulty;
pub mod model;

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::Poll;

use keyway_store::{BlobLog, Expect, Files, LogOptions, Lookup, Recovery, Stored};

use faulty::FaultyFiles;

/// A small generator with a seed that replays (xorshift64*).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }

    /// From 0 to `bound - 1`.
    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
}

/// All futures at once on this thread, each output at its place.
pub async fn join_all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut running: Vec<Pin<Box<_>>> = futures.into_iter().map(Box::pin).collect();
    let mut outputs: Vec<Option<T>> = running.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        for (future, output) in running.iter_mut().zip(&mut outputs) {
            if output.is_none()
                && let Poll::Ready(ready) = future.as_mut().poll(context)
            {
                *output = Some(ready);
            }
        }
        if outputs.iter().all(Option::is_some) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
    outputs.into_iter().flatten().collect()
}

/// Options for small segments in `dir`.
pub fn small(dir: impl Into<PathBuf>) -> LogOptions {
    let mut options = LogOptions::new(dir.into(), [5; 16], 1, 0, 1);
    options.segment_bytes = 4096;
    options
}

/// Opens a log and says nothing on the way.
pub async fn open<F: Files>(files: F, options: LogOptions) -> (BlobLog<F>, Recovery) {
    BlobLog::open(files, options, |_| {})
        .await
        .expect("the log opens")
}

/// The blob of a key that must be live, with its version.
pub async fn blob<F: Files>(log: &BlobLog<F>, keyspace: u32, key_id: &[u8]) -> (u32, Vec<u8>) {
    match log.get(keyspace, key_id).await {
        Ok(Lookup::Blob(blob)) => (blob.version, blob.bytes().to_vec()),
        other => panic!("{}: {other:?}", String::from_utf8_lossy(key_id)),
    }
}

/// An empty log with small segments, and its disk.
pub async fn fresh() -> (FaultyFiles, BlobLog<FaultyFiles>) {
    let disk = FaultyFiles::default();
    let (log, _) = open(disk.clone(), small("log")).await;
    (disk, log)
}

/// Puts a new key of keyspace 1.
pub async fn create(log: &BlobLog<FaultyFiles>, key_id: &[u8], blob: &[u8]) -> Stored {
    log.put_blob(1, key_id, 1, blob.to_vec(), Expect::Absent)
        .await
        .unwrap()
}
