//! Unlocked keys: locked arena, algorithms, envelope.

mod arena;
#[cfg(test)]
mod testing;
mod wipe;
mod zeroing_alloc;

pub use arena::{Arena, ArenaBox, ArenaBytes, ArenaError, ArenaOptions, ArenaUsage};
pub use wipe::{scrub_stack, wipe};
pub use zeroing_alloc::ZeroingAllocator;
