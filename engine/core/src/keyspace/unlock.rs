//! Tickets: how somebody who was told NEEDS_UNLOCK follows what becomes of it.

use alloc::collections::VecDeque;

/// How many unlocks that are over can still be asked about.
const ENDED_MAX: usize = 16;

/// How an unlock stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnlockState {
    /// The DEK is not at hand, or keys are still being loaded again.
    Pending,
    /// The DEK is at hand and the keys are loaded.
    Done,
    /// The KMS refused.
    Failed,
}

/// What a ticket stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnlockStatus {
    /// Names the unlock. Unique on this node as long as shard indices are.
    pub ticket: u64,
    /// How it stands.
    pub state: UnlockState,
    /// Keys that were loaded again.
    pub keys_reloaded: u64,
    /// Keys that are yet to be loaded again.
    pub keys_left: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Unlocks {
    open: Option<Episode>,
    ended: VecDeque<UnlockStatus>,
}

#[derive(Debug)]
struct Episode {
    ticket: u64,
    reloading: bool,
    keys_reloaded: u64,
}

impl Unlocks {
    /// The ticket of the unlock that is under way or called for. `fresh` numbers a new one.
    pub(crate) fn ticket(&mut self, fresh: impl FnOnce() -> u64) -> u64 {
        match &self.open {
            Some(episode) if !episode.reloading => episode.ticket,
            _ => {
                self.end(UnlockState::Done);
                let ticket = fresh();
                self.open = Some(Episode {
                    ticket,
                    reloading: false,
                    keys_reloaded: 0,
                });
                ticket
            }
        }
    }

    /// The DEK is at hand: what is left is to load keys again.
    pub(crate) fn granted(&mut self) {
        if let Some(episode) = &mut self.open {
            episode.reloading = true;
        }
    }

    pub(crate) fn is_reloading(&self) -> bool {
        self.open.as_ref().is_some_and(|episode| episode.reloading)
    }

    pub(crate) fn key_reloaded(&mut self) {
        if let Some(episode) = &mut self.open {
            episode.keys_reloaded += 1;
        }
    }

    pub(crate) fn end(&mut self, state: UnlockState) {
        let Some(Episode {
            ticket,
            keys_reloaded,
            ..
        }) = self.open.take()
        else {
            return;
        };
        if self.ended.len() == ENDED_MAX {
            self.ended.pop_front();
        }
        self.ended.push_back(UnlockStatus {
            ticket,
            state,
            keys_reloaded,
            keys_left: 0,
        });
    }

    /// `keys_left` is what the keyspace has yet to load.
    pub(crate) fn status(&self, ticket: u64, keys_left: u64) -> Option<UnlockStatus> {
        match &self.open {
            Some(episode) if episode.ticket == ticket => Some(UnlockStatus {
                ticket,
                state: UnlockState::Pending,
                keys_reloaded: episode.keys_reloaded,
                keys_left,
            }),
            _ => self
                .ended
                .iter()
                .find(|status| status.ticket == ticket)
                .copied(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_can_be_followed_to_its_end() {
        let mut unlocks = Unlocks::default();
        assert_eq!(unlocks.ticket(|| 7), 7);
        assert_eq!(unlocks.ticket(|| 8), 7, "one unlock, one ticket");
        unlocks.granted();
        unlocks.key_reloaded();
        let status = unlocks.status(7, 3).unwrap();
        assert_eq!(
            (status.state, status.keys_reloaded, status.keys_left),
            (UnlockState::Pending, 1, 3)
        );
        unlocks.end(UnlockState::Done);
        assert_eq!(unlocks.status(7, 0).unwrap().state, UnlockState::Done);
        assert_eq!(unlocks.status(8, 0), None);
    }

    #[test]
    fn only_the_latest_ended_unlocks_are_remembered() {
        let mut unlocks = Unlocks::default();
        for ticket in 0..40 {
            unlocks.ticket(|| ticket);
            unlocks.end(UnlockState::Failed);
        }
        assert_eq!(unlocks.status(23, 0), None);
        assert_eq!(unlocks.status(24, 0).unwrap().state, UnlockState::Failed);
    }
}
