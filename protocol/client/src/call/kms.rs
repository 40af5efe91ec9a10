//! Calls about what the KMS does: unlocking, a keyspace's DEKs, the KMS's own key.

use keyway_protocol::{
    KeyspaceName, KmsInit, KmsName, KmsShares, KmsUnlock, Octets, Request, Unlock, UnlockKind,
    decode_deks_destroyed, decode_generation, decode_ticket,
};

use super::{Call, json, nothing};
use crate::answer::Reply;
use crate::{KmsOpening, Secret, UnlockStatus};

/// What an operator gives to unlock a KMS: 1 to 1024 bytes, or nothing.
#[derive(Clone, Copy)]
pub enum UnlockWith<'a> {
    /// Nothing: the KMS needs nothing, or is unlocked already.
    Nothing,
    /// A passphrase.
    Passphrase(&'a [u8]),
    /// A token's PIN.
    Pin(&'a [u8]),
    /// A token's PIN, even if it is the last attempt that the token allows: a wrong one locks it.
    ForcedPin(&'a [u8]),
    /// One share of a secret that several people hold together.
    Share(&'a [u8]),
}

/// How the secret of a new KMS key is kept.
#[derive(Clone, Copy)]
pub enum Custody<'a> {
    /// Under a passphrase of 1 to 1024 bytes.
    Passphrase(&'a [u8]),
    /// In `count` shares, of which any `threshold` open it: `1 <= threshold <= count <= 16`.
    Shares {
        /// Shares to make.
        count: u8,
        /// Shares that open it.
        threshold: u8,
    },
}

impl Call<u64> {
    /// The call that `Client::unlock` makes.
    #[must_use]
    pub fn unlock(keyspace: &KeyspaceName, with: UnlockWith<'_>) -> Self {
        Self::start_unlock(keyspace, with, false)
    }

    /// The call that `Client::unlock_with_retry` makes.
    #[must_use]
    pub fn unlock_with_retry(keyspace: &KeyspaceName, with: UnlockWith<'_>) -> Self {
        Self::start_unlock(keyspace, with, true)
    }

    fn start_unlock(keyspace: &KeyspaceName, with: UnlockWith<'_>, watch: bool) -> Self {
        let (kind, secret) = with.parts();
        let unlock = Unlock {
            kind,
            watch,
            force: with.is_forced(),
            secret,
        };
        Self::to_keyspace(keyspace, &Request::Unlock(unlock), |reply| {
            decode_ticket(&reply.payload).map_err(|error| error.to_string())
        })
    }
}

impl Call<UnlockStatus> {
    /// The call that `Client::unlock_status` makes.
    #[must_use]
    pub fn unlock_status(keyspace: &KeyspaceName, ticket: u64) -> Self {
        Self::to_keyspace(keyspace, &Request::UnlockStatus { ticket }, json)
    }
}

impl Call<()> {
    /// The call that `Client::lock` makes.
    #[must_use]
    pub fn lock(keyspace: &KeyspaceName) -> Self {
        Self::to_keyspace(keyspace, &Request::Lock, nothing)
    }

    /// The call that `Client::kms_lock` makes.
    #[must_use]
    pub fn kms_lock(kms: &KmsName) -> Self {
        Self::to_server(&Request::KmsLock { kms: kms.as_str() }, nothing)
    }

    /// The call that `Client::lock_all` makes.
    #[must_use]
    pub fn lock_all() -> Self {
        Self::to_server(&Request::LockAll, nothing)
    }

    /// The call that `Client::keyspace_rewrap` makes.
    #[must_use]
    pub fn keyspace_rewrap(keyspace: &KeyspaceName, kms: &KmsName) -> Self {
        let request = Request::KeyspaceRewrap { kms: kms.as_str() };
        Self::to_keyspace(keyspace, &request, nothing)
    }
}

impl Call<u32> {
    /// The call that `Client::keyspace_rotate` makes.
    #[must_use]
    pub fn keyspace_rotate(keyspace: &KeyspaceName) -> Self {
        Self::to_keyspace(keyspace, &Request::KeyspaceRotate, |reply| {
            decode_generation(&reply.payload).map_err(|error| error.to_string())
        })
    }

    /// The call that `Client::keyspace_destroy_deks` makes.
    #[must_use]
    pub fn keyspace_destroy_deks(keyspace: &KeyspaceName) -> Self {
        Self::to_keyspace(keyspace, &Request::KeyspaceDestroyDeks, |reply| {
            decode_deks_destroyed(&reply.payload).map_err(|error| error.to_string())
        })
    }
}

impl Call<Vec<Secret>> {
    /// The call that `Client::kms_init` makes.
    #[must_use]
    pub fn kms_init(kms: &KmsName, custody: Custody<'_>) -> Self {
        let init = KmsInit {
            kms: kms.as_str(),
            custody: custody.wire(),
        };
        Self::to_server(&Request::KmsInit(init), shares)
    }
}

impl Call<KmsOpening> {
    /// The call that `Client::kms_unlock` makes.
    #[must_use]
    pub fn kms_unlock(kms: &KmsName, with: UnlockWith<'_>) -> Self {
        let (kind, secret) = with.parts();
        let unlock = KmsUnlock {
            kind,
            force: with.is_forced(),
            kms: kms.as_str(),
            secret,
        };
        Self::to_server(&Request::KmsUnlock(unlock), json)
    }
}

impl<'a> UnlockWith<'a> {
    fn parts(self) -> (UnlockKind, Octets<'a>) {
        match self {
            Self::Nothing => (UnlockKind::Nothing, Octets(b"")),
            Self::Passphrase(secret) => (UnlockKind::Passphrase, Octets(secret)),
            Self::Pin(secret) | Self::ForcedPin(secret) => (UnlockKind::Pin, Octets(secret)),
            Self::Share(secret) => (UnlockKind::Share, Octets(secret)),
        }
    }

    fn is_forced(self) -> bool {
        matches!(self, Self::ForcedPin(_))
    }
}

impl<'a> Custody<'a> {
    fn wire(self) -> keyway_protocol::Custody<'a> {
        match self {
            Self::Passphrase(secret) => keyway_protocol::Custody::Passphrase(Octets(secret)),
            Self::Shares { count, threshold } => {
                keyway_protocol::Custody::Shares { count, threshold }
            }
        }
    }
}

fn shares(reply: &Reply) -> Result<Vec<Secret>, String> {
    let shares = KmsShares::decode(&reply.payload).map_err(|error| error.to_string())?;
    Ok(shares
        .map(|share| Secret::new(share.as_bytes().to_vec()))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prod() -> KeyspaceName {
        "prod".parse().unwrap()
    }

    fn local() -> KmsName {
        "local".parse().unwrap()
    }

    #[test]
    fn a_call_prints_what_it_names_and_nothing_of_its_secret() {
        let secret = b"hunter2";
        let unlock = Call::unlock(&prod(), UnlockWith::Passphrase(secret));
        assert_eq!(format!("{unlock:?}"), "unlock prod");
        let init = Call::kms_init(&local(), Custody::Passphrase(secret));
        assert_eq!(format!("{init:?}"), "kms_init");
        let unlock = Call::kms_unlock(&local(), UnlockWith::Pin(secret));
        assert_eq!(format!("{unlock:?}"), "kms_unlock");
    }

    #[test]
    fn a_secret_that_is_empty_or_too_long_and_shares_out_of_range_are_told_when_sent() {
        let long = [b'x'; 1_025];
        for with in [UnlockWith::Share(b""), UnlockWith::Passphrase(&long)] {
            assert!(Call::unlock(&prod(), with).spec.payload.is_err());
            assert!(Call::kms_unlock(&local(), with).spec.payload.is_err());
        }
        let (count, threshold) = (2, 3);
        for custody in [
            Custody::Passphrase(b""),
            Custody::Shares { count, threshold },
        ] {
            assert!(Call::kms_init(&local(), custody).spec.payload.is_err());
        }
    }
}
