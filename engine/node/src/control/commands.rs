//! Commands in progress. Each is answered exactly once: its work holds an [`Answering`], which cannot be copied, is
//! consumed by the answer, and reports itself if it is dropped without one. A time limit applies in addition.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use keyway_core::Instant;
use keyway_protocol::Grants;

use super::Reply;
use crate::connection::CONTROL_RESERVED;
use crate::messages::Lane;
use crate::policy::Principal;

/// Most commands in progress: as many as both lanes of the shards can hold. Those of the emergency lane have the same
/// number of places again.
pub const COMMANDS_MAX: usize = 8_192;

/// Longest time that a command is waited for. Counting every blob takes long; no other command comes close to it.
pub(super) const COMMAND_US_MAX: u64 = 600_000_000;

/// Control's identifier of a command.
type CommandId = u64;

/// The duty to answer a command.
pub(super) struct Answering {
    id: CommandId,
    /// Records the command as an orphan if it is dropped; `None` once it was answered.
    orphans: Option<Rc<RefCell<Vec<CommandId>>>>,
}

impl Drop for Answering {
    fn drop(&mut self) {
        if let Some(orphans) = self.orphans.take() {
            orphans.borrow_mut().push(self.id);
        }
    }
}

/// The result of dispatching a command.
pub(super) enum Begun {
    /// It is answered immediately.
    Answered(Answering, Reply),
    /// A work continues it.
    Begun,
}

/// Where to send the answer, on whose behalf the command runs, and its deadline.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub shard: u16,
    pub token: u64,
    pub lane: Lane,
    pub who: Principal,
    pub needed: Needed,
    /// Whether it is the server's user or root on the Unix socket.
    pub is_operator: bool,
    /// No write begins at this time or later.
    pub deadline: Option<Instant>,
}

/// The right that a command requires.
#[derive(Clone, Copy, Debug)]
pub(super) enum Needed {
    /// None: the answer contains only what the caller may see.
    Nothing,
    /// One of these grants in this keyspace.
    Grant(u32, Grants),
    /// All rights on the node.
    Everything,
}

/// The commands in progress.
#[derive(Default)]
pub(super) struct Commands {
    last: CommandId,
    /// Each with the time at which it began.
    waiting: BTreeMap<CommandId, (Instant, Asker)>,
    by_time: BTreeSet<(Instant, CommandId)>,
    /// Those of the operator among them.
    operators: usize,
    orphans: Rc<RefCell<Vec<CommandId>>>,
}

impl Commands {
    /// Registers a command. Returns `None` if there are too many. The operator has places of its own, however many commands
    /// of others are in progress.
    pub(super) fn begin(&mut self, now: Instant, asker: Asker) -> Option<Answering> {
        let places = match asker.lane {
            Lane::Emergency => 2 * COMMANDS_MAX,
            Lane::Ordinary => COMMANDS_MAX,
        };
        let has_reserve = asker.is_operator && self.operators < CONTROL_RESERVED;
        if self.waiting.len() >= places && !has_reserve {
            return None;
        }
        self.operators += usize::from(asker.is_operator);
        self.last += 1;
        let id = self.last;
        self.waiting.insert(id, (now, asker));
        self.by_time.insert((now, id));
        Some(Answering {
            id,
            orphans: Some(Rc::clone(&self.orphans)),
        })
    }

    /// Ends a command. Returns where to send the answer, or `None` if it was answered when it timed out.
    pub(super) fn end(&mut self, mut answering: Answering) -> Option<Asker> {
        answering.orphans = None;
        self.remove(answering.id)
    }

    /// Returns where the answer will be sent, or `None` if the command was answered when it timed out.
    pub(super) fn asker(&self, answering: &Answering) -> Option<Asker> {
        let found = self.waiting.get(&answering.id);
        found.map(|(_, asker)| *asker)
    }

    /// Returns a command that was dropped without an answer.
    pub(super) fn next_orphan(&mut self) -> Option<Asker> {
        loop {
            let id = self.orphans.borrow_mut().pop()?;
            if let Some(asker) = self.remove(id) {
                return Some(asker);
            }
        }
    }

    /// Returns a command that has timed out.
    pub(super) fn next_overdue(&mut self, now: Instant) -> Option<Asker> {
        let (began_at, id) = *self.by_time.first()?;
        let is_over = now.saturating_since(began_at) >= COMMAND_US_MAX;
        is_over.then(|| self.remove(id)).flatten()
    }

    /// Returns when the first command times out.
    pub(super) fn next_end(&self) -> Option<Instant> {
        let (began_at, _) = self.by_time.first()?;
        Some(began_at.plus_us(COMMAND_US_MAX))
    }

    /// Returns the number of commands in progress.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    fn remove(&mut self, id: CommandId) -> Option<Asker> {
        let (began_at, asker) = self.waiting.remove(&id)?;
        self.by_time.remove(&(began_at, id));
        self.operators -= usize::from(asker.is_operator);
        Some(asker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(s: u64) -> Instant {
        Instant::from_micros(s * 1_000_000)
    }

    fn asker(token: u64, lane: Lane) -> Asker {
        Asker {
            shard: 0,
            token,
            lane,
            who: Principal::Anonymous,
            needed: Needed::Nothing,
            is_operator: false,
            deadline: None,
        }
    }

    #[test]
    fn dropped_command_is_reported_once_and_an_answered_one_is_not() {
        let mut commands = Commands::default();
        let answered = commands.begin(at(0), asker(7, Lane::Ordinary)).unwrap();
        let forgotten = commands.begin(at(0), asker(8, Lane::Ordinary)).unwrap();
        assert_eq!(commands.end(answered).map(|asker| asker.token), Some(7));
        assert!(commands.next_orphan().is_none());
        drop(forgotten);
        assert_eq!(commands.next_orphan().map(|asker| asker.token), Some(8));
        assert!(commands.next_orphan().is_none());
        assert_eq!(commands.len(), 0);
    }

    #[test]
    fn timed_out_command_is_answered_once_and_its_late_end_is_ignored() {
        let mut commands = Commands::default();
        let slow = commands.begin(at(0), asker(7, Lane::Ordinary)).unwrap();
        assert!(commands.next_overdue(at(599)).is_none());
        assert_eq!(commands.next_end(), Some(at(600)));
        assert_eq!(commands.next_overdue(at(600)).map(|it| it.token), Some(7));
        assert!(commands.end(slow).is_none() && commands.next_end().is_none());
    }

    #[test]
    fn emergencies_have_their_own_capacity() {
        let mut commands = Commands::default();
        let mut begin = |lane| commands.begin(at(0), asker(0, lane));
        let held: Vec<_> = std::iter::from_fn(|| begin(Lane::Ordinary)).collect();
        assert_eq!(held.len(), COMMANDS_MAX);
        assert!(begin(Lane::Emergency).is_some());
    }

    /// Emergencies of others take the ordinary places as well.
    #[test]
    fn the_operator_has_capacity_however_many_commands_of_others_are_in_progress() {
        let mut commands = Commands::default();
        let begin = |commands: &mut Commands, lane, is_operator| {
            let asker = asker(0, lane);
            commands.begin(
                at(0),
                Asker {
                    is_operator,
                    ..asker
                },
            )
        };
        let others = || begin(&mut commands, Lane::Emergency, false);
        let held: Vec<_> = std::iter::from_fn(others).collect();
        assert_eq!(held.len(), 2 * COMMANDS_MAX);
        for lane in [Lane::Ordinary, Lane::Emergency] {
            let operator = || begin(&mut commands, lane, true);
            let more: Vec<_> = std::iter::from_fn(operator).collect();
            assert_eq!(more.len(), CONTROL_RESERVED);
            for answering in more {
                commands.end(answering);
            }
        }
        drop(held);
    }
}
