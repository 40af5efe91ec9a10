//! The behaviour of a key cache in as few lines as possible: no flights, no timers, no lists.
//!
//! The shard is compared with it through its own calls here, and a live server over the wire in the server's tests, which
//! include this file. Times are in ms.

use std::collections::BTreeMap;

/// The result of an operation on a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// Successful, with this version of the key.
    Version(u32),
    /// Successful, with a version that is stale, or of which a newer one is stored.
    Stale(u32),
    #[default]
    NotFound,
    Invalid,
    Revoked,
    NeedsUnlock,
    Conflict,
    Retry,
}

use Answer::{Conflict, Invalid, NeedsUnlock, NotFound, Retry, Revoked, Stale, Version};

/// Durations.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    pub soft: u64,
    pub hard: u64,
    /// How long a missing key is not looked up again.
    pub negative: u64,
    pub load: u64,
    /// How long a request waits for a load.
    pub wait: u64,
    /// A stale key is served immediately, and not only after the wait.
    pub serve_stale: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Key {
    /// The highest version ever stored; 0 for none.
    pub version: u32,
    /// What a load finds.
    pub stored: Answer,
    pub revoked: bool,
    /// The result of the latest load, and since when it applies.
    known: Option<(Answer, u64)>,
}

/// One keyspace. The caller advances `now`, and lets loads end between two calls.
#[derive(Clone, Debug)]
pub struct Reference {
    pub terms: Terms,
    pub now: u64,
    pub locked: bool,
    pub keys: BTreeMap<u8, Key>,
}

impl Reference {
    pub fn new(terms: Terms) -> Self {
        let (now, locked, keys) = (0, false, BTreeMap::new());
        Self {
            terms,
            now,
            locked,
            keys,
        }
    }

    /// An operation that needs the key.
    pub fn request(&mut self, key: u8) -> Answer {
        let (now, terms) = (self.now, self.terms);
        let known = match self.barred(key) {
            Ok(key) => key.known,
            Err(answer) => return answer,
        };
        match known {
            Some((Version(version), since)) if now < since + terms.soft => return Version(version),
            Some((NotFound, since)) if now < since + terms.negative => return NotFound,
            Some((Invalid, _)) => return Invalid,
            _ => {}
        }
        let loaded = self.load(key);
        let in_vain = terms.load > terms.wait;
        let waited = if terms.serve_stale { 0 } else { terms.wait };
        match known {
            Some((Version(version), since))
                if (terms.serve_stale || in_vain) && now + waited < since + terms.hard =>
            {
                Stale(version)
            }
            _ if in_vain => Retry,
            _ => loaded,
        }
    }

    /// A load, whatever is in memory.
    pub fn force_refresh(&mut self, key: u8) -> Answer {
        match self.barred(key) {
            Ok(_) => self.load(key),
            Err(answer) => answer,
        }
    }

    /// Stores a key's first version, or its next.
    pub fn put(&mut self, key: u8, first: bool) -> Answer {
        let (now, hard) = (self.now, self.terms.hard);
        let key = self.keys.entry(key).or_default();
        match (self.locked, key.revoked, key.version) {
            (true, ..) => return NeedsUnlock,
            (_, true, _) => return Revoked,
            (_, _, 0) if !first => return NotFound,
            (_, _, 1..) if first => return Conflict,
            _ => key.version += 1,
        }
        key.stored = Version(key.version);
        // Keys in use are reloaded immediately, the others when they are requested.
        key.known = match key.known {
            Some((Version(_), since)) if now < since + hard => Some((key.stored, now)),
            _ => None,
        };
        key.stored
    }

    /// Permanent, and possible while locked: it needs no data key.
    pub fn revoke(&mut self, key: u8) -> Answer {
        let key = self.keys.entry(key).or_default();
        key.revoked = key.version > 0;
        if key.revoked {
            Version(key.version)
        } else {
            NotFound
        }
    }

    pub fn lock(&mut self) {
        self.locked = true;
        for key in self.keys.values_mut() {
            // That a key is missing or corrupt is not secret, and stays cached.
            key.known.take_if(|(known, _)| matches!(known, Version(_)));
        }
    }

    fn barred(&mut self, key: u8) -> Result<&Key, Answer> {
        let key = self.keys.entry(key).or_default();
        match (key.revoked, self.locked) {
            (true, _) => Err(Revoked),
            (false, true) => Err(NeedsUnlock),
            (false, false) => Ok(key),
        }
    }

    fn load(&mut self, key: u8) -> Answer {
        let key = self.keys.entry(key).or_default();
        let since = match key.stored {
            // A key's age counts from the beginning of its load.
            Version(_) => self.now,
            _ => self.now + self.terms.load,
        };
        key.known = Some((key.stored, since));
        key.stored
    }
}
