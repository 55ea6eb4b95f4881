//! Bytes that may be taken, and come back by themselves.

use alloc::rc::Rc;
use core::cell::Cell;

/// A number of bytes, of which parts are taken.
///
/// ```
/// use libos::sync::Budget;
///
/// let budget = Budget::new(100);
/// let mut charge = budget.take(60).unwrap();
/// assert!(budget.take(41).is_none() && !charge.change_to(101));
/// assert!(charge.change_to(90));
/// assert_eq!(budget.left(), 10);
/// drop(charge);
/// assert_eq!(budget.left(), 100);
/// ```
///
/// What grows begins with nothing:
///
/// ```
/// use libos::sync::{Budget, Charge};
///
/// struct Inbox {
///     bytes: Vec<u8>,
///     charge: Charge,
/// }
///
/// impl Inbox {
///     fn push(&mut self, bytes: &[u8]) -> bool {
///         let has_room = self.charge.change_to(self.bytes.len() + bytes.len());
///         if has_room {
///             self.bytes.extend_from_slice(bytes);
///         }
///         has_room
///     }
/// }
///
/// let mut inbox = Inbox { bytes: Vec::new(), charge: Budget::new(10).take_none() };
/// assert!(inbox.push(b"letter") && !inbox.push(b"parcel"));
/// ```
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

    /// Takes nothing yet.
    #[must_use]
    pub fn take_none(&self) -> Charge {
        Charge { budget: self.clone(), bytes: 0 }
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

impl Charge {
    /// Has so many bytes instead. Changes nothing, and says so, if there is not so much.
    #[must_use]
    pub fn change_to(&mut self, bytes: usize) -> bool {
        let Some(left) = self.budget.left().saturating_add(self.bytes).checked_sub(bytes) else { return false };
        self.budget.0.set(left);
        self.bytes = bytes;
        true
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.0.set(self.budget.0.get().saturating_add(self.bytes));
    }
}
