//! A client's connections and the tasks that keep them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use ::tokio::sync::{Notify, oneshot};
use ::tokio::time::timeout_at;
use keyway_protocol::ServerHello;

use super::connection::{Connection, Established, NotSent};
use crate::attempts::{Attempts, Next, SendOutcome};
use crate::call::CallSpec;
use crate::connection_table::{Attempt, ConnectionTable, Route};
use crate::jitter::Jitter;
use crate::{Call, CallEffect, Error, Options};

#[derive(Debug)]
pub(super) struct Pool {
    table: Mutex<ConnectionTable<Arc<Connection>>>,
    /// A connection came up or went down.
    changed: Notify,
    jitter: Jitter,
    options: Options,
    hello: Call<ServerHello>,
}

/// What to do to send a call, and the keyspace id to send it with.
enum Step {
    Send(Arc<Connection>, u32),
    Connect(Attempt),
    Wait(Instant),
}

impl Pool {
    pub(super) async fn connect(options: Options) -> Result<Arc<Self>, Error> {
        let hello = Call::hello(&options.client_name);
        if let Err(error) = &hello.spec.payload {
            return Err(Error::Call(*error));
        }
        let deadline = Instant::now() + options.connect_timeout;
        let established = Established::new(&options.address, &hello, deadline)
            .await
            .map_err(|cause| Error::Disconnected {
                outcome: CallEffect::NotDone,
                cause,
            })?;
        Ok(Arc::new_cyclic(|weak| {
            let first = Attempt::first(options.address.clone());
            let (connection, server) = established.start(telling(weak.clone(), first));
            Self {
                table: Mutex::new(ConnectionTable::new(
                    options.address.clone(),
                    server,
                    connection,
                )),
                changed: Notify::new(),
                jitter: Jitter::new(),
                options,
                hello,
            }
        }))
    }

    pub(super) fn table(&self) -> MutexGuard<'_, ConnectionTable<Arc<Connection>>> {
        // Nothing panics while it holds this, so a poisoned lock guards a sound table.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn jitter(&self) -> &Jitter {
        &self.jitter
    }

    pub(super) fn hello(&self) -> &Call<ServerHello> {
        &self.hello
    }

    /// Takes over what a HELLO on a connection in use says.
    pub(super) fn learn(&self, hello: ServerHello) {
        let unwanted = self.table().learn(hello);
        for connection in unwanted {
            connection.close();
        }
        self.changed.notify_waiters();
    }

    /// Sends a call, connecting if need be. `Err` says what to do instead of waiting for it.
    pub(super) async fn send(
        self: &Arc<Self>,
        call: &CallSpec,
        attempts: &mut Attempts,
    ) -> Result<oneshot::Receiver<SendOutcome>, Next> {
        let payload = match &call.payload {
            Ok(payload) => payload,
            Err(error) => return Err(Next::Finish(Err(Error::Call(*error)))),
        };
        loop {
            let now = Instant::now();
            // Made before the table is asked, so that no change in between is missed.
            let changed = self.changed.notified();
            let Some(deadline_us) = attempts.deadline_us(now) else {
                let cause = self.table().cause();
                return Err(Next::Finish(Err(attempts.timed_out(false, cause))));
            };
            match self.step(now, call, attempts)? {
                Step::Send(connection, keyspace_id) => {
                    match connection.send(&call.outgoing(keyspace_id, deadline_us, payload)) {
                        Ok(delivery) => return Ok(delivery),
                        Err(NotSent::Full) => return Err(attempts.handle_full(now, &self.jitter)),
                        Err(NotSent::Closed) => {
                            self.table()
                                .found_closed(now, &self.jitter, |it| Arc::ptr_eq(it, &connection));
                        }
                    }
                }
                Step::Connect(attempt) => self.spawn_connect(attempt),
                Step::Wait(until) => {
                    let until = until.min(attempts.deadline());
                    // Whether it changed or not, ask again.
                    let _ = timeout_at(until.into(), changed).await;
                }
            }
        }
    }

    fn step(&self, now: Instant, call: &CallSpec, attempts: &mut Attempts) -> Result<Step, Next> {
        let mut table = self.table();
        let Some(keyspace_id) = call.keyspace_id(&table) else {
            return Err(attempts.handle_unknown_keyspace(call));
        };
        Ok(match table.route(now, call.target(keyspace_id)) {
            Route::Use(connection) => Step::Send(connection, keyspace_id),
            Route::Connect(attempt) => Step::Connect(attempt),
            Route::Wait(until) => Step::Wait(until),
        })
    }

    fn spawn_connect(self: &Arc<Self>, attempt: Attempt) {
        let weak = Arc::downgrade(self);
        let deadline = Instant::now() + self.options.connect_timeout;
        let hello = self.hello.clone();
        let guard = AttemptGuard {
            pool: weak.clone(),
            attempt: Some(attempt.clone()),
        };
        ::tokio::spawn(async move {
            let established = Established::new(&attempt.address, &hello, deadline).await;
            guard.disarm();
            let Some(pool) = weak.upgrade() else {
                return;
            };
            match established {
                Ok(established) => {
                    let ended = telling(weak, attempt.clone());
                    let (connection, server) = established.start(ended);
                    let unwanted = pool.table().connected(&attempt, server, connection);
                    pool.changed.notify_waiters();
                    for connection in unwanted {
                        connection.close();
                    }
                }
                Err(cause) => pool.lost(&attempt, &cause),
            }
        });
    }

    fn lost(&self, attempt: &Attempt, cause: &str) {
        let now = Instant::now();
        self.table()
            .lost(now, attempt.slot, attempt.serial, cause, &self.jitter);
        self.changed.notify_waiters();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let connections = self.table().take_connections();
        for connection in connections {
            connection.close();
        }
    }
}

/// Reports to the table that an attempt failed if its task is dropped before it ends, with its runtime. Otherwise the table
/// would wait for it indefinitely.
struct AttemptGuard {
    pool: Weak<Pool>,
    attempt: Option<Attempt>,
}

impl AttemptGuard {
    fn disarm(mut self) {
        self.attempt = None;
    }
}

impl Drop for AttemptGuard {
    fn drop(&mut self) {
        if let (Some(pool), Some(attempt)) = (self.pool.upgrade(), &self.attempt) {
            pool.lost(attempt, "its runtime ended");
        }
    }
}

/// Tells the table when the connection that came of an attempt has ended. It does not keep the
/// client alive.
fn telling(pool: Weak<Pool>, attempt: Attempt) -> impl Fn(&str) + Send + Sync {
    move |cause| {
        if let Some(pool) = pool.upgrade() {
            pool.lost(&attempt, cause);
        }
    }
}
