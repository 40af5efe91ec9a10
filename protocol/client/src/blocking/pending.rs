//! A call on its way.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use keyway_protocol::ServerHello;

use super::connection::Completion;
use super::pool::Pool;
use crate::answer::Reply;
use crate::attempts::{Attempts, Next};
use crate::call::Outline;
use crate::{Answer, Call, Error};

/// A call on its way. Dropping it gives up the answer, not the work.
#[derive(Debug)]
#[must_use = "wait for the answer, or it is lost"]
pub struct Pending<T> {
    pool: Arc<Pool>,
    call: Call<T>,
    attempts: Attempts,
    sent: Result<Arc<Completion>, Next>,
}

impl<T> Pending<T> {
    pub(super) fn submit(pool: Arc<Pool>, call: Call<T>, deadline: Instant) -> Self {
        let mut attempts = Attempts::new(&call.outline, deadline);
        let sent = pool.send(&call.outline, &mut attempts);
        Self {
            pool,
            call,
            attempts,
            sent,
        }
    }

    /// Waits for the answer, sending again where that can help, until the deadline.
    pub fn wait(mut self) -> Result<Answer<T>, Error> {
        let reply = finish(
            &self.pool,
            &self.call.outline,
            &mut self.attempts,
            self.sent,
        )?;
        self.call.read(&reply)
    }
}

fn finish(
    pool: &Arc<Pool>,
    call: &Outline,
    attempts: &mut Attempts,
    mut sent: Result<Arc<Completion>, Next>,
) -> Result<Reply, Error> {
    loop {
        let next = match sent {
            Ok(completion) => match completion.wait_until(attempts.deadline()) {
                Some(delivery) => attempts.handle(Instant::now(), delivery, pool.jitter()),
                None => return Err(attempts.timed_out(true, None)),
            },
            Err(next) => next,
        };
        match next {
            Next::Finish(result) => return result,
            Next::Again(at) => {
                let until = at.min(attempts.deadline());
                thread::sleep(until.saturating_duration_since(Instant::now()));
            }
            Next::HelloAgain => hello_again(pool, attempts.deadline())?,
        }
        sent = pool.send(call, attempts);
    }
}

/// Learns the keyspaces anew.
fn hello_again(pool: &Arc<Pool>, deadline: Instant) -> Result<(), Error> {
    let hello: Call<ServerHello> = pool.hello().clone();
    let answer = Pending::submit(Arc::clone(pool), hello, deadline).wait()?;
    pool.learn(answer.value);
    Ok(())
}
