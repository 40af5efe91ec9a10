//! Versions of a key that are named: a trimmed one is gone with the answer, and no other.

use super::World;
use super::books::Asked;
use super::plan::{Asks, Key};
use crate::oracle::{Checked, ensure};
use keyway_core::TICK_US;
use keyway_protocol::Status;

/// What a client names is there within so many attempts.
const TRIES_MAX: usize = 12;

impl World<'_> {
    /// Whether a request may be answered NOT_FOUND, and what it breaks otherwise.
    pub(super) fn may_be_not_found(&self, asked: &Asked, asks: Asks) -> (u8, bool) {
        let key = asks.key().and_then(|key| self.books.keys.get(&key));
        let least = key.map_or(0, |key| key.least(asked.sent_at));
        let is_certain = key.is_some_and(|key| key.is_certain() && least > 0);
        match (asks, asks.version()) {
            (Asks::RevokeVersion { version, .. }, _) => (37, !is_certain || version > least),
            (_, Some(version)) => {
                let may_be_trimmed = key.is_some_and(|key| key.may_be_trimmed(version));
                (42, !is_certain || version > least || may_be_trimmed)
            }
            _ => (37, asks.key().is_some() && !is_certain),
        }
    }

    /// Whether a request may be answered REVOKED.
    pub(super) fn may_be_revoked(&self, asks: Asks) -> bool {
        let key = asks.key().and_then(|key| self.books.keys.get(&key));
        key.is_some_and(|key| match asks.version() {
            Some(version) => key.revokes_sent > 0 || key.versions_sent.contains(&version),
            None => key.may_be_revoked(),
        })
    }

    /// At rest: which versions of a key there are, that is there and of which none was revoked.
    pub(super) fn check_versions(&mut self, client: usize, key: Key) -> Checked {
        let newest = self.books.keys.get(&key).map_or(0, |book| book.newest());
        for version in 1..=newest {
            let asks = Asks::Verify {
                key,
                version,
                good: true,
            };
            let status = self.ask_until(client, asks, |status| {
                matches!(status, Status::Ok | Status::NotFound)
            })?;
            let Some(book) = self.books.keys.get(&key) else {
                continue;
            };
            let trimmed = book.trimmed;
            let is_so = match status {
                Some(Status::Ok) => trimmed.is_none_or(|it| version >= it.below),
                Some(Status::NotFound) => book.may_be_trimmed(version),
                _ => false,
            };
            ensure!(
                42,
                is_so,
                "{key:?}: at rest version {version} of {newest} is answered {status:?}; {trimmed:?} was answered"
            );
        }
        Ok(())
    }

    /// Asks until the status is one of those that are awaited. Returns the last one.
    pub(super) fn ask_until(
        &mut self,
        client: usize,
        asks: Asks,
        is_it: impl Fn(Status) -> bool,
    ) -> Checked<Option<Status>> {
        let mut status = None;
        for _ in 0..TRIES_MAX {
            let request = self.ask(client, asks, 0);
            self.advance(50 * TICK_US)?;
            let asked = self.books.requests.get(&request);
            let answered = asked.and_then(|asked| asked.answered);
            status = answered.map(|(status, _)| status);
            if status.is_some_and(&is_it) {
                break;
            }
        }
        Ok(status)
    }
}
