//! Request frames of a script's choosing: any operation, with a payload that fits it or one that does not.

use std::sync::LazyLock;

use keyway_protocol::limits::PAYLOAD_LEN_MAX;
use keyway_protocol::{
    Algorithm, Encrypt, Hello, InputKind, KeyGenerate, KeyList, KeyRevoke, KeyRotate, KeyTrim,
    NewKey, Octets, Opcode, Request, RequestFrame, Scheme, Scope, Sign, Usage,
};

use super::port::KEYSPACES;
use super::site::router;
use crate::script::Script;

/// Keys by what the port says of them: live ones, one that is missing, revoked, deleted, damaged. The last one is another
/// shard's.
static KEY_IDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let kinds = ["a", "b", "new", "revoked", "deleted", "x"];
    let ours = kinds.map(|kind| owned(kind, 0));
    ours.into_iter().chain([owned("a", 1)]).collect()
});

/// A key id of a shard, whichever the keyspace.
fn owned(kind: &str, shard: u16) -> Vec<u8> {
    let router = router();
    let mut names = (0..).map(|number| format!("{kind}{number}").into_bytes());
    let is_owned = |name: &Vec<u8>| {
        (1..=KEYSPACES as u32).all(|keyspace| router.shard_of(keyspace, name) == shard)
    };
    names.find(is_owned).unwrap_or_default()
}

const DEADLINES_US: [u32; 6] = [0, 0, 1, 1_000, 50_000, 5_000_000];

/// Appends one frame.
pub(super) fn append(script: &mut Script<'_>, request_id: u64, out: &mut Vec<u8>) {
    let operation = script.u8();
    let shape = script.u8();
    let opcode = Opcode::ALL[usize::from(operation) % Opcode::ALL.len()];
    let code = if shape & 0xc0 == 0xc0 {
        operation
    } else {
        opcode.code()
    };
    let scope = opcode.scope();
    let keyspace_id = match (scope, shape & 3) {
        (Scope::Server, 0..3) => 0,
        (_, which) => u32::from(which) + u32::from(which == 0),
    };
    let key_id = match (scope, shape & 0x1c) {
        (Scope::Key, 0x1c) => script.bytes(9),
        (Scope::Key, which) => &KEY_IDS[usize::from(which >> 2)],
        (_, 0x1c) => b"a",
        _ => b"",
    };
    let mut payload = Vec::new();
    match shape & 0x20 {
        0 => fitting(script, opcode, &mut payload),
        _ => {
            let len = script.below(256);
            payload = script
                .bytes(len)
                .repeat(1 + usize::from(script.u8() & 7) * 30);
            payload.truncate(PAYLOAD_LEN_MAX);
        }
    }
    let deadline_us = DEADLINES_US[usize::from(script.u8()) % DEADLINES_US.len()];
    let frame = RequestFrame {
        code,
        request_id,
        keyspace_id,
        deadline_us,
        key_id: Octets(key_id),
        payload: Octets(&payload),
    };
    let encoded = frame.encode(out);
    encoded.expect("the lengths are within their limits");
}

/// A payload that the operation may have.
fn fitting(script: &mut Script<'_>, opcode: Opcode, out: &mut Vec<u8>) {
    let choice = script.u8();
    let version = u32::from(choice & 3);
    let new_key = NewKey {
        algorithm: Algorithm::ALL
            .get(usize::from(choice) % (Algorithm::ALL.len() + 1))
            .copied(),
        exportable: choice & 0x40 != 0,
        usage: Usage::default(),
        not_after_unix_ms: 0,
    };
    let input = [choice; 24];
    let request = match opcode {
        Opcode::Hello => Request::Hello(Hello {
            version_min: 1,
            version_max: if choice == 9 { 0 } else { 1 },
            client_name: "fuzz",
        }),
        Opcode::Sign => Request::Sign(Sign {
            scheme: Scheme::Default,
            kind: InputKind::Message,
            input: Octets(&input),
        }),
        Opcode::Mac => Request::Mac(Octets(&input)),
        Opcode::Encrypt => Request::Encrypt(Encrypt {
            aad: Octets(&input[..4]),
            plaintext: Octets(&input),
        }),
        Opcode::PublicKey => Request::PublicKey {
            key_version: version,
        },
        Opcode::Get => Request::Get {
            key_version: version,
        },
        Opcode::KeyGenerate => Request::KeyGenerate(KeyGenerate { new_key }),
        Opcode::KeyRotate => Request::KeyRotate(KeyRotate { material: None }),
        Opcode::KeyRevoke => Request::KeyRevoke(KeyRevoke {
            key_version: version,
        }),
        Opcode::KeyTrim => Request::KeyTrim(KeyTrim { below: version }),
        Opcode::KeyList => Request::KeyList(KeyList {
            shard: u16::from(choice & 3),
            limit: u16::from(choice),
            cursor: Octets(&input[..usize::from(choice & 4)]),
        }),
        Opcode::KeyspaceSet => return out.extend_from_slice(setting(choice)),
        Opcode::KeyspaceRewrap | Opcode::KmsLock => return out.extend_from_slice(b"local"),
        Opcode::UnlockStatus => return out.extend_from_slice(&u64::from(choice).to_le_bytes()),
        Opcode::Status => return out.extend_from_slice(&[]),
        Opcode::Ping => return out.extend_from_slice(&input),
        _ => return,
    };
    // What the protocol does not allow is sent as nothing at all.
    if request.encode_payload(out).is_err() {
        out.clear();
    }
}

fn setting(choice: u8) -> &'static [u8] {
    match choice % 6 {
        0 => b"allow:uid:1000=none\n",
        1 => b"allow:uid:1000=sign,mac\n",
        2 => b"sign_wait_budget_us=1000\n",
        3 => b"allow:anonymous=all\nfor_ms=1000\n",
        4 => b"soft_ttl_ms=1000\nhard_ttl_ms=2000\n",
        _ => b"allow:\n",
    }
}
