//! The keys in memory: a value that reports when it is dropped.

use crate::plan::Name;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

/// The result of simulated loads: no key bytes, but a flag that is cleared when the value is dropped.
#[derive(Debug)]
pub(crate) struct SimKey {
    pub(crate) load: u64,
    ledger: Rc<Ledger>,
}

/// A key that has not been dropped.
#[derive(Clone, Debug)]
pub(crate) struct Alive {
    pub(crate) shard: u16,
    pub(crate) name: Name,
    pub(crate) version: u32,
    pub(crate) started_at: u64,
    pub(crate) started_step: u64,
    /// The step in which it was passed to the core.
    pub(crate) committed_step: u64,
    pub(crate) not_after: u64,
    pub(crate) key_bytes: usize,
    /// Ticks of its shard since it expired.
    pub(crate) ticks_dead: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) alive: RefCell<BTreeMap<u64, Alive>>,
}

impl SimKey {
    pub(crate) fn new(ledger: &Rc<Ledger>, load: u64, alive: Alive) -> Self {
        ledger.alive.borrow_mut().insert(load, alive);
        Self {
            load,
            ledger: Rc::clone(ledger),
        }
    }
}

impl Drop for SimKey {
    fn drop(&mut self) {
        self.ledger.alive.borrow_mut().remove(&self.load);
    }
}

impl Ledger {
    pub(crate) fn of(&self, load: u64) -> Option<Alive> {
        self.alive.borrow().get(&load).cloned()
    }
}
