//! The tickets of the node. Control issues all of them.
//!
//! A keyspace always has a current ticket, issued in advance: shards return it with NEEDS_UNLOCK. A grant of the DEK
//! issues the next one, so a ticket is completed when every shard uses a later one. An unlock has a ticket of its own.
//!
//! A later unlock of a keyspace supersedes an earlier one. Holders of shares wait for one another instead, each with a
//! ticket of their own: a wrong share is reported only to its holder, and the others continue to wait.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::policy::Principal;

/// Most unlocks of a keyspace of which all details are kept: each of 16 holders may mistype a share once.
const TICKETS_MAX: usize = 32;

/// Most unlocks of which only the outcome is kept, in addition.
const ENDED_MAX: usize = 65_536;

/// A ticket is a rising number, one bit for its kind, and a check value of this many bits under a key of this process,
/// which distinguishes a ticket from any other number. It is below 2^53, so that JSON parsers with floating-point numbers
/// read it.
const CHECK_BITS: u32 = 17;
const NUMBER_BITS: u32 = 53 - 1 - CHECK_BITS;

const SUPERSEDED: &str = "superseded by a later unlock";

/// The status of an unlock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnlockState {
    /// In progress, after this many attempts that the KMS did not answer.
    Asking {
        /// Attempts so far.
        attempts: u32,
        /// How the last attempt failed.
        last_error: Option<String>,
    },
    /// The share was correct, and more are needed.
    MoreShares {
        /// Shares given so far.
        given: u8,
        /// Shares required.
        threshold: u8,
    },
    /// Every shard has opened the keyspace, and is reloading the keys that were in use.
    Opened,
    /// All of them are loaded.
    Done {
        /// Keys that were loaded again.
        keys_reloaded: u64,
    },
    /// It failed, for this reason.
    Failed(String),
}

/// What a ticket refers to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ticket {
    /// A keyspace's DEK, which was not available.
    Need,
    /// An unlock.
    Unlock(UnlockState),
    /// An unlock that ended long ago.
    Ended {
        /// Whether the keyspace was opened.
        opened: bool,
    },
    /// Not a ticket of this keyspace issued since the start, or one that ended too long ago.
    Unknown,
}

#[derive(Clone, Copy)]
enum Kind {
    Need,
    Unlock,
}

struct Numbers {
    last: u64,
    /// Drawn by the process: tickets of another process are unknown here.
    key: u64,
}

impl Numbers {
    fn issue(&mut self, keyspace: u32, kind: Kind) -> u64 {
        self.last = (self.last + 1) % (1 << NUMBER_BITS);
        let stem = self.last << 1 | kind as u64;
        stem << CHECK_BITS | self.check(keyspace, stem)
    }

    fn kind_of(&self, keyspace: u32, ticket: u64) -> Option<Kind> {
        let (stem, check) = (ticket >> CHECK_BITS, ticket & ((1 << CHECK_BITS) - 1));
        let is_ours = stem >> 1 <= self.last && self.check(keyspace, stem) == check;
        is_ours.then_some(match stem & 1 {
            0 => Kind::Need,
            _ => Kind::Unlock,
        })
    }

    fn check(&self, keyspace: u32, stem: u64) -> u64 {
        // SipHash, started with the key.
        let mut hasher = DefaultHasher::new();
        (self.key, keyspace, stem).hash(&mut hasher);
        hasher.finish() & ((1 << CHECK_BITS) - 1)
    }
}

/// The tickets of all keyspaces.
pub struct Tickets {
    numbers: Numbers,
    /// The tickets that shards return with NEEDS_UNLOCK, by keyspace.
    current: BTreeMap<u32, u64>,
    /// Oldest first; never empty.
    of_keyspace: BTreeMap<u32, VecDeque<Unlock>>,
    /// Unlocks that ended, and whether the keyspace was opened. The lowest numbers are dropped first.
    ended: BTreeMap<u64, bool>,
}

/// Identifies an unlock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnlockRequest {
    /// Its ticket.
    pub ticket: u64,
    /// The principal that started it.
    pub who: Principal,
}

#[derive(Debug)]
struct Unlock {
    request: UnlockRequest,
    is_share: bool,
    state: UnlockState,
}

impl Unlock {
    fn is_over(&self) -> bool {
        matches!(
            self.state,
            UnlockState::Opened | UnlockState::Done { .. } | UnlockState::Failed(_)
        )
    }

    fn awaits_shares(&self) -> bool {
        matches!(self.state, UnlockState::MoreShares { .. })
    }

    /// Returns `true` for a share that the KMS has not checked yet.
    fn is_share_on_its_way(&self) -> bool {
        self.is_share && matches!(self.state, UnlockState::Asking { attempts: 0, .. })
    }
}

impl Tickets {
    /// Creates an empty set of tickets. `key` is drawn at random by each process.
    pub fn new(key: u64) -> Tickets {
        Tickets {
            numbers: Numbers { last: 0, key },
            current: BTreeMap::new(),
            of_keyspace: BTreeMap::new(),
            ended: BTreeMap::new(),
        }
    }

    /// Returns the ticket that shards put into NEEDS_UNLOCK for a keyspace.
    pub fn current(&mut self, keyspace: u32) -> u64 {
        let issue = || self.numbers.issue(keyspace, Kind::Need);
        *self.current.entry(keyspace).or_insert_with(issue)
    }

    /// Issues the next ticket after a grant of the DEK, for when the DEK is needed again.
    pub fn next(&mut self, keyspace: u32) -> u64 {
        let ticket = self.numbers.issue(keyspace, Kind::Need);
        self.current.insert(keyspace, ticket);
        ticket
    }

    /// Issues a ticket for an unlock that begins. It supersedes unlocks in progress, except shares.
    pub fn start(&mut self, keyspace: u32, is_share: bool, who: Principal) -> u64 {
        let ticket = self.numbers.issue(keyspace, Kind::Unlock);
        let unlocks = self.of_keyspace.entry(keyspace).or_default();
        for unlock in unlocks.iter_mut() {
            if !unlock.is_over() && !unlock.awaits_shares() && !unlock.is_share_on_its_way() {
                unlock.state = UnlockState::Failed(SUPERSEDED.to_owned());
            }
        }
        if unlocks.len() == TICKETS_MAX {
            let oldest = unlocks.iter().position(Unlock::is_over).unwrap_or(0);
            if let Some(unlock) = unlocks.remove(oldest) {
                let opened = !matches!(unlock.state, UnlockState::Failed(_)) && unlock.is_over();
                self.ended.insert(unlock.request.ticket, opened);
            }
            if self.ended.len() > ENDED_MAX {
                self.ended.pop_first();
            }
        }
        unlocks.push_back(Unlock {
            request: UnlockRequest { ticket, who },
            is_share,
            state: UnlockState::Asking {
                attempts: 0,
                last_error: None,
            },
        });
        ticket
    }

    /// Records the status of the unlock of `ticket`. Returns `false` if it has already ended. Unlocks that wait for more
    /// shares of the same keyspace get each number of shares, and the end.
    pub fn note(&mut self, keyspace: u32, ticket: u64, state: UnlockState) -> bool {
        let Some(unlocks) = self.of_keyspace.get_mut(&keyspace) else {
            return false;
        };
        let noted = unlocks
            .iter_mut()
            .find(|unlock| unlock.request.ticket == ticket && !unlock.is_over());
        let Some(unlock) = noted else { return false };
        unlock.state = state.clone();
        if matches!(state, UnlockState::Opened | UnlockState::MoreShares { .. }) {
            for unlock in unlocks.iter_mut().filter(|unlock| unlock.awaits_shares()) {
                unlock.state = state.clone();
            }
        }
        true
    }

    /// Fails the unlocks of this keyspace that wait for more shares. An unlock whose share is in flight is not affected.
    pub fn fail_waiting(&mut self, keyspace: u32, why: &str) {
        let unlocks = self.of_keyspace.entry(keyspace).or_default();
        if unlocks.iter().any(Unlock::is_share_on_its_way) {
            return;
        }
        for unlock in unlocks.iter_mut().filter(|unlock| unlock.awaits_shares()) {
            unlock.state = UnlockState::Failed(why.to_owned());
        }
    }

    /// Returns the keyspaces with unlocks that wait for more shares, each with one of those unlocks.
    pub fn waiting(&self) -> Vec<(u32, UnlockRequest)> {
        let of_keyspace = self.of_keyspace.iter();
        of_keyspace
            .filter_map(|(keyspace, unlocks)| {
                let waiting = unlocks.iter().find(|unlock| unlock.awaits_shares())?;
                Some((*keyspace, waiting.request))
            })
            .collect()
    }

    /// Records that the keys of an opened keyspace are loaded, or will not be.
    pub fn settle_opened(&mut self, keyspace: u32, ticket: u64, state: UnlockState) {
        let unlocks = self.of_keyspace.get_mut(&keyspace).into_iter().flatten();
        for unlock in unlocks {
            if unlock.request.ticket == ticket && unlock.state == UnlockState::Opened {
                unlock.state = state.clone();
            }
        }
    }

    /// Returns the keyspaces that were opened and are loading keys, with the tickets.
    pub fn opened(&self) -> Vec<(u32, u64)> {
        let of_keyspace = self.of_keyspace.iter();
        let opened = of_keyspace.flat_map(|(keyspace, unlocks)| {
            let opened = unlocks
                .iter()
                .filter(|unlock| unlock.state == UnlockState::Opened);
            opened.map(|unlock| (*keyspace, unlock.request.ticket))
        });
        opened.collect()
    }

    /// Returns what `ticket` refers to.
    pub fn of(&self, keyspace: u32, ticket: u64) -> Ticket {
        match self.numbers.kind_of(keyspace, ticket) {
            None => Ticket::Unknown,
            Some(Kind::Need) => Ticket::Need,
            Some(Kind::Unlock) => {
                let mut unlocks = self.of_keyspace.get(&keyspace).into_iter().flatten();
                match unlocks.find(|unlock| unlock.request.ticket == ticket) {
                    Some(unlock) => Ticket::Unlock(unlock.state.clone()),
                    None => match self.ended.get(&ticket) {
                        Some(opened) => Ticket::Ended { opened: *opened },
                        None => Ticket::Unknown,
                    },
                }
            }
        }
    }

    /// Returns the status of the latest unlock of a keyspace, if any.
    pub fn latest(&self, keyspace: u32) -> Option<&UnlockState> {
        let unlocks = self.of_keyspace.get(&keyspace)?;
        unlocks.back().map(|latest| &latest.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROD: u32 = 1;
    const ALICE: Principal = Principal::Uid(1_000);
    const ASKING: UnlockState = UnlockState::Asking {
        attempts: 0,
        last_error: None,
    };

    fn more(given: u8) -> UnlockState {
        UnlockState::MoreShares {
            given,
            threshold: 3,
        }
    }

    fn state(tickets: &Tickets, ticket: u64) -> Option<UnlockState> {
        match tickets.of(PROD, ticket) {
            Ticket::Unlock(state) => Some(state),
            _ => None,
        }
    }

    fn failed(why: &str) -> UnlockState {
        UnlockState::Failed(why.to_owned())
    }

    #[test]
    fn wrong_share_fails_one_ticket_and_the_last_share_opens_all() {
        let mut tickets = Tickets::new(42);
        let (first, second) = (
            tickets.start(PROD, true, ALICE),
            tickets.start(PROD, true, ALICE),
        );
        assert!(tickets.note(PROD, first, more(1)));
        assert!(tickets.note(PROD, second, more(2)));
        assert_eq!(state(&tickets, first), Some(more(2)));
        let (wrong, passphrase) = (
            tickets.start(PROD, true, ALICE),
            tickets.start(PROD, false, ALICE),
        );
        assert!(tickets.note(PROD, wrong, failed("mistyped")));
        assert!(tickets.note(PROD, passphrase, failed("it needs shares")));
        assert_eq!(state(&tickets, wrong), Some(failed("mistyped")));
        assert_eq!(state(&tickets, first), Some(more(2)));
        let waiting = UnlockRequest {
            ticket: first,
            who: ALICE,
        };
        assert_eq!(tickets.waiting(), [(PROD, waiting)]);
        let last = tickets.start(PROD, true, ALICE);
        assert!(tickets.note(PROD, last, UnlockState::Opened));
        for ticket in [first, second, last] {
            assert_eq!(state(&tickets, ticket), Some(UnlockState::Opened));
        }
        assert!(tickets.waiting().is_empty());
    }

    #[test]
    fn later_unlock_supersedes_an_earlier_one_without_share() {
        let mut tickets = Tickets::new(42);
        let first = tickets.start(PROD, false, ALICE);
        assert_eq!(state(&tickets, first), Some(ASKING));
        let second = tickets.start(PROD, false, ALICE);
        assert_eq!(state(&tickets, first), Some(failed(SUPERSEDED)));
        assert!(
            !tickets.note(PROD, first, UnlockState::Opened),
            "it has ended"
        );
        assert_eq!(tickets.latest(PROD), Some(&ASKING));
        // A share that is being checked for a second time has done its part.
        let share = tickets.start(PROD, true, ALICE);
        assert_eq!(state(&tickets, second), Some(failed(SUPERSEDED)));
        let asking = UnlockState::Asking {
            attempts: 1,
            last_error: None,
        };
        assert!(tickets.note(PROD, share, asking));
        tickets.start(PROD, false, ALICE);
        assert_eq!(state(&tickets, share), Some(failed(SUPERSEDED)));
    }

    #[test]
    fn waiting_tickets_fail_unless_a_share_is_in_flight() {
        let mut tickets = Tickets::new(42);
        let first = tickets.start(PROD, true, ALICE);
        assert!(tickets.note(PROD, first, more(1)));
        let on_its_way = tickets.start(PROD, true, ALICE);
        tickets.fail_waiting(PROD, "forgotten");
        assert_eq!(state(&tickets, first), Some(more(1)));
        assert!(tickets.note(PROD, on_its_way, failed("mistyped")));
        tickets.fail_waiting(PROD, "forgotten");
        assert_eq!(state(&tickets, first), Some(failed("forgotten")));
    }

    #[test]
    fn ended_tickets_are_dropped_first() {
        let mut tickets = Tickets::new(42);
        let first = tickets.start(PROD, true, ALICE);
        assert!(tickets.note(PROD, first, more(1)));
        for _ in 0..2 * TICKETS_MAX {
            let wrong = tickets.start(PROD, true, ALICE);
            assert!(tickets.note(PROD, wrong, failed("mistyped")));
        }
        assert_eq!(state(&tickets, first), Some(more(1)));
        assert_eq!(tickets.of_keyspace[&PROD].len(), TICKETS_MAX);
        assert_eq!(tickets.ended.len(), TICKETS_MAX + 1);
    }

    /// A ticket of no unlock was treated as superseded by a later unlock, or returned the status of the latest.
    #[test]
    fn unissued_ticket_is_unknown() {
        let mut tickets = Tickets::new(42);
        let need = tickets.current(PROD);
        assert_eq!(tickets.current(PROD), need);
        let unlock = tickets.start(PROD, false, ALICE);
        let next = tickets.next(PROD);
        assert!(need < next, "later tickets are greater");
        assert_eq!(tickets.of(PROD, need), Ticket::Need);
        assert_eq!(tickets.of(PROD, next), Ticket::Need);
        assert_eq!(tickets.of(PROD, unlock), Ticket::Unlock(ASKING));
        let others = [
            0,
            7,
            need + 1,
            unlock - 1,
            unlock + 1,
            u64::MAX,
            u64::from(PROD) << 32 | 1,
        ];
        let unknown = |ticket: &u64| tickets.of(PROD, *ticket) == Ticket::Unknown;
        // One in 131,072 is taken for a valid ticket.
        assert!(others.iter().filter(|ticket| unknown(ticket)).count() >= others.len() - 1);
        assert_eq!(tickets.of(PROD + 1, unlock), Ticket::Unknown);
        assert_eq!(
            Tickets::new(43).of(PROD, unlock),
            Ticket::Unknown,
            "of an earlier process"
        );
    }

    #[test]
    fn outcome_of_an_unlock_outlives_its_details() {
        let mut tickets = Tickets::new(42);
        let good = tickets.start(PROD, false, ALICE);
        assert!(tickets.note(PROD, good, UnlockState::Opened));
        assert_eq!(tickets.opened(), [(PROD, good)]);
        tickets.settle_opened(PROD, good, UnlockState::Done { keys_reloaded: 3 });
        assert!(tickets.opened().is_empty());
        let bad = tickets.start(PROD, false, ALICE);
        for _ in 0..2 * TICKETS_MAX {
            tickets.start(PROD, false, ALICE);
        }
        assert_eq!(tickets.of(PROD, good), Ticket::Ended { opened: true });
        assert_eq!(tickets.of(PROD, bad), Ticket::Ended { opened: false });
    }
}
