//! Requests to and from the fields of vectors.

use keyway_protocol::{
    Algorithm, Custody, Decrypt, Derive, Encrypt, Hello, HotBy, InputKind, KeyFormat, KeyGenerate,
    KeyImport, KeyList, KeyRevoke, KeyRotate, KeyTrim, KeyspaceCreate, KeyspaceHot, KmsInit,
    KmsUnlock, Material, NewKey, Octets, Opcode, Request, RequestFrame, Scheme, Sealed, Settings,
    Sign, Unlock, UnlockKind, Usage, Verify,
};

use crate::fields::{Fields, Take};

pub fn fields(frame: &RequestFrame<'_>, request: &Request<'_>) -> Fields {
    let fields = Fields::default()
        .with_int("opcode", frame.code)
        .with_int("request_id", frame.request_id)
        .with_int("keyspace_id", frame.keyspace_id)
        .with_int("deadline_us", frame.deadline_us)
        .with_bytes("key_id", &frame.key_id);
    match request {
        Request::Hello(hello) => fields
            .with_int("version_min", hello.version_min)
            .with_int("version_max", hello.version_max)
            .with_bytes("client_name", hello.client_name.as_bytes()),
        Request::Ping(payload) => fields.with_bytes("payload", payload),
        Request::Sign(sign) => fields
            .with_int("scheme", sign.scheme.code())
            .with_int("input_kind", sign.kind.code())
            .with_bytes("input", &sign.input),
        Request::Verify(verify) => fields
            .with_int("scheme", verify.scheme.code())
            .with_int("input_kind", verify.kind.code())
            .with_int("version", verify.key_version)
            .with_bytes("signature", &verify.signature)
            .with_bytes("input", &verify.input),
        Request::Mac(message) => fields.with_bytes("message", message),
        Request::Encrypt(encrypt) => fields
            .with_bytes("aad", &encrypt.aad)
            .with_bytes("plaintext", &encrypt.plaintext),
        Request::Decrypt(decrypt) => fields
            .with_bytes("aad", &decrypt.aad)
            .with_int("sealed_version", decrypt.sealed.key_version)
            .with_bytes("nonce", &decrypt.sealed.nonce)
            .with_bytes("ciphertext", &decrypt.sealed.ciphertext),
        Request::Derive(derive) => fields
            .with_int("out_len", derive.out_len)
            .with_bytes("salt", &derive.salt)
            .with_bytes("info", &derive.info),
        Request::PublicKey { key_version } | Request::Get { key_version } => {
            fields.with_int("version", *key_version)
        }
        Request::KeyspaceCreate(create) => fields
            .with_bytes("name", create.name.as_bytes())
            .with_bytes("settings", create.settings.as_str().as_bytes()),
        Request::KeyspaceSet(settings) => {
            fields.with_bytes("settings", settings.as_str().as_bytes())
        }
        Request::KeyspaceList { after: 0 } => fields,
        Request::KeyspaceList { after } => fields.with_int("after", *after),
        Request::KeyspaceRewrap { kms } | Request::KmsLock { kms } => {
            fields.with_bytes("kms_name", kms.as_bytes())
        }
        Request::KeyspaceHot(hot) => fields
            .with_int("hot_by", hot.by.code())
            .with_int("limit", hot.limit),
        Request::KeyGenerate(generate) => with_new_key(fields, &generate.new_key),
        Request::KeyImport(import) => {
            with_material(with_new_key(fields, &import.new_key), &import.material)
        }
        Request::KeyRotate(KeyRotate { material: None }) => fields,
        Request::KeyRotate(KeyRotate {
            material: Some(material),
        }) => with_material(fields, material),
        Request::KeyRevoke(KeyRevoke { key_version }) if *key_version != 0 => {
            fields.with_int("version", *key_version)
        }
        Request::KeyTrim(trim) => fields.with_int("below", trim.below),
        Request::KeyList(list) => fields
            .with_int("shard", list.shard)
            .with_int("limit", list.limit)
            .with_bytes("cursor", &list.cursor),
        Request::Unlock(unlock) => fields
            .with_int("unlock_kind", unlock.kind.code())
            .with_int("unlock_flags", unlock_flags(unlock.watch, unlock.force))
            .with_bytes("secret", &unlock.secret),
        Request::UnlockStatus { ticket } => fields.with_int("ticket", *ticket),
        Request::KmsInit(init) => with_kms_init(fields, init),
        Request::KmsUnlock(unlock) => fields
            .with_int("unlock_kind", unlock.kind.code())
            .with_int("unlock_flags", unlock_flags(false, unlock.force))
            .with_bytes("kms_name", unlock.kms.as_bytes())
            .with_bytes("secret", &unlock.secret),
        Request::KeyspaceRotate
        | Request::KeyspaceDestroyDeks
        | Request::KeyspaceHistory
        | Request::KeyRevoke(_)
        | Request::KeyDelete
        | Request::ForceRefresh
        | Request::Lock
        | Request::LockAll
        | Request::Status { after: 0 } => fields,
        Request::Status { after } => fields.with_int("row_after", *after),
    }
}

fn with_kms_init(fields: Fields, init: &KmsInit<'_>) -> Fields {
    let (shares, threshold) = match init.custody {
        Custody::Passphrase(_) => (0, 0),
        Custody::Shares { count, threshold } => (count, threshold),
    };
    let fields = fields
        .with_int("shares", shares)
        .with_int("threshold", threshold)
        .with_bytes("kms_name", init.kms.as_bytes());
    match init.custody {
        Custody::Passphrase(passphrase) => fields.with_bytes("passphrase", &passphrase),
        Custody::Shares { .. } => fields,
    }
}

fn with_new_key(fields: Fields, new_key: &NewKey) -> Fields {
    fields
        .with_int("algorithm", new_key.algorithm.map_or(0, Algorithm::code))
        .with_int("key_flags", u8::from(new_key.exportable))
        .with_int("usage", new_key.usage.bits())
        .with_int("not_after_unix_ms", new_key.not_after_unix_ms)
}

fn with_material(fields: Fields, material: &Material<'_>) -> Fields {
    fields
        .with_int("format", material.format.code())
        .with_bytes("material", &material.bytes)
}

/// The frame that a vector's fields stand for.
pub fn encode(fields: &Fields) -> Vec<u8> {
    let mut fields = fields.clone().take();
    let opcode = Opcode::try_from(fields.int("opcode") as u8).unwrap();
    let request_id = fields.int("request_id");
    let keyspace_id = fields.int("keyspace_id") as u32;
    let deadline_us = fields.int("deadline_us") as u32;
    let key_id = fields.bytes("key_id");
    let payload = encode_payload(opcode, &mut fields);
    assert!(fields.is_empty(), "fields are left over");
    let frame = RequestFrame {
        code: opcode.code(),
        request_id,
        keyspace_id,
        deadline_us,
        key_id: Octets(&key_id),
        payload: Octets(&payload),
    };
    let mut out = Vec::new();
    frame.encode(&mut out).unwrap();
    out
}

fn encode_payload(opcode: Opcode, fields: &mut Take) -> Vec<u8> {
    match opcode {
        Opcode::Hello => payload(Request::Hello(Hello {
            version_min: fields.int("version_min") as u8,
            version_max: fields.int("version_max") as u8,
            client_name: &fields.text("client_name"),
        })),
        Opcode::Ping => payload(Request::Ping(Octets(&fields.bytes("payload")))),
        Opcode::Sign => payload(Request::Sign(Sign {
            scheme: scheme(fields),
            kind: kind(fields),
            input: Octets(&fields.bytes("input")),
        })),
        Opcode::Verify => payload(Request::Verify(Verify {
            scheme: scheme(fields),
            kind: kind(fields),
            key_version: fields.int("version") as u32,
            signature: Octets(&fields.bytes("signature")),
            input: Octets(&fields.bytes("input")),
        })),
        Opcode::Mac => payload(Request::Mac(Octets(&fields.bytes("message")))),
        Opcode::Encrypt => payload(Request::Encrypt(Encrypt {
            aad: Octets(&fields.bytes("aad")),
            plaintext: Octets(&fields.bytes("plaintext")),
        })),
        Opcode::Decrypt => payload(Request::Decrypt(Decrypt {
            aad: Octets(&fields.bytes("aad")),
            sealed: Sealed {
                key_version: fields.int("sealed_version") as u32,
                nonce: fields.array("nonce"),
                ciphertext: Octets(&fields.bytes("ciphertext")),
            },
        })),
        Opcode::Derive => payload(Request::Derive(Derive {
            out_len: fields.int("out_len") as u16,
            salt: Octets(&fields.bytes("salt")),
            info: Octets(&fields.bytes("info")),
        })),
        Opcode::PublicKey => payload(Request::PublicKey {
            key_version: fields.int("version") as u32,
        }),
        Opcode::Get => payload(Request::Get {
            key_version: fields.int("version") as u32,
        }),
        Opcode::KeyspaceCreate => payload(Request::KeyspaceCreate(KeyspaceCreate {
            name: &fields.text("name"),
            settings: Settings::new(&fields.text("settings")).unwrap(),
        })),
        Opcode::KeyspaceSet => payload(Request::KeyspaceSet(
            Settings::new(&fields.text("settings")).unwrap(),
        )),
        Opcode::KeyspaceList => payload(Request::KeyspaceList {
            after: if fields.is_next("after") {
                fields.int("after") as u32
            } else {
                0
            },
        }),
        Opcode::KeyspaceRotate => payload(Request::KeyspaceRotate),
        Opcode::KeyspaceRewrap => payload(Request::KeyspaceRewrap {
            kms: &fields.text("kms_name"),
        }),
        Opcode::KeyspaceDestroyDeks => payload(Request::KeyspaceDestroyDeks),
        Opcode::KmsLock => payload(Request::KmsLock {
            kms: &fields.text("kms_name"),
        }),
        Opcode::LockAll => payload(Request::LockAll),
        Opcode::KeyspaceHistory => payload(Request::KeyspaceHistory),
        Opcode::KeyspaceHot => payload(Request::KeyspaceHot(KeyspaceHot {
            by: HotBy::try_from(fields.int("hot_by") as u8).unwrap(),
            limit: fields.int("limit") as u16,
        })),
        Opcode::KeyGenerate => payload(Request::KeyGenerate(KeyGenerate {
            new_key: new_key(fields),
        })),
        Opcode::KeyImport => payload(Request::KeyImport(KeyImport {
            new_key: new_key(fields),
            material: Material {
                format: format(fields),
                bytes: Octets(&fields.bytes("material")),
            },
        })),
        Opcode::KeyRotate if fields.is_next("format") => payload(Request::KeyRotate(KeyRotate {
            material: Some(Material {
                format: format(fields),
                bytes: Octets(&fields.bytes("material")),
            }),
        })),
        Opcode::KeyRotate => payload(Request::KeyRotate(KeyRotate { material: None })),
        Opcode::KeyRevoke => payload(Request::KeyRevoke(KeyRevoke {
            key_version: if fields.is_next("version") {
                fields.int("version") as u32
            } else {
                0
            },
        })),
        Opcode::KeyTrim => payload(Request::KeyTrim(KeyTrim {
            below: fields.int("below") as u32,
        })),
        Opcode::KeyDelete => payload(Request::KeyDelete),
        Opcode::KeyList => payload(Request::KeyList(KeyList {
            shard: fields.int("shard") as u16,
            limit: fields.int("limit") as u16,
            cursor: Octets(&fields.bytes("cursor")),
        })),
        Opcode::ForceRefresh => payload(Request::ForceRefresh),
        Opcode::Lock => payload(Request::Lock),
        Opcode::Unlock => {
            let kind = unlock_kind(fields);
            let flags = fields.int("unlock_flags");
            payload(Request::Unlock(Unlock {
                kind,
                watch: flags & 1 != 0,
                force: flags & 2 != 0,
                secret: Octets(&fields.bytes("secret")),
            }))
        }
        Opcode::UnlockStatus => payload(Request::UnlockStatus {
            ticket: fields.int("ticket"),
        }),
        Opcode::Status => payload(Request::Status {
            after: match fields.is_next("row_after") {
                true => fields.int("row_after"),
                false => 0,
            },
        }),
        Opcode::KmsInit => encode_kms_init(fields),
        Opcode::KmsUnlock => payload(Request::KmsUnlock(KmsUnlock {
            kind: unlock_kind(fields),
            force: fields.int("unlock_flags") == 2,
            kms: &fields.text("kms_name"),
            secret: Octets(&fields.bytes("secret")),
        })),
    }
}

fn encode_kms_init(fields: &mut Take) -> Vec<u8> {
    let (count, threshold) = (fields.int("shares") as u8, fields.int("threshold") as u8);
    let kms = fields.text("kms_name");
    let passphrase = match count {
        0 => fields.bytes("passphrase"),
        _ => Vec::new(),
    };
    payload(Request::KmsInit(KmsInit {
        kms: &kms,
        custody: match count {
            0 => Custody::Passphrase(Octets(&passphrase)),
            _ => Custody::Shares { count, threshold },
        },
    }))
}

fn payload(request: Request<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    request.encode_payload(&mut out).unwrap();
    out
}

fn scheme(fields: &mut Take) -> Scheme {
    Scheme::try_from(fields.int("scheme") as u8).unwrap()
}

fn kind(fields: &mut Take) -> InputKind {
    InputKind::try_from(fields.int("input_kind") as u8).unwrap()
}

fn unlock_flags(watch: bool, force: bool) -> u8 {
    u8::from(watch) | u8::from(force) << 1
}

fn unlock_kind(fields: &mut Take) -> UnlockKind {
    UnlockKind::try_from(fields.int("unlock_kind") as u8).unwrap()
}

fn format(fields: &mut Take) -> KeyFormat {
    KeyFormat::try_from(fields.int("format") as u8).unwrap()
}

fn new_key(fields: &mut Take) -> NewKey {
    NewKey {
        algorithm: match fields.int("algorithm") {
            0 => None,
            code => Some(Algorithm::try_from(code as u8).unwrap()),
        },
        exportable: fields.int("key_flags") == 1,
        usage: Usage::from_bits(fields.int("usage") as u16).unwrap(),
        not_after_unix_ms: fields.int("not_after_unix_ms"),
    }
}
