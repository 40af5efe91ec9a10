//! The two sides of a grant as they are stored: to whom, and what. Either may have been written by a newer server in words
//! that this one does not know. Such a grant gives nothing here, but is kept for the server that wrote it.

use std::fmt;

use keyway_protocol::Grants;

use super::Principal;

const ANONYMOUS: &str = "anonymous";
const UID: &str = "uid:";
const ALL: &str = "all";
const NONE: &str = "none";

/// The principal of a grant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grantee {
    /// A principal.
    Known(Principal),
    /// What this server cannot read.
    Unknown(String),
}

impl Grantee {
    /// Parses `anonymous` or `uid:1000`. `uid:01000` is the same principal.
    ///
    /// Errors: it is neither.
    pub fn parse(text: &str) -> Result<Grantee, String> {
        match Grantee::read(text.to_owned()) {
            Grantee::Unknown(text) => Err(format!(
                "`{text}` is not a principal; use anonymous or uid:NUMBER"
            )),
            known => Ok(known),
        }
    }

    /// Reads what a server has stored.
    pub fn read(text: String) -> Grantee {
        let uid = text.strip_prefix(UID).map(str::parse);
        match uid {
            Some(Ok(uid)) => Grantee::Known(Principal::Uid(uid)),
            None if text == ANONYMOUS => Grantee::Known(Principal::Anonymous),
            _ => Grantee::Unknown(text),
        }
    }
}

impl fmt::Display for Grantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Grantee::Known(principal) => principal.fmt(f),
            Grantee::Unknown(text) => f.write_str(text),
        }
    }
}

/// The rights of a grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rights {
    /// All rights, those that a newer server adds included.
    All,
    /// These rights.
    Only(Grants),
    /// What this server cannot read.
    Unknown(String),
}

impl Rights {
    /// No rights.
    pub const NONE: Rights = Rights::Only(Grants::NONE);

    /// Parses `sign,verify`, `all` or `none`.
    ///
    /// Errors: it is no such list.
    pub fn parse(text: &str) -> Result<Rights, String> {
        match Rights::read(text.to_owned()) {
            Rights::Unknown(text) => Err(format!(
                "`{text}` is not a list of rights; use all, none or some of {}",
                Grants::ALL
            )),
            known => Ok(known),
        }
    }

    /// Reads what a server has stored.
    pub fn read(text: String) -> Rights {
        match text.as_str() {
            ALL => Rights::All,
            NONE => Rights::NONE,
            _ => text.parse().map_or(Rights::Unknown(text), Rights::Only),
        }
    }

    /// Returns what this server grants by it.
    pub fn grants(&self) -> Grants {
        match self {
            Rights::All => Grants::ALL,
            Rights::Only(grants) => *grants,
            Rights::Unknown(_) => Grants::NONE,
        }
    }

    /// Returns the rights that both have.
    pub(crate) fn meet(&self, other: &Rights) -> Rights {
        let (ours, theirs) = (self.grants(), other.grants());
        match self {
            _ if self == other => self.clone(),
            Rights::All | Rights::Only(_) if theirs.contains(ours) => self.clone(),
            _ => Grants::from_bits(ours.bits() & theirs.bits()).map_or(Rights::NONE, Rights::Only),
        }
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rights::All => f.write_str(ALL),
            Rights::Only(grants) if grants.is_empty() => f.write_str(NONE),
            Rights::Only(grants) => grants.fmt(f),
            Rights::Unknown(text) => f.write_str(text),
        }
    }
}
