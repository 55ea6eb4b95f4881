//! The queue of tasks that are ready to run, on the one thread there is.

use crate::burst;
use alloc::collections::VecDeque;
use async_task::{Runnable, Task};
use core::cell::RefCell;
use core::future::Future;

/// Tasks that are ready, oldest first.
pub(crate) struct ReadyQueue {
    ready: RefCell<VecDeque<Runnable>>,
}

impl ReadyQueue {
    pub const fn new() -> Self {
        Self { ready: RefCell::new(VecDeque::new()) }
    }

    /// Makes a task of `future`, ready to run.
    ///
    /// # Safety
    /// The task's wakers must stay on this thread, and `self` must outlive them and the future.
    pub unsafe fn spawn<T>(&'static self, future: impl Future<Output = T>) -> Task<T> {
        let schedule = move |runnable| self.ready.borrow_mut().push_back(runnable);
        // SAFETY: neither future nor wakers leave this thread or outlive what they borrow, as the caller promises.
        let (runnable, task) = unsafe { async_task::spawn_unchecked(future, schedule) };
        runnable.schedule();
        task
    }

    /// Runs ready tasks, also those that become ready meanwhile, but at most `limit` of them, so that tasks that
    /// are always ready do not keep the network from being served.
    pub fn run(&self, limit: usize) {
        for _ in 0..limit {
            // The queue is not borrowed while a task runs.
            let next = self.ready.borrow_mut().pop_front();
            match next {
                Some(runnable) => {
                    runnable.run();
                }
                None => return,
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.ready.borrow().is_empty()
    }

    /// Gives back what a burst of tasks has left.
    pub fn trim(&self) {
        burst::trim(&mut self.ready.borrow_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::boxed::Box;
    use alloc::rc::Rc;
    use core::cell::Cell;
    use core::task::Poll;

    async fn yield_now() {
        let mut has_yielded = false;
        core::future::poll_fn(|context| {
            if core::mem::replace(&mut has_yielded, true) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    #[test]
    fn tasks_run_to_the_end_and_take_turns() {
        let queue: &'static ReadyQueue = Box::leak(Box::new(ReadyQueue::new()));
        let count = Rc::new(Cell::new(0));
        for _ in 0..3 {
            let count = count.clone();
            let work = async move {
                for _ in 0..4 {
                    count.set(count.get() + 1);
                    yield_now().await;
                }
            };
            // SAFETY: one thread, and the queue lives for ever.
            unsafe { queue.spawn(work) }.detach();
        }
        queue.run(3);
        assert_eq!(count.get(), 3);
        assert!(!queue.is_empty());
        queue.run(1000);
        assert_eq!(count.get(), 12);
        assert!(queue.is_empty());
    }

    #[test]
    fn a_burst_leaves_nothing_behind() {
        let queue: &'static ReadyQueue = Box::leak(Box::new(ReadyQueue::new()));
        for _ in 0..100 {
            // SAFETY: one thread, and the queue lives for ever.
            unsafe { queue.spawn(async {}) }.detach();
        }
        queue.trim();
        assert!(!queue.is_empty());
        queue.run(1000);
        queue.trim();
        assert_eq!(queue.ready.borrow().capacity(), 0);
    }

    #[test]
    fn a_dropped_task_is_cancelled_and_its_future_dropped() {
        let queue: &'static ReadyQueue = Box::leak(Box::new(ReadyQueue::new()));
        let alive = Rc::new(());
        let inside = alive.clone();
        let work = async move {
            let _inside = inside;
            core::future::pending::<()>().await;
        };
        // SAFETY: one thread, and the queue lives for ever.
        let task = unsafe { queue.spawn(work) };
        queue.run(10);
        assert_eq!(Rc::strong_count(&alive), 2);
        drop(task);
        queue.run(10);
        assert_eq!(Rc::strong_count(&alive), 1);
    }
}
