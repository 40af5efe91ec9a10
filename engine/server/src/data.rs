//! The data directory as the control thread sees it, which knows no blob store.

use std::io;
use std::path::PathBuf;

use keyway_store::DataDir;

use crate::control::catalogue_file::Place;
use keyway_node::catalogue;

impl Place for DataDir {
    fn path(&self) -> PathBuf {
        DataDir::path(self).join(catalogue::FILE)
    }

    fn read(&self) -> io::Result<String> {
        std::fs::read_to_string(Place::path(self))
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let written = self.write_file(catalogue::FILE, bytes);
        written.map_err(io::Error::other)
    }

    fn mark(&self, name: &str) -> u64 {
        DataDir::mark(self, name)
    }

    fn raise_marks(&self, marks: &[(&str, u64)]) -> io::Result<()> {
        DataDir::raise_marks(self, marks).map_err(io::Error::other)
    }

    fn has_keys(&self) -> io::Result<bool> {
        self.has_records().map_err(io::Error::other)
    }
}
