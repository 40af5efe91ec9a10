//! Faults that tests plant, in debug builds only: `KEYWAY_PLANT=PLACE:KEY` makes that place panic when it comes to that key.
//! Places are `core`, `operation`, `errand`, and `control`, where a new keyspace's name is the key.

/// Panics if a test has planted a panic for this key in this place.
#[cfg(debug_assertions)]
pub fn panic_if_planted(place: &str, key_id: &[u8]) {
    use std::sync::LazyLock;

    static PLANTED: LazyLock<Option<String>> = LazyLock::new(|| std::env::var("KEYWAY_PLANT").ok());
    if let Some(planted) = PLANTED.as_deref()
        && let Some((at, key)) = planted.split_once(':')
    {
        assert!(at != place || key.as_bytes() != key_id, "planted by a test");
    }
}

/// Does nothing in a release build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn panic_if_planted(_place: &str, _key_id: &[u8]) {}
