//! One shard's driver: does what `keyway_node`'s shard decides. Sockets, files, the mesh, the clock and the log output are
//! here; nothing in here decides about a request or a keyspace.
//!
//! ```text
//!  sockets, log, mesh, control ── handle_* ──▶ keyway_node::shard::Shard ── poll_effect ──▶ sockets, log, mesh, control
//! ```
//!
//! Everything runs on one thread; nothing is locked. The task that brings an input takes the turn and does what it asks
//! for. It never holds the shard across an await.

mod accept;
mod errands;
mod log;
mod port;
mod rest;
mod serve;
mod snapshot;
mod wakeup;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::task::Waker;

use keyway_core::slots::Handle;
use keyway_keys::UseLedger;
use keyway_node::connection::Connection;
use keyway_node::messages::ToPeer;
use keyway_node::shard::{Effect, Shard, Turn};
use keyway_store::BlobLog;
use tokio::sync::mpsc;

use crate::control::link::ControlLink;
use crate::metrics::exporter;
use crate::runtime::files::RingFiles;
use crate::runtime::mesh::{Mesh, Sent};
use crate::runtime::socket::Socket;
use crate::runtime::tasks;

pub use port::versions_of;
pub use serve::{Common, Start, serve};

use port::Keys;
use rest::Rest;
use snapshot::Measured;

/// One shard's driver.
pub struct Driver {
    index: u16,
    shard: RefCell<Shard<Keys>>,
    log: Rc<BlobLog<RingFiles>>,
    uses: UseLedger,
    mesh: Mesh<ToPeer>,
    link: ControlLink,
    sockets: Sockets,
    measured: RefCell<Measured>,
    rest: Rest,
    exporter: mpsc::Sender<exporter::Message>,
    /// The process's limit of open files.
    descriptors_max: u64,
    stop: Stopping,
}

/// Whether the shard is to stop, or is stopping.
struct Stopping {
    flag: Arc<AtomicBool>,
    is_stopping: Cell<bool>,
}

/// The open sockets of a shard.
#[derive(Default)]
struct Sockets {
    open: RefCell<HashMap<Handle<Connection>, Rc<OpenSocket>>>,
    /// The connection whose own task takes the present turn, and looks at it afterwards.
    present: Cell<Option<Handle<Connection>>>,
}

/// An open socket.
pub(crate) struct OpenSocket {
    pub(crate) socket: RefCell<Socket>,
    /// Wakes its task, while that waits.
    pub(crate) waker: RefCell<Option<Waker>>,
}

impl Driver {
    /// Takes a turn, and does what it asks for. Returns how long it took, in microseconds; none if I/O has to be polled
    /// first: then [`Driver::run_on`] takes it.
    fn turn(self: &Rc<Self>) -> Option<u64> {
        let began = quanta::Instant::now();
        if self.rest.is_due(began) {
            self.rest.wanted.wake();
            return None;
        }
        Some(self.turn_from(began))
    }

    /// Takes a turn after I/O was polled.
    fn turn_after_poll(self: &Rc<Self>) {
        let now = quanta::Instant::now();
        self.rest.note_poll(now);
        self.turn_from(now);
    }

    fn turn_from(self: &Rc<Self>, began: quanta::Instant) -> u64 {
        let turn = {
            let mut shard = self.shard.borrow_mut();
            self.link.deliver(&mut shard);
            shard.turn()
        };
        self.carry_out();
        if turn == Turn::More {
            self.rest.wanted.wake();
        }
        let took_ns = began.elapsed().as_nanos() as u64;
        self.measured.borrow_mut().turn.record_ns(took_ns);
        took_ns / 1_000
    }

    /// Does what the shard asks for.
    fn carry_out(self: &Rc<Self>) {
        loop {
            let effect = self.shard.borrow_mut().poll_effect();
            let Some(effect) = effect else { return };
            match effect {
                Effect::Send(at) => self.wake(at),
                Effect::Close(at) => {
                    if let Some(open) = self.sockets.open.borrow().get(&at) {
                        open.socket.borrow().shut_down();
                    }
                    self.wake(at);
                }
                Effect::Do(task, errand) => self.run(task, errand),
                Effect::Tell(lane, message) => {
                    if let Some(message) = self.link.tell(lane, message) {
                        self.shard.borrow_mut().handle_untold(lane, message);
                    }
                }
                Effect::Batch(to) => self.send_batches(to),
                Effect::Log(report) => self.write_log(&report),
                Effect::Observe(observation) => self.measured.borrow_mut().enter(observation),
                Effect::Publish => self.publish(),
            }
        }
    }

    fn wake(&self, at: Handle<Connection>) {
        if self.sockets.present.get() == Some(at) {
            return;
        }
        let sockets = self.sockets.open.borrow();
        let waker = sockets.get(&at).and_then(|open| open.waker.take());
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn send_batches(&self, to: u16) {
        let mut shard = self.shard.borrow_mut();
        while let Some(batch) = shard.take_batch(to) {
            match self.mesh.try_send(to, batch) {
                Sent::Whole => {}
                Sent::Full(batch) => return shard.give_back(to, batch),
                // The process is shutting down, and so are the connections whose answers these are.
                Sent::Ended => {}
            }
        }
    }

    /// The task that goes on where a turn had to leave off.
    async fn run_on(self: Rc<Self>) {
        loop {
            self.rest.wanted.wait().await;
            tasks::yield_to_io().await;
            self.shard.borrow_mut().handle_rested();
            self.turn_after_poll();
            self.rest.end();
        }
    }

    /// Hands the shard what one other shard sends, until that ends.
    async fn receive(
        self: Rc<Self>,
        from: u16,
        inbox: crate::runtime::mesh::BatchReceiver<ToPeer>,
    ) {
        while let Some(batch) = inbox.batch().await {
            self.shard.borrow_mut().handle_peer(from, batch);
            if self.turn().is_none() {
                self.rest.wait().await;
            }
        }
    }
}

/// What a connection's task needs.
impl Driver {
    /// Looks at the shard, for as long as the call lasts.
    pub(crate) fn with_shard<R>(&self, look: impl FnOnce(&mut Shard<Keys>) -> R) -> R {
        look(&mut self.shard.borrow_mut())
    }

    /// Takes a turn for a connection, whose own task looks at it afterwards. Returns how long it took, in microseconds.
    pub(crate) async fn turn_of(self: &Rc<Self>, at: Handle<Connection>) -> u64 {
        self.sockets.present.set(Some(at));
        let took_us = self.turn();
        self.sockets.present.set(None);
        if took_us.is_none() {
            self.rest.wait().await;
        }
        took_us.unwrap_or(0)
    }

    /// Takes back a connection whose socket is closed.
    pub(crate) fn closed(self: &Rc<Self>, at: Handle<Connection>) {
        self.sockets.open.borrow_mut().remove(&at);
        self.shard.borrow_mut().handle_closed(at);
        self.turn();
    }
}
