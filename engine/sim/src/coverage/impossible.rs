//! Pairs of state and input that cannot meet, with the reason. A run that reaches one of them, or
//! misses one that is not here, fails.

use super::{Input, KeyState};

/// States, inputs, why none of the inputs meets any of the states.
pub const IMPOSSIBLE: &[(&[KeyState], &[Input], &str)] = &[];
