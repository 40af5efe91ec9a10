//! Answers to and from the fields of vectors.

use keyway_protocol::{
    Algorithm, KeyListAnswer, KeyRow, KeyState, KeyVersions, KeyspaceEntry, KeyspaceName,
    KmsShares, Octets, Opcode, ProtocolError, ResponseFlags, ResponseFrame, ResponseHead,
    ResponseWriter, Sealed, ServerHello, ShardMap, Status, decode_deks_destroyed,
    decode_generation, decode_keyspace_id, decode_ticket, encode_deks_destroyed, encode_generation,
    encode_keyspace_id, encode_ticket,
};

use crate::fields::{Fields, Take};

pub fn fields(opcode: Opcode, frame: &ResponseFrame<'_>) -> Result<Fields, ProtocolError> {
    let fields = Fields::default()
        .with_int("opcode", opcode.code())
        .with_int("status", frame.status.code())
        .with_int("flags", frame.flags.bits())
        .with_int("request_id", frame.request_id)
        .with_int("key_version", frame.key_version)
        .with_int("after_us", frame.after_us)
        .with_int("key_age_ms", frame.key_age_ms);
    let payload = frame.payload.bytes();
    Ok(match frame.status {
        Status::NeedsUnlock => fields.with_int("ticket", decode_ticket(payload)?),
        Status::Ok => match opcode {
            Opcode::Hello => with_hello(fields, &ServerHello::decode(payload)?),
            Opcode::Encrypt => {
                let sealed = Sealed::decode(payload)?;
                fields
                    .with_int("sealed_version", sealed.key_version)
                    .with_bytes("nonce", &sealed.nonce)
                    .with_bytes("ciphertext", &sealed.ciphertext)
            }
            Opcode::KeyspaceCreate => {
                fields.with_int("new_keyspace_id", decode_keyspace_id(payload)?)
            }
            Opcode::KeyspaceRotate => fields.with_int("generation", decode_generation(payload)?),
            Opcode::KeyspaceDestroyDeks => {
                fields.with_int("deks_destroyed", decode_deks_destroyed(payload)?)
            }
            Opcode::KmsInit => KmsShares::decode(payload)?.fold(fields, |fields, share| {
                fields.with_bytes("share", share.as_bytes())
            }),
            Opcode::KeyList => with_page(fields, &KeyListAnswer::decode(payload)?),
            Opcode::Unlock => fields.with_int("ticket", decode_ticket(payload)?),
            _ => match plain_name(opcode) {
                Some(name) => fields.with_bytes(name, payload),
                None => {
                    assert!(payload.is_empty(), "{opcode} is answered with nothing");
                    fields
                }
            },
        },
        _ if payload.is_empty() => fields,
        _ => fields.with_bytes("explanation", payload),
    })
}

/// What vectors call an answer without fields of its own; `None` if it is empty.
fn plain_name(opcode: Opcode) -> Option<&'static str> {
    match opcode {
        Opcode::Ping => Some("payload"),
        Opcode::Sign => Some("signature"),
        Opcode::Mac => Some("tag"),
        Opcode::Decrypt => Some("plaintext"),
        Opcode::Derive => Some("derived"),
        Opcode::PublicKey => Some("spki"),
        Opcode::Get => Some("secret"),
        Opcode::KeyspaceList
        | Opcode::KeyspaceHistory
        | Opcode::KeyspaceHot
        | Opcode::UnlockStatus
        | Opcode::Status
        | Opcode::KmsUnlock => Some("json"),
        _ => None,
    }
}

fn with_hello(fields: Fields, hello: &ServerHello) -> Fields {
    let mut fields = fields
        .with_int("version", hello.version)
        .with_int(
            "hello_flags",
            u8::from(hello.dev) | u8::from(hello.more) << 1,
        )
        .with_int("this_shard", hello.this_shard)
        .with_bytes("seed", &hello.map.router.seed())
        .with_int("payload_len_max", hello.payload_len_max);
    for &port in &hello.map.ports {
        fields = fields.with_int("port", port);
    }
    for entry in &hello.keyspaces {
        fields = fields
            .with_int("keyspace_id", entry.id)
            .with_bytes("keyspace_name", entry.name.as_bytes());
    }
    fields
}

fn with_page(fields: Fields, page: &KeyListAnswer<'_>) -> Fields {
    let mut fields = fields.with_bytes("cursor", &page.cursor);
    for row in page.rows {
        fields = fields
            .with_bytes("key_id", row.key_id.as_bytes())
            .with_int("row_version", row.key_version)
            .with_int("row_algorithm", row.algorithm.map_or(0, Algorithm::code))
            .with_int("row_state", row.state.code())
            .with_int("row_oldest", row.versions.map_or(0, |v| v.oldest))
            .with_bytes(
                "row_revoked",
                &row.versions.map_or(0, |v| v.revoked).to_le_bytes(),
            );
    }
    fields
}

/// The frame that a vector's fields stand for, written as a server does.
pub fn encode(fields: &Fields) -> Vec<u8> {
    let mut fields = fields.clone().take();
    let opcode = Opcode::try_from(fields.int("opcode") as u8).unwrap();
    let status = Status::try_from(fields.int("status") as u8).unwrap();
    let flags = ResponseFlags::from_bits(fields.int("flags") as u16).unwrap();
    let request_id = fields.int("request_id");
    let head = ResponseHead {
        status,
        flags,
        key_version: fields.int("key_version") as u32,
        after_us: fields.int("after_us") as u32,
        key_age_ms: fields.int("key_age_ms") as u32,
    };
    let mut out = Vec::new();
    let mut writer = ResponseWriter::begin(&mut out, request_id);
    match status {
        Status::Ok => {
            encode_payload(opcode, &mut fields, writer.payload());
            writer.finish(head);
        }
        Status::NeedsUnlock => writer.finish_needs_unlock(fields.int("ticket")),
        _ if fields.is_empty() => writer.finish(head),
        _ => writer.finish_with_explanation(head, &fields.text("explanation")),
    }
    assert!(fields.is_empty(), "fields are left over");
    out
}

fn encode_payload(opcode: Opcode, fields: &mut Take, out: &mut Vec<u8>) {
    match opcode {
        Opcode::Hello => encode_hello(fields, out),
        Opcode::Encrypt => Sealed {
            key_version: fields.int("sealed_version") as u32,
            nonce: fields.array("nonce"),
            ciphertext: Octets(&fields.bytes("ciphertext")),
        }
        .encode(out)
        .unwrap(),
        Opcode::KeyspaceCreate => encode_keyspace_id(fields.int("new_keyspace_id") as u32, out),
        Opcode::KeyspaceRotate => encode_generation(fields.int("generation") as u32, out),
        Opcode::KeyspaceDestroyDeks => {
            encode_deks_destroyed(fields.int("deks_destroyed") as u32, out);
        }
        Opcode::KmsInit => {
            let mut shares = Vec::new();
            while fields.is_next("share") {
                shares.push(fields.text("share"));
            }
            KmsShares::encode(shares.iter().map(String::as_str), out).unwrap();
        }
        Opcode::KeyList => encode_page(fields, out),
        Opcode::Unlock => encode_ticket(fields.int("ticket"), out),
        _ => {
            if let Some(name) = plain_name(opcode) {
                out.extend(fields.bytes(name));
            }
        }
    }
}

fn encode_hello(fields: &mut Take, out: &mut Vec<u8>) {
    let version = fields.int("version") as u8;
    let flags = fields.int("hello_flags");
    let this_shard = fields.int("this_shard") as u16;
    let seed = fields.array("seed");
    let payload_len_max = fields.int("payload_len_max") as u32;
    let mut ports = Vec::new();
    while fields.is_next("port") {
        ports.push(fields.int("port") as u16);
    }
    let mut keyspaces = Vec::new();
    while fields.is_next("keyspace_id") {
        keyspaces.push(KeyspaceEntry {
            id: fields.int("keyspace_id") as u32,
            name: KeyspaceName::new(&fields.text("keyspace_name")).unwrap(),
        });
    }
    let hello = ServerHello {
        version,
        dev: flags & 1 != 0,
        more: flags & 2 != 0,
        this_shard,
        payload_len_max,
        map: ShardMap::new(seed, ports).unwrap(),
        keyspaces,
    };
    hello.encode(out).unwrap();
}

fn encode_page(fields: &mut Take, out: &mut Vec<u8>) {
    let cursor = fields.bytes("cursor");
    let mut rows = Vec::new();
    while fields.is_next("key_id") {
        rows.push((
            fields.text("key_id"),
            fields.int("row_version") as u32,
            match fields.int("row_algorithm") as u8 {
                0 => None,
                code => Some(Algorithm::try_from(code).unwrap()),
            },
            KeyState::try_from(fields.int("row_state") as u8).unwrap(),
            match (fields.int("row_oldest") as u32, fields.array("row_revoked")) {
                (0, _) => None,
                (oldest, revoked) => Some(KeyVersions {
                    oldest,
                    revoked: u128::from_le_bytes(revoked),
                }),
            },
        ));
    }
    let rows = rows
        .iter()
        .map(|(key_id, key_version, algorithm, state, versions)| KeyRow {
            key_id,
            key_version: *key_version,
            algorithm: *algorithm,
            state: *state,
            versions: *versions,
        });
    KeyListAnswer::encode(&cursor, rows, out).unwrap();
}
