//! Administration of keys: each request is a task of its own, off the request path.

use std::rc::Rc;
use std::time::Duration;

use keyway_core::{Instant, KeyspaceId, Refusal};
use keyway_keys::{Algorithm, ImportFormat, KeyUsage, NewKey};
use keyway_protocol::{
    KeyList, KeyListAnswer, KeyRow, Material, Request, RequestFrame, ResponseHead, Status,
};
use zeroize::Zeroizing;

use super::deadlines::Parked;
use super::permit::Permit;
use super::request::Asked;
use super::{Responder, Shard};
use crate::clock;
use crate::control::lanes::Lane;
use crate::control::messages::ControlRequest;
use crate::rehydrator::{Source, WriteError};
use crate::runtime::tasks;

/// How long a write waits for the keyspace's DEK.
const DEK_WAIT: Duration = Duration::from_secs(3);

/// How often it looks.
const DEK_POLL: Duration = Duration::from_millis(2);

/// A write asks again for a DEK that has not come after so long.
const DEK_ASK_PERIOD_US: u64 = 1_000_000;

/// What a key write needs, owned: it outlives the frame.
struct KeyWrite {
    keyspace: u32,
    key_id: Vec<u8>,
    /// The right to it, to be checked again right before the write.
    permit: Permit,
    /// The write does not begin at this time or later.
    deadline: Option<Instant>,
    change: Change,
}

enum Change {
    Create {
        algorithm: Option<Algorithm>,
        new: NewKey,
        material: Option<(ImportFormat, Zeroizing<Vec<u8>>)>,
    },
    Rotate(Option<(ImportFormat, Zeroizing<Vec<u8>>)>),
    Revoke,
}

impl Shard {
    /// Starts an administrator's request about a key, or a list of them.
    pub(super) fn administer_key(
        self: &Rc<Self>,
        asked: Asked<'_>,
        frame: &RequestFrame<'_>,
        request: &Request<'_>,
    ) {
        if let Request::KeyList(list) = request {
            return self.list_keys(asked, frame.keyspace_id, list);
        }
        let change = match change_of(request) {
            Ok(change) => change,
            Err(explanation) => {
                return self.refuse(asked.responder, Status::BadRequest, explanation);
            }
        };
        let write = KeyWrite {
            keyspace: frame.keyspace_id,
            key_id: frame.key_id.to_vec(),
            permit: asked.allowed.park(),
            deadline: asked.deadline,
            change,
        };
        // What takes something away is never refused for what the principal does besides.
        let place = match &write.change {
            Change::Revoke => None,
            _ => match self.accounts.write(asked.allowed.principal()) {
                None => {
                    let full = Refusal::Overloaded { after_us: 100_000 };
                    return self.refuse_as(asked.responder, full);
                }
                place => place,
            },
        };
        let Some(parked) = self.park(asked) else {
            return;
        };
        let shard = Rc::clone(self);
        tasks::spawn(async move {
            shard.write_key(parked, write).await;
            drop(place);
        });
    }

    async fn write_key(self: Rc<Self>, parked: Parked, write: KeyWrite) {
        let written = self.write(&write).await;
        let turn = self.begin_turn();
        if let Ok(key_version) = written {
            let (keyspace, id) = (KeyspaceId(write.keyspace), write.key_id.as_slice());
            let mut core = self.core.borrow_mut();
            match write.change {
                // Again, for a key that came to be since this began.
                Change::Revoke => core.handle_revoked(turn.now(), keyspace, id),
                _ => core.handle_stored(turn.now(), keyspace, id, key_version),
            }
        }
        // Otherwise its deadline has passed: it has its answer.
        if let Some(responder) = parked.responder() {
            match written {
                Ok(key_version) => self.answer(responder, |_| {
                    Ok(ResponseHead {
                        key_version,
                        ..ResponseHead::OK
                    })
                }),
                Err(error) => self.refuse_write(responder, error),
            }
        }
        self.end_turn(turn);
    }

    async fn write(self: &Rc<Self>, write: &KeyWrite) -> Result<u32, WriteError> {
        self.may_write(write)?;
        if let Change::Revoke = write.change {
            // At once, before it is durable: from here on no operation begins. But not for a key
            // that is not there: whoever makes it later is to find it usable.
            let (keyspace, id) = (KeyspaceId(write.keyspace), write.key_id.as_slice());
            let is_there = self
                .rehydrator
                .log()
                .version_of(write.keyspace, id)
                .is_some();
            if is_there {
                self.mark_revoked(keyspace, id);
            }
        } else {
            let dek = self.wait_for_dek(write.keyspace).await;
            dek.map_err(WriteError::Refused)?;
        }
        self.apply(write).await
    }

    fn mark_revoked(self: &Rc<Self>, keyspace: KeyspaceId, id: &[u8]) {
        let turn = self.begin_turn();
        self.core
            .borrow_mut()
            .handle_revoked(turn.now(), keyspace, id);
        self.end_turn(turn);
    }

    /// Checks what a write was begun on, right before it is done: the right, the deadline, and that the keyspace is not
    /// locked. Revoking takes something away, so it does not need an unlocked keyspace.
    fn may_write(&self, write: &KeyWrite) -> Result<(), WriteError> {
        self.recheck(write.permit)
            .map_err(|(status, explanation)| WriteError::Denied(status, explanation))?;
        let now = clock::now();
        if write.deadline.is_some_and(|deadline| now >= deadline) {
            return Err(WriteError::Refused(Refusal::DeadlineExceeded));
        }
        let gauges = self.core.borrow().gauges(now, KeyspaceId(write.keyspace));
        let is_closed = gauges.is_some_and(|gauges| gauges.locked || gauges.denied);
        if is_closed && !matches!(write.change, Change::Revoke) {
            return Err(WriteError::Refused(Refusal::NeedsUnlock {
                ticket: u64::from(write.keyspace) << 32,
            }));
        }
        Ok(())
    }

    async fn apply(&self, write: &KeyWrite) -> Result<u32, WriteError> {
        let (keyspace, id) = (write.keyspace, write.key_id.as_slice());
        let may_write = || self.may_write(write);
        match &write.change {
            Change::Create {
                algorithm,
                new,
                material,
            } => {
                self.rehydrator
                    .create(
                        keyspace,
                        id,
                        *algorithm,
                        new,
                        source_of(material),
                        may_write,
                    )
                    .await
            }
            Change::Rotate(material) => {
                self.rehydrator
                    .rotate(keyspace, id, source_of(material), may_write)
                    .await
            }
            Change::Revoke => self.rehydrator.revoke(keyspace, id).await,
        }
    }

    /// Sealing needs a DEK; the first write to a keyspace is often the first use of it.
    async fn wait_for_dek(&self, keyspace: u32) -> Result<(), Refusal> {
        let give_up_at = clock::now().plus_us(DEK_WAIT.as_micros() as u64);
        while !self.rehydrator.can_seal(keyspace) {
            let now = clock::now();
            let gauges = self.core.borrow().gauges(now, KeyspaceId(keyspace));
            let gauges = gauges.ok_or(Refusal::NoKeyspace)?;
            if gauges.locked || gauges.denied {
                return Err(Refusal::NeedsUnlock { ticket: 0 });
            }
            if now >= give_up_at {
                return Err(Refusal::Unavailable {
                    after_us: 1_000_000,
                });
            }
            if !gauges.unwrap_pending {
                self.ask_once_for_dek(now, keyspace);
            }
            tasks::sleep(DEK_POLL).await;
        }
        Ok(())
    }

    /// Asks for the DEK on behalf of all writes that wait for it.
    fn ask_once_for_dek(&self, now: Instant, keyspace: u32) {
        let mut keyspaces = self.keyspaces.borrow_mut();
        let Some(known) = keyspaces.of_mut(keyspace) else {
            return;
        };
        let asked_lately = known
            .dek_asked_at
            .is_some_and(|at| now.saturating_since(at) < DEK_ASK_PERIOD_US);
        if !asked_lately {
            known.dek_asked_at = Some(now);
            let request = ControlRequest::Unwrap { keyspace };
            // A full queue is tried again after the period.
            let _ = self.control.try_send(Lane::Ordinary, request);
        }
    }

    fn refuse_write(&self, responder: Responder, error: WriteError) {
        let (status, explanation) = match error {
            WriteError::Denied(status, explanation) => {
                return self.refuse(responder, status, explanation);
            }
            WriteError::Refused(refusal) => return self.refuse_as(responder, refusal),
            WriteError::DekMissing => {
                return self.refuse_as(responder, Refusal::Unavailable { after_us: 100_000 });
            }
            WriteError::Overloaded(explanation) => {
                let head = ResponseHead {
                    after_us: 10_000,
                    ..ResponseHead::status(Status::Overloaded)
                };
                return self.answer(responder, |_| Err((head, explanation)));
            }
            WriteError::NotFound => return self.refuse_as(responder, Refusal::NotFound),
            WriteError::Revoked => return self.refuse_as(responder, Refusal::Revoked),
            WriteError::Conflict(explanation) => (Status::Conflict, explanation),
            WriteError::Bad(explanation) => (Status::BadRequest, explanation),
            WriteError::Invalid(explanation) => (Status::Invalid, explanation),
            WriteError::Store(explanation) => (Status::Internal, explanation),
        };
        self.refuse(responder, status, &explanation);
    }

    fn list_keys(self: &Rc<Self>, asked: Asked<'_>, keyspace: u32, list: &KeyList<'_>) {
        let Some(place) = self.accounts.list(asked.allowed.principal()) else {
            return self.refuse_as(asked.responder, Refusal::Overloaded { after_us: 10_000 });
        };
        let (cursor, limit) = (list.cursor.to_vec(), usize::from(list.rows_max()));
        let permit = asked.allowed.park();
        let Some(parked) = self.park(asked) else {
            return;
        };
        let shard = Rc::clone(self);
        tasks::spawn(async move {
            let _place = place;
            let page = shard.rehydrator.page(&cursor, limit, keyspace).await;
            let Some(responder) = parked.responder() else {
                return;
            };
            let turn = shard.begin_turn();
            if let Err((status, explanation)) = shard.recheck(permit) {
                shard.refuse(responder, status, explanation);
                shard.end_turn(turn);
                return;
            }
            match page {
                Ok(page) => shard.answer(responder, |payload| {
                    let rows = page.rows.iter().filter_map(|row| {
                        Some(KeyRow {
                            key_id: std::str::from_utf8(&row.key_id).ok()?,
                            key_version: row.version,
                            algorithm: row
                                .algorithm
                                .and_then(|id| keyway_protocol::Algorithm::try_from(id).ok()),
                            state: if row.revoked {
                                keyway_protocol::KeyState::Revoked
                            } else {
                                keyway_protocol::KeyState::Active
                            },
                        })
                    });
                    match KeyListAnswer::encode(&page.cursor, rows, payload) {
                        Ok(()) => Ok(ResponseHead::OK),
                        Err(error) => {
                            Err((ResponseHead::status(Status::Internal), error.to_string()))
                        }
                    }
                }),
                Err(explanation) => shard.refuse(responder, Status::BadRequest, &explanation),
            }
            shard.end_turn(turn);
        });
    }
}

fn source_of(material: &Option<(ImportFormat, Zeroizing<Vec<u8>>)>) -> Source<'_> {
    match material {
        Some((format, bytes)) => Source::Import(*format, bytes),
        None => Source::Generate,
    }
}

fn change_of(request: &Request<'_>) -> Result<Change, &'static str> {
    let (new_key, material) = match request {
        Request::KeyRevoke => return Ok(Change::Revoke),
        Request::KeyRotate(rotate) => {
            return Ok(Change::Rotate(
                rotate.material.as_ref().map(owned).transpose()?,
            ));
        }
        Request::KeyGenerate(generate) => (&generate.new_key, None),
        Request::KeyImport(import) => (&import.new_key, Some(owned(&import.material)?)),
        _ => return Err("this operation does not change a key"),
    };
    let algorithm = match new_key.algorithm {
        Some(algorithm) => Some(
            Algorithm::from_id(algorithm.code())
                .ok_or("this server does not know the algorithm")?,
        ),
        None => None,
    };
    let usage = match new_key.usage.bits() {
        0 => None,
        bits => Some(KeyUsage::from_bits(bits).ok_or("unknown usage bits")?),
    };
    let new = NewKey {
        usage,
        exportable: new_key.exportable,
        not_before_unix_ms: 0,
        not_after_unix_ms: new_key.not_after_unix_ms,
        now_unix_ms: clock::unix_ms(),
    };
    Ok(Change::Create {
        algorithm,
        new,
        material,
    })
}

fn owned(material: &Material<'_>) -> Result<(ImportFormat, Zeroizing<Vec<u8>>), &'static str> {
    let format = ImportFormat::from_id(material.format.code()).ok_or("unknown key format")?;
    Ok((format, Zeroizing::new(material.bytes.to_vec())))
}
