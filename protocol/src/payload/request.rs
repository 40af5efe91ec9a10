//! A request, typed: the operation and its fields.

use alloc::vec::Vec;

use super::{
    Decrypt, Derive, Encrypt, Hello, KeyGenerate, KeyImport, KeyList, KeyRevoke, KeyRotate,
    KeyTrim, KeyspaceCreate, KeyspaceHot, KmsInit, KmsUnlock, Settings, Sign, Unlock, Verify,
};
use crate::id::check_key_id_bytes;
use crate::limits::{MESSAGE_LEN_MAX, PAYLOAD_LEN_MAX};
use crate::reader::{Reader, at_most, in_range, zero};
use crate::{Octets, Opcode, ProtocolError, RequestFrame, Scope, check_kms_name};

/// What a request asks for, besides the keyspace and the key that its frame names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'a> {
    /// HELLO.
    Hello(Hello<'a>),
    /// PING: any bytes, to be sent back.
    Ping(Octets<'a>),
    /// SIGN.
    Sign(Sign<'a>),
    /// VERIFY.
    Verify(Verify<'a>),
    /// MAC: a message of at most `MESSAGE_LEN_MAX` bytes. The answer is the tag.
    Mac(Octets<'a>),
    /// ENCRYPT.
    Encrypt(Encrypt<'a>),
    /// DECRYPT.
    Decrypt(Decrypt<'a>),
    /// DERIVE.
    Derive(Derive<'a>),
    /// PUBLIC_KEY. The answer is a SubjectPublicKeyInfo, DER.
    PublicKey {
        /// The key version; 0 for the newest.
        key_version: u32,
    },
    /// GET. The answer is the secret: raw if symmetric, else PKCS#8 DER.
    Get {
        /// The key version; 0 for the newest.
        key_version: u32,
    },
    /// KEYSPACE_CREATE.
    KeyspaceCreate(KeyspaceCreate<'a>),
    /// KEYSPACE_SET. The answer is empty.
    KeyspaceSet(Settings<'a>),
    /// KEYSPACE_LIST: keyspaces by rising id, as JSON.
    KeyspaceList {
        /// List those with a greater id; 0 to start.
        after: u32,
    },
    /// KEYSPACE_ROTATE. The answer is the generation of the new DEK.
    KeyspaceRotate,
    /// KEYSPACE_REWRAP. The answer is empty.
    KeyspaceRewrap {
        /// The KMS that is to wrap the keyspace's DEKs from now on.
        kms: &'a str,
    },
    /// KEYSPACE_DESTROY_DEKS. The answer is how many there were.
    KeyspaceDestroyDeks,
    /// KEYSPACE_HISTORY. The answer is JSON.
    KeyspaceHistory,
    /// KEYSPACE_HOT: the keyspace's hot keys, as JSON.
    KeyspaceHot(KeyspaceHot),
    /// KEY_GENERATE.
    KeyGenerate(KeyGenerate),
    /// KEY_IMPORT.
    KeyImport(KeyImport<'a>),
    /// KEY_ROTATE.
    KeyRotate(KeyRotate<'a>),
    /// KEY_REVOKE.
    KeyRevoke(KeyRevoke),
    /// KEY_TRIM.
    KeyTrim(KeyTrim),
    /// KEY_DELETE. The answer is empty.
    KeyDelete,
    /// KEY_LIST.
    KeyList(KeyList<'a>),
    /// FORCE_REFRESH. The answer is empty; its `key_version` is the version loaded.
    ForceRefresh,
    /// LOCK. The answer is empty.
    Lock,
    /// UNLOCK.
    Unlock(Unlock<'a>),
    /// UNLOCK_STATUS. The answer is JSON.
    UnlockStatus {
        /// The ticket that UNLOCK or a NEEDS_UNLOCK answer gave.
        ticket: u64,
    },
    /// STATUS. The answer is one page of JSON.
    Status {
        /// 0, or what the page before told.
        after: u64,
    },
    /// KMS_INIT.
    KmsInit(KmsInit<'a>),
    /// KMS_UNLOCK.
    KmsUnlock(KmsUnlock<'a>),
    /// KMS_LOCK. The answer is empty.
    KmsLock {
        /// The KMS that is to forget its key.
        kms: &'a str,
    },
    /// LOCK_ALL. The answer is empty.
    LockAll,
}

impl<'a> Request<'a> {
    /// Reads the operation of a frame and checks all of its fields: those that the operation
    /// names are there, those that it does not name are zero.
    #[inline]
    pub fn decode(frame: &RequestFrame<'a>) -> Result<Self, ProtocolError> {
        let opcode = frame.opcode()?;
        check_scope(opcode, frame.keyspace_id, &frame.key_id)?;
        let payload = frame.payload.bytes();
        Ok(match opcode {
            Opcode::Hello => Self::Hello(Hello::decode(payload)?),
            Opcode::Ping => Self::Ping(Octets(payload)),
            Opcode::Sign => Self::Sign(Sign::decode(payload)?),
            Opcode::Verify => Self::Verify(Verify::decode(payload)?),
            Opcode::Mac => {
                at_most("message", payload.len(), MESSAGE_LEN_MAX)?;
                Self::Mac(Octets(payload))
            }
            Opcode::Encrypt => Self::Encrypt(Encrypt::decode(payload)?),
            Opcode::Decrypt => Self::Decrypt(Decrypt::decode(payload)?),
            Opcode::Derive => Self::Derive(Derive::decode(payload)?),
            Opcode::PublicKey => Self::PublicKey {
                key_version: only_u32("PUBLIC_KEY", payload)?,
            },
            Opcode::Get => Self::Get {
                key_version: only_u32("GET", payload)?,
            },
            Opcode::KeyspaceCreate => Self::KeyspaceCreate(KeyspaceCreate::decode(payload)?),
            Opcode::KeyspaceSet => Self::KeyspaceSet(Settings::decode(payload)?),
            Opcode::KeyspaceList => Self::KeyspaceList {
                after: keyspace_list_after(payload)?,
            },
            Opcode::KeyspaceRotate => nothing("KEYSPACE_ROTATE", payload, Self::KeyspaceRotate)?,
            Opcode::KeyspaceRewrap => Self::KeyspaceRewrap {
                kms: check_kms_name(payload)?,
            },
            Opcode::KeyspaceDestroyDeks => {
                nothing("KEYSPACE_DESTROY_DEKS", payload, Self::KeyspaceDestroyDeks)?
            }
            Opcode::KeyspaceHistory => nothing("KEYSPACE_HISTORY", payload, Self::KeyspaceHistory)?,
            Opcode::KeyspaceHot => Self::KeyspaceHot(KeyspaceHot::decode(payload)?),
            Opcode::KeyGenerate => Self::KeyGenerate(KeyGenerate::decode(payload)?),
            Opcode::KeyImport => Self::KeyImport(KeyImport::decode(payload)?),
            Opcode::KeyRotate => Self::KeyRotate(KeyRotate::decode(payload)?),
            Opcode::KeyRevoke => Self::KeyRevoke(KeyRevoke::decode(payload)?),
            Opcode::KeyTrim => Self::KeyTrim(KeyTrim::decode(payload)?),
            Opcode::KeyDelete => nothing("KEY_DELETE", payload, Self::KeyDelete)?,
            Opcode::KeyList => Self::KeyList(KeyList::decode(payload)?),
            Opcode::ForceRefresh => nothing("FORCE_REFRESH", payload, Self::ForceRefresh)?,
            Opcode::Lock => nothing("LOCK", payload, Self::Lock)?,
            Opcode::Unlock => Self::Unlock(Unlock::decode(payload)?),
            Opcode::UnlockStatus => Self::UnlockStatus {
                ticket: super::decode_ticket(payload)?,
            },
            Opcode::Status => Self::Status {
                after: status_after(payload)?,
            },
            Opcode::KmsInit => Self::KmsInit(KmsInit::decode(payload)?),
            Opcode::KmsUnlock => Self::KmsUnlock(KmsUnlock::decode(payload)?),
            Opcode::KmsLock => Self::KmsLock {
                kms: check_kms_name(payload)?,
            },
            Opcode::LockAll => nothing("LOCK_ALL", payload, Self::LockAll)?,
        })
    }

    /// Appends the payload to `out`; on an error nothing is appended.
    pub fn encode_payload(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        match self {
            Self::Hello(hello) => hello.encode(out),
            Self::Ping(bytes) => append(out, "payload", bytes, PAYLOAD_LEN_MAX),
            Self::Sign(sign) => sign.encode(out),
            Self::Verify(verify) => verify.encode(out),
            Self::Mac(message) => append(out, "message", message, MESSAGE_LEN_MAX),
            Self::Encrypt(encrypt) => encrypt.encode(out),
            Self::Decrypt(decrypt) => decrypt.encode(out),
            Self::Derive(derive) => derive.encode(out),
            Self::PublicKey { key_version } | Self::Get { key_version } => {
                out.extend_from_slice(&key_version.to_le_bytes());
                Ok(())
            }
            Self::KeyspaceCreate(create) => create.encode(out),
            Self::KeyspaceSet(settings) => {
                out.extend_from_slice(settings.as_str().as_bytes());
                Ok(())
            }
            Self::KeyspaceList { after } => {
                if *after != 0 {
                    out.extend_from_slice(&after.to_le_bytes());
                }
                Ok(())
            }
            Self::Status { after } => {
                if *after != 0 {
                    out.extend_from_slice(&after.to_le_bytes());
                }
                Ok(())
            }
            Self::KeyspaceRewrap { kms } | Self::KmsLock { kms } => {
                out.extend_from_slice(check_kms_name(kms.as_bytes())?.as_bytes());
                Ok(())
            }
            Self::KeyspaceHot(hot) => hot.encode(out),
            Self::KeyGenerate(generate) => generate.encode(out),
            Self::KeyImport(import) => import.encode(out),
            Self::KeyRotate(rotate) => rotate.encode(out),
            Self::KeyRevoke(revoke) => {
                revoke.encode(out);
                Ok(())
            }
            Self::KeyTrim(trim) => trim.encode(out),
            Self::KeyList(list) => list.encode(out),
            Self::Unlock(unlock) => unlock.encode(out),
            Self::UnlockStatus { ticket } => {
                super::encode_ticket(*ticket, out);
                Ok(())
            }
            Self::KmsInit(init) => init.encode(out),
            Self::KmsUnlock(unlock) => unlock.encode(out),
            Self::KeyspaceRotate
            | Self::KeyspaceDestroyDeks
            | Self::KeyspaceHistory
            | Self::KeyDelete
            | Self::ForceRefresh
            | Self::Lock
            | Self::LockAll => Ok(()),
        }
    }

    /// The operation.
    #[must_use]
    pub const fn opcode(&self) -> Opcode {
        match self {
            Self::Hello(_) => Opcode::Hello,
            Self::Ping(_) => Opcode::Ping,
            Self::Sign(_) => Opcode::Sign,
            Self::Verify(_) => Opcode::Verify,
            Self::Mac(_) => Opcode::Mac,
            Self::Encrypt(_) => Opcode::Encrypt,
            Self::Decrypt(_) => Opcode::Decrypt,
            Self::Derive(_) => Opcode::Derive,
            Self::PublicKey { .. } => Opcode::PublicKey,
            Self::Get { .. } => Opcode::Get,
            Self::KeyspaceCreate(_) => Opcode::KeyspaceCreate,
            Self::KeyspaceSet(_) => Opcode::KeyspaceSet,
            Self::KeyspaceList { .. } => Opcode::KeyspaceList,
            Self::KeyspaceRotate => Opcode::KeyspaceRotate,
            Self::KeyspaceRewrap { .. } => Opcode::KeyspaceRewrap,
            Self::KeyspaceDestroyDeks => Opcode::KeyspaceDestroyDeks,
            Self::KeyspaceHistory => Opcode::KeyspaceHistory,
            Self::KeyspaceHot(_) => Opcode::KeyspaceHot,
            Self::KeyGenerate(_) => Opcode::KeyGenerate,
            Self::KeyImport(_) => Opcode::KeyImport,
            Self::KeyRotate(_) => Opcode::KeyRotate,
            Self::KeyRevoke(_) => Opcode::KeyRevoke,
            Self::KeyTrim(_) => Opcode::KeyTrim,
            Self::KeyDelete => Opcode::KeyDelete,
            Self::KeyList(_) => Opcode::KeyList,
            Self::ForceRefresh => Opcode::ForceRefresh,
            Self::Lock => Opcode::Lock,
            Self::Unlock(_) => Opcode::Unlock,
            Self::UnlockStatus { .. } => Opcode::UnlockStatus,
            Self::Status { .. } => Opcode::Status,
            Self::KmsInit(_) => Opcode::KmsInit,
            Self::KmsUnlock(_) => Opcode::KmsUnlock,
            Self::KmsLock { .. } => Opcode::KmsLock,
            Self::LockAll => Opcode::LockAll,
        }
    }
}

fn check_scope(opcode: Opcode, keyspace_id: u32, key_id: &[u8]) -> Result<(), ProtocolError> {
    match opcode.scope() {
        Scope::Server => zero("keyspace_id", u64::from(keyspace_id))?,
        Scope::Keyspace | Scope::Key => in_range(
            "keyspace_id",
            u64::from(keyspace_id),
            1,
            u64::from(u32::MAX),
        )?,
    }
    match opcode.scope() {
        Scope::Server | Scope::Keyspace => at_most("key_id", key_id.len(), 0),
        Scope::Key => check_key_id_bytes(key_id),
    }
}

fn append(
    out: &mut Vec<u8>,
    field: &'static str,
    bytes: &[u8],
    len_max: usize,
) -> Result<(), ProtocolError> {
    at_most(field, bytes.len(), len_max)?;
    out.extend_from_slice(bytes);
    Ok(())
}

fn nothing<T>(message: &'static str, payload: &[u8], request: T) -> Result<T, ProtocolError> {
    Reader::new(payload).finish(message)?;
    Ok(request)
}

fn only_u32(message: &'static str, payload: &[u8]) -> Result<u32, ProtocolError> {
    let mut reader = Reader::new(payload);
    let value = reader.u32("version")?;
    reader.finish(message)?;
    Ok(value)
}

fn keyspace_list_after(payload: &[u8]) -> Result<u32, ProtocolError> {
    if payload.is_empty() {
        return Ok(0);
    }
    let mut reader = Reader::new(payload);
    let after = reader.u32("after")?;
    reader.finish("KEYSPACE_LIST")?;
    // To start is written as an empty payload, so that there is one way to write it.
    in_range("after", u64::from(after), 1, u64::from(u32::MAX))?;
    Ok(after)
}

/// As that of KEYSPACE_LIST.
fn status_after(payload: &[u8]) -> Result<u64, ProtocolError> {
    if payload.is_empty() {
        return Ok(0);
    }
    let mut reader = Reader::new(payload);
    let after = reader.u64("row_after")?;
    reader.finish("STATUS")?;
    in_range("row_after", after, 1, u64::MAX)?;
    Ok(after)
}
