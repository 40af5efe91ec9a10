//! The table of docs/PROTOCOL.md, "Statuses of each operation". An answer that is not in it breaks a promise.

use keyway_protocol::{Opcode, Scope, Status};

/// Statuses that every operation can have.
const OF_ALL: &[Status] = &[
    Status::Ok,
    Status::BadRequest,
    Status::Unsupported,
    Status::Overloaded,
    Status::DeadlineExceeded,
    Status::Internal,
];

/// Statuses that every operation that names a keyspace can have.
const OF_KEYSPACE: &[Status] = &[Status::Forbidden, Status::NoKeyspace];

/// Statuses of a use of a key.
const OF_USE: &[Status] = &[
    Status::Retry,
    Status::NeedsUnlock,
    Status::Unavailable,
    Status::NotFound,
    Status::Invalid,
    Status::Revoked,
];

/// Statuses that an operation has in addition.
const fn in_addition(opcode: Opcode) -> &'static [Status] {
    use Status::{
        Conflict, Forbidden, Invalid, Mismatch, NeedsUnlock, NotFound, NotPersisted, Retry,
        Revoked, Unavailable,
    };
    match opcode {
        Opcode::Hello | Opcode::Ping | Opcode::KeyspaceList => &[],
        Opcode::Status => &[Forbidden],
        Opcode::Sign
        | Opcode::Mac
        | Opcode::Encrypt
        | Opcode::Derive
        | Opcode::PublicKey
        | Opcode::Get
        | Opcode::ForceRefresh => OF_USE,
        Opcode::Verify | Opcode::Decrypt => &[
            Retry,
            NeedsUnlock,
            Unavailable,
            NotFound,
            Invalid,
            Revoked,
            Mismatch,
        ],
        Opcode::KeyGenerate | Opcode::KeyImport => &[NeedsUnlock, Unavailable, Conflict, Revoked],
        Opcode::KeyRotate | Opcode::KeyTrim => &[
            NeedsUnlock,
            Unavailable,
            NotFound,
            Invalid,
            Revoked,
            Conflict,
        ],
        Opcode::KeyRevoke => &[Unavailable, NotFound, Revoked, NotPersisted],
        Opcode::KeyDelete => &[Unavailable, NotFound, Conflict],
        Opcode::KeyspaceSet => &[Conflict, Unavailable, NotPersisted],
        Opcode::KeyList | Opcode::KeyspaceHistory | Opcode::KeyspaceHot | Opcode::Unlock => &[],
        Opcode::Lock => &[NotPersisted],
        Opcode::UnlockStatus => &[Unavailable],
        Opcode::KeyspaceRotate | Opcode::KeyspaceRewrap | Opcode::KeyspaceDestroyDeks => {
            &[Conflict, Unavailable]
        }
        Opcode::KeyspaceCreate | Opcode::KmsInit | Opcode::KmsUnlock => {
            &[Forbidden, Conflict, Unavailable]
        }
        Opcode::KmsLock | Opcode::LockAll => &[Forbidden, NotPersisted],
    }
}

/// Returns whether an operation can have a status.
#[must_use]
pub fn is_permitted(opcode: Opcode, status: Status) -> bool {
    let of_keyspace = match opcode.scope() {
        Scope::Server => &[],
        Scope::Keyspace | Scope::Key => OF_KEYSPACE,
    };
    [OF_ALL, of_keyspace, in_addition(opcode)]
        .iter()
        .any(|list| list.contains(&status))
}

/// Returns all pairs that the table permits.
pub fn all_permitted() -> impl Iterator<Item = (Opcode, Status)> {
    let pairs = Opcode::ALL
        .iter()
        .flat_map(|opcode| Status::ALL.iter().map(|status| (*opcode, *status)));
    pairs.filter(|(opcode, status)| is_permitted(*opcode, *status))
}
