//! A token and its duration.

use std::time::{Duration, Instant};

use hyper::header::HeaderValue;

use crate::KmsError;
use crate::stamp::Stamp;

/// Shortest and longest wait before the next attempt to renew a token that could not be renewed. It doubles in between.
const RENEW_WAIT_MIN: Duration = Duration::from_secs(1);
const RENEW_WAIT_MAX: Duration = Duration::from_secs(30);
/// Doublings after which the wait no longer grows.
const RENEW_DOUBLINGS_MAX: u32 = 5;

/// A token and its duration.
#[derive(Clone)]
pub(super) struct Session {
    /// Wiped when its last clone is dropped.
    pub(super) token: HeaderValue,
    /// Counts logins and renewals, to determine which of two is newer.
    pub(super) serial: u64,
    /// The serial number of the login that it comes from; 0 until it is stored.
    pub(super) login: u64,
    /// State of the files with which the login was made.
    pub(super) stamp: Stamp,
    /// When the request that created it was sent.
    pub(super) since: Instant,
    /// `None` if it has no known end.
    pub(super) ttl: Option<Duration>,
    /// When to renew it, or log in again.
    pub(super) due: Option<Instant>,
    pub(super) can_renew: bool,
    /// Consecutive failed renewals.
    pub(super) failed_count: u32,
}

impl Session {
    pub(super) fn new(token: HeaderValue, since: Instant, ttl_s: u64, can_renew: bool) -> Self {
        let ttl = (ttl_s > 0).then(|| Duration::from_secs(ttl_s));
        Self {
            token,
            serial: 0,
            login: 0,
            stamp: Stamp::default(),
            since,
            ttl,
            due: ttl.and_then(|ttl| since.checked_add(ttl / 2)),
            can_renew,
            failed_count: 0,
        }
    }

    pub(super) fn token(&self) -> &HeaderValue {
        &self.token
    }

    /// Returns the session after a renewal that failed. The old token still works: an outage, or a role that was removed,
    /// must not end its use early.
    pub(super) fn kept(self, error: &KmsError, can_renew: bool) -> Self {
        let now = Instant::now();
        let ends = self.ttl.and_then(|ttl| self.since.checked_add(ttl));
        let left = ends.map(|ends| ends.saturating_duration_since(now));
        if self.failed_count == 0 {
            tracing::warn!(
                ends_in_s = left.map(|left| left.as_secs()),
                %error,
                "the login could not be renewed; the token from before stays in use until its end"
            );
        }
        let wait = RENEW_WAIT_MIN * (1 << self.failed_count.min(RENEW_DOUBLINGS_MAX));
        let wait = wait.min(RENEW_WAIT_MAX);
        // There is another attempt before the end.
        let wait = left
            .map_or(wait, |left| wait.min(left / 2))
            .max(RENEW_WAIT_MIN);
        Self {
            due: now.checked_add(wait),
            can_renew,
            failed_count: self.failed_count.saturating_add(1),
            ..self
        }
    }

    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.ttl
            .is_some_and(|ttl| now.saturating_duration_since(self.since) >= ttl)
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| now >= due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_due_at_half_of_its_time_and_over_at_its_end() {
        let token = HeaderValue::from_static("s.abc");
        let since = Instant::now();
        let session = Session::new(token.clone(), since, 10, true);
        let after = |s| since + Duration::from_secs(s);
        assert!(!session.is_due(after(4)) && !session.is_over(after(4)));
        assert!(session.is_due(after(5)) && !session.is_over(after(9)));
        assert!(session.is_over(after(10)));
        let endless = Session::new(token, since, 0, false);
        assert!(!endless.is_due(after(1_000_000)) && !endless.is_over(after(1_000_000)));
    }
}
