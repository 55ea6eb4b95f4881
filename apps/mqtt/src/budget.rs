//! Bytes that may be taken, and come back by themselves.

use alloc::rc::Rc;
use core::cell::Cell;

/// A number of bytes, of which parts are taken.
#[derive(Clone, Debug)]
pub struct Budget(Rc<Cell<usize>>);

impl Budget {
    /// One of so many bytes.
    #[must_use]
    pub fn new(bytes: usize) -> Self {
        Self(Rc::new(Cell::new(bytes)))
    }

    /// What is left of it.
    #[must_use]
    pub fn left(&self) -> usize {
        self.0.get()
    }

    /// Takes some, or nothing if there is not so much.
    #[must_use]
    pub fn take(&self, bytes: usize) -> Option<Charge> {
        self.0.set(self.0.get().checked_sub(bytes)?);
        Some(Charge { budget: self.clone(), bytes })
    }
}

/// What was taken. It is given back when this is dropped.
#[derive(Debug)]
pub struct Charge {
    budget: Budget,
    bytes: usize,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.0.set(self.budget.0.get().saturating_add(self.bytes));
    }
}
