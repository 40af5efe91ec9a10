//! What is on a virtual disk, and what each call does to it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::calls::{Call, Fate, Fault, Pending};
use super::inode::{Inode, Loss};

/// A disk, or an implementation of the seam, that reports what it has not done. Nothing helps against one, and a test
/// that does not notice it notices nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// No data sync does anything.
    NothingSynced,
    /// A data sync leaves out what was written last before it.
    AllButTheLastWrite,
    /// No directory sync does anything.
    NoNames,
}

type Decider = Box<dyn FnMut(Call) -> Fate>;

#[derive(Default)]
pub(super) struct Disk {
    pub inodes: Vec<Inode>,
    pub names: BTreeMap<PathBuf, usize>,
    durable_names: BTreeMap<PathBuf, usize>,
    pub pending: Pending,
    pub decider: Option<Decider>,
    has_no_power: bool,
    pub is_full: bool,
    pub lie: Option<Lie>,
    pub removed_is_gone: bool,
    /// Data syncs that have ended.
    pub data_syncs: u64,
}

impl Disk {
    /// Begins a call: returns how it ends.
    pub fn begin(&mut self, call: Call) -> io::Result<Fate> {
        self.check_power()?;
        let fate = self.decider.as_mut().map(|decide| decide(call));
        let fate = fate.unwrap_or_default();
        match fate.fault {
            Some(Fault::PowerCut) => {
                self.has_no_power = true;
                self.pending.end_all();
            }
            Some(Fault::Full) => self.is_full = true,
            Some(Fault::Error | Fault::Done) | None => {}
        }
        Ok(fate)
    }

    pub fn check_power(&self) -> io::Result<()> {
        match self.has_no_power {
            true => Err(io::Error::other("the power is gone")),
            false => Ok(()),
        }
    }

    /// Returns the error that a call with this fault reports.
    pub fn failed(fault: Option<Fault>) -> io::Result<()> {
        match fault {
            Some(fault @ (Fault::Error | Fault::Done | Fault::PowerCut)) => {
                Err(io::Error::other(format!("{fault:?} on purpose")))
            }
            Some(Fault::Full) | None => Ok(()),
        }
    }

    /// Returns an error if the call fails without an effect.
    fn undone(fault: Option<Fault>) -> io::Result<()> {
        match fault {
            Some(Fault::Done) => Ok(()),
            fault => Self::failed(fault),
        }
    }

    fn check_space(&self) -> io::Result<()> {
        match self.is_full {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }

    pub fn create(&mut self, path: &Path, fault: Option<Fault>) -> io::Result<usize> {
        Self::undone(fault)?;
        self.check_space()?;
        if self.names.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let inode = self.inodes.len();
        self.inodes.push(Inode::default());
        self.names.insert(path.to_owned(), inode);
        Self::failed(fault).map(|()| inode)
    }

    pub fn list(&self, dir: &Path) -> Vec<String> {
        let here = self.names.keys().filter(|path| path.parent() == Some(dir));
        let names = here.filter_map(|path| path.file_name()?.to_str());
        names.map(str::to_owned).collect()
    }

    pub fn remove(&mut self, path: &Path, fault: Option<Fault>) -> io::Result<()> {
        Self::undone(fault)?;
        let removed = self.names.remove(path);
        removed.ok_or(io::ErrorKind::NotFound)?;
        Self::failed(fault)
    }

    pub fn sync_dir(&mut self, dir: &Path, fault: Option<Fault>) -> io::Result<()> {
        Self::undone(fault)?;
        if self.lie != Some(Lie::NoNames) {
            self.durable_names
                .retain(|path, _| path.parent() != Some(dir));
            let here = self.names.iter();
            let here = here.filter(|(path, _)| path.parent() == Some(dir));
            self.durable_names
                .extend(here.map(|(path, inode)| (path.clone(), *inode)));
        }
        Self::failed(fault)
    }

    pub fn read(&self, inode: usize, offset: usize, len: usize) -> io::Result<Vec<u8>> {
        if self.removed_is_gone && !self.names.values().any(|named| *named == inode) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let now = &self.inodes[inode].now;
        let start = offset.min(now.len());
        Ok(now[start..(start + len).min(now.len())].to_vec())
    }

    pub fn write(
        &mut self,
        inode: usize,
        offset: usize,
        mut bytes: Vec<u8>,
        fault: Option<Fault>,
    ) -> io::Result<()> {
        if Self::undone(fault).is_err() {
            bytes.truncate(bytes.len() / 2);
        }
        let space = self.check_space();
        let inode = &mut self.inodes[inode];
        let fits = inode.now.len().max(inode.reserved);
        let fits = fits.saturating_sub(offset);
        let is_cut = space.is_err() && fits < bytes.len();
        if is_cut {
            bytes.truncate(fits);
        }
        inode.write(offset, bytes);
        match is_cut {
            true => Self::failed(fault).and(space),
            false => Self::failed(fault),
        }
    }

    /// Ends a sync of the first `changes` of a file.
    pub fn sync_data(
        &mut self,
        inode: usize,
        changes: u64,
        fault: Option<Fault>,
    ) -> io::Result<()> {
        let left_out = match self.lie {
            Some(Lie::NothingSynced) => usize::MAX,
            Some(Lie::AllButTheLastWrite) => 1,
            Some(Lie::NoNames) | None => 0,
        };
        self.data_syncs += 1;
        let inode = &mut self.inodes[inode];
        match Self::undone(fault) {
            Ok(()) => inode.sync(changes, left_out),
            Err(_) => inode.drop_unsynced(changes),
        }
        Self::failed(fault)
    }

    pub fn truncate(&mut self, inode: usize, len: usize, fault: Option<Fault>) -> io::Result<()> {
        Self::undone(fault)?;
        self.inodes[inode].truncate(len);
        Self::failed(fault)
    }

    pub fn reserve(&mut self, inode: usize, len: usize, fault: Option<Fault>) -> io::Result<()> {
        Self::undone(fault)?;
        let space = self.check_space();
        let inode = &mut self.inodes[inode];
        if inode.now.len().max(inode.reserved) < len {
            space?;
            inode.reserved = len;
        }
        Self::failed(fault)
    }

    pub fn edit(&mut self, path: &Path, edit: impl FnOnce(&mut Vec<u8>)) -> bool {
        let Some(inode) = self.names.get(path) else {
            return false;
        };
        self.inodes[*inode].edit(edit);
        true
    }

    pub fn after_power_cut(&self, draw: &mut dyn FnMut(usize) -> usize) -> Self {
        let mut loss = Loss::new(draw);
        let inodes = self.inodes.iter();
        let inodes = inodes.map(|inode| inode.after_power_cut(&mut loss));
        let inodes = inodes.collect();
        let mut names = self.durable_names.clone();
        let changed: BTreeSet<_> = names.keys().chain(self.names.keys()).cloned().collect();
        for name in changed {
            if loss.keeps() {
                match self.names.get(&name) {
                    Some(inode) => names.insert(name, *inode),
                    None => names.remove(&name),
                };
            }
        }
        Self {
            inodes,
            durable_names: names.clone(),
            names,
            lie: self.lie,
            ..Self::default()
        }
    }

    pub fn after_process_death(&self) -> Self {
        Self {
            inodes: self.inodes.clone(),
            names: self.names.clone(),
            durable_names: self.durable_names.clone(),
            is_full: self.is_full,
            lie: self.lie,
            removed_is_gone: self.removed_is_gone,
            ..Self::default()
        }
    }
}
