//! Draws a plan from a seed. Each seed leaves some kinds of steps out and has others more often (swarm testing), so that
//! every fault occurs both alone and among others.

use super::{Caller, Mood, Name, Plan, Shape, Step, StoreMood};
use crate::dice::Dice;
use crate::history::Planned;
use keyway_core::{Limits, OnSoftExpiry, Settings};

const MS: u64 = 1_000;
const S: u64 = 1_000_000;
const CONNECTIONS: u64 = 5;
const STEPS_MIN: u64 = 60;
const STEPS_MAX: u64 = 360;

/// How often a kind of step occurs before a seed changes that, and how one is drawn.
type Weighted = (u64, fn(&mut Drawing) -> Step);

/// The kinds of steps. Requests, the first, occur in every history.
const KINDS: [Weighted; 20] = [
    (120, Drawing::request),
    (10, Drawing::force),
    (10, Drawing::put),
    (3, Drawing::revoke),
    (10, Drawing::leave),
    (2, Drawing::disconnect),
    (3, |draw| Step::Corrupt { name: draw.name() }),
    (3, |draw| Step::Lose { name: draw.name() }),
    (3, Drawing::lock),
    (6, Drawing::unlock),
    (8, Drawing::kms),
    (3, Drawing::kms_says),
    (2, Drawing::kms_late),
    (8, Drawing::store),
    (6, Drawing::settings),
    (5, |draw| Step::Hot { name: draw.name() }),
    (3, Drawing::rotate_dek),
    (2, Drawing::suspend),
    (3, Drawing::stall),
    (1, |_| Step::Crash),
];

pub(crate) fn plan(seed: u64) -> Plan {
    let mut dice = Dice::of(seed, 0, 0, 0);
    let scale = dice.below(4);
    let shape = shape(&mut dice, scale);
    let mut weights = KINDS.map(|(weight, _)| weight * dice.pick(&[0, 1, 1, 2]));
    weights[0] = KINDS[0].0;
    let mut drawing = Drawing {
        dice,
        shape,
        scale,
        weights,
        gap_us: MS,
        focus: None,
    };
    let count = drawing.dice.range(STEPS_MIN, STEPS_MAX);
    let mut steps: Vec<Planned<Step>> = drawing.opening();
    while (steps.len() as u64) < count {
        if drawing.dice.one_in(30) {
            drawing.change_tempo();
        }
        let after_us = drawing.dice.below(drawing.gap_us);
        let step = drawing.step();
        let sought = match step {
            Step::Force { name, .. } if name.key >= drawing.shape.stored => Some(name),
            _ => None,
        };
        steps.push(Planned {
            number: 0,
            after_us,
            step,
        });
        if let Some(name) = sought
            && drawing.dice.one_in(3)
        {
            steps.extend(drawing.made_and_revoked(name));
        }
    }
    for (number, planned) in steps.iter_mut().enumerate() {
        planned.number = number as u64;
    }
    let shape = drawing.shape;
    Plan {
        seed,
        shape,
        steps,
        is_nondeterministic: false,
    }
}

fn shape(dice: &mut Dice, scale: u64) -> Shape {
    let flights_max = dice.range(2, 10) as usize;
    let entries_max = dice.range(flights_max as u64 + 4, 40) as usize;
    let half = entries_max as u64 / 2;
    let keys = dice.range(3, 14) as u8;
    Shape {
        shards: dice.pick(&[1, 1, 2, 2, 3, 4]),
        keyspaces: dice.pick(&[1, 1, 2]),
        keys,
        stored: dice.range(u64::from(keys) / 2, u64::from(keys)) as u8,
        limits: Limits {
            entries_max,
            key_bytes_max: dice.pick(&[400, 1_500, 1 << 20]),
            flights_max,
            on_demand_reserve: dice.below(flights_max as u64) as usize,
            waiters_max: dice.pick(&[1, 3, 10, 40]),
            negatives_max: dice.range(1, half.min(4)) as usize,
            revoked_max: dice.range(1, half.min(4)) as usize,
            flight_time_limit_us: dice.range(20, 80) * MS,
            ..Limits::default()
        },
        settings: settings(dice, scale),
        tick_us: dice.pick(&[1_000, 1_000, 1_500, 2_000]),
        mesh_max: dice.pick(&[1, 4, 16]),
        connection_max: dice.pick(&[2, 8, 32]),
    }
}

fn settings(dice: &mut Dice, scale: u64) -> Settings {
    let soft_ttl_ms = match scale {
        0 | 1 => dice.range(20, 400),
        2 => dice.range(1_000, 10_000),
        _ => 600_000,
    };
    let jitter_pct = dice.pick(&[0, 10, 10, 30]);
    let hard_ttl_ms = soft_ttl_ms * dice.pick(&[1, 2, 4, 6]) + dice.below(soft_ttl_ms);
    let dek_lease_ms = (soft_ttl_ms * dice.pick(&[1, 3, 6, 10]) + dice.below(100)).max(100);
    let window_pct = dice.pick(&[6, 20, 20, 40, 60]);
    Settings {
        soft_ttl_ms,
        hard_ttl_ms,
        dek_lease_ms,
        refresh_window_ms: Some(soft_ttl_ms * window_pct / 100),
        low_water_pct: dice.pick(&[0, 2, 5]),
        max_in_flight: dice.pick(&[0, 1, 2, 4, 8, 64]),
        sign_wait_budget_us: dice.pick(&[0, 500, 3_000, 3_000, 3_000, 8_000, 50_000]),
        on_soft_expiry: dice.pick(&[
            OnSoftExpiry::Wait,
            OnSoftExpiry::Wait,
            OnSoftExpiry::ServeStale,
        ]),
        jitter_pct,
        delete_wait_ms: 0,
    }
}

struct Drawing {
    dice: Dice,
    shape: Shape,
    scale: u64,
    weights: [u64; KINDS.len()],
    gap_us: u64,
    /// A key that is temporarily requested most.
    focus: Option<Name>,
}

impl Drawing {
    /// Returns the first steps: most histories begin with a working node.
    fn opening(&mut self) -> Vec<Planned<Step>> {
        let takes_us = self.dice.pick(&[200, 2_000, 20_000]);
        let load_us = self.dice.pick(&[50, 500, 3_000]);
        let steps = [
            Step::Kms {
                mood: Mood::Good,
                takes_us,
            },
            Step::Store {
                mood: StoreMood {
                    load_us,
                    ..StoreMood::default()
                },
            },
            self.request(),
        ];
        steps
            .map(|step| Planned {
                number: 0,
                after_us: MS,
                step,
            })
            .into()
    }

    /// Creates and immediately revokes a key while other clients request it.
    fn made_and_revoked(&mut self, name: Name) -> [Planned<Step>; 3] {
        let (by, count) = (self.caller(), 1);
        let steps = [
            Step::Request {
                by,
                name,
                deadline_us: None,
                slow: false,
                count,
            },
            Step::Put {
                by,
                name,
                not_after_us: None,
            },
            Step::Revoke { by, name },
        ];
        steps.map(|step| Planned {
            number: 0,
            after_us: self.dice.below(600),
            step,
        })
    }

    fn change_tempo(&mut self) {
        let soft_us = self.shape.settings.soft_ttl_ms * MS;
        self.gap_us = match self.dice.below(6) {
            0 => 200,
            1 | 2 => 2 * MS,
            3 => 10 * MS,
            4 => soft_us / 8 + MS,
            _ => soft_us / 2 + MS,
        };
        self.focus = self.dice.one_in(3).then(|| self.name_of_any());
    }

    fn step(&mut self) -> Step {
        let all: u64 = self.weights.iter().sum();
        let mut at = self.dice.below(all);
        let kind = self.weights.iter().position(|weight| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        let (_, draw) = KINDS[kind.expect("the draw is below the sum")];
        draw(self)
    }

    fn request(&mut self) -> Step {
        let count = match self.dice.below(40) {
            0 => 40,
            1..4 => self.dice.range(2, 8) as u8,
            _ => 1,
        };
        Step::Request {
            by: self.caller(),
            name: self.name(),
            deadline_us: self.deadline(8 * MS),
            slow: self.dice.one_in(8),
            count,
        }
    }

    fn force(&mut self) -> Step {
        Step::Force {
            by: self.caller(),
            name: self.name_to_force(),
            deadline_us: self.deadline(200 * MS),
        }
    }

    fn put(&mut self) -> Step {
        Step::Put {
            by: self.caller(),
            name: self.name(),
            not_after_us: self.not_after(),
        }
    }

    fn revoke(&mut self) -> Step {
        Step::Revoke {
            by: self.caller(),
            name: self.name(),
        }
    }

    fn leave(&mut self) -> Step {
        Step::Leave {
            which: self.dice.below(256) as u8,
        }
    }

    fn disconnect(&mut self) -> Step {
        Step::Disconnect {
            connection: self.dice.below(CONNECTIONS) as u8,
        }
    }

    fn lock(&mut self) -> Step {
        Step::Lock {
            keyspace: self.keyspace(),
        }
    }

    fn unlock(&mut self) -> Step {
        Step::Unlock {
            keyspace: self.keyspace(),
        }
    }

    fn kms(&mut self) -> Step {
        let mood = if self.dice.one_in(2) {
            Mood::Good
        } else {
            self.mood()
        };
        let takes_us = self
            .dice
            .pick(&[100, 1_000, 5_000, 40_000, 300_000, 3 * S, 20 * S]);
        Step::Kms { mood, takes_us }
    }

    fn kms_says(&mut self) -> Step {
        Step::KmsSays {
            keyspace: self.keyspace(),
            shard: self.shard(),
            mood: self.mood(),
        }
    }

    fn kms_late(&mut self) -> Step {
        Step::KmsLate {
            us: self.shape.settings.dek_lease_ms * MS * self.dice.below(3) / 2,
        }
    }

    fn mood(&mut self) -> Mood {
        self.dice.pick(&[
            Mood::Good,
            Mood::Denies,
            Mood::Denies,
            Mood::Disabled,
            Mood::Locked,
            Mood::Unavailable,
            Mood::Unavailable,
            Mood::Fails,
            Mood::WrongKey,
            Mood::Loses,
            Mood::Repeats,
        ])
    }

    fn store(&mut self) -> Step {
        let load_us = self.dice.pick(&[50, 500, 3_000, 15_000]);
        let mut one_in = || self.dice.pick(&[0, 0, 0, 2, 6, 20]);
        let mood = StoreMood {
            fails_one_in: one_in(),
            panics_one_in: one_in(),
            loses_dek_one_in: one_in(),
            stale_one_in: one_in(),
            slow_one_in: one_in(),
            repeats_one_in: one_in(),
            load_us,
        };
        Step::Store { mood }
    }

    fn settings(&mut self) -> Step {
        let scale = self.scale;
        Step::Settings {
            keyspace: self.keyspace(),
            settings: settings(&mut self.dice, scale),
        }
    }

    fn rotate_dek(&mut self) -> Step {
        Step::RotateDek {
            keyspace: self.keyspace(),
        }
    }

    fn stall(&mut self) -> Step {
        Step::Stall {
            shard: self.shard(),
            us: self.dice.pick(&[500, 5 * MS, 60 * MS]),
        }
    }

    fn suspend(&mut self) -> Step {
        let settings = &self.shape.settings;
        let scale = [
            settings.soft_ttl_ms,
            settings.hard_ttl_ms,
            settings.dek_lease_ms,
            3_600_000,
        ];
        let most_us = self.dice.pick(&scale) * MS;
        Step::Suspend {
            us: self.dice.range(most_us / 2, most_us * 2),
        }
    }

    fn caller(&mut self) -> Caller {
        Caller {
            connection: self.dice.below(CONNECTIONS) as u8,
            via: self.shard(),
            allowed: !self.dice.one_in(25),
        }
    }

    fn deadline(&mut self, most_us: u64) -> Option<u64> {
        self.dice.one_in(3).then(|| self.dice.below(most_us))
    }

    fn not_after(&mut self) -> Option<u64> {
        let hard_us = self.shape.settings.hard_ttl_ms * MS;
        self.dice.one_in(5).then(|| self.dice.below(hard_us * 2))
    }

    fn name(&mut self) -> Name {
        match self.focus {
            Some(focus) if !self.dice.one_in(4) => focus,
            _ => self.name_of_any(),
        }
    }

    /// Returns a key, sometimes one that the store does not have: a force-refresh looks it up anyway.
    fn name_to_force(&mut self) -> Name {
        let (stored, keys) = (u64::from(self.shape.stored), u64::from(self.shape.keys));
        let mut name = self.name();
        if stored < keys && self.dice.one_in(3) {
            name.key = self.dice.range(stored, keys - 1) as u8;
            self.focus = Some(name);
        }
        name
    }

    fn name_of_any(&mut self) -> Name {
        Name {
            keyspace: self.keyspace(),
            key: self.dice.skewed(u64::from(self.shape.keys)) as u8,
        }
    }

    fn keyspace(&mut self) -> u8 {
        self.dice.below(u64::from(self.shape.keyspaces)) as u8
    }

    fn shard(&mut self) -> u16 {
        self.dice.below(u64::from(self.shape.shards)) as u16
    }
}
