//! Faults that tests plant, in debug builds only: `KEYWAY_PLANT=PLACE:KEY` makes that place panic when it comes to that key.
//! Places are `core`, `operation`, `errand`, and `control`, where a new keyspace's name is the key. With `sync:PATH`, a sync of
//! a blob log hangs while there is a file of that path.

#[cfg(debug_assertions)]
static PLANTED: std::sync::LazyLock<Option<String>> =
    std::sync::LazyLock::new(|| std::env::var("KEYWAY_PLANT").ok());

/// Panics if a test has planted a panic for this key in this place.
#[cfg(debug_assertions)]
pub fn panic_if_planted(place: &str, key_id: &[u8]) {
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

/// Returns whether a test has planted that a sync hangs, for now.
#[cfg(debug_assertions)]
pub fn sync_hangs() -> bool {
    let path = PLANTED
        .as_deref()
        .and_then(|planted| planted.strip_prefix("sync:"));
    path.is_some_and(|path| std::path::Path::new(path).exists())
}

/// Returns `false` in a release build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn sync_hangs() -> bool {
    false
}
