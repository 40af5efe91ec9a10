//! What a seed stands for: shards, keyspaces, two KMSes, a disk, and a list of things that happen to them.

use crate::dice::Dice;
use crate::history::{Planned, Steps};

const MS: u64 = 1_000;
const S: u64 = 1_000_000;
const STEPS_MIN: u64 = 40;
const STEPS_MAX: u64 = 220;
/// Principals that are granted rights and lose them.
pub(crate) const PRINCIPALS: u32 = 3;

/// One history.
#[derive(Clone, Debug)]
pub(crate) struct ControlPlan {
    pub(crate) seed: u64,
    pub(crate) shards: u16,
    pub(crate) keyspaces: u32,
    pub(crate) steps: Vec<Planned<Step>>,
}

impl Steps for ControlPlan {
    type Step = Step;

    fn steps(&mut self) -> &mut Vec<Planned<Step>> {
        &mut self.steps
    }
}

/// What an administrator asks for. Keyspaces are numbered from 1; some numbers may not exist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asks {
    Lock {
        keyspace: u32,
    },
    LockAll,
    LockKms {
        kms: usize,
    },
    Unlock {
        keyspace: u32,
        watch: bool,
        secret: bool,
    },
    UnlockKms {
        kms: usize,
    },
    Set {
        keyspace: u32,
        budget_us: u64,
    },
    SoftTtl {
        keyspace: u32,
        ms: u64,
    },
    Grant {
        keyspace: u32,
        who: u32,
    },
    Withdraw {
        keyspace: u32,
        who: u32,
    },
    Rotate {
        keyspace: u32,
    },
    Rewrap {
        keyspace: u32,
        kms: usize,
    },
    DestroyDeks {
        keyspace: u32,
    },
    Create {
        kms: usize,
    },
    UnlockStatus {
        keyspace: u32,
        which: usize,
    },
    List,
}

/// How a KMS answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KmsMood {
    Good,
    Denies,
    Unavailable,
    Misconfigured,
}

/// How the disk takes writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DiskMood {
    Good,
    /// Nothing is written, and it says so.
    Fails,
    /// The file was replaced, and it says that it failed.
    FailsLate,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Step {
    Ask {
        shard: u16,
        asks: Asks,
        deadline_us: Option<u64>,
    },
    /// A client uses a key of a keyspace.
    Use {
        shard: u16,
        keyspace: u32,
        who: u32,
    },
    /// A key is written, and its write is in flight for some time.
    Write {
        shard: u16,
        keyspace: u32,
        takes_us: u64,
    },
    /// A shard's lease of a keyspace ends.
    LeaseEnds {
        shard: u16,
        keyspace: u32,
    },
    Kms {
        kms: usize,
        mood: KmsMood,
        takes_us: u64,
    },
    Disk {
        mood: DiskMood,
        takes_us: u64,
    },
    /// A shard's thread does not run.
    Stall {
        shard: u16,
        us: u64,
    },
    /// Pages of a shard's log cannot be resealed temporarily.
    Pages {
        shard: u16,
        fail: bool,
    },
    Crash,
}

type Weighted = (u64, fn(&mut Drawing) -> Step);

const KINDS: [Weighted; 21] = [
    (14, |draw| {
        draw.ask(|draw| Asks::Lock {
            keyspace: draw.keyspace(),
        })
    }),
    (16, |draw| {
        draw.ask(|draw| Asks::Unlock {
            keyspace: draw.keyspace(),
            watch: draw.dice.one_in(3),
            secret: !draw.dice.one_in(4),
        })
    }),
    (2, |draw| draw.ask(|_| Asks::LockAll)),
    (2, |draw| draw.ask(|draw| Asks::LockKms { kms: draw.kms() })),
    (5, |draw| {
        draw.ask(|draw| Asks::UnlockKms { kms: draw.kms() })
    }),
    (12, |draw| {
        draw.ask(|draw| Asks::Set {
            keyspace: draw.keyspace(),
            budget_us: draw.dice.range(1, 50_000),
        })
    }),
    (6, |draw| {
        draw.ask(|draw| Asks::SoftTtl {
            keyspace: draw.keyspace(),
            ms: draw.dice.pick(&[1_000, 5_000, 60_000]),
        })
    }),
    (8, |draw| {
        draw.ask(|draw| Asks::Grant {
            keyspace: draw.keyspace(),
            who: draw.who(),
        })
    }),
    (8, |draw| {
        draw.ask(|draw| Asks::Withdraw {
            keyspace: draw.keyspace(),
            who: draw.who(),
        })
    }),
    (10, |draw| {
        draw.ask(|draw| Asks::Rotate {
            keyspace: draw.keyspace(),
        })
    }),
    (2, |draw| {
        draw.ask(|draw| Asks::Rewrap {
            keyspace: draw.keyspace(),
            kms: draw.kms(),
        })
    }),
    (2, |draw| {
        draw.ask(|draw| Asks::DestroyDeks {
            keyspace: draw.keyspace(),
        })
    }),
    (3, |draw| draw.ask(|draw| Asks::Create { kms: draw.kms() })),
    (10, |draw| {
        draw.ask(|draw| Asks::UnlockStatus {
            keyspace: draw.keyspace(),
            which: draw.dice.below(8) as usize,
        })
    }),
    (2, |draw| draw.ask(|_| Asks::List)),
    (40, |draw| Step::Use {
        shard: draw.shard(),
        keyspace: draw.keyspace(),
        who: draw.who(),
    }),
    (24, |draw| Step::Write {
        shard: draw.shard(),
        keyspace: draw.keyspace(),
        takes_us: draw.dice.pick(&[50, 1_000, 20_000, 150_000]),
    }),
    (10, |draw| Step::LeaseEnds {
        shard: draw.shard(),
        keyspace: draw.keyspace(),
    }),
    (8, Drawing::kms_mood),
    (8, Drawing::disk_mood),
    (6, Drawing::trouble),
];

pub(crate) fn plan(seed: u64) -> ControlPlan {
    let mut dice = Dice::of(seed, 1 << 32, 0, 0);
    let shards = dice.pick(&[1, 2, 2, 3]);
    let keyspaces = dice.pick(&[1, 1, 2, 3]);
    let weights = KINDS.map(|(weight, _)| weight * dice.pick(&[0, 1, 1, 2]));
    let mut drawing = Drawing {
        dice,
        shards,
        keyspaces,
        gap_us: 2 * MS,
    };
    let count = drawing.dice.range(STEPS_MIN, STEPS_MAX);
    let mut weights = weights;
    // Something is used, locked and unlocked in every history.
    for kind in [0, 1, 15] {
        weights[kind] = KINDS[kind].0;
    }
    let all: u64 = weights.iter().sum();
    let steps = (0..count).map(|number| {
        if drawing.dice.one_in(20) {
            drawing.gap_us = drawing
                .dice
                .pick(&[100, MS, 2 * MS, 20 * MS, 200 * MS, 2 * S]);
        }
        let after_us = drawing.dice.below(drawing.gap_us);
        let mut at = drawing.dice.below(all);
        let kind = weights.iter().position(|weight| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        let (_, draw) = KINDS[kind.expect("the draw is below the sum")];
        Planned {
            number,
            after_us,
            step: draw(&mut drawing),
        }
    });
    ControlPlan {
        seed,
        shards,
        keyspaces,
        steps: steps.collect(),
    }
}

struct Drawing {
    dice: Dice,
    shards: u16,
    keyspaces: u32,
    gap_us: u64,
}

impl Drawing {
    fn ask(&mut self, asks: impl FnOnce(&mut Self) -> Asks) -> Step {
        let shard = self.shard();
        let asks = asks(self);
        let deadline_us = self.dice.one_in(6).then(|| self.dice.range(1, 400 * MS));
        Step::Ask {
            shard,
            asks,
            deadline_us,
        }
    }

    fn kms_mood(&mut self) -> Step {
        let mood = match self.dice.below(6) {
            0..3 => KmsMood::Good,
            3 => KmsMood::Denies,
            4 => KmsMood::Misconfigured,
            _ => KmsMood::Unavailable,
        };
        Step::Kms {
            kms: self.kms(),
            mood,
            takes_us: self.dice.pick(&[100, 2 * MS, 50 * MS, S, 12 * S]),
        }
    }

    fn disk_mood(&mut self) -> Step {
        let mood = match self.dice.below(5) {
            0..3 => DiskMood::Good,
            3 => DiskMood::Fails,
            _ => DiskMood::FailsLate,
        };
        Step::Disk {
            mood,
            takes_us: self.dice.pick(&[200, 3 * MS, 40 * MS, S, 9 * S]),
        }
    }

    fn trouble(&mut self) -> Step {
        match self.dice.below(5) {
            0 | 1 => Step::Stall {
                shard: self.shard(),
                us: self.dice.pick(&[500, 5 * MS, 60 * MS]),
            },
            2 | 3 => Step::Pages {
                shard: self.shard(),
                fail: self.dice.one_in(2),
            },
            _ => Step::Crash,
        }
    }

    fn shard(&mut self) -> u16 {
        self.dice.below(u64::from(self.shards)) as u16
    }

    /// Returns a keyspace, occasionally one that is created later, or never.
    fn keyspace(&mut self) -> u32 {
        let most = u64::from(self.keyspaces) + u64::from(self.dice.one_in(12));
        self.dice.below(most) as u32 + 1
    }

    fn kms(&mut self) -> usize {
        self.dice.below(2) as usize
    }

    fn who(&mut self) -> u32 {
        self.dice.below(u64::from(PRINCIPALS)) as u32
    }
}
