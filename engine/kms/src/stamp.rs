//! Detects changed files, so that a certificate, a token or a PIN that is replaced on the disk is used without a restart.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Distinguishes states of some files: identity, size and times of each, through symbolic links. A missing file has none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp(Vec<Option<FileStamp>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileStamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Reads the state of each file. Blocks.
    pub(crate) fn of<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let stamp = |path: &Path| {
            let metadata = std::fs::metadata(path).ok()?;
            Some(FileStamp {
                device: metadata.dev(),
                inode: metadata.ino(),
                size: metadata.size(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            })
        };
        Self(paths.into_iter().map(stamp).collect())
    }

    /// Returns the state of these files and of others.
    pub(crate) fn and(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_written_replaced_or_removed_has_another_stamp() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let missing = Stamp::of([path.as_path()]);
        std::fs::write(&path, "one").unwrap();
        let first = Stamp::of([path.as_path()]);
        assert_ne!(missing, first);
        assert_eq!(first, Stamp::of([path.as_path()]));
        std::fs::write(dir.path().join("other"), "two").unwrap();
        std::fs::rename(dir.path().join("other"), &path).unwrap();
        assert_ne!(first, Stamp::of([path.as_path()]));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(missing, Stamp::of([path.as_path()]));
    }
}
