//! Who may do what: principals, and the policy of a keyspace.
//!
//! The check runs before any state is looked at, so that someone without a right cannot tell a
//! key that is there from one that is not.

mod rights;

use std::collections::BTreeMap;
use std::fmt;

use keyway_protocol::Grants;
use serde::{Deserialize, Serialize};

pub use rights::{Grantee, Rights};

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

/// What a keyspace allows to whom. Stored with the keyspace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Policy {
    grants: BTreeMap<Grantee, Rights>,
}

impl From<Policy> for BTreeMap<String, String> {
    fn from(policy: Policy) -> Self {
        let grants = policy.grants.iter();
        grants
            .map(|(grantee, rights)| (grantee.to_string(), rights.to_string()))
            .collect()
    }
}

impl From<BTreeMap<String, String>> for Policy {
    /// Earlier servers stored what was written: of one principal written in two ways, the rights are put together.
    fn from(stored: BTreeMap<String, String>) -> Policy {
        let mut policy = Policy::default();
        for (grantee, rights) in stored {
            let grantee = Grantee::read(grantee);
            let rights = match (policy.of(&grantee), Rights::read(rights)) {
                (Rights::Only(earlier), Rights::Only(more)) => Rights::Only(earlier | more),
                (Rights::All, Rights::Only(_)) => Rights::All,
                (_, rights) => rights,
            };
            policy.put(grantee, rights);
        }
        policy
    }
}

impl Policy {
    /// Grants `rights` (`sign,verify`, `all` or `none`) to `principal` (`anonymous` or `uid:1000`), which
    /// replaces what it had.
    pub fn grant(&mut self, principal: &str, rights: &str) -> Result<(), String> {
        self.put(Grantee::parse(principal)?, Rights::parse(rights)?);
        Ok(())
    }

    /// Replaces what a principal was granted.
    pub fn put(&mut self, grantee: Grantee, rights: Rights) {
        if rights == Rights::NONE {
            self.grants.remove(&grantee);
        } else {
            self.grants.insert(grantee, rights);
        }
    }

    /// Returns what was granted: [`Rights::NONE`] if nothing was.
    pub fn of(&self, grantee: &Grantee) -> Rights {
        self.grants.get(grantee).cloned().unwrap_or(Rights::NONE)
    }

    /// What `principal` was granted.
    pub fn rights(&self, principal: Principal) -> Grants {
        self.of(&Grantee::Known(principal)).grants()
    }

    /// The grants that both policies have.
    pub fn meet(&self, other: &Policy) -> Policy {
        let mut both = Policy::default();
        for (grantee, rights) in self.iter() {
            both.put(grantee.clone(), rights.meet(&other.of(grantee)));
        }
        both
    }

    /// The grants, by principal.
    pub fn iter(&self) -> impl Iterator<Item = (&Grantee, &Rights)> {
        self.grants.iter()
    }
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
    pub fn is_superuser(&self, principal: Principal) -> bool {
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
    /// Compiles a stored policy; what this server cannot read grants nothing.
    pub fn new(policy: &Policy) -> CompiledPolicy {
        let compiled = policy.iter().filter_map(|(grantee, rights)| match grantee {
            Grantee::Known(principal) => Some((*principal, rights.grants())),
            Grantee::Unknown(_) => None,
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
        if owner.is_superuser(principal) {
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
    use serde_json::json;

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
        assert_eq!(json!(policy), json!({ "uid:1000": "sign,verify" }));
        policy.grant("uid:1000", "none").unwrap();
        assert_eq!(policy, Policy::default());
        let stored = [("uid:01", "sign"), ("uid:1", "mac"), ("bob", "get")];
        let stored = stored.map(|(who, rights)| (who.to_owned(), rights.to_owned()));
        let read = Policy::from(BTreeMap::from(stored));
        assert_eq!(json!(read), json!({ "bob": "get", "uid:1": "sign,mac" }));
    }

    #[test]
    fn what_a_newer_server_wrote_grants_nothing_and_is_kept() {
        let stored = json!({ "gid:7": "sign", "uid:1": "sign,fly", "uid:2": "all" });
        let read: Policy = serde_json::from_value(stored.clone()).unwrap();
        assert_eq!(json!(read), stored);
        assert!(read.rights(Principal::Uid(1)).is_empty());
        let compiled = CompiledPolicy::new(&read);
        let principals: Vec<_> = compiled.principals().collect();
        assert_eq!(principals, [Principal::Uid(2)]);
        assert_eq!(json!(read.meet(&read)), stored);
        let mut granted = Policy::default();
        granted.grant("uid:1", "sign").unwrap();
        granted.grant("uid:2", "get,mac").unwrap();
        assert_eq!(json!(read.meet(&granted)), json!({ "uid:2": "mac,get" }));
        assert_eq!(json!(granted.meet(&read)), json!({ "uid:2": "mac,get" }));
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
