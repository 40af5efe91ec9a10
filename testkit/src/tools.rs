//! Where the components' programs are.

use std::path::{Path, PathBuf};

/// Where `make deps` puts what comes from PyPI, one virtual environment per tool.
pub fn dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../.tools")
}

/// A program that a test needs: `candidates` are tried in order, relative ones below [`dir`]. `None`: it is not
/// installed, the skip has been announced, and the test should return.
///
/// # Panics
/// In CI, where nothing may be skipped.
pub fn path_or_skip(what: &str, candidates: &[&str]) -> Option<PathBuf> {
    let paths = candidates.iter().map(|candidate| dir().join(candidate));
    if let Some(path) = paths.into_iter().find(|path| path.exists()) {
        return Some(path);
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "{what} is not installed, and CI skips nothing; run `make deps`"
    );
    eprintln!("SKIPPED: {what} is not installed; run `make deps`");
    None
}
