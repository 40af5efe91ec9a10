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
use std::task::{Context, Poll};

use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use super::outbox::Outbox;
use crate::authorise::Principal;

/// Bytes that one read takes at most.
pub const READ_LEN_MAX: usize = 64 << 10;

/// A connected socket.
pub struct Socket {
    /// glommio's stream reads and writes any stream socket; a Unix one is held in it too, since
    /// its own type for them hides the descriptor.
    stream: TcpStream,
    principal: Principal,
}

/// What a connection wants of [`drive`].
#[derive(Clone, Copy, Debug)]
pub struct Wish {
    /// To read, if there is space.
    pub read: bool,
    /// To look again when the peer has taken something.
    pub look_at_room: bool,
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

    /// The descriptor's number. The kernel hands out the lowest free one, so it also says how many are in use.
    pub fn descriptor(&self) -> u64 {
        u64::try_from(self.stream.as_raw_fd()).unwrap_or(0)
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

/// Sends what is in `outbox` and, if that is wished, reads into `inbox` after its first `filled` bytes; returns at the
/// first thing that happened.
pub async fn drive(
    socket: &Rc<RefCell<Socket>>,
    outbox: &Rc<RefCell<Outbox>>,
    inbox: &mut [u8],
    filled: usize,
    wish: Wish,
) -> Progress {
    poll_fn(|cx| {
        let mut socket = socket.borrow_mut();
        let mut outbox = outbox.borrow_mut();
        outbox.wait_no_more();
        let unsent = outbox.pending();
        if !send(&mut socket, &mut outbox, cx) {
            return Poll::Ready(Progress::Closed);
        }
        let wrote = outbox.pending() < unsent;
        if wish.read && filled < inbox.len() {
            let end = inbox.len().min(filled + READ_LEN_MAX);
            match socket.poll_read(cx, &mut inbox[filled..end]) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(Progress::Closed),
                Poll::Ready(Ok(count)) => return Poll::Ready(Progress::Read(count)),
                Poll::Pending => {}
            }
        }
        if outbox.take_woken() || (wrote && wish.look_at_room) {
            return Poll::Ready(Progress::Woken);
        }
        outbox.wait(cx.waker());
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
    let mut stands = true;
    while stands && outbox.pending() > 0 {
        match socket.poll_write(cx, outbox.unsent()) {
            Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => stands = false,
            Poll::Ready(Ok(count)) => outbox.advance(count),
            Poll::Pending => break,
        }
    }
    outbox.settle();
    stands
}
