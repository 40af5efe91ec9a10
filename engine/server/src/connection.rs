//! One connection's task: moves bytes between its socket and the shard, in both directions. The shard decides when it is
//! read, what is sent, and when it is over.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use keyway_core::slots::Handle;
use keyway_node::connection::Connection;

use crate::clock;
use crate::runtime::socket::Socket;
use crate::runtime::tasks;
use crate::shard::{Driver, OpenSocket};

/// What a look at a socket brought.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    /// Bytes were received, or so many sent that there is room for more answers.
    Moved,
    /// The peer is gone, the connection broke, or it is over.
    Closed,
}

/// Serves a connection until it ends.
pub(crate) async fn serve(driver: Rc<Driver>, at: Handle<Connection>, open: Rc<OpenSocket>) {
    // Work of this task since the executor last polled I/O and ran the others.
    let mut unrested_us = 0;
    loop {
        let progress = poll_fn(|cx| {
            let progress = drive(&driver, at, &mut open.socket.borrow_mut(), cx);
            if progress.is_pending() {
                open.waker.replace(Some(cx.waker().clone()));
            }
            progress
        });
        let (progress, has_rested) = tasks::noting_rest(progress).await;
        if has_rested {
            unrested_us = 0;
        }
        if progress == Progress::Closed {
            break;
        }
        unrested_us += driver.turn_of(at).await;
        // A peer that has always more to say is not to keep everything else waiting.
        if unrested_us >= tasks::TURN_WORK_US_MAX {
            poll_fn(|cx| {
                // A broken connection shows at the next look.
                let _ = send(&driver, at, &mut open.socket.borrow_mut(), cx);
                Poll::Ready(())
            })
            .await;
            tasks::yield_to_io().await;
            unrested_us = 0;
        }
    }
    open.socket.borrow().shut_down();
    driver.closed(at);
}

/// Sends what may be sent, then receives if the connection is to be read; ready at the first thing that the shard has to
/// look at.
fn drive(
    driver: &Driver,
    at: Handle<Connection>,
    socket: &mut Socket,
    cx: &mut Context<'_>,
) -> Poll<Progress> {
    if !send(driver, at, socket, cx) {
        return Poll::Ready(Progress::Closed);
    }
    driver.with_shard(|shard| {
        if shard.is_over(at) {
            return Poll::Ready(Progress::Closed);
        }
        let space = shard.recv_space(at);
        if !space.is_empty() {
            match socket.poll_read(cx, space) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Poll::Ready(Progress::Closed),
                Poll::Ready(Ok(len)) => {
                    shard.handle_received(clock::now(), at, len);
                    return Poll::Ready(Progress::Moved);
                }
                Poll::Pending => {}
            }
        }
        match shard.has_frames() {
            true => Poll::Ready(Progress::Moved),
            false => Poll::Pending,
        }
    })
}

/// Sends what can be sent without waiting. Returns whether the connection still stands.
fn send(
    driver: &Driver,
    at: Handle<Connection>,
    socket: &mut Socket,
    cx: &mut Context<'_>,
) -> bool {
    driver.with_shard(|shard| {
        loop {
            let bytes = shard.to_send(at);
            if bytes.is_empty() {
                return true;
            }
            match socket.poll_write(cx, bytes) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return false,
                Poll::Ready(Ok(len)) => shard.handle_sent(at, len),
                Poll::Pending => return true,
            }
        }
    })
}
