//! Opens a file with shares that may not all belong to it.

use std::sync::Arc;

use tokio::time::Instant;

use super::kek_file::InShares;
use super::keyring::shares_key;
use super::quorum::{choose, numbers};
use super::seal::ProtectionKey;
use super::{Shared, locked_meanwhile};
use crate::shares::{Member, combine};
use crate::{Cause, Class, KmsError, Share};

impl Shared {
    /// Returns the file's key, if some choice of the shares opens it. Otherwise shares that open another file are wiped,
    /// the others stay, and the error describes what can be determined.
    pub(super) fn open_with_shares(
        &self,
        shares: &InShares,
        members: &[Arc<Member>],
    ) -> Result<ProtectionKey, KmsError> {
        let mut strangers = None;
        let opened = choose(members, shares.threshold, |chosen| {
            // The result of a forged share almost certainly fails the digest within the secret.
            combine(chosen).ok()?;
            let key = shares_key(shares, chosen);
            if key.is_err() {
                strangers.get_or_insert_with(|| chosen.to_vec());
            }
            Some((key.ok()?, chosen.to_vec()))
        });
        if let Some((key, chosen)) = opened {
            let is_chosen =
                |one: &&Arc<Member>| chosen.iter().any(|chosen| Arc::ptr_eq(chosen, one));
            let wrong: Vec<_> = members
                .iter()
                .filter(|one| !is_chosen(one))
                .cloned()
                .collect();
            if !wrong.is_empty() {
                tracing::warn!(
                    shares = numbers(&wrong),
                    opened_with = numbers(&chosen),
                    "some of the given shares do not belong to the KEK file: mistaken or forged"
                );
            }
            return Ok(key);
        }
        if let Some(strangers) = strangers {
            self.state().gathering.remove(&strangers);
            return Err(KmsError::new(
                Class::Denied,
                format!(
                    "shares {} belong together and do not open the KEK file: they are of another one, and were wiped",
                    numbers(&strangers)
                ),
                "give the shares that were made with this file; check that the file is the right one",
            )
            .from_cause(Cause::WrongSecret));
        }
        Err(KmsError::new(
            Class::Denied,
            format!(
                "shares {} do not open the KEK file together: at least one was changed or is of another set, \
                 and which one cannot be determined yet",
                numbers(members)
            ),
            "give another share: those given so far stay, and are tried with it",
        )
        .from_cause(Cause::WrongSecret))
    }

    /// Adds one share, and returns all of them.
    pub(super) fn gather(
        &self,
        lock_count: u64,
        shares: &InShares,
        share: &Share,
    ) -> Result<Vec<Arc<Member>>, KmsError> {
        let member = Member::parse(share)?;
        let mut state = self.state();
        if state.lock_count != lock_count {
            return Err(locked_meanwhile());
        }
        state.gathering.add(member, shares.terms(), Instant::now())
    }
}
