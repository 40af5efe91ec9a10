//! Connections of a shard: what each principal may have, and who owes the next move.

pub mod accounts;
pub mod patience;
