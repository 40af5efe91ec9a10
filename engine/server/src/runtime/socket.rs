//! A stream socket as one connection task uses it: reads and writes are polled side by side.
//!
//! All of the server's socket I/O passes through here, so that another way of doing it (a ring of
//! its own, say) replaces this file alone.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use futures_lite::io::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;

use keyway_node::policy::Principal;

use crate::peer;

/// A connected socket.
pub struct Socket {
    /// glommio's stream reads and writes any stream socket; a Unix one is held in it too, since
    /// its own type for them hides the descriptor.
    stream: TcpStream,
    principal: Principal,
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
        if let Ok(Some(uid)) = peer::of(socket.fd()).map(|peer| peer.uid) {
            socket.principal = Principal::Uid(uid);
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

    /// Reads what is there into `buffer`; 0 bytes: the peer has ended its direction.
    pub fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }

    /// Writes as much of `buffer` as there is room for.
    pub fn poll_write(&mut self, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }
}
