//! State of the one thread there is.

use core::cell::RefCell;

/// A value that everything in this VM shares.
pub(crate) struct Single<T>(RefCell<T>);

// SAFETY: a VM has one processor, no threads, and takes no upcalls: nothing runs beside the holder of a borrow, and
// the cell itself refuses a second one.
unsafe impl<T> Sync for Single<T> {}

impl<T> Single<T> {
    pub const fn new(value: T) -> Self {
        Self(RefCell::new(value))
    }

    /// Works on the value.
    ///
    /// # Panics
    /// If `work` comes back here.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        work(&mut self.0.borrow_mut())
    }
}
