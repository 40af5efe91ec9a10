//! One pipelined connection.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use keyway_protocol::{Hello, Request, ResponseFrame, Status, VERSION};

use super::frame::{encode, set_request_id};
use crate::error::{Context, Result};

/// How long connecting and HELLO may take.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(20);

/// Requests in flight on one connection. The server allows 1024.
pub const IN_FLIGHT_MAX: usize = 1000;

const READ_LEN: usize = 64 * 1024;

/// A non-blocking connection with its buffers.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    in_flight: usize,
    in_flight_max: usize,
    out: Vec<u8>,
    out_done: usize,
    received: Vec<u8>,
    received_len: usize,
}

impl Connection {
    /// Connects and sends HELLO. At most `in_flight_max` requests will be in flight on it, and
    /// never more than [`IN_FLIGHT_MAX`].
    pub fn open(address: SocketAddr, in_flight_max: usize) -> Result<Self> {
        let stream = connect(address)?;
        stream
            .set_nonblocking(true)
            .context(|| "set_nonblocking".into())?;
        Ok(Self {
            stream,
            in_flight: 0,
            in_flight_max: in_flight_max.min(IN_FLIGHT_MAX),
            out: Vec::new(),
            out_done: 0,
            received: vec![0; READ_LEN],
            received_len: 0,
        })
    }

    /// The socket, to be watched for answers.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Whether another request may go out here.
    pub fn has_room(&self) -> bool {
        self.in_flight < self.in_flight_max
    }

    /// Puts a copy of an encoded request into the output.
    pub fn push(&mut self, frame: &[u8], request_id: u64) {
        let at = self.out.len();
        self.out.extend_from_slice(frame);
        set_request_id(&mut self.out[at..], request_id);
        self.in_flight += 1;
    }

    /// Sends what the socket takes now.
    pub fn flush(&mut self) -> Result<()> {
        while self.out_done < self.out.len() {
            match self.stream.write(&self.out[self.out_done..]) {
                Ok(len) => self.out_done += len,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(format!("send: {error}").into()),
            }
        }
        self.out.clear();
        self.out_done = 0;
        Ok(())
    }

    /// Reads once and hands over the answers that are complete.
    pub fn receive(&mut self, mut answer: impl FnMut(&ResponseFrame) -> Result<()>) -> Result<()> {
        if self.received_len == self.received.len() {
            self.received.resize(self.received.len() * 2, 0);
        }
        let len = match self.stream.read(&mut self.received[self.received_len..]) {
            Ok(0) => return Err("the server closed a connection under load".into()),
            Ok(len) => len,
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return Ok(());
            }
            Err(error) => return Err(format!("receive: {error}").into()),
        };
        self.received_len += len;
        let mut at = 0;
        while let Some((frame, len)) = ResponseFrame::decode(&self.received[at..self.received_len])
            .context(|| "the server's bytes".into())?
        {
            answer(&frame)?;
            self.in_flight = self.in_flight.saturating_sub(1);
            at += len;
        }
        self.received.copy_within(at..self.received_len, 0);
        self.received_len -= at;
        Ok(())
    }
}

/// Connects, and exchanges HELLO.
fn connect(address: SocketAddr) -> Result<TcpStream> {
    let what = || format!("connect to {address}");
    let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIME_MAX).context(what)?;
    stream.set_nodelay(true).context(what)?;
    stream
        .set_read_timeout(Some(CONNECT_TIME_MAX))
        .context(what)?;
    let hello = Request::Hello(Hello {
        version_min: VERSION,
        version_max: VERSION,
        client_name: "keyway-bench",
    });
    let mut frame = encode(0, "", &hello)?;
    set_request_id(&mut frame, 1);
    stream.write_all(&frame).context(what)?;
    let mut received = Vec::new();
    loop {
        if let Some((answer, _)) = ResponseFrame::decode(&received).context(what)? {
            return match answer.status {
                Status::Ok => Ok(stream),
                status => Err(format!("HELLO was answered {status}").into()),
            };
        }
        let mut chunk = [0; READ_LEN];
        match stream.read(&mut chunk).context(what)? {
            0 => return Err("the server closed the connection at HELLO".into()),
            len => received.extend_from_slice(&chunk[..len]),
        }
    }
}
