//! The owner of the keyspaces: commands, locks and unlocks, DEKs and their leases.

pub mod tickets;
