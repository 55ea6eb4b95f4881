//! The swap disk: where packs are on it, and transfers under way.
//!
//! Blocks are reserved when a pack is made, so that packs made one after the other lie, and are written, one after
//! the other, and so that it is known at once whether there is room.

mod cached;

use crate::console::{Level, log};
use crate::core::Core;
use crate::map::Map;
use crate::pack::Pack;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use hal::{Completion, DiskError, DiskRequest, Hardware, MAX_TRANSFER_PAGES, Nanos, Page, Pages, Transfer};
use policy::extents::{Extent, Extents};
use serde::{Deserialize, Serialize};
use virtual_isa::exception::SwapError;
use virtual_isa::gate::Event;

/// Reads under way at a time: a frame for each of a million parked VMs must not be a storm.
const MAX_READS: usize = 32;

/// Writes under way at a time, so that reads find room in the device's queue.
const MAX_WRITES: usize = 4;

/// Smallest disk that is used.
const MIN_BLOCKS: u64 = 64;

/// After a write that failed nothing is written for so long, and twice as long after each that follows, up to the
/// second of these.
const WRITE_PAUSE_NS: (u64, u64) = (1_000_000, 1_000_000_000);

/// Runs of blocks that could not be written and are left alone for now.
const MAX_BAD: usize = 64;

/// The disk has room for more while so many blocks are free.
const ROOM_BLOCKS: u32 = 32;

/// A pack on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Number of its first block.
    pub first: u32,
    /// How many blocks.
    pub count: u32,
    /// Checksum over all of them, with the pack's epoch.
    pub sum: u64,
}

/// Whether and where a pack is on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// There is no room for it on disk.
    Nowhere,
    /// There is room, and nothing is written.
    Reserved(Extent),
    /// It is being written; its pages are with the disk.
    Writing(Extent),
    /// It is there.
    Stored(Stored),
    /// It is being read back.
    Reading(Stored),
}

/// A pack of a VM, wherever that VM is by now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handle {
    /// The VM.
    pub vm: u32,
    /// Which of its packs; `None` is the head.
    pub pack: Option<u32>,
    /// The pack's epoch.
    pub epoch: u64,
}

/// A transfer under way.
enum Flight {
    Write(Vec<(Handle, Stored)>),
    Read(Handle, Stored),
}

/// Defects that a test can plant, to see that the simulator finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defect {
    /// A pack is dropped while a page of it is still needed.
    UncountedPage,
    /// A page is taken away from a VM without being unmapped.
    KeptMapping,
    /// What is read from the disk is not compared with what was written.
    UncheckedRead,
    /// A page is taken away from a VM and stays mapped in an address space that the VM made.
    KeptInSpace,
    /// A page is copied on a write, and address spaces that the VM made still have the one before.
    StaleCopy,
    /// An entry of the TLB is dropped and stays mapped.
    KeptEntry,
}

/// Figures of the swap disk.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub reads: u64,
    pub read_blocks: u64,
    pub writes: u64,
    pub written_blocks: u64,
    pub errors: u64,
}

/// The swap disk and its transfers.
pub struct Swap {
    /// The block of the disk that is the first of these.
    base: u64,
    extents: Extents,
    next_epoch: u64,
    next_ticket: u64,
    /// Packs to be written, in the order in which they were made.
    writes: VecDeque<Handle>,
    /// Blocks that could not be written. They are tried again when as many others have failed.
    bad: VecDeque<Extent>,
    /// Packs for which there was no room on disk.
    homeless: VecDeque<Handle>,
    /// Packs to be read, first come first served.
    reads: VecDeque<Handle>,
    flights: Map<u64, Flight>,
    nr_reads: usize,
    nr_writes: usize,
    /// Packs with a copy in memory of what is on disk.
    cached: VecDeque<Handle>,
    /// Writes that were asked for and do not wait for memory to be short.
    pub urgent: usize,
    /// Nothing is written before this time.
    pub resume_writes_at: Nanos,
    /// How long nothing is written after the next failure.
    write_pause_ns: u64,
    /// Pages that hold packs.
    pub packed_pages: u64,
    pub figures: Figures,
    #[cfg(feature = "planted-defects")]
    pub defect: Option<Defect>,
}

impl Swap {
    /// Takes this core's part of the first `wanted` blocks of the disk, as far as they are there: each core has as
    /// many.
    pub fn new<H: Hardware>(hw: &mut H, wanted: u64) -> Self {
        let there = hw.nr_blocks();
        let wanted = wanted.checked_div(u64::from(hw.nr_cores())).unwrap_or(wanted);
        let there = there.checked_div(u64::from(hw.nr_cores())).unwrap_or(there);
        let blocks = wanted.min(there).min(u64::from(u32::MAX));
        let off = "the machine runs without swap";
        if wanted > 0 && there == 0 {
            log(hw, Level::Warn, format_args!("swap: there is no disk: {off}"));
        } else if wanted > 0 && blocks < MIN_BLOCKS {
            let mib = MIN_BLOCKS * 4;
            log(hw, Level::Warn, format_args!("swap: {blocks} blocks are less than the {mib} KiB it takes: {off}"));
        } else if blocks < wanted {
            log(hw, Level::Warn, format_args!("swap: {wanted} blocks were planned, the disk has {there}: using those"));
        }
        let blocks = if blocks < MIN_BLOCKS { 0 } else { blocks };
        Self {
            base: blocks.saturating_mul(u64::from(hw.core())),
            extents: Extents::new(u32::try_from(blocks).unwrap_or(u32::MAX)),
            next_epoch: 1,
            next_ticket: 1,
            writes: VecDeque::new(),
            bad: VecDeque::new(),
            homeless: VecDeque::new(),
            reads: VecDeque::new(),
            flights: Map::default(),
            nr_reads: 0,
            nr_writes: 0,
            cached: VecDeque::new(),
            urgent: 0,
            resume_writes_at: Nanos(0),
            write_pause_ns: WRITE_PAUSE_NS.0,
            packed_pages: 0,
            figures: Figures::default(),
            #[cfg(feature = "planted-defects")]
            defect: None,
        }
    }

    /// Whether a defect was planted.
    #[cfg(feature = "planted-defects")]
    pub fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    /// Whether a defect was planted: never, outside of tests.
    #[cfg(not(feature = "planted-defects"))]
    #[expect(clippy::unused_self, reason = "as with the feature")]
    pub const fn has(&self, _: Defect) -> bool {
        false
    }

    /// Blocks there are, and blocks in use.
    pub fn blocks(&self) -> (u64, u64) {
        let bad: u64 = self.bad.iter().map(|extent| u64::from(extent.count)).sum();
        (u64::from(self.extents.total()), u64::from(self.extents.used()).saturating_sub(bad))
    }

    /// Makes a pack of these pages, with room on disk if there is any.
    pub fn make(&mut self, pages: Vec<Page>, live: u32) -> Pack {
        self.packed_pages += pages.len() as u64;
        let epoch = self.next_epoch;
        self.next_epoch += 1;
        let disk = self.reserve(pages.len());
        Pack { epoch, pages, live, disk }
    }

    /// Makes a pack that is on disk already, as a record says.
    pub const fn restore(epoch: u64, stored: Stored, live: u32) -> Pack {
        Pack { epoch, pages: Vec::new(), live, disk: Place::Stored(stored) }
    }

    fn reserve(&mut self, nr_pages: usize) -> Place {
        let count = u32::try_from(nr_pages).unwrap_or(u32::MAX);
        loop {
            if let Some(extent) = self.extents.allocate(count) {
                return Place::Reserved(extent);
            }
            // Better blocks that failed once than none.
            let Some(bad) = self.bad.pop_front() else { return Place::Nowhere };
            self.extents.free(bad);
        }
    }

    /// Whether there are packs to be read, and no transfer under way whose end would bring them on.
    pub fn waits_for_pages(&self) -> bool {
        !self.reads.is_empty() && self.flights.is_empty()
    }

    /// Somebody waits for a pack that is on disk.
    pub fn want(&mut self, handle: Handle) {
        self.reads.push_back(handle);
    }

    /// Gives a pack's pages back: they can be read again, or are needed no more.
    pub fn release_pages<P: Pages>(&mut self, hw: &mut P, pages: Vec<Page>) {
        self.packed_pages -= pages.len() as u64;
        for page in pages {
            hw.release(page);
        }
    }

    /// Drops a pack that nobody needs. If it is being written its blocks stay taken until that has ended.
    pub fn discard<P: Pages>(&mut self, hw: &mut P, pack: Pack) {
        self.release_pages(hw, pack.pages);
        self.free(pack.disk);
    }

    /// Frees the blocks of a pack.
    pub fn free(&mut self, place: Place) {
        match place {
            Place::Nowhere | Place::Writing(_) => {}
            Place::Reserved(extent) => drop(self.extents.free(extent)),
            Place::Stored(stored) | Place::Reading(stored) => drop(self.extents.free(extent_of(stored))),
        }
    }

    /// Whether more can be moved to the disk.
    pub const fn has_room(&self) -> bool {
        self.extents.total().saturating_sub(self.extents.used()) >= ROOM_BLOCKS
    }

    /// Leaves blocks alone that could not be written.
    fn shun(&mut self, extent: Extent) {
        self.bad.push_back(extent);
        if self.bad.len() > MAX_BAD
            && let Some(oldest) = self.bad.pop_front()
        {
            self.extents.free(oldest);
        }
    }

    /// Everything that is to be written now is written without waiting for memory to be short.
    pub fn hurry(&mut self) {
        self.urgent = self.writes.len();
    }

    /// How much there is to be read, to be written and under way: 0 if there is nothing to do.
    #[inline]
    pub fn waiting(&self) -> usize {
        self.flights.len() | self.reads.len() | self.writes.len()
    }

    /// Whether there is something to write.
    pub fn has_writes(&self) -> bool {
        !self.writes.is_empty()
    }
}

const fn extent_of(stored: Stored) -> Extent {
    Extent { first: stored.first, count: stored.count }
}

impl<H: Hardware> Core<'_, H> {
    /// A pack, if it still is.
    pub(crate) fn pack(&mut self, handle: Handle) -> Option<&mut Pack> {
        self.vms.pack(handle)
    }

    /// Plants a defect.
    #[cfg(feature = "planted-defects")]
    pub fn plant(&mut self, defect: Defect) {
        self.swap.defect = Some(defect);
    }

    /// A pack has been made and can be written when memory is short, if there is room on disk.
    pub(crate) fn enqueue(&mut self, handle: Handle, place: Place) {
        let mut queue = match place {
            Place::Reserved(_) => core::mem::take(&mut self.swap.writes),
            Place::Nowhere if self.swap.extents.total() > 0 => core::mem::take(&mut self.swap.homeless),
            _ => return,
        };
        if queue.len() == queue.capacity() {
            // Packs that were dropped have left their handles behind: the queue grows only if they are few. The VM that
            // this pack is of is taken out, and its other packs cannot be looked at.
            queue.retain(|&handle| self.vms.is_out(handle.vm) || self.pack(handle).is_some());
        }
        // Without room for it the pack stays in memory until its VM wakes.
        if queue.len().saturating_mul(4) < queue.capacity().saturating_mul(3) || queue.try_reserve(1).is_ok() {
            queue.push_back(handle);
        }
        match place {
            Place::Reserved(_) => self.swap.writes = queue,
            _ => self.swap.homeless = queue,
        }
    }

    /// Begins transfers that wait and ends those that are done. Returns whether any were done.
    pub(crate) fn serve_disk(&mut self) -> bool {
        let mut any = false;
        if !self.swap.flights.is_empty() {
            while let Some(completion) = self.hw.complete() {
                any = true;
                self.end_transfer(completion);
            }
        }
        if !self.swap.reads.is_empty() {
            self.begin_reads();
        }
        if !self.swap.writes.is_empty() {
            self.begin_writes();
        }
        any
    }

    fn begin_reads(&mut self) {
        while self.swap.nr_reads < MAX_READS {
            let Some(&handle) = self.swap.reads.front() else { return };
            let place = self.pack(handle).filter(|pack| pack.pages.is_empty()).map(|pack| pack.disk);
            let Some(Place::Stored(stored)) = place else {
                // It is gone, in memory, or about to be: whoever waits asks again when it runs.
                self.swap.reads.pop_front();
                continue;
            };
            let Some(pages) = self.allocate_pages(stored.count) else { return };
            let request = DiskRequest { transfer: Transfer::Read, block: u64::from(stored.first), pages };
            match self.submit(request, Flight::Read(handle, stored)) {
                Ok(()) => {}
                Err((DiskError::QueueFull, pages, _)) => {
                    return pages.into_iter().for_each(|page| self.hw.release(page));
                }
                Err((error, pages, _)) => {
                    self.swap.reads.pop_front();
                    self.swap.nr_reads += 1;
                    self.end_read(handle, stored, pages, Err(error));
                    continue;
                }
            }
            self.swap.reads.pop_front();
            self.swap.nr_reads += 1;
            self.swap.figures.reads += 1;
            self.swap.figures.read_blocks += u64::from(stored.count);
            if let Some(pack) = self.pack(handle) {
                pack.disk = Place::Reading(stored);
            }
        }
    }

    /// Takes that many pages, or none.
    fn allocate_pages(&mut self, count: u32) -> Option<Vec<Page>> {
        let mut pages = Vec::new();
        pages.try_reserve_exact(count as usize).ok()?;
        for _ in 0..count {
            let Some(page) = self.hw.allocate() else {
                pages.into_iter().for_each(|page| self.hw.release(page));
                return None;
            };
            pages.push(page);
        }
        Some(pages)
    }

    fn submit(&mut self, mut request: DiskRequest, flight: Flight) -> Result<(), (DiskError, Vec<Page>, Flight)> {
        let ticket = self.swap.next_ticket;
        self.swap.next_ticket += 1;
        request.block = request.block.saturating_add(self.swap.base);
        match self.hw.submit(ticket, request) {
            Ok(()) => {
                self.swap.flights.insert(ticket, flight);
                Ok(())
            }
            Err((error, request)) => Err((error, request.pages, flight)),
        }
    }

    /// Finds room on disk for a pack that had none. False if there is none still, or no such pack.
    pub(crate) fn house(&mut self) -> bool {
        while let Some(handle) = self.swap.homeless.pop_front() {
            let Some(pack) = self.pack(handle) else { continue };
            if pack.disk != Place::Nowhere || pack.pages.is_empty() {
                continue;
            }
            let nr_pages = pack.pages.len();
            let place = self.swap.reserve(nr_pages);
            if let Some(pack) = self.pack(handle) {
                pack.disk = place;
            }
            self.enqueue(handle, place);
            return place != Place::Nowhere;
        }
        false
    }

    fn begin_writes(&mut self) {
        while self.swap.nr_writes < MAX_WRITES && self.should_write() {
            let (packs, pages) = self.gather();
            let Some((_, first)) = packs.first() else { return };
            let count = pages.len() as u64;
            let request = DiskRequest { transfer: Transfer::Write, block: u64::from(first.first), pages };
            match self.submit(request, Flight::Write(packs)) {
                Ok(()) => {
                    self.swap.nr_writes += 1;
                    self.swap.figures.writes += 1;
                    self.swap.figures.written_blocks += count;
                }
                Err((DiskError::QueueFull, pages, Flight::Write(packs))) => return self.take_back(packs, pages),
                Err((error, pages, Flight::Write(packs))) => {
                    self.swap.nr_writes += 1;
                    self.end_write(packs, pages, Err(error));
                }
                Err((_, pages, Flight::Read(..))) => pages.into_iter().for_each(|page| self.hw.release(page)),
            }
        }
    }

    /// Collects the packs of one write: the next one, and those after it that lie behind it on disk.
    fn gather(&mut self) -> (Vec<(Handle, Stored)>, Vec<Page>) {
        let (mut packs, mut pages): (Vec<(Handle, Stored)>, Vec<Page>) = (Vec::new(), Vec::new());
        let most = self.ablation.switches.write_blocks.min(MAX_TRANSFER_PAGES);
        while let Some(&handle) = self.swap.writes.front() {
            let reserved = self.pack(handle).and_then(|pack| match pack.disk {
                Place::Reserved(extent) => Some(extent),
                _ => None,
            });
            if let (Some((_, last)), Some(extent)) = (packs.last(), reserved) {
                let is_next = last.first.checked_add(last.count) == Some(extent.first);
                if !is_next || pages.len().saturating_add(extent.count as usize) > most {
                    break;
                }
            }
            self.swap.writes.pop_front();
            self.swap.urgent = self.swap.urgent.saturating_sub(1);
            let Some((extent, pack)) = reserved.zip(self.pack(handle)) else { continue };
            pack.disk = Place::Writing(extent);
            let own = core::mem::take(&mut pack.pages);
            let sum = self.packer.checksum(&self.hw, &own, handle.epoch);
            packs.push((handle, Stored { first: extent.first, count: extent.count, sum }));
            pages.extend(own);
        }
        (packs, pages)
    }

    /// Undoes [`gather`](Self::gather): the disk takes nothing now.
    fn take_back(&mut self, packs: Vec<(Handle, Stored)>, pages: Vec<Page>) {
        let mut pages = pages.into_iter();
        for &(handle, stored) in &packs {
            let own = pages.by_ref().take(stored.count as usize).collect();
            if let Some(pack) = self.pack(handle) {
                pack.pages = own;
                pack.disk = Place::Reserved(extent_of(stored));
            }
        }
        for (handle, _) in packs.into_iter().rev() {
            self.swap.writes.push_front(handle);
        }
    }

    fn end_transfer(&mut self, completion: Completion) {
        match self.swap.flights.remove(&completion.ticket) {
            Some(Flight::Read(handle, stored)) => self.end_read(handle, stored, completion.pages, completion.result),
            Some(Flight::Write(packs)) => self.end_write(packs, completion.pages, completion.result),
            None => completion.pages.into_iter().for_each(|page| self.hw.release(page)),
        }
    }

    fn end_read(&mut self, handle: Handle, stored: Stored, pages: Vec<Page>, result: Result<(), DiskError>) {
        self.swap.nr_reads -= 1;
        let checked = match result {
            Err(_) => Err(SwapError::Read),
            Ok(()) if self.swap.has(Defect::UncheckedRead) => Ok(()),
            Ok(()) if self.packer.checksum(&self.hw, &pages, handle.epoch) == stored.sum => Ok(()),
            Ok(()) => Err(SwapError::Checksum),
        };
        if checked.is_err() {
            self.swap.figures.errors += 1;
            let block = self.swap.base.saturating_add(u64::from(stored.first));
            self.post_event(Event::SwapFailed { block, is_write: false });
        }
        let nr_pages = pages.len() as u64;
        match self.pack(handle) {
            Some(pack) if checked.is_ok() => {
                pack.pages = pages;
                pack.disk = Place::Stored(stored);
                self.swap.packed_pages += nr_pages;
                self.count_on_disk(handle, false);
                self.arrived(handle);
            }
            owner => {
                let is_owned = owner.map(|pack| pack.disk = Place::Stored(stored)).is_some();
                pages.into_iter().for_each(|page| self.hw.release(page));
                if let (true, Err(error)) = (is_owned, checked) {
                    self.lose(handle, stored, error);
                }
            }
        }
    }

    fn end_write(&mut self, packs: Vec<(Handle, Stored)>, pages: Vec<Page>, result: Result<(), DiskError>) {
        self.swap.nr_writes -= 1;
        let mut pages = pages.into_iter();
        if result.is_err() {
            self.swap.figures.errors += 1;
            self.swap.resume_writes_at = self.hw.now().after(self.swap.write_pause_ns);
            self.swap.write_pause_ns = self.swap.write_pause_ns.saturating_mul(2).min(WRITE_PAUSE_NS.1);
            let block = packs.first().map_or(0, |&(_, stored)| u64::from(stored.first)).saturating_add(self.swap.base);
            self.post_event(Event::SwapFailed { block, is_write: true });
        }
        if result.is_ok() {
            self.swap.write_pause_ns = WRITE_PAUSE_NS.0;
        }
        for (handle, stored) in packs {
            let own: Vec<Page> = pages.by_ref().take(stored.count as usize).collect();
            let extent = extent_of(stored);
            if self.pack(handle).is_none() {
                // Dropped meanwhile. Its blocks were kept, so that nothing new was under this write.
                self.swap.release_pages(&mut self.hw, own);
                self.swap.extents.free(extent);
                continue;
            }
            let place = match result {
                Ok(()) => Place::Stored(stored),
                Err(_) => {
                    self.swap.shun(extent);
                    self.swap.reserve(own.len())
                }
            };
            let is_needed = result.is_err() || self.is_awaited(handle);
            let (keep, release) = if is_needed { (own, Vec::new()) } else { (Vec::new(), own) };
            if let Some(pack) = self.pack(handle) {
                pack.pages = keep;
                pack.disk = place;
            }
            if result.is_ok() && !is_needed {
                self.count_on_disk(handle, true);
            }
            self.swap.release_pages(&mut self.hw, release);
            self.enqueue(handle, place);
            if result.is_err() {
                self.swap.hurry();
            }
            if self.is_awaited(handle) {
                self.arrived(handle);
            }
        }
    }

    /// Counts the parked VMs of which nothing is in memory.
    fn count_on_disk(&mut self, handle: Handle, is_there: bool) {
        if handle.pack.is_none() && self.vms.stub(handle.vm).is_some_and(|stub| stub.head.epoch == handle.epoch) {
            let change = if is_there { 1 } else { -1 };
            self.parked_on_disk = self.parked_on_disk.saturating_add_signed(change);
        }
    }
}
