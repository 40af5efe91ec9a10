//! The keys of a scenario and the requests made with them.

use std::net::SocketAddr;
use std::time::Duration;

use keyway_protocol::{
    Algorithm, InputKind, KeyGenerate, NewKey, Octets, Request, Scheme, Sign, Status, Usage,
};

use crate::error::Result;
use crate::load::encode;
use crate::load::{Load, PATIENCE, Pace, Recording, Seconds, run};

/// What is signed or MACed: the size of a digest, as callers mostly have.
pub const MESSAGE: [u8; 32] = [0x5a; 32];

/// Requests in flight while keys are generated: each is a durable write, and many share one flush.
const GENERATE_WINDOW: usize = 256;

/// Keys of a keyspace, by index, with one encoded request each.
pub struct Keys {
    keyspace_id: u32,
    algorithms: Vec<Algorithm>,
    /// A SIGN or MAC with each key.
    pub frames: Vec<Vec<u8>>,
}

impl Keys {
    /// `count` keys whose algorithms alternate through `algorithms` (Ed25519 or HMAC). They are
    /// named, not made: see [`generate`](Self::generate).
    pub fn name(keyspace_id: u32, count: usize, algorithms: &[Algorithm]) -> Result<Self> {
        let algorithms: Vec<_> = algorithms.iter().copied().cycle().take(count).collect();
        let frames = algorithms
            .iter()
            .enumerate()
            .map(|(index, &algorithm)| encode(keyspace_id, &key_id(index), &operation(algorithm)))
            .collect::<Result<_>>()?;
        Ok(Self {
            keyspace_id,
            algorithms,
            frames,
        })
    }

    /// The same keys, with a MAC of `message` each.
    pub fn with_macs_of(mut self, message: &[u8]) -> Result<Self> {
        self.frames = (0..self.algorithms.len())
            .map(|index| {
                let request = Request::Mac(Octets(message));
                encode(self.keyspace_id, &key_id(index), &request)
            })
            .collect::<Result<_>>()?;
        Ok(self)
    }

    /// Makes them at the server.
    pub fn generate(&self, address: SocketAddr) -> Result<()> {
        let frames = self
            .algorithms
            .iter()
            .enumerate()
            .map(|(index, &algorithm)| {
                let new_key = NewKey {
                    algorithm: Some(algorithm),
                    exportable: false,
                    usage: Usage::default(),
                    not_after_unix_ms: 0,
                };
                let request = Request::KeyGenerate(KeyGenerate { new_key });
                encode(self.keyspace_id, &key_id(index), &request)
            })
            .collect::<Result<Vec<_>>>()?;
        each_once(address, "KEY_GENERATE", &frames, GENERATE_WINDOW)
    }

    /// Uses each key once, one after another, so that all are loaded and no load waits for another.
    pub fn touch(&self, address: SocketAddr) -> Result<()> {
        each_once(address, "first use", &self.frames, 1)
    }

    /// Uses each key once, spread over `duration`: keys that are loaded together come due together.
    pub fn touch_within(&self, address: SocketAddr, duration: Duration) -> Result<()> {
        let count = self.frames.len();
        let rate_per_s = count as f64 / duration.as_secs_f64();
        let mut next = 0;
        // A Poisson process may bring a few more than expected: these go round again.
        let mut choose = || {
            next += 1;
            (next - 1) % count
        };
        let pace = Pace::Poisson {
            rate_per_s,
            duration,
        };
        let outcome = self.load(address, 1, pace, &mut choose, &mut |_| {})?;
        all_done("first use", &outcome)
    }

    /// Loads the server over `connections` connections, with keys chosen by `choose`.
    pub fn load(
        &self,
        address: SocketAddr,
        connections: usize,
        pace: Pace,
        choose: &mut dyn FnMut() -> usize,
        each_second: Seconds,
    ) -> Result<Recording> {
        let frames = &self.frames;
        let load = Load {
            address,
            connections,
            pace,
            frames,
            choose,
            seed: 1,
            patience: PATIENCE,
            observe: None,
        };
        run(load, each_second)
    }
}

/// Sends each frame once and wants it done.
fn each_once(address: SocketAddr, what: &str, frames: &[Vec<u8>], window: usize) -> Result<()> {
    let mut next = 0;
    let mut choose = || {
        next += 1;
        next - 1
    };
    let pace = Pace::ClosedCount {
        window,
        count: frames.len() as u64,
    };
    let load = Load {
        address,
        connections: 1,
        pace,
        frames,
        choose: &mut choose,
        seed: 1,
        patience: PATIENCE,
        observe: None,
    };
    let outcome = run(load, &mut |_| {})?;
    all_done(what, &outcome)
}

/// RETRY is what a key that is being loaded answers, and a load goes on without its waiter, so it
/// will do as well as OK.
fn all_done(what: &str, outcome: &Recording) -> Result<()> {
    let done = outcome.ok() + outcome.count(Status::Retry);
    if done < outcome.offered {
        let (offered, statuses) = (outcome.offered, &outcome.by_status);
        return Err(format!("{what}: of {offered} requests {done} succeeded: {statuses:?}").into());
    }
    Ok(())
}

fn key_id(index: usize) -> String {
    format!("key-{index:06}")
}

fn operation(algorithm: Algorithm) -> Request<'static> {
    if algorithm.is_asymmetric() {
        let (scheme, kind) = (Scheme::Default, InputKind::Message);
        Request::Sign(Sign {
            scheme,
            kind,
            input: Octets(&MESSAGE),
        })
    } else {
        Request::Mac(Octets(&MESSAGE))
    }
}

#[cfg(test)]
mod tests {
    use keyway_protocol::{Opcode, RequestFrame};

    use super::*;

    #[test]
    fn algorithms_alternate_and_keys_have_names_of_their_own() {
        let algorithms = [Algorithm::Ed25519, Algorithm::HmacSha256];
        let keys = Keys::name(4, 3, &algorithms).unwrap();
        let read = |index: usize| {
            let (frame, _) = RequestFrame::decode(&keys.frames[index]).unwrap().unwrap();
            Request::decode(&frame).unwrap();
            (
                frame.opcode().unwrap(),
                frame.key_id.to_vec(),
                frame.keyspace_id,
            )
        };
        assert_eq!(read(0), (Opcode::Sign, b"key-000000".to_vec(), 4));
        assert_eq!(read(1), (Opcode::Mac, b"key-000001".to_vec(), 4));
        assert_eq!(read(2), (Opcode::Sign, b"key-000002".to_vec(), 4));
    }
}
