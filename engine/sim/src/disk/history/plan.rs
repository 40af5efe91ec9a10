//! What happens in a history of the logs, drawn from its seed.

use super::super::DiskMood;
use crate::dice::Dice;
use crate::history::{Planned, Steps};

/// Keys of a history, spread over two keyspaces.
pub(super) const KEYS: u64 = 14;
pub(super) const SHARDS_MAX: u64 = 3;

#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) shards: u16,
    pub(super) steps: Vec<Planned<What>>,
}

impl Steps for Plan {
    type Step = What;

    fn steps(&mut self) -> &mut Vec<Planned<What>> {
        &mut self.steps
    }
}

/// Keys are numbers below [`KEYS`].
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Put {
        key: u64,
        len: usize,
    },
    Read(u64),
    Revoke(u64),
    /// The version so many below the newest.
    RevokeVersion {
        key: u64,
        below: u32,
    },
    /// All but the newest and so many before it.
    Trim {
        key: u64,
        kept: u32,
    },
    Delete(u64),
    RevokedAt(u64),
    Reserve(u64),
    List {
        keyspace: u32,
        rows_max: usize,
    },
    Mood(DiskMood),
    Crash {
        is_power_cut: bool,
        shards: u16,
    },
}

pub(super) fn plan(seed: u64) -> Plan {
    let mut dice = Dice::of(seed, 21, 0, 0);
    // Some histories are busy, and some have hardly a fault.
    let pause_us = dice.pick(&[50, 500, 20_000]);
    let faults_in = dice.pick(&[8, 25, 200]);
    let count = dice.range(50, 190);
    let steps = (0..count).map(|number| Planned {
        number,
        after_us: dice.skewed(pause_us),
        step: what(&mut dice, faults_in),
    });
    let steps = steps.collect();
    Plan {
        seed,
        shards: dice.range(1, SHARDS_MAX) as u16,
        steps,
    }
}

fn what(dice: &mut Dice, faults_in: u64) -> What {
    if dice.one_in(faults_in) {
        return match dice.one_in(2) {
            true => What::Mood(mood(dice)),
            false => What::Crash {
                is_power_cut: !dice.one_in(4),
                shards: dice.range(1, SHARDS_MAX) as u16,
            },
        };
    }
    let key = dice.skewed(KEYS);
    match dice.below(24) {
        0..=9 => What::Put {
            key,
            len: 30 + dice.skewed(700) as usize,
        },
        10..=13 => What::Read(key),
        14 => What::Revoke(key),
        15 => What::Delete(key),
        16 => What::RevokedAt(key),
        17 => What::Reserve(key),
        18..=20 => What::RevokeVersion {
            key,
            below: dice.below(4) as u32,
        },
        21 => What::Trim {
            key,
            kept: dice.below(3) as u32,
        },
        _ => What::List {
            keyspace: 1 + dice.below(2) as u32,
            rows_max: dice.range(1, 5) as usize,
        },
    }
}

fn mood(dice: &mut Dice) -> DiskMood {
    let good = DiskMood {
        takes_us: dice.pick(&[50, 300, 5_000]),
        ..DiskMood::default()
    };
    let one_in = dice.pick(&[2, 5, 20]);
    match dice.below(7) {
        0 => DiskMood {
            fails_one_in: one_in,
            ..good
        },
        1 => DiskMood {
            reports_wrongly_one_in: one_in,
            ..good
        },
        2 => DiskMood {
            reads_fail_one_in: one_in,
            ..good
        },
        3 => DiskMood {
            hangs_one_in: one_in,
            ..good
        },
        4 => DiskMood {
            is_full: true,
            ..good
        },
        5 => DiskMood {
            fails_one_in: one_in,
            reports_wrongly_one_in: one_in,
            reads_fail_one_in: 10,
            ..good
        },
        _ => good,
    }
}
