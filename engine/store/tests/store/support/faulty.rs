//! The store's virtual disk, with faults at a step that is counted.

use std::cell::RefCell;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use keyway_store::Files;
use keyway_store::virtual_files::{Call, Fate, VirtualFile, VirtualFiles};
pub use keyway_store::virtual_files::{Fault, Lie};

use super::Random;

/// A disk whose faults are set by the number of a call.
#[derive(Clone)]
pub struct FaultyFiles {
    files: VirtualFiles,
    script: Rc<RefCell<Script>>,
}

#[derive(Clone, Copy, Default)]
struct Script {
    /// Calls so far that change the disk.
    steps: u64,
    fault: Option<(u64, Fault)>,
    reads: u64,
    failing_read: Option<u64>,
}

impl Script {
    fn decide(&mut self, call: Call) -> Fate {
        let mut fate = Fate::default();
        self.steps += u64::from(call.changes_disk());
        self.reads += u64::from(call == Call::Read);
        if let Some((at, fault)) = self.fault
            && at < self.steps
        {
            self.fault = None;
            fate.fault = Some(fault);
        }
        if call == Call::Read && self.failing_read.is_some_and(|at| at < self.reads) {
            self.failing_read = None;
            fate.fault = Some(Fault::Error);
        }
        fate
    }
}

impl Default for FaultyFiles {
    fn default() -> Self {
        Self::over(VirtualFiles::default())
    }
}

impl FaultyFiles {
    fn over(files: VirtualFiles) -> Self {
        let script = Rc::new(RefCell::new(Script::default()));
        let decider = Rc::clone(&script);
        files.decide_by(move |call| decider.borrow_mut().decide(call));
        Self { files, script }
    }

    /// Steps so far.
    pub fn steps(&self) -> u64 {
        self.script.borrow().steps
    }

    /// Data syncs that have ended.
    pub fn syncs(&self) -> u64 {
        self.files.data_syncs()
    }

    /// Lets the step with this number fail, counted from now.
    pub fn fail_after(&self, steps: u64, fault: Fault) {
        let mut script = self.script.borrow_mut();
        script.fault = Some((script.steps + steps, fault));
    }

    /// Whether the armed fault has come to pass.
    pub fn fault_is_over(&self) -> bool {
        self.script.borrow().fault.is_none()
    }

    /// Lets the read with this number fail, once, counted from now.
    pub fn fail_read_after(&self, reads: u64) {
        let mut script = self.script.borrow_mut();
        script.failing_read = Some(script.reads + reads);
    }

    pub fn reads(&self) -> u64 {
        self.script.borrow().reads
    }

    pub fn make_room(&self) {
        self.files.set_full(false);
    }

    /// Applies to later calls, also after power loss.
    pub fn lie(&self, lie: Lie) {
        self.files.lie(lie);
    }

    pub fn forget_removed(&self) {
        self.files.forget_removed();
    }

    /// The disk as a machine finds it that starts again after the power went.
    pub fn after_power_cut(&self, random: &mut Random) -> Self {
        Self::over(self.files.after_power_cut(&mut |bound| random.below(bound)))
    }

    /// Names of the files there are, in order.
    pub fn names(&self) -> Vec<PathBuf> {
        self.files.names()
    }

    /// A file's bytes, changed at will and durably.
    pub fn edit(&self, path: &Path, edit: impl FnOnce(&mut Vec<u8>)) {
        assert!(self.files.edit(path, edit), "{} is there", path.display());
    }

    /// A copy that goes its own way, with the same faults ahead.
    pub fn copy(&self) -> Self {
        let copy = Self::over(self.files.after_process_death());
        *copy.script.borrow_mut() = *self.script.borrow();
        copy
    }
}

impl Files for FaultyFiles {
    type File = VirtualFile;

    async fn create(&self, path: &Path) -> io::Result<VirtualFile> {
        self.files.create(path).await
    }

    async fn open(&self, path: &Path) -> io::Result<VirtualFile> {
        self.files.open(path).await
    }

    async fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        self.files.list(dir).await
    }

    async fn remove(&self, path: &Path) -> io::Result<()> {
        self.files.remove(path).await
    }

    async fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        self.files.sync_dir(dir).await
    }
}
