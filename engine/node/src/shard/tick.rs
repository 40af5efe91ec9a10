//! The tick: what a shard does once a millisecond, whatever there is to do. It is bounded by work, and serves no request.

use keyway_core::{SCAN_PERIOD_US, TICK_US};

use super::Shard;
use super::port::Port;
use crate::messages::ToControl;

/// Time between two looks at a shard's connections, µs.
const LOOK_PERIOD_US: u64 = 1_000_000;

impl<P: Port> Shard<P> {
    pub(super) fn tick_if_due(&mut self) {
        let now = self.timed.now();
        if now < self.upkeep.tick_at {
            return;
        }
        self.upkeep.tick_at = now.plus_us(TICK_US);
        self.unit(|shard| shard.core.call(|core| core.handle_tick(now)));
        self.unit(Self::acknowledge_locks);
        self.jobs.look_for_due();
        self.unit(|shard| {
            for wanted in shard.shelf.take_retired_wanted() {
                shard.out.tell_control(ToControl::Revive {
                    keyspace: wanted.keyspace,
                    generation: wanted.generation,
                });
            }
        });
        self.unit(Self::go_on_surveying);
        if now >= self.upkeep.scan_at {
            self.upkeep.scan_at = now.plus_us(SCAN_PERIOD_US);
            self.unit(Self::warm_up);
        }
        self.unit(Self::shed_unsent);
        if now >= self.upkeep.look_at {
            self.upkeep.look_at = now.plus_us(LOOK_PERIOD_US);
            self.unit(Self::look_at_connections);
        }
    }
}
