//! A request's way in: decoding, routing, authorisation, then the core or an administrator's task.

use std::rc::Rc;

use keyway_core::{Admission, Instant, KeyspaceId, Refusal, Token, Verdict};
use keyway_protocol::{
    Custody, KmsInit, Opcode, Request, RequestFrame, ResponseHead, Scope, Status,
};

use super::answer::Responder;
use super::held::{Claim, HeldFrame};
use super::permit::{Allowed, Permit};
use super::turn::Turn;
use super::{Origin, Shard};
use crate::authorise::Principal;
use crate::metrics::requests::CountedOperation;
use crate::plant;
use keyway_node::catalogue::{CatalogueError, SettingsChange};
use keyway_node::messages::{Command, Secret};

/// A request that waits for something.
pub struct Waiting {
    /// Where its answer goes.
    pub responder: Responder,
    /// The right to it, to be checked again when the wait is over.
    pub permit: Permit,
    /// When the shard itself ends the wait; `None` where the core does, or nobody needs to.
    pub deadline: Option<Instant>,
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
        /// It changes a key.
        is_write: bool,
        /// Its bytes are on their way, and count until the answer is here.
        _claim: Claim,
    },
    /// The control thread's answer.
    Control,
    /// A task of this shard that changes or lists keys.
    Administration,
}

/// What KEYSPACE_LIST answers to a principal that may see none.
const NO_KEYSPACES: &str = r#"{"keyspaces":[],"more":false}"#;

impl Shard {
    /// Takes on the duty to answer a frame.
    pub fn responder_of(&self, origin: &Origin, frame: &RequestFrame<'_>) -> Responder {
        let operation = frame
            .opcode()
            .map_or(CountedOperation::Other, CountedOperation::of);
        self.responder(
            origin.clone(),
            frame.request_id,
            frame.keyspace_id,
            operation,
        )
    }

    /// Takes on the duty to answer bytes that are no frame.
    pub fn responder_to(&self, origin: &Origin, request_id: u64) -> Responder {
        self.responder(origin.clone(), request_id, 0, CountedOperation::Other)
    }

    /// Takes one request; it is answered now or later, exactly once.
    pub fn handle_frame(
        self: &Rc<Self>,
        turn: &Turn,
        responder: Responder,
        principal: Principal,
        frame: &RequestFrame<'_>,
        deadline: Option<Instant>,
    ) {
        let request = frame
            .opcode()
            .and_then(|opcode| Ok((opcode, Request::decode(frame)?)));
        let (opcode, request) = match request {
            Ok(request) => request,
            Err(error) => return self.refuse(responder, error.status(), &error.to_string()),
        };
        let owner = match self.owner_of(opcode, frame, &request) {
            Ok(owner) => owner,
            Err(explanation) => return self.refuse(responder, Status::BadRequest, &explanation),
        };
        let allowed = match self.permit(turn, principal, opcode, frame.keyspace_id) {
            Ok(allowed) => allowed,
            Err((status, explanation)) => return self.refuse(responder, status, explanation),
        };
        let asked = Asked {
            responder,
            allowed,
            deadline,
        };
        if owner != self.index {
            return self.forward(owner, asked, frame);
        }
        self.execute(turn, asked, frame, &request);
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

    fn execute(
        self: &Rc<Self>,
        turn: &Turn,
        asked: Asked<'_>,
        frame: &RequestFrame<'_>,
        request: &Request<'_>,
    ) {
        let keyspace = frame.keyspace_id;
        match request {
            Request::Hello(_) | Request::Ping(_) => {
                let text = "a connection greets for itself";
                self.refuse(asked.responder, Status::BadRequest, text);
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
                    known.tally.request(turn.now(), &frame.key_id);
                }
                self.use_key(turn, asked, frame, request);
            }
            Request::ForceRefresh => self.force_refresh(turn, asked, frame),
            Request::KeyGenerate(_)
            | Request::KeyImport(_)
            | Request::KeyRotate(_)
            | Request::KeyRevoke(_)
            | Request::KeyTrim(_)
            | Request::KeyDelete
            | Request::KeyList(_) => self.administer_key(asked, frame, request),
            Request::KeyspaceCreate(create) => {
                let command = create_command(create);
                self.ask_control_if(asked, command);
            }
            Request::KeyspaceSet(settings) => {
                let change = SettingsChange::parse(settings.iter());
                self.ask_control_if(
                    asked,
                    change.map(|change| Command::Set { keyspace, change }),
                );
            }
            Request::KeyspaceList { after } => {
                let principal = asked.allowed.principal();
                let visible = self.keyspaces.borrow().visible(&self.owner, principal);
                if visible.is_empty() {
                    // Who may see nothing does not get to load the control thread.
                    return self.answer(asked.responder, |payload| {
                        payload.extend_from_slice(NO_KEYSPACES.as_bytes());
                        Ok(ResponseHead::OK)
                    });
                }
                self.ask_control(
                    asked,
                    Command::List {
                        after: *after,
                        visible,
                    },
                );
            }
            Request::Lock => self.ask_control(asked, Command::Lock { keyspace }),
            Request::KeyspaceRotate => self.ask_control(asked, Command::Rotate { keyspace }),
            Request::KeyspaceDestroyDeks => {
                self.ask_control(asked, Command::DestroyDeks { keyspace });
            }
            Request::KeyspaceHistory => self.ask_control(asked, Command::History { keyspace }),
            Request::KeyspaceRewrap { kms } => {
                let kms = (*kms).to_owned();
                self.ask_control(asked, Command::Rewrap { keyspace, kms });
            }
            Request::KeyspaceHot(hot) => {
                self.ask_control(
                    asked,
                    Command::Hot {
                        keyspace,
                        by: hot.by,
                        keys_max: usize::from(hot.keys_max()),
                    },
                );
            }
            Request::Unlock(unlock) => {
                self.ask_control(
                    asked,
                    Command::Unlock {
                        keyspace,
                        secret: Secret {
                            kind: unlock.kind,
                            bytes: unlock.secret.to_vec().into(),
                            force: unlock.force,
                        },
                        watch: unlock.watch,
                    },
                );
            }
            Request::UnlockStatus { ticket } => {
                self.ask_control(
                    asked,
                    Command::UnlockStatus {
                        keyspace,
                        ticket: *ticket,
                    },
                );
            }
            Request::Status { after } => {
                self.ask_control(asked, Command::Status { after: *after });
            }
            Request::KmsInit(init) => self.ask_control(asked, initialise(init)),
            Request::KmsLock { kms } => {
                let kms = (*kms).to_owned();
                self.ask_control(asked, Command::LockKms { kms });
            }
            Request::LockAll => self.ask_control(asked, Command::LockAll),
            Request::KmsUnlock(unlock) => {
                self.ask_control(
                    asked,
                    Command::UnlockKms {
                        kms: unlock.kms.to_owned(),
                        secret: Secret {
                            kind: unlock.kind,
                            bytes: unlock.secret.to_vec().into(),
                            force: unlock.force,
                        },
                    },
                );
            }
        }
    }

    /// Hands a command to the control thread that could be read; otherwise refuses it.
    fn ask_control_if(&self, asked: Asked<'_>, command: Result<Command, CatalogueError>) {
        match command {
            Ok(command) => self.ask_control(asked, command),
            Err(error) => {
                let (status, explanation) = error.into();
                self.refuse(asked.responder, status, &explanation);
            }
        }
    }

    pub(super) fn use_key(
        &self,
        turn: &Turn,
        asked: Asked<'_>,
        frame: &RequestFrame<'_>,
        request: &Request<'_>,
    ) {
        let (token, now) = (self.waiting.token(), turn.now());
        let wanted = keyway_core::Request {
            token: Token(token),
            keyspace: KeyspaceId(frame.keyspace_id),
            key_id: &frame.key_id,
            deadline: asked.deadline,
        };
        let mut core = self.core.borrow_mut();
        plant::panic_if_planted("core", &frame.key_id);
        match core.handle_request(now, wanted) {
            Verdict::Serve(grant) => self.carry_out(turn, asked, frame, request, &grant),
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
                        let deadline = asked.deadline;
                        let wish = Wish::Operation { held, deadline };
                        self.wait(token, asked.waiting(wish));
                    }
                    None => {
                        self.core.borrow_mut().handle_waiter_gone(now, Token(token));
                        let refusal = Refusal::Overloaded { after_us: 10_000 };
                        self.refuse_as(asked.responder, refusal);
                    }
                }
            }
            Verdict::Refuse(refusal) => {
                drop(core);
                self.refuse_as(asked.responder, refusal);
            }
        }
    }

    fn force_refresh(&self, turn: &Turn, asked: Asked<'_>, frame: &RequestFrame<'_>) {
        let token = self.waiting.token();
        let admission = self.core.borrow_mut().handle_force_refresh(
            turn.now(),
            Token(token),
            KeyspaceId(frame.keyspace_id),
            &frame.key_id,
            asked.deadline,
        );
        match admission {
            Admission::Waiting => self.wait(token, asked.waiting(Wish::Refresh)),
            Admission::Refused(refusal) => self.refuse_as(asked.responder, refusal),
        }
    }
}

/// A request that may be carried out in this turn.
pub struct Asked<'turn> {
    /// Where its answer goes.
    pub responder: Responder,
    /// The right to it.
    pub allowed: Allowed<'turn>,
    /// After this the answer is of no use.
    pub deadline: Option<Instant>,
}

impl Asked<'_> {
    /// Lets the request wait for what it wishes.
    pub fn waiting(self, wish: Wish) -> Waiting {
        Waiting {
            responder: self.responder,
            permit: self.allowed.park(),
            deadline: match wish {
                // The core knows it.
                Wish::Operation { .. } | Wish::Refresh => None,
                Wish::Forwarded { .. } | Wish::Control | Wish::Administration => self.deadline,
            },
            wish,
        }
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

/// Name of what says, among a new keyspace's settings, which KMS wraps its DEKs.
const KMS: &str = "kms";

fn create_command(create: &keyway_protocol::KeyspaceCreate<'_>) -> Result<Command, CatalogueError> {
    let named = create.settings.iter().filter(|(name, _)| *name == KMS);
    let kms = named.last().map(|(_, kms)| kms.to_owned());
    let settings = create.settings.iter().filter(|(name, _)| *name != KMS);
    Ok(Command::Create {
        name: create.name.to_owned(),
        kms,
        change: SettingsChange::parse(settings)?.without_end()?,
    })
}
