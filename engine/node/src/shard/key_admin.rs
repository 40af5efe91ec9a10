//! Writes to keys: generate, import, rotate, trim, revoke, delete.
//!
//! ```text
//!  begin ─▶ AwaitingDek ─▶ Reading ─▶ Generating ─▶ sealed ─▶ Putting ─▶ the core is updated ─▶ answered
//! ```
//!
//! A write takes the steps that it needs. What it was begun on (the right, the deadline, that the keyspace is not locked)
//! is checked again right before the log is written to, after all that takes time.

use keyway_core::slots::Handle;
use keyway_core::{DekRequest, DekVerdict, KeyspaceId, Refusal};
use keyway_protocol::{KeyRevoke, Request, RequestFrame, ResponseHead};

use super::Shard;
use super::effect::{Done, Errand, OwnedName};
use super::job::{Job, Stage};
use super::key_place::place_of;
use super::key_write::{KeyWrite, Step};
use super::places::Purpose;
use super::port::{
    Expect, Found, KeyState, Known, Making, Name, Port, ReadError, Seal, Secret, Write, WriteError,
};
use super::refusal::{WriteRefusal, overloaded};
use super::shelf::SealUnder;
use super::tasks::Task;
use super::use_key::Asked;
use crate::limits::verdict_us;

/// How long a write waits for the keyspace's DEK, µs.
const DEK_WAIT_US: u64 = 3_000_000;

/// What the next step of a write is.
enum Next {
    /// To wait for an errand.
    Errand(Step, Errand),
    /// It is done: the key's newest version.
    Finish(u32),
}

type Stepped = Result<Next, WriteRefusal>;

impl<P: Port> Shard<P> {
    /// Starts a write.
    pub(super) fn begin_write(
        &mut self,
        mut asked: Asked<'_>,
        frame: &RequestFrame<'_>,
        request: &Request<'_>,
    ) {
        let who = asked.allowed.who();
        let takes_away = matches!(request, Request::KeyRevoke(_));
        // What takes something away is not refused for what else the principal writes.
        let place = match takes_away {
            true => None,
            false => match self.out.connections.accounts.write(who) {
                None => return self.refuse_as(asked.responder, overloaded(100_000)),
                place => place,
            },
        };
        let purpose = match takes_away {
            true => Purpose::Revocation,
            false => Purpose::Request,
        };
        let Some(kept) = self.keep_asked(&mut asked, purpose, frame) else {
            return self.refuse_as(asked.responder, overloaded(100_000));
        };
        let write = KeyWrite {
            step: Step::Going,
            _place: place,
            current: None,
            generated: None,
        };
        let job = asked.into_job(kept, Stage::Writing(write));
        self.step(job, |shard, job| {
            shard.may_write(job)?;
            match shard.want_dek(job)? {
                true => shard.prepare(job).map(Some),
                false => Ok(None),
            }
        });
    }

    /// Returns whether a write may go on: the first write to a keyspace is often the first use of its DEK. Otherwise the
    /// core will hand it out, under the name that it is parked with.
    fn want_dek(&mut self, job: &Job) -> Result<bool, WriteRefusal> {
        if !needs_dek(job) {
            return Ok(true);
        }
        let (now, keyspace) = (self.timed.now(), keyspace_of(job));
        let request = DekRequest {
            token: self.jobs.next_token(),
            keyspace: KeyspaceId(keyspace),
            generation: self.shelf.floor(keyspace),
            wait_us: DEK_WAIT_US,
            deadline: job.deadline,
        };
        match self.core.call(|core| core.handle_wanted(now, request)) {
            DekVerdict::Ready => Ok(true),
            DekVerdict::Wait => Ok(false),
            DekVerdict::Refuse(refusal) => Err(refusal.into()),
        }
    }

    /// Goes on with a write whose wait for the DEK is over.
    pub(super) fn resume_write(&mut self, job: Job) {
        self.step(job, |shard, job| {
            shard.may_write(job)?;
            shard.prepare(job).map(Some)
        });
    }

    /// Takes one step of a write: it then waits again, or is answered.
    fn step(
        &mut self,
        mut job: Job,
        step: impl FnOnce(&mut Self, &mut Job) -> Result<Option<Next>, WriteRefusal>,
    ) {
        let stepped = step(self, &mut job);
        let Stage::Writing(write) = &mut job.stage else {
            return;
        };
        match stepped {
            Ok(Some(Next::Errand(next, errand))) => {
                if let Step::Putting {
                    under: Some(under), ..
                } = next
                {
                    self.shelf.begin(under);
                }
                write.step = next;
                let job = self.jobs.park(job);
                self.tasks.begin(&mut self.out, Task::Job(job), errand);
            }
            Ok(Some(Next::Finish(version))) => self.finish_write(job, Ok(version)),
            Err(refusal) => self.finish_write(job, Err(refusal)),
            Ok(None) => {
                write.step = Step::AwaitingDek;
                self.jobs.park(job);
            }
        }
    }

    pub(super) fn finish_write(&mut self, job: Job, written: Result<u32, WriteRefusal>) {
        // Otherwise its deadline has passed, or its connection is gone.
        let Some(responder) = job.responder else {
            return;
        };
        match written {
            Ok(key_version) => self.out.answer(responder, |_| {
                Ok(ResponseHead {
                    key_version,
                    ..ResponseHead::OK
                })
            }),
            Err(refusal) => self
                .out
                .refuse_write(&mut self.governed, responder, refusal),
        }
    }

    /// Checks what a write was begun on, right before it is done: the right, the deadline, and that the keyspace is not
    /// locked. What needs no data key needs no unlocked keyspace.
    fn may_write(&self, job: &Job) -> Result<(), WriteRefusal> {
        self.governed.recheck(job.permit)?;
        let now = self.timed.now();
        if job.deadline.is_some_and(|deadline| now >= deadline) {
            return Err(Refusal::DeadlineExceeded.into());
        }
        if needs_dek(job) && self.is_closed(keyspace_of(job)) {
            return Err(Refusal::NeedsUnlock { ticket: 0 }.into());
        }
        Ok(())
    }

    /// Begins what has to be done before the log is written to.
    fn prepare(&mut self, job: &mut Job) -> Stepped {
        let planned = job.frame.with(|frame, request| match request {
            Request::KeyGenerate(generate) => Plan::Create(generate.new_key.algorithm, false),
            Request::KeyImport(import) => Plan::Create(import.new_key.algorithm, true),
            Request::KeyRevoke(KeyRevoke { key_version }) => {
                Plan::Revoke(owned(frame), *key_version)
            }
            Request::KeyDelete => Plan::Delete(owned(frame)),
            _ => Plan::Change(owned(frame)),
        });
        match planned.ok_or_else(lost)? {
            Plan::Create(algorithm, is_import) => {
                let known = self.known(job);
                place_of(known, is_import)?;
                let code = algorithm.map(keyway_protocol::Algorithm::code);
                let making = self.timed.port.can_make(code)?;
                match (making, code) {
                    (Making::Slow, Some(code)) if !is_import => {
                        Ok(Next::Errand(Step::Generating, Errand::Generate(code)))
                    }
                    _ => self.create(job),
                }
            }
            Plan::Change(name) => Ok(Next::Errand(Step::Reading, Errand::Read(name))),
            Plan::Revoke(name, version) => self.revoke(job, name, version),
            Plan::Delete(name) => {
                let wait_ms = job.permit.keyspace();
                let wait_ms = wait_ms.map_or(0, |at| self.governed[at].delete_wait_ms);
                Ok(match wait_ms {
                    0 => put(name, Write::Deletion, None, false),
                    _ => Next::Errand(Step::LookingBack, Errand::RevokedAt(name)),
                })
            }
        }
    }

    /// Goes on with a write whose errand is done.
    pub(super) fn go_on_writing(&mut self, at: Handle<Job>, done: Done) {
        let Some(mut job) = self.take_job(at) else {
            return;
        };
        let Stage::Writing(write) = &mut job.stage else {
            return;
        };
        match std::mem::replace(&mut write.step, Step::Going) {
            Step::Putting { under, restores } => {
                // First of all: nothing that fails may keep a rotation from its end.
                if let Some(under) = under {
                    self.shelf.end(under);
                }
                return self.finish_put(job, done, restores);
            }
            Step::Revoking => return self.finish_put(job, done, false),
            _ => {}
        }
        self.step(job, |shard, job| {
            let next = match done {
                Done::Read(found) => shard.change(job, found)?,
                Done::Generated(generated) => {
                    if let Stage::Writing(write) = &mut job.stage {
                        write.generated = Some(generated?);
                    }
                    match has_current(job) {
                        true => shard.seal_change(job)?,
                        false => shard.create(job)?,
                    }
                }
                Done::RevokedAt(revoked_at) => shard.delete(job, revoked_at?)?,
                _ => return Err(lost().into()),
            };
            Ok(Some(next))
        });
    }

    /// Seals and stores a new key. Its version: 1, for an id that had a key before the next one, and the same again for
    /// one whose record is damaged and that is imported.
    fn create(&mut self, job: &mut Job) -> Stepped {
        self.may_write(job)?;
        let keyspace = keyspace_of(job);
        let (under, dek) = self.shelf.sealer(keyspace).ok_or(WriteError::DekMissing)?;
        let port = &self.timed.port;
        let Stage::Writing(write) = &job.stage else {
            return Err(lost().into());
        };
        let sealed = job.frame.with(|frame, request| {
            let name = name_of(frame);
            let (new_key, secret, is_import) = match request {
                Request::KeyGenerate(generate) => {
                    let made = write.generated.as_ref();
                    let secret = made.map_or(Secret::Generated, |made| Secret::Pkcs8(made));
                    (&generate.new_key, secret, false)
                }
                Request::KeyImport(import) => {
                    (&import.new_key, Secret::Imported(&import.material), true)
                }
                _ => return Err(lost()),
            };
            let place = place_of(port.known(name), is_import)?;
            let what = Seal::New {
                new_key,
                secret,
                first_version: place.version,
            };
            let sealed = port.seal(dek, name, what)?.ok_or_else(lost)?;
            Ok((owned(frame), sealed, place))
        });
        let (name, sealed, place) = sealed.ok_or_else(lost)??;
        let write = Write::Blob {
            sealed,
            expect: place.expect,
        };
        let under = SealUnder {
            keyspace,
            generation: under,
        };
        Ok(put(name, write, Some(under), place.restores))
    }

    /// Changes the blob that was read.
    fn change(&mut self, job: &mut Job, found: Result<Found, ReadError>) -> Stepped {
        let blob = match found {
            Ok(Found::Blob(blob)) => blob,
            Ok(Found::Missing) => return Err(WriteError::NotFound.into()),
            Ok(Found::Revoked) => return Err(WriteError::Revoked.into()),
            Err(ReadError::Damaged(error)) => return Err(WriteError::Invalid(error).into()),
            Err(ReadError::Io(error)) => return Err(WriteError::Store(error).into()),
        };
        let head = self.timed.port.head_of(&blob.bytes);
        let head = head.map_err(WriteError::Invalid)?;
        if let Stage::Writing(write) = &mut job.stage {
            write.current = Some(blob);
        }
        let generates = job.frame.with(
            |_, request| matches!(request, Request::KeyRotate(rotate) if rotate.material.is_none()),
        );
        if generates == Some(true)
            && self.timed.port.can_make(Some(head.algorithm))? == Making::Slow
        {
            let errand = Errand::Generate(head.algorithm);
            return Ok(Next::Errand(Step::Generating, errand));
        }
        self.seal_change(job)
    }

    fn seal_change(&mut self, job: &mut Job) -> Stepped {
        self.may_write(job)?;
        let keyspace = keyspace_of(job);
        let port = &self.timed.port;
        let Stage::Writing(KeyWrite {
            current: Some(current),
            generated,
            ..
        }) = &job.stage
        else {
            return Err(lost().into());
        };
        let head = port.head_of(&current.bytes).map_err(WriteError::Invalid)?;
        let pair = self.shelf.pair(keyspace, head.dek_generation);
        let (generation, sealer, opener) = pair.ok_or(WriteError::DekMissing)?;
        let sealed = job.frame.with(|frame, request| {
            let what = match request {
                Request::KeyRotate(rotate) => {
                    let secret = match (&rotate.material, generated) {
                        (Some(material), _) => Secret::Imported(material),
                        (None, Some(made)) => Secret::Pkcs8(made),
                        (None, None) => Secret::Generated,
                    };
                    Seal::Rotated(current, opener, secret)
                }
                Request::KeyTrim(trim) => Seal::Trimmed(current, opener, trim.below),
                _ => return Err(lost()),
            };
            let sealed = port.seal(sealer, name_of(frame), what)?;
            Ok(sealed.map(|sealed| (owned(frame), sealed)))
        });
        // Nothing may have to be changed.
        let Some((name, sealed)) = sealed.ok_or_else(lost)?? else {
            return Ok(Next::Finish(current.version));
        };
        let write = Write::Blob {
            sealed,
            expect: Expect::Revision(current.version, current.revision),
        };
        let under = SealUnder {
            keyspace,
            generation,
        };
        Ok(put(name, write, Some(under), false))
    }

    /// Revokes a key or one version of it permanently. The log has accepted it before the core acts by it, so it can no
    /// longer be refused; and the core acts by it before it is durable. The answer waits for the log, but not for a disk
    /// that hangs.
    fn revoke(&mut self, job: &mut Job, name: OwnedName, version: u32) -> Stepped {
        let is_operator = self.governed.owner.is_operator(job.permit.who());
        let port = &self.timed.port;
        let unix_ms = port.unix_ms();
        let of = Name {
            keyspace: name.keyspace,
            key_id: &name.key_id,
        };
        let write = match version {
            0 => {
                port.revoke(of, unix_ms, is_operator)?;
                Write::Revocation
            }
            version => {
                port.revoke_version(of, version, unix_ms, is_operator)?;
                Write::VersionRevocation(version)
            }
        };
        self.learn_key(job, true);
        let now = self.timed.now();
        job.deadline = Some(now.plus_us(verdict_us(now, job.deadline)));
        Ok(Next::Errand(Step::Revoking, Errand::Put(name, write)))
    }

    /// Deletes a key that was revoked long enough ago.
    fn delete(&mut self, job: &mut Job, revoked_at: Option<u64>) -> Stepped {
        self.may_write(job)?;
        let at = job.permit.keyspace();
        let wait_ms = at.map_or(0, |at| self.governed[at].delete_wait_ms);
        // A time that is not known counts from now: better too late than too early.
        let now = self.timed.port.unix_ms();
        // Both times are cut off to the millisecond: the wait is over in the one after the last.
        let until = revoked_at
            .unwrap_or(now)
            .saturating_add(wait_ms.saturating_add(1));
        let is_revoked = self
            .known(job)
            .is_some_and(|known| known.state == KeyState::Revoked);
        if is_revoked && wait_ms != 0 && now < until {
            return Err(WriteError::Conflict(format!(
                "the key can be deleted in {} s, by the keyspace's delete_wait_ms ({wait_ms}); wait, or set \
                 delete_wait_ms lower",
                (until - now).div_ceil(1_000)
            ))
            .into());
        }
        let name = job.frame.with(|frame, _| owned(frame));
        Ok(put(name.ok_or_else(lost)?, Write::Deletion, None, false))
    }

    pub(super) fn known(&self, job: &Job) -> Option<Known> {
        let frame = job.frame.frame()?;
        self.timed.port.known(name_of(&frame))
    }
}

/// What a write comes to.
enum Plan {
    /// A key is made, of this algorithm if it is said; by an import or not.
    Create(Option<keyway_protocol::Algorithm>, bool),
    /// The newest blob is changed.
    Change(OwnedName),
    /// A key is revoked, or this version of it if it is not 0.
    Revoke(OwnedName, u32),
    Delete(OwnedName),
}

fn put(name: OwnedName, write: Write, under: Option<SealUnder>, restores: bool) -> Next {
    Next::Errand(Step::Putting { under, restores }, Errand::Put(name, write))
}

fn has_current(job: &Job) -> bool {
    matches!(&job.stage, Stage::Writing(write) if write.current.is_some())
}

/// Returns whether a write opens or seals the key.
fn needs_dek(job: &Job) -> bool {
    let needs = job
        .frame
        .with(|_, request| !matches!(request, Request::KeyRevoke(_) | Request::KeyDelete));
    needs == Some(true)
}

fn keyspace_of(job: &Job) -> u32 {
    job.frame.frame().map_or(0, |frame| frame.keyspace_id)
}

fn name_of<'a>(frame: &RequestFrame<'a>) -> Name<'a> {
    Name {
        keyspace: frame.keyspace_id,
        key_id: frame.key_id.bytes(),
    }
}

fn owned(frame: &RequestFrame<'_>) -> OwnedName {
    OwnedName {
        keyspace: frame.keyspace_id,
        key_id: Box::from(frame.key_id.bytes()),
    }
}

/// What a step that was lost on the way comes to.
pub(super) fn lost() -> WriteError {
    WriteError::Unknown("a step of the write failed; this is a bug".to_owned())
}
