//! Reclaim: keeps a reserve of free pages, so that what must not wait never does.
//!
//! Cheapest first: copies of what is on disk anyway, then VMs that sleep as a whole, then cold pages of those that
//! run. Whose turn it is the policy says; the candidates are a few VMs at the clock's hand and the heaviest ones,
//! so that no choice looks at all VMs.

use crate::core::{Core, SUPERVISOR};
use crate::delta::Place;
use crate::memory::Memory;
use crate::pack::{PACK_PAGES, Span, Squeezed, Writer};
use crate::park::{NotNow, WAKE_ROOM};
use crate::swap::{self, Handle};
use crate::template::NOBODY;
use crate::vm::{Account, State, Vm};
use hal::{Hardware, Page, Ppn};
use policy::reclaim::{Claim, is_over_share, may_take, victim};
use virtual_isa::exception::Cause;
use virtual_isa::gate::Tier;
use virtual_isa::limits::MAX_PAGES_PER_STEP;

/// VMs that lose memory in one turn of the loop.
const VICTIMS_A_TURN: usize = 4;

/// VMs at the clock's hand among which one is chosen.
const SAMPLE: usize = 16;

/// Heaviest VMs that are remembered.
pub const HEAVIEST: usize = 8;

/// A VM that has not run for so long is idle.
const IDLE_NS: u64 = 20_000_000;

/// A VM that had nothing to give is not asked again for so long.
const BARREN_NS: u64 = 1_000_000;

/// Bytes that the kernel's heap is to be able to grow by for each page of the machine: one in 256.
const HEAP_RESERVE_BYTES_A_PAGE: u64 = 16;

/// After so many turns in which nobody had memory to give, what is packed is all that is left to take.
const MAX_VAIN_TURNS: u32 = 32;

/// Packs may take one page in so many of memory before they go to disk: a VM takes some nine times less there than it
/// takes awake, so that even a small part holds many.
const PACKED_PART: u64 = 4;

impl<H: Hardware> Core<'_, H> {
    /// A VM came into memory: reclaim looks at it from now on.
    pub(crate) fn note_resident(&mut self, number: u32) {
        if self.vms.join_clock(number) {
            self.clock.push_back(number);
        }
    }

    /// What a VM claims of memory.
    fn claim(&self, vm: &Vm<H>) -> Claim {
        let Account { private, tables, .. } = vm.account();
        let pages = private.saturating_add(tables).saturating_add(vm.memory.as_ref().map_or(0, Memory::heap_pages));
        let active = if self.is_idle(vm) { 0 } else { vm.activity.max(1) };
        let idle_ns = self.hw.now().since(vm.last_ran);
        Claim { shares: vm.shares, pages, minimum: vm.minimum_pages, active, idle_ns }
    }

    fn is_idle(&self, vm: &Vm<H>) -> bool {
        matches!(vm.state, State::Idle | State::Paused) && self.hw.now().since(vm.last_ran) >= IDLE_NS
    }

    /// Whether a VM may have more pages now.
    pub(crate) fn may_grow(&self, vm: &Vm<H>) -> bool {
        let (free, available) = (self.hw.free_pages(), self.available_pages());
        if available >= self.marks.minimum.saturating_add(self.wanted_elsewhere()) || vm.is_privileged {
            return true;
        }
        let claim = self.claim(vm);
        let (others, _) = self.seat.sums();
        let is_over = is_over_share(&claim, self.total_shares.saturating_add(others), self.hw.total_pages());
        // What is owed to others is not there for who has what was promised to it.
        let available = if is_over { available.saturating_sub(self.wanted_elsewhere()) } else { available };
        may_take(if claim.pages < claim.minimum { free } else { available }, &self.marks, is_over)
    }

    /// Pages that VMs of other cores need to be awake again. Those cores may have nothing to reclaim, so all do it for
    /// them, and who is over its share leaves them alone.
    fn wanted_elsewhere(&self) -> u64 {
        u64::from(self.seat.wakers_elsewhere()).saturating_mul(WAKE_ROOM)
    }

    /// Free pages that are not owed to a VM. Pages that were lent can be had back while there is room on the disk.
    fn available_pages(&self) -> u64 {
        let (_, others) = self.seat.sums();
        let owed = if self.swap.has_room() { 0 } else { self.vms.owed_pages().saturating_add(others) };
        self.hw.free_pages().saturating_sub(owed)
    }

    /// Remembers a VM that has become heavy.
    pub(crate) fn weigh(&mut self, vm: &Vm<H>) {
        let weight = |vm: &Vm<H>| vm.memory.as_ref().map_or(0, Memory::private_pages) / vm.shares.max(1);
        if vm.is_privileged || vm.number == NOBODY || self.heaviest.contains(&vm.number) {
            return;
        }
        if self.heaviest.push(vm.number).is_ok() {
            return;
        }
        let others = self.heaviest.iter().enumerate().map(|(at, &n)| (self.vms.get(n).map_or(0, weight), at));
        if let Some((least, at)) = others.min()
            && least < weight(vm)
            && let Some(place) = self.heaviest.get_mut(at)
        {
            *place = vm.number;
        }
    }

    /// Whether packs are to be written now.
    pub(crate) fn should_write(&self) -> bool {
        let swap = &self.swap;
        let is_full = swap.packed_pages > self.hw.total_pages() / PACKED_PART / u64::from(self.seat.nr_cores().max(1));
        (swap.urgent > 0 || self.vain_turns >= MAX_VAIN_TURNS || is_full) && self.hw.now() >= swap.resume_writes_at
    }

    /// Whether [`Self::reclaim`] may have something to do while nobody waits for memory.
    #[inline]
    pub(crate) fn is_short(&self) -> bool {
        // What is owed is not always held back: this errs on the safe side.
        let available = self.hw.free_pages().saturating_sub(self.vms.owed_pages());
        let low = self.marks.low.saturating_add(self.wanted_elsewhere());
        self.is_reclaiming || self.vain_turns != 0 || available < low || self.is_heap_short(1)
    }

    /// Reclaims some memory if there is too little. Returns whether it is to be called again before the core halts.
    pub(crate) fn reclaim(&mut self) -> bool {
        let free = self.available_pages();
        let level = match (self.starved.is_empty(), self.is_reclaiming) {
            // One of those may be a VM to be made whole, which takes much at once.
            (false, _) => self.marks.high + WAKE_ROOM,
            (true, true) => self.marks.high,
            (true, false) => self.marks.low,
        };
        self.is_reclaiming = free < level.saturating_add(self.wanted_elsewhere());
        let is_heap_short = self.is_heap_short(1) && !self.feed_heap();
        if !is_heap_short {
            // Who wanted it tries again, and says so if it was not enough.
            self.heap_wanted = 0;
        }
        if !self.is_reclaiming && !is_heap_short {
            self.vain_turns = 0;
            return false;
        }
        let mut any = false;
        if is_heap_short {
            // A VM that is parked takes less of the heap; one that loses pages takes more.
            for _ in 0..VICTIMS_A_TURN {
                any |= self.park_idle();
            }
            if any {
                return true;
            }
        }
        for _ in 0..VICTIMS_A_TURN {
            any |= self.drop_cached() || self.take_from_victim() || self.house();
        }
        self.vain_turns = if any { 0 } else { self.vain_turns.saturating_add(1) };
        // Or nothing that comes by itself would bring those on that wait.
        any || (!self.starved.is_empty() && self.vain_turns <= MAX_VAIN_TURNS)
    }

    /// Lets the heap grow by pages that are free. Returns whether it has its reserve again.
    fn feed_heap(&mut self) -> bool {
        for _ in 0..MAX_PAGES_PER_STEP {
            if !self.is_heap_short(1) {
                return true;
            }
            // Before any VM: what they leave alone is the kernel's, and half of it is the heap's.
            if self.hw.free_pages() <= self.marks.critical / 2 {
                return false;
            }
            let Some(page) = self.hw.allocate() else { return false };
            self.hw.give_to_heap(page);
        }
        !self.is_heap_short(1)
    }

    /// Whether the kernel's heap has less room than its reserve, or one in `part` of that, beyond what a VM waits for.
    pub(crate) fn is_heap_short(&self, part: u64) -> bool {
        let reserve = self.hw.total_pages().saturating_mul(HEAP_RESERVE_BYTES_A_PAGE) / part;
        self.hw.heap_room() < reserve.saturating_add(self.heap_wanted)
    }

    /// Notes what a VM wants of the heap that had no memory, if it is that: more in one piece than the reserve may be.
    pub(crate) fn note_heap_wanted(&mut self, vm: &mut Vm<H>) {
        if let Some(memory) = &mut vm.memory
            && memory.delta.reserve().is_err()
        {
            self.heap_wanted = self.heap_wanted.max(memory.delta.growth_bytes());
        }
    }

    fn park_idle(&mut self) -> bool {
        let Some(number) = self.choose() else { return false };
        let any =
            self.vms.get(number).is_some_and(|vm| vm.may_park(&self.hw)) && self.park(number, Tier::Memory).is_ok();
        if !any {
            self.note_barren(number);
        }
        any
    }

    /// Leaves a VM alone for a while that has nothing to give, or it would be asked again and again, and nobody else.
    fn note_barren(&mut self, number: u32) {
        let until = self.hw.now().after(BARREN_NS);
        if let Some(vm) = self.vms.get_mut(number) {
            vm.barren_until = until;
        }
    }

    fn take_from_victim(&mut self) -> bool {
        let Some(number) = self.choose() else { return false };
        let Some(vm) = self.vms.get(number) else { return false };
        let is_idle = self.is_idle(vm);
        let given = if is_idle && vm.may_park(&self.hw) {
            self.park(number, Tier::Memory).map_or_else(|e| if e == NotNow::Later { Ok(()) } else { Err(e) }, Ok)
        } else {
            let Some(mut vm) = self.vms.take(number) else { return false };
            let has_dropped = is_idle && vm.memory.as_mut().is_some_and(|memory| memory.drop_space(&mut self.hw));
            let given = if has_dropped || self.drop_composed(&mut vm, 1) {
                Ok(())
            } else {
                self.page_out(&mut vm).or_else(|e| if self.drop_composed(&mut vm, 0) { Ok(()) } else { Err(e) })
            };
            self.vms.put(vm);
            given
        };
        // Of one whose pages are all in use some may not be when it is asked next.
        if !matches!(given, Ok(()) | Err(NotNow::Later)) {
            self.note_barren(number);
        }
        given.is_ok()
    }

    /// Drops tables of address spaces that a VM made, but of those it used last. Returns whether there were any.
    fn drop_composed(&mut self, vm: &mut Vm<H>, kept: usize) -> bool {
        vm.memory.as_mut().is_some_and(|memory| memory.drop_composed(&mut self.hw, kept))
    }

    /// Chooses the VM that has to give.
    fn choose(&mut self) -> Option<u32> {
        let mut numbers = heapless::Vec::<u32, { SAMPLE + HEAVIEST }>::new();
        for _ in 0..self.clock.len().min(2 * SAMPLE) {
            let Some(number) = self.clock.pop_front() else { break };
            if self.vms.get(number).is_none_or(|vm| vm.state == State::Ended || vm.is_privileged) {
                self.vms.leave_clock(number);
                continue;
            }
            self.clock.push_back(number);
            // There is room: as many as the sample, and only once.
            let _ = numbers.push(number);
            if numbers.len() >= SAMPLE {
                break;
            }
        }
        let heavy = self.heaviest.clone();
        for number in heavy {
            match self.vms.get(number) {
                Some(vm) if vm.state != State::Ended => drop(numbers.push(number)),
                _ => self.heaviest.retain(|&other| other != number),
            }
        }
        let now = self.hw.now();
        numbers.retain(|&number| self.vms.get(number).is_none_or(|vm| vm.barren_until <= now));
        let claims = numbers.iter().map(|&n| {
            let none = Claim { shares: 1, pages: 0, minimum: 0, active: 0, idle_ns: 0 };
            self.vms.get(n).map_or(none, |vm| {
                // A VM that sleeps may lose all it has: its minimum is kept for it, not by it.
                let claim = self.claim(vm);
                if claim.active == 0 { Claim { minimum: 0, ..claim } } else { claim }
            })
        });
        victim(claims).and_then(|at| numbers.get(at).copied())
    }

    /// Moves cold pages of a VM into a pack, up to [`PACK_PAGES`] of them, and leaves it its minimum unless it is idle.
    ///
    /// # Errors
    /// If that cannot be, or gains nothing, or not now, as it uses all of them.
    fn page_out(&mut self, vm: &mut Vm<H>) -> Result<(), NotNow> {
        let floor = if self.is_idle(vm) { 0 } else { vm.minimum_pages as usize };
        let Some(memory) = vm.memory.as_mut() else { return Err(NotNow::Unfit) };
        let have = memory.delta.nr_residents();
        let most = have.saturating_sub(floor).min(PACK_PAGES);
        let mut victims = heapless::Vec::<Ppn, PACK_PAGES>::new();
        let (mut seen, mut used) = (0u32, 0u32);
        for _ in 0..have.min(MAX_PAGES_PER_STEP as usize) {
            if victims.len() >= most {
                break;
            }
            let Some((ppn, is_used)) = memory.tick(&mut self.hw) else { break };
            seen = seen.saturating_add(1);
            used = used.saturating_add(u32::from(is_used));
            if !is_used && !victims.contains(&ppn) {
                let _ = victims.push(ppn);
            }
        }
        let share = used.saturating_mul(255).checked_div(seen).unwrap_or(0);
        vm.activity = u8::try_from(u32::from(vm.activity).midpoint(share)).unwrap_or(u8::MAX);
        if victims.is_empty() && used > 0 {
            return Err(NotNow::Later);
        }
        self.pack_pages(vm, &victims)
    }

    /// Moves pages of a VM into a pack.
    ///
    /// # Errors
    /// If that cannot be, or gains nothing.
    pub(crate) fn pack_pages(&mut self, vm: &mut Vm<H>, victims: &[Ppn]) -> Result<(), NotNow> {
        let Some(memory) = vm.memory.as_mut() else { return Err(NotNow::Unfit) };
        memory.reserve_pack().map_err(|_| NotNow::NoMemory)?;
        let mut writer = Writer::default();
        let mut moves = heapless::Vec::<(Ppn, Span), PACK_PAGES>::new();
        let mut nr_filled = 0;
        let mut result = Ok(());
        for &ppn in victims {
            let Some(Place::Resident(index)) = memory.delta.find(ppn) else { continue };
            let Some(mpn) = memory.delta.resident(index).map(|resident| resident.page.mpn()) else { continue };
            match self.packer.squeeze(&self.hw, mpn) {
                Squeezed::Filled(word) => {
                    memory.evict(&mut self.hw, &self.swap, ppn, Place::Filled(word));
                    nr_filled += 1;
                }
                Squeezed::Bytes(bytes) => match writer.push(&mut self.hw, bytes) {
                    Ok(span) => drop(moves.push((ppn, span))),
                    Err(_) => {
                        result = Err(NotNow::NoMemory);
                        break;
                    }
                },
            }
        }
        let pages = writer.finish();
        let nr_pages = pages.len();
        let pack = if result.is_ok() && !moves.is_empty() {
            Some(self.swap.make(pages, 0))
        } else {
            release(&mut self.hw, pages)
        };
        let Some(mut pack) = pack else { return if nr_filled > 0 { Ok(()) } else { result.and(Err(NotNow::Unfit)) } };
        if pack.disk == swap::Place::Nowhere && nr_pages >= moves.len() {
            // It stays in memory and is no smaller there.
            self.swap.discard(&mut self.hw, pack);
            return if nr_filled > 0 { Ok(()) } else { Err(NotNow::Unfit) };
        }
        pack.live = u32::try_from(moves.len()).unwrap_or(u32::MAX);
        let (epoch, place) = (pack.epoch, pack.disk);
        let number = memory.add_pack(pack);
        for (ppn, span) in moves {
            memory.evict(&mut self.hw, &self.swap, ppn, Place::Packed { pack: number, span });
        }
        self.enqueue(Handle { vm: vm.number, pack: Some(number), epoch }, place);
        Ok(())
    }

    /// A pack's pages are in memory that somebody waited for.
    pub(crate) fn arrived(&mut self, handle: Handle) {
        match handle.pack {
            None => self.continue_waking(handle.vm),
            Some(_) => {
                self.note_cached(handle);
                if let Some(mut vm) = self.vms.take(handle.vm) {
                    if vm.state == State::Paging {
                        self.make_runnable(&mut vm);
                    }
                    self.vms.put(vm);
                }
            }
        }
    }

    /// Whether somebody waits for a pack's pages.
    pub(crate) fn is_awaited(&self, handle: Handle) -> bool {
        match handle.pack {
            None => self.vms.stub(handle.vm).is_some_and(|stub| stub.is_waking),
            Some(_) => self.vms.get(handle.vm).is_some_and(|vm| vm.state == State::Paging),
        }
    }

    /// A pack cannot be read back: its VM ends.
    pub(crate) fn lose(&mut self, handle: Handle, stored: swap::Stored, error: virtual_isa::exception::SwapError) {
        let cause = Cause::PageLost { block: u64::from(stored.first), error };
        if handle.pack.is_none() {
            self.end_parked(handle.vm, cause);
        } else if let Some(mut vm) = self.vms.take(handle.vm) {
            self.end(&mut vm, cause);
            self.vms.put(vm);
        }
    }

    /// Lets VMs go on that waited for memory, if there is some.
    pub(crate) fn feed_starved(&mut self) {
        for _ in 0..self.starved.len().min(64) {
            let Some(number) = self.starved.pop_front() else { return };
            // The supervisor draws on the reserve: without it nobody could mend anything.
            if self.hw.free_pages() <= self.marks.critical && number != SUPERVISOR {
                self.starved.push_back(number);
                continue;
            }
            if self.vms.stub(number).is_some() {
                self.continue_waking(number);
                continue;
            }
            let Some(mut vm) = self.vms.take(number) else { continue };
            if vm.state == State::Starved {
                if self.may_grow(&vm) {
                    self.make_runnable(&mut vm);
                } else {
                    self.starved.push_back(number);
                }
            }
            self.vms.put(vm);
        }
    }
}

fn release<H: Hardware>(hw: &mut H, pages: alloc::vec::Vec<Page>) -> Option<crate::pack::Pack> {
    pages.into_iter().for_each(|page| hw.release(page));
    None
}
