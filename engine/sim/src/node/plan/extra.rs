//! Situations that independent steps hardly ever come to. Some histories have one of them, drawn from a stream of its own.

use super::{Asks, Key, PanicsIn, Plan, Step, Way};
use crate::control::plan::{DiskMood, KmsMood};
use crate::dice::Dice;
use crate::history::Planned;
use keyway_node::connection::IN_FLIGHT_PER_CONNECTION_MAX;

const MS: u64 = 1_000;
const S: u64 = 1_000_000;
/// Nearly as long as a payload may be.
const PING_LEN: usize = 60_000;
/// Numbers of these steps begin here.
const FIRST_NUMBER: u64 = 1_000;

/// A step, and how long after the one before it.
type Timed = (u64, Step);

pub(super) fn add(plan: &mut Plan) {
    let mut dice = Dice::of(plan.seed, 1 << 34, 0, 0);
    let keyspace = 1 + dice.below(u64::from(plan.keyspaces)) as u32;
    let user = plan.clients.iter().position(|it| it.user.is_some());
    let mut scene = Scene {
        key: Key {
            keyspace,
            number: dice.below(3) as u8,
        },
        user: user.unwrap_or(0),
        shard: dice.below(u64::from(plan.shards)) as u16,
        is_first: false,
        dice,
    };
    let steps = match scene.dice.below(150) {
        0..20 => scene.full_lane(),
        20..50 => scene.late_lease(),
        50..70 => scene.panic(),
        70..85 => scene.strangers(),
        85..90 => scene.full_connection(plan),
        90..95 => scene.unread(plan),
        95 => scene.pages(plan),
        _ => return,
    };
    // Some need a node that has done nothing yet.
    let at = match scene.is_first {
        true => 0,
        false => scene.dice.below(plan.steps.len() as u64 + 1) as usize,
    };
    let steps = (FIRST_NUMBER..).zip(steps);
    let steps = steps.map(|(number, (after_us, step))| Planned {
        number,
        after_us,
        step,
    });
    plan.steps.splice(at..at, steps);
}

struct Scene {
    dice: Dice,
    key: Key,
    /// A client that is not the operator, if there is one.
    user: usize,
    shard: u16,
    is_first: bool,
}

impl Scene {
    /// Control has much to do: its ordinary lane is slow, or full.
    fn full_lane(&mut self) -> Vec<Timed> {
        let keyspace = self.key.keyspace;
        let crowd = Step::Crowd {
            way: Way::ToControl,
            us: self.dice.pick(&[100 * MS, 2 * S, 9 * S]),
            places: self.dice.pick(&[0, 3, 60, 200, 10_000]),
        };
        let asks = [
            (self.user, Asks::Keyspaces),
            (0, Asks::Lock(keyspace)),
            (self.user, Asks::Keyspaces),
            (0, Asks::LockAll),
            (0, unlock(keyspace)),
        ];
        let mut steps = vec![(MS, crowd)];
        for (client, asks) in asks {
            if !self.dice.one_in(3) {
                let after_us = self.dice.below(20 * MS);
                steps.push((after_us, ask(client, asks, 1 + self.dice.below(4))));
            }
        }
        steps
    }

    /// A lease waits in a shard's ordinary lane while the keyspace is locked and opened again, and what opens it overtakes
    /// the lease.
    fn late_lease(&mut self) -> Vec<Timed> {
        self.is_first = true;
        let keyspace = self.key.keyspace;
        let kms = (keyspace as usize - 1) % 2;
        let slow_us = self.dice.range(10 * MS, 40 * MS);
        let mood = |takes_us| Step::Kms {
            kms,
            mood: KmsMood::Good,
            takes_us,
        };
        let disk = Step::Disk {
            mood: DiskMood::Good,
            takes_us: 300,
        };
        let crowd_us = self.dice.range(150 * MS, 300 * MS);
        let crowd = Step::Crowd {
            way: Way::ToShards,
            us: crowd_us,
            places: 10_000,
        };
        // Goes by the emergency lane, with the whole state of the keyspace.
        let withdraw = Asks::Withdraw { keyspace, who: 0 };
        let sign = |count| ask(0, Asks::Sign(self.key), count);
        let mut steps = vec![
            (0, mood(100)),
            (0, disk),
            (MS, ask(0, Asks::UnlockKms(kms), 1)),
            (20 * MS, ask(0, Asks::Lock(keyspace), 1)),
            (30 * MS, ask(0, unlock(keyspace), 1)),
            (30 * MS, mood(slow_us)),
            (0, sign(2)),
            (4 * MS, crowd),
            (slow_us, ask(0, Asks::Lock(keyspace), 1)),
            (5 * MS, mood(200)),
            (0, ask(0, unlock(keyspace), 1)),
            (20 * MS, ask(0, withdraw, 1)),
        ];
        let gap_us = self.dice.pick(&[2 * MS, 10 * MS]);
        steps.extend((0..12).map(|_| (gap_us, sign(1))));
        steps.push((crowd_us.saturating_sub(12 * gap_us), sign(3)));
        steps.extend((0..8).map(|_| (500, sign(1))));
        steps
    }

    /// Strangers take what places and descriptors they get, and the operator connects.
    fn strangers(&mut self) -> Vec<Timed> {
        let come = Step::Strangers {
            shard: self.shard,
            count: self.dice.pick(&[6, 40, 120]),
            descriptors: self.dice.pick(&[18, 30, 1_000]),
        };
        let gap_us = self.dice.pick(&[MS, 100 * MS, 3 * S]);
        vec![
            (MS, come),
            (MS, Step::Reset { client: 0 }),
            (gap_us, ask(0, Asks::Lock(self.key.keyspace), 1)),
            (MS, ask(self.user, Asks::Sign(self.key), 1)),
            (MS, ask(0, unlock(self.key.keyspace), 1)),
        ]
    }

    /// A connection has as many requests in flight as it may have, for longer than a peer may be late; more of them have
    /// arrived, and end in the middle of one.
    fn full_connection(&mut self, plan: &mut Plan) -> Vec<Timed> {
        self.is_first = true;
        without_deadlines(plan);
        let us = self.dice.range(14 * S, 25 * S);
        let crowd = Step::Crowd {
            way: Way::ToControl,
            us,
            places: 100_000,
        };
        vec![
            (MS, crowd),
            (
                MS,
                ask(0, Asks::Keyspaces, IN_FLIGHT_PER_CONNECTION_MAX as u64),
            ),
            (MS, ask(0, Asks::Ping(PING_LEN), 40)),
            (us, ask(0, Asks::Keyspaces, 1)),
        ]
    }

    /// A client asks for more than it reads.
    fn unread(&mut self, plan: &mut Plan) -> Vec<Timed> {
        without_deadlines(plan);
        let client = self.dice.pick(&[0, self.user]);
        let us = self.dice.pick(&[10 * MS, S, 4 * S]);
        vec![
            (MS, Step::Unread { client, us }),
            (MS, ask(client, Asks::Ping(PING_LEN), 60)),
            (us, ask(0, Asks::Lock(self.key.keyspace), 1)),
            (MS, ask(0, unlock(self.key.keyspace), 1)),
        ]
    }

    /// There are more keyspaces than HELLO, or a page, has room for.
    fn pages(&mut self, plan: &mut Plan) -> Vec<Timed> {
        plan.unused = 930;
        plan.steps.truncate(20);
        // No step uses them: nothing in them has to open again at the end.
        let used = plan.keyspaces;
        plan.steps.retain(|planned| match planned.step {
            Step::Ask {
                asks: Asks::LockAll | Asks::LockKms(_),
                ..
            } => false,
            Step::Ask { asks, .. } => asks.keyspace().is_none_or(|keyspace| keyspace <= used),
            _ => true,
        });
        let page = Asks::Page { walk: 0, after: 0 };
        vec![
            (MS, ask(0, page, 1)),
            (S, Step::Reset { client: 0 }),
            (MS, ask(0, page, 1)),
        ]
    }

    fn panic(&mut self) -> Vec<Timed> {
        let key = self.key;
        let (asks, place) = match self.dice.below(4) {
            0 => (Asks::Sign(key), PanicsIn::Result),
            1 => (Asks::Sign(key), PanicsIn::Choice),
            2 => (Asks::Generate(key), PanicsIn::Sealing),
            _ => (Asks::Rotate(key), PanicsIn::Sealing),
        };
        let planted = Step::Panic {
            client: 0,
            asks,
            place,
        };
        vec![(MS, planted), (MS, ask(0, Asks::Sign(key), 2))]
    }
}

/// What has arrived at a full connection is not looked at, and nor is its deadline.
fn without_deadlines(plan: &mut Plan) {
    for planned in &mut plan.steps {
        if let Step::Ask { deadline_us, .. } = &mut planned.step {
            *deadline_us = 0;
        }
    }
}

fn ask(client: usize, asks: Asks, count: u64) -> Step {
    Step::Ask {
        client,
        asks,
        deadline_us: 0,
        count,
    }
}

fn unlock(keyspace: u32) -> Asks {
    Asks::Unlock {
        keyspace,
        watch: false,
        secret: true,
    }
}
