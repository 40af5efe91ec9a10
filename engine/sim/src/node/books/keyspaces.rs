//! What was promised of one keyspace.

use super::super::moves::WrappedBy;
use std::collections::{BTreeMap, BTreeSet};

/// A keyspace.
#[derive(Debug, Default)]
pub(crate) struct Book {
    /// A lock was answered OK or "in force", and no unlock was sent since.
    pub(crate) locked: Option<Taken>,
    /// Users whose withdrawal was answered, and to whom nothing was granted since.
    pub(crate) withdrawn: BTreeMap<u32, Taken>,
    /// Users from whom something was to be withdrawn at any time.
    pub(crate) may_be_withdrawn: BTreeSet<u32>,
    /// The newest generation that a rotation was answered with, and when.
    pub(crate) rotated: Option<(u32, u64)>,
    pub(crate) wrapped: WrappedBy,
    /// Settings by name: value, and when it was answered.
    pub(crate) settings: BTreeMap<&'static str, Setting>,
}

/// Something was taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) at: u64,
    /// It outlives the process.
    pub(crate) is_written: bool,
}

/// A setting, as far as it is known what was set last.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Setting {
    /// `None`: it may be one of several.
    pub(crate) value: Option<u64>,
    /// It may not have been written.
    pub(crate) is_unsure: bool,
}

impl Book {
    /// The process has died.
    pub(crate) fn forget_process(&mut self) {
        self.locked = self.locked.filter(|taken| taken.is_written);
        self.withdrawn.retain(|_, taken| taken.is_written);
        for setting in self.settings.values_mut() {
            if setting.is_unsure {
                setting.value = None;
            }
        }
    }
}
