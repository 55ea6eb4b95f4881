//! Parts of the kernel that can be switched off, to measure what they are worth.
//!
//! Nothing of this is for use: a machine with a part switched off keeps all that is promised of isolation, and is
//! slower. Source: Whitaker, Shaw, Gribble, "Scale and Performance in the Denali Isolation Kernel" (2002).

use crate::core::Core;
use crate::vm::State;
use alloc::collections::VecDeque;
use hal::{Hardware, MAX_TRANSFER_PAGES, Nanos};

/// VMs that wait to be switched to because something has arrived for them. Those beyond wait for their turn.
const MAX_URGENT: usize = 256;

/// What is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switches {
    /// Frames wait until their VM is dispatched in its turn, and are then delivered all together. Without it, each
    /// frame that arrives for a VM that could take it makes the core switch to that VM at once, before it looks at
    /// the next frame; the VM that ran goes to the queue.
    pub batching: bool,
    /// A VM that sleeps until a time is not dispatched before, unless something is pending. Without it, its `idle`
    /// returns at once, and the VM is dispatched in its turn to ask again. A VM that sleeps without a time still does.
    pub idle_timeout: bool,
    /// Packs that lie behind each other on disk are written together until a write has so many blocks. With 1 each
    /// is written alone.
    pub write_blocks: usize,
}

impl Default for Switches {
    fn default() -> Self {
        Self { batching: true, idle_timeout: true, write_blocks: MAX_TRANSFER_PAGES }
    }
}

/// The switches, and what they need.
#[derive(Debug, Default)]
pub struct Ablation {
    pub(crate) switches: Switches,
    /// VMs that run next, whatever the scheduler says; at most [`MAX_URGENT`].
    urgent: VecDeque<u32>,
}

impl<H: Hardware> Core<'_, H> {
    /// Switches parts off, for measurements.
    pub fn set_switches(&mut self, switches: Switches) {
        self.ablation.switches = switches;
    }

    /// A frame waits for a VM. The one that runs now is not in the table: it gets its frames anyway.
    pub(crate) fn note_arrival(&mut self, number: u32) {
        if self.ablation.switches.batching || self.ablation.urgent.len() >= MAX_URGENT {
            return;
        }
        let can_run = self.vms.get(number).is_some_and(|vm| vm.state == State::Runnable);
        if can_run && !self.ablation.urgent.contains(&number) {
            self.ablation.urgent.push_back(number);
            self.scheduler.look_again();
        }
    }

    /// Whether the core has to switch to a VM before it does anything else.
    pub(crate) fn has_urgent(&self) -> bool {
        !self.ablation.urgent.is_empty()
    }

    /// The VM that runs next.
    pub(crate) fn next_vm(&mut self, now: Nanos) -> Option<u32> {
        let Some(number) = self.ablation.urgent.pop_front() else { return self.scheduler.pick(now) };
        self.scheduler.sleep(number);
        if self.has_urgent() {
            self.scheduler.look_again();
        }
        Some(number)
    }
}
