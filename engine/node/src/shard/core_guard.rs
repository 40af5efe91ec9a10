//! The shard's core, which is never used again once it has panicked.
//!
//! A panic in the middle of one of its steps can leave books that do not agree: a key that is served past its end, a
//! waiter that is never answered. Nothing can be promised of such a core, so the shard stops.

/// A core, and whether a call of it has not come back.
pub(crate) struct CoreGuard<V> {
    core: keyway_core::Shard<V>,
    is_inside: bool,
}

impl<V> CoreGuard<V> {
    pub(crate) fn new(core: keyway_core::Shard<V>) -> Self {
        CoreGuard {
            core,
            is_inside: false,
        }
    }

    /// Returns whether a call has panicked: the shard must stop.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_inside
    }

    /// Calls the core. A panic in `call` breaks it, so what may panic and is not the core's own, an operation with a key
    /// above all, is done outside.
    ///
    /// # Panics
    /// It is broken.
    #[inline]
    pub(crate) fn call<'a, R>(
        &'a mut self,
        call: impl FnOnce(&'a mut keyway_core::Shard<V>) -> R,
    ) -> R {
        assert!(!self.is_inside, "the core has panicked before");
        self.is_inside = true;
        let result = call(&mut self.core);
        self.is_inside = false;
        result
    }

    /// Returns the core, to look at.
    ///
    /// # Panics
    /// It is broken.
    pub(crate) fn view(&self) -> &keyway_core::Shard<V> {
        assert!(!self.is_inside, "the core has panicked before");
        &self.core
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    #[test]
    fn a_panic_inside_a_call_breaks_the_core_for_good() {
        let core = keyway_core::Shard::<()>::new(keyway_core::Limits::default(), 1);
        let mut core = CoreGuard::new(core.unwrap());
        let outside = catch_unwind(AssertUnwindSafe(|| {
            core.call(|_| ());
            panic!("elsewhere");
        }));
        assert!(outside.is_err() && !core.is_broken());
        let inside = catch_unwind(AssertUnwindSafe(|| core.call(|_| panic!("half-way"))));
        assert!(inside.is_err() && core.is_broken());
        assert!(catch_unwind(AssertUnwindSafe(|| core.call(|_| ()))).is_err());
        assert!(catch_unwind(AssertUnwindSafe(|| core.view().totals())).is_err());
    }
}
