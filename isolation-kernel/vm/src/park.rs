//! Parking: a VM that sleeps becomes one record of a few KiB, and what stays of it is a stub.
//!
//! The record, or *head*, is a pack: the VM's context and map, and the pages it has used since it last woke. It is
//! read back as a whole when the VM wakes, and then it is gone; pages that it did not use lie in packs of their
//! own and are read when they are touched.

mod record;

use crate::account::Pace;
use crate::contexts::{context_of, registers_of};
use crate::core::Core;
use crate::delta::Place;
use crate::fixed::FixedPages;
use crate::memory::{Memory, Parts};
use crate::network::transmit::Transmit;
use crate::pack::{PACK_PAGES, Pack, Span, Writer};
use crate::swap::{self, Handle, Stored, Swap};
use crate::vm::{Account, Indices, Sleeper, State, Stub, Vm};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::string::String;
use alloc::vec::Vec;
use hal::{Hardware, NoMemory, Ppn, VectorState};
use policy::extents::Extent;
use rand_chacha::rand_core::Rng;
use record::{Body, ColdPack, EnteredRecord, Record, VERSION, read_page, write_page};
use virtual_isa::context::Context;
use virtual_isa::control::{self, Pending};
use virtual_isa::exception::{Cause, SwapError};
use virtual_isa::gate::Tier;

/// Pages that go into a head. A VM that has more loses the coldest to packs of their own first.
pub const MAX_HEAD_PAGES: usize = 24;

/// Fixed pages and page tables of a VM that wakes.
const FIXED_ROOM: u64 = 8;

/// Most free pages that a parked VM waits for before it is made whole, besides those that are the kernel's own.
pub const WAKE_ROOM: u64 = MAX_HEAD_PAGES as u64 + FIXED_ROOM;

/// Pages of its own that a VM can have and still be parked.
pub const MAX_MAP_PAGES: usize = 2048;

/// Pages that were not used since the VM woke go into a pack of their own, if there are at least so many.
pub const MIN_COLD_PAGES: usize = 4;

/// Packs that a VM's pages go into in one attempt to park it.
const MAX_SHED_PACKS: usize = 4;

/// VMs on their way to being parked that are looked at in one turn of the loop.
const MAX_PARKING_A_TURN: usize = 16;

/// Why a VM cannot be parked now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotNow {
    /// It is not asleep, or frames wait for it or from it, or it has just sent as fast as it may, or it is too large:
    /// ask another one.
    Unfit,
    /// Pages of it have to go elsewhere first, or are being written.
    Later,
    /// There is no memory to make the record in.
    NoMemory,
}

impl From<NoMemory> for NotNow {
    fn from(NoMemory: NoMemory) -> Self {
        Self::NoMemory
    }
}

impl<H: Hardware> Vm<H> {
    /// Whether it sleeps and nothing is under way for it.
    fn is_quiet(&self, hw: &H) -> bool {
        let Some(memory) = &self.memory else { return false };
        let head = hw.load(memory.fixed.control.mpn(), control::TRANSMIT_HEAD);
        matches!(self.state, State::Idle | State::Paused)
            && !self.is_privileged
            && !self.is_queued
            && self.transmit.is_at_rest(hw.now())
            && self.queue.is_empty()
            && head == self.indices.transmit_tail
            && memory.delta.len() <= MAX_MAP_PAGES
    }

    /// Whether it can be parked at all, now or after some of its pages went elsewhere.
    pub(crate) fn may_park(&self, hw: &H) -> bool {
        self.is_quiet(hw)
    }
}

impl<H: Hardware> Core<'_, H> {
    /// Parks a VM, at once or when those of its pages are on disk that do not go into its record.
    ///
    /// # Errors
    /// Why not; then it is as it was, but may have lost page tables and cold pages.
    pub(crate) fn park(&mut self, number: u32, tier: Tier) -> Result<(), NotNow> {
        let mut vm = self.vms.take(number).ok_or(NotNow::Unfit)?;
        let result = self.try_park(&mut vm, tier);
        match result {
            Ok(stub) => {
                self.vms.forget(&mut vm);
                if let Some(memory) = vm.memory.take() {
                    self.release_parked(memory);
                }
                let (handle, place) = (Handle { vm: number, pack: None, epoch: stub.head.epoch }, stub.head.disk);
                self.vms.put_stub(stub);
                self.enqueue(handle, place);
                if tier == Tier::Disk {
                    self.swap.hurry();
                }
                self.parks += 1;
                Ok(())
            }
            Err(e) => {
                self.vms.put(vm);
                Err(e)
            }
        }
    }

    /// Gives back the memory of a VM that is in its record by now. Its packs are elsewhere already.
    fn release_parked(&mut self, memory: Memory<H::Space>) {
        let Parts { fixed, mut delta, .. } = memory.into_parts();
        while let Some(resident) = delta.pop_resident() {
            self.hw.release(resident.page);
        }
        fixed.release(&mut self.hw);
    }

    fn try_park(&mut self, vm: &mut Vm<H>, tier: Tier) -> Result<Box<Stub>, NotNow> {
        if !vm.is_quiet(&self.hw) {
            return Err(NotNow::Unfit);
        }
        self.shed(vm, tier)?;
        let memory = vm.memory.as_mut().ok_or(NotNow::Unfit)?;
        memory.drop_space(&mut self.hw);
        let mut writer = Writer::default();
        let written = self.write_head(vm, &mut writer);
        let record = match written {
            Ok(record) => record,
            Err(NoMemory) => {
                writer.finish().into_iter().for_each(|page| self.hw.release(page));
                return Err(NotNow::NoMemory);
            }
        };
        self.record_bytes += writer.length() as u64;
        let head = self.swap.make(writer.finish(), 0);
        Ok(Box::new(self.make_stub(vm, head, record)))
    }

    /// Moves pages out of the way of a head: those that were not used lately, and those that are too many.
    fn shed(&mut self, vm: &mut Vm<H>, tier: Tier) -> Result<(), NotNow> {
        if let Some(memory) = &mut vm.memory {
            memory.note_used(&mut self.hw);
        }
        for _ in 0..MAX_SHED_PACKS {
            let memory = vm.memory.as_ref().ok_or(NotNow::Unfit)?;
            let residents = memory.delta.residents();
            let excess = residents.len().saturating_sub(MAX_HEAD_PAGES);
            let cold = residents.iter().filter(|resident| !resident.is_hot).count();
            let cold = if vm.has_run && cold >= MIN_COLD_PAGES { cold } else { 0 };
            let (first, second): (Vec<_>, Vec<_>) = (
                residents.iter().filter(|r| !r.is_hot).map(|r| r.ppn).take(PACK_PAGES).collect(),
                residents.iter().filter(|r| r.is_hot).map(|r| r.ppn).take(PACK_PAGES).collect(),
            );
            let victims: Vec<Ppn> = first.into_iter().chain(second).take(cold.max(excess).min(PACK_PAGES)).collect();
            if victims.is_empty() {
                break;
            }
            self.pack_pages(vm, &victims)?;
        }
        let memory = vm.memory.as_ref().ok_or(NotNow::Unfit)?;
        if memory.delta.nr_residents() <= MAX_HEAD_PAGES && !has_to_wait(memory, tier) {
            return Ok(());
        }
        if vm.wants_park.replace(tier).is_none() {
            self.parking.push_back(vm.number);
        }
        if tier == Tier::Disk {
            self.swap.hurry();
        }
        Err(NotNow::Later)
    }

    /// Goes on with VMs that were to be parked and had to write some of their pages first. Returns whether any got on.
    pub(crate) fn continue_parking(&mut self) -> bool {
        let mut any = false;
        for _ in 0..self.parking.len().min(MAX_PARKING_A_TURN) {
            let Some(number) = self.parking.pop_front() else { break };
            let Some(tier) = self.vms.get(number).and_then(|vm| vm.wants_park) else { continue };
            let memory = self.vms.get(number).and_then(|vm| vm.memory.as_ref());
            if memory.is_some_and(|memory| has_to_wait(memory, tier)) {
                self.parking.push_back(number);
                continue;
            }
            if let Some(vm) = self.vms.get_mut(number) {
                vm.wants_park = None;
            }
            any |= matches!(self.park(number, tier), Ok(()) | Err(NotNow::Later));
        }
        any
    }

    fn write_head(&mut self, vm: &Vm<H>, writer: &mut Writer) -> Result<(Span, u32), NoMemory> {
        let memory = vm.memory.as_ref().ok_or(NoMemory)?;
        let (hw, packer) = (&mut self.hw, &mut self.packer);
        let mut head = Vec::new();
        for resident in memory.delta.residents() {
            head.push((resident.ppn.0, write_page(hw, packer, writer, &resident.page)?));
        }
        let control = write_page(hw, packer, writer, &memory.fixed.control)?;
        let unread = hw.load(memory.fixed.control.mpn(), control::RECEIVE_TAIL) != vm.indices.receive_head;
        // What lies in a ring besides records is nothing that a guest may rely on.
        let receive = match &memory.fixed.receive {
            Some([one, two]) if unread => {
                Some([write_page(hw, packer, writer, one)?, write_page(hw, packer, writer, two)?])
            }
            _ => None,
        };
        let mut cold = Vec::new();
        for (ppn, place) in memory.delta.places() {
            match place {
                Place::Resident(_) => {}
                Place::Filled(word) => head.push((ppn.0, Body::Filled(word))),
                Place::Bare => head.push((ppn.0, Body::Bare)),
                Place::Packed { pack, span } => cold.push((ppn.0, pack, span.at, span.length)),
            }
        }
        let vector = match &vm.vector {
            Some(vector) => {
                let Span { at, length } = writer.push(hw, packer.squeeze_bytes(&vector.0).ok_or(NoMemory)?)?;
                Some(Body::At { at, length })
            }
            None => None,
        };
        let i = vm.indices;
        let packs = memory.packs.iter().enumerate().filter_map(|(number, pack)| {
            let Pack { epoch, live, disk, .. } = pack.as_ref()?;
            let stored = if let swap::Place::Stored(stored) = *disk { Some(stored) } else { None };
            Some(ColdPack { number: u32::try_from(number).ok()?, epoch: *epoch, live: *live, stored })
        });
        let record = Record {
            version: VERSION,
            vm: vm.number,
            registers: context_of(&vm.registers).to_words(),
            vector,
            indices: [i.transmit_tail, i.receive_head, i.console_head, i.request_tail, i.completion_head],
            arguments: String::from(&*vm.arguments),
            control,
            receive,
            head,
            cold,
            packs: packs.collect(),
            entered: memory.entered().map(EnteredRecord::of),
        };
        let (length, packed) = packer.squeeze_record(&record).ok_or(NoMemory)?;
        Ok((writer.push(hw, packed)?, u32::try_from(length).map_err(|_| NoMemory)?))
    }

    fn make_stub(&mut self, vm: &mut Vm<H>, head: Pack, (record, record_bytes): (Span, u32)) -> Stub {
        let nr_cold = vm.memory.as_ref().map_or(0, |memory| {
            memory.delta.places().filter(|(_, place)| matches!(place, Place::Packed { .. })).count()
        });
        let (mut kept, mut cold) = (Vec::new(), Vec::new());
        let mut nr_own = 0;
        if let Some(memory) = &mut vm.memory {
            nr_own = memory.delta.len();
            for pack in memory.packs.drain(..).flatten() {
                if let swap::Place::Stored(Stored { first, count, .. }) = pack.disk {
                    // The record says what it is. A copy in memory is dropped; its blocks stay.
                    self.swap.release_pages(&mut self.hw, pack.pages);
                    cold.push(Extent { first, count });
                } else {
                    kept.push(pack);
                }
            }
        }
        vm.counters.parks += 1;
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Stub {
            number: vm.number,
            generation: vm.generation,
            template: vm.template,
            shares: vm.shares,
            class: vm.class,
            minimum_pages: vm.minimum_pages,
            memory_pages: vm.memory_pages,
            state: if vm.state == State::Paused { Sleeper::Paused } else { Sleeper::Idle },
            is_waking: false,
            is_from_disk: false,
            enabled: vm.enabled,
            deadline: vm.deadline.take(),
            pending: Pending::empty(),
            head,
            record,
            record_bytes,
            kept,
            cold: cold.into_boxed_slice(),
            hidden_pages: vm.memory.as_ref().map_or(0, |memory| memory.hidden_pages),
            own_pages: count(nr_own),
            cold_pages: count(nr_cold),
            queue: VecDeque::new(),
            queued_bytes: 0,
            console: vm.console,
            counters: vm.counters,
        }
    }

    /// Begins to wake a VM that is parked. The rest follows by itself.
    pub(crate) fn wake_parked(&mut self, number: u32) {
        let Some(stub) = self.vms.stub_mut(number) else { return };
        if stub.is_waking || stub.state != Sleeper::Idle {
            return;
        }
        stub.is_waking = true;
        self.continue_waking(number);
    }

    /// Goes on with waking a VM: reads its head, or makes it whole if that is in memory.
    pub(crate) fn continue_waking(&mut self, number: u32) {
        let Some(stub) = self.vms.stub_mut(number).filter(|stub| stub.is_waking) else { return };
        let handle = Handle { vm: number, pack: None, epoch: stub.head.epoch };
        match stub.head.disk {
            _ if !stub.head.pages.is_empty() => self.unpark(number),
            swap::Place::Stored(_) => {
                stub.is_from_disk = true;
                self.swap.want(handle);
            }
            // It is on its way to the disk or back, and comes by when that has ended.
            _ => {}
        }
    }

    /// Makes a VM whole again whose head is in memory.
    fn unpark(&mut self, number: u32) {
        let Some(mut stub) = self.vms.take_stub(number) else { return };
        let in_head = u64::from(stub.own_pages.saturating_sub(stub.cold_pages));
        let needed = in_head.saturating_add(FIXED_ROOM).min(WAKE_ROOM);
        if self.is_heap_short(2) || self.hw.free_pages() < self.marks.critical.saturating_add(needed) {
            self.vms.put_stub(stub);
            self.starved.push_back(number);
            return;
        }
        match self.rebuild(&mut stub) {
            Ok(vm) => {
                let counter = if stub.is_from_disk { &mut self.wakes_disk } else { &mut self.wakes_memory };
                *counter += 1;
                self.swap.discard(&mut self.hw, stub.head);
                let mut vm = vm;
                if stub.state == Sleeper::Paused {
                    vm.state = State::Paused;
                } else {
                    self.make_runnable(&mut vm);
                }
                self.vms.put(vm);
                self.note_resident(number);
            }
            Err(NotNow::NoMemory) => {
                self.vms.put_stub(stub);
                self.starved.push_back(number);
            }
            Err(_) => {
                let block = if let swap::Place::Stored(stored) = stub.head.disk { stored.first } else { 0 };
                self.vms.put_stub(stub);
                self.end_parked(number, Cause::PageLost { block: u64::from(block), error: SwapError::Checksum });
            }
        }
    }

    /// Reads the record of a stub whose head is in memory.
    fn read_record(&mut self, head: &Pack, span: Span, record_bytes: u32) -> Option<Record> {
        let record = self.packer.unpack_record(&self.hw, &head.pages, span, record_bytes);
        record.filter(|record: &Record| record.version == VERSION)
    }

    fn read_vector(&mut self, head: &Pack, body: Option<Body>) -> Result<Option<Box<VectorState>>, NotNow> {
        let Some(body) = body else { return Ok(None) };
        let mut vector = Box::new(VectorState::new());
        let Body::At { at, length } = body else { return Err(NotNow::Unfit) };
        let is_read = self.packer.unpack_bytes(&self.hw, &head.pages, Span { at, length }, &mut vector.0);
        if is_read { Ok(Some(vector)) } else { Err(NotNow::Unfit) }
    }

    fn rebuild(&mut self, stub: &mut Stub) -> Result<Box<Vm<H>>, NotNow> {
        let record = self.read_record(&stub.head, stub.record, stub.record_bytes).ok_or(NotNow::Unfit)?;
        if record.vm != stub.number {
            return Err(NotNow::Unfit);
        }
        let vector = self.read_vector(&stub.head, record.vector)?;
        let fixed = FixedPages::allocate(&mut self.hw, false)?;
        let mut memory = Memory::new(stub.memory_pages, fixed, self.random.next_u64());
        memory.hidden_pages = stub.hidden_pages;
        let filled = self.fill_memory(&mut memory, &stub.head, &record);
        if let Err(e) = filled {
            self.release_parked(memory);
            return Err(e);
        }
        let kept = core::mem::take(&mut stub.kept);
        restore_packs(&mut memory, &record.packs, kept);
        if let Some(entered) = &record.entered {
            memory.need_tlb().entered = Some(entered.entered());
        }
        let [transmit_tail, receive_head, console_head, request_tail, completion_head] = record.indices;
        let vm = Vm {
            number: stub.number,
            generation: stub.generation,
            state: State::Idle,
            is_queued: false,
            is_privileged: false,
            is_embryo: false,
            is_admitted: true,
            is_newborn: false,
            has_run: false,
            wants_park: None,
            registers: registers_of(&Context::from_words(record.registers)),
            vector,
            memory_pages: stub.memory_pages,
            memory: Some(memory),
            template: stub.template,
            shares: stub.shares,
            class: stub.class,
            minimum_pages: stub.minimum_pages,
            activity: 0,
            arguments: record.arguments.into_boxed_str(),
            indices: Indices { transmit_tail, receive_head, console_head, request_tail, completion_head },
            queue: core::mem::take(&mut stub.queue),
            queued_bytes: core::mem::take(&mut stub.queued_bytes),
            transmit: Transmit::new(self.classes.terms(stub.class), self.hw.now()),
            awaited: None,
            last_fault: None,
            enabled: stub.enabled,
            deadline: stub.deadline.take(),
            last_ran: self.hw.now(),
            barren_until: self.hw.now(),
            console: stub.console,
            counters: stub.counters,
            pace: Pace::default(),
            accounted: Account::default(),
            has_changed: true,
        };
        vm.set_pending(&mut self.hw, stub.pending);
        Ok(Box::new(vm))
    }

    fn fill_memory(&mut self, memory: &mut Memory<H::Space>, head: &Pack, record: &Record) -> Result<(), NotNow> {
        let (hw, packer) = (&mut self.hw, &mut self.packer);
        let pages = &head.pages;
        if !read_page(hw, packer, pages, record.control, &memory.fixed.control) {
            return Err(NotNow::Unfit);
        }
        if let Some([first, second]) = record.receive {
            memory.fixed.need_receive(hw)?;
            if let Some([one, two]) = &memory.fixed.receive
                && !(read_page(hw, packer, pages, first, one) && read_page(hw, packer, pages, second, two))
            {
                return Err(NotNow::Unfit);
            }
        }
        for &(ppn, body) in &record.head {
            let ppn = Ppn(ppn);
            memory.delta.reserve()?;
            let place = match body {
                Body::Filled(word) => Some(Place::Filled(word)),
                Body::Bare => Some(Place::Bare),
                Body::At { .. } => None,
            };
            if let Some(place) = place {
                memory.delta.put(ppn, place);
                continue;
            }
            let page = hw.allocate().ok_or(NotNow::NoMemory)?;
            if !read_page(hw, packer, pages, body, &page) {
                hw.release(page);
                return Err(NotNow::Unfit);
            }
            memory.delta.put_resident(ppn, page, false);
        }
        for &(ppn, pack, at, length) in &record.cold {
            memory.delta.reserve()?;
            memory.delta.put(Ppn(ppn), Place::Packed { pack, span: Span { at, length } });
        }
        Ok(())
    }
}

/// Whether packs of a VM have to be written before it is parked on disk. In memory they are kept with its stub.
fn has_to_wait<S>(memory: &Memory<S>, tier: Tier) -> bool {
    let is_moving = |pack: &Pack| match pack.disk {
        swap::Place::Reserved(_) | swap::Place::Writing(_) => tier == Tier::Disk,
        swap::Place::Reading(_) => true,
        swap::Place::Stored(_) | swap::Place::Nowhere => false,
    };
    memory.packs.iter().flatten().any(is_moving)
}

/// Puts a VM's packs back to the numbers they had.
fn restore_packs<S>(memory: &mut Memory<S>, packs: &[ColdPack], mut kept: Vec<Pack>) {
    for cold in packs {
        let number = cold.number as usize;
        if memory.packs.len() <= number {
            memory.packs.resize_with(number.saturating_add(1), || None);
        }
        let own = kept.iter().position(|pack| pack.epoch == cold.epoch).map(|at| kept.swap_remove(at));
        let pack = own.or_else(|| cold.stored.map(|stored| Swap::restore(cold.epoch, stored, cold.live)));
        if let Some(place) = memory.packs.get_mut(number) {
            *place = pack;
        }
    }
}

/// Pages of a VM that are in packs in memory, and in packs on disk alone.
pub fn count_places<H: Hardware>(memory: &Memory<H::Space>) -> (u32, u32) {
    let mut counts = (0u32, 0u32);
    for pack in memory.packs.iter().flatten() {
        let count = if pack.pages.is_empty() { &mut counts.1 } else { &mut counts.0 };
        *count = count.saturating_add(pack.live);
    }
    counts
}
