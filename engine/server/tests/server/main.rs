//! keywayd from outside: the real binary, the real client, foreign programs as a second opinion.

mod command_line;
mod common;
mod crash;
mod dashboards;
mod end_to_end;
mod figures;
mod hostile;
mod hot;
mod keyspaces;
mod library;
mod life;
mod memory;
mod model;
mod operations;
mod outages;
mod page;
mod settings;
mod situations;
mod unlocks;
mod warm_start;
