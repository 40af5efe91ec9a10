//! Tests of the shard through its interface: inputs in, verdicts and actions out, with manual time.

mod changes;
mod force_refresh;
mod leases;

mod memory;
mod outages;
mod prefetch;
mod refresh_group;
mod requests;
mod rig;
mod settings;

mod life_cycle;
mod soak;
mod unlock;
mod wanted;
mod warm_start;
