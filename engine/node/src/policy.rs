//! Who may do what: principals, and the policy of a keyspace.
//!
//! The check runs before any state is looked at, so that someone without a right cannot tell a
//! key that is there from one that is not.

use std::collections::BTreeMap;
use std::fmt;

use keyway_protocol::Grants;
use serde::{Deserialize, Serialize};

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

/// How no rights are written.
pub const NO_GRANT: &str = "none";

fn parse_grants(text: &str) -> Result<Grants, String> {
    match text {
        "all" => Ok(Grants::ALL),
        NO_GRANT => Ok(Grants::NONE),
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
#[serde(from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Policy {
    grants: BTreeMap<String, String>,
}

impl From<Policy> for BTreeMap<String, String> {
    fn from(policy: Policy) -> Self {
        policy.grants
    }
}

impl From<BTreeMap<String, String>> for Policy {
    /// Earlier servers stored what was written: of one principal written in two ways, the rights are put together.
    fn from(stored: BTreeMap<String, String>) -> Policy {
        let mut policy = Policy::default();
        for (principal, rights) in stored {
            let (principal, rights) =
                Policy::canonical(&principal, &rights).unwrap_or((principal, rights));
            let rights = match policy.of(&principal).map(parse_grants) {
                Some(Ok(earlier)) => match parse_grants(&rights) {
                    Ok(more) => (earlier | more).to_string(),
                    Err(_) => rights,
                },
                _ => rights,
            };
            policy.put(&principal, &rights);
        }
        policy
    }
}

impl Policy {
    /// Grants `rights` (`sign,verify`, `all` or `none`) to `principal` (`anonymous` or `uid:1000`), which
    /// replaces what it had.
    pub fn grant(&mut self, principal: &str, rights: &str) -> Result<(), String> {
        let (principal, rights) = Policy::canonical(principal, rights)?;
        self.put(&principal, &rights);
        Ok(())
    }

    /// The one form in which a grant is stored, as (principal, rights): `uid:01000` and `uid:1000` are the same.
    pub fn canonical(principal: &str, rights: &str) -> Result<(String, String), String> {
        let principal = parse_principal(principal)?.to_string();
        let grants = parse_grants(rights)?;
        let rights = match rights {
            _ if grants.is_empty() => NO_GRANT.to_owned(),
            "all" => rights.to_owned(),
            _ => grants.to_string(),
        };
        Ok((principal, rights))
    }

    /// Stores what is in its canonical form.
    pub fn put(&mut self, principal: &str, rights: &str) {
        if rights == NO_GRANT {
            self.grants.remove(principal);
        } else {
            self.grants.insert(principal.to_owned(), rights.to_owned());
        }
    }

    /// What `principal` was granted, if anything.
    pub fn of(&self, principal: &str) -> Option<&str> {
        self.grants.get(principal).map(String::as_str)
    }

    /// What `principal` was granted. An entry that no longer parses grants nothing.
    pub fn rights(&self, principal: Principal) -> Grants {
        let granted = self.of(&principal.to_string());
        let granted = granted.map(|rights| parse_grants(rights).unwrap_or(Grants::NONE));
        granted.unwrap_or(Grants::NONE)
    }

    /// The grants that both policies have. An entry that no longer parses grants nothing.
    pub fn meet(&self, other: &Policy) -> Policy {
        if self == other {
            return self.clone();
        }
        let mut both = Policy::default();
        for (principal, rights) in self.iter() {
            if other.of(principal) == Some(rights) {
                both.put(principal, rights);
                continue;
            }
            let theirs = other.of(principal).map_or(Ok(Grants::NONE), parse_grants);
            let (Ok(ours), Ok(theirs)) = (parse_grants(rights), theirs) else {
                continue;
            };
            if theirs.contains(ours) {
                both.put(principal, rights);
            } else if let Ok(common) = Grants::from_bits(ours.bits() & theirs.bits()) {
                let common = match common.is_empty() {
                    true => NO_GRANT.to_owned(),
                    false => common.to_string(),
                };
                both.put(principal, &common);
            }
        }
        both
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
        self.dev || self.is_operator(principal)
    }

    /// Whether `principal` is the server's user or root, on the Unix socket: places are kept for them.
    pub fn is_operator(&self, principal: Principal) -> bool {
        matches!(principal, Principal::Uid(uid) if uid == self.uid || uid == 0)
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

    /// Those who may do something.
    pub fn principals(&self) -> impl Iterator<Item = Principal> {
        let granted = self.0.iter().filter(|(_, granted)| !granted.is_empty());
        granted.map(|(principal, _)| *principal)
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

/// The message, with the remedy, to a principal that has none of these grants: it names the first of them.
pub fn explain(needed: Grants) -> &'static str {
    macro_rules! explained {
        ($($grant:ident $name:literal),+ $(,)?) => {
            match needed {
                $(needed if needed.intersects(Grants::$grant) => concat!(
                    "the keyspace's policy does not give you the right `", $name, "`, which this needs. Over TCP every client is \
                     `anonymous`; over the Unix socket the server's user and root have all rights. They, and users with the \
                     right `manage`, can give it: `keyway keyspace set KEYSPACE allow:PRINCIPAL=", $name, "`, with the other \
                     rights that the principal is to have"
                ),)+
                _ => "the keyspace's policy does not let you do this",
            }
        };
    }
    explained! {
        SIGN "sign", VERIFY "verify", MAC "mac", ENCRYPT "encrypt", DECRYPT "decrypt", DERIVE "derive", GET "get",
        MANAGE "manage", UNLOCK "unlock",
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
    fn each_right_that_is_missing_is_named() {
        for name in [
            "sign", "verify", "mac", "encrypt", "decrypt", "derive", "get", "manage", "unlock",
        ] {
            let grant = name.parse().unwrap();
            let remedy = format!("allow:PRINCIPAL={name}`");
            assert!(explain(grant).contains(&remedy), "{}", explain(grant));
        }
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
    fn a_principal_written_otherwise_is_the_same_one() {
        let mut policy = Policy::default();
        policy.grant("uid:01000", "verify,sign,sign").unwrap();
        assert_eq!(
            policy.iter().collect::<Vec<_>>(),
            [("uid:1000", "sign,verify")]
        );
        policy.grant("uid:1000", "none").unwrap();
        assert_eq!(policy, Policy::default());
        let stored = [("uid:01", "sign"), ("uid:1", "mac"), ("bob", "get")];
        let stored = stored.map(|(who, rights)| (who.to_owned(), rights.to_owned()));
        let read = Policy::from(BTreeMap::from(stored));
        let grants = [("bob", "get"), ("uid:1", "sign,mac")];
        assert_eq!(read.iter().collect::<Vec<_>>(), grants);
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
