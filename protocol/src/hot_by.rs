//! By what a key counts as hot.

use crate::wire_enum::wire_enum;

wire_enum! {
    /// What the hot keys of KEYSPACE_HOT are ordered by.
    pub enum HotBy, "order of hot keys" {
        /// How many operations asked for the key.
        Requests = 0, "requests";
        /// How many of them had to wait for a load of it.
        Waiters = 1, "waiters";
        /// How long its loads took, together.
        RehydrateTime = 2, "rehydrate-time";
    }
}
