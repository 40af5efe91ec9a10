//! A client's connections and the threads that keep them.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::Instant;

use keyway_protocol::ServerHello;

use super::connection::{Completion, Connection, NotSent};
use crate::attempts::{Attempts, Next};
use crate::buffer::ReadBuffer;
use crate::call::CallSpec;
use crate::connection_table::{Attempt, ConnectionTable, Route};
use crate::jitter::Jitter;
use crate::{Call, CallEffect, Error, Options};

#[derive(Debug)]
pub(super) struct Pool {
    table: Mutex<ConnectionTable<Arc<Connection>>>,
    /// A connection came up or went down.
    changed: Condvar,
    jitter: Jitter,
    options: Options,
    hello: Call<ServerHello>,
}

impl Pool {
    pub(super) fn connect(options: Options) -> Result<Arc<Self>, Error> {
        let hello = Call::hello(&options.client_name);
        if let Err(error) = &hello.spec.payload {
            return Err(Error::Call(*error));
        }
        let deadline = Instant::now() + options.connect_timeout;
        let refused = |cause| Error::Disconnected {
            outcome: CallEffect::NotDone,
            cause,
        };
        let (connection, buffer, server) =
            Connection::establish(&options.address, &hello, deadline).map_err(refused)?;
        let first = Attempt::first(options.address.clone());
        let pool = Arc::new(Self {
            table: Mutex::new(ConnectionTable::new(
                options.address.clone(),
                server,
                Arc::clone(&connection),
            )),
            changed: Condvar::new(),
            jitter: Jitter::new(),
            options,
            hello,
        });
        let weak = Arc::downgrade(&pool);
        let reading = Arc::clone(&connection);
        let spawned = spawn(first.slot, move || read(&weak, &first, &reading, buffer));
        if let Err(error) = spawned {
            connection.close();
            return Err(refused(format!("cannot start a thread: {error}")));
        }
        Ok(pool)
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
        self.changed.notify_all();
    }

    /// Sends a call, connecting if need be. `Err` says what to do instead of waiting for it.
    pub(super) fn send(
        self: &Arc<Self>,
        call: &CallSpec,
        attempts: &mut Attempts,
    ) -> Result<Arc<Completion>, Next> {
        let payload = match &call.payload {
            Ok(payload) => payload,
            Err(error) => return Err(Next::Finish(Err(Error::Call(*error)))),
        };
        let mut table = self.table();
        loop {
            let now = Instant::now();
            let Some(deadline_us) = attempts.deadline_us(now) else {
                return Err(Next::Finish(Err(attempts.timed_out(false, table.cause()))));
            };
            let Some(keyspace_id) = call.keyspace_id(&table) else {
                return Err(attempts.handle_unknown_keyspace(call));
            };
            match table.route(now, call.target(keyspace_id)) {
                Route::Use(connection) => {
                    drop(table);
                    let completion = Arc::default();
                    let outgoing = call.outgoing(keyspace_id, deadline_us, payload);
                    match connection.send(&outgoing, Arc::clone(&completion)) {
                        Ok(()) => return Ok(completion),
                        Err(NotSent::Full) => return Err(attempts.handle_full(now, &self.jitter)),
                        Err(NotSent::Closed) => {
                            table = self.table();
                            table
                                .found_closed(now, &self.jitter, |it| Arc::ptr_eq(it, &connection));
                        }
                    }
                }
                Route::Connect(attempt) => {
                    drop(table);
                    self.spawn_connect(attempt);
                    table = self.table();
                }
                Route::Wait(until) => {
                    let left = until
                        .min(attempts.deadline())
                        .saturating_duration_since(now);
                    let waited = self.changed.wait_timeout(table, left);
                    (table, _) = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }

    fn spawn_connect(self: &Arc<Self>, attempt: Attempt) {
        let weak = Arc::downgrade(self);
        let deadline = Instant::now() + self.options.connect_timeout;
        let hello = self.hello.clone();
        let for_thread = attempt.clone();
        let spawned = spawn(attempt.slot, move || {
            let established = Connection::establish(&for_thread.address, &hello, deadline);
            let Some(pool) = weak.upgrade() else {
                return;
            };
            match established {
                Ok((connection, buffer, server)) => {
                    let connected = Arc::clone(&connection);
                    let unwanted = pool.table().connected(&for_thread, server, connected);
                    pool.changed.notify_all();
                    drop(pool);
                    for connection in unwanted {
                        connection.close();
                    }
                    read(&weak, &for_thread, &connection, buffer);
                }
                Err(cause) => pool.lost(&for_thread, &cause),
            }
        });
        if let Err(error) = spawned {
            self.lost(&attempt, &format!("cannot start a thread: {error}"));
        }
    }

    fn lost(&self, attempt: &Attempt, cause: &str) {
        let now = Instant::now();
        self.table()
            .lost(now, attempt.slot, attempt.serial, cause, &self.jitter);
        self.changed.notify_all();
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for connection in self.table().take_connections() {
            connection.close();
        }
    }
}

fn spawn(slot: usize, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let name = match slot {
        0 => "keyway-any".to_owned(),
        slot => format!("keyway-shard-{}", slot - 1),
    };
    thread::Builder::new().name(name).spawn(work).map(|_| ())
}

/// A connection's thread, once it is up. It does not keep the client alive.
fn read(pool: &Weak<Pool>, attempt: &Attempt, connection: &Connection, buffer: ReadBuffer) {
    connection.read_until_end(buffer, |cause| {
        if let Some(pool) = pool.upgrade() {
            pool.lost(attempt, cause);
        }
    });
}
