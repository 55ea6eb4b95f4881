//! The scheduler: round robin with a quantum.
//!
//! A VM that wakes goes to the end of the queue, one whose quantum has run out too. That is fair among VMs that
//! always want to run, and gives no VM a way past another; shares and latency are the business of the fair
//! queue that will take this module's place.

use alloc::collections::VecDeque;

/// How long a VM runs while others wait, in nanoseconds.
pub const QUANTUM_NS: u64 = 4_000_000;

/// The VMs that can run, in the order in which they will. Each is in it at most once: the caller sees to that.
#[derive(Debug, Default)]
pub struct Scheduler {
    runnable: VecDeque<u32>,
}

impl Scheduler {
    /// An empty queue.
    #[must_use]
    pub const fn new() -> Self {
        Self { runnable: VecDeque::new() }
    }

    /// Makes room for so many VMs, so that no later call allocates.
    pub fn reserve(&mut self, nr_vms: usize) {
        self.runnable.reserve(nr_vms.saturating_sub(self.runnable.len()));
    }

    /// A VM can run.
    pub fn enqueue(&mut self, vm: u32) {
        self.runnable.push_back(vm);
    }

    /// Takes the VM that runs next out of the queue.
    pub fn pick(&mut self) -> Option<u32> {
        self.runnable.pop_front()
    }

    /// A VM cannot run any more, or runs out of its turn. Nothing happens if it does not wait.
    pub fn sleep(&mut self, vm: u32) {
        if let Some(place) = self.runnable.iter().position(|&waiting| waiting == vm) {
            self.runnable.remove(place);
        }
    }

    /// Takes a VM out of the queue that another core can have: the one whose turn would come last.
    pub fn spare(&mut self) -> Option<u32> {
        self.runnable.pop_back()
    }

    /// Whether no VM waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.runnable.is_empty()
    }

    /// How many VMs wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.runnable.len()
    }

    /// Whether a VM that has run so long gives way now.
    #[must_use]
    pub fn is_over(&self, ran_ns: u64) -> bool {
        ran_ns >= QUANTUM_NS && !self.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_gets_a_turn_before_anybody_gets_two() {
        let mut scheduler = Scheduler::new();
        for vm in 0..10 {
            scheduler.enqueue(vm);
        }
        for turn in 0..30 {
            let vm = scheduler.pick();
            assert_eq!(vm, Some(turn % 10));
            scheduler.enqueue(turn % 10);
        }
    }

    #[test]
    fn who_sleeps_has_no_turn() {
        let mut scheduler = Scheduler::new();
        (0..3).for_each(|vm| scheduler.enqueue(vm));
        scheduler.sleep(1);
        scheduler.sleep(7);
        assert_eq!([(); 3].map(|()| scheduler.pick()), [Some(0), Some(2), None]);
    }

    #[test]
    fn a_lone_vm_runs_on() {
        let mut scheduler = Scheduler::new();
        assert!(!scheduler.is_over(u64::MAX));
        scheduler.enqueue(1);
        assert!(!scheduler.is_over(QUANTUM_NS - 1));
        assert!(scheduler.is_over(QUANTUM_NS));
    }
}
