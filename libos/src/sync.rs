//! What tasks share: channels, locks, and waking each other.
//!
//! A VM has one processor, and tasks change places only where they await: a `Cell` or a `RefCell` that is not held
//! across an `await` needs no lock. These are for what is.
//!
//! Channels and locks are the smol family's ([`async_channel`], [`async_lock`]), here under the names that Rust
//! programmers look for.

pub use async_lock::{Barrier, Mutex, MutexGuard, OnceCell, RwLock, Semaphore, SemaphoreGuard};

mod budget;

pub use budget::{Budget, Charge};

pub mod channel {
    //! Channels: many senders, many receivers, each message goes to one of them.
    //!
    //! ```
    //! # libos::block_on(async {
    //! use libos::sync::channel;
    //!
    //! let (sender, receiver) = channel::bounded(16);
    //! libos::task::spawn(async move {
    //!     for n in 0..3 {
    //!         sender.send(n).await.unwrap();
    //!     }
    //! })
    //! .detach();
    //! let mut sum = 0;
    //! while let Ok(n) = receiver.recv().await {
    //!     sum += n;
    //! }
    //! assert_eq!(sum, 3);
    //! # });
    //! ```
    pub use async_channel::{Receiver, RecvError, SendError, Sender, TryRecvError, TrySendError, bounded, unbounded};
}

use core::fmt;
use event_listener::Event;

/// Wakes tasks that wait for something to happen.
///
/// A waiter takes part from the call of [`Notify::notified`] on, not from its first poll: looking at the state after
/// that call and before the `await` loses no wake-up.
///
/// ```
/// # libos::block_on(async {
/// use libos::sync::Notify;
/// use std::cell::Cell;
/// use std::rc::Rc;
///
/// let shared = Rc::new((Cell::new(0), Notify::new()));
/// let other = shared.clone();
/// libos::task::spawn(async move {
///     other.0.set(7);
///     other.1.notify_waiters();
/// })
/// .detach();
/// loop {
///     let notified = shared.1.notified();
///     if shared.0.get() == 7 {
///         break;
///     }
///     notified.await;
/// }
/// # });
/// ```
#[derive(Default)]
pub struct Notify(Event);

impl Notify {
    /// Nobody waits.
    #[must_use]
    pub const fn new() -> Self {
        Self(Event::new())
    }

    /// Wakes one of those that wait, the one that has waited longest. Nothing is remembered if nobody does.
    ///
    /// ```
    /// # libos::block_on(async {
    /// let notify = libos::sync::Notify::new();
    /// let (first, second) = (notify.notified(), notify.notified());
    /// notify.notify_one();
    /// first.await;
    /// let soon = libos::time::Duration::from_millis(2);
    /// assert!(libos::time::timeout(soon, second).await.is_err(), "it was for the first alone");
    /// # });
    /// ```
    pub fn notify_one(&self) {
        self.0.notify_additional(1);
    }

    /// Wakes all that wait.
    pub fn notify_waiters(&self) {
        self.0.notify(usize::MAX);
    }

    /// Waits for the next notification.
    pub fn notified(&self) -> impl Future<Output = ()> + use<> {
        self.0.listen()
    }
}

impl fmt::Debug for Notify {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notify").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::{Duration, timeout};
    use crate::{block_on, task};
    use alloc::rc::Rc;
    use alloc::vec::Vec;
    use core::cell::RefCell;

    #[test]
    fn one_notification_wakes_one_and_the_other_wakes_all() {
        block_on(async {
            let shared = Rc::new((Notify::new(), RefCell::new(Vec::new())));
            for n in 0..3 {
                let shared = shared.clone();
                task::spawn(async move {
                    shared.0.notified().await;
                    shared.1.borrow_mut().push(n);
                })
                .detach();
            }
            task::yield_now().await;
            shared.0.notify_one();
            timeout(Duration::from_millis(5), core::future::pending::<()>()).await.unwrap_err();
            assert_eq!(*shared.1.borrow(), [0]);
            shared.0.notify_waiters();
            timeout(Duration::from_millis(5), core::future::pending::<()>()).await.unwrap_err();
            assert_eq!(*shared.1.borrow(), [0, 1, 2]);
        });
    }

    #[test]
    fn a_full_channel_holds_its_sender_back_and_a_lock_lets_one_in() {
        block_on(async {
            let (sender, receiver) = channel::bounded(1);
            sender.send(1).await.unwrap();
            assert!(timeout(Duration::from_millis(2), sender.send(2)).await.is_err());
            assert_eq!(receiver.recv().await, Ok(1));
            drop(sender);
            assert!(receiver.recv().await.is_err());

            let lock = Mutex::new(5);
            let held = lock.lock().await;
            assert!(lock.try_lock().is_none());
            drop(held);
            assert_eq!(*lock.lock().await, 5);
        });
    }
}
