//! A disk in memory that works.

use keyway_store::{File, Files};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

type Bytes = Rc<RefCell<Vec<u8>>>;

#[derive(Clone, Default)]
pub(crate) struct Disk(Rc<RefCell<BTreeMap<PathBuf, Bytes>>>);

pub(crate) struct OpenFile(Bytes);

impl Disk {
    /// The contents of the files, in the order of their names.
    pub(crate) fn files(&self) -> Vec<Bytes> {
        self.0.borrow().values().cloned().collect()
    }
}

impl Files for Disk {
    type File = OpenFile;

    async fn create(&self, path: &Path) -> io::Result<OpenFile> {
        let mut files = self.0.borrow_mut();
        if files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let bytes = Bytes::default();
        files.insert(path.to_owned(), Rc::clone(&bytes));
        Ok(OpenFile(bytes))
    }

    async fn open(&self, path: &Path) -> io::Result<OpenFile> {
        let bytes = self.0.borrow().get(path).cloned();
        bytes.map(OpenFile).ok_or(io::ErrorKind::NotFound.into())
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let files = self.0.borrow();
        let here = files.keys().filter(|path| path.parent() == Some(dir));
        let names = here.filter_map(|path| path.file_name());
        Ok(names
            .map(|name| name.to_string_lossy().into_owned())
            .collect())
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        let removed = self.0.borrow_mut().remove(path);
        removed.map(|_| ()).ok_or(io::ErrorKind::NotFound.into())
    }

    async fn sync_dir(&self, _dir: &Path) -> io::Result<()> {
        Ok(())
    }
}

impl File for OpenFile {
    async fn read_at(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let bytes = self.0.borrow();
        let from = (offset as usize).min(bytes.len());
        let to = from.saturating_add(len).min(bytes.len());
        Ok(bytes[from..to].to_vec())
    }

    async fn write_at(&self, offset: u64, written: Vec<u8>) -> io::Result<()> {
        let mut bytes = self.0.borrow_mut();
        let (from, to) = (offset as usize, offset as usize + written.len());
        if bytes.len() < to {
            bytes.resize(to, 0);
        }
        bytes[from..to].copy_from_slice(&written);
        Ok(())
    }

    async fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }

    async fn len(&self) -> io::Result<u64> {
        Ok(self.0.borrow().len() as u64)
    }

    async fn truncate(&self, len: u64) -> io::Result<()> {
        self.0.borrow_mut().resize(len as usize, 0);
        Ok(())
    }
}
