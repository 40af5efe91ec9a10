//! Which connection a call takes, and when to connect again. No sockets: the flavours bring them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use keyway_protocol::{KeyspaceName, ServerHello, ShardMap};

use crate::jitter::Jitter;
use crate::{Address, KeyspaceInfo};

/// How long a call waits for its owner's connection to come up while another one works already,
/// where it would be forwarded.
const OWNER_CONNECT_WAIT_MAX: Duration = Duration::from_millis(20);

/// After a failure the next attempt comes within this time, at random; the time doubles with each
/// further failure.
const BACKOFF_BASE: Duration = Duration::from_millis(10);

/// The longest backoff.
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A client's connections: slot 0 reaches any shard, slot `1 + i` reaches shard `i`.
#[derive(Debug)]
pub(crate) struct ConnectionTable<C> {
    address: Address,
    map: ShardMap,
    dev: bool,
    keyspaces: HashMap<KeyspaceName, u32>,
    slots: Vec<Slot<C>>,
    serial: u64,
}

#[derive(Debug)]
enum Slot<C> {
    Down {
        failures: u32,
        /// Not to be tried before; `None` if it may be tried at once.
        retry_at: Option<Instant>,
        cause: Option<String>,
    },
    Connecting {
        serial: u64,
        since: Instant,
        failures: u32,
    },
    Up {
        serial: u64,
        /// The shard that HELLO said this is.
        shard: u16,
        connection: C,
    },
}

/// Names one attempt to connect, so that a late result cannot be taken for a newer one's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Attempt {
    pub(crate) slot: usize,
    pub(crate) serial: u64,
    pub(crate) address: Address,
}

impl Attempt {
    /// The attempt whose connection a new table begins with.
    pub(crate) fn first(address: Address) -> Self {
        Self {
            slot: 0,
            serial: 0,
            address,
        }
    }
}

/// Whom a call is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Target<'a> {
    Any,
    Shard(u16),
    Key { keyspace_id: u32, key_id: &'a [u8] },
}

/// What to do to send a call.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route<C> {
    /// Send it here.
    Use(C),
    /// Connect here (one caller must, and report), then ask again.
    Connect(Attempt),
    /// Wait for a change, but not longer than this, then ask again.
    Wait(Instant),
}

impl<C: Clone> ConnectionTable<C> {
    /// A table with one connection, which any shard may have accepted.
    pub(crate) fn new(address: Address, hello: ServerHello, connection: C) -> Self {
        let mut table = Self {
            address,
            map: hello.map.clone(),
            dev: hello.dev,
            keyspaces: HashMap::new(),
            slots: vec![Slot::Up {
                serial: 0,
                shard: hello.this_shard,
                connection,
            }],
            serial: 0,
        };
        let unwanted = table.learn(hello);
        debug_assert!(unwanted.is_empty(), "a new table has one connection");
        table
    }

    /// The id of a keyspace that the principal may use.
    pub(crate) fn keyspace_id(&self, name: &KeyspaceName) -> Option<u32> {
        self.keyspaces.get(name).copied()
    }

    pub(crate) fn shard_count(&self) -> u16 {
        self.map.router.shard_count()
    }

    pub(crate) fn is_dev(&self) -> bool {
        self.dev
    }

    /// Which connection to take.
    pub(crate) fn route(&mut self, now: Instant, target: Target<'_>) -> Route<C> {
        let owner = match target {
            Target::Any => None,
            Target::Shard(shard) => Some(shard).filter(|&shard| shard < self.shard_count()),
            Target::Key {
                keyspace_id,
                key_id,
            } => Some(self.map.router.shard_of(keyspace_id, key_id)),
        };
        if let Some(owner) = owner {
            if let Some(connection) = self.connection_to(owner) {
                return Route::Use(connection);
            }
            let slot = 1 + usize::from(owner);
            if let Some(attempt) = self.attempt(now, slot) {
                return Route::Connect(attempt);
            }
            if let Slot::Connecting { since, .. } = self.slots[slot] {
                let until = since + OWNER_CONNECT_WAIT_MAX;
                if now < until {
                    return Route::Wait(until);
                }
            }
        }
        if let Slot::Up { connection, .. } = &self.slots[0] {
            return Route::Use(connection.clone());
        }
        if let Some(attempt) = self.attempt(now, 0) {
            return Route::Connect(attempt);
        }
        let up = self.slots.iter().find_map(|slot| match slot {
            Slot::Up { connection, .. } => Some(connection.clone()),
            _ => None,
        });
        if let Some(connection) = up {
            return Route::Use(connection);
        }
        // Nothing works. Any slot's retry or any attempt's end may change that.
        let retry_at = self.slots.iter().filter_map(|slot| match slot {
            Slot::Down { retry_at, .. } => retry_at.filter(|&retry_at| retry_at > now),
            _ => None,
        });
        Route::Wait(retry_at.min().unwrap_or(now + BACKOFF_MAX))
    }

    fn connection_to(&self, owner: u16) -> Option<C> {
        let own_slot = 1 + usize::from(owner);
        match (&self.slots[own_slot], &self.slots[0]) {
            (Slot::Up { connection, .. }, _) => Some(connection.clone()),
            (
                _,
                Slot::Up {
                    shard, connection, ..
                },
            ) if *shard == owner => Some(connection.clone()),
            _ => None,
        }
    }

    /// Begins to connect `slot` if it is down and its backoff has ended.
    fn attempt(&mut self, now: Instant, slot: usize) -> Option<Attempt> {
        let address = match slot {
            0 => Some(self.address.clone()),
            _ => self
                .address
                .of_shard((slot - 1) as u16, self.map.ports[slot - 1]),
        }?;
        match self.slots[slot] {
            Slot::Down {
                failures, retry_at, ..
            } if retry_at.is_none_or(|retry_at| now >= retry_at) => {
                self.serial += 1;
                let serial = self.serial;
                self.slots[slot] = Slot::Connecting {
                    serial,
                    since: now,
                    failures,
                };
                Some(Attempt {
                    slot,
                    serial,
                    address,
                })
            }
            _ => None,
        }
    }

    /// Records that an attempt succeeded. Returns the connections that are no longer used: close them.
    #[must_use]
    pub(crate) fn connected(
        &mut self,
        attempt: &Attempt,
        hello: ServerHello,
        connection: C,
    ) -> Vec<C> {
        let shard = hello.this_shard;
        let mut unwanted = self.learn(hello);
        if self.is_current(attempt.slot, attempt.serial) {
            self.slots[attempt.slot] = Slot::Up {
                serial: attempt.serial,
                shard,
                connection,
            };
        } else {
            unwanted.push(connection);
        }
        unwanted
    }

    /// An attempt failed, or a connection broke.
    pub(crate) fn lost(
        &mut self,
        now: Instant,
        slot: usize,
        serial: u64,
        cause: &str,
        jitter: &Jitter,
    ) {
        if !self.is_current(slot, serial) {
            return;
        }
        let failures = match self.slots[slot] {
            Slot::Connecting { failures, .. } => failures.saturating_add(1),
            Slot::Up { .. } | Slot::Down { .. } => 0,
        };
        let backoff = BACKOFF_BASE
            .saturating_mul(1 << failures.min(16))
            .min(BACKOFF_MAX);
        self.slots[slot] = Slot::Down {
            failures,
            retry_at: Some(now + jitter.up_to(backoff)),
            cause: Some(cause.to_owned()),
        };
    }

    /// Records that a connection that was routed to is closed, before its end was reported.
    pub(crate) fn found_closed(
        &mut self,
        now: Instant,
        jitter: &Jitter,
        is_it: impl Fn(&C) -> bool,
    ) {
        let found = self
            .slots
            .iter()
            .enumerate()
            .find_map(|(index, slot)| match slot {
                Slot::Up {
                    serial, connection, ..
                } if is_it(connection) => Some((index, *serial)),
                _ => None,
            });
        if let Some((slot, serial)) = found {
            self.lost(now, slot, serial, "the connection broke", jitter);
        }
    }

    fn is_current(&self, slot: usize, of: u64) -> bool {
        match self.slots.get(slot) {
            Some(Slot::Connecting { serial, .. } | Slot::Up { serial, .. }) => *serial == of,
            Some(Slot::Down { .. }) | None => false,
        }
    }

    /// Takes over what a HELLO says. Another map makes other slots, and their connections are
    /// given to be closed.
    #[must_use]
    pub(crate) fn learn(&mut self, hello: ServerHello) -> Vec<C> {
        self.dev = hello.dev;
        // What was listed is still known where HELLO cannot name all.
        if !hello.more {
            self.keyspaces.clear();
        }
        let named = hello.keyspaces.into_iter();
        self.keyspaces
            .extend(named.map(|entry| (entry.name, entry.id)));
        let slot_count = 1 + hello.map.ports.len();
        let mut unwanted = Vec::new();
        if self.map != hello.map {
            self.map = hello.map;
            unwanted = self.slots.drain(1..).filter_map(Slot::into_up).collect();
        }
        self.slots.resize_with(slot_count, || Slot::Down {
            failures: 0,
            retry_at: None,
            cause: None,
        });
        unwanted
    }

    /// A keyspace that this client made is known without asking again.
    pub(crate) fn learn_keyspace(&mut self, name: KeyspaceName, id: u32) {
        self.keyspaces.insert(name, id);
    }

    /// Takes over what a list of keyspaces says; names that are none are left out.
    pub(crate) fn learn_listed(&mut self, listed: &[KeyspaceInfo]) {
        let listed = listed.iter();
        let named = listed.filter_map(|info| Some((info.name.parse().ok()?, info.id)));
        self.keyspaces.extend(named);
    }

    /// Why there is no connection, in the words of the last failure.
    pub(crate) fn cause(&self) -> Option<String> {
        self.slots.iter().find_map(|slot| match slot {
            Slot::Down { cause, .. } => cause.clone(),
            _ => None,
        })
    }

    /// All connections, to be closed.
    pub(crate) fn take_connections(&mut self) -> Vec<C> {
        self.slots.drain(..).filter_map(Slot::into_up).collect()
    }
}

impl<C> Slot<C> {
    fn into_up(self) -> Option<C> {
        match self {
            Self::Up { connection, .. } => Some(connection),
            Self::Down { .. } | Self::Connecting { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn hello(ports: &[u16], this_shard: u16) -> ServerHello {
        ServerHello {
            version: 1,
            dev: true,
            more: false,
            this_shard,
            payload_len_max: 66_560,
            map: ShardMap::new([7; 16], ports.to_vec()).unwrap(),
            keyspaces: Vec::new(),
        }
    }

    fn table(ports: &[u16]) -> ConnectionTable<&'static str> {
        ConnectionTable::new("127.0.0.1:7420".parse().unwrap(), hello(ports, 0), "any")
    }

    fn attempt(route: Route<&'static str>) -> Attempt {
        match route {
            Route::Connect(attempt) => attempt,
            other => panic!("{other:?} where an attempt was expected"),
        }
    }

    #[test]
    fn the_owner_gets_its_own_connection_unless_any_reached_it_already() {
        let (mut table, now) = (table(&[7421, 7422]), Instant::now());
        assert_eq!(table.route(now, Target::Shard(0)), Route::Use("any"));
        let to_owner = attempt(table.route(now, Target::Shard(1)));
        assert_eq!(to_owner.address.to_string(), "127.0.0.1:7422");
        assert!(
            table
                .connected(&to_owner, hello(&[7421, 7422], 1), "own")
                .is_empty()
        );
        assert_eq!(table.route(now, Target::Shard(1)), Route::Use("own"));
    }

    #[test]
    fn a_slow_owner_is_waited_for_briefly_and_then_passed_by() {
        let (mut table, now) = (table(&[7421, 7422]), Instant::now());
        attempt(table.route(now, Target::Shard(1)));
        assert_eq!(
            table.route(now, Target::Shard(1)),
            Route::Wait(now + OWNER_CONNECT_WAIT_MAX)
        );
        let later = now + OWNER_CONNECT_WAIT_MAX;
        assert_eq!(table.route(later, Target::Shard(1)), Route::Use("any"));
    }

    #[test]
    fn an_owner_that_fails_is_passed_by_until_its_back_off_is_over() {
        let (mut table, now, jitter) = (table(&[7421, 7422]), Instant::now(), Jitter::new());
        let to_owner = attempt(table.route(now, Target::Shard(1)));
        let later = now + SECOND;
        table.lost(later, to_owner.slot, to_owner.serial, "refused", &jitter);
        assert_eq!(table.route(now, Target::Shard(1)), Route::Use("any"));
        attempt(table.route(later + SECOND, Target::Shard(1)));
    }

    #[test]
    fn an_owner_without_a_port_is_reached_through_any() {
        let mut table = table(&[0, 0]);
        assert_eq!(
            table.route(Instant::now(), Target::Shard(1)),
            Route::Use("any")
        );
    }

    #[test]
    fn without_any_connection_another_shard_forwards() {
        let (mut table, now, jitter) = (table(&[7421, 7422]), Instant::now(), Jitter::new());
        let to_owner = attempt(table.route(now, Target::Shard(1)));
        assert!(
            table
                .connected(&to_owner, hello(&[7421, 7422], 1), "own")
                .is_empty()
        );
        table.lost(now, 0, 0, "broken", &jitter);
        let to_any = attempt(table.route(now + SECOND, Target::Any));
        table.lost(now + SECOND, to_any.slot, to_any.serial, "refused", &jitter);
        assert_eq!(table.route(now, Target::Any), Route::Use("own"));
    }

    #[test]
    fn a_late_failure_of_an_older_connection_changes_nothing() {
        let (mut table, now, jitter) = (table(&[7421]), Instant::now(), Jitter::new());
        table.lost(now, 0, 0, "broken", &jitter);
        let again = attempt(table.route(now + SECOND, Target::Any));
        assert!(table.connected(&again, hello(&[7421], 0), "new").is_empty());
        table.lost(now, 0, 0, "broken", &jitter);
        assert_eq!(table.route(now, Target::Any), Route::Use("new"));
    }

    #[test]
    fn another_map_makes_other_slots_and_gives_up_the_old_connections() {
        let (mut table, now) = (table(&[7421, 7422]), Instant::now());
        let to_owner = attempt(table.route(now, Target::Shard(1)));
        assert!(
            table
                .connected(&to_owner, hello(&[7421, 7422], 1), "own")
                .is_empty()
        );
        assert_eq!(table.learn(hello(&[7421], 0)), ["own"]);
        assert_eq!(table.shard_count(), 1);
        assert_eq!(table.route(now, Target::Shard(1)), Route::Use("any"));
    }

    #[test]
    fn back_off_grows_and_is_bounded() {
        let (mut table, jitter, mut now) = (table(&[7421]), Jitter::new(), Instant::now());
        table.lost(now, 0, 0, "broken", &jitter);
        for _ in 0..64 {
            now += BACKOFF_MAX;
            let again = attempt(table.route(now, Target::Any));
            table.lost(now, again.slot, again.serial, "refused", &jitter);
        }
        assert_eq!(table.cause().as_deref(), Some("refused"));
    }
}
