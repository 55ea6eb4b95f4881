//! One VM, and the table of all.

use crate::memory::Memory;
use crate::rings::RingMemory;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use hal::{Access, Frame, Hardware, Nanos, Registers, VectorState};
use policy::bucket::Bucket;
use virtual_isa::control;
use virtual_isa::exception::Ring;
use virtual_isa::gate::Counters;

/// Where a VM is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Created, never started.
    Created,
    /// Could run.
    Runnable,
    /// Sleeps until something enabled is pending.
    Idle,
    /// Kept from running by the supervisor.
    Paused,
    /// Ended. Only its number and its counters are left.
    Ended,
}

/// The kernel's own indices of a VM's rings, which no guest can touch.
#[derive(Clone, Copy, Debug, Default)]
pub struct Indices {
    pub transmit_tail: u32,
    pub receive_head: u32,
    pub console_head: u32,
    pub request_tail: u32,
    pub completion_head: u32,
}

/// A virtual machine.
pub struct Vm<H: Hardware> {
    pub number: u32,
    pub generation: u64,
    pub state: State,
    /// Whether the scheduler's queue holds it.
    pub is_queued: bool,
    /// Whether frames wait in its transmit ring for room on the wire.
    pub is_blocked: bool,
    pub is_privileged: bool,
    pub registers: Registers,
    pub vector: VectorState,
    /// Gone when the VM has ended.
    pub memory: Option<Memory<H::Space>>,
    pub image: u32,
    pub shares: u32,
    pub indices: Indices,
    /// Frames that wait for it, in kernel buffers.
    pub queue: VecDeque<Frame>,
    /// Bytes of the frames in it.
    pub queued_bytes: usize,
    /// Address, access and instruction of its last exit, if that was a page fault.
    pub last_fault: Option<(u64, Access, u64)>,
    /// What it had enabled when it went idle.
    pub enabled: u32,
    /// Its deadline, while it is idle.
    pub deadline: Option<Nanos>,
    pub console: Bucket,
    pub last_spoof_event: Option<Nanos>,
    pub counters: Counters,
}

impl<H: Hardware> Vm<H> {
    /// Its transmit ring, if it has not ended.
    pub fn transmit_ring(&self) -> Option<RingMemory<1>> {
        let fixed = &self.memory.as_ref()?.fixed;
        Some(RingMemory {
            ring: Ring::Transmit,
            control: fixed.control.mpn(),
            pages: [fixed.transmit.mpn()],
            head_at: control::TRANSMIT_HEAD,
            tail_at: control::TRANSMIT_TAIL,
        })
    }

    /// Its receive ring, if it has not ended.
    pub fn receive_ring(&self) -> Option<RingMemory<2>> {
        let fixed = &self.memory.as_ref()?.fixed;
        let [first, second] = &fixed.receive;
        Some(RingMemory {
            ring: Ring::Receive,
            control: fixed.control.mpn(),
            pages: [first.mpn(), second.mpn()],
            head_at: control::RECEIVE_HEAD,
            tail_at: control::RECEIVE_TAIL,
        })
    }

    /// Its request ring, if it has one.
    pub fn request_ring(&self) -> Option<RingMemory<1>> {
        let fixed = &self.memory.as_ref()?.fixed;
        Some(RingMemory {
            ring: Ring::Request,
            control: fixed.control.mpn(),
            pages: [fixed.gate.as_ref()?.request.mpn()],
            head_at: control::REQUEST_HEAD,
            tail_at: control::REQUEST_TAIL,
        })
    }

    /// Its completion ring, if it has one.
    pub fn completion_ring(&self) -> Option<RingMemory<2>> {
        let fixed = &self.memory.as_ref()?.fixed;
        let [first, second] = &fixed.gate.as_ref()?.completion;
        Some(RingMemory {
            ring: Ring::Completion,
            control: fixed.control.mpn(),
            pages: [first.mpn(), second.mpn()],
            head_at: control::COMPLETION_HEAD,
            tail_at: control::COMPLETION_TAIL,
        })
    }

    /// Sets pending bits in its control page.
    pub fn set_pending(&self, hw: &mut H, bits: control::Pending) {
        if let Some(memory) = &self.memory {
            hw.set_bits(memory.fixed.control.mpn(), control::PENDING, bits.bits());
        }
    }
}

/// All VMs of a core, by number.
///
/// A VM that is being worked on is taken out and put back: whoever holds it may change it and use the table at
/// the same time, and finds an empty place where it was.
pub struct Vms<H: Hardware> {
    places: Vec<Option<Box<Vm<H>>>>,
    count: u32,
}

impl<H: Hardware> Vms<H> {
    pub const fn new() -> Self {
        Self { places: Vec::new(), count: 0 }
    }

    /// VMs that exist, ended ones included.
    pub const fn count(&self) -> u32 {
        self.count
    }

    pub fn get(&self, number: u32) -> Option<&Vm<H>> {
        self.places.get(number as usize)?.as_deref()
    }

    pub fn get_mut(&mut self, number: u32) -> Option<&mut Vm<H>> {
        self.places.get_mut(number as usize)?.as_deref_mut()
    }

    /// Takes a VM out, to be worked on.
    pub fn take(&mut self, number: u32) -> Option<Box<Vm<H>>> {
        self.places.get_mut(number as usize)?.take()
    }

    /// Puts a VM back that was taken.
    pub fn put(&mut self, vm: Box<Vm<H>>) {
        if let Some(place) = self.places.get_mut(vm.number as usize) {
            *place = Some(vm);
        }
    }

    /// Adds a new VM, whose number must be free.
    pub fn insert(&mut self, vm: Box<Vm<H>>) {
        let number = vm.number as usize;
        if self.places.len() <= number {
            self.places.resize_with(number.saturating_add(1), || None);
        }
        self.count = self.count.saturating_add(1);
        self.put(vm);
    }

    /// Removes a VM for good.
    pub fn remove(&mut self, number: u32) -> Option<Box<Vm<H>>> {
        let vm = self.take(number)?;
        self.count = self.count.saturating_sub(1);
        Some(vm)
    }
}
