//! One connection: callers write, one thread reads.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use keyway_protocol::ServerHello;

use super::socket::Socket;
use crate::attempts::SendOutcome;
use crate::buffer::{ReadBuffer, WriteBuffer};
use crate::exchange::{Exchange, Full, Outgoing};
use crate::{Address, Call};

/// How long a server may refuse to read before its connection is given up.
const WRITE_STALL_MAX: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Connection {
    socket: Socket,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    exchange: Exchange<Arc<Completion>>,
    /// Whether a caller is writing; it takes along what others add meanwhile.
    writing: bool,
    /// The write buffer that is not in use.
    spare: WriteBuffer,
    is_open: bool,
}

/// Why a request was not sent.
#[derive(Debug)]
pub(super) enum NotSent {
    Full,
    Closed,
}

/// Where one request's outcome is left for who waits for it.
#[derive(Debug, Default)]
pub(super) struct Completion {
    delivery: Mutex<Option<SendOutcome>>,
    delivered: Condvar,
}

impl Connection {
    /// Connects and sends HELLO. `hello` is the call.
    pub(super) fn establish(
        address: &Address,
        hello: &Call<ServerHello>,
        deadline: Instant,
    ) -> Result<(Arc<Self>, ReadBuffer, ServerHello), String> {
        let explain = |error: io::Error| {
            format!("cannot connect to {address}: {error}; does keywayd listen there?")
        };
        let socket = Socket::connect(address, deadline).map_err(explain)?;
        socket.set_write_timeout(WRITE_STALL_MAX).map_err(explain)?;
        let connection = Arc::new(Self {
            socket,
            state: Mutex::new(State {
                exchange: Exchange::new(),
                writing: false,
                spare: WriteBuffer::default(),
                is_open: true,
            }),
        });
        let payload = hello.spec.payload.as_ref().map_err(|e| e.to_string())?;
        let completion = Arc::default();
        connection
            .send(&Outgoing::hello(payload), Arc::clone(&completion))
            .expect("a new connection has room");
        let mut buffer = ReadBuffer::new();
        loop {
            let timeout = connection.socket.set_read_deadline(Some(deadline));
            timeout.map_err(explain)?;
            connection
                .read_once(&mut buffer)
                .map_err(|cause| format!("no HELLO from {address}: {cause}"))?;
            if let Some(SendOutcome::Replied(reply)) = completion.take() {
                let hello = reply
                    .ok()
                    .and_then(|reply| hello.read(&reply).map_err(|error| error.to_string()))
                    .map_err(|cause| format!("{address} refused HELLO: {cause}"))?;
                connection.socket.set_read_deadline(None).map_err(explain)?;
                return Ok((connection, buffer, hello.value));
            }
        }
    }

    /// Sends a request, or leaves it to the thread that is writing.
    pub(super) fn send(
        &self,
        request: &Outgoing<'_>,
        completion: Arc<Completion>,
    ) -> Result<(), NotSent> {
        let mut state = self.state();
        if !state.is_open {
            return Err(NotSent::Closed);
        }
        state
            .exchange
            .send(request, completion)
            .map_err(|Full| NotSent::Full)?;
        if state.writing {
            return Ok(());
        }
        state.writing = true;
        let mut buffer = std::mem::take(&mut state.spare);
        while state.is_open && state.exchange.take_out(&mut buffer) {
            drop(state);
            let written = self.socket.write_all(buffer.bytes());
            buffer.clear();
            state = self.state();
            if written.is_err() {
                // The reading thread notices, and tells all who wait.
                self.socket.close();
                break;
            }
        }
        state.writing = false;
        state.spare = buffer;
        Ok(())
    }

    /// Reads answers until the connection ends, then calls `ended` with the reason, and then tells
    /// all who wait: so that they find the connection gone when they try again.
    pub(super) fn read_until_end(&self, mut buffer: ReadBuffer, ended: impl FnOnce(&str)) {
        let error = loop {
            if let Err(error) = self.read_once(&mut buffer) {
                break error;
            }
        };
        self.socket.close();
        let mut state = self.state();
        state.is_open = false;
        let waiting = state.exchange.abandon();
        drop(state);
        ended(&error.to_string());
        let delivery = error.into_delivery();
        for completion in waiting {
            completion.deliver(delivery.clone());
        }
    }

    /// Ends the connection; its thread tells all who wait.
    pub(super) fn close(&self) {
        self.socket.close();
    }

    /// Reads once and delivers all answers that have come.
    fn read_once(&self, buffer: &mut ReadBuffer) -> Result<(), ReadError> {
        let read = self.socket.read(buffer.room()).map_err(ReadError::Io)?;
        buffer.filled(read);
        loop {
            let received = self.state().exchange.receive(buffer);
            match received.map_err(ReadError::Malformed)? {
                Some((completion, reply)) => completion.deliver(SendOutcome::Replied(reply)),
                None => return Ok(()),
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds this, so a poisoned lock guards a sound state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
enum ReadError {
    Io(io::Error),
    Malformed(String),
}

impl ReadError {
    fn into_delivery(self) -> SendOutcome {
        match self {
            Self::Io(error) => SendOutcome::Lost(format!("the connection broke: {error}")),
            Self::Malformed(cause) => SendOutcome::Malformed(cause),
        }
    }
}

impl std::fmt::Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Malformed(cause) => f.write_str(cause),
        }
    }
}

impl Completion {
    /// Waits for the outcome, until `deadline`.
    pub(super) fn wait_until(&self, deadline: Instant) -> Option<SendOutcome> {
        let mut delivery = self.lock();
        loop {
            if delivery.is_some() {
                return delivery.take();
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let waited = self.delivered.wait_timeout(delivery, left);
            (delivery, _) = waited.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn take(&self) -> Option<SendOutcome> {
        self.lock().take()
    }

    fn deliver(&self, delivery: SendOutcome) {
        *self.lock() = Some(delivery);
        self.delivered.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Option<SendOutcome>> {
        self.delivery.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
