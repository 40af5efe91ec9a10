//! A keyspace as a shard acts by it. Its guard decides whether it may be used and by whom; two guards are met as
//! `in force = written ∧ wanted`.

use keyway_core::Settings;

use crate::catalogue::Keyspace;
use crate::ids::{Epoch, Opening, Revision};
use crate::policy::Policy;
use crate::time_limits::TIME_LIMITS;

/// All that a shard acts by in a keyspace. It is the whole state and not a difference, so that a newer one replaces any
/// number of older ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyspaceChange {
    /// The keyspace's id.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Which of two changes is newer; 0 at the start.
    pub revision: Revision,
    /// Locks so far. A lease of an older epoch is dropped.
    pub epoch: Epoch,
    /// Unlocks so far. At a newer one, what the KMS said before is not held against the keyspace.
    pub opening: Opening,
    /// Whether it may be used, and by whom.
    pub guard: Guard,
    /// The newest DEK that is written down: no blob is sealed under an older one.
    pub seal_floor: u32,
    /// The oldest DEK that is in use: older ones are wiped.
    pub oldest: u32,
    /// What NEEDS_UNLOCK carries, in a keyspace that the shard has not known before.
    pub ticket: u64,
}

impl KeyspaceChange {
    /// A keyspace as it is at the start, with its current ticket.
    pub fn at_start(id: u32, keyspace: &Keyspace, ticket: u64) -> Self {
        KeyspaceChange {
            id,
            name: keyspace.name.clone(),
            revision: Revision::default(),
            epoch: Epoch::default(),
            opening: Opening::default(),
            guard: Guard::of(keyspace),
            seal_floor: keyspace.generation(),
            oldest: keyspace.oldest_generation(),
            ticket,
        }
    }
}

/// The part of a keyspace that can be tighter or looser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// Locked by an operator.
    pub locked: bool,
    /// Who may do what.
    pub policy: Policy,
    /// Settings in force.
    pub settings: Settings,
}

impl Guard {
    /// Returns the guard of a keyspace as the catalogue has it.
    pub fn of(keyspace: &Keyspace) -> Guard {
        Guard {
            locked: keyspace.locked,
            policy: keyspace.policy.clone(),
            settings: keyspace.settings(),
        }
    }

    /// What both allow: locked if either is, the grants that both have, the lesser of each time limit. Whatever is
    /// neither tighter nor looser is taken from `self`.
    pub fn meet(&self, other: &Guard) -> Guard {
        Guard {
            locked: self.locked || other.locked,
            policy: self.policy.meet(&other.policy),
            settings: meet_settings(&self.settings, &other.settings),
        }
    }

    /// Whether this guard forbids something that `other` allows.
    pub fn is_tighter_than(&self, other: &Guard) -> bool {
        other.meet(self) != *other
    }
}

/// Valid if both are: what is tied to the soft TTL comes from the side that the soft TTL comes from.
fn meet_settings(ours: &Settings, theirs: &Settings) -> Settings {
    let by_soft_ttl = if theirs.soft_ttl_ms < ours.soft_ttl_ms {
        theirs
    } else {
        ours
    };
    let mut met = Settings {
        refresh_window_ms: by_soft_ttl.refresh_window_ms,
        low_water_pct: by_soft_ttl.low_water_pct,
        jitter_pct: by_soft_ttl.jitter_pct,
        ..ours.clone()
    };
    let mut theirs = theirs.clone();
    for (_, limit) in TIME_LIMITS {
        let least = (*limit(&mut met)).min(*limit(&mut theirs));
        *limit(&mut met) = least;
    }
    met
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::time_limits::is_time_limit;

    fn guard(locked: bool, grants: &[(&str, &str)], settings: Settings) -> Guard {
        let mut policy = Policy::default();
        for (principal, rights) in grants {
            policy.grant(principal, rights).unwrap();
        }
        Guard {
            locked,
            policy,
            settings,
        }
    }

    #[test]
    fn what_either_side_forbids_is_forbidden() {
        let long = Settings::default();
        let short = Settings {
            soft_ttl_ms: 1_000,
            hard_ttl_ms: 2_000,
            max_in_flight: 1,
            ..Settings::default()
        };
        let grants = [("uid:1", "all"), ("uid:2", "sign,get"), ("uid:3", "mac")];
        let ours = guard(false, &grants, long.clone());
        let grants = [("uid:1", "sign"), ("uid:2", "sign,mac"), ("uid:4", "mac")];
        let theirs = guard(true, &grants, short);
        let met = ours.meet(&theirs);
        assert!(met.locked);
        let grants = json!({ "uid:1": "sign", "uid:2": "sign" });
        assert_eq!(json!(met.policy), grants);
        let expected = Settings {
            soft_ttl_ms: 1_000,
            hard_ttl_ms: 2_000,
            ..long
        };
        assert_eq!(met.settings, expected);
        assert!(theirs.is_tighter_than(&ours) && !met.is_tighter_than(&theirs.meet(&ours)));
        assert_eq!(ours.meet(&ours), ours);
    }

    /// Changes that take something away overtake others; which settings those are must not be written down twice.
    #[test]
    fn settings_that_make_a_guard_tighter_are_the_time_limits() {
        let before = guard(false, &[], Settings::default());
        for name in keyway_core::SettingName::ALL {
            let mut values = ["1", "900000000", "auto", "serve_stale"].into_iter();
            let is_tightened = values.any(|value| {
                let mut after = before.clone();
                let setting = keyway_core::Setting::parse(name.as_str(), value);
                setting.is_ok_and(|setting| {
                    after.settings.put(setting);
                    after.is_tighter_than(&before)
                })
            });
            assert_eq!(is_tightened, is_time_limit(*name), "{name:?}");
        }
    }

    #[test]
    fn two_valid_guards_meet_in_a_valid_one() {
        let mut valid = Vec::new();
        for soft_ttl_ms in [10, 1_000, 600_000] {
            for hard_ttl_ms in [10, 1_500, 3_600_000] {
                for refresh_window_ms in [None, Some(1), Some(100), Some(400_000)] {
                    for (low_water_pct, jitter_pct) in [(0, 0), (5, 10), (20, 50)] {
                        let settings = Settings {
                            soft_ttl_ms,
                            hard_ttl_ms,
                            refresh_window_ms,
                            low_water_pct,
                            jitter_pct,
                            ..Settings::default()
                        };
                        valid.extend(settings.validate().is_ok().then_some(settings));
                    }
                }
            }
        }
        for ours in &valid {
            for theirs in &valid {
                let met = meet_settings(ours, theirs);
                met.validate().unwrap_or_else(|error| {
                    panic!("{ours:?} and {theirs:?} meet in {met:?}: {error}")
                });
            }
        }
        assert!(valid.len() > 10, "{}", valid.len());
    }
}
