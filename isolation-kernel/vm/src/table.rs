//! The table of all VMs of a core, by number.

use crate::memory::Memory;
use crate::pack::Pack;
use crate::swap::Handle;
use crate::vm::{Account, Sleeper, Stub, Vm};
use alloc::boxed::Box;
use alloc::vec::Vec;
use hal::Hardware;

/// Numbers in a chunk of the table.
const CHUNK: usize = 256;

/// What is at a number.
enum Slot<H: Hardware> {
    /// Nothing.
    Empty,
    /// A VM that is taken out.
    Out,
    /// A VM.
    Resident(Box<Vm<H>>),
    /// A VM that is parked, or was when it ended.
    Parked(Box<Stub>),
    /// Nothing any more: the VM that was here went to that core.
    Gone(u32),
}

/// All VMs of a core, by number.
///
/// A VM that is being worked on is taken out and put back: whoever holds it may change it and use the table at
/// the same time, and finds an empty place where it was.
pub struct Vms<H: Hardware> {
    /// In chunks, so that many VMs need no large run of the kernel's heap.
    slots: Vec<Box<[Slot<H>]>>,
    /// Whether reclaim's clock has that number, one bit each.
    clock: Vec<u64>,
    count: u32,
    parked: u32,
    private_pages: u64,
    table_pages: u64,
    owed_pages: u64,
}

impl<H: Hardware> Vms<H> {
    pub const fn new() -> Self {
        Self {
            slots: Vec::new(),
            clock: Vec::new(),
            count: 0,
            parked: 0,
            private_pages: 0,
            table_pages: 0,
            owed_pages: 0,
        }
    }

    fn slot(&self, number: u32) -> Option<&Slot<H>> {
        self.slots.get(number as usize / CHUNK)?.get(number as usize % CHUNK)
    }

    fn slot_mut(&mut self, number: u32) -> Option<&mut Slot<H>> {
        self.slots.get_mut(number as usize / CHUNK)?.get_mut(number as usize % CHUNK)
    }

    /// VMs that exist, ended ones included.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// VMs that are parked.
    pub const fn parked(&self) -> u32 {
        self.parked
    }

    /// Pages that are one VM's alone, and pages of page tables, of all VMs that are not taken out.
    pub const fn pages(&self) -> (u64, u64) {
        (self.private_pages, self.table_pages)
    }

    /// Pages that VMs do not have of the minimums that were promised to them.
    pub const fn owed_pages(&self) -> u64 {
        self.owed_pages
    }

    pub fn get(&self, number: u32) -> Option<&Vm<H>> {
        match self.slot(number)? {
            Slot::Resident(vm) => Some(vm),
            _ => None,
        }
    }

    pub fn get_mut(&mut self, number: u32) -> Option<&mut Vm<H>> {
        match self.slot_mut(number)? {
            Slot::Resident(vm) => Some(vm),
            _ => None,
        }
    }

    pub fn stub(&self, number: u32) -> Option<&Stub> {
        match self.slot(number)? {
            Slot::Parked(stub) => Some(stub),
            _ => None,
        }
    }

    pub fn stub_mut(&mut self, number: u32) -> Option<&mut Stub> {
        match self.slot_mut(number)? {
            Slot::Parked(stub) => Some(stub),
            _ => None,
        }
    }

    /// Whether a number is taken. The VM that is taken out now must not be asked for.
    pub fn exists(&self, number: u32) -> bool {
        !matches!(self.slot(number), None | Some(Slot::Empty | Slot::Out | Slot::Gone(_)))
    }

    /// Whether a VM is taken out now: it still has what it had.
    pub fn is_out(&self, number: u32) -> bool {
        matches!(self.slot(number), Some(Slot::Out))
    }

    /// Takes a VM out, to be worked on.
    #[inline]
    pub fn take(&mut self, number: u32) -> Option<Box<Vm<H>>> {
        let slot = self.slot_mut(number)?;
        if !matches!(slot, Slot::Resident(_)) {
            return None;
        }
        match core::mem::replace(slot, Slot::Out) {
            Slot::Resident(vm) => Some(vm),
            _ => None,
        }
    }

    /// Puts a VM back that was taken, and brings the totals up to date.
    #[inline(never)]
    pub fn put(&mut self, mut vm: Box<Vm<H>>) {
        vm.has_changed = false;
        let new = vm.account();
        if new != vm.accounted {
            let old = core::mem::replace(&mut vm.accounted, new);
            self.account(old, new);
        }
        self.put_back(vm);
    }

    /// Puts a VM back that ran.
    #[inline]
    pub fn put_after_run(&mut self, vm: Box<Vm<H>>) {
        if vm.has_changed { self.put(vm) } else { self.put_back(vm) }
    }

    /// Puts a VM back that was taken, and has the memory that it had, and as much promised to it.
    #[inline]
    pub fn put_back(&mut self, vm: Box<Vm<H>>) {
        debug_assert!(vm.account() == vm.accounted, "the memory of VM {} has changed", vm.number);
        let Some(slot) = self.slot_mut(vm.number) else { return };
        match core::mem::replace(slot, Slot::Resident(vm)) {
            // Nothing to be dropped, which the compiler does not know of an enum.
            old @ (Slot::Empty | Slot::Out) => core::mem::forget(old),
            old => drop(old),
        }
    }

    #[inline(never)]
    fn account(&mut self, old: Account, new: Account) {
        let change = |total: &mut u64, old: u32, new: u32| {
            *total = total.saturating_add(u64::from(new)).saturating_sub(u64::from(old));
        };
        change(&mut self.private_pages, old.private, new.private);
        change(&mut self.table_pages, old.tables, new.tables);
        change(&mut self.owed_pages, old.owed, new.owed);
    }

    /// Takes a parked VM out.
    pub fn take_stub(&mut self, number: u32) -> Option<Box<Stub>> {
        let slot = self.slot_mut(number)?;
        match core::mem::replace(slot, Slot::Out) {
            Slot::Parked(stub) => {
                if stub.state != Sleeper::Ended {
                    self.parked = self.parked.saturating_sub(1);
                    self.owed_pages = self.owed_pages.saturating_sub(u64::from(stub.minimum_pages));
                }
                Some(stub)
            }
            other => {
                *slot = other;
                None
            }
        }
    }

    /// Puts a VM that is parked into the place of the VM that was taken out.
    pub fn put_stub(&mut self, stub: Box<Stub>) {
        if stub.state != Sleeper::Ended {
            self.parked = self.parked.saturating_add(1);
            self.owed_pages = self.owed_pages.saturating_add(u64::from(stub.minimum_pages));
        }
        if let Some(slot) = self.slot_mut(stub.number) {
            *slot = Slot::Parked(stub);
        }
    }

    /// A VM that was taken out goes elsewhere: its pages are in the totals no more.
    pub fn forget(&mut self, vm: &mut Vm<H>) {
        let old = core::mem::take(&mut vm.accounted);
        self.account(old, Account::default());
    }

    /// A VM that was taken out goes to another core.
    pub fn send_away(&mut self, vm: &mut Vm<H>, core: u32) {
        self.forget(vm);
        self.count = self.count.saturating_sub(1);
        if let Some(slot) = self.slot_mut(vm.number) {
            *slot = Slot::Gone(core);
        }
    }

    /// Where a VM went that was here last.
    pub fn gone_to(&self, number: u32) -> Option<u32> {
        match self.slot(number)? {
            Slot::Gone(core) => Some(*core),
            _ => None,
        }
    }

    /// Adds a new VM, whose number must be free.
    pub fn insert(&mut self, vm: Box<Vm<H>>) {
        let nr_chunks = vm.number as usize / CHUNK + 1;
        while self.slots.len() < nr_chunks {
            self.slots.push((0..CHUNK).map(|_| Slot::Empty).collect());
            self.clock.resize(self.slots.len() * (CHUNK / 64), 0);
        }
        self.count = self.count.saturating_add(1);
        self.put(vm);
    }

    /// Removes what is at a number for good.
    pub fn remove(&mut self, number: u32) -> Option<Box<Vm<H>>> {
        let mut vm = self.take(number)?;
        self.vacate(number);
        self.forget(&mut vm);
        self.count = self.count.saturating_sub(1);
        Some(vm)
    }

    fn vacate(&mut self, number: u32) {
        if let Some(slot) = self.slot_mut(number) {
            *slot = Slot::Empty;
        }
    }

    /// Removes a parked VM for good.
    pub fn remove_stub(&mut self, number: u32) -> Option<Box<Stub>> {
        let stub = self.take_stub(number)?;
        self.vacate(number);
        self.count = self.count.saturating_sub(1);
        Some(stub)
    }

    /// Notes that reclaim's clock has a number. False if it had it.
    pub fn join_clock(&mut self, number: u32) -> bool {
        let Some(word) = self.clock.get_mut(number as usize / 64) else { return false };
        let bit = 1u64 << (number % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }

    /// Notes that reclaim's clock has a number no more.
    pub fn leave_clock(&mut self, number: u32) {
        if let Some(word) = self.clock.get_mut(number as usize / 64) {
            *word &= !(1u64 << (number % 64));
        }
    }

    /// A pack of a VM, if it is still that one.
    pub fn pack(&mut self, handle: Handle) -> Option<&mut Pack> {
        let pack = match (self.slot_mut(handle.vm)?, handle.pack) {
            (Slot::Resident(vm), Some(number)) => {
                vm.memory.as_mut().map(|Memory { packs, .. }| packs)?.get_mut(number as usize)?.as_mut()?
            }
            (Slot::Parked(stub), None) => &mut stub.head,
            (Slot::Parked(stub), Some(_)) => stub.kept.iter_mut().find(|pack| pack.epoch == handle.epoch)?,
            _ => return None,
        };
        (pack.epoch == handle.epoch).then_some(pack)
    }
}
