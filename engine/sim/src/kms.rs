//! A KMS that fails, and the one thread of the process that calls it.

use crate::dice::Dice;
use crate::plan::Mood;
use keyway_core::{Instant, LeaseEvent, Settings};
use std::collections::BTreeMap;

/// Time after which a client of the KMS abandons a call, in µs.
const CALL_TIME_LIMIT_US: u64 = 10_000_000;

/// A DEK in a shard: its generations up to this one, and whether it opens anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dek {
    pub(crate) generation: u32,
    pub(crate) right: bool,
}

#[derive(Debug)]
pub(crate) struct Kms {
    pub(crate) mood: Mood,
    pub(crate) takes_us: u64,
    /// How much earlier than now its answers count as requested, in µs.
    pub(crate) late_us: u64,
}

/// A call in flight.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) number: u64,
    pub(crate) sent_at: u64,
    pub(crate) waiting: Vec<u16>,
}

/// The state of the control thread: the catalogue, which survives the process, and calls, which do not.
#[derive(Debug, Default)]
pub(crate) struct Control {
    pub(crate) settings: BTreeMap<u8, Settings>,
    pub(crate) locked: BTreeMap<u8, bool>,
    pub(crate) generation: BTreeMap<u8, u32>,
    pub(crate) calls: BTreeMap<u8, Call>,
    pub(crate) call_count: u64,
}

/// The result of a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallOutcome {
    pub(crate) after_us: u64,
    pub(crate) mood: Mood,
}

impl Kms {
    pub(crate) fn outcome(&self, dice: &mut Dice) -> CallOutcome {
        let after_us = match self.mood {
            Mood::Loses => CALL_TIME_LIMIT_US,
            _ => self.takes_us / 2 + dice.below(self.takes_us.max(2)),
        };
        CallOutcome {
            after_us: after_us.min(CALL_TIME_LIMIT_US),
            mood: match self.mood {
                _ if after_us >= CALL_TIME_LIMIT_US => Mood::Loses,
                mood => mood,
            },
        }
    }
}

/// Returns the event that a shard receives.
pub(crate) fn said(mood: Mood, sent_at: u64, generation: u32) -> (LeaseEvent, Option<Dek>) {
    let granted = LeaseEvent::Granted {
        sent_at: Instant::from_micros(sent_at),
        generation,
    };
    let dek = |right| Some(Dek { generation, right });
    match mood {
        Mood::Good | Mood::Repeats => (granted, dek(true)),
        Mood::WrongKey => (granted, dek(false)),
        Mood::Denies => (LeaseEvent::Denied, None),
        Mood::Disabled => (LeaseEvent::Disabled, None),
        Mood::Locked => (LeaseEvent::Locked, None),
        Mood::Fails => (LeaseEvent::Failed, None),
        Mood::Loses => (LeaseEvent::Unavailable { retry_after_us: 0 }, None),
        Mood::Unavailable => {
            let retry_after_us = 700_000;
            (LeaseEvent::Unavailable { retry_after_us }, None)
        }
    }
}
