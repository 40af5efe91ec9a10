//! One connection: callers leave frames, one task writes them, one reads answers.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ::tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use ::tokio::net::{TcpStream, UnixStream};
use ::tokio::sync::{Notify, oneshot};
use ::tokio::task::AbortHandle;
use ::tokio::time::timeout_at;
use keyway_protocol::ServerHello;

use crate::answer::Reply;
use crate::attempts::SendOutcome;
use crate::buffer::{ReadBuffer, WriteBuffer};
use crate::exchange::{Exchange, Full, Outgoing};
use crate::{Address, Call};

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;
type Waiter = oneshot::Sender<SendOutcome>;

/// A socket whose server said HELLO.
pub(super) struct Established {
    pub(super) hello: ServerHello,
    exchange: Exchange<Waiter>,
    reader: Reader,
    writer: Writer,
    buffer: ReadBuffer,
}

/// A connection in use. Its two tasks hold the socket.
pub(super) struct Connection {
    state: Mutex<State>,
    /// There is something to write, or the connection has ended.
    to_write: Notify,
    /// Receives why the connection ended, before the waiting calls do.
    ended: Box<dyn Fn(&str) + Send + Sync>,
}

#[derive(Debug)]
struct State {
    exchange: Exchange<Waiter>,
    is_open: bool,
    reading: Option<AbortHandle>,
}

/// Why a request was not sent.
#[derive(Debug)]
pub(super) enum NotSent {
    Full,
    Closed,
}

impl Established {
    /// Connects and sends HELLO. `hello` is the call.
    pub(super) async fn new(
        address: &Address,
        hello: &Call<ServerHello>,
        deadline: Instant,
    ) -> Result<Self, String> {
        match timeout_at(deadline.into(), Self::open(address, hello)).await {
            Ok(established) => established,
            Err(_) => Err(format!(
                "cannot connect to {address}: it took too long; does keywayd listen there?"
            )),
        }
    }

    async fn open(address: &Address, hello: &Call<ServerHello>) -> Result<Self, String> {
        let explain = |error: io::Error| {
            format!("cannot connect to {address}: {error}; does keywayd listen there?")
        };
        let payload = hello.spec.payload.as_ref().map_err(|e| e.to_string())?;
        let (mut reader, mut writer) = open_socket(address).await.map_err(explain)?;
        let mut exchange = Exchange::new();
        // The other end is not awaited: the answer is taken from the exchange right here.
        let (waiter, _) = oneshot::channel();
        exchange
            .send(&Outgoing::hello(payload), waiter)
            .expect("a new connection has room");
        let mut out = WriteBuffer::default();
        exchange.take_out(&mut out);
        writer.write_all(out.bytes()).await.map_err(explain)?;
        let mut buffer = ReadBuffer::new();
        let reply = loop {
            let received = read_once(&mut reader, &mut buffer).await;
            received.map_err(|error| format!("no HELLO from {address}: {error}"))?;
            if let Some((_, reply)) = exchange.receive(&mut buffer)? {
                break reply;
            }
        };
        let answer = reply
            .ok()
            .and_then(|reply| hello.read(&reply).map_err(|error| error.to_string()))
            .map_err(|cause| format!("{address} refused HELLO: {cause}"))?;
        Ok(Self {
            hello: answer.value,
            exchange,
            reader,
            writer,
            buffer,
        })
    }

    /// Starts the connection's tasks. `ended` receives why it ended.
    pub(super) fn start(
        self,
        ended: impl Fn(&str) + Send + Sync + 'static,
    ) -> (Arc<Connection>, ServerHello) {
        let connection = Arc::new(Connection {
            state: Mutex::new(State {
                exchange: self.exchange,
                is_open: true,
                reading: None,
            }),
            to_write: Notify::new(),
            ended: Box::new(ended),
        });
        ::tokio::spawn(Arc::clone(&connection).write_until_end(self.writer));
        let guard = EndGuard(Arc::clone(&connection));
        let reading = ::tokio::spawn(guard.read_until_end(self.reader, self.buffer));
        let mut state = connection.state();
        if state.is_open {
            state.reading = Some(reading.abort_handle());
        } else {
            reading.abort();
        }
        drop(state);
        (connection, self.hello)
    }
}

impl Connection {
    /// Sends a request. Its outcome comes out of what this gives.
    pub(super) fn send(
        &self,
        request: &Outgoing<'_>,
    ) -> Result<oneshot::Receiver<SendOutcome>, NotSent> {
        let mut state = self.state();
        if !state.is_open {
            return Err(NotSent::Closed);
        }
        let (waiter, delivery) = oneshot::channel();
        let sent = state.exchange.send(request, waiter);
        drop(state);
        sent.map_err(|Full| NotSent::Full)?;
        self.to_write.notify_one();
        Ok(delivery)
    }

    /// Ends the connection, once, and tells all who wait.
    fn end(&self, delivery: &SendOutcome, cause: &str) {
        let mut state = self.state();
        if !state.is_open {
            return;
        }
        state.is_open = false;
        let waiting = state.exchange.abandon();
        let reading = state.reading.take();
        drop(state);
        self.to_write.notify_one();
        if let Some(reading) = reading {
            reading.abort();
        }
        (self.ended)(cause);
        for waiter in waiting {
            // One that has gone away wants no answer.
            let _ = waiter.send(delivery.clone());
        }
    }

    fn end_lost(&self, cause: &str) {
        self.end(
            &SendOutcome::Lost(format!("the connection broke: {cause}")),
            cause,
        );
    }

    /// Ends the connection on the client's own behalf.
    pub(super) fn close(&self) {
        self.end_lost("this client closed it");
    }

    async fn write_until_end(self: Arc<Self>, mut writer: Writer) {
        let mut buffer = WriteBuffer::default();
        loop {
            let has_out = {
                let mut state = self.state();
                if !state.is_open {
                    return;
                }
                state.exchange.take_out(&mut buffer)
            };
            if !has_out {
                self.to_write.notified().await;
                continue;
            }
            if let Err(error) = writer.write_all(buffer.bytes()).await {
                self.end_lost(&error.to_string());
                return;
            }
            buffer.clear();
        }
    }

    fn receive(&self, buffer: &mut ReadBuffer) -> Result<Option<(Waiter, Reply)>, String> {
        self.state().exchange.receive(buffer)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds this, so a poisoned lock guards a sound state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// Ends the connection when the reading task goes, however it goes: also when its runtime is shut
/// down under it.
struct EndGuard(Arc<Connection>);

impl EndGuard {
    async fn read_until_end(self, mut reader: Reader, mut buffer: ReadBuffer) {
        loop {
            if let Err(error) = read_once(&mut reader, &mut buffer).await {
                return self.0.end_lost(&error.to_string());
            }
            loop {
                match self.0.receive(&mut buffer) {
                    Ok(Some((waiter, reply))) => {
                        // One that has gone away wants no answer.
                        let _ = waiter.send(SendOutcome::Replied(reply));
                    }
                    Ok(None) => break,
                    Err(cause) => {
                        return self.0.end(&SendOutcome::Malformed(cause.clone()), &cause);
                    }
                }
            }
        }
    }
}

impl Drop for EndGuard {
    fn drop(&mut self) {
        self.0.end_lost("its runtime ended");
    }
}

async fn open_socket(address: &Address) -> io::Result<(Reader, Writer)> {
    match address {
        Address::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            stream.set_nodelay(true)?;
            let (reader, writer) = stream.into_split();
            Ok((Box::new(reader), Box::new(writer)))
        }
        Address::Unix(path) => {
            crate::address::check_unix_path(path)?;
            let (reader, writer) = UnixStream::connect(path).await?.into_split();
            Ok((Box::new(reader), Box::new(writer)))
        }
    }
}

async fn read_once(reader: &mut Reader, buffer: &mut ReadBuffer) -> io::Result<()> {
    let read = reader.read(buffer.room()).await?;
    if read == 0 {
        let kind = io::ErrorKind::UnexpectedEof;
        return Err(io::Error::new(kind, "the server closed the connection"));
    }
    buffer.filled(read);
    Ok(())
}
