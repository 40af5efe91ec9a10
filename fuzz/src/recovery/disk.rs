//! A disk in memory, with a directory's files and no faults.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::rc::Rc;

use keyway_store::{File, Files};

type Bytes = Rc<RefCell<Vec<u8>>>;

/// Files by name; clones are the same disk.
#[derive(Clone, Default)]
pub(super) struct MemoryFiles(Rc<RefCell<BTreeMap<String, Bytes>>>);

/// An open file.
pub(super) struct MemoryFile(Bytes);

impl MemoryFiles {
    /// All files' bytes, by name, in order.
    pub(super) fn contents(&self) -> BTreeMap<String, Vec<u8>> {
        let files = self.0.borrow();
        let copied = files
            .iter()
            .map(|(name, bytes)| (name.clone(), bytes.borrow().clone()));
        copied.collect()
    }

    /// One file's bytes.
    pub(super) fn copy_of(&self, name: &str) -> Vec<u8> {
        self.0.borrow()[name].borrow().clone()
    }

    /// Changes a file's bytes at will.
    pub(super) fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.0.borrow()[name].borrow_mut());
    }
}

fn name_of(path: &Path) -> io::Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    name.map(str::to_owned)
        .ok_or(io::ErrorKind::InvalidFilename.into())
}

impl Files for MemoryFiles {
    type File = MemoryFile;

    async fn create(&self, path: &Path) -> io::Result<MemoryFile> {
        let name = name_of(path)?;
        let mut files = self.0.borrow_mut();
        if files.contains_key(&name) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let bytes = Bytes::default();
        files.insert(name, bytes.clone());
        Ok(MemoryFile(bytes))
    }

    async fn open(&self, path: &Path) -> io::Result<MemoryFile> {
        let files = self.0.borrow();
        let bytes = files.get(&name_of(path)?).ok_or(io::ErrorKind::NotFound)?;
        Ok(MemoryFile(bytes.clone()))
    }

    async fn list(&self, _dir: &Path) -> io::Result<Vec<String>> {
        Ok(self.0.borrow().keys().cloned().collect())
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.0.borrow_mut().remove(&name_of(path)?);
        removed.map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
    }

    async fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl File for MemoryFile {
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let bytes = self.0.borrow();
        let start = (offset as usize).min(bytes.len());
        Ok(bytes[start..(start + len).min(bytes.len())].to_vec())
    }

    async fn write_at(&self, offset: u64, written: Vec<u8>) -> io::Result<()> {
        // The first write of a batch waits, so that a batch is what was put at the same time.
        futures_lite::future::yield_now().await;
        let mut bytes = self.0.borrow_mut();
        let (start, end) = (offset as usize, offset as usize + written.len());
        if bytes.len() < end {
            bytes.resize(end, 0);
        }
        bytes[start..end].copy_from_slice(&written);
        Ok(())
    }

    async fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    async fn len(&self) -> io::Result<u64> {
        Ok(self.0.borrow().len() as u64)
    }

    async fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.borrow_mut().truncate(len as usize);
        Ok(())
    }

    async fn reserve(&self, _len: u64) -> io::Result<()> {
        Ok(())
    }
}
