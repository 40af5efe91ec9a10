//! A refusal because a right is missing names it, and giving it helps.
//!
//! A user who was not allowed to lock was sent to the right `manage`, which does not allow it, and the command line spoke of
//! the key's usage.

#![allow(clippy::unwrap_used, reason = "a test may fail where it stands")]

use keyway_client::{Algorithm, Status};
use keyway_protocol::Opcode;

use crate::bounds::{operator, production};
use crate::common::prod;
use crate::hostile::{Raw, frame};

/// Operations on a keyspace or a key, with payloads that are well-formed.
fn requests() -> Vec<(Opcode, &'static [u8], Vec<u8>)> {
    let ed25519 = Algorithm::Ed25519.code();
    let generate = [&[ed25519, 0, 0, 0][..], &[0; 8]].concat();
    let key: &[u8] = b"key";
    vec![
        (Opcode::Sign, key, b"\0\0\0\0m".to_vec()),
        (Opcode::Verify, key, b"\0\0\x01\0\0\0\0\0sm".to_vec()),
        (Opcode::Mac, key, b"\0\0\0\0m".to_vec()),
        (Opcode::Encrypt, key, [&[0; 4][..], b"text"].concat()),
        (
            Opcode::Decrypt,
            key,
            [&[0, 0, 0, 0, 1, 0, 0, 0][..], &[0; 32]].concat(),
        ),
        (Opcode::Derive, key, vec![32, 0, 0, 0]),
        (Opcode::Get, key, vec![0; 4]),
        (Opcode::PublicKey, key, vec![0; 4]),
        (Opcode::KeyGenerate, key, generate),
        (Opcode::KeyRotate, key, vec![]),
        (Opcode::KeyRevoke, key, vec![]),
        (Opcode::KeyTrim, key, vec![1, 0, 0, 0]),
        (Opcode::KeyDelete, key, vec![]),
        (Opcode::KeyList, b"", vec![0; 4]),
        (Opcode::ForceRefresh, key, vec![]),
        (Opcode::KeyspaceHistory, b"", vec![]),
        (Opcode::KeyspaceHot, b"", vec![0; 4]),
        (Opcode::KeyspaceSet, b"", b"max_in_flight=64\n".to_vec()),
        (Opcode::KeyspaceRotate, b"", vec![]),
        (Opcode::Unlock, b"", vec![0, 0]),
        (Opcode::UnlockStatus, b"", 1_u64.to_le_bytes().to_vec()),
        (Opcode::Lock, b"", vec![]),
    ]
}

#[test]
fn the_right_that_a_refusal_names_is_the_one_that_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let server = production(&dir, &[], &[]);
    let owner = operator(&server);
    let id = owner.keyspace_list().unwrap()[0].id;
    for (opcode, key, payload) in requests() {
        let ask = |number| {
            let mut stranger = Raw::greeted(&server.address());
            let (_, status, text) = stranger.ask(&frame(opcode.code(), number, id, key, &payload));
            (status, String::from_utf8_lossy(&text).into_owned())
        };
        let (status, text) = ask(1);
        assert_eq!(status, Status::Forbidden, "{opcode:?}: {text}");
        let remedy = text.split('`').find(|part| part.starts_with("keyway "));
        let remedy = remedy.unwrap_or_else(|| panic!("{opcode:?}: {text}"));
        let right = remedy
            .strip_prefix("keyway keyspace set KEYSPACE allow:PRINCIPAL=")
            .unwrap_or_else(|| panic!("{opcode:?}: {text}"));
        assert!(text.contains("`anonymous`"), "{text}");
        owner
            .keyspace_set(&prod(), &[("allow:anonymous", right)])
            .unwrap();
        let (status, text) = ask(2);
        assert_ne!(status, Status::Forbidden, "{opcode:?} with {right}: {text}");
        assert_ne!(status, Status::BadRequest, "{opcode:?}: {text}");
        owner
            .keyspace_set(&prod(), &[("allow:anonymous", "none")])
            .unwrap();
    }
}

#[test]
fn what_no_right_allows_sends_to_the_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let server = production(&dir, &[], &[("allow:anonymous", "manage,unlock")]);
    let mut stranger = Raw::greeted(&server.address());
    let requests: [(Opcode, &[u8]); 4] = [
        (Opcode::Status, b""),
        (Opcode::KeyspaceCreate, b"other\n"),
        (Opcode::LockAll, b""),
        (Opcode::KmsLock, b"local"),
    ];
    for (opcode, payload) in requests {
        let (_, status, text) = stranger.ask(&frame(opcode.code(), 1, 0, b"", payload));
        let text = String::from_utf8_lossy(&text).into_owned();
        assert_eq!(status, Status::Forbidden, "{opcode:?}: {text}");
        assert!(text.contains("--addr unix:PATH"), "{opcode:?}: {text}");
    }
    let owner = operator(&server);
    owner.status().unwrap();
    owner
        .keyspace_create(&"other".parse().unwrap(), &[])
        .unwrap();
    owner.lock_all().unwrap();
}
