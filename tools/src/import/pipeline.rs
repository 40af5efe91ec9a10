//! A window of imports in flight to the server.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use keyway_client::blocking::Pending;
use keyway_client::{Answer, Call, Error, KeyId, KeyPath, KeyspaceName, Status};

use super::Report;
use super::entry::{Entry, Origin};
use super::source::Source;
use crate::connect::Server;
use crate::failure::Failure;

/// Sending takes this long only while there is no connection. Then what is in flight is settled
/// before more is sent, so that a server that has gone is noticed once, not once for each key of
/// the window.
const SUBMIT_SLOW: Duration = Duration::from_millis(20);

/// So many keys of an import are compared with those behind them: some 100 MB. A second key of the
/// same id as one beyond them is a key that exists already, like any other.
const SETTLED_MAX: usize = 1 << 20;

/// The outcome of an import.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Keys that the server has acknowledged.
    pub imported: u64,
    /// Keys that existed before and were passed over.
    pub existing: u64,
    /// Keys that could not be read or were refused.
    pub failed: u64,
}

/// An import in progress.
pub struct Pipeline<'a> {
    server: &'a Server,
    keyspace: &'a KeyspaceName,
    window: usize,
    skip_existing: bool,
    in_flight: VecDeque<(KeyId, Origin, Pending<()>)>,
    /// Where the keys stand that were imported or there already, to tell two of the same id.
    settled: HashMap<KeyId, Origin>,
    summary: Summary,
    report: Report,
}

impl<'a> Pipeline<'a> {
    /// An import of at most `window` keys at a time.
    pub fn new(
        server: &'a Server,
        keyspace: &'a KeyspaceName,
        window: usize,
        skip_existing: bool,
        report: Report,
    ) -> Self {
        Self {
            server,
            keyspace,
            window,
            skip_existing,
            in_flight: VecDeque::with_capacity(window),
            settled: HashMap::new(),
            summary: Summary::default(),
            report,
        }
    }

    /// Imports everything. A key that is refused is counted and the others go on; a failure that
    /// would meet every key ends the import, after what is in flight has been answered.
    pub fn run(&mut self, source: Source) -> Result<(), Failure> {
        let fed = self.feed(source);
        let drained = self.drain();
        fed.and(drained)
    }

    /// Returns the outcome.
    pub fn into_parts(self) -> (Summary, Report) {
        (self.summary, self.report)
    }

    fn feed(&mut self, mut source: Source) -> Result<(), Failure> {
        while let Some(entry) = source.next()? {
            match entry {
                Ok(entry) => self.submit(entry)?,
                Err(message) => self.failed(&message),
            }
        }
        Ok(())
    }

    fn submit(&mut self, entry: Entry) -> Result<(), Failure> {
        if self.in_flight.len() >= self.window {
            self.settle_oldest()?;
        }
        let key = KeyPath {
            keyspace: self.keyspace.clone(),
            key_id: entry.key_id,
        };
        let call = Call::key_import(
            &key,
            entry.algorithm,
            entry.options,
            entry.format,
            &entry.bytes,
        );
        let started = Instant::now();
        let pending = self.server.client().submit(call);
        self.in_flight
            .push_back((key.key_id, entry.origin, pending));
        if started.elapsed() >= SUBMIT_SLOW {
            return self.drain();
        }
        Ok(())
    }

    /// Settles everything in flight, whatever its outcome: each acknowledgement counts. Returns the first failure.
    fn drain(&mut self) -> Result<(), Failure> {
        let mut result = Ok(());
        while !self.in_flight.is_empty() {
            let settled = self.settle_oldest();
            result = result.and(settled);
        }
        result
    }

    fn settle_oldest(&mut self) -> Result<(), Failure> {
        match self.in_flight.pop_front() {
            Some((key_id, origin, pending)) => self.settle(key_id, origin, pending.wait()),
            None => Ok(()),
        }
    }

    fn settle(
        &mut self,
        key_id: KeyId,
        origin: Origin,
        answer: Result<Answer<()>, Error>,
    ) -> Result<(), Failure> {
        let error = match answer {
            Ok(_) => {
                self.summary.imported += 1;
                let reported = self.report.imported(key_id.as_str());
                if let Some(earlier) = self.settled.get(&key_id) {
                    // That one was refused because this one was at the server before it.
                    self.failed(&collision(&key_id, &origin, earlier));
                }
                self.remember(key_id, origin);
                return reported;
            }
            Err(error) => error,
        };
        if error.status() == Some(Status::Conflict)
            && let Some(first) = self.settled.get(&key_id)
        {
            // It exists because this import made it, or passed over it, from somewhere else.
            self.failed(&collision(&key_id, first, &origin));
            return Ok(());
        }
        if error.status() == Some(Status::Conflict) && self.skip_existing {
            self.summary.existing += 1;
            self.report.existing();
            self.remember(key_id, origin);
            return Ok(());
        }
        if concerns_one_key(&error) {
            self.failed(&format!("{origin}: {error}"));
            return Ok(());
        }
        let doing = match origin {
            Origin::File(_) => format!("import {}/{key_id}", self.keyspace),
            // Not its id, which comes out of the file: see `quote`.
            Origin::Line(number) => format!("{}: line {number}", self.keyspace),
        };
        Err(self
            .server
            .failure(&doing, Some(self.keyspace.as_str()), &error))
    }

    fn remember(&mut self, key_id: KeyId, origin: Origin) {
        if self.settled.len() < SETTLED_MAX {
            self.settled.insert(key_id, origin);
        }
    }

    fn failed(&mut self, message: &str) {
        self.summary.failed += 1;
        self.report.failed(message);
    }
}

/// What is wrong with two keys of the same id, of which `taken` is the key now.
fn collision(key_id: &KeyId, taken: &Origin, other: &Origin) -> String {
    let name = match taken {
        Origin::File(_) => format!("{key_id}: "),
        Origin::Line(_) => String::new(),
    };
    format!(
        "{name}{taken} and {other} make the same key id, and only {taken} is the key now; give \
         the other one another name, and import it again"
    )
}

/// Whether other keys may do better.
fn concerns_one_key(error: &Error) -> bool {
    match error {
        Error::Call(_) => true,
        Error::Refused(refusal) => matches!(
            refusal.status,
            Status::Conflict
                | Status::BadRequest
                | Status::Unsupported
                | Status::Invalid
                | Status::Revoked
        ),
        _ => false,
    }
}
