//! The processors but the first: started one after another, then waiting for jobs, until they are given a [`Machine`]
//! of their own (`cores`).
//!
//! Each has an area of memory: its [`Cpu`], then its stacks, which it sees in a window of their own above pages that
//! are never mapped. The first processor hands it one job at a time through its mailbox and wakes it.

use crate::apic::Apic;
use crate::cpu::{Features, random_word};
use crate::layout::{PAGE, STACKS_BASE, direct};
use crate::memory_map::Range;
use crate::per_cpu::{self, Cpu, StackTops};
use crate::trap::{SPURIOUS_VECTOR, WAKE_VECTOR};
use crate::{Machine, copy, frames, paging, ram, time, trap};
use alloc::boxed::Box;
use core::arch::{asm, global_asm};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use hal::{Mpn, NoMemory};
use spin::Mutex;
use x86_64::registers::control::{Cr0, Cr4, Efer};
use x86_64::registers::xcontrol::XCr0;

global_asm!(include_str!("trampoline.s"));

unsafe extern "C" {
    static trampoline_start: u8;
    static trampoline_end: u8;
    static trampoline_gdt_base: u8;
    static trampoline_jump: u8;
    static trampoline_jump_long: u8;
    static trampoline_ticket: u8;
    static trampoline_stack: u8;
    static trampoline_root: u8;
}

/// Most processors that are used.
const MAX_CPUS: usize = 64;
/// Pages of the stacks: the kernel's, of `trap`, and the four of exceptions.
const STACK_PAGES: [u64; 6] = [16, 1, 4, 4, 4, 4];
/// Addresses between two processors' stacks.
const STRIDE: u64 = 1 << 20;
/// How long a processor may take to come up.
const PATIENCE_NS: u64 = 200_000_000;

const INIT: u32 = 0x4500;
const STARTUP: u32 = 0x4600;
/// What the mailbox holds when there is no job, and when the last one is done.
const IDLE: u32 = 0;
/// The job of comparing clocks: see `compare_clocks`.
const COMPARE: u32 = u32::MAX;

/// A core's life from the time it has a machine of its own. It does not return.
type Life = Box<dyn FnOnce(Apic) + Send>;

/// What a processor can be asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Job {
    /// Answers the number of its interrupt controller.
    Identify = 1,
    /// Answers the sum of the words of a page.
    Sum,
    /// Fills a page with words that it picks, and answers their sum.
    Fill,
    /// Answers its control register 0.
    Cr0,
    /// Its control register 4.
    Cr4,
    /// Its extended features.
    Efer,
    /// Its extended control register 0.
    Xcr0,
}

/// A processor's place, its mailbox among it.
struct Place {
    apic: AtomicU32,
    is_up: AtomicBool,
    job: AtomicU32,
    page: AtomicU32,
    answer: AtomicU64,
    /// Wake-ups that ended a halt.
    wakes: AtomicU64,
    /// Whether a wake-up is on its way to it: then another is not needed.
    is_woken: AtomicBool,
    /// Number of the round of a comparison of clocks: the first processor's, and how far this one is.
    round: AtomicU32,
    answered: AtomicU32,
    life: Mutex<Option<Life>>,
}

static PLACES: [Place; MAX_CPUS] = [const {
    Place {
        apic: AtomicU32::new(0),
        is_up: AtomicBool::new(false),
        job: AtomicU32::new(IDLE),
        page: AtomicU32::new(0),
        answer: AtomicU64::new(0),
        wakes: AtomicU64::new(0),
        is_woken: AtomicBool::new(false),
        round: AtomicU32::new(0),
        answered: AtomicU32::new(0),
        life: Mutex::new(None),
    }
}; MAX_CPUS];

static RUNNING: AtomicU32 = AtomicU32::new(1);
static FEATURES: Mutex<Option<Features>> = Mutex::new(None);

/// What a processor that starts needs to know of itself. It lies right behind its `Cpu`.
#[repr(C)]
struct Area {
    cpu: Cpu,
    stacks: StackTops,
}
const _: () = assert!(size_of::<Area>() <= PAGE as usize);

/// Processors that run, the first among them.
pub fn nr_running() -> u32 {
    RUNNING.load(Ordering::Relaxed)
}

fn wait(ns: u64, until: impl Fn() -> bool) -> bool {
    let start = time::uptime_ns();
    while !until() {
        if time::uptime_ns() - start > ns {
            return until();
        }
        core::hint::spin_loop();
    }
    true
}

/// Starts all processors of a list but the one that runs this, `most` of them at most with it. Call it once.
pub fn start(apic: &Apic, features: &Features, cpus: &[u32], most: u32, page: Option<u64>) {
    let most = most.clamp(1, MAX_CPUS as u32);
    let own = apic.id();
    PLACES[0].apic.store(own, Ordering::Relaxed);
    *FEATURES.lock() = Some(*features);
    if most == 1 || !cpus.iter().any(|id| *id != own) {
        return;
    }
    let Some(page) = page else {
        log::warn!("no memory below 1 MiB to start the other processors in: they are left out");
        return;
    };
    let Ok(at) = paging::map_device(page, PAGE) else { return };
    let mut before = [0_u8; PAGE as usize];
    // SAFETY: the page is mapped, and RAM that the loader has nothing in that is still to be read.
    unsafe {
        copy::copy(at, before.as_mut_ptr(), PAGE as usize);
        prepare(at, page);
    }
    let mut area = None;
    for &id in cpus.iter().filter(|id| **id != own) {
        let number = nr_running();
        if number == most {
            log::warn!("more than {most} processors: the others are left out");
            break;
        }
        if area.is_none() {
            area = make_area(number).ok();
        }
        let Some(of_it) = area else {
            log::warn!("no memory for the stacks of processor {id}: it is left out");
            continue;
        };
        match start_one(apic, id, number, of_it, at, page) {
            true => {
                RUNNING.store(number + 1, Ordering::Relaxed);
                area = None;
            }
            // Its stacks are the next one's.
            false => log::warn!("processor {id} does not start: the machine goes on without it"),
        }
    }
    // SAFETY: as above; who has not started by now has been told to wait for another start.
    unsafe { copy::copy(before.as_ptr(), at, PAGE as usize) };
}

fn offset(symbol: *const u8) -> usize {
    symbol as usize - (&raw const trampoline_start) as usize
}

/// Copies the trampoline to its page, and makes its addresses those of the page.
///
/// # Safety
/// `at` is where the page is mapped, and nobody else uses it.
unsafe fn prepare(at: *mut u8, page: u64) {
    // SAFETY: the trampoline is shorter than a page, and the three words are within it.
    unsafe {
        let start = &raw const trampoline_start;
        copy::copy(start, at, offset(&raw const trampoline_end));
        for word in [&raw const trampoline_gdt_base, &raw const trampoline_jump, &raw const trampoline_jump_long] {
            let word = at.add(offset(word)).cast::<u32>();
            word.write_unaligned(word.read_unaligned() + page as u32);
        }
    }
}

/// Starts one processor. Answers whether it came up.
fn start_one(apic: &Apic, id: u32, number: u32, (area, top): (*mut Area, u64), at: *mut u8, page: u64) -> bool {
    let place = &PLACES[number as usize];
    let write = |symbol: *const u8, value: u64| {
        // SAFETY: one of the trampoline's words, which are aligned, in its page.
        unsafe { at.add(offset(symbol)).cast::<u64>().write_volatile(value) };
    };
    write(&raw const trampoline_stack, top);
    write(&raw const trampoline_root, paging::kernel_root());
    core::sync::atomic::fence(Ordering::SeqCst);
    write(&raw const trampoline_ticket, area as u64);
    let is_up = || place.is_up.load(Ordering::Acquire);
    apic.send(id, INIT);
    wait(10_000_000, || false);
    let startup = STARTUP | (page / PAGE) as u32;
    apic.send(id, startup);
    if !wait(1_000_000, is_up) {
        apic.send(id, startup);
    }
    if wait(PATIENCE_NS, is_up) {
        return true;
    }
    // It must not come later, into what is another's by then.
    apic.send(id, INIT);
    wait(10_000_000, || false);
    is_up()
}

/// Makes what a processor has of its own. Answers it, and the top of the stack it starts on.
fn make_area(number: u32) -> Result<(*mut Area, u64), NoMemory> {
    let pages = 1 + STACK_PAGES.iter().sum::<u64>();
    let memory = ram::take_high(pages).ok_or(NoMemory)?;
    let mut from = memory.start + PAGE;
    let mut at = STACKS_BASE + u64::from(number) * STRIDE;
    let mut tops = [0; STACK_PAGES.len()];
    for (top, pages) in tops.iter_mut().zip(STACK_PAGES) {
        // The page below stays unmapped.
        at += PAGE;
        paging::map_stack(at, Range { start: from, end: from + pages * PAGE })?;
        at += pages * PAGE;
        from += pages * PAGE;
        *top = at;
    }
    let [kernel, trap, own @ ..] = tops;
    let area = direct(memory.start).cast::<Area>();
    // SAFETY: the page is in the direct map and nobody else's.
    unsafe { area.write(Area { cpu: Cpu::new(number), stacks: StackTops { trap, own } }) };
    Ok((area, kernel))
}

/// Whether an address is in a page that is kept free below one of the other processors' stacks.
pub fn is_guard(address: u64) -> bool {
    let Some(within) = address.checked_sub(STACKS_BASE).filter(|at| *at < STRIDE * MAX_CPUS as u64) else {
        return false;
    };
    let mut guard = 0;
    STACK_PAGES.iter().any(|pages| {
        let is_here = within % STRIDE / PAGE == guard;
        guard += 1 + pages;
        is_here
    })
}

/// The first Rust code of a processor that was started, on the kernel's tables and its own stack.
#[unsafe(no_mangle)]
extern "C" fn firn_start_cpu(area: *mut Area) -> ! {
    // SAFETY: the area was made for this processor, which came by the one ticket; segments first, then the table
    // that names them, then the protections that the first processor has.
    let number = unsafe {
        per_cpu::activate(&raw mut (*area).cpu, (*area).stacks);
        trap::activate();
        per_cpu::number()
    };
    let features = (*FEATURES.lock()).expect("the first processor has said them");
    // SAFETY: the kernel's tables are in use.
    unsafe { features.enable() };
    let apic = Apic::start(&features).expect("its registers are mapped already");
    serve(number, apic, &features)
}

/// Waits for jobs and does them.
fn serve(number: u32, apic: Apic, features: &Features) -> ! {
    let place = &PLACES[number as usize];
    place.apic.store(apic.id(), Ordering::Relaxed);
    place.is_up.store(true, Ordering::Release);
    loop {
        let job = place.job.load(Ordering::Acquire);
        if job == COMPARE {
            answer_rounds(place);
            place.job.store(IDLE, Ordering::Release);
            continue;
        }
        if job != IDLE {
            let page = Mpn(place.page.load(Ordering::Relaxed));
            place.answer.store(perform(job, page, &apic, features), Ordering::Relaxed);
            place.job.store(IDLE, Ordering::Release);
            continue;
        }
        let life = place.life.lock().take();
        if let Some(life) = life {
            life(apic);
            unreachable!("a core's life has ended");
        }
        // SAFETY: as in `Machine::halt`: a wake-up that comes after the look ends the halt.
        unsafe { asm!("sti", "hlt", "cli", options(nostack)) };
        let vector = per_cpu::take_pending();
        if vector == u64::from(WAKE_VECTOR) {
            note_woken(number);
        }
        if vector != 0 && vector != u64::from(SPURIOUS_VECTOR) {
            apic.end_interrupt();
        }
    }
}

/// Most rounds of a comparison of clocks: the one that took the shortest time counts.
const ROUNDS: u32 = 256;

/// What ends a comparison.
const OVER: u32 = u32::MAX;

/// After how long no more rounds are begun. Where two processors are one of the host's by turns a round takes
/// milliseconds.
const ENOUGH_NS: u64 = 20_000_000;

/// How long a comparison may take at all.
const COMPARE_NS: u64 = 1_000_000_000;

/// The other processor's side of a comparison: answers each round with its counter.
fn answer_rounds(place: &Place) {
    let start = time::uptime_ns();
    let mut last = 0;
    while time::uptime_ns().saturating_sub(start) < 2 * COMPARE_NS {
        let round = place.round.load(Ordering::Acquire);
        if round == OVER {
            return;
        }
        if round == last {
            core::hint::spin_loop();
            continue;
        }
        last = round;
        place.answer.store(time::ordered_counter(), Ordering::Relaxed);
        place.answered.store(round, Ordering::Release);
    }
}

/// What the time-stamp counter of another processor is ahead of this one's, at least and at most; `None` if it does
/// not answer. Its counter is read between two readings of ours.
pub fn compare_clocks(apic: &Apic, number: u32) -> Option<(i64, i64)> {
    let place = PLACES.get(number as usize).filter(|place| place.is_up.load(Ordering::Acquire))?;
    place.round.store(0, Ordering::Relaxed);
    place.answered.store(0, Ordering::Relaxed);
    place.job.store(COMPARE, Ordering::Release);
    apic.send(place.apic.load(Ordering::Relaxed), u32::from(WAKE_VECTOR));
    let (mut least, mut most) = (i64::MIN, i64::MAX);
    let start = time::uptime_ns();
    for round in 1..=ROUNDS {
        if round > 1 && time::uptime_ns().saturating_sub(start) > ENOUGH_NS {
            break;
        }
        let before = time::ordered_counter();
        place.round.store(round, Ordering::Release);
        if !wait(COMPARE_NS, || place.answered.load(Ordering::Acquire) == round) {
            place.round.store(OVER, Ordering::Release);
            return None;
        }
        let theirs = place.answer.load(Ordering::Relaxed);
        let after = time::ordered_counter();
        // Each round bounds the difference from both sides; the narrowest of all is true if it does not drift.
        least = least.max(theirs.wrapping_sub(after).cast_signed());
        most = most.min(theirs.wrapping_sub(before).cast_signed());
    }
    place.round.store(OVER, Ordering::Release);
    wait(COMPARE_NS, || place.job.load(Ordering::Acquire) == IDLE).then_some((least, most))
}

/// Sends a non-maskable interrupt to all other processors that run, and says how many those are.
pub fn interrupt_others() -> u32 {
    const NON_MASKABLE: u32 = 4 << 8;
    let own = per_cpu::number();
    let Some(apic) = Apic::current() else { return 0 };
    let others = (0..nr_running()).filter(|number| *number != own);
    others.clone().for_each(|n| apic.send(PLACES[n as usize].apic.load(Ordering::Relaxed), NON_MASKABLE));
    others.count() as u32
}

/// Wakes a core, unless a wake-up is on its way to it already.
///
/// What the caller has written is seen by the core once it has taken note: the mark is exchanged by both, so that
/// either the core's exchange comes after this one, and sees all that was written before it, or this one comes after
/// the core's and finds no mark, and sends an interrupt.
pub fn wake(apic: &Apic, number: u32) {
    let Some(place) = PLACES.get(number as usize).filter(|_| number < nr_running()) else { return };
    if !place.is_woken.swap(true, Ordering::AcqRel) {
        apic.send(place.apic.load(Ordering::Relaxed), u32::from(WAKE_VECTOR));
    }
}

/// Takes note of a wake-up that has arrived at this core.
pub fn note_woken(number: u32) {
    if let Some(place) = PLACES.get(number as usize) {
        place.is_woken.swap(false, Ordering::AcqRel);
        place.wakes.fetch_add(1, Ordering::Release);
    }
}

/// Has a processor that waits for jobs live another life from now on. False if it does not wait for jobs.
pub fn send_life(apic: &Apic, number: u32, life: Life) -> bool {
    let place = PLACES.get(number as usize).filter(|_| number > 0);
    let Some(place) = place.filter(|place| place.is_up.swap(false, Ordering::AcqRel)) else { return false };
    *place.life.lock() = Some(life);
    apic.send(place.apic.load(Ordering::Relaxed), u32::from(WAKE_VECTOR));
    true
}

/// Whether a processor waits for jobs, or to be given another life.
pub fn is_waiting(number: u32) -> bool {
    PLACES.get(number as usize).is_some_and(|place| place.is_up.load(Ordering::Acquire))
}

/// Whether there are two words of a stack of another processor at an address.
pub fn is_stack(address: u64) -> bool {
    let Some(within) = address.checked_sub(STACKS_BASE) else { return false };
    let pages: u64 = STACK_PAGES.iter().map(|pages| 1 + pages).sum();
    let number = within / STRIDE;
    // The page of the second word is the same, as both are 16 bytes that do not cross into the next stack's guard.
    (1..u64::from(nr_running())).contains(&number)
        && within % STRIDE + 16 <= pages * PAGE
        && !is_guard(address)
        && !is_guard(address + 15)
}

fn sum(page: Mpn) -> u64 {
    (0..PAGE as usize / 4).fold(0_u64, |sum, n| sum.rotate_left(5) ^ u64::from(frames::load(page, n * 4)))
}

fn perform(job: u32, page: Mpn, apic: &Apic, features: &Features) -> u64 {
    match job {
        job if job == Job::Identify as u32 => u64::from(apic.id()),
        job if job == Job::Sum as u32 => sum(page),
        job if job == Job::Fill as u32 => {
            let seed = random_word(features).unwrap_or_else(time::counter) as u32;
            for n in 0..PAGE as u32 / 4 {
                let word = seed.wrapping_add(n).wrapping_mul(0x9e37_79b9);
                frames::word(page, n as usize * 4).store(word, Ordering::Release);
            }
            sum(page)
        }
        job if job == Job::Cr0 as u32 => Cr0::read_raw(),
        job if job == Job::Cr4 as u32 => Cr4::read_raw(),
        job if job == Job::Efer as u32 => Efer::read_raw(),
        _ => XCr0::read_raw(),
    }
}

impl Machine {
    /// Wakes a processor out of its halt.
    pub fn interrupt(&self, cpu: u32) {
        self.apic.send(PLACES[cpu as usize].apic.load(Ordering::Relaxed), u32::from(WAKE_VECTOR));
    }

    /// How often a wake-up has ended a processor's halt.
    #[must_use]
    pub fn wakes(&self, cpu: u32) -> u64 {
        PLACES[cpu as usize].wakes.load(Ordering::Acquire)
    }

    /// The number of a processor's interrupt controller.
    #[must_use]
    pub fn apic_id(&self, cpu: u32) -> u32 {
        PLACES[cpu as usize].apic.load(Ordering::Relaxed)
    }

    /// Has a processor do something with a page, and waits for the answer; none within 200 ms, or from a
    /// processor that does not run. The first answers for itself.
    #[must_use]
    pub fn ask(&mut self, cpu: u32, job: Job, page: Mpn) -> Option<u64> {
        if cpu == 0 {
            return Some(perform(job as u32, page, &self.apic, &self.features));
        }
        let place = PLACES.get(cpu as usize).filter(|place| place.is_up.load(Ordering::Acquire))?;
        let is_idle = || place.job.load(Ordering::Acquire) == IDLE;
        if !is_idle() {
            return None;
        }
        place.page.store(page.0, Ordering::Relaxed);
        place.job.store(job as u32, Ordering::Release);
        self.interrupt(cpu);
        wait(PATIENCE_NS, is_idle).then(|| place.answer.load(Ordering::Relaxed))
    }
}
