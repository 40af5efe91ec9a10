//! New connections: who gets a place, who has to give up his, and what is taken back from a connection that ended.

use std::rc::Rc;

use keyway_core::{Instant, Token};

use super::Shard;
use crate::accounts::{Account, DESCRIPTORS_RESERVED, Full, Place, Standing, UNSENT_BYTES_MAX};
use crate::authorise::Principal;
use crate::clock;
use crate::connection::Connection;
use crate::runtime::listener::{Accept, Descriptors};
use crate::runtime::socket::Socket;
use crate::runtime::tasks;

/// Between two looks at a shard's connections.
const LOOK_PERIOD_US: u64 = 1_000_000;

impl Accept for Shard {
    fn accepted(self: &Rc<Self>, socket: Socket, descriptors: Descriptors) {
        let account = self.accounts.of(socket.principal());
        account.set_standing(self.standing_of(&account));
        let Some(place) = self.place_for(&socket, descriptors, &account) else {
            self.figures
                .connections_refused
                .set(self.figures.connections_refused.get() + 1);
            return socket.shut_down();
        };
        let shard = Rc::clone(self);
        let id = shard.waiting.token();
        let connection = Rc::new(Connection::new(socket, account, place, clock::now()));
        shard
            .connections
            .borrow_mut()
            .insert(id, Rc::clone(&connection));
        tasks::spawn(async move {
            Rc::clone(&connection).serve(Rc::clone(&shard)).await;
            shard.connections.borrow_mut().remove(&id);
            shard.forget(&connection);
        });
    }

    fn accept_failed(&self, error: &std::io::Error) {
        self.figures
            .accept_errors
            .set(self.figures.accept_errors.get() + 1);
        tracing::warn!(shard = self.index, %error, "accept failed");
    }

    fn is_stopping(&self) -> bool {
        self.stopping.get()
    }
}

impl Shard {
    fn standing_of(&self, account: &Account) -> Standing {
        let keyspaces = self.keyspaces.borrow();
        keyspaces.standing(&self.owner, account.principal())
    }

    /// A place for a new connection. Strangers leave descriptors and places free for the server's user; where all are
    /// taken, a connection without any right makes room for one that has some.
    fn place_for(
        &self,
        socket: &Socket,
        descriptors: Descriptors,
        account: &Rc<Account>,
    ) -> Option<Place> {
        let is_operator = self.owner.is_operator(account.principal());
        let left = self.descriptors_max.saturating_sub(socket.descriptor());
        let is_short = descriptors == Descriptors::Spare || left <= DESCRIPTORS_RESERVED;
        if is_short && !is_operator {
            return None;
        }
        let open = self.connections.borrow().len();
        match self.accounts.connect(account, open, is_operator) {
            Ok(place) => Some(place),
            Err(Full::Shard) if account.standing() != Standing::Rightless => self
                .displace()
                .then(|| self.accounts.connect(account, open - 1, is_operator).ok())
                .flatten(),
            Err(_) => None,
        }
    }

    /// Ends the connection without rights that has asked for nothing for longest; whether there was one.
    fn displace(&self) -> bool {
        let mut connections = self.connections.borrow_mut();
        let useless = connections
            .iter()
            .filter_map(|(id, connection)| Some((connection.useless_us()?, *id)));
        let Some((_, id)) = useless.max() else {
            return false;
        };
        if let Some(connection) = connections.remove(&id) {
            connection.abandon();
        }
        true
    }

    /// So many places are kept free for others by this principal.
    pub(super) fn unless_operator(&self, principal: Principal, places: usize) -> usize {
        if self.owner.is_operator(principal) {
            0
        } else {
            places
        }
    }

    /// Ends connections whose peers are late, and looks at what each principal may do now: once a second, whatever the
    /// length of ticks.
    pub(super) fn look_at_connections(&self, now: Instant) {
        let looked_at_us = &self.figures.connections_looked_at_us;
        if now.as_micros().saturating_sub(looked_at_us.get()) < LOOK_PERIOD_US {
            return;
        }
        looked_at_us.set(now.as_micros());
        self.accounts
            .for_each(|account| account.set_standing(self.standing_of(account)));
        self.connections
            .borrow()
            .values()
            .for_each(|connection| connection.close_if_stalled(now));
    }

    /// Ends those who read least, until the shard's unsent answers are within their bound.
    pub(super) fn shed_unsent(&self) {
        if self.accounts.unsent_bytes() <= UNSENT_BYTES_MAX {
            return;
        }
        let connections = self.connections.borrow();
        let mut readers: Vec<_> = connections
            .values()
            .map(|connection| {
                let (unsent_bytes, takes) = connection.unsent();
                let is_operator = self.owner.is_operator(connection.principal());
                (
                    is_operator,
                    takes,
                    std::cmp::Reverse(unsent_bytes),
                    connection,
                )
            })
            .collect();
        readers.sort_by_key(|(is_operator, takes, unsent_bytes, _)| {
            (*is_operator, *takes, *unsent_bytes)
        });
        for (.., unsent_bytes, connection) in readers {
            if self.accounts.unsent_bytes() <= UNSENT_BYTES_MAX {
                break;
            }
            tracing::warn!(
                shard = self.index,
                principal = %connection.principal(),
                unsent_bytes = unsent_bytes.0,
                "the shard has too many unsent answers: a connection that does not read them is closed"
            );
            connection.abandon();
        }
    }

    /// Takes back what a connection that ended was waiting for. Its flights go on without it.
    fn forget(&self, connection: &Connection) {
        let now = clock::now();
        for token in connection.waits().take() {
            if let Some(waiting) = self.take_waiting(token) {
                waiting.responder.abandon();
            }
            if !self.core.is_broken() {
                let mut core = self.core.borrow_mut();
                core.handle_waiter_gone(now, Token(token));
            }
        }
    }
}
