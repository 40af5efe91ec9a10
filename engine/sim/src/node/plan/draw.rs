//! Drawing a history from its seed.

use super::{Asks, Client, KEYS, Key, PanicsIn, Plan, Step, USERS, extra, newest, others};
use crate::control::plan::{DiskMood, KmsMood};
use crate::dice::Dice;
use crate::history::Planned;
use crate::node::log::LogMood;

const MS: u64 = 1_000;
const S: u64 = 1_000_000;
const STEPS_MIN: u64 = 30;
const STEPS_MAX: u64 = 140;

type Weighted = (u64, fn(&mut Drawing) -> Step);

const KINDS: [Weighted; 25] = [
    (60, |draw| {
        let count = draw.dice.pick(&[1, 1, 1, 2, 5, 20]);
        draw.ask_many(count, |draw| Asks::Sign(draw.key()))
    }),
    (4, |draw| draw.ask(|draw| Asks::PublicKey(draw.key()))),
    (16, |draw| draw.ask(|draw| Asks::Generate(draw.key()))),
    (12, |draw| draw.ask(|draw| Asks::Rotate(draw.key()))),
    (4, |draw| draw.ask(|draw| Asks::Revoke(draw.key()))),
    (3, |draw| draw.ask(|draw| Asks::Delete(draw.key()))),
    (4, |draw| draw.ask(|draw| Asks::Refresh(draw.key()))),
    (6, |draw| {
        draw.ask(|draw| Asks::List {
            keyspace: draw.keyspace(),
            shard: draw.shard(),
            listing: 0,
        })
    }),
    (5, |draw| draw.ask(|draw| Asks::Lock(draw.keyspace()))),
    (1, |draw| draw.ask(|_| Asks::LockAll)),
    (1, |draw| draw.ask(|draw| Asks::LockKms(draw.kms()))),
    (14, |draw| {
        draw.ask(|draw| Asks::Unlock {
            keyspace: draw.keyspace(),
            watch: draw.dice.one_in(3),
            secret: !draw.dice.one_in(4),
        })
    }),
    (3, |draw| draw.ask(|draw| Asks::UnlockKms(draw.kms()))),
    (8, Drawing::set),
    (6, |draw| {
        draw.ask(|draw| Asks::Grant {
            keyspace: draw.keyspace(),
            who: draw.user(),
        })
    }),
    (6, |draw| {
        draw.ask(|draw| Asks::Withdraw {
            keyspace: draw.keyspace(),
            who: draw.user(),
        })
    }),
    (6, |draw| draw.ask(|draw| Asks::RotateDek(draw.keyspace()))),
    (1, |draw| draw.ask(|draw| Asks::Create(draw.kms()))),
    (6, |draw| Step::AskTicket {
        client: draw.operator(),
        keyspace: draw.keyspace(),
        which: draw.dice.below(8) as usize,
    }),
    (1, |draw| draw.ask(|_| Asks::Keyspaces)),
    (6, Drawing::kms_mood),
    (6, Drawing::disk_mood),
    (8, Drawing::log_mood),
    (6, Drawing::trouble_of_client),
    (5, Drawing::trouble),
];

/// Kinds that every history has: something is made, used, locked and unlocked.
const ALWAYS: [usize; 4] = [0, 2, 8, 11];

/// The history of a seed.
pub(crate) fn plan(seed: u64) -> Plan {
    let mut dice = Dice::of(seed, 1 << 33, 0, 0);
    let shards = dice.pick(&[1, 2, 2, 3]);
    let keyspaces = dice.pick(&[1, 1, 2]);
    let mut weights = KINDS.map(|(weight, _)| weight * dice.pick(&[0, 1, 1, 2]));
    for kind in ALWAYS {
        weights[kind] = KINDS[kind].0;
    }
    let settings = settings(&mut dice);
    let mut drawing = Drawing {
        clients: (0..2 + dice.below(3))
            .map(|number| Client {
                // Who is first may do everything.
                user: (number > 0 && !dice.one_in(4)).then(|| dice.below(u64::from(USERS)) as u32),
                shard: dice.below(3) as u16,
            })
            .collect(),
        lost_one_in: dice.pick(&[0, 0, 50, 400]),
        dice,
        shards,
        keyspaces,
        gap_us: 2 * MS,
    };
    let count = drawing.dice.range(STEPS_MIN, STEPS_MAX);
    let all: u64 = weights.iter().sum();
    let steps = (0..count).map(|number| {
        if drawing.dice.one_in(15) {
            let gaps = [50, 200, MS, 2 * MS, 20 * MS, 200 * MS, S];
            drawing.gap_us = drawing.dice.pick(&gaps);
        }
        let after_us = drawing.dice.below(drawing.gap_us);
        let mut at = drawing.dice.below(all);
        let kind = weights.iter().position(|weight| {
            let is_here = at < *weight;
            at = at.saturating_sub(*weight);
            is_here
        });
        let (_, draw) = KINDS[kind.expect("the draw is below the sum")];
        Planned {
            number,
            after_us,
            step: draw(&mut drawing),
        }
    });
    let steps = steps.collect();
    let mut plan = Plan {
        seed,
        shards,
        keyspaces,
        unused: 0,
        lost_one_in: drawing.lost_one_in,
        clients: drawing.clients,
        settings,
        steps,
    };
    others::add(&mut plan);
    others::add_versions(&mut plan);
    newest::add(&mut plan);
    extra::add(&mut plan);
    plan
}

/// Short times, so that a history sees their ends.
fn settings(dice: &mut Dice) -> Vec<(&'static str, u64)> {
    let hard_ttl_ms = dice.pick(&[200, 2_000, 20_000, 3_600_000]);
    vec![
        ("hard_ttl_ms", hard_ttl_ms),
        ("soft_ttl_ms", hard_ttl_ms / dice.pick(&[1, 2, 4])),
        (
            "dek_lease_ms",
            dice.pick(&[3_000, 10_000, 30_000, 3_600_000]),
        ),
        (
            "sign_wait_budget_us",
            dice.pick(&[0, 3_000, 50_000, 400_000]),
        ),
        ("delete_wait_ms", 0),
    ]
}

/// Most requests have no deadline.
pub(super) fn deadline_us(dice: &mut Dice) -> u32 {
    match dice.below(5) {
        0 => dice.pick(&[1, 500, 3_000, 40_000, 400_000]),
        _ => 0,
    }
}

struct Drawing {
    dice: Dice,
    shards: u16,
    keyspaces: u32,
    clients: Vec<Client>,
    lost_one_in: u64,
    gap_us: u64,
}

impl Drawing {
    fn ask(&mut self, asks: impl Fn(&mut Self) -> Asks) -> Step {
        self.ask_many(1, asks)
    }

    fn ask_many(&mut self, count: u64, asks: impl Fn(&mut Self) -> Asks) -> Step {
        let asks = asks(self);
        let is_anybodys = asks.is_granted() || asks == Asks::Keyspaces;
        let client = match is_anybodys || self.dice.one_in(20) {
            true => self.dice.below(self.clients.len() as u64) as usize,
            false => self.operator(),
        };
        let deadline_us = deadline_us(&mut self.dice);
        Step::Ask {
            client,
            asks,
            deadline_us,
            count,
        }
    }

    fn set(&mut self) -> Step {
        self.ask(|draw| {
            let (name, value) = match draw.dice.below(4) {
                0 => ("hard_ttl_ms", draw.dice.pick(&[150, 2_000, 20_000])),
                1 => ("soft_ttl_ms", draw.dice.pick(&[100, 1_000, 10_000])),
                2 => ("dek_lease_ms", draw.dice.pick(&[3_000, 5_000, 60_000])),
                _ => ("sign_wait_budget_us", draw.dice.range(1, 60_000)),
            };
            Asks::Set {
                keyspace: draw.keyspace(),
                name,
                value,
            }
        })
    }

    fn kms_mood(&mut self) -> Step {
        let mood = match self.dice.below(7) {
            0..4 => KmsMood::Good,
            4 => KmsMood::Denies,
            5 => KmsMood::Misconfigured,
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

    fn log_mood(&mut self) -> Step {
        let mood = match self.dice.below(8) {
            0..5 => LogMood::Good,
            5 => LogMood::Full,
            6 => LogMood::FailsLate,
            _ => LogMood::ReadsFail,
        };
        Step::Log {
            mood,
            takes_us: self.dice.pick(&[10, 200, 3 * MS, 40 * MS, 600 * MS]),
        }
    }

    fn trouble_of_client(&mut self) -> Step {
        let client = self.dice.below(self.clients.len() as u64) as usize;
        match self.dice.below(3) {
            0 => Step::Reset { client },
            1 => Step::Unread {
                client,
                us: self.dice.pick(&[5 * MS, 300 * MS, 2 * S]),
            },
            _ => Step::Panic {
                client,
                asks: Asks::Sign(self.key()),
                place: PanicsIn::Result,
            },
        }
    }

    fn trouble(&mut self) -> Step {
        match self.dice.below(5) {
            0 | 1 => Step::Busy {
                shard: self.shard(),
                us: self.dice.pick(&[500, 5 * MS, 60 * MS]),
            },
            2 => Step::Sleep {
                us: self.dice.pick(&[50 * MS, S, 5 * S]),
            },
            _ => {
                self.shards = match self.dice.one_in(2) {
                    true => self.dice.pick(&[1, 2, 3]),
                    false => self.shards,
                };
                Step::Crash {
                    shards: self.shards,
                }
            }
        }
    }

    fn shard(&mut self) -> u16 {
        self.dice.below(u64::from(self.shards)) as u16
    }

    /// Occasionally one that is made later, or never.
    fn keyspace(&mut self) -> u32 {
        let most = u64::from(self.keyspaces) + u64::from(self.dice.one_in(16));
        self.dice.below(most) as u32 + 1
    }

    fn key(&mut self) -> Key {
        Key {
            keyspace: self.keyspace(),
            number: self.dice.skewed(u64::from(KEYS)) as u8,
        }
    }

    fn kms(&mut self) -> usize {
        self.dice.below(2) as usize
    }

    fn user(&mut self) -> u32 {
        self.dice.below(u64::from(USERS)) as u32
    }

    fn operator(&mut self) -> usize {
        let operators = self.clients.iter().enumerate();
        let operators = operators.filter(|(_, client)| client.user.is_none());
        let operators: Vec<usize> = operators.map(|(number, _)| number).collect();
        self.dice.pick(&operators)
    }
}
