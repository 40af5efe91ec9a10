//! keywayd from outside: the real binary, the real client, foreign programs as a second opinion.

mod bounds;
mod command_line;
mod common;
mod crash;
mod dashboards;
mod end_to_end;
mod figures;
mod hostile;
mod hot;
mod interleaved;
mod keyspaces;
mod library;
mod life;
mod memory;
mod metrics_port;
mod model;
mod operations;
mod outages;
mod page;
mod patience;
mod settings;
mod situations;
mod unix_paths;
mod unlocks;
mod warm_start;
