//! The shard's core, which is never used again once it has panicked.
//!
//! A panic in the middle of one of its steps can leave books that do not agree: a key that is served past its end, a
//! waiter that is never answered. Nothing can be promised of such a core, so the shard stops.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::ops::{Deref, DerefMut};

/// A value that breaks when a panic unwinds through a borrow that may change it.
pub struct CoreCell<T> {
    core: RefCell<T>,
    is_broken: Cell<bool>,
}

impl<T> CoreCell<T> {
    /// A core that is whole.
    pub fn new(core: T) -> CoreCell<T> {
        CoreCell {
            core: RefCell::new(core),
            is_broken: Cell::new(false),
        }
    }

    /// Returns whether it has panicked: the shard must stop.
    pub fn is_broken(&self) -> bool {
        self.is_broken.get()
    }

    /// Borrows it to look at.
    ///
    /// # Panics
    /// It is broken.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.refuse_if_broken();
        self.core.borrow()
    }

    /// Borrows it to change it. A panic while the borrow lasts breaks it, so what may panic and is not the core's own, an
    /// operation with a key above all, is caught inside.
    ///
    /// # Panics
    /// It is broken.
    pub fn borrow_mut(&self) -> CoreMut<'_, T> {
        self.refuse_if_broken();
        CoreMut {
            core: self.core.borrow_mut(),
            is_broken: &self.is_broken,
        }
    }

    fn refuse_if_broken(&self) {
        assert!(!self.is_broken.get(), "the core has panicked before");
    }
}

/// A borrow that may change the core.
pub struct CoreMut<'a, T> {
    core: RefMut<'a, T>,
    is_broken: &'a Cell<bool>,
}

impl<T> Deref for CoreMut<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.core
    }
}

impl<T> DerefMut for CoreMut<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.core
    }
}

impl<T> Drop for CoreMut<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.is_broken.set(true);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_panic_while_it_is_changed_breaks_it_for_good() {
        let cell = CoreCell::new(1);
        let changed = catch_unwind(AssertUnwindSafe(|| {
            let mut core = cell.borrow_mut();
            *core = 2;
            panic!("half-way");
        }));
        assert!(changed.is_err() && cell.is_broken());
        assert!(catch_unwind(AssertUnwindSafe(|| *cell.borrow())).is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| *cell.borrow_mut() = 3)).is_err());
    }

    #[test]
    fn a_panic_that_is_caught_inside_or_happens_outside_leaves_it_whole() {
        let cell = CoreCell::new(1);
        let mut core = cell.borrow_mut();
        assert!(catch_unwind(|| panic!("an operation")).is_err());
        *core = 2;
        drop(core);
        let outside = catch_unwind(AssertUnwindSafe(|| {
            drop(cell.borrow_mut());
            panic!("elsewhere");
        }));
        assert!(outside.is_err() && !cell.is_broken());
        assert_eq!(*cell.borrow(), 2);
    }
}
