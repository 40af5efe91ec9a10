//! The outcome of staged records, for the tasks that wait for it.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::error::PutError;

/// The outcome of one staged record, or of several together: durable once all are, failed once one
/// has failed and none is in progress.
#[derive(Debug, Default)]
pub(crate) struct Receipt {
    under_way: Cell<usize>,
    failure: RefCell<Option<PutError>>,
}

impl Receipt {
    pub fn new() -> Rc<Self> {
        Rc::default()
    }

    /// One more record is staged under this receipt.
    pub fn add(&self) {
        self.under_way.set(self.under_way.get() + 1);
    }

    /// One of its records is durable and in the index, or is not needed any more.
    pub fn settle(&self) {
        self.under_way.set(self.under_way.get() - 1);
    }

    /// One of its records was not written.
    pub fn fail(&self, error: &PutError) {
        self.settle();
        self.failure
            .borrow_mut()
            .get_or_insert_with(|| error.clone());
    }

    /// Returns `None` while a record is in progress.
    pub fn outcome(&self) -> Option<Result<(), PutError>> {
        if self.under_way.get() > 0 {
            return None;
        }
        Some(self.failure.borrow().clone().map_or(Ok(()), Err))
    }
}
