//! How a command fails: what is wrong, the value, what to do about it, and the exit code.

use std::fmt::Display;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;
use std::{fmt, io};

use keyway_client::{CallEffect, Error, Refusal};
use keyway_protocol::Status;
use serde_json::json;

use crate::printable::{self, Lines};

/// The exit codes, as `docs/CLI.md` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// The server refused, a signature, tag or ciphertext does not verify, or `doctor` has found
    /// something.
    Refused = 1,
    /// The command line, or a file that it names, is at fault.
    Usage = 2,
    /// The server cannot be reached, or went away before it answered.
    Unreachable = 3,
    /// The server cannot do it now; the same command may succeed later.
    Later = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// Why a command ends without having done what it was asked.
#[derive(Debug)]
pub enum Failure {
    /// The reader of standard output has gone: nothing is left to say.
    BrokenPipe,
    /// Everything else.
    Message(Message),
}

/// A failure with its message.
#[derive(Debug)]
pub struct Message {
    exit: Exit,
    message: String,
    remedy: Option<String>,
    status: Option<Status>,
    ticket: Option<u64>,
}

impl Failure {
    fn new(exit: Exit, message: impl Into<String>, remedy: Option<String>) -> Self {
        Self::Message(Message {
            exit,
            message: message.into(),
            remedy,
            status: None,
            ticket: None,
        })
    }

    /// The command line is at fault.
    pub fn usage(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message, Some(remedy.into()))
    }

    /// A file cannot be read or written.
    pub fn file(doing: &str, path: &Path, error: &io::Error) -> Self {
        let message = format!("cannot {doing} {}: {error}", path.display());
        Self::new(Exit::Usage, message, None)
    }

    /// Standard output or another stream cannot be written.
    pub fn stream(name: &str, error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::BrokenPipe;
        }
        Self::new(Exit::Usage, format!("{name}: {error}"), None)
    }

    /// The server cannot be reached.
    pub fn unreachable(addr: &str, cause: &dyn Display) -> Self {
        let remedy = "check that keywayd runs and listens there, or name its address with --addr \
                      or KEYWAY_ADDR; a slow one may need a longer --timeout";
        let message = format!("cannot reach {addr}: {cause}");
        Self::new(Exit::Unreachable, message, Some(remedy.into()))
    }

    /// The server answered with something that cannot be read.
    pub fn bad_answer(doing: &str, cause: &dyn Display) -> Self {
        let remedy = "is it a Keyway server, and of this version? compare `keyway --version` and \
                      `keywayd --version`";
        let message = format!("{doing}: the answer cannot be read: {cause}");
        Self::new(Exit::Unreachable, message, Some(remedy.into()))
    }

    /// A call of the client failed while `doing`, which concerns `keyspace` if it names one.
    pub fn call(addr: &str, doing: &str, keyspace: Option<&str>, error: &Error) -> Self {
        let failure = match error {
            Error::Refused(refusal) => Self::refusal(doing, keyspace, refusal),
            Error::Deadline { last, .. } => {
                let message = match last {
                    Some(last) => format!("{doing}: no answer in time: {last}"),
                    None => format!("{doing}: no answer in time"),
                };
                let remedy = "try again, or allow more time with --timeout";
                Self::new(Exit::Later, message, Some(remedy.into()))
            }
            Error::Disconnected { cause, .. } => Self::unreachable(addr, cause).with_context(doing),
            Error::Answer { cause, .. } => Self::bad_answer(doing, cause),
            Error::Address { .. } | Error::Call(_) => {
                Self::new(Exit::Usage, format!("{doing}: {error}"), None)
            }
            other => Self::new(Exit::Refused, format!("{doing}: {other}"), None),
        };
        match error.outcome() {
            CallEffect::NotDone | CallEffect::InForce => failure,
            CallEffect::Unknown => failure.with_unknown_outcome(),
        }
    }

    /// It cannot be done now.
    pub fn later(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Exit::Later, message, Some(remedy.into()))
    }

    /// Refused, for a reason that is no status of one request.
    pub fn refused(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Exit::Refused, message, Some(remedy.into()))
    }

    /// The server refused `doing`, which concerns `keyspace` if it names one.
    pub fn refusal(doing: &str, keyspace: Option<&str>, refusal: &Refusal) -> Self {
        let Refusal {
            status,
            explanation,
            ticket,
            after,
            ..
        } = refusal;
        let message = if explanation.is_empty() {
            format!("{doing}: {}", meaning(*status))
        } else {
            format!("{doing}: {}: {explanation}", label(*status))
        };
        let message = match ticket {
            Some(ticket) => format!("{message} (ticket {ticket})"),
            None => message,
        };
        Self::Message(Message {
            exit: exit_of(*status),
            message,
            remedy: match names_its_remedy(*status, explanation) {
                true => None,
                false => remedy(*status, keyspace, *after),
            },
            status: Some(*status),
            ticket: *ticket,
        })
    }

    /// Adds that the change may have been made.
    fn with_unknown_outcome(self) -> Self {
        match self {
            Self::Message(mut told) => {
                told.message
                    .push_str("; the change may still have been made");
                Self::Message(told)
            }
            quiet @ Self::BrokenPipe => quiet,
        }
    }

    /// Says this in the place of what it says to do.
    pub fn with_remedy(self, remedy: String) -> Self {
        match self {
            Self::Message(told) => Self::Message(Message {
                remedy: Some(remedy),
                ..told
            }),
            quiet @ Self::BrokenPipe => quiet,
        }
    }

    /// Puts what was being done before the message.
    pub fn with_context(self, doing: &str) -> Self {
        match self {
            Self::Message(mut told) => {
                told.message = format!("{doing}: {}", told.message);
                Self::Message(told)
            }
            quiet @ Self::BrokenPipe => quiet,
        }
    }

    /// The exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::BrokenPipe => Exit::Done,
            Self::Message(told) => told.exit,
        }
    }

    /// Writes the message to standard error, as one JSON document if wanted.
    pub fn report(&self, as_json: bool) -> Exit {
        if let Self::Message(told) = self {
            // An error of standard error cannot be reported.
            let _ = if as_json {
                let document = told.document().to_string();
                writeln!(io::stderr(), "{}", printable::json(&document))
            } else {
                write!(io::stderr(), "{}", told.lines().as_str())
            };
        }
        self.exit()
    }
}

impl fmt::Display for Failure {
    /// What is wrong and what to do about it, on one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BrokenPipe => f.write_str("the pipe is closed"),
            Self::Message(Message {
                message,
                remedy: Some(remedy),
                ..
            }) => write!(f, "{message}; {remedy}"),
            Self::Message(told) => f.write_str(&told.message),
        }
    }
}

impl Message {
    fn document(&self) -> serde_json::Value {
        json!({
            "error": {
                "message": self.message,
                "remedy": self.remedy,
                "status": self.status.map(Status::name),
                "ticket": self.ticket,
                "exit_code": self.exit as u8,
            }
        })
    }

    /// What is wrong, and on a line of its own what to do about it.
    fn lines(&self) -> Lines {
        let mut lines = Lines::of(format!("keyway: {}", self.message));
        if let Some(remedy) = &self.remedy {
            lines.push(format!("  {remedy}"));
        }
        lines
    }
}

fn exit_of(status: Status) -> Exit {
    match status {
        Status::Ok => Exit::Done,
        Status::Retry
        | Status::NeedsUnlock
        | Status::Unavailable
        | Status::Overloaded
        | Status::DeadlineExceeded
        | Status::NotPersisted => Exit::Later,
        _ => Exit::Refused,
    }
}

fn label(status: Status) -> String {
    status.name().replace('_', " ")
}

/// What a status means, for answers without an explanation.
fn meaning(status: Status) -> &'static str {
    match status {
        Status::Ok => "done",
        Status::Retry => "the key is still being loaded",
        Status::NeedsUnlock => "the keyspace needs to be unlocked",
        Status::Unavailable => "the server cannot reach its KMS or its store",
        Status::Overloaded => "the server has too much to do",
        Status::NotFound => "there is no such key",
        Status::Invalid => "the stored key cannot be opened",
        Status::Revoked => "the key has been revoked",
        Status::Forbidden => "not allowed",
        Status::BadRequest => "the server finds the request malformed",
        Status::Unsupported => "this key, or this server, cannot do that",
        Status::DeadlineExceeded => "the deadline passed before there was an answer",
        Status::Mismatch => "it does not verify",
        Status::Conflict => "it exists already",
        Status::NoKeyspace => "there is no such keyspace, or this user may not use it",
        Status::Internal => "the server failed; its log says more",
        Status::NotPersisted => "in force, but not written: a restart would undo it",
    }
}

/// Whether a server's explanation says itself what to do, as a KMS's refusal does (`denied: …; give our token's policy …`) and
/// whatever forbids: the policy names the right, a key its usage. Another remedy would lead astray.
fn names_its_remedy(status: Status, explanation: &str) -> bool {
    if status == Status::Forbidden && !explanation.is_empty() {
        return true;
    }
    const CLASSES: [&str; 8] = [
        "denied",
        "disabled",
        "credential",
        "locked",
        "throttled",
        "unavailable",
        "corrupt",
        "misconfigured",
    ];
    let class = explanation.split_once(": ").map(|(class, _)| class);
    class.is_some_and(|class| CLASSES.contains(&class)) && explanation.contains("; ")
}

/// What to do, where the server's explanation does not say it.
fn remedy(status: Status, keyspace: Option<&str>, after: Option<Duration>) -> Option<String> {
    if status == Status::Forbidden && keyspace.is_none() {
        return None;
    }
    let keyspace = keyspace.unwrap_or("KEYSPACE");
    Some(match status {
        Status::NeedsUnlock => format!("run `keyway unlock {keyspace} --wait`, then try again"),
        Status::NoKeyspace => {
            format!("see `keyway keyspace list`; make it with `keyway keyspace create {keyspace}`")
        }
        Status::NotFound => format!("see `keyway key list {keyspace}`"),
        Status::Forbidden => format!(
            "the key's usage, or the keyspace's policy for this user, must allow it: see \
             `keyway keyspace list {keyspace}`"
        ),
        Status::Retry | Status::Unavailable | Status::Overloaded => match after {
            Some(after) if !after.is_zero() => format!("try again in {after:?}"),
            _ => "try again later".into(),
        },
        Status::NotPersisted => {
            "repair the disk of the data directory, then run the command again until it succeeds"
                .into()
        }
        Status::DeadlineExceeded => "try again, or give it longer with --timeout".into(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(status: Status) -> Refusal {
        Refusal {
            status,
            explanation: String::new(),
            ticket: None,
            after: None,
            outcome: CallEffect::NotDone,
        }
    }

    fn text(failure: &Failure) -> String {
        match failure {
            Failure::Message(told) => told.lines().as_str().trim_end().to_owned(),
            Failure::BrokenPipe => String::new(),
        }
    }

    #[test]
    fn every_status_has_an_exit_code_that_says_whether_to_try_again() {
        for &status in Status::ALL {
            let exit = Failure::refusal("sign", None, &refusal(status)).exit();
            let later = status.has_hint()
                || matches!(
                    status,
                    Status::NeedsUnlock | Status::DeadlineExceeded | Status::NotPersisted
                );
            let expected = match status {
                Status::Ok => Exit::Done,
                _ if later => Exit::Later,
                _ => Exit::Refused,
            };
            assert_eq!(exit, expected, "{status}");
        }
    }

    #[test]
    fn needs_unlock_names_the_ticket_and_the_command() {
        let refusal = Refusal {
            ticket: Some(42),
            ..refusal(Status::NeedsUnlock)
        };
        let text = text(&Failure::refusal("sign prod/alice", Some("prod"), &refusal));
        assert_eq!(
            text,
            "keyway: sign prod/alice: the keyspace needs to be unlocked (ticket 42)\n  \
             run `keyway unlock prod --wait`, then try again"
        );
    }

    #[test]
    fn the_servers_own_words_come_first_when_there_are_any() {
        let refusal = Refusal {
            explanation: "no key \"alice\" in keyspace prod".into(),
            ..refusal(Status::NotFound)
        };
        let text = text(&Failure::refusal("sign prod/alice", Some("prod"), &refusal));
        assert!(text.contains("not found: no key \"alice\" in keyspace prod"));
    }

    /// `keyspace create` that the KMS denied was answered with the usage of keys, and with a list of a keyspace that is
    /// not there.
    #[test]
    fn a_kms_that_refuses_has_the_last_word() {
        let refusal = Refusal {
            explanation: "denied: the transit engine refuses encrypt: permission denied; give our token's policy \
                          the capability update on transit/encrypt/keyway"
                .into(),
            ..refusal(Status::Forbidden)
        };
        let told = text(&Failure::refusal(
            "keyspace create prod",
            Some("prod"),
            &refusal,
        ));
        assert!(told.ends_with("update on transit/encrypt/keyway"), "{told}");
        let forbidden = Failure::refusal(
            "sign prod/a",
            Some("prod"),
            &self::refusal(Status::Forbidden),
        );
        assert!(text(&forbidden).contains("keyway keyspace list prod"));
    }

    /// Administration that the policy forbids was answered with the usage of keys.
    #[test]
    fn what_forbids_says_what_allows() {
        let refusal = Refusal {
            explanation: "the keyspace's policy does not give you the right `unlock`".into(),
            ..refusal(Status::Forbidden)
        };
        let told = text(&Failure::refusal("lock prod", Some("prod"), &refusal));
        assert!(told.ends_with("the right `unlock`"), "{told}");
    }

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let error = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(
            Failure::stream("standard output", &error).exit(),
            Exit::Done
        );
    }
}
