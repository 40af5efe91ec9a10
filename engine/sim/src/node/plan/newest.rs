//! What was added last: versions by name, trims, moves of DEKs, reports, and requests that break a rule. Drawn from a
//! stream of its own, for histories from [`NEWEST_FROM`] on.

use super::draw::deadline_us;
use super::{Asks, KEYS, Key, NEWEST_FROM, PanicsIn, Plan, Step};
use crate::dice::Dice;
use crate::history::Planned;
use crate::node::ask::WITH_ID;
use keyway_protocol::Opcode;

/// Numbers of these steps begin here.
const FIRST_NUMBER: u64 = 4_000;
const COUNT_MAX: u64 = 40;
const GAP_US: u64 = 2_000;
const VERSIONS_MAX: u64 = 4;
/// More than may wait in a keyspace.
const CROWD: u64 = 300;

pub(super) fn add(plan: &mut Plan) {
    if plan.seed < NEWEST_FROM {
        return;
    }
    let mut dice = Dice::of(plan.seed, 1 << 37, 0, 0);
    for number in 0..dice.below(COUNT_MAX) {
        let asks = draw(&mut dice, plan.keyspaces);
        // Every kind of use panics occasionally.
        let panics = asks.is_use() && dice.one_in(40);
        // Who is first may do everything.
        let client = match asks.is_use() || dice.one_in(8) {
            true => dice.below(plan.clients.len() as u64) as usize,
            false => 0,
        };
        let step = match panics {
            true => Step::Panic {
                client,
                asks,
                place: PanicsIn::Result,
            },
            false => Step::Ask {
                client,
                asks,
                deadline_us: deadline_us(&mut dice),
                count: match asks.is_use() && dice.one_in(60) {
                    true => CROWD,
                    false => 1,
                },
            },
        };
        let at = dice.below(plan.steps.len() as u64 + 1) as usize;
        let planned = Planned {
            number: FIRST_NUMBER + number,
            after_us: dice.below(GAP_US),
            step,
        };
        plan.steps.insert(at, planned);
    }
}

fn draw(dice: &mut Dice, keyspaces: u32) -> Asks {
    // Occasionally one that is made later, or never.
    let most = u64::from(keyspaces) + u64::from(dice.one_in(16));
    let keyspace = 1 + dice.below(most) as u32;
    let key = Key {
        keyspace,
        number: dice.skewed(u64::from(KEYS)) as u8,
    };
    let version = dice.below(VERSIONS_MAX + 1) as u32;
    let good = !dice.one_in(5);
    let kms = dice.below(2) as usize;
    match dice.below(49) {
        0..8 => Asks::Trim {
            key,
            below: 1 + version,
        },
        8..16 => Asks::Verify { key, version, good },
        16..20 => Asks::Decrypt {
            key,
            version: version.max(1),
            good,
        },
        20..23 => Asks::Derive(key),
        23..31 => Asks::Rewrap { keyspace, kms },
        31..33 => Asks::History(keyspace),
        33..35 => Asks::Hot(keyspace),
        35..38 => Asks::Status,
        38 => Asks::InitKms(kms),
        39 => Asks::Mac(key),
        40 => Asks::Encrypt(key),
        41 => Asks::Get(key),
        42 => Asks::Import(key),
        43 => Asks::DestroyDeks(keyspace),
        44 => Asks::UnlockStatus {
            keyspace,
            ticket: 1,
        },
        45 => Asks::Unknown(dice.pick(&WITH_ID.map(|(opcode, _)| opcode))),
        46 => Asks::PublicKey(key),
        _ => Asks::Malformed(dice.pick(&Opcode::ALL[1..])),
    }
}
