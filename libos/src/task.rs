//! Tasks: futures that run beside each other on the one thread there is.
//!
//! ```
//! # libos::block_on(async {
//! use libos::task::{Either, select, spawn};
//! use libos::time::{Duration, sleep};
//!
//! // Beside this task; awaiting the handle gives its value, dropping the handle cancels it.
//! let answer = spawn(async { 6 * 7 });
//! assert_eq!(answer.await, 42);
//!
//! // Whichever is first; the other one is dropped.
//! let slow = sleep(Duration::from_secs(3600));
//! match select(async { "quick" }, slow).await {
//!     Either::First(word) => assert_eq!(word, "quick"),
//!     Either::Second(()) => unreachable!(),
//! }
//! # });
//! ```
//!
//! `join` and `select` are [`embassy_futures`]'s.

pub use embassy_futures::join::{join, join_array, join3};
pub use embassy_futures::select::{Either, Either3, select, select_array, select_slice, select3};

use core::future::{Future, poll_fn};
use core::pin::Pin;
use core::task::{Context, Poll};

/// A spawned task. Awaiting it gives what the task returns. **Dropping it cancels the task**, as in the smol
/// family: call [`JoinHandle::detach`] to let it run on its own.
///
/// ```
/// # libos::block_on(async {
/// use libos::task::{JoinHandle, spawn, yield_now};
///
/// let tasks: Vec<JoinHandle<u32>> = (0..3).map(|n| spawn(async move { n * n })).collect();
/// while !tasks.iter().all(JoinHandle::is_finished) {
///     yield_now().await;
/// }
/// let mut sum = 0;
/// for task in tasks {
///     sum += task.await;
/// }
/// assert_eq!(sum, 5);
/// # });
/// ```
#[derive(Debug)]
#[must_use = "a task is cancelled when its handle is dropped: await it or detach it"]
pub struct JoinHandle<T>(async_task::Task<T>);

impl<T> JoinHandle<T> {
    /// Lets the task run on its own.
    pub fn detach(self) {
        self.0.detach();
    }

    /// Cancels the task and waits until it is gone. Returns what it had returned, if it had.
    ///
    /// ```
    /// # libos::block_on(async {
    /// let task = libos::task::spawn(core::future::pending::<()>());
    /// assert_eq!(task.cancel().await, None);
    /// # });
    /// ```
    pub async fn cancel(self) -> Option<T> {
        self.0.cancel().await
    }

    /// Whether the task has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.0.is_finished()
    }
}

impl<T> Future for JoinHandle<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        Pin::new(&mut self.0).poll(context)
    }
}

/// Starts a task beside the one that calls this. On the host it runs while its thread is in `block_on` or `main`.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> JoinHandle<T> {
    #[cfg(firn_guest)]
    return JoinHandle(crate::guest::runtime::spawn(future));
    #[cfg(not(firn_guest))]
    return JoinHandle(crate::host::spawn(future));
}

/// Lets every other ready task run once.
///
/// ```
/// # libos::block_on(async {
/// use std::{cell::Cell, rc::Rc};
///
/// let has_run = Rc::new(Cell::new(false));
/// let flag = has_run.clone();
/// libos::task::spawn(async move { flag.set(true) }).detach();
/// while !has_run.get() {
///     libos::task::yield_now().await;
/// }
/// # });
/// ```
pub async fn yield_now() {
    let mut has_yielded = false;
    poll_fn(|context| {
        if core::mem::replace(&mut has_yielded, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::rc::Rc;
    use core::cell::Cell;

    #[test]
    fn tasks_return_values_and_are_cancelled_when_dropped() {
        crate::block_on(async {
            assert_eq!(spawn(async { 6 * 7 }).await, 42);
            let count = Rc::new(Cell::new(0));
            let counter = |count: Rc<Cell<u32>>| async move {
                loop {
                    count.set(count.get() + 1);
                    yield_now().await;
                }
            };
            let dropped = spawn(counter(count.clone()));
            yield_now().await;
            drop(dropped);
            yield_now().await;
            let frozen = count.get();
            for _ in 0..5 {
                yield_now().await;
            }
            assert_eq!(count.get(), frozen);
            let done = Rc::new(Cell::new(false));
            let flag = done.clone();
            spawn(async move { flag.set(true) }).detach();
            yield_now().await;
            yield_now().await;
            assert!(done.get());
        });
    }
}
