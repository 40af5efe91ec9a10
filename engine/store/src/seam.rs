//! The seam to the disk: what the log asks of files, and nothing more.
//!
//! The futures are not `Send`: a log lives on one thread. Implementors may write plain `async fn`.

use std::future::Future;
use std::io;
use std::path::Path;

/// A file system, as far as the log needs one.
pub trait Files: 'static {
    /// An open file.
    type File: File;

    /// Creates a file for reading and writing, for its owner only (mode 0600). Fails with
    /// `AlreadyExists` if there is one.
    fn create(&self, path: &Path) -> impl Future<Output = io::Result<Self::File>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> impl Future<Output = io::Result<Self::File>>;

    /// The names of a directory's files, in any order. Only called while a log is opened.
    fn list(&self, dir: &Path) -> impl Future<Output = io::Result<Vec<String>>>;

    /// Removes a file's name. Handles that are open stay readable, as POSIX has it.
    fn remove(&self, path: &Path) -> impl Future<Output = io::Result<()>>;

    /// Makes the names created in and removed from a directory durable.
    fn sync_dir(&self, dir: &Path) -> impl Future<Output = io::Result<()>>;
}

/// An open file. Dropping it closes it.
#[expect(
    clippy::len_without_is_empty,
    reason = "a disk's length costs a call, and no caller needs to know whether a file is empty"
)]
pub trait File: 'static {
    /// Reads `len` bytes from byte `offset` on; fewer only where the file ends.
    fn read_at(&self, offset: u64, len: usize) -> impl Future<Output = io::Result<Vec<u8>>>;

    /// Writes all of `bytes` at byte `offset`, or fails. A short write is the implementor's to
    /// continue.
    fn write_at(&self, offset: u64, bytes: Vec<u8>) -> impl Future<Output = io::Result<()>>;

    /// Makes what was written durable, with the length that reading it back needs (fdatasync).
    fn sync_data(&self) -> impl Future<Output = io::Result<()>>;

    /// The file's length in bytes.
    fn len(&self) -> impl Future<Output = io::Result<u64>>;

    /// Cuts the file to `len` bytes. Room that was reserved behind them is given back.
    fn truncate(&self, len: u64) -> impl Future<Output = io::Result<()>>;

    /// Reserves disk space for the first `len` bytes, so that writing them does not fail because the
    /// disk is full. The file's length stays. `Unsupported` if the file system cannot reserve.
    fn reserve(&self, len: u64) -> impl Future<Output = io::Result<()>>;
}

/// Returns `true` if the disk, or the user's quota, is full.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Whether the file system does not know how.
pub(crate) fn is_unsupported(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput
    )
}
