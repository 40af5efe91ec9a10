//! Rights, checked when the work is done and not only when the request arrived.
//!
//! ```text
//!  frame ──permit──▶ Allowed<'turn> ──park──▶ Permit ── any wait ──allow──▶ Allowed<'turn> ──▶ key
//! ```
//!
//! Using a key takes an [`Allowed`], which borrows the turn in which the policy was looked at, so it cannot be kept. What
//! waits keeps a [`Permit`], which is worth nothing until the policy is looked at again.

use std::marker::PhantomData;

use keyway_node::ids::Revision;
use keyway_protocol::{Grants, Opcode, Scope, Status};

use super::Shard;
use super::turn::Turn;
use crate::authorise::{Principal, explain};

/// A right that was there when it was last looked at.
#[derive(Clone, Copy, Debug)]
pub struct Permit {
    /// `None` for operations that need no keyspace's policy: their rights do not change while the server runs.
    keyspace: Option<u32>,
    /// Of the keyspace's configuration when the right was looked at.
    revision: Revision,
    principal: Principal,
    /// One of these is needed.
    needed: Grants,
}

impl Permit {
    /// Returns who asked, for the log.
    pub fn principal(self) -> Principal {
        self.principal
    }
}

/// A right that is there in this turn.
#[derive(Clone, Copy)]
pub struct Allowed<'turn> {
    permit: Permit,
    turn: PhantomData<&'turn Turn>,
}

impl Allowed<'_> {
    /// Returns who has the right.
    pub fn principal(self) -> Principal {
        self.permit.principal
    }

    /// Returns the permit to keep while the request waits.
    pub fn park(self) -> Permit {
        self.permit
    }
}

/// A right that is not there: the status, and an explanation with the remedy.
pub type Denied = (Status, &'static str);

impl Shard {
    /// Checks the right to an operation before reading any state, so that a response never reveals whether a key exists.
    ///
    /// Errors: the status and explanation of the refusal.
    pub(super) fn permit<'turn>(
        &self,
        _turn: &'turn Turn,
        principal: Principal,
        opcode: Opcode,
        keyspace: u32,
    ) -> Result<Allowed<'turn>, Denied> {
        let needed = opcode.grants();
        let permit = match opcode.scope() {
            Scope::Server => {
                // These show no more than the principal may see.
                let is_anybodys =
                    matches!(opcode, Opcode::Hello | Opcode::Ping | Opcode::KeyspaceList);
                if !is_anybodys && !self.owner.may_everything(principal) {
                    return Err((
                        Status::Forbidden,
                        "only the server's user and root may do this",
                    ));
                }
                Permit {
                    keyspace: None,
                    revision: Revision::default(),
                    principal,
                    needed,
                }
            }
            Scope::Keyspace | Scope::Key => Permit {
                keyspace: Some(keyspace),
                revision: self.look_up_right(principal, needed, keyspace)?,
                principal,
                needed,
            },
        };
        Ok(Allowed {
            permit,
            turn: PhantomData,
        })
    }

    /// Checks a right again, after a wait.
    ///
    /// Errors: it was withdrawn meanwhile.
    pub(super) fn allow<'turn>(
        &self,
        _turn: &'turn Turn,
        permit: Permit,
    ) -> Result<Allowed<'turn>, Denied> {
        self.recheck(permit).map(|()| Allowed {
            permit,
            turn: PhantomData,
        })
    }

    /// Checks a right again where no key is handed out: right before a write, or an answer is passed on.
    ///
    /// Errors: it was withdrawn meanwhile.
    pub(super) fn recheck(&self, permit: Permit) -> Result<(), Denied> {
        let Some(keyspace) = permit.keyspace else {
            return Ok(());
        };
        let revision = self.keyspaces.borrow().revision(keyspace);
        if revision == Some(permit.revision) {
            return Ok(());
        }
        self.look_up_right(permit.principal, permit.needed, keyspace)
            .map(|_| ())
    }

    /// Returns the revision of the policy that grants the right.
    fn look_up_right(
        &self,
        principal: Principal,
        needed: Grants,
        keyspace: u32,
    ) -> Result<Revision, Denied> {
        let keyspaces = self.keyspaces.borrow();
        let Some(known) = keyspaces.of(keyspace) else {
            return Err(if self.owner.may_everything(principal) {
                (Status::NoKeyspace, "there is no such keyspace")
            } else {
                (Status::Forbidden, explain(needed))
            });
        };
        if known
            .policy
            .rights(&self.owner, principal)
            .intersects(needed)
        {
            return Ok(known.revision);
        }
        Err((Status::Forbidden, explain(needed)))
    }
}
