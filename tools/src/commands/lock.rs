//! `lock` and `unlock`.

use std::time::Duration;

use keyway_client::{KeyspaceName, SharesGiven, UnlockState, UnlockStatus};
use serde_json::json;

use super::poll::{Step, poll_until_done};
use crate::args::{Cli, Unlock};
use crate::connect::Server;
use crate::failure::Failure;
use crate::output::Output;
use crate::printable::Lines;
use crate::secrets::Given;
use crate::text;

/// Locks a keyspace; without one, all of them and every KMS.
pub fn lock(cli: &Cli, keyspace: Option<&KeyspaceName>, output: Output) -> Result<(), Failure> {
    let Some(keyspace) = keyspace else {
        Server::reach(cli)?.call("lock --all", None, |client| client.lock_all())?;
        let document = json!({ "all": true, "locked": true });
        let text = Lines::of("every keyspace and every KMS: locked");
        return output.print_result(&document, &text);
    };
    let doing = format!("lock {keyspace}");
    Server::reach(cli)?.call(&doing, Some(keyspace.as_str()), |client| {
        client.lock(keyspace)
    })?;
    let document = json!({ "keyspace": keyspace.as_str(), "locked": true });
    output.print_result(&document, &Lines::of(format!("{keyspace}: locked")))
}

pub fn unlock(cli: &Cli, command: &Unlock, output: Output) -> Result<(), Failure> {
    let keyspace = &command.keyspace;
    let flow = Flow {
        server: &Server::reach(cli)?,
        keyspace,
        doing: format!("unlock {keyspace}"),
    };
    let (ticket, is_share) = match command.ticket {
        Some(ticket) => (ticket, false),
        None => {
            let given = Given::read(&command.opener, command.force, keyspace.as_str())?;
            (flow.start(&given, command.retry)?, given.is_share())
        }
    };
    let status = match command.wait {
        Some(patience) => Some(flow.poll_until_done(ticket, patience, is_over)?),
        None if command.ticket.is_some() => Some(flow.ask(ticket)?),
        // The holder of a share needs to know whether it was right, and need not wait for the others.
        None if is_share => Some(flow.poll_until_done(ticket, cli.timeout, is_judged)?),
        None => None,
    };
    let mut document = json!({ "keyspace": keyspace.as_str(), "ticket": ticket });
    let Some(status) = status else {
        document["state"] = "pending".into();
        let retrying = match command.retry {
            true => "; the server keeps trying until the KMS answers",
            false => "",
        };
        let mut text = Lines::of(format!(
            "{keyspace}: unlock started (ticket {ticket}){retrying}"
        ));
        text.push(format!(
            "follow it with: keyway unlock {keyspace} --ticket {ticket} --wait"
        ));
        return output.print_result(&document, &text);
    };
    let state = match status.state {
        UnlockState::Pending => "pending",
        UnlockState::Done => "done",
        UnlockState::Failed | UnlockState::Unknown => return Err(flow.failed(&status)),
    };
    document["state"] = state.into();
    document["message"] = status.message.clone().into();
    document["keys_reloaded"] = status.keys_reloaded.into();
    if let Some(SharesGiven { given, threshold }) = status.shares {
        document["shares"] = json!({ "given": given, "threshold": threshold });
    }
    if let Some(attempts) = status.attempts {
        document["attempts"] = attempts.into();
    }
    let text = Lines::of(match status.state {
        UnlockState::Done => format!(
            "{keyspace}: unlocked, {} loaded again",
            text::count(status.keys_reloaded, "key")
        ),
        _ if status.shares.is_some() => format!("{keyspace}: {}", words(&status)),
        _ => format!("{keyspace}: pending: {}", words(&status)),
    });
    output.print_result(&document, &text)
}

/// One unlock of one keyspace.
struct Flow<'a> {
    server: &'a Server,
    keyspace: &'a KeyspaceName,
    doing: String,
}

impl Flow<'_> {
    fn start(&self, given: &Given, retry: bool) -> Result<u64, Failure> {
        let answer = self.server.call(&self.doing, self.name(), |client| {
            if retry {
                client.unlock_with_retry(self.keyspace, given.with())
            } else {
                client.unlock(self.keyspace, given.with())
            }
        })?;
        Ok(answer.value)
    }

    fn ask(&self, ticket: u64) -> Result<UnlockStatus, Failure> {
        let answer = self.server.call(&self.doing, self.name(), |client| {
            client.unlock_status(self.keyspace, ticket)
        })?;
        Ok(answer.value)
    }

    fn poll_until_done(
        &self,
        ticket: u64,
        patience: Duration,
        suffices: fn(&UnlockStatus) -> bool,
    ) -> Result<UnlockStatus, Failure> {
        let remedy = format!(
            "it goes on at the server; follow it with `keyway unlock {} --ticket {ticket} --wait`",
            self.keyspace
        );
        poll_until_done(&self.doing, patience, &remedy, || {
            let status = self.ask(ticket)?;
            Ok(match suffices(&status) {
                true => Step::Over(status),
                false => Step::Pending(words(&status)),
            })
        })
    }

    fn failed(&self, status: &UnlockStatus) -> Failure {
        let message = format!("{}: failed: {}", self.doing, status.message);
        Failure::refused(message, "the server's log and `keyway status` say more")
    }

    fn name(&self) -> Option<&str> {
        Some(self.keyspace.as_str())
    }
}

fn is_over(status: &UnlockStatus) -> bool {
    status.state != UnlockState::Pending
}

/// The server names the shares once it has looked at the one that it was given.
fn is_judged(status: &UnlockStatus) -> bool {
    is_over(status) || status.shares.is_some()
}

/// How a pending unlock stands.
fn words(status: &UnlockStatus) -> String {
    let mut words = match status.shares {
        Some(shares) => text::shares(shares.given, shares.threshold),
        None => status.message.clone(),
    };
    if let Some(attempts) = status.attempts {
        if !words.is_empty() {
            words.push_str(", ");
        }
        words.push_str(&text::count(attempts, "attempt"));
    }
    words
}
