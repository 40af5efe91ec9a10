//! What clients ask for less often, between the other steps. Drawn from a stream of its own, for histories from
//! [`NEWEST_FROM`] on: those before it stay as they were.

use super::draw::deadline_us;
use super::{Asks, KEYS, Key, NEWEST_FROM, Plan, Step};
use crate::dice::Dice;
use crate::history::Planned;

/// Numbers of these steps begin here.
const FIRST_NUMBER: u64 = 2_000;
const COUNT_MAX: u64 = 40;
const GAP_US: u64 = 2_000;

pub(super) fn add(plan: &mut Plan) {
    if plan.seed < NEWEST_FROM {
        return;
    }
    let mut dice = Dice::of(plan.seed, 1 << 35, 0, 0);
    for number in 0..dice.below(COUNT_MAX) {
        let keyspace = 1 + dice.below(u64::from(plan.keyspaces)) as u32;
        let key = Key {
            keyspace,
            number: dice.skewed(u64::from(KEYS)) as u8,
        };
        let asks = match dice.below(11) {
            0..3 => Asks::Mac(key),
            3..5 => Asks::Encrypt(key),
            5 => Asks::Get(key),
            6..8 => Asks::Import(key),
            _ => Asks::DestroyDeks(keyspace),
        };
        // Who is first may do everything.
        let client = match asks.is_use() || dice.one_in(10) {
            true => dice.below(plan.clients.len() as u64) as usize,
            false => 0,
        };
        let deadline_us = deadline_us(&mut dice);
        let at = dice.below(plan.steps.len() as u64 + 1) as usize;
        let step = Step::Ask {
            client,
            asks,
            deadline_us,
            count: 1,
        };
        let planned = Planned {
            number: FIRST_NUMBER + number,
            after_us: dice.below(GAP_US),
            step,
        };
        plan.steps.insert(at, planned);
    }
}

/// Numbers of the revocations of one version begin here.
const FIRST_REVOCATION: u64 = 3_000;
const REVOCATIONS_MAX: u64 = 8;
const VERSIONS_MAX: u64 = 4;

/// One history in three also revokes versions one by one.
pub(super) fn add_versions(plan: &mut Plan) {
    let mut dice = Dice::of(plan.seed, 1 << 36, 0, 0);
    if plan.seed < NEWEST_FROM || !dice.one_in(3) {
        return;
    }
    for number in 0..1 + dice.below(REVOCATIONS_MAX) {
        let key = Key {
            keyspace: 1 + dice.below(u64::from(plan.keyspaces)) as u32,
            number: dice.skewed(u64::from(KEYS)) as u8,
        };
        let version = 1 + dice.below(VERSIONS_MAX) as u32;
        let deadline_us = deadline_us(&mut dice);
        let at = dice.below(plan.steps.len() as u64 + 1) as usize;
        let planned = Planned {
            number: FIRST_REVOCATION + number,
            after_us: dice.below(GAP_US),
            step: Step::Ask {
                // Who is first may do everything.
                client: 0,
                asks: Asks::RevokeVersion { key, version },
                deadline_us,
                count: 1,
            },
        };
        plan.steps.insert(at, planned);
    }
}
