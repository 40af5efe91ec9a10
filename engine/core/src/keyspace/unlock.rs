//! Tickets: identify the unlock that a request answered NEEDS_UNLOCK waits for.

use alloc::collections::VecDeque;

/// Most ended unlocks whose status is kept.
const ENDED_MAX: usize = 16;

/// The status of an unlock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnlockState {
    /// The DEK is not available, or keys are still being reloaded.
    Pending,
    /// The DEK is available and the keys are loaded.
    Done,
    /// The KMS refused.
    Failed,
}

/// The status of a ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnlockStatus {
    /// Identifies the unlock. Unique on this node while shard indices are.
    pub ticket: u64,
    /// The status.
    pub state: UnlockState,
    /// Keys that were reloaded.
    pub keys_reloaded: u64,
    /// Keys that remain to be reloaded.
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
    /// Returns the ticket of the unlock that is in progress or required. `fresh` numbers a new one.
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

    /// Records that the DEK is available: only keys remain to be reloaded.
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

    /// Returns the status of a ticket. `keys_left` is the number of keys that the keyspace still has to load.
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
    fn ticket_shows_each_stage_until_its_end() {
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
    fn only_the_latest_ended_unlocks_are_kept() {
        let mut unlocks = Unlocks::default();
        for ticket in 0..40 {
            unlocks.ticket(|| ticket);
            unlocks.end(UnlockState::Failed);
        }
        assert_eq!(unlocks.status(23, 0), None);
        assert_eq!(unlocks.status(24, 0).unwrap().state, UnlockState::Failed);
    }
}
