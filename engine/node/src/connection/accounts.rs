//! What each principal uses of a shard, and the shares that it may have: connections, requests in flight, unsent
//! answers, and tasks that read the log or generate keys.
//!
//! The shares apply to ordinary principals. The server's user and root over the Unix socket, and every client with
//! `--dev`, are bounded by the limits of a connection and of the shard alone.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::policy::Principal;

/// Connections beyond `connections_max` that are kept for the server's user and root on the Unix socket.
pub const OPERATOR_CONNECTIONS: usize = 8;

/// Descriptors below the limit of the process that only the server's user, root, and the server's own files take.
pub const DESCRIPTORS_RESERVED: u64 = 16;

/// Places among a shard's waiting requests that are kept for the server's user and root on the Unix socket.
pub const WAITING_RESERVED: usize = 1_024;
/// As [`WAITING_RESERVED`], in the control thread's queue.
pub const CONTROL_RESERVED: usize = 64;
/// As [`WAITING_RESERVED`], in bytes of requests that a shard keeps.
pub const HELD_BYTES_RESERVED: usize = 1 << 20;

/// The part of a shard's connections that one principal may have, in percent.
pub const CONNECTIONS_PER_PRINCIPAL_PCT: usize = 75;

/// With fewer connections than this there is nothing to share.
const SHARED_CONNECTIONS_MIN: usize = 64;

/// Requests in flight of one principal at a shard; past it a connection of his is read only while it has none.
pub const IN_FLIGHT_PER_PRINCIPAL_MAX: usize = 32_768;

/// Unsent answers of one principal at a shard; past it a connection of his is read only while it has none.
pub const UNSENT_BYTES_PER_PRINCIPAL_MAX: usize = 16 << 20;

/// Unsent answers of a shard past which a connection is read only while it has none.
pub const UNSENT_BYTES_SOFT_MAX: usize = 32 << 20;

/// Unsent answers of a shard past which those who read least are closed.
pub const UNSENT_BYTES_MAX: usize = 64 << 20;

/// Tasks of one principal at a shard that page through the log.
pub const LISTS_PER_PRINCIPAL_MAX: usize = 64;

/// Tasks of one principal at a shard that generate or import a key.
pub const WRITES_PER_PRINCIPAL_MAX: usize = 2_048;

/// Revocations of one principal at a shard that wait for the log. The server's user and root have no such limit.
pub const REVOCATIONS_PER_PRINCIPAL_MAX: usize = 16_384;

/// Accounts without use that are kept before they are looked through.
const UNUSED_ACCOUNTS_MAX: usize = 1_024;

const _: () = assert!(UNSENT_BYTES_PER_PRINCIPAL_MAX < UNSENT_BYTES_SOFT_MAX);
const _: () = assert!(UNSENT_BYTES_SOFT_MAX < UNSENT_BYTES_MAX);

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The shard has as many as it may.
    Shard,
    /// The principal has its share.
    Principal,
}

/// Use of one principal at one shard.
#[derive(Debug)]
pub struct Account {
    principal: Principal,
    connections: Cell<usize>,
    in_flight: Cell<usize>,
    unsent_bytes: Cell<usize>,
    lists: Cell<usize>,
    writes: Cell<usize>,
    revocations: Cell<usize>,
    standing: Cell<Standing>,
    shard_unsent_bytes: Rc<Cell<usize>>,
}

/// What a principal is at this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It may do everything.
    Master,
    /// Some keyspace grants it something.
    Granted,
    /// Nothing is granted to it.
    Rightless,
}

impl Account {
    fn new(principal: Principal, shard_unsent_bytes: Rc<Cell<usize>>) -> Account {
        Account {
            principal,
            connections: Cell::new(0),
            in_flight: Cell::new(0),
            unsent_bytes: Cell::new(0),
            lists: Cell::new(0),
            writes: Cell::new(0),
            revocations: Cell::new(0),
            standing: Cell::new(Standing::Granted),
            shard_unsent_bytes,
        }
    }

    /// Whose it is.
    pub fn principal(&self) -> Principal {
        self.principal
    }

    /// What the principal was when the shard last looked, within the last second.
    pub fn standing(&self) -> Standing {
        self.standing.get()
    }

    /// Notes what the principal is now.
    pub fn set_standing(&self, standing: Standing) {
        self.standing.set(standing);
    }

    /// One more request, or one less.
    pub fn change_in_flight(&self, before: usize, after: usize) {
        replace_part(&self.in_flight, before, after);
    }

    /// An outbox had `before` bytes and has `after`.
    pub fn change_unsent(&self, before: usize, after: usize) {
        if before != after {
            replace_part(&self.unsent_bytes, before, after);
            replace_part(&self.shard_unsent_bytes, before, after);
        }
    }

    /// Returns whether a connection of this principal with that many requests in flight and unsent bytes is to be
    /// read. One that has neither always is, so none starves for what others of the same principal do.
    pub fn may_read(&self, in_flight: usize, unsent_bytes: usize) -> bool {
        if unsent_bytes > 0 && self.shard_unsent_bytes.get() > UNSENT_BYTES_SOFT_MAX {
            return false;
        }
        if self.standing.get() == Standing::Master {
            return true;
        }
        (in_flight == 0 || self.in_flight.get() <= IN_FLIGHT_PER_PRINCIPAL_MAX)
            && (unsent_bytes == 0 || self.unsent_bytes.get() <= UNSENT_BYTES_PER_PRINCIPAL_MAX)
    }

    fn is_unused(&self) -> bool {
        let uses = [&self.connections, &self.in_flight, &self.unsent_bytes];
        let tasks = [&self.lists, &self.writes, &self.revocations];
        uses.into_iter().chain(tasks).all(|uses| uses.get() == 0)
    }
}

fn replace_part(sum: &Cell<usize>, before: usize, after: usize) {
    sum.set((sum.get() + after).saturating_sub(before));
}

/// A place that is given back when dropped.
#[derive(Debug)]
pub struct Place {
    account: Rc<Account>,
    of: fn(&Account) -> &Cell<usize>,
}

impl Place {
    fn take(account: &Rc<Account>, of: fn(&Account) -> &Cell<usize>) -> Place {
        let count = of(account);
        count.set(count.get() + 1);
        Place {
            account: Rc::clone(account),
            of,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let count = (self.of)(&self.account);
        count.set(count.get().saturating_sub(1));
    }
}

/// All accounts of a shard.
#[derive(Debug)]
pub struct Accounts {
    by_principal: RefCell<BTreeMap<Principal, Rc<Account>>>,
    connections_max: usize,
    unsent_bytes: Rc<Cell<usize>>,
}

impl Accounts {
    /// None yet, at a shard with `connections_max` connections for strangers.
    pub fn new(connections_max: usize) -> Accounts {
        Accounts {
            by_principal: RefCell::default(),
            connections_max,
            unsent_bytes: Rc::default(),
        }
    }

    /// The account of a principal.
    pub fn of(&self, principal: Principal) -> Rc<Account> {
        let mut by_principal = self.by_principal.borrow_mut();
        if by_principal.len() > UNUSED_ACCOUNTS_MAX && !by_principal.contains_key(&principal) {
            by_principal.retain(|_, account| !account.is_unused());
        }
        let new = || Rc::new(Account::new(principal, Rc::clone(&self.unsent_bytes)));
        Rc::clone(by_principal.entry(principal).or_insert_with(new))
    }

    /// Every account in use, to look at.
    pub fn for_each(&self, look: impl FnMut(&Rc<Account>)) {
        self.by_principal.borrow().values().for_each(look);
    }

    /// Bytes of answers of all connections of the shard.
    pub fn unsent_bytes(&self) -> usize {
        self.unsent_bytes.get()
    }

    /// A place for one more connection, while the shard has `open`. `is_operator`: the server's user or root on the
    /// Unix socket, for whom some are kept.
    ///
    /// Errors: there is none.
    pub fn connect(
        &self,
        account: &Rc<Account>,
        open: usize,
        is_operator: bool,
    ) -> Result<Place, Full> {
        let reserved = if is_operator { OPERATOR_CONNECTIONS } else { 0 };
        if open >= self.connections_max + reserved {
            return Err(Full::Shard);
        }
        let share = match self.connections_max {
            few if few < SHARED_CONNECTIONS_MIN => few,
            many => many * CONNECTIONS_PER_PRINCIPAL_PCT / 100,
        };
        if account.standing.get() != Standing::Master && account.connections.get() >= share {
            return Err(Full::Principal);
        }
        Ok(Place::take(account, |account| &account.connections))
    }

    /// A place for a task that pages through the log; `None` when the principal has its share.
    pub fn list(&self, principal: Principal) -> Option<Place> {
        let account = self.of(principal);
        let free = account.lists.get() < LISTS_PER_PRINCIPAL_MAX;
        free.then(|| Place::take(&account, |account| &account.lists))
    }

    /// A place for a task that generates, imports or rotates a key; `None` when the principal has its share.
    pub fn write(&self, principal: Principal) -> Option<Place> {
        let account = self.of(principal);
        let free = account.writes.get() < WRITES_PER_PRINCIPAL_MAX;
        free.then(|| Place::take(&account, |account| &account.writes))
    }

    /// A place for a revocation; `None` when the principal has its share.
    pub fn revocation(&self, principal: Principal) -> Option<Place> {
        let account = self.of(principal);
        let free = account.revocations.get() < REVOCATIONS_PER_PRINCIPAL_MAX;
        free.then(|| Place::take(&account, |account| &account.revocations))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STRANGER: Principal = Principal::Uid(1_000);

    #[test]
    fn a_place_comes_back_and_the_operators_stay_free() {
        let accounts = Accounts::new(64);
        let (stranger, other) = (accounts.of(STRANGER), accounts.of(Principal::Anonymous));
        let operator = accounts.of(Principal::Uid(0));
        operator.set_standing(Standing::Master);
        let mut held = Vec::new();
        for (account, is_operator, open_max, why) in [
            (&stranger, false, 48, Full::Principal),
            (&other, false, 64, Full::Shard),
            (&operator, true, 64 + OPERATOR_CONNECTIONS, Full::Shard),
        ] {
            let full = loop {
                match accounts.connect(account, held.len(), is_operator) {
                    Ok(place) => held.push(place),
                    Err(full) => break full,
                }
            };
            assert_eq!((held.len(), full), (open_max, why));
        }
        held.truncate(47);
        assert!(accounts.connect(&stranger, 47, false).is_ok());
    }

    #[test]
    fn one_who_uses_his_share_is_read_only_where_he_has_nothing() {
        let accounts = Accounts::new(8);
        let greedy = accounts.of(STRANGER);
        assert!(greedy.may_read(1, 1));
        greedy.change_unsent(0, UNSENT_BYTES_PER_PRINCIPAL_MAX + 1);
        assert!(!greedy.may_read(0, 1) && greedy.may_read(1, 0));
        assert!(accounts.of(Principal::Anonymous).may_read(1, 1));
        greedy.change_unsent(UNSENT_BYTES_PER_PRINCIPAL_MAX + 1, 0);
        greedy.change_in_flight(0, IN_FLIGHT_PER_PRINCIPAL_MAX + 1);
        assert!(!greedy.may_read(1, 0) && greedy.may_read(0, 1));
        let other = accounts.of(Principal::Anonymous);
        other.change_unsent(0, UNSENT_BYTES_SOFT_MAX + 1);
        greedy.set_standing(Standing::Master);
        assert!(!greedy.may_read(0, 1) && greedy.may_read(1, 0));
    }

    #[test]
    fn accounts_without_use_are_dropped() {
        let accounts = Accounts::new(8);
        let kept = accounts.list(STRANGER).unwrap();
        for uid in 2_000..10_000 {
            accounts.of(Principal::Uid(uid));
        }
        assert!(accounts.by_principal.borrow().len() <= UNUSED_ACCOUNTS_MAX + 2);
        assert_eq!(accounts.of(STRANGER).lists.get(), 1);
        drop(kept);
        assert_eq!(accounts.of(STRANGER).lists.get(), 0);
    }
}
