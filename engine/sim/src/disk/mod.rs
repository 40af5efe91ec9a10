//! The blob logs that serve, over a virtual disk.
//!
//! ```text
//!  world ── Errand ──▶ SimLog ── BlobLog (the real keyway-store) ──▶ VirtualFiles: slow, failing, hanging, full
//!        ◀── Done ────   │  one of each shard, futures polled here             │ one of the node
//!                        └──────────── crash, start ──────────▶ SimDisk ◀──────┘
//! ```
//!
//! A [`SimDisk`] outlives the processes of a node, a [`SimLog`] dies with its own. [`history`] runs them alone, with an
//! oracle of their own.

mod errands;
mod executor;
pub mod history;
mod log;
mod mood;

use crate::dice::Dice;
use executor::finish;
use keyway_store::virtual_files::{Lie, VirtualFiles};
use keyway_store::{BlobLog, Files, LogOptions, VersionsOf, move_keys};
pub use log::{LogRecord, SimLog};
use mood::Decider;
pub use mood::DiskMood;
use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;

/// The smallest there is, so that segments are sealed and compacted.
const SEGMENT_BYTES: u32 = keyway_store::SEGMENT_BYTES_MIN;

/// The disk of a node.
pub struct SimDisk {
    files: VirtualFiles,
    decider: Rc<RefCell<Decider>>,
    dice: Dice,
    mood: DiskMood,
    /// How many directories of logs there have been: one more with each other number of shards.
    generation: u32,
    shard_count: u16,
    damage: Vec<String>,
    versions_of: VersionsOf,
}

impl SimDisk {
    /// Returns an empty disk.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut disk = Self {
            files: VirtualFiles::default(),
            decider: Rc::new(RefCell::new(Decider::new(Dice::new(seed)))),
            dice: Dice::of(seed, 1, 0, 0),
            mood: DiskMood::default(),
            generation: 0,
            shard_count: 0,
            damage: Vec::new(),
            versions_of: |_| None,
        };
        disk.mount(VirtualFiles::default());
        disk
    }

    fn mount(&mut self, files: VirtualFiles) {
        let decider = Rc::clone(&self.decider);
        files.decide_by(move |call| decider.borrow_mut().decide(call));
        files.set_full(self.mood.is_full);
        self.files = files;
    }

    /// Changes how the disk behaves from the next call on. Calls that hang end.
    pub fn set_mood(&mut self, mood: DiskMood) {
        self.mood = mood;
        self.decider.borrow_mut().mood = mood;
        self.files.set_full(mood.is_full);
        self.files.release();
    }

    /// Sets what tells the versions that a blob holds: see [`LogOptions::versions_of`].
    pub fn set_versions_of(&mut self, versions_of: VersionsOf) {
        self.versions_of = versions_of;
    }

    /// Makes the disk report what it has not done, for a check of the checks.
    pub fn lie(&self, lie: Lie) {
        self.files.lie(lie);
    }

    /// Starts a process with this many shards at `now_us`: returns their logs. With another number of shards than
    /// before, the keys are moved to the logs of their owners first.
    ///
    /// # Panics
    /// The log does not open: the disk has no faults at a start.
    pub fn start<T: 'static>(
        &mut self,
        now_us: u64,
        shard_count: u16,
        route: impl Fn(u32, &[u8]) -> usize,
    ) -> Vec<SimLog<T>> {
        self.decider.borrow_mut().is_instant = true;
        self.files.set_full(false);
        if self.shard_count != shard_count {
            let before = self.options();
            self.generation += 1;
            self.shard_count = shard_count;
            if !before.is_empty() {
                let moved = move_keys(&self.files, before, self.options(), route, |_| {});
                finish(moved).expect("the keys are moved");
                self.remove_generation(self.generation - 1);
            }
        }
        self.files.advance(now_us);
        self.damage.clear();
        let mut logs = Vec::new();
        for options in self.options() {
            let shard = options.shard_index;
            let opened = BlobLog::open(self.files.clone(), options, |_| {});
            let (log, recovery) = finish(opened).expect("the log opens");
            let damage = recovery.damage.iter();
            self.damage
                .extend(damage.map(|damage| format!("log {shard}: {damage:?}")));
            let (files, decider) = (self.files.clone(), Rc::clone(&self.decider));
            logs.push(SimLog::new(files, decider, log, now_us));
        }
        self.files.set_full(self.mood.is_full);
        self.decider.borrow_mut().is_instant = false;
        logs
    }

    /// Returns the damage that the last start found. A disk without bad sectors has none, whatever was lost with the power.
    #[must_use]
    pub fn damage(&self) -> &[String] {
        &self.damage
    }

    fn remove_generation(&self, generation: u32) {
        let old = dir(generation);
        for path in self.files.names() {
            if path.starts_with(&old) {
                finish(self.files.remove(&path)).expect("the disk has no faults at a start");
                let parent = path.parent().expect("a segment is in a directory");
                finish(self.files.sync_dir(parent)).expect("the disk has no faults at a start");
            }
        }
    }

    fn options(&self) -> Vec<LogOptions> {
        let options = |shard: u16| {
            let dir = dir(self.generation).join(format!("shard-{shard:03}"));
            let mut options =
                LogOptions::new(dir, [7; 16], self.generation, shard, self.shard_count);
            options.segment_bytes = SEGMENT_BYTES;
            options.versions_of = self.versions_of;
            options
        };
        (0..self.shard_count).map(options).collect()
    }

    /// Ends the process: its logs, and what they were doing. If the power was cut, any part of what was not synced is
    /// lost.
    pub fn crash<T>(&mut self, logs: Vec<SimLog<T>>, is_power_cut: bool) {
        let dice = &mut self.dice;
        let files = match is_power_cut {
            true => self
                .files
                .after_power_cut(&mut |bound| dice.below(bound as u64) as usize),
            false => self.files.after_process_death(),
        };
        drop(logs);
        self.mount(files);
    }
}

fn dir(generation: u32) -> PathBuf {
    PathBuf::from(format!("blobs-{generation}"))
}
