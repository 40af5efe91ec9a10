//! A call in flight.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use keyway_protocol::{KeyspaceName, ServerHello};

use super::connection::Completion;
use super::pool::Pool;
use crate::answer::Reply;
use crate::attempts::{Attempts, Next};
use crate::call::CallSpec;
use crate::{Answer, Call, Error};

/// A call in flight. Dropping it abandons the answer, not the work.
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
        let mut attempts = Attempts::new(&call.spec, deadline);
        let sent = pool.send(&call.spec, &mut attempts);
        Self {
            pool,
            call,
            attempts,
            sent,
        }
    }

    /// Waits for the answer, sending again where that can help, until the deadline.
    pub fn wait(mut self) -> Result<Answer<T>, Error> {
        let reply = finish(&self.pool, &self.call.spec, &mut self.attempts, self.sent)?;
        self.call.read(&reply)
    }
}

fn finish(
    pool: &Arc<Pool>,
    call: &CallSpec,
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
            Next::RefreshHello => hello_again(pool, call.keyspace.as_ref(), attempts.deadline())?,
        }
        sent = pool.send(call, attempts);
    }
}

/// Reloads the keyspaces: those that HELLO names, and if there are more, the following ones until `wanted` is found.
fn hello_again(
    pool: &Arc<Pool>,
    wanted: Option<&KeyspaceName>,
    deadline: Instant,
) -> Result<(), Error> {
    let hello: Call<ServerHello> = pool.hello().clone();
    let answer = Pending::submit(Arc::clone(pool), hello, deadline).wait()?;
    let mut after = answer.value.keyspaces.last().map_or(0, |last| last.id);
    let mut more = answer.value.more;
    pool.learn(answer.value);
    while more && wanted.is_some_and(|name| pool.table().keyspace_id(name).is_none()) {
        let call = Call::keyspace_list_page(after);
        let page = Pending::submit(Arc::clone(pool), call, deadline).wait()?;
        pool.table().learn_listed(&page.value.keyspaces);
        let last = page.value.keyspaces.last().map_or(after, |last| last.id);
        more = page.value.more && last > after;
        after = last;
    }
    Ok(())
}
