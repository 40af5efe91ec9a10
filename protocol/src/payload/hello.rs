//! HELLO: the version, the shard map, the keyspaces.

use alloc::vec::Vec;

use crate::limits::{CLIENT_NAME_LEN_MAX, KEYSPACE_COUNT_MAX};
use crate::reader::{Reader, at_most, in_range};
use crate::{KeyspaceName, ProtocolError, Router, ShardMap};

/// HELLO, as a client sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// The lowest version that the client speaks.
    pub version_min: u8,
    /// The highest version that the client speaks.
    pub version_max: u8,
    /// Who the client says it is, for the server's log: at most `CLIENT_NAME_LEN_MAX` printable
    /// ASCII characters; may be empty.
    pub client_name: &'a str,
}

impl<'a> Hello<'a> {
    pub(super) fn decode(payload: &'a [u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(payload);
        let version_min = reader.u8("version_min")?;
        let version_max = reader.u8("version_max")?;
        reader.reserved::<2>("reserved")?;
        let name_len = usize::from(reader.u8("name_len")?);
        let name = reader.bytes("client name", name_len)?;
        reader.finish("HELLO")?;
        let hello = Self {
            version_min,
            version_max,
            client_name: core::str::from_utf8(name).map_err(|error| ProtocolError::BadByte {
                field: "client name",
                at: error.valid_up_to() as u64,
                byte: name[error.valid_up_to()],
            })?,
        };
        hello.check()?;
        Ok(hello)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        self.check()?;
        out.extend_from_slice(&[self.version_min, self.version_max, 0, 0]);
        out.push(self.client_name.len() as u8);
        out.extend_from_slice(self.client_name.as_bytes());
        Ok(())
    }

    fn check(&self) -> Result<(), ProtocolError> {
        in_range("version_min", u64::from(self.version_min), 1, 255)?;
        in_range(
            "version_max",
            u64::from(self.version_max),
            u64::from(self.version_min),
            255,
        )?;
        at_most("client name", self.client_name.len(), CLIENT_NAME_LEN_MAX)?;
        match self
            .client_name
            .bytes()
            .enumerate()
            .find(|(_, byte)| !matches!(byte, b' '..=b'~'))
        {
            None => Ok(()),
            Some((at, byte)) => Err(ProtocolError::BadByte {
                field: "client name",
                at: at as u64,
                byte,
            }),
        }
    }
}

/// The answer to HELLO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerHello {
    /// The version that the connection speaks from now on.
    pub version: u8,
    /// The server runs in development mode, where access control is off.
    pub dev: bool,
    /// There are more keyspaces than are named here; KEYSPACE_LIST returns the rest.
    pub more: bool,
    /// The shard that this connection reached.
    pub this_shard: u16,
    /// The longest payload that the server takes, in bytes.
    pub payload_len_max: u32,
    /// Who owns which key, and where.
    pub map: ShardMap,
    /// The keyspaces that the principal may use, by rising id; at most `KEYSPACE_COUNT_MAX`.
    pub keyspaces: Vec<KeyspaceEntry>,
}

/// A keyspace in HELLO.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyspaceEntry {
    /// Its id, from 1.
    pub id: u32,
    /// Its name.
    pub name: KeyspaceName,
}

const FLAG_DEV: u8 = 1;
const FLAG_MORE: u8 = 2;

impl ServerHello {
    /// Reads an answer to HELLO.
    pub fn decode(payload: &[u8]) -> Result<Self, ProtocolError> {
        let mut reader = Reader::new(payload);
        let version = reader.u8("version")?;
        let flags = reader.u8("hello flags")?;
        if flags & !(FLAG_DEV | FLAG_MORE) != 0 {
            return Err(ProtocolError::UnknownFlags {
                field: "hello flags",
                bits: u64::from(flags & !(FLAG_DEV | FLAG_MORE)),
            });
        }
        let shard_count = reader.u16("shard_count")?;
        let this_shard = reader.u16("this_shard")?;
        let hash_id = reader.u8("hash_id")?;
        if hash_id != Router::HASH_ID {
            return Err(ProtocolError::Unknown {
                field: "hash_id",
                value: u64::from(hash_id),
            });
        }
        reader.reserved::<1>("reserved")?;
        let seed = reader.array("seed")?;
        let payload_len_max = reader.u32("payload_len_max")?;
        let ports = (0..shard_count)
            .map(|_| reader.u16("ports"))
            .collect::<Result<_, _>>()?;
        let map = ShardMap::new(seed, ports)?;
        let keyspace_count = usize::from(reader.u16("keyspace_count")?);
        at_most("keyspaces", keyspace_count, KEYSPACE_COUNT_MAX)?;
        let keyspaces = (0..keyspace_count)
            .map(|_| {
                let id = reader.u32("keyspace id")?;
                let name_len = usize::from(reader.u8("keyspace name_len")?);
                let name = reader.bytes("keyspace name", name_len)?.try_into()?;
                Ok(KeyspaceEntry { id, name })
            })
            .collect::<Result<_, ProtocolError>>()?;
        reader.finish("the answer to HELLO")?;
        let hello = Self {
            version,
            dev: flags & FLAG_DEV != 0,
            more: flags & FLAG_MORE != 0,
            this_shard,
            payload_len_max,
            map,
            keyspaces,
        };
        hello.check()?;
        Ok(hello)
    }

    /// Appends the answer to HELLO; on an error nothing is appended.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), ProtocolError> {
        self.check()?;
        let router = &self.map.router;
        let dev = if self.dev { FLAG_DEV } else { 0 };
        let more = if self.more { FLAG_MORE } else { 0 };
        out.extend_from_slice(&[self.version, dev | more]);
        out.extend_from_slice(&router.shard_count().to_le_bytes());
        out.extend_from_slice(&self.this_shard.to_le_bytes());
        out.extend_from_slice(&[Router::HASH_ID, 0]);
        out.extend_from_slice(&router.seed());
        out.extend_from_slice(&self.payload_len_max.to_le_bytes());
        for port in &self.map.ports {
            out.extend_from_slice(&port.to_le_bytes());
        }
        out.extend_from_slice(&(self.keyspaces.len() as u16).to_le_bytes());
        for KeyspaceEntry { id, name } in &self.keyspaces {
            out.extend_from_slice(&id.to_le_bytes());
            out.push(name.as_bytes().len() as u8);
            out.extend_from_slice(name.as_bytes());
        }
        Ok(())
    }

    fn check(&self) -> Result<(), ProtocolError> {
        let shard_count = self.map.router.shard_count();
        in_range("version", u64::from(self.version), 1, 255)?;
        in_range(
            "this_shard",
            u64::from(self.this_shard),
            0,
            u64::from(shard_count) - 1,
        )?;
        if self.map.ports.len() != usize::from(shard_count) {
            return Err(ProtocolError::LengthMismatch {
                field: "ports",
                declared: u64::from(shard_count),
                actual: self.map.ports.len() as u64,
            });
        }
        at_most("keyspaces", self.keyspaces.len(), KEYSPACE_COUNT_MAX)?;
        let mut previous = 0;
        for entry in &self.keyspaces {
            if entry.id <= previous {
                return Err(ProtocolError::Rule {
                    field: "keyspaces",
                    rule: "their ids start from 1 and rise",
                });
            }
            previous = entry.id;
        }
        Ok(())
    }
}
