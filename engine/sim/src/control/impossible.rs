//! Pairs of a keyspace's state and an input that cannot occur, with the reason. A run that reaches one of them fails, as
//! does a long one that misses a pair that is not listed.

/// States, inputs, and why none of the inputs can occur in any of the states.
pub(super) const IMPOSSIBLE: &[(&[&str], &[&str], &str)] = &[
    (
        &["making"],
        &["unwrap", "acted", "wiped", "confirmed"],
        "no shard has the keyspace before it is written, and so none sends anything about it",
    ),
    (
        &["making"],
        &["page", "page failed", "progress"],
        "control asks shards about keyspaces that they know",
    ),
    (
        &["making"],
        &["unwrapped", "made", "moved", "KMS failed"],
        "the call that makes the first DEK ends before the keyspace is made, and the commands that call a KMS are refused \
         until it is written",
    ),
    (
        &["open"],
        &["wiped"],
        "a shard that acts by the opening has wiped before or wipes no longer, and its acknowledgements keep their order",
    ),
];

/// Returns why an input cannot occur in a state.
pub(super) fn why(state: &str, input: &str) -> Option<&'static str> {
    IMPOSSIBLE
        .iter()
        .find(|(states, inputs, _)| states.contains(&state) && inputs.contains(&input))
        .map(|(_, _, why)| *why)
}
