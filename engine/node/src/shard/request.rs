//! A request's way in: decoding, routing, rights, then the core, another shard, control or a write.

use std::borrow::Cow;

use keyway_core::{Admission, Instant, KeyspaceId};
use keyway_protocol::{
    Hello, Opcode, ProtocolError, Request, RequestFrame, ResponseHead, Scope, Status, VERSION,
};

use super::Shard;
use super::figures::CountedOperation;
use super::job::{Kept, Stage};
use super::permit::TurnScope;
use super::places::{Claim, Purpose};
use super::port::{Operation, Port};
use super::refusal::overloaded;
use super::responder::{CountAt, Responder, To};
use super::use_key::{Asked, Pace};
use crate::connection::{Connection, Phase};
use crate::messages::{Lane, ToPeer};
use crate::policy::Principal;
use keyway_core::slots::Handle;

impl<P: Port> Shard<P> {
    /// Takes one request of a connection.
    pub(super) fn dispatch_frame(
        &mut self,
        turn: &TurnScope,
        at: Handle<Connection>,
        frame: &RequestFrame<'_>,
        received_at: Instant,
    ) {
        let Some(connection) = self.out.connections.get_mut(at) else {
            return;
        };
        connection.begin_request();
        let (phase, who) = (connection.phase, connection.principal());
        let responder = self.responder_of(To::Connection(at), frame);
        match Opcode::of(frame.code) {
            Some(Opcode::Hello) => self.handle_hello(at, responder, frame),
            _ if phase == Phase::Greeting => {
                let text = "the first request must be HELLO".into();
                self.out.refuse(responder, Status::BadRequest, text);
                self.begin_closing(at);
            }
            Some(Opcode::Ping) => self.echo(responder, frame),
            _ => {
                let wait_us = u64::from(frame.deadline_us);
                let deadline = (wait_us != 0).then(|| received_at.plus_us(wait_us));
                self.handle_frame(turn, responder, who, frame, deadline);
            }
        }
    }

    /// Answers bytes that are no frame, after which nothing of the connection can be trusted.
    pub(super) fn reject_stream(
        &mut self,
        at: Handle<Connection>,
        request_id: u64,
        error: &ProtocolError,
    ) {
        self.upkeep.counts.protocol_errors_total += 1;
        if let Some(connection) = self.out.connections.get_mut(at) {
            connection.begin_request();
        }
        let count = CountAt {
            keyspace: None,
            row: 0,
            operation: CountedOperation::Other,
        };
        let responder = self.out.responder(To::Connection(at), request_id, count);
        let text = error.to_string().into();
        self.out.refuse(responder, Status::BadRequest, text);
        self.begin_closing(at);
    }

    fn begin_closing(&mut self, at: Handle<Connection>) {
        if let Some(connection) = self.out.connections.get_mut(at) {
            connection.phase = Phase::Closing;
        }
        self.out.connections.release(at);
    }

    fn handle_hello(
        &mut self,
        at: Handle<Connection>,
        responder: Responder,
        frame: &RequestFrame<'_>,
    ) {
        let accepted = match Request::decode(frame) {
            Ok(Request::Hello(hello)) => check_version(&hello),
            Ok(_) => return,
            Err(error) => Err((error.status(), error.to_string().into())),
        };
        if let Err((status, text)) = accepted {
            self.out.refuse(responder, status, text);
            return self.begin_closing(at);
        }
        let Some(connection) = self.out.connections.get_mut(at) else {
            return;
        };
        if connection.phase == Phase::Greeting {
            connection.phase = Phase::Open;
        }
        let who = connection.principal();
        let hello = self.server_hello(who);
        self.out.answer(responder, |payload| {
            let encoded =
                hello.and_then(|hello| hello.encode(payload).map_err(|error| error.to_string()));
            match encoded {
                Ok(()) => Ok(ResponseHead::OK),
                Err(text) => Err((ResponseHead::status(Status::Internal), text.into())),
            }
        });
    }

    fn echo(&mut self, responder: Responder, frame: &RequestFrame<'_>) {
        self.out
            .answer(responder, |payload| match Request::decode(frame) {
                Ok(_) => {
                    payload.extend_from_slice(&frame.payload);
                    Ok(ResponseHead::OK)
                }
                Err(error) => {
                    let head = ResponseHead::status(error.status());
                    Err((head, error.to_string().into()))
                }
            });
    }

    /// Takes on the duty to answer a frame.
    pub(super) fn responder_of(&self, to: To, frame: &RequestFrame<'_>) -> Responder {
        let keyspace = self.governed.find(frame.keyspace_id);
        let opcode = Opcode::of(frame.code);
        let count = CountAt {
            keyspace,
            row: keyspace.map_or(0, |at| self.governed[at].number),
            operation: opcode.map_or(CountedOperation::Other, CountedOperation::of),
        };
        self.out.responder(to, frame.request_id, count)
    }

    /// Takes one request; it is answered now or later, exactly once.
    pub(super) fn handle_frame(
        &mut self,
        turn: &TurnScope,
        responder: Responder,
        who: Principal,
        frame: &RequestFrame<'_>,
        deadline: Option<Instant>,
    ) {
        let request = frame
            .opcode()
            .and_then(|opcode| Ok((opcode, Request::decode(frame)?)));
        let (opcode, request) = match request {
            Ok(request) => request,
            Err(error) => {
                let text = error.to_string().into();
                return self.out.refuse(responder, error.status(), text);
            }
        };
        let owner = match self.owner_of(opcode, frame, &request) {
            Ok(owner) => owner,
            Err(text) => {
                return self.out.refuse(responder, Status::BadRequest, text.into());
            }
        };
        let keyspace = responder.count.keyspace;
        let allowed = match self.governed.permit(turn, who, opcode, keyspace) {
            Ok(allowed) => allowed,
            Err(denied) => return self.out.deny(responder, denied),
        };
        let asked = Asked {
            responder,
            allowed,
            deadline,
            place: None,
        };
        if owner != self.site.index {
            return self.forward(owner, opcode.is_write(), asked, frame);
        }
        self.execute(asked, frame, &request);
    }

    fn owner_of(
        &self,
        opcode: Opcode,
        frame: &RequestFrame<'_>,
        request: &Request<'_>,
    ) -> Result<u16, String> {
        let router = &self.site.router;
        match request {
            Request::KeyList(list) if list.shard < router.shard_count() => Ok(list.shard),
            Request::KeyList(list) => Err(format!(
                "shard {} does not exist; this node has {}",
                list.shard,
                router.shard_count()
            )),
            _ if opcode.scope() == Scope::Key => {
                Ok(router.shard_of(frame.keyspace_id, &frame.key_id))
            }
            _ => Ok(self.site.index),
        }
    }

    /// Who wants a place, and what for.
    pub(super) fn claim(&self, asked: &Asked<'_>, purpose: Purpose) -> Claim {
        Claim {
            purpose,
            is_operator: self.governed.owner.is_operator(asked.allowed.who()),
        }
    }

    /// Takes a place for a request whose frame is needed later, here or at its owner. `None`: there is none.
    pub(super) fn keep_asked(
        &self,
        asked: &mut Asked<'_>,
        purpose: Purpose,
        frame: &RequestFrame<'_>,
    ) -> Option<Kept> {
        let claim = self.claim(asked, purpose);
        let share = match claim {
            Claim {
                purpose: Purpose::Revocation,
                is_operator: false,
            } => {
                let accounts = &self.out.connections.accounts;
                Some(accounts.revocation(asked.allowed.who())?)
            }
            _ => None,
        };
        let mut kept = self.jobs.keep(claim, asked.place.take(), frame)?;
        kept.place = kept.place.with_share(share);
        Some(kept)
    }

    /// Hands a request to its owner; refuses at once when there is no room on the way.
    fn forward(&mut self, to: u16, is_write: bool, mut asked: Asked<'_>, frame: &RequestFrame<'_>) {
        let (purpose, lane) = match frame.opcode() {
            Ok(Opcode::KeyRevoke) => (Purpose::Revocation, Lane::Emergency),
            _ => (Purpose::Request, Lane::Ordinary),
        };
        let Some(mut kept) = self.keep_asked(&mut asked, purpose, frame) else {
            return self.refuse_forward(asked.responder);
        };
        let message = ToPeer::Forward {
            token: self.jobs.next_token().0,
            who: asked.allowed.who(),
            deadline: asked.deadline,
            lane,
            frame: kept.frame.take_bytes(),
        };
        if self.out.forwarder.forward(to, message).is_err() {
            return self.refuse_forward(asked.responder);
        }
        let stage = Stage::Forwarded {
            is_write,
            takes_away: purpose == Purpose::Revocation,
        };
        self.jobs.park(asked.into_job(kept, stage));
        self.upkeep.counts.forwards_out_total += 1;
    }

    fn refuse_forward(&mut self, responder: Responder) {
        self.upkeep.counts.forwards_refused_total += 1;
        self.refuse_as(responder, overloaded(1_000));
    }

    fn execute(&mut self, asked: Asked<'_>, frame: &RequestFrame<'_>, request: &Request<'_>) {
        match request {
            Request::Sign(_)
            | Request::Verify(_)
            | Request::Mac(_)
            | Request::Encrypt(_)
            | Request::Decrypt(_)
            | Request::Derive(_)
            | Request::PublicKey { .. }
            | Request::Get { .. } => {
                // Here and not in `use_key`, which an operation of the slow lane comes to twice.
                if let Some(at) = asked.responder.count.keyspace {
                    let now = self.timed.now();
                    self.governed[at].tally.request(now, &frame.key_id);
                }
                self.use_key(asked, &Operation { frame, request }, Pace::Fast);
            }
            Request::ForceRefresh => self.force_refresh(asked, frame),
            Request::KeyList(list) => self.list_keys(asked, frame, list),
            Request::KeyGenerate(_)
            | Request::KeyImport(_)
            | Request::KeyRotate(_)
            | Request::KeyRevoke(_)
            | Request::KeyTrim(_)
            | Request::KeyDelete => self.begin_write(asked, frame, request),
            Request::Hello(_) | Request::Ping(_) => {
                let text = "HELLO and PING are not forwarded".into();
                self.out.refuse(asked.responder, Status::BadRequest, text);
            }
            _ => self.command(asked, frame, request),
        }
    }

    fn force_refresh(&mut self, asked: Asked<'_>, frame: &RequestFrame<'_>) {
        let Some(kept) = self.jobs.keep_nothing(Claim::REQUEST, None) else {
            return self.refuse_as(asked.responder, overloaded(10_000));
        };
        let (now, token) = (self.timed.now(), self.jobs.next_token());
        let (keyspace, deadline) = (KeyspaceId(frame.keyspace_id), asked.deadline);
        let admission = self
            .core
            .call(|core| core.handle_force_refresh(now, token, keyspace, &frame.key_id, deadline));
        match admission {
            Admission::Waiting => {
                self.jobs.park(asked.into_job(kept, Stage::Refreshing));
            }
            Admission::Refused(refusal) => self.refuse_as(asked.responder, refusal),
        }
    }
}

fn check_version(hello: &Hello<'_>) -> Result<(), (Status, Cow<'static, str>)> {
    if (hello.version_min..=hello.version_max).contains(&VERSION) {
        return Ok(());
    }
    let text = format!("this server speaks version {VERSION} only");
    Err((Status::Unsupported, text.into()))
}
