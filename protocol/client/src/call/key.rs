//! Calls that take something away from a key.

use keyway_protocol::{KeyPath, KeyRevoke, KeyTrim, Request};

use super::{Call, nothing};

impl Call<()> {
    /// The call that `Client::key_revoke` makes.
    #[must_use]
    pub fn key_revoke(key: &KeyPath) -> Self {
        Self::key_revoke_version(key, 0)
    }

    /// The call that `Client::key_revoke_version` makes.
    #[must_use]
    pub fn key_revoke_version(key: &KeyPath, key_version: u32) -> Self {
        Self::to_key(key, &Request::KeyRevoke(KeyRevoke { key_version }), nothing)
    }

    /// The call that `Client::key_trim` makes.
    #[must_use]
    pub fn key_trim(key: &KeyPath, below: u32) -> Self {
        Self::to_key(key, &Request::KeyTrim(KeyTrim { below }), nothing)
    }

    /// The call that `Client::key_delete` makes.
    #[must_use]
    pub fn key_delete(key: &KeyPath) -> Self {
        Self::to_key(key, &Request::KeyDelete, nothing)
    }
}
