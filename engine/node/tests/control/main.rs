//! Tests of control through its interface: every state of a keyspace × every event against a table, and random histories.

mod commands;
mod histories;
mod life_cycle;
mod rig;

#[path = "../../src/splitmix.rs"]
mod random;
