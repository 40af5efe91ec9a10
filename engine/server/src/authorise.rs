//! Who may do what: principals, and the policy of a keyspace.
//!
//! The check runs before any state is looked at, so that someone without a right cannot tell a
//! key that is there from one that is not.

use std::fmt;

use keyway_protocol::Grants;
use serde::{Deserialize, Serialize};

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// Loopback TCP: nothing is known of the peer.
    Anonymous,
    /// A Unix socket: the peer's user id, from the kernel.
    Uid(u32),
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::Anonymous => f.write_str("anonymous"),
            Principal::Uid(uid) => write!(f, "uid:{uid}"),
        }
    }
}

fn parse_grants(text: &str) -> Result<Grants, String> {
    match text {
        "all" => Ok(Grants::ALL),
        "none" => Ok(Grants::NONE),
        _ => text.parse().map_err(|_| {
            format!(
                "`{text}` is not a list of rights; use all, none or some of {}",
                Grants::ALL
            )
        }),
    }
}

/// What a keyspace allows to whom. Stored with the keyspace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Policy {
    grants: std::collections::BTreeMap<String, String>,
}

impl Policy {
    /// Grants `rights` (`sign,verify`, `all` or `none`) to `principal` (`anonymous` or `uid:1000`), in place
    /// of what it had.
    pub fn grant(&mut self, principal: &str, rights: &str) -> Result<(), String> {
        parse_principal(principal)?;
        if parse_grants(rights)?.is_empty() {
            self.grants.remove(principal);
        } else {
            self.grants.insert(principal.to_owned(), rights.to_owned());
        }
        Ok(())
    }

    /// The grants, as (principal, rights).
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.grants
            .iter()
            .map(|(principal, rights)| (principal.as_str(), rights.as_str()))
    }
}

fn parse_principal(text: &str) -> Result<Principal, String> {
    if text == "anonymous" {
        return Ok(Principal::Anonymous);
    }
    text.strip_prefix("uid:")
        .and_then(|uid| uid.parse().ok())
        .map(Principal::Uid)
        .ok_or_else(|| format!("`{text}` is not a principal; use anonymous or uid:NUMBER"))
}

/// The rights that hold everywhere on this node.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// Development mode: everyone may do everything.
    pub dev: bool,
    /// The user that runs the server. It and root may do everything over the Unix socket.
    pub uid: u32,
}

impl Owner {
    /// Whether `principal` may do everything, in every keyspace and to the node itself.
    pub fn may_everything(&self, principal: Principal) -> bool {
        self.dev || matches!(principal, Principal::Uid(uid) if uid == self.uid || uid == 0)
    }
}

/// A policy made ready for the request path.
#[derive(Clone, Debug, Default)]
pub struct CompiledPolicy(Vec<(Principal, Grants)>);

impl CompiledPolicy {
    /// Compiles a stored policy; entries that no longer parse grant nothing.
    pub fn new(policy: &Policy) -> CompiledPolicy {
        let compiled = policy.iter().filter_map(|(principal, rights)| {
            Some((parse_principal(principal).ok()?, parse_grants(rights).ok()?))
        });
        CompiledPolicy(compiled.collect())
    }

    /// What `principal` may do.
    pub fn rights(&self, owner: &Owner, principal: Principal) -> Grants {
        if owner.may_everything(principal) {
            return Grants::ALL;
        }
        self.0
            .iter()
            .filter(|(who, _)| *who == principal)
            .fold(Grants::NONE, |rights, (_, granted)| rights.union(*granted))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: Owner = Owner {
        dev: false,
        uid: 500,
    };

    #[test]
    fn nobody_has_a_right_without_a_grant_but_the_owner_and_root() {
        let policy = CompiledPolicy::default();
        assert!(policy.rights(&OWNER, Principal::Anonymous).is_empty());
        assert!(policy.rights(&OWNER, Principal::Uid(1000)).is_empty());
        assert_eq!(policy.rights(&OWNER, Principal::Uid(500)), Grants::ALL);
        assert_eq!(policy.rights(&OWNER, Principal::Uid(0)), Grants::ALL);
    }

    #[test]
    fn development_mode_allows_all() {
        let owner = Owner {
            dev: true,
            uid: 500,
        };
        assert_eq!(
            CompiledPolicy::default().rights(&owner, Principal::Anonymous),
            Grants::ALL
        );
    }

    #[test]
    fn a_grant_gives_what_it_names_and_nothing_else() {
        let mut policy = Policy::default();
        policy.grant("uid:1000", "sign,verify").unwrap();
        let rights = CompiledPolicy::new(&policy).rights(&OWNER, Principal::Uid(1000));
        assert!(rights.contains(Grants::SIGN) && rights.contains(Grants::VERIFY));
        assert!(!rights.contains(Grants::MANAGE) && !rights.contains(Grants::GET));
        policy.grant("uid:1000", "none").unwrap();
        assert_eq!(policy, Policy::default());
    }

    #[test]
    fn bad_names_are_refused_with_the_value() {
        let mut policy = Policy::default();
        assert!(policy.grant("bob", "sign").unwrap_err().contains("`bob`"));
        assert!(
            policy
                .grant("anonymous", "sing")
                .unwrap_err()
                .contains("`sing`")
        );
    }
}
