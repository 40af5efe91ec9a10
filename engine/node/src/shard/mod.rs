//! One shard of the node.

pub mod hot;
