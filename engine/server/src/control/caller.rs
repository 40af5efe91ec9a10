//! Who has asked for what a task does: no write begins once the deadline of the command has passed, however long the KMS
//! took to answer before it, or once its right has been withdrawn. At the deadline the shard that handed the command over
//! answers DEADLINE_EXCEEDED by itself.

use std::future::Future;

use keyway_core::Instant;
use keyway_protocol::{Grants, Opcode, Status};

use super::Control;
use super::kms::Kms;
use super::messages::Command;
use super::saver::Refused;
use crate::authorise::{self, Principal};
use crate::clock;

tokio::task_local! {
    static CALLER: Caller;
}

/// The command that a task carries out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caller {
    who: Principal,
    needed: Needed,
    deadline: Option<Instant>,
}

/// The right that a command takes.
#[derive(Clone, Copy, Debug)]
enum Needed {
    /// None: it shows what the caller may see.
    Nothing,
    /// One of these grants in this keyspace.
    Grant(u32, Grants),
    /// To do everything.
    Everything,
}

impl Caller {
    /// The caller of a command.
    pub(super) fn of(command: &Command, who: Principal, deadline: Option<Instant>) -> Caller {
        let opcode = command.opcode();
        let needed = match command.keyspace() {
            Some(id) => Needed::Grant(id, opcode.grants()),
            None if opcode == Opcode::KeyspaceList => Needed::Nothing,
            None => Needed::Everything,
        };
        Caller {
            who,
            needed,
            deadline,
        }
    }

    /// One who has been given a ticket for the unlock of a keyspace, which goes on without a deadline.
    pub(super) fn unlocking(id: u32, who: Principal) -> Caller {
        Caller {
            who,
            needed: Needed::Grant(id, Grants::UNLOCK),
            deadline: None,
        }
    }

    /// Carries out what this caller has asked for.
    pub(super) async fn scope<T>(self, work: impl Future<Output = T>) -> T {
        CALLER.scope(self, work).await
    }
}

impl<K: Kms> Control<K> {
    /// Checks, when a command begins and right before each write, that the caller of this task still has the right to it
    /// and that its deadline has not passed. A task that is no command's may always go on.
    ///
    /// Errors: it may not; nothing has been changed.
    pub(super) fn check_caller(&self) -> Result<(), Refused> {
        let Ok(caller) = CALLER.try_with(|caller| *caller) else {
            return Ok(());
        };
        self.check_right(caller)?;
        if caller.deadline.is_some_and(|at| clock::now() >= at) {
            let text = "the deadline passed before the change was made; nothing was changed";
            return Err((Status::DeadlineExceeded, text.to_owned()));
        }
        Ok(())
    }

    /// A shard has checked the same, but the command may have queued since.
    fn check_right(&self, caller: Caller) -> Result<(), Refused> {
        let (may, needed) = match caller.needed {
            Needed::Nothing => (true, Grants::NONE),
            Needed::Grant(id, needed) => (self.rights(caller.who, id).intersects(needed), needed),
            Needed::Everything => (self.owner.may_everything(caller.who), Grants::NONE),
        };
        match may {
            true => Ok(()),
            false => Err((Status::Forbidden, authorise::explain(needed).to_owned())),
        }
    }

    /// The rights of a principal that are in force in a keyspace.
    pub(super) fn rights(&self, who: Principal, id: u32) -> Grants {
        if self.owner.may_everything(who) {
            return Grants::ALL;
        }
        let guard = self.in_force.borrow().guard(id);
        guard.map_or(Grants::NONE, |guard| guard.policy.rights(who))
    }
}
