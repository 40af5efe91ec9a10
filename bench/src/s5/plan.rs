//! What the KMS does when, and the keyspaces that live through it.

use std::time::Duration;

use keyway_testkit::fault_proxy::Fault;
use serde::Serialize;

use super::kms::{FAULTY, SOUND};

/// A backoff and an open breaker last at most 10 s each: a shorter phase could not show a
/// recovery.
const RECOVERY_MIN: Duration = Duration::from_secs(20);
/// Longer than a usual call takes by far, and shorter than our time limit for one.
const DELAY_MAX: Duration = Duration::from_secs(2);
const RETRY_AFTER_S: u32 = 1;

/// Names of the phases that are judged separately.
pub const BASELINE: &str = "baseline";
pub const OUTAGE: &str = "outage";
pub const AFTER_OUTAGE: &str = "back";
pub const SLOW: &str = "slow";
pub const THROTTLED: &str = "429";
pub const AFTER_THROTTLING: &str = "back again";
pub const DENIED: &str = "403";
pub const UNLOCKED: &str = "unlocked";

/// One part of the time line.
#[derive(Clone, Debug)]
pub struct Phase {
    pub name: &'static str,
    /// From the start of the load.
    pub start: Duration,
    pub end: Duration,
    /// What calls to the KMS meet.
    pub fault: Fault,
}

/// A keyspace with its load.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Group {
    pub name: &'static str,
    pub kms: &'static str,
    pub dek_lease_ms: u64,
}

/// Indices into the groups.
pub const LONG: usize = 0;
pub const SHORT: usize = 1;
pub const OTHER: usize = 2;
pub const GROUPS: usize = 3;

/// The time line, scaled by a unit of time, `DURATION_S`.
#[derive(Clone, Debug)]
pub struct Plan {
    pub phases: Vec<Phase>,
    pub groups: [Group; GROUPS],
}

impl Plan {
    /// The outage takes two units. A lease is renewed at half, so what is left of it when the
    /// outage begins is between half of it and all: that of `long` outlives the outage by a sixth
    /// of itself at least, and that of `short` ends in each fault that lasts a unit.
    pub fn new(unit: Duration) -> Self {
        let recovery = (unit * 4 / 3).max(RECOVERY_MIN);
        // Half a lease is time enough for a slow renewal, in a short run too.
        let delay = DELAY_MAX.min(unit / 15);
        let throttle = Fault::Throttle {
            retry_after_s: RETRY_AFTER_S,
        };
        let lengths = [
            (BASELINE, unit / 2, Fault::Pass),
            (OUTAGE, unit * 2, Fault::Down),
            (AFTER_OUTAGE, recovery, Fault::Pass),
            (SLOW, unit, Fault::Delay(delay)),
            (THROTTLED, unit, throttle),
            (AFTER_THROTTLING, recovery, Fault::Pass),
            (DENIED, unit, Fault::Deny),
            (UNLOCKED, unit / 2, Fault::Pass),
        ];
        let mut start = Duration::ZERO;
        let mut phases = Vec::new();
        for (name, length, fault) in lengths {
            let end = start + length;
            phases.push(Phase {
                name,
                start,
                end,
                fault,
            });
            start = end;
        }
        let group = |name, kms, lease: Duration| Group {
            name,
            kms,
            dek_lease_ms: lease.as_millis() as u64,
        };
        Self {
            phases,
            groups: [
                group("long", FAULTY, unit * 6),
                group("short", FAULTY, unit * 2 / 3),
                group("other", SOUND, unit * 2 / 3),
            ],
        }
    }

    /// From the start of the load to its end.
    pub fn length(&self) -> Duration {
        self.phases.last().map_or(Duration::ZERO, |phase| phase.end)
    }

    /// The phase of this name.
    pub fn phase(&self, name: &str) -> &Phase {
        let found = self.phases.iter().find(|phase| phase.name == name);
        found.expect("the names are those above")
    }
}

impl Group {
    /// The lease.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.dek_lease_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases_follow_each_other_and_leases_relate_to_them() {
        for unit_s in [5, 30, 300] {
            let plan = Plan::new(Duration::from_secs(unit_s));
            assert!(plan.phases.windows(2).all(|two| two[0].end == two[1].start));
            let outage = plan.phase(OUTAGE);
            let outage = outage.end - outage.start;
            assert!(plan.groups[LONG].lease() / 2 > outage);
            for fault in [OUTAGE, THROTTLED, DENIED] {
                let phase = plan.phase(fault);
                assert!(plan.groups[SHORT].lease() < phase.end - phase.start);
            }
        }
    }
}
