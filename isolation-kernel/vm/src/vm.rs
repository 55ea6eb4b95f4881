//! One VM: in memory, or parked.

use crate::account::Pace;
use crate::memory::Memory;
use crate::network::transmit::Transmit;
use crate::pack::{Pack, Span};
use crate::rings::RingMemory;
use crate::swap::Place;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use hal::{Access, Frame, Hardware, Mpn, Nanos, Page, Registers, VectorState};
use policy::bucket::Bucket;
use policy::extents::Extent;
use virtual_isa::control;
use virtual_isa::exception::Ring;
use virtual_isa::gate::{Counters, Tier};

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
    /// Started, and not admitted yet.
    Waiting,
    /// Waits for a page from disk.
    Paging,
    /// Waits for memory.
    Starved,
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
    pub is_privileged: bool,
    /// Whether it runs up to `ready()` to become a template.
    pub is_embryo: bool,
    /// Whether what it needs at least was promised to it.
    pub is_admitted: bool,
    /// Whether it was admitted and has not come to rest yet: it has hardly any of the pages that it will need.
    pub is_newborn: bool,
    /// Whether it has run since it was created or woke.
    pub has_run: bool,
    /// Where it is parked as soon as its packs are on disk.
    pub wants_park: Option<Tier>,
    pub registers: Registers,
    /// Its vector registers, once they may differ from the template's.
    pub vector: Option<Box<VectorState>>,
    pub memory_pages: u32,
    /// There from the VM's admission to its end.
    pub memory: Option<Memory<H::Space>>,
    pub template: u32,
    pub shares: u32,
    pub class: u16,
    pub minimum_pages: u32,
    /// Estimate of the part of its memory that it uses, of 255.
    pub activity: u8,
    pub arguments: Box<str>,
    pub indices: Indices,
    /// Frames that wait for it, in kernel buffers.
    pub queue: VecDeque<Frame>,
    /// Bytes of the frames in it.
    pub queued_bytes: u32,
    /// Its account with the network as a sender.
    pub transmit: Transmit,
    /// The pack with the page it waits for, until it has come to use it.
    pub awaited: Option<u32>,
    /// Address, access and instruction of its last exit, if that was a page fault.
    pub last_fault: Option<(u64, Access, u64)>,
    /// What it had enabled when it went idle.
    pub enabled: u32,
    /// Its deadline, while it is idle.
    pub deadline: Option<Nanos>,
    /// When it ran last.
    pub last_ran: Nanos,
    /// Until when reclaim asks others: it had nothing to give.
    pub barren_until: Nanos,
    pub console: Bucket,
    pub counters: Counters,
    /// How long it waits for the processor, since it was created or woke.
    pub pace: Pace,
    /// Its part in the machine's totals.
    pub accounted: Account,
    /// Whether that may have changed since, while it ran.
    pub has_changed: bool,
}

/// A VM's part in the machine's totals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Pages that are its alone.
    pub private: u32,
    /// Pages of its page tables.
    pub tables: u32,
    /// Pages that it does not have of the minimum that was promised to it.
    pub owed: u32,
}

/// What a parked VM does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sleeper {
    /// Sleeps until something is pending.
    Idle,
    /// Is kept from running.
    Paused,
    /// Has ended.
    Ended,
}

/// What stays in memory of a VM that is parked.
pub struct Stub {
    pub number: u32,
    pub generation: u64,
    pub template: u32,
    pub shares: u32,
    pub class: u16,
    pub minimum_pages: u32,
    pub memory_pages: u32,
    pub state: Sleeper,
    /// Whether it is on its way back.
    pub is_waking: bool,
    /// Whether its head had to be read.
    pub is_from_disk: bool,
    pub enabled: u32,
    pub deadline: Option<Nanos>,
    /// What has happened since it was parked.
    pub pending: control::Pending,
    /// Its record and the pages it used last.
    pub head: Pack,
    /// Where in the head the record is.
    pub record: Span,
    /// How long the record is when it is not compressed.
    pub record_bytes: u32,
    /// Other packs that were not on disk when it was parked.
    pub kept: Vec<Pack>,
    /// Where its other packs are on disk: all that is known of them without the record.
    pub cold: Box<[Extent]>,
    /// Pages of its template that it does not see.
    pub hidden_pages: u32,
    /// Pages of its own, and how many of them are in other packs.
    pub own_pages: u32,
    pub cold_pages: u32,
    pub queue: VecDeque<Frame>,
    pub queued_bytes: u32,
    pub console: Bucket,
    pub counters: Counters,
}

impl Stub {
    /// Whether nothing of its head is in memory, or on its way there or from there.
    pub fn is_on_disk(&self) -> bool {
        self.head.pages.is_empty() && matches!(self.head.disk, Place::Stored(_) | Place::Reading(_))
    }
}

// The budget for a parked VM is 512 bytes all told: this, its place in the table, a timer, the allocator's part.
const _: () = assert!(size_of::<Stub>() <= 448);

impl<H: Hardware> Vm<H> {
    /// Its transmit ring, if it has not ended. What was never touched reads as `zero`.
    pub fn transmit_ring(&self, zero: Mpn) -> Option<RingMemory<1>> {
        let fixed = &self.memory.as_ref()?.fixed;
        let page = fixed.transmit.as_ref().map_or(zero, Page::mpn);
        Some(RingMemory::transmit(fixed.control.mpn(), [page]))
    }

    /// Its receive ring, if there is one.
    pub fn receive_ring(&self) -> Option<RingMemory<2>> {
        let fixed = &self.memory.as_ref()?.fixed;
        let [first, second] = fixed.receive.as_ref()?;
        Some(RingMemory::receive(fixed.control.mpn(), [first.mpn(), second.mpn()]))
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

    /// What it has, and what is owed to it.
    pub fn account(&self) -> Account {
        let (private, tables) = self.memory.as_ref().map_or((0, 0), |m| (m.private_pages(), m.table_pages()));
        let is_promised = self.is_admitted && self.state != State::Ended;
        let promised = if is_promised { self.minimum_pages } else { 0 };
        Account { private, tables, owed: promised.saturating_sub(private.saturating_add(tables)) }
    }

    /// Sets pending bits in its control page.
    pub fn set_pending(&self, hw: &mut H, bits: control::Pending) {
        if let Some(memory) = &self.memory {
            hw.set_bits(memory.fixed.control.mpn(), control::PENDING, bits.bits());
        }
    }
}
