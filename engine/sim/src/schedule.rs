//! Future events in an order that a seed determines.

use std::cmp::Ordering;

/// An event and its time. A heap of them returns the earliest first, and of equal times the one that was added first.
#[derive(Debug)]
pub(crate) struct Scheduled<E> {
    pub(crate) at: u64,
    pub(crate) sequence: u64,
    /// The start of the process to which it belongs.
    pub(crate) incarnation: u64,
    pub(crate) event: E,
}

impl<E> Ord for Scheduled<E> {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.sequence).cmp(&(self.at, self.sequence))
    }
}

impl<E> PartialOrd for Scheduled<E> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<E> PartialEq for Scheduled<E> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<E> Eq for Scheduled<E> {}
