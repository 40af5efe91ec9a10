//! Refused logins, and when the next one may be made.

use std::time::{Duration, Instant};

use super::settings::VaultAuth;
use crate::stamp::Stamp;
use crate::{Class, KmsError};

/// AppRole: OpenBao and Vault lock a role out for 15 minutes at the fifth refusal with less than 15 minutes between two.
/// The waits are so long that two servers with one role stay below that.
const APPROLE_WAITS: [Duration; 2] = [Duration::from_secs(60), Duration::from_secs(16 * 60)];
/// Tokens and certificates are not locked out, so only the server's load matters.
const OTHER_WAIT_MIN: Duration = Duration::from_secs(1);
const OTHER_WAIT_MAX: Duration = Duration::from_secs(30);

/// The consecutive refusals. One refused login counts for all calls.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    count: u32,
    latest: Option<Refusal>,
}

#[derive(Debug)]
struct Refusal {
    error: KmsError,
    /// State of the files with which it was made: others may succeed.
    stamp: Stamp,
    until: Instant,
}

impl Refusals {
    /// Returns why no login may be made now with files of this state.
    pub(super) fn bar(&self, stamp: &Stamp) -> Option<KmsError> {
        let latest = self.latest.as_ref()?;
        let left = latest.until.checked_duration_since(Instant::now())?;
        if latest.stamp != *stamp {
            return None;
        }
        let what = format!(
            "{}; the next login is tried in {} s, or when its files change",
            latest.error.what(),
            left.as_secs() + 1
        );
        let error = KmsError::new(latest.error.class(), what, latest.error.remedy());
        Some(error.from_cause(latest.error.cause()))
    }

    /// Records how a login failed. Only a decision of the server blocks the next one.
    pub(super) fn note(&mut self, error: &KmsError, stamp: Stamp, method: &VaultAuth) {
        if !matches!(error.class(), Class::Credential | Class::Misconfigured) {
            return;
        }
        if self
            .latest
            .as_ref()
            .is_some_and(|latest| latest.stamp != stamp)
        {
            self.count = 0;
        }
        let wait = match method {
            VaultAuth::Approle { .. } => {
                APPROLE_WAITS[(self.count as usize).min(APPROLE_WAITS.len() - 1)]
            }
            VaultAuth::Token { .. } | VaultAuth::Cert { .. } => {
                (OTHER_WAIT_MIN * (1 << self.count.min(16))).min(OTHER_WAIT_MAX)
            }
        };
        self.count = self.count.saturating_add(1);
        self.latest = Some(Refusal {
            error: error.clone(),
            stamp,
            until: Instant::now() + wait,
        });
    }

    /// Clears the refusals, because a login has succeeded, or an operator requests one.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
