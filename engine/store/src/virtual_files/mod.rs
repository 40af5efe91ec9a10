//! A disk in memory that takes virtual time, fails, fills up, hangs and loses power.
//!
//! ```text
//!  BlobLog ── Files, File ──▶ VirtualFiles ── Call ──▶ the decider: how long, and which fault
//!                                  │
//!                                  ▼
//!                disk: what programs see, and what the last syncs made durable
//!                                  │ after_power_cut
//!                                  ▼
//!                a disk with the durable part and any of the sectors and names that were not synced
//! ```
//!
//! It has no clock and no threads: a call ends when [`VirtualFiles::advance`] passes its end, or, by default, when it is
//! polled again. The crate's tests and the simulator use the same disk.

mod calls;
mod disk;
mod inode;

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use calls::Wait;
pub use calls::{Call, Fate, Fault, Takes};
use disk::Disk;
pub use disk::Lie;

use crate::seam::{File, Files};

/// A disk in memory. Clones are handles to the same disk.
#[derive(Clone, Default)]
pub struct VirtualFiles(Rc<RefCell<Disk>>);

impl VirtualFiles {
    /// Has each later call decided by `decider`, which must not use this disk.
    pub fn decide_by(&self, decider: impl FnMut(Call) -> Fate + 'static) {
        self.0.borrow_mut().decider = Some(Box::new(decider));
    }

    /// Returns the virtual time at which the next call ends, in µs. `None` if none is in flight, or if all hang.
    pub fn next_at(&self) -> Option<u64> {
        self.0.borrow().pending.next_at()
    }

    /// Moves the virtual time forward to `now_us` and wakes the calls that end by then. Time never moves back.
    pub fn advance(&self, now_us: u64) {
        let wakers = self.0.borrow_mut().pending.advance(now_us);
        for waker in wakers {
            waker.wake();
        }
    }

    /// Returns the virtual time, in µs.
    #[must_use]
    pub fn now_us(&self) -> u64 {
        self.0.borrow().pending.now_us()
    }

    /// Ends the calls that hang.
    pub fn release(&self) {
        let wakers = self.0.borrow_mut().pending.release();
        for waker in wakers {
            waker.wake();
        }
    }

    /// Fills the disk, or frees space on it. On a full disk a call fails if it makes a file longer or creates one.
    pub fn set_full(&self, is_full: bool) {
        self.0.borrow_mut().is_full = is_full;
    }

    /// Makes later calls report what they have not done, also after a power cut.
    pub fn lie(&self, lie: Lie) {
        self.0.borrow_mut().lie = Some(lie);
    }

    /// Makes reads of a file without a name fail, as where a handle is not enough.
    pub fn forget_removed(&self) {
        self.0.borrow_mut().removed_is_gone = true;
    }

    /// Returns the disk as a machine finds it that starts again after a power cut: the durable part and, of what was
    /// changed since, any 512-byte sectors and any names in any combination. `draw` returns a number below its argument.
    #[must_use]
    pub fn after_power_cut(&self, draw: &mut dyn FnMut(usize) -> usize) -> Self {
        let disk = self.0.borrow().after_power_cut(draw);
        Self(Rc::new(RefCell::new(disk)))
    }

    /// Returns the disk as the next process finds it while the machine stays up: all that was written is seen, and what
    /// was not synced is still not durable. What a failed sync dropped is seen as well, and no later sync writes it.
    #[must_use]
    pub fn after_process_death(&self) -> Self {
        let disk = self.0.borrow().after_process_death();
        Self(Rc::new(RefCell::new(disk)))
    }

    /// Returns how many data syncs have ended.
    #[must_use]
    pub fn data_syncs(&self) -> u64 {
        self.0.borrow().data_syncs
    }

    /// Returns the paths of all files, in order.
    #[must_use]
    pub fn names(&self) -> Vec<PathBuf> {
        self.0.borrow().names.keys().cloned().collect()
    }

    /// Changes the bytes of a file, durably. Returns `false` if there is no such file.
    pub fn edit(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>)) -> bool {
        self.0.borrow_mut().edit(path, edit)
    }

    fn wait(&self, takes: Takes) -> Wait {
        Wait::new(&self.0, takes)
    }

    /// Waits for the end of a call, which fails if the power was cut in the meantime.
    async fn end<T>(&self, takes: Takes, outcome: io::Result<T>) -> io::Result<T> {
        self.wait(takes).await;
        self.0.borrow().check_power()?;
        outcome
    }
}

impl Files for VirtualFiles {
    type File = VirtualFile;

    async fn create(&self, path: &Path) -> io::Result<VirtualFile> {
        let (fate, created) = {
            let mut disk = self.0.borrow_mut();
            let fate = disk.begin(Call::Create)?;
            (fate, disk.create(path, fate.fault))
        };
        let inode = self.end(fate.takes, created).await?;
        Ok(VirtualFile {
            files: self.clone(),
            inode,
        })
    }

    async fn open(&self, path: &Path) -> io::Result<VirtualFile> {
        let fate = self.0.borrow_mut().begin(Call::Open)?;
        self.end(fate.takes, Disk::failed(fate.fault)).await?;
        let disk = self.0.borrow();
        let inode = *disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(VirtualFile {
            files: self.clone(),
            inode,
        })
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let fate = self.0.borrow_mut().begin(Call::List)?;
        self.end(fate.takes, Disk::failed(fate.fault)).await?;
        Ok(self.0.borrow().list(dir))
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        let (fate, removed) = {
            let mut disk = self.0.borrow_mut();
            let fate = disk.begin(Call::Remove)?;
            (fate, disk.remove(path, fate.fault))
        };
        self.end(fate.takes, removed).await
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let fate = self.0.borrow_mut().begin(Call::SyncDir)?;
        self.wait(fate.takes).await;
        let mut disk = self.0.borrow_mut();
        disk.check_power()?;
        disk.sync_dir(dir, fate.fault)
    }
}

/// An open file of [`VirtualFiles`].
pub struct VirtualFile {
    files: VirtualFiles,
    inode: usize,
}

impl File for VirtualFile {
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let fate = self.files.0.borrow_mut().begin(Call::Read)?;
        let outcome = Disk::failed(fate.fault);
        self.files.end(fate.takes, outcome).await?;
        let disk = self.files.0.borrow();
        disk.read(self.inode, offset as usize, len)
    }

    async fn write_at(&self, offset: u64, bytes: Vec<u8>) -> io::Result<()> {
        let (fate, written) = {
            let mut disk = self.files.0.borrow_mut();
            let fate = disk.begin(Call::Write)?;
            (
                fate,
                disk.write(self.inode, offset as usize, bytes, fate.fault),
            )
        };
        self.files.end(fate.takes, written).await
    }

    async fn sync_data(&self) -> io::Result<()> {
        let (fate, changes) = {
            let mut disk = self.files.0.borrow_mut();
            let fate = disk.begin(Call::SyncData)?;
            (fate, disk.inodes[self.inode].changes())
        };
        self.files.wait(fate.takes).await;
        let mut disk = self.files.0.borrow_mut();
        disk.check_power()?;
        disk.sync_data(self.inode, changes, fate.fault)
    }

    async fn len(&self) -> io::Result<u64> {
        let fate = self.files.0.borrow_mut().begin(Call::Len)?;
        let outcome = Disk::failed(fate.fault);
        self.files.end(fate.takes, outcome).await?;
        Ok(self.files.0.borrow().inodes[self.inode].now.len() as u64)
    }

    async fn truncate(&self, len: u64) -> io::Result<()> {
        let (fate, cut) = {
            let mut disk = self.files.0.borrow_mut();
            let fate = disk.begin(Call::Truncate)?;
            (fate, disk.truncate(self.inode, len as usize, fate.fault))
        };
        self.files.end(fate.takes, cut).await
    }

    async fn reserve(&self, len: u64) -> io::Result<()> {
        let (fate, reserved) = {
            let mut disk = self.files.0.borrow_mut();
            let fate = disk.begin(Call::Reserve)?;
            (fate, disk.reserve(self.inode, len as usize, fate.fault))
        };
        self.files.end(fate.takes, reserved).await
    }
}
