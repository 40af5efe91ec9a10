//! A disk in memory that fails, tears and loses power on command.
//!
//! It holds, beside what a running program sees, what the last syncs made durable. A power cut
//! keeps the durable part and, of what was written since, any 512-byte sectors in any
//! combination; of names made and removed since the last directory sync, any. A failed sync drops
//! what it should have written, as Linux does: the program still reads it, and no later sync
//! writes it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use futures_lite::future::yield_now;
use keyway_store::{File, Files};

use super::Random;

const SECTOR_LEN: usize = 512;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// This and every later call fails.
    PowerCut,
    /// This call fails, the next ones do not.
    Error,
    /// The disk is full: what makes a file longer, or a new one, fails, until
    /// [`FaultyFiles::make_room`].
    Full,
}

/// A disk, or a seam, that says "done" without doing it: against such a one nothing helps, and a
/// test that does not notice it notices nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// No data sync does anything.
    NothingSynced,
    /// A data sync leaves out what was written last before it.
    AllButTheLastWrite,
    /// No directory sync does anything.
    NoNames,
}

#[derive(Clone, Default)]
pub struct FaultyFiles(Rc<RefCell<Disk>>);

#[derive(Clone, Default)]
struct Disk {
    inodes: Vec<Inode>,
    names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    /// Calls so far that change the disk.
    steps: u64,
    fault: Option<(u64, Fault)>,
    dead: bool,
    syncs: u64,
    reads: u64,
    failing_read: Option<u64>,
    full: bool,
    lie: Option<Lie>,
    /// Reading a file without a name fails, as it does where a handle is not enough.
    removed_is_gone: bool,
}

#[derive(Clone, Default)]
struct Inode {
    /// Bytes that it can have without taking room.
    reserved: usize,
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

/// The outcome of a call.
enum Fate {
    Done,
    Half(io::Error),
}

impl FaultyFiles {
    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.0.borrow().steps
    }

    /// Data syncs so far.
    pub fn syncs(&self) -> u64 {
        self.0.borrow().syncs
    }

    /// Lets the step with this number fail, counted from now.
    pub fn fail_after(&self, steps: u64, fault: Fault) {
        let mut disk = self.0.borrow_mut();
        let at = disk.steps + steps;
        disk.fault = Some((at, fault));
    }

    /// Whether the armed fault has come to pass.
    pub fn fault_is_over(&self) -> bool {
        self.0.borrow().fault.is_none()
    }

    /// Lets the read with this number fail, once, counted from now.
    pub fn fail_read_after(&self, reads: u64) {
        let mut disk = self.0.borrow_mut();
        disk.failing_read = Some(disk.reads + reads);
    }

    pub fn reads(&self) -> u64 {
        self.0.borrow().reads
    }

    pub fn make_room(&self) {
        self.0.borrow_mut().full = false;
    }

    /// Applies to later calls, also after power loss.
    pub fn lie(&self, lie: Lie) {
        self.0.borrow_mut().lie = Some(lie);
    }

    pub fn forget_removed(&self) {
        self.0.borrow_mut().removed_is_gone = true;
    }

    /// The disk as a machine finds it that starts again after the power went.
    pub fn after_power_cut(&self, random: &mut Random) -> Self {
        let disk = self.0.borrow();
        // Nothing of the unsynced part, all of it, or any mixture.
        let mode = random.below(4);
        let mut keep = |random: &mut Random| match mode {
            0 => false,
            1 => true,
            _ => random.one_in(2),
        };
        let inodes = disk
            .inodes
            .iter()
            .map(|inode| inode.after_power_cut(random, &mut keep));
        let inodes = inodes.collect();
        let mut names = disk.durable_names.clone();
        let changed: BTreeSet<_> = names.keys().chain(disk.names.keys()).cloned().collect();
        for name in changed {
            if keep(random) {
                match disk.names.get(&name) {
                    Some(inode) => names.insert(name, *inode),
                    None => names.remove(&name),
                };
            }
        }
        let durable_names = names.clone();
        Self(Rc::new(RefCell::new(Disk {
            inodes,
            names,
            durable_names,
            lie: disk.lie,
            ..Disk::default()
        })))
    }

    /// Names of the files there are, in order.
    pub fn names(&self) -> Vec<PathBuf> {
        self.0.borrow().names.keys().cloned().collect()
    }

    /// A file's bytes, changed at will and durably.
    pub fn edit(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
        let mut disk = self.0.borrow_mut();
        let inode = disk.names[path];
        let inode = &mut disk.inodes[inode];
        edit(&mut inode.now);
        inode.durable = inode.now.clone();
        inode.unsynced.clear();
    }

    /// A copy that goes its own way.
    pub fn copy(&self) -> Self {
        Self(Rc::new(RefCell::new(self.0.borrow().clone())))
    }
}

impl Inode {
    fn after_power_cut(
        &self,
        random: &mut Random,
        keep: &mut dyn FnMut(&mut Random) -> bool,
    ) -> Self {
        let mut image = self.durable.clone();
        for change in &self.unsynced {
            match change {
                Change::Truncate(len) => {
                    if keep(random) {
                        image.truncate(*len);
                    }
                }
                Change::Write(offset, bytes) => {
                    let mut at = 0;
                    while at < bytes.len() {
                        let start = offset + at;
                        let len = (SECTOR_LEN - start % SECTOR_LEN).min(bytes.len() - at);
                        if keep(random) {
                            put(&mut image, start, &bytes[at..at + len]);
                        } else if start >= image.len() && random.one_in(4) {
                            // A sector that the file has got and that was never written.
                            let junk = vec![random.next() as u8; len];
                            put(&mut image, start, &junk);
                        }
                        at += len;
                    }
                }
            }
        }
        Self {
            reserved: self.reserved,
            now: image.clone(),
            durable: image,
            unsynced: Vec::new(),
        }
    }
}

fn put(image: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if image.len() < offset + bytes.len() {
        image.resize(offset + bytes.len(), 0);
    }
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

impl Disk {
    fn begin(&mut self) -> io::Result<Fate> {
        self.alive()?;
        self.steps += 1;
        match self.fault {
            Some((at, fault)) if at < self.steps => {
                self.fault = None;
                self.dead = fault == Fault::PowerCut;
                self.full = fault == Fault::Full;
                if self.full {
                    // Whether it matters is for the call to say.
                    return Ok(Fate::Done);
                }
                Ok(Fate::Half(io::Error::other(format!(
                    "{fault:?} at step {}",
                    self.steps
                ))))
            }
            _ => Ok(Fate::Done),
        }
    }

    fn has_room(&self) -> io::Result<()> {
        if self.full {
            Err(io::ErrorKind::StorageFull.into())
        } else {
            Ok(())
        }
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead {
            Err(io::Error::other("the power is gone"))
        } else {
            Ok(())
        }
    }
}

impl Files for FaultyFiles {
    type File = FaultyFile;

    async fn create(&self, path: &Path) -> io::Result<FaultyFile> {
        yield_now().await;
        let mut disk = self.0.borrow_mut();
        if let Fate::Half(error) = disk.begin()? {
            return Err(error);
        }
        disk.has_room()?;
        if disk.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = disk.inodes.len();
        disk.inodes.push(Inode::default());
        disk.names.insert(path.to_owned(), inode);
        Ok(FaultyFile {
            disk: self.0.clone(),
            inode,
        })
    }

    async fn open(&self, path: &Path) -> io::Result<FaultyFile> {
        yield_now().await;
        let disk = self.0.borrow();
        disk.alive()?;
        let inode = *disk.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(FaultyFile {
            disk: self.0.clone(),
            inode,
        })
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let disk = self.0.borrow();
        disk.alive()?;
        let names = disk.names.keys().filter(|path| path.parent() == Some(dir));
        Ok(names
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect())
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        yield_now().await;
        let mut disk = self.0.borrow_mut();
        if let Fate::Half(error) = disk.begin()? {
            return Err(error);
        }
        disk.names
            .remove(path)
            .map(|_| ())
            .ok_or(io::ErrorKind::NotFound.into())
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        yield_now().await;
        let mut disk = self.0.borrow_mut();
        if let Fate::Half(error) = disk.begin()? {
            return Err(error);
        }
        if disk.lie == Some(Lie::NoNames) {
            return Ok(());
        }
        let Disk {
            names,
            durable_names,
            ..
        } = &mut *disk;
        durable_names.retain(|path, _| path.parent() != Some(dir));
        let here = names.iter().filter(|(path, _)| path.parent() == Some(dir));
        durable_names.extend(here.map(|(path, inode)| (path.clone(), *inode)));
        Ok(())
    }
}

pub struct FaultyFile {
    disk: Rc<RefCell<Disk>>,
    inode: usize,
}

impl File for FaultyFile {
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        yield_now().await;
        let mut disk = self.disk.borrow_mut();
        disk.alive()?;
        disk.reads += 1;
        if disk.failing_read.is_some_and(|at| at < disk.reads) {
            disk.failing_read = None;
            return Err(io::Error::other("a bad sector"));
        }
        if disk.removed_is_gone && !disk.names.values().any(|inode| *inode == self.inode) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let now = &disk.inodes[self.inode].now;
        let start = (offset as usize).min(now.len());
        Ok(now[start..(start + len).min(now.len())].to_vec())
    }

    async fn write_at(&self, offset: u64, mut bytes: Vec<u8>) -> io::Result<()> {
        yield_now().await;
        let mut disk = self.disk.borrow_mut();
        let fate = disk.begin()?;
        if let Fate::Half(_) = fate {
            let half = bytes.len() / 2;
            bytes.truncate(half);
        }
        let room = disk.has_room();
        let inode = &mut disk.inodes[self.inode];
        let room_for = inode.now.len().max(inode.reserved);
        let fits = room_for.saturating_sub(offset as usize);
        let is_cut = room.is_err() && fits < bytes.len();
        if is_cut {
            bytes.truncate(fits);
        }
        put(&mut inode.now, offset as usize, &bytes);
        inode.unsynced.push(Change::Write(offset as usize, bytes));
        match fate {
            Fate::Done if is_cut => room,
            Fate::Done => Ok(()),
            Fate::Half(error) => Err(error),
        }
    }

    async fn sync_data(&self) -> io::Result<()> {
        yield_now().await;
        let mut disk = self.disk.borrow_mut();
        let fate = disk.begin()?;
        disk.syncs += 1;
        let (dead, lie) = (disk.dead, disk.lie);
        let inode = &mut disk.inodes[self.inode];
        match fate {
            Fate::Done => {
                let left_out = match lie {
                    Some(Lie::NothingSynced) => inode.unsynced.len(),
                    Some(Lie::AllButTheLastWrite) => 1.min(inode.unsynced.len()),
                    _ => 0,
                };
                let kept = inode.unsynced.split_off(inode.unsynced.len() - left_out);
                // What an earlier failed sync dropped stays dropped.
                for change in std::mem::replace(&mut inode.unsynced, kept) {
                    match change {
                        Change::Write(offset, bytes) => put(&mut inode.durable, offset, &bytes),
                        Change::Truncate(len) => inode.durable.truncate(len),
                    }
                }
                Ok(())
            }
            Fate::Half(error) => {
                if !dead {
                    inode.unsynced.clear();
                }
                Err(error)
            }
        }
    }

    async fn len(&self) -> io::Result<u64> {
        self.disk.borrow().alive()?;
        Ok(self.disk.borrow().inodes[self.inode].now.len() as u64)
    }

    async fn truncate(&self, len: u64) -> io::Result<()> {
        yield_now().await;
        let mut disk = self.disk.borrow_mut();
        if let Fate::Half(error) = disk.begin()? {
            return Err(error);
        }
        let inode = &mut disk.inodes[self.inode];
        inode.now.truncate(len as usize);
        inode.reserved = 0;
        inode.unsynced.push(Change::Truncate(len as usize));
        Ok(())
    }

    async fn reserve(&self, len: u64) -> io::Result<()> {
        yield_now().await;
        let mut disk = self.disk.borrow_mut();
        if let Fate::Half(error) = disk.begin()? {
            return Err(error);
        }
        let room = disk.has_room();
        let inode = &mut disk.inodes[self.inode];
        if inode.now.len().max(inode.reserved) < len as usize {
            room?;
            inode.reserved = len as usize;
        }
        Ok(())
    }
}
