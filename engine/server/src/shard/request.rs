//! A request's way in: decoding, routing, authorisation, then the core or an administrator's task.

use std::rc::Rc;

use keyway_core::{Admission, Instant, KeyspaceId, Refusal, Token, Verdict};
use keyway_protocol::{Custody, Grants, KmsInit, Opcode, Request, RequestFrame, Scope, Status};

use super::answer::Reply;
use super::held::{Claim, HeldFrame};
use super::{Origin, Shard};
use crate::control::messages::Command;

/// A request that waits for something.
pub struct Waiting {
    /// Where its answer goes.
    pub reply: Reply,
    /// What it waits for.
    pub wish: Wish,
}

/// What a request waits for.
pub enum Wish {
    /// A key: the whole frame is kept, to be carried out then.
    Operation {
        /// The request.
        held: HeldFrame,
        /// After this the answer is of no use.
        deadline: Option<Instant>,
    },
    /// A force-refresh.
    Refresh,
    /// Another shard's answer.
    Forwarded {
        /// Its bytes are on their way, and count until the answer is here.
        _claim: Claim,
    },
    /// The control thread's answer.
    Control,
}

impl Shard {
    /// Takes one request; it is answered now or later, exactly once.
    pub fn handle_frame(
        self: &Rc<Self>,
        now: Instant,
        origin: &Origin,
        frame: &RequestFrame<'_>,
        deadline: Option<Instant>,
    ) {
        let opcode = frame.opcode();
        let reply = Reply {
            origin: origin.clone(),
            request_id: frame.request_id,
            keyspace: frame.keyspace_id,
            operation: opcode
                .as_ref()
                .map_or(OTHER, |opcode| operation_index(*opcode)),
        };
        let request = opcode.and_then(|opcode| Ok((opcode, Request::decode(frame)?)));
        let (opcode, request) = match request {
            Ok(request) => request,
            Err(error) => return self.refuse(&reply, error.status(), &error.to_string()),
        };
        match self.owner_of(opcode, frame, &request) {
            Ok(shard) if shard == self.index => {}
            Ok(shard) => return self.forward(shard, reply, frame, deadline),
            Err(explanation) => return self.refuse(&reply, Status::BadRequest, &explanation),
        }
        if let Err((status, explanation)) = self.authorise(origin, opcode, frame.keyspace_id) {
            return self.refuse(&reply, status, explanation);
        }
        self.execute(now, reply, frame, &request, deadline);
    }

    fn owner_of(
        &self,
        opcode: Opcode,
        frame: &RequestFrame<'_>,
        request: &Request<'_>,
    ) -> Result<u16, String> {
        match request {
            Request::KeyList(list) if list.shard < self.router.shard_count() => Ok(list.shard),
            Request::KeyList(list) => Err(format!(
                "shard {} does not exist; this node has {}",
                list.shard,
                self.router.shard_count()
            )),
            _ if opcode.scope() == Scope::Key => {
                Ok(self.router.shard_of(frame.keyspace_id, &frame.key_id))
            }
            _ => Ok(self.index),
        }
    }

    /// Before anything that depends on state: who has no right learns nothing.
    fn authorise(
        &self,
        origin: &Origin,
        opcode: Opcode,
        keyspace: u32,
    ) -> Result<(), (Status, &'static str)> {
        let principal = origin.principal();
        match opcode.scope() {
            Scope::Server => match opcode {
                Opcode::KeyspaceCreate | Opcode::Status | Opcode::KmsInit | Opcode::KmsUnlock
                    if !self.owner.may_everything(principal) =>
                {
                    Err((
                        Status::Forbidden,
                        "only the server's user and root may do this",
                    ))
                }
                _ => Ok(()),
            },
            Scope::Keyspace | Scope::Key => {
                let keyspaces = self.keyspaces.borrow();
                let needed = opcode.grants();
                let granted = keyspaces.grants(&self.owner, principal, keyspace);
                if granted.intersects(needed) {
                    return Ok(());
                }
                if keyspaces.of(keyspace).is_none() && self.owner.may_everything(principal) {
                    return Err((Status::NoKeyspace, "there is no such keyspace"));
                }
                Err((Status::Forbidden, explain(needed)))
            }
        }
    }

    fn execute(
        self: &Rc<Self>,
        now: Instant,
        reply: Reply,
        frame: &RequestFrame<'_>,
        request: &Request<'_>,
        deadline: Option<Instant>,
    ) {
        let keyspace = frame.keyspace_id;
        match request {
            Request::Hello(_) | Request::Ping(_) => {
                self.refuse(&reply, Status::BadRequest, "a connection greets for itself");
            }
            Request::Sign(_)
            | Request::Verify(_)
            | Request::Mac(_)
            | Request::Encrypt(_)
            | Request::Decrypt(_)
            | Request::Derive(_)
            | Request::PublicKey { .. }
            | Request::Get { .. } => {
                // Here and not in `use_key`, which an operation of the slow lane comes to twice.
                if let Some(known) = self.keyspaces.borrow_mut().of_mut(keyspace) {
                    known.tally.request(now, &frame.key_id);
                }
                self.use_key(now, reply, frame, request, deadline);
            }
            Request::ForceRefresh => self.force_refresh(now, reply, frame, deadline),
            Request::KeyGenerate(_)
            | Request::KeyImport(_)
            | Request::KeyRotate(_)
            | Request::KeyRevoke
            | Request::KeyList(_) => self.administer_key(reply, frame, request),
            Request::KeyspaceCreate(create) => {
                let lines = lines_of(&create.settings);
                self.ask_control(
                    reply,
                    Command::Create {
                        name: create.name.to_owned(),
                        lines,
                    },
                );
            }
            Request::KeyspaceSet(settings) => {
                self.ask_control(
                    reply,
                    Command::Set {
                        keyspace,
                        lines: lines_of(settings),
                    },
                );
            }
            Request::KeyspaceList { after } => {
                let principal = reply.origin.principal();
                let visible = self.keyspaces.borrow().visible(&self.owner, principal);
                self.ask_control(
                    reply,
                    Command::List {
                        after: *after,
                        visible,
                    },
                );
            }
            Request::Lock => self.ask_control(reply, Command::Lock { keyspace }),
            Request::KeyspaceRotate => self.ask_control(reply, Command::Rotate { keyspace }),
            Request::KeyspaceHistory => self.ask_control(reply, Command::History { keyspace }),
            Request::KeyspaceRewrap { kms } => {
                let kms = (*kms).to_owned();
                self.ask_control(reply, Command::Rewrap { keyspace, kms });
            }
            Request::KeyspaceHot(hot) => {
                self.ask_control(
                    reply,
                    Command::Hot {
                        keyspace,
                        by: hot.by,
                        keys_max: usize::from(hot.keys_max()),
                    },
                );
            }
            Request::Unlock(unlock) => {
                self.ask_control(
                    reply,
                    Command::Unlock {
                        keyspace,
                        kind: unlock.kind,
                        secret: unlock.secret.to_vec().into(),
                        watch: unlock.watch,
                    },
                );
            }
            Request::UnlockStatus { ticket } => {
                self.ask_control(
                    reply,
                    Command::UnlockStatus {
                        keyspace,
                        ticket: *ticket,
                    },
                );
            }
            Request::Status => self.ask_control(reply, Command::Status),
            Request::KmsInit(init) => self.ask_control(reply, initialise(init)),
            Request::KmsUnlock(unlock) => {
                self.ask_control(
                    reply,
                    Command::UnlockKms {
                        kms: unlock.kms.to_owned(),
                        kind: unlock.kind,
                        secret: unlock.secret.to_vec().into(),
                    },
                );
            }
        }
    }

    pub(super) fn use_key(
        &self,
        now: Instant,
        reply: Reply,
        frame: &RequestFrame<'_>,
        request: &Request<'_>,
        deadline: Option<Instant>,
    ) {
        let token = self.waiting.token();
        let asked = keyway_core::Request {
            token: Token(token),
            keyspace: KeyspaceId(frame.keyspace_id),
            key_id: &frame.key_id,
            deadline,
        };
        let mut core = self.core.borrow_mut();
        match core.handle_request(now, asked) {
            Verdict::Serve(grant) => self.carry_out(now, &reply, frame, request, &grant, deadline),
            Verdict::Wait => {
                let waiters = core
                    .counters(KeyspaceId(frame.keyspace_id))
                    .map_or(0, |counters| counters.singleflight_waiters);
                drop(core);
                if let Some(known) = self.keyspaces.borrow_mut().of_mut(frame.keyspace_id) {
                    known.waiters_max = known.waiters_max.max(waiters);
                    known.tally.wait(now, &frame.key_id);
                }
                match self.hold(frame) {
                    Some(held) => {
                        let wish = Wish::Operation { held, deadline };
                        self.waiting.wait(token, Waiting { reply, wish });
                    }
                    None => {
                        self.core.borrow_mut().handle_waiter_gone(now, Token(token));
                        self.refuse_as(&reply, Refusal::Overloaded { after_us: 10_000 });
                    }
                }
            }
            Verdict::Refuse(refusal) => {
                drop(core);
                self.refuse_as(&reply, refusal);
            }
        }
    }

    fn force_refresh(
        &self,
        now: Instant,
        reply: Reply,
        frame: &RequestFrame<'_>,
        deadline: Option<Instant>,
    ) {
        let token = self.waiting.token();
        let admission = self.core.borrow_mut().handle_force_refresh(
            now,
            Token(token),
            KeyspaceId(frame.keyspace_id),
            &frame.key_id,
            deadline,
        );
        match admission {
            Admission::Waiting => self.waiting.wait(
                token,
                Waiting {
                    reply,
                    wish: Wish::Refresh,
                },
            ),
            Admission::Refused(refusal) => self.refuse_as(&reply, refusal),
        }
    }
}

/// Operations that are counted together.
const OTHER: usize = 10;

/// Index of an operation in `OPERATIONS`.
fn operation_index(opcode: Opcode) -> usize {
    match opcode {
        Opcode::Sign => 0,
        Opcode::Verify => 1,
        Opcode::Mac => 2,
        Opcode::Encrypt => 3,
        Opcode::Decrypt => 4,
        Opcode::Derive => 5,
        Opcode::PublicKey => 6,
        Opcode::Get => 7,
        Opcode::ForceRefresh => 8,
        Opcode::KeyGenerate
        | Opcode::KeyImport
        | Opcode::KeyRotate
        | Opcode::KeyRevoke
        | Opcode::KeyList => 9,
        _ => OTHER,
    }
}

fn initialise(init: &KmsInit<'_>) -> Command {
    let kms = init.kms.to_owned();
    match init.custody {
        Custody::Passphrase(passphrase) => Command::Initialise {
            kms,
            shares: 0,
            threshold: 0,
            passphrase: passphrase.to_vec().into(),
        },
        Custody::Shares { count, threshold } => Command::Initialise {
            kms,
            shares: count,
            threshold,
            passphrase: Vec::new().into(),
        },
    }
}

fn lines_of(settings: &keyway_protocol::Settings<'_>) -> String {
    settings
        .iter()
        .map(|(name, value)| format!("{name}={value}\n"))
        .collect()
}

fn explain(needed: Grants) -> &'static str {
    if needed.intersects(Grants::MANAGE | Grants::UNLOCK) {
        "the keyspace's policy does not let you administer it; its owner can with \
         `keyway keyspace set KEYSPACE allow:PRINCIPAL=manage`"
    } else {
        "the keyspace's policy does not let you do this; its owner can with \
         `keyway keyspace set KEYSPACE allow:PRINCIPAL=RIGHT`"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::snapshot::OPERATIONS;

    #[test]
    fn operations_are_counted_under_their_own_names() {
        for opcode in [
            Opcode::Sign,
            Opcode::Verify,
            Opcode::PublicKey,
            Opcode::ForceRefresh,
        ] {
            assert_eq!(OPERATIONS[operation_index(opcode)], opcode.name());
        }
        assert_eq!(OPERATIONS[OTHER], "other");
        assert_eq!(OPERATIONS[operation_index(Opcode::KeyList)], "key_admin");
    }
}
