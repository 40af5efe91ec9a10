//! Rights, checked when the work is done and not only when the request arrived.
//!
//! ```text
//!  frame ──permit──▶ Allowed<'turn> ──park──▶ Permit ── any wait ──allow──▶ Allowed<'turn> ──▶ Use
//! ```
//!
//! Using a key takes an [`Allowed`], which borrows the turn in which the policy was looked at, so it cannot be kept. What
//! waits keeps a [`Permit`], which is worth nothing until the policy is looked at again.

use std::marker::PhantomData;

use keyway_protocol::{Grants, Opcode, Scope, Status};

use super::governed::{Governed, Keyspaces};
use crate::ids::Revision;
use crate::policy::{Principal, explain};
use keyway_core::slots::At;

/// A turn in progress. There is one on the stack of [`super::Shard::turn`], and nowhere else.
pub(crate) struct TurnScope(());

impl TurnScope {
    pub(super) const fn begin() -> Self {
        TurnScope(())
    }
}

/// A right that was there when it was last looked at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Permit {
    /// `None` for operations that need no keyspace's policy: their rights do not change while the server runs.
    keyspace: Option<At<Governed>>,
    /// Of the keyspace's configuration when the right was looked at.
    revision: Revision,
    who: Principal,
    /// One of these is needed.
    needed: Grants,
}

impl Permit {
    /// Returns who asked.
    pub(crate) fn who(self) -> Principal {
        self.who
    }

    /// Returns the keyspace whose policy decides.
    pub(crate) fn keyspace(self) -> Option<At<Governed>> {
        self.keyspace
    }
}

/// A right that is there in this turn.
#[derive(Clone, Copy)]
pub(crate) struct Allowed<'turn> {
    permit: Permit,
    turn: PhantomData<&'turn TurnScope>,
}

impl Allowed<'_> {
    /// Returns who has the right.
    pub(crate) fn who(self) -> Principal {
        self.permit.who
    }

    /// Returns the keyspace whose policy was looked at.
    pub(crate) fn keyspace(self) -> Option<At<Governed>> {
        self.permit.keyspace
    }

    /// Returns the permit to keep while the request waits.
    pub(crate) fn park(self) -> Permit {
        self.permit
    }
}

/// A right that is not there: the status, and an explanation with the remedy.
pub(crate) type Denied = (Status, &'static str);

impl Keyspaces {
    /// Checks the right to an operation before reading any state, so that a response never reveals whether a key exists.
    /// `at` is the keyspace that the frame names.
    ///
    /// # Errors
    /// The status and explanation of the refusal.
    pub(crate) fn permit<'turn>(
        &self,
        _turn: &'turn TurnScope,
        who: Principal,
        opcode: Opcode,
        at: Option<At<Governed>>,
    ) -> Result<Allowed<'turn>, Denied> {
        let needed = opcode.grants();
        let (keyspace, revision) = match opcode.scope() {
            Scope::Server => {
                // These show no more than the principal may see.
                let is_anybodys =
                    matches!(opcode, Opcode::Hello | Opcode::Ping | Opcode::KeyspaceList);
                if !is_anybodys && !self.owner.is_superuser(who) {
                    return Err((
                        Status::Forbidden,
                        "only the server's user and root may do this, over the Unix socket: run it as one of them with \
                         --addr unix:PATH",
                    ));
                }
                (None, Revision::default())
            }
            Scope::Keyspace | Scope::Key => (at, self.look_up_right(who, needed, at)?),
        };
        Ok(Allowed {
            permit: Permit {
                keyspace,
                revision,
                who,
                needed,
            },
            turn: PhantomData,
        })
    }

    /// Checks a right again, after a wait.
    ///
    /// # Errors
    /// It was withdrawn meanwhile.
    pub(crate) fn allow<'turn>(
        &self,
        _turn: &'turn TurnScope,
        permit: Permit,
    ) -> Result<Allowed<'turn>, Denied> {
        self.recheck(permit).map(|()| Allowed {
            permit,
            turn: PhantomData,
        })
    }

    /// Checks a right again where no key is handed out: right before a write, or an answer is passed on.
    ///
    /// # Errors
    /// It was withdrawn meanwhile.
    pub(crate) fn recheck(&self, permit: Permit) -> Result<(), Denied> {
        match permit.keyspace {
            None => Ok(()),
            Some(at) if self[at].revision == permit.revision => Ok(()),
            at => self
                .look_up_right(permit.who, permit.needed, at)
                .map(|_| ()),
        }
    }

    /// Returns the revision of the policy that grants the right.
    fn look_up_right(
        &self,
        who: Principal,
        needed: Grants,
        at: Option<At<Governed>>,
    ) -> Result<Revision, Denied> {
        let Some(at) = at else {
            return Err(match self.owner.is_superuser(who) {
                true => (Status::NoKeyspace, "there is no such keyspace"),
                false => (Status::Forbidden, explain(needed)),
            });
        };
        let governed = &self[at];
        if governed.policy.rights(&self.owner, who).intersects(needed) {
            return Ok(governed.revision);
        }
        Err((Status::Forbidden, explain(needed)))
    }
}
