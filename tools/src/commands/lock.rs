//! `lock` and `unlock`.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use keyway_client::{KeyspaceName, UnlockState, UnlockStatus};
use keyway_protocol::limits::PASSPHRASE_LEN_MAX;
use serde_json::json;
use zeroize::Zeroizing;

use crate::args::{Cli, Unlock};
use crate::connect::Server;
use crate::failure::Failure;
use crate::output::Output;
use crate::streams::Wiped;

/// How often `unlock --wait` asks how it stands.
const POLL_PERIOD: Duration = Duration::from_millis(200);

pub fn lock(cli: &Cli, keyspace: &KeyspaceName, output: Output) -> Result<(), Failure> {
    let doing = format!("lock {keyspace}");
    Server::reach(cli)?.call(&doing, Some(keyspace.as_str()), |client| {
        client.lock(keyspace)
    })?;
    let document = json!({ "keyspace": keyspace.as_str(), "locked": true });
    output.say(&document, &format!("{keyspace}: locked\n"))
}

pub fn unlock(cli: &Cli, command: &Unlock, output: Output) -> Result<(), Failure> {
    let keyspace = &command.keyspace;
    let flow = Flow {
        server: &Server::reach(cli)?,
        keyspace,
        doing: format!("unlock {keyspace}"),
    };
    let ticket = match command.ticket {
        Some(ticket) => ticket,
        None => flow.start(&passphrase(command)?)?,
    };
    let status = match command.wait {
        Some(patience) => Some(flow.follow(ticket, patience)?),
        None if command.ticket.is_some() => Some(flow.ask(ticket)?),
        None => None,
    };
    let mut document = json!({ "keyspace": keyspace.as_str(), "ticket": ticket });
    let Some(status) = status else {
        document["state"] = "pending".into();
        let text = format!(
            "{keyspace}: unlock started (ticket {ticket})\n\
             follow it with: keyway unlock {keyspace} --ticket {ticket} --wait\n"
        );
        return output.say(&document, &text);
    };
    let state = match status.state {
        UnlockState::Pending => "pending",
        UnlockState::Done => "done",
        UnlockState::Failed => return Err(flow.failed(&status)),
    };
    document["state"] = state.into();
    document["message"] = status.message.clone().into();
    document["keys_reloaded"] = status.keys_reloaded.into();
    let text = match status.state {
        UnlockState::Done => format!(
            "{keyspace}: unlocked, {} loaded again\n",
            crate::text::count(status.keys_reloaded, "key")
        ),
        _ => format!("{keyspace}: {state}: {}\n", status.message),
    };
    output.say(&document, &text)
}

/// One unlock of one keyspace.
struct Flow<'a> {
    server: &'a Server,
    keyspace: &'a KeyspaceName,
    doing: String,
}

impl Flow<'_> {
    fn start(&self, passphrase: &[u8]) -> Result<u64, Failure> {
        let answer = self.server.call(&self.doing, self.name(), |client| {
            client.unlock(self.keyspace, passphrase)
        })?;
        Ok(answer.value)
    }

    fn ask(&self, ticket: u64) -> Result<UnlockStatus, Failure> {
        let answer = self.server.call(&self.doing, self.name(), |client| {
            client.unlock_status(self.keyspace, ticket)
        })?;
        Ok(answer.value)
    }

    /// Asks until it is done or has failed.
    fn follow(&self, ticket: u64, patience: Duration) -> Result<UnlockStatus, Failure> {
        let started = Instant::now();
        let progress = ProgressBar::new_spinner().with_style(
            ProgressStyle::with_template("{spinner} {prefix} {elapsed}  {msg}")
                .expect("the template is well-formed"),
        );
        progress.set_prefix(self.doing.clone());
        loop {
            let status = self.ask(ticket)?;
            if !matches!(status.state, UnlockState::Pending) {
                progress.finish_and_clear();
                return Ok(status);
            }
            if started.elapsed() >= patience {
                progress.finish_and_clear();
                return Err(Failure::later(
                    format!("{}: still pending after {patience:?}", self.doing),
                    format!(
                        "it goes on at the server; follow it with `keyway unlock {} --ticket \
                         {ticket} --wait`",
                        self.keyspace
                    ),
                ));
            }
            progress.set_message(status.message);
            progress.tick();
            thread::sleep(POLL_PERIOD);
        }
    }

    fn failed(&self, status: &UnlockStatus) -> Failure {
        let message = format!("{}: failed: {}", self.doing, status.message);
        Failure::refused(message, "the server's log and `keyway status` say more")
    }

    fn name(&self) -> Option<&str> {
        Some(self.keyspace.as_str())
    }
}

/// What the provider is given: a passphrase, or nothing.
fn passphrase(command: &Unlock) -> Result<Wiped, Failure> {
    if let Some(fd) = command.passphrase_fd {
        return passphrase_of(fd);
    }
    if !command.passphrase {
        return Ok(Wiped::default());
    }
    let prompt = format!("Passphrase for {}: ", command.keyspace);
    match rpassword::prompt_password(prompt) {
        Ok(passphrase) => checked(Zeroizing::new(passphrase.into_bytes())),
        Err(error) => Err(Failure::usage(
            format!("cannot ask for the passphrase on the terminal: {error}"),
            "give it on a file descriptor, as in --passphrase-fd 3 3<FILE",
        )),
    }
}

fn passphrase_of(fd: u32) -> Result<Wiped, Failure> {
    let path = PathBuf::from(format!("/dev/fd/{fd}"));
    let failure = |error: io::Error| {
        Failure::usage(
            format!("cannot read the passphrase from file descriptor {fd}: {error}"),
            "open it for keyway, as in --passphrase-fd 3 3<FILE",
        )
    };
    let file = File::open(path).map_err(failure)?;
    let mut bytes = Zeroizing::new(Vec::with_capacity(PASSPHRASE_LEN_MAX + 2));
    file.take(PASSPHRASE_LEN_MAX as u64 + 2)
        .read_to_end(&mut bytes)
        .map_err(failure)?;
    if let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
        bytes.truncate(end);
    }
    checked(bytes)
}

fn checked(passphrase: Wiped) -> Result<Wiped, Failure> {
    match passphrase.len() {
        0 => Err(Failure::usage(
            "the passphrase is empty",
            "leave the passphrase options out if the provider needs none",
        )),
        len if len > PASSPHRASE_LEN_MAX => Err(Failure::usage(
            format!("the passphrase has more than {PASSPHRASE_LEN_MAX} bytes"),
            "is it the right file?",
        )),
        _ => Ok(passphrase),
    }
}
