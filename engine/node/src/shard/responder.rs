//! The duty to answer.

use std::cell::RefCell;
use std::rc::Rc;

use super::figures::CountedOperation;
use super::governed::Governed;
use crate::connection::Connection;
use keyway_core::slots::{At, Handle};

/// Where an answer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// To a connection of this shard, which may be closed by then.
    Connection(Handle<Connection>),
    /// To another shard, which knows the request by `token`.
    Peer {
        /// The shard.
        shard: u16,
        /// Its name for the request.
        token: u64,
    },
}

/// Where an answer is counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CountAt {
    /// The keyspace, if the request names one.
    pub(crate) keyspace: Option<At<Governed>>,
    /// [`Governed::number`] of it.
    pub(crate) row: usize,
    pub(crate) operation: CountedOperation,
}

/// The duty to answer one request. It is neither `Clone` nor `Copy`, and answering consumes it, so a second answer does
/// not compile; one that is dropped without an answer (an early return, a panic) is answered INTERNAL in the same turn.
#[must_use]
pub(crate) struct Responder {
    /// `None` once there is an answer.
    to: Option<To>,
    pub(super) request_id: u64,
    pub(super) count: CountAt,
    orphans: Rc<Orphans>,
}

impl Responder {
    /// Returns the connection of this shard that the request came from.
    pub(crate) fn connection(&self) -> Option<Handle<Connection>> {
        match self.to {
            Some(To::Connection(at)) => Some(at),
            Some(To::Peer { .. }) | None => None,
        }
    }

    /// Ends the duty without an answer: the connection is gone, and it would be read by no client.
    pub(crate) fn abandon(mut self) {
        self.to = None;
    }

    /// Ends the duty: the caller answers now. Called by the one place that writes answers.
    pub(super) fn discharge(&mut self) -> Option<To> {
        self.to.take()
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        // Only queued: a drop can happen anywhere.
        if let Some(to) = self.to.take() {
            let orphan = Orphan {
                to,
                request_id: self.request_id,
                count: self.count,
            };
            self.orphans.0.borrow_mut().push(orphan);
        }
    }
}

struct Orphan {
    to: To,
    request_id: u64,
    count: CountAt,
}

/// Requests that a handler left without an answer, until the end of the unit. At most as many as there are requests.
#[derive(Default)]
pub(crate) struct Orphans(RefCell<Vec<Orphan>>);

impl Orphans {
    /// Takes on the duty to answer a request that came from `to`.
    pub(super) fn responder(self: &Rc<Self>, to: To, request_id: u64, count: CountAt) -> Responder {
        Responder {
            to: Some(to),
            request_id,
            count,
            orphans: Rc::clone(self),
        }
    }

    /// Takes back the duty to answer one of them.
    pub(super) fn next(self: &Rc<Self>) -> Option<Responder> {
        let orphan = self.0.borrow_mut().pop()?;
        Some(self.responder(orphan.to, orphan.request_id, orphan.count))
    }
}
