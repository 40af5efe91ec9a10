//! How a request ended.

use crate::wire_enum::wire_enum;

wire_enum! {
    /// The status of an answer.
    pub enum Status, "status" {
        /// Done.
        Ok = 0, "ok";
        /// The key is being loaded: retry after the hint.
        Retry = 1, "retry";
        /// The keyspace is locked or has no lease on its data key; the payload is a ticket.
        NeedsUnlock = 2, "needs_unlock";
        /// The request waited for the KMS without success, or the store is unavailable: retry later.
        Unavailable = 3, "unavailable";
        /// A queue is full: retry after the hint, or send less.
        Overloaded = 4, "overloaded";
        /// There is no such key.
        NotFound = 5, "not_found";
        /// The stored key cannot be opened.
        Invalid = 6, "invalid";
        /// The key has been revoked.
        Revoked = 7, "revoked";
        /// The principal, or the key's usage, does not allow this.
        Forbidden = 8, "forbidden";
        /// The request breaks a rule of the protocol.
        BadRequest = 9, "bad_request";
        /// Wrong type of key, unknown scheme, unknown operation.
        Unsupported = 10, "unsupported";
        /// The deadline had passed before there was an answer.
        DeadlineExceeded = 11, "deadline_exceeded";
        /// The signature, tag or ciphertext does not verify.
        Mismatch = 12, "mismatch";
        /// It exists already.
        Conflict = 13, "conflict";
        /// There is no such keyspace.
        NoKeyspace = 14, "no_keyspace";
        /// The server's own fault.
        Internal = 15, "internal";
        /// What the command takes away is in force everywhere, but could not be written: a restart would undo it. The
        /// server keeps trying.
        NotPersisted = 16, "not_persisted";
    }
}

impl Status {
    /// Returns `true` if `after_us` of the answer specifies when to retry.
    #[must_use]
    pub const fn has_hint(self) -> bool {
        matches!(self, Self::Retry | Self::Unavailable | Self::Overloaded)
    }
}
