//! Pairs of operation and status that the protocol permits and no history reaches, with the reason. A run that reaches one
//! of them fails, as does a long one that misses a pair that is not listed.

use keyway_protocol::{Opcode, Status};

/// Operations, statuses, and why none of the operations has any of the statuses.
pub(super) const UNREACHED: &[(&[Opcode], &[Status], &str)] = &[
    (
        &[Opcode::Hello],
        &[
            Status::BadRequest,
            Status::Unsupported,
            Status::Overloaded,
            Status::DeadlineExceeded,
            Status::Internal,
        ],
        "the clients' HELLOs are valid, since another one closes its connection, and are answered where they arrive \
         (tests/server/hostile.rs sends others)",
    ),
    (
        &[Opcode::Ping],
        &[
            Status::Unsupported,
            Status::Overloaded,
            Status::DeadlineExceeded,
            Status::Internal,
        ],
        "it is answered where it arrives, whatever it holds",
    ),
    (
        &[
            Opcode::Sign,
            Opcode::Verify,
            Opcode::Mac,
            Opcode::Encrypt,
            Opcode::Decrypt,
            Opcode::Derive,
            Opcode::PublicKey,
            Opcode::Get,
            Opcode::ForceRefresh,
            Opcode::KeyRotate,
            Opcode::KeyTrim,
        ],
        &[Status::Invalid],
        "no blob of these histories is corrupt; those of the core have corrupt ones, and those of the disk damaged records",
    ),
    (
        &[
            Opcode::Mac,
            Opcode::Encrypt,
            Opcode::Decrypt,
            Opcode::Derive,
            Opcode::PublicKey,
            Opcode::Get,
        ],
        &[Status::Unsupported],
        "a simulated key is of a type for every operation (tests/server/operations.rs uses others)",
    ),
    (
        &[
            Opcode::KeyspaceCreate,
            Opcode::KeyspaceSet,
            Opcode::KeyspaceList,
            Opcode::KeyspaceRotate,
            Opcode::KeyspaceRewrap,
            Opcode::KeyspaceHistory,
            Opcode::KeyspaceDestroyDeks,
            Opcode::KeyRevoke,
            Opcode::KeyList,
            Opcode::KeyTrim,
            Opcode::KeyDelete,
            Opcode::ForceRefresh,
            Opcode::Lock,
            Opcode::UnlockStatus,
            Opcode::Status,
            Opcode::KmsInit,
            Opcode::KmsLock,
            Opcode::LockAll,
        ],
        &[Status::Unsupported],
        "its payload has no id that a server could not know; only a server without the operation answers so",
    ),
    (
        &[
            Opcode::Lock,
            Opcode::KmsLock,
            Opcode::LockAll,
            Opcode::KeyRevoke,
        ],
        &[Status::Overloaded],
        "it takes the reserves, which are larger than what a history asks for (engine/node/tests/shard/stopping.rs fills \
         them)",
    ),
    (
        &[
            Opcode::KeyList,
            Opcode::ForceRefresh,
            Opcode::KeyspaceList,
            Opcode::KeyspaceHistory,
            Opcode::KeyspaceHot,
            Opcode::Unlock,
            Opcode::UnlockStatus,
            Opcode::KmsInit,
            Opcode::KmsUnlock,
        ],
        &[Status::Internal],
        "nothing of it can fail but by a panic, which these histories plant in uses and writes, or after 10 minutes",
    ),
    (
        &[Opcode::KeyRevoke, Opcode::UnlockStatus],
        &[Status::Unavailable],
        "a log that fails makes a revocation NOT_PERSISTED, and an unlock is reported from memory; a server that stops \
         answers UNLOCK_STATUS so, and these processes crash",
    ),
    (
        &[Opcode::KeyspaceDestroyDeks],
        &[Status::Unavailable],
        "a shard that cannot count its blobs has stopped, and these processes crash as a whole",
    ),
    (
        &[Opcode::KmsInit],
        &[Status::Ok],
        "both KMSes have their keys from the start (tests/server/unlock_commands.rs makes one)",
    ),
    (
        &[Opcode::KmsUnlock],
        &[Status::Conflict],
        "every secret that these clients give is right, and complete",
    ),
];

/// Pairs that fewer than one history in 1,000 reaches: a run may miss them. The crowd of requests that fills the places has
/// to be followed by the operation at once.
const RARE: (&[Opcode], Status) = (
    &[
        Opcode::KeyGenerate,
        Opcode::KeyImport,
        Opcode::KeyRotate,
        Opcode::KeyTrim,
        Opcode::KeyDelete,
        Opcode::KeyList,
    ],
    Status::Overloaded,
);

/// Returns whether a run may miss a pair although it can be reached.
pub(super) fn is_rare(opcode: Opcode, status: Status) -> bool {
    let (opcodes, of) = RARE;
    status == of && opcodes.contains(&opcode)
}

/// Returns why a pair is not reached.
pub(super) fn why(opcode: Opcode, status: Status) -> Option<&'static str> {
    UNREACHED
        .iter()
        .find(|(opcodes, statuses, _)| opcodes.contains(&opcode) && statuses.contains(&status))
        .map(|(_, _, why)| *why)
}
