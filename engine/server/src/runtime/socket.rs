//! A stream socket as one connection task uses it: reads and writes are polled side by side.
//!
//! All of the server's socket I/O passes through here, so that another way of doing it (a ring of
//! its own, say) replaces this file alone.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use zeroize::Zeroize;

use crate::authorise::Principal;

/// Bytes that one read takes at most.
pub const READ_LEN_MAX: usize = 64 << 10;

/// Bytes sent before the rest is moved to the front of an outbox that is never empty.
const COMPACT_LEN_MIN: usize = 64 << 10;

/// A connected socket.
pub struct Socket {
    /// glommio's stream reads and writes any stream socket; a Unix one is held in it too, since
    /// its own type for them hides the descriptor.
    stream: TcpStream,
    principal: Principal,
}

/// What a turn of [`drive`] brought.
#[derive(Debug, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes were read into the buffer's end.
    Read(usize),
    /// Something was written or the connection was woken; look at the buffers again.
    Woken,
    /// The peer is gone, or the connection broke.
    Closed,
}

/// The write side that others append to.
#[derive(Default)]
pub struct Outbox {
    /// Bytes to send; the first `sent` are gone.
    pub bytes: Vec<u8>,
    sent: usize,
    sent_total: u64,
    waker: Option<Waker>,
    woken: bool,
}

impl Outbox {
    /// Bytes that still wait to be sent.
    pub fn pending(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Makes the connection's task look again: there are bytes, or it is to close.
    pub fn wake(&mut self) {
        self.woken = true;
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Bytes that the peer's kernel has taken so far.
    pub fn sent_total(&self) -> u64 {
        self.sent_total
    }

    fn advance(&mut self, count: usize) {
        self.sent += count;
        self.sent_total += count as u64;
        // A peer that always leaves something unsent must not make this grow for ever. Moving no
        // more than has been sent keeps the cost below one copy of each byte.
        if self.sent == self.bytes.len()
            || (self.sent >= COMPACT_LEN_MIN && self.sent >= self.pending())
        {
            let left = self.pending();
            self.bytes.copy_within(self.sent.., 0);
            // Answers can hold secrets (`get`, `decrypt`): nothing stays behind.
            self.bytes[left..].zeroize();
            self.bytes.truncate(left);
            self.sent = 0;
        }
    }
}

impl Socket {
    /// A TCP connection; its peer is anonymous.
    pub fn tcp(stream: TcpStream) -> Socket {
        // A failure leaves Nagle on: slower, not wrong.
        let _ = stream.set_nodelay(true);
        let socket = Socket {
            stream,
            principal: Principal::Anonymous,
        };
        let _ = rustix::net::sockopt::set_socket_keepalive(socket.fd(), true);
        socket
    }

    /// A Unix connection; the kernel says who the peer is.
    pub fn unix(stream: TcpStream) -> Socket {
        let mut socket = Socket {
            stream,
            principal: Principal::Anonymous,
        };
        if let Ok(peer) = rustix::net::sockopt::socket_peercred(socket.fd()) {
            socket.principal = Principal::Uid(peer.uid.as_raw());
        }
        socket
    }

    /// Who is at the other end.
    pub fn principal(&self) -> Principal {
        self.principal
    }

    /// Ends both directions; a task that reads sees the end of the stream.
    pub fn shut_down(&self) {
        // It may be gone already, which is what was wanted.
        let _ = rustix::net::shutdown(self.fd(), rustix::net::Shutdown::Both);
    }

    fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the stream owns the descriptor and outlives the borrow, which has the lifetime
        // of `&self`.
        unsafe { BorrowedFd::borrow_raw(self.stream.as_raw_fd()) }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }
}

/// Sends what is in `outbox` and, if `reading`, reads into `inbox` after its first `filled`
/// bytes; returns at the first thing that happened.
pub async fn drive(
    socket: &Rc<RefCell<Socket>>,
    outbox: &Rc<RefCell<Outbox>>,
    inbox: &mut [u8],
    filled: usize,
    reading: bool,
) -> Progress {
    poll_fn(|cx| {
        let mut socket = socket.borrow_mut();
        let mut outbox = outbox.borrow_mut();
        outbox.waker = None;
        let unsent = outbox.pending();
        if !send(&mut socket, &mut outbox, cx) {
            return Poll::Ready(Progress::Closed);
        }
        let wrote = outbox.pending() < unsent;
        if reading && filled < inbox.len() {
            let end = inbox.len().min(filled + READ_LEN_MAX);
            match socket.poll_read(cx, &mut inbox[filled..end]) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(Progress::Closed),
                Poll::Ready(Ok(count)) => return Poll::Ready(Progress::Read(count)),
                Poll::Pending => {}
            }
        }
        if std::mem::take(&mut outbox.woken) || (wrote && !reading) {
            return Poll::Ready(Progress::Woken);
        }
        outbox.waker = Some(cx.waker().clone());
        Poll::Pending
    })
    .await
}

/// Sends what can be sent without waiting.
pub async fn send_now(socket: &Rc<RefCell<Socket>>, outbox: &Rc<RefCell<Outbox>>) {
    poll_fn(|cx| {
        // A broken connection shows at the next `drive`.
        send(&mut socket.borrow_mut(), &mut outbox.borrow_mut(), cx);
        Poll::Ready(())
    })
    .await;
}

/// Whether the connection still stands.
fn send(socket: &mut Socket, outbox: &mut Outbox, cx: &mut Context<'_>) -> bool {
    while outbox.pending() > 0 {
        let sent = outbox.sent;
        match socket.poll_write(cx, &outbox.bytes[sent..]) {
            Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return false,
            Poll::Ready(Ok(count)) => outbox.advance(count),
            Poll::Pending => return true,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outbox_that_is_never_empty_stays_small_and_loses_nothing() {
        let mut outbox = Outbox::default();
        let (mut written, mut taken) = (0_u64, 0_u64);
        for _ in 0..1_000 {
            let bytes = (0..5_000).map(|i| ((written + i) % 251) as u8);
            outbox.bytes.extend(bytes);
            written += 5_000;
            while outbox.pending() > 3_000 {
                let next = outbox.bytes[outbox.sent];
                assert_eq!(u64::from(next), taken % 251);
                outbox.advance(700);
                taken += 700;
            }
            assert!(outbox.bytes.len() <= 2 * COMPACT_LEN_MIN + 8_000);
        }
        assert_eq!(outbox.sent_total(), taken);
    }
}
