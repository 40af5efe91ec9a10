//! What can be asked.

use crate::Grants;
use crate::wire_enum::wire_enum;

wire_enum! {
    /// An operation.
    pub enum Opcode, "opcode" {
        /// Negotiate the version, learn the shard map and the keyspaces. The first of a connection.
        Hello = 0x01, "hello";
        /// The same bytes back.
        Ping = 0x02, "ping";
        /// Make a signature.
        Sign = 0x10, "sign";
        /// Verify a signature or a MAC.
        Verify = 0x11, "verify";
        /// Make a MAC.
        Mac = 0x12, "mac";
        /// Encrypt with associated data.
        Encrypt = 0x13, "encrypt";
        /// Decrypt what ENCRYPT gave.
        Decrypt = 0x14, "decrypt";
        /// Derive bytes.
        Derive = 0x15, "derive";
        /// The public key.
        PublicKey = 0x16, "public_key";
        /// The secret of an exportable key.
        Get = 0x17, "get";
        /// Make a keyspace.
        KeyspaceCreate = 0x20, "keyspace_create";
        /// Change a keyspace's settings.
        KeyspaceSet = 0x21, "keyspace_set";
        /// List keyspaces.
        KeyspaceList = 0x22, "keyspace_list";
        /// Give a keyspace a new DEK.
        KeyspaceRotate = 0x23, "keyspace_rotate";
        /// Move a keyspace's wrapped DEKs to another KMS.
        KeyspaceRewrap = 0x24, "keyspace_rewrap";
        /// What was changed of a keyspace, when and by whom.
        KeyspaceHistory = 0x25, "keyspace_history";
        /// A keyspace's hot keys.
        KeyspaceHot = 0x26, "keyspace_hot";
        /// Destroy a keyspace's retired DEKs.
        KeyspaceDestroyDeks = 0x27, "keyspace_destroy_deks";
        /// Make a key.
        KeyGenerate = 0x28, "key_generate";
        /// Bring a key.
        KeyImport = 0x29, "key_import";
        /// Generate or import a key's next version.
        KeyRotate = 0x2a, "key_rotate";
        /// Revoke a key, or one version of it, permanently.
        KeyRevoke = 0x2b, "key_revoke";
        /// List one shard's keys of a keyspace.
        KeyList = 0x2c, "key_list";
        /// Remove a key's versions below a number.
        KeyTrim = 0x2d, "key_trim";
        /// Delete a revoked key.
        KeyDelete = 0x2e, "key_delete";
        /// Reload a key, whatever its age.
        ForceRefresh = 0x30, "force_refresh";
        /// Wipe a keyspace's plaintext and lease immediately.
        Lock = 0x31, "lock";
        /// Start to unlock a keyspace.
        Unlock = 0x32, "unlock";
        /// How an unlock is going.
        UnlockStatus = 0x33, "unlock_status";
        /// How the server is doing.
        Status = 0x34, "status";
        /// Have a KMS make its key.
        KmsInit = 0x35, "kms_init";
        /// Unlock a KMS, or give it a share.
        KmsUnlock = 0x36, "kms_unlock";
        /// Wipe what a KMS holds in memory, and lock the keyspaces that it wraps.
        KmsLock = 0x37, "kms_lock";
        /// Lock every keyspace and every KMS.
        LockAll = 0x38, "lock_all";
    }
}

/// What a request names besides its operation. The fields it does not name are zero or empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Nothing: any shard answers.
    Server,
    /// A keyspace: any shard answers.
    Keyspace,
    /// A keyspace and a key: the key's shard answers.
    Key,
}

impl Opcode {
    /// What a request of this operation names.
    #[must_use]
    pub const fn scope(self) -> Scope {
        match self {
            Self::Hello
            | Self::Ping
            | Self::KeyspaceCreate
            | Self::KeyspaceList
            | Self::Status
            | Self::KmsInit
            | Self::KmsUnlock
            | Self::KmsLock
            | Self::LockAll => Scope::Server,
            Self::KeyspaceSet
            | Self::KeyspaceRotate
            | Self::KeyspaceRewrap
            | Self::KeyspaceHistory
            | Self::KeyspaceHot
            | Self::KeyspaceDestroyDeks
            | Self::KeyList
            | Self::Lock
            | Self::Unlock
            | Self::UnlockStatus => Scope::Keyspace,
            Self::Sign
            | Self::Verify
            | Self::Mac
            | Self::Encrypt
            | Self::Decrypt
            | Self::Derive
            | Self::PublicKey
            | Self::Get
            | Self::KeyGenerate
            | Self::KeyImport
            | Self::KeyRotate
            | Self::KeyRevoke
            | Self::KeyTrim
            | Self::KeyDelete
            | Self::ForceRefresh => Scope::Key,
        }
    }

    /// Whether the operation changes something that stays. A write that got no answer may have
    /// been done or not, and must not be sent again without asking.
    #[must_use]
    pub const fn is_write(self) -> bool {
        matches!(
            self,
            Self::KeyspaceCreate
                | Self::KeyspaceSet
                | Self::KeyspaceRotate
                | Self::KeyspaceRewrap
                | Self::KeyspaceDestroyDeks
                | Self::KeyGenerate
                | Self::KeyImport
                | Self::KeyRotate
                | Self::KeyRevoke
                | Self::KeyTrim
                | Self::KeyDelete
                | Self::Lock
                | Self::Unlock
                | Self::KmsInit
                | Self::KmsUnlock
                | Self::KmsLock
                | Self::LockAll
        )
    }

    /// Returns `true` if the request's payload may hold a secret. Buffers of it should be wiped.
    #[must_use]
    pub const fn request_is_secret(self) -> bool {
        matches!(
            self,
            Self::KeyImport
                | Self::KeyRotate
                | Self::Unlock
                | Self::KmsInit
                | Self::KmsUnlock
                | Self::Encrypt
        )
    }

    /// Returns `true` if the payload of the OK answer holds a secret. Buffers of it should be wiped.
    #[must_use]
    pub const fn answer_is_secret(self) -> bool {
        matches!(
            self,
            Self::Get | Self::Derive | Self::Decrypt | Self::KmsInit
        )
    }

    /// Returns the grants of which a principal needs one. None: the operation needs no grant. Operations on the server or
    /// a KMS are for the server's user and root, whatever this returns.
    ///
    /// KEYSPACE_LIST and HELLO show only the keyspaces in which the principal has a grant.
    #[must_use]
    pub const fn grants(self) -> Grants {
        match self {
            Self::Hello | Self::Ping | Self::KeyspaceList | Self::Status => Grants::NONE,
            Self::Sign => Grants::SIGN,
            // A principal that can make MACs can compare them; verifying a signature with a public
            // key that `sign` gives access to reveals nothing more.
            Self::Verify => Grants::VERIFY.union(Grants::MAC),
            Self::PublicKey => Grants::VERIFY.union(Grants::SIGN),
            Self::Mac => Grants::MAC,
            Self::Encrypt => Grants::ENCRYPT,
            Self::Decrypt => Grants::DECRYPT,
            Self::Derive => Grants::DERIVE,
            Self::Get => Grants::GET,
            Self::KeyspaceCreate
            | Self::KeyspaceSet
            | Self::KeyspaceRotate
            | Self::KeyspaceRewrap
            | Self::KeyspaceDestroyDeks
            | Self::KeyspaceHistory
            | Self::KeyGenerate
            | Self::KeyImport
            | Self::KeyRotate
            | Self::KeyRevoke
            | Self::KeyTrim
            | Self::KeyDelete
            | Self::KeyList
            | Self::KeyspaceHot
            | Self::ForceRefresh
            | Self::KmsInit
            | Self::KmsUnlock => Grants::MANAGE,
            Self::Lock | Self::Unlock | Self::UnlockStatus | Self::KmsLock | Self::LockAll => {
                Grants::UNLOCK
            }
        }
    }
}
