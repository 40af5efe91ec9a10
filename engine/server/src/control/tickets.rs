//! Tickets of unlocks, and how each of them stands.
//!
//! A later unlock of a keyspace takes an earlier one's place. Holders of shares wait for one another instead, each with
//! a ticket of their own: what one of them mistypes is told to that one, and the others wait on.

use std::collections::{BTreeMap, VecDeque};

use crate::authorise::Principal;

/// Tickets of a keyspace that are remembered: all 16 holders may mistype theirs once.
const TICKETS_MAX: usize = 32;

const OVERTAKEN: &str = "a later unlock has taken this one's place";

/// How an unlock stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum UnlockState {
    /// Under way, after so many tries that the KMS did not answer.
    Asking {
        attempts: u32,
        last_error: Option<String>,
    },
    /// The share was right, and more are needed.
    MoreShares {
        given: u8,
        threshold: u8,
    },
    Opened,
    Failed(String),
}

/// The tickets of all keyspaces.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    given_out: u32,
    /// Oldest first; never empty.
    of_keyspace: BTreeMap<u32, VecDeque<Unlock>>,
}

/// By what an unlock is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asked {
    pub ticket: u64,
    pub who: Principal,
}

#[derive(Debug)]
struct Unlock {
    asked: Asked,
    is_share: bool,
    state: UnlockState,
}

impl Unlock {
    fn is_over(&self) -> bool {
        matches!(self.state, UnlockState::Opened | UnlockState::Failed(_))
    }

    fn awaits_shares(&self) -> bool {
        matches!(self.state, UnlockState::MoreShares { .. })
    }

    /// A share that the KMS has not looked at yet.
    fn is_share_on_its_way(&self) -> bool {
        self.is_share && matches!(self.state, UnlockState::Asking { attempts: 0, .. })
    }
}

impl Tickets {
    /// A ticket for an unlock that begins. It takes the place of those under way, but for shares.
    pub(super) fn start(&mut self, keyspace: u32, is_share: bool, who: Principal) -> u64 {
        self.given_out = self.given_out.wrapping_add(1);
        let ticket = u64::from(keyspace) << 32 | u64::from(self.given_out);
        let unlocks = self.of_keyspace.entry(keyspace).or_default();
        for unlock in unlocks.iter_mut() {
            if !unlock.is_over() && !unlock.awaits_shares() && !unlock.is_share_on_its_way() {
                unlock.state = UnlockState::Failed(OVERTAKEN.to_owned());
            }
        }
        if unlocks.len() == TICKETS_MAX {
            let oldest = unlocks.iter().position(Unlock::is_over).unwrap_or(0);
            unlocks.remove(oldest);
        }
        unlocks.push_back(Unlock {
            asked: Asked { ticket, who },
            is_share,
            state: UnlockState::Asking {
                attempts: 0,
                last_error: None,
            },
        });
        ticket
    }

    /// Notes how the unlock of `ticket` stands, unless it is over. Whether it was not. Who waits for more shares of the
    /// same keyspace hears of every one, and of the end.
    pub(super) fn note(&mut self, keyspace: u32, ticket: u64, state: UnlockState) -> bool {
        let Some(unlocks) = self.of_keyspace.get_mut(&keyspace) else {
            return false;
        };
        let noted = unlocks
            .iter_mut()
            .find(|unlock| unlock.asked.ticket == ticket && !unlock.is_over());
        let Some(unlock) = noted else { return false };
        unlock.state = state.clone();
        if matches!(state, UnlockState::Opened | UnlockState::MoreShares { .. }) {
            for unlock in unlocks.iter_mut().filter(|unlock| unlock.awaits_shares()) {
                unlock.state = state.clone();
            }
        }
        true
    }

    /// Nobody's wait for more shares of this keyspace can end well any more; one that is on its way settles it.
    pub(super) fn fail_waiting(&mut self, keyspace: u32, why: &str) {
        let unlocks = self.of_keyspace.entry(keyspace).or_default();
        if unlocks.iter().any(Unlock::is_share_on_its_way) {
            return;
        }
        for unlock in unlocks.iter_mut().filter(|unlock| unlock.awaits_shares()) {
            unlock.state = UnlockState::Failed(why.to_owned());
        }
    }

    /// Keyspaces for which somebody waits for more shares, each with one of those who do.
    pub(super) fn waiting(&self) -> Vec<(u32, Asked)> {
        let of_keyspace = self.of_keyspace.iter();
        of_keyspace
            .filter_map(|(keyspace, unlocks)| {
                let waiting = unlocks.iter().find(|unlock| unlock.awaits_shares())?;
                Some((*keyspace, waiting.asked))
            })
            .collect()
    }

    /// How the unlock of `ticket` stands; of a ticket that came with a NEEDS_UNLOCK, the latest unlock. `None`: there
    /// was none.
    pub(super) fn state(&self, keyspace: u32, ticket: u64) -> Option<UnlockState> {
        let unlocks = self.of_keyspace.get(&keyspace)?;
        if let Some(unlock) = unlocks.iter().find(|unlock| unlock.asked.ticket == ticket) {
            return Some(unlock.state.clone());
        }
        if ticket >> 32 == u64::from(keyspace) {
            return Some(UnlockState::Failed(OVERTAKEN.to_owned()));
        }
        unlocks.back().map(|latest| latest.state.clone())
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

    fn failed(why: &str) -> UnlockState {
        UnlockState::Failed(why.to_owned())
    }

    #[test]
    fn a_wrong_share_fails_one_ticket_and_the_last_one_opens_all() {
        let mut tickets = Tickets::default();
        let (first, second) = (
            tickets.start(PROD, true, ALICE),
            tickets.start(PROD, true, ALICE),
        );
        assert!(tickets.note(PROD, first, more(1)));
        assert!(tickets.note(PROD, second, more(2)));
        assert_eq!(tickets.state(PROD, first), Some(more(2)));
        let (wrong, passphrase) = (
            tickets.start(PROD, true, ALICE),
            tickets.start(PROD, false, ALICE),
        );
        assert!(tickets.note(PROD, wrong, failed("mistyped")));
        assert!(tickets.note(PROD, passphrase, failed("it wants shares")));
        assert_eq!(tickets.state(PROD, wrong), Some(failed("mistyped")));
        assert_eq!(tickets.state(PROD, first), Some(more(2)));
        let waiting = Asked {
            ticket: first,
            who: ALICE,
        };
        assert_eq!(tickets.waiting(), [(PROD, waiting)]);
        let last = tickets.start(PROD, true, ALICE);
        assert!(tickets.note(PROD, last, UnlockState::Opened));
        for ticket in [first, second, last] {
            assert_eq!(tickets.state(PROD, ticket), Some(UnlockState::Opened));
        }
        assert!(tickets.waiting().is_empty());
    }

    #[test]
    fn a_later_unlock_takes_the_place_of_one_that_is_no_share() {
        let mut tickets = Tickets::default();
        assert_eq!(tickets.state(PROD, 7), None);
        let first = tickets.start(PROD, false, ALICE);
        assert_eq!(tickets.state(PROD, first), Some(ASKING));
        let second = tickets.start(PROD, false, ALICE);
        assert_eq!(tickets.state(PROD, first), Some(failed(OVERTAKEN)));
        assert!(
            !tickets.note(PROD, first, UnlockState::Opened),
            "it is over"
        );
        // A shard's ticket is no unlock's own.
        assert_eq!(tickets.state(PROD, 1 << 48), Some(ASKING));
        // A share that is being asked about for a second time has done its part.
        let share = tickets.start(PROD, true, ALICE);
        assert_eq!(tickets.state(PROD, second), Some(failed(OVERTAKEN)));
        let asking = UnlockState::Asking {
            attempts: 1,
            last_error: None,
        };
        assert!(tickets.note(PROD, share, asking));
        tickets.start(PROD, false, ALICE);
        assert_eq!(tickets.state(PROD, share), Some(failed(OVERTAKEN)));
    }

    #[test]
    fn whoever_waits_in_vain_is_told_unless_a_share_is_on_its_way() {
        let mut tickets = Tickets::default();
        let first = tickets.start(PROD, true, ALICE);
        assert!(tickets.note(PROD, first, more(1)));
        let on_its_way = tickets.start(PROD, true, ALICE);
        tickets.fail_waiting(PROD, "forgotten");
        assert_eq!(tickets.state(PROD, first), Some(more(1)));
        assert!(tickets.note(PROD, on_its_way, failed("mistyped")));
        tickets.fail_waiting(PROD, "forgotten");
        assert_eq!(tickets.state(PROD, first), Some(failed("forgotten")));
    }

    #[test]
    fn tickets_that_are_over_are_forgotten_first() {
        let mut tickets = Tickets::default();
        let first = tickets.start(PROD, true, ALICE);
        assert!(tickets.note(PROD, first, more(1)));
        for _ in 0..2 * TICKETS_MAX {
            let wrong = tickets.start(PROD, true, ALICE);
            assert!(tickets.note(PROD, wrong, failed("mistyped")));
        }
        assert_eq!(tickets.state(PROD, first), Some(more(1)));
        assert_eq!(tickets.of_keyspace[&PROD].len(), TICKETS_MAX);
        assert_eq!(tickets.state(PROD, first + 1), Some(failed(OVERTAKEN)));
    }
}
