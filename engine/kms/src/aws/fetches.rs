//! Counts fetches of credentials: a session from STS, a container or an instance role costs a call whenever it expires,
//! which the forecast of calls must include.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use aws_sdk_kms::config::Credentials;

use super::classify::no_credentials;
use crate::KmsError;
use crate::service::{Counters, KmsOperation, KmsOutcome};

/// The fetches so far, over all connections.
#[derive(Clone, Debug, Default)]
pub(super) struct Fetches(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    calls: Counters,
    /// Lifetime of the latest credentials from their fetch, in s; 0 if they do not expire.
    lifetime_s: u64,
}

impl Fetches {
    /// Returns the provider with its fetches counted here.
    pub(super) fn of(&self, source: SharedCredentialsProvider) -> SharedCredentialsProvider {
        SharedCredentialsProvider::new(Counted {
            source,
            fetches: self.clone(),
        })
    }

    pub(super) fn calls(&self) -> Counters {
        self.state().calls
    }

    /// Returns the fetches per hour: one for each lifetime of the credentials.
    pub(super) fn per_hour(&self) -> f64 {
        match self.state().lifetime_s {
            0 => 0.0,
            lifetime_s => 3600.0 / lifetime_s as f64,
        }
    }

    fn note(&self, result: &provider::Result, now: SystemTime) {
        let mut state = self.state();
        let outcome = match result {
            Ok(credentials) => {
                let left = credentials.expiry().map(|end| end.duration_since(now));
                state.lifetime_s = match left {
                    Some(left) => left.map_or(1, |left| left.as_secs().max(1)),
                    // From a file or the environment, which costs no call.
                    None => {
                        state.lifetime_s = 0;
                        return;
                    }
                };
                KmsOutcome::Ok
            }
            Err(error) => {
                let (class, cause, what, remedy) = no_credentials(error);
                KmsOutcome::of(&KmsError::new(class, what, remedy).from_cause(cause))
            }
        };
        state.calls.add(KmsOperation::Login, outcome);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Only complete values are stored there.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct Counted {
    source: SharedCredentialsProvider,
    fetches: Fetches,
}

impl ProvideCredentials for Counted {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async move {
            let result = self.source.provide_credentials().await;
            self.fetches.note(&result, SystemTime::now());
            result
        })
    }

    fn fallback_on_interrupt(&self) -> Option<Credentials> {
        self.source.fallback_on_interrupt()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use aws_credential_types::provider::error::CredentialsError;

    use super::*;

    #[test]
    fn what_ends_was_fetched_and_what_does_not_was_read() {
        let fetches = Fetches::default();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000);
        let until = |end_s| {
            let end = SystemTime::UNIX_EPOCH + Duration::from_secs(end_s);
            Credentials::new("id", "none", None, Some(end), "test")
        };
        let count = |outcome| fetches.calls().count(KmsOperation::Login, outcome);
        fetches.note(&Ok(until(1_900)), now);
        assert_eq!((count(KmsOutcome::Ok), fetches.per_hour()), (1, 4.0));
        fetches.note(&Ok(until(900)), now);
        assert_eq!((count(KmsOutcome::Ok), fetches.per_hour()), (2, 3600.0));
        fetches.note(&Ok(Credentials::new("id", "none", None, None, "test")), now);
        assert_eq!((count(KmsOutcome::Ok), fetches.per_hour()), (2, 0.0));
        let refused = CredentialsError::provider_error("AccessDenied");
        fetches.note(&Err(refused), now);
        assert_eq!(count(KmsOutcome::Credential), 1);
    }
}
