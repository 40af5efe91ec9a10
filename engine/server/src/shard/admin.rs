//! Administration of keys: each request is a task of its own, off the request path.

use std::rc::Rc;

use keyway_core::{Instant, KeyspaceId, Refusal};
use keyway_keys::{Algorithm, ImportFormat, KeyUsage, NewKey};
use keyway_protocol::{
    KeyList, KeyListAnswer, KeyRevoke, KeyRow, Material, Request, RequestFrame, ResponseHead,
    Status,
};
use keyway_store::KeyState;
use zeroize::Zeroizing;

use super::deadlines::Parked;
use super::permit::Permit;
use super::request::Asked;
use super::{Responder, Shard};
use crate::clock;
use crate::rehydrator::{Source, WriteError};
use crate::runtime::tasks;

/// When to ask again after the store could not be read or written.
const STORE_AFTER_US: u32 = 1_000_000;

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
    Trim {
        below: u32,
    },
    RevokeVersion(u32),
    Revoke,
    Delete,
}

impl Change {
    /// Whether it opens or seals the key.
    fn needs_dek(&self) -> bool {
        !matches!(self, Change::Revoke | Change::Delete)
    }
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
            Change::Revoke | Change::RevokeVersion(_) => None,
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
        self.learn_key(turn.now(), &write, written.is_ok());
        if let Ok(key_version) = written {
            self.log_write(&write, key_version);
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
        if write.change.needs_dek() {
            let dek = self.wait_for_dek(write.keyspace, write.deadline).await;
            dek.map_err(WriteError::Refused)?;
        }
        self.apply(write).await
    }

    /// Checks what a write was begun on, right before it is done: the right, the deadline, and that the keyspace is not
    /// locked. What needs no data key needs no unlocked keyspace.
    fn may_write(&self, write: &KeyWrite) -> Result<(), WriteError> {
        self.recheck(write.permit)
            .map_err(|(status, explanation)| WriteError::Denied(status, explanation))?;
        let now = clock::now();
        if write.deadline.is_some_and(|deadline| now >= deadline) {
            return Err(WriteError::Refused(Refusal::DeadlineExceeded));
        }
        let gauges = self.core.borrow().gauges(now, KeyspaceId(write.keyspace));
        let is_closed = gauges.is_some_and(|gauges| gauges.locked || gauges.denied);
        if is_closed && write.change.needs_dek() {
            return Err(WriteError::Refused(Refusal::NeedsUnlock {
                ticket: u64::from(write.keyspace) << 32,
            }));
        }
        Ok(())
    }

    /// Has core act by what the log holds of a key now. Between this and the answer nothing else
    /// runs on the shard, so an operation that begins after the answer finds it so.
    fn learn_key(&self, now: Instant, write: &KeyWrite, is_done: bool) {
        let (keyspace, id) = (KeyspaceId(write.keyspace), write.key_id.as_slice());
        let Some(known) = self.rehydrator.log().version_of(write.keyspace, id) else {
            return;
        };
        let mut core = self.core.borrow_mut();
        match (known.state, &write.change) {
            (KeyState::Revoked, _) => core.handle_revoked(now, keyspace, id),
            (KeyState::Deleted, _) => core.handle_deleted(now, keyspace, id),
            (_, Change::Trim { .. } | Change::RevokeVersion(_)) if is_done => {
                core.handle_rewritten(now, keyspace, id, known.version);
            }
            _ => core.handle_stored(now, keyspace, id, known.version),
        }
    }

    /// What an auditor wants to know of; the rest is counted.
    fn log_write(&self, write: &KeyWrite, newest: u32) {
        let keyspaces = self.keyspaces.borrow();
        let keyspace = keyspaces
            .of(write.keyspace)
            .map(|known| known.name.as_str());
        let keyspace = keyspace.unwrap_or_default();
        let key = String::from_utf8_lossy(&write.key_id);
        let who = write.permit.principal();
        match write.change {
            Change::Trim { below } => {
                tracing::info!(keyspace, %key, below, newest, %who, "key trimmed");
            }
            Change::RevokeVersion(version) => {
                tracing::info!(keyspace, %key, version, newest, %who, "key version revoked");
            }
            Change::Revoke => tracing::info!(keyspace, %key, newest, %who, "key revoked"),
            Change::Delete => tracing::info!(keyspace, %key, newest, %who, "key deleted"),
            Change::Create { .. } | Change::Rotate(_) => {}
        }
    }

    async fn apply(self: &Rc<Self>, write: &KeyWrite) -> Result<u32, WriteError> {
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
            Change::Trim { below } => self.rehydrator.trim(keyspace, id, *below, may_write).await,
            Change::RevokeVersion(version) => {
                self.rehydrator
                    .revoke_version(keyspace, id, *version, may_write)
                    .await
            }
            Change::Revoke => {
                // The log has taken it before core acts by it, so it cannot be refused any more;
                // and core acts by it before it is durable.
                let revocation = self.rehydrator.revoke(keyspace, id)?;
                let turn = self.begin_turn();
                self.learn_key(turn.now(), write, false);
                self.end_turn(turn);
                self.rehydrator.persist_revocation(revocation).await
            }
            Change::Delete => {
                let wait_ms = {
                    let keyspaces = self.keyspaces.borrow();
                    let known = keyspaces.of(keyspace);
                    known.map_or(0, |known| known.delete_wait_ms)
                };
                self.rehydrator.delete(keyspace, id, wait_ms).await
            }
        }
    }

    pub(super) fn refuse_write(&self, responder: Responder, error: WriteError) {
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
            WriteError::Store(explanation) => {
                let head = ResponseHead {
                    after_us: STORE_AFTER_US,
                    ..ResponseHead::status(Status::Unavailable)
                };
                return self.answer(responder, |_| Err((head, explanation)));
            }
            WriteError::Unknown(explanation) => (Status::Internal, explanation),
            WriteError::NotPersisted(explanation) => (Status::NotPersisted, explanation),
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
        Request::KeyRevoke(KeyRevoke { key_version: 0 }) => return Ok(Change::Revoke),
        Request::KeyRevoke(KeyRevoke { key_version }) => {
            return Ok(Change::RevokeVersion(*key_version));
        }
        Request::KeyTrim(trim) => return Ok(Change::Trim { below: trim.below }),
        Request::KeyDelete => return Ok(Change::Delete),
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
        first_version: 1,
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
