//! New connections: a socket each, and a task that moves its bytes.

use std::cell::RefCell;
use std::rc::Rc;

use keyway_node::shard::Arrival;

use super::{Driver, OpenSocket};
use crate::clock;
use crate::connection;
use crate::runtime::listener::{Accept, Descriptors};
use crate::runtime::socket::Socket;
use crate::runtime::tasks;

impl Accept for Driver {
    fn accepted(self: &Rc<Self>, socket: Socket, descriptors: Descriptors) {
        let descriptors_left = match descriptors {
            Descriptors::Free => self.descriptors_max.saturating_sub(socket.descriptor()),
            Descriptors::Spare => 0,
        };
        let arrival = Arrival {
            who: socket.principal(),
            descriptors_left,
        };
        let accepted = self
            .shard
            .borrow_mut()
            .handle_accepted(clock::now(), arrival);
        // Another one may have had to make room.
        self.carry_out();
        let Ok(at) = accepted else {
            return socket.shut_down();
        };
        let open = Rc::new(OpenSocket {
            socket: RefCell::new(socket),
            waker: RefCell::default(),
        });
        self.sockets.open.borrow_mut().insert(at, Rc::clone(&open));
        tasks::spawn(connection::serve(Rc::clone(self), at, open));
    }

    fn accept_failed(&self, error: &std::io::Error) {
        self.measured.borrow_mut().accept_errors_total += 1;
        tracing::warn!(shard = self.index, %error, "accept failed");
    }

    fn is_stopping(&self) -> bool {
        self.stop.is_stopping.get()
    }
}
