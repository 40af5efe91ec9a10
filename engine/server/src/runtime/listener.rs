//! Listeners of one shard: TCP for anyone, TCP for this shard alone, and Unix sockets.

use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use glommio::net::{TcpListener, TcpStream};
use rustix::io::Errno;
use rustix::net::{self, AddressFamily, SocketFlags, SocketType, sockopt};

use super::socket::Socket;
use super::tasks;

/// Pause after an accept that failed: with no descriptor left it would fail again immediately, in an endless loop.
const ACCEPT_BACK_OFF: Duration = Duration::from_millis(10);

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1_024;

/// What the process had left when it accepted a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Descriptors {
    /// It had a descriptor for it.
    Free,
    /// It gave up its spare one for it, to see whose it is.
    Spare,
}

/// What a listener does with what it gets.
pub trait Accept: 'static {
    /// Takes a new connection.
    fn accepted(self: &Rc<Self>, socket: Socket, descriptors: Descriptors);
    /// Counts a failed accept.
    fn accept_failed(&self, error: &std::io::Error);
    /// Whether to stop accepting.
    fn is_stopping(&self) -> bool;
}

/// Accepts TCP connections at `address` in a task of its own. Shards may share an address: the
/// kernel spreads connections over them.
///
/// Errors: the address cannot be bound.
pub fn tcp(address: SocketAddr, accept: &Rc<impl Accept>) -> std::io::Result<()> {
    let listener = bound(address)?;
    // SAFETY: the descriptor is a listening stream socket that nothing else owns any more.
    let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
    tasks::spawn(accept_all(listener, Rc::clone(accept), Socket::tcp));
    Ok(())
}

/// Listens at `address`, which other shards may share. Glommio's own `bind` leaves `SO_REUSEADDR` out, and connections
/// inherit it: without, those that a stopped server closed would hold the port against the next one for a minute.
fn bound(address: SocketAddr) -> rustix::io::Result<OwnedFd> {
    let family = match address {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let socket = net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    net::bind(&socket, &address)?;
    net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Accepts Unix connections at `path` in a task of its own.
///
/// Errors: the path cannot be bound.
pub fn unix(path: &Path, accept: &Rc<impl Accept>) -> std::io::Result<()> {
    let listener = UnixListener::bind(path)?;
    // SAFETY: the descriptor is a listening stream socket that nothing else owns any more.
    let listener = unsafe { TcpListener::from_raw_fd(listener.into_raw_fd()) };
    tasks::spawn(accept_all(listener, Rc::clone(accept), Socket::unix));
    Ok(())
}

async fn accept_all(
    listener: TcpListener,
    accept: Rc<impl Accept>,
    socket: fn(TcpStream) -> Socket,
) {
    // With it, the operator gets in even when every descriptor is taken, and strangers are turned away instead of
    // waiting in the kernel's queue before him.
    let mut spare = spare_descriptor();
    while !accept.is_stopping() {
        let error: std::io::Error = match listener.accept().await {
            Ok(stream) => {
                accept.accepted(socket(stream), Descriptors::Free);
                continue;
            }
            Err(error) => error.into(),
        };
        accept.accept_failed(&error);
        if is_out_of_descriptors(&error) && spare.take().is_some() {
            if let Ok(stream) = listener.accept().await {
                accept.accepted(socket(stream), Descriptors::Spare);
            }
        } else {
            tasks::sleep(ACCEPT_BACK_OFF).await;
        }
        if spare.is_none() {
            spare = spare_descriptor();
        }
    }
}

fn is_out_of_descriptors(error: &std::io::Error) -> bool {
    matches!(
        Errno::from_io_error(error),
        Some(Errno::MFILE | Errno::NFILE)
    )
}

fn spare_descriptor() -> Option<File> {
    File::open("/dev/null").ok()
}
