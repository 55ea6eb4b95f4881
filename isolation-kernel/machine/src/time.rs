//! The machine's clock: the time-stamp counter, measured once, and the wall clock at boot.

use crate::apic::Apic;
use crate::cpu::cpuid;
use crate::frames::address;
use crate::scale::{Date, frequency, frequency_of_factor, scale_of, to_ns, unix_seconds};
use core::arch::x86_64::_rdtsc;
use core::sync::atomic::{AtomicU64, Ordering};
use hal::Page;
use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::Msr;

static BASE: AtomicU64 = AtomicU64::new(0);
static SCALE: AtomicU64 = AtomicU64::new(0);

/// The time-stamp counter.
#[inline(always)]
pub fn counter() -> u64 {
    // SAFETY: the processor has it, and the kernel runs where it is allowed.
    unsafe { _rdtsc() }
}

/// The time-stamp counter, read after all that comes before in the program, and before all that comes after.
pub fn ordered_counter() -> u64 {
    // SAFETY: fences touch nothing.
    unsafe {
        core::arch::asm!("mfence", "lfence", options(nostack, preserves_flags));
        let now = _rdtsc();
        core::arch::asm!("lfence", options(nostack, preserves_flags));
        now
    }
}

/// UTC at machine time 0, in nanoseconds since 1970: one for all cores.
static EPOCH: AtomicU64 = AtomicU64::new(0);

/// UTC at machine time 0, in nanoseconds since 1970.
pub fn epoch_ns() -> u64 {
    EPOCH.load(Ordering::Relaxed)
}

/// Says so.
pub fn set_epoch_ns(ns: u64) {
    EPOCH.store(ns, Ordering::Relaxed);
}

/// Nanoseconds since boot; 0 until the clock has been measured.
pub fn uptime_ns() -> u64 {
    to_ns(counter().wrapping_sub(BASE.load(Ordering::Relaxed)), SCALE.load(Ordering::Relaxed))
}

/// What was measured.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Counts of the time-stamp counter in a second.
    pub tsc_hz: u64,
    /// Counts of the local timer in a second.
    pub timer_hz: u64,
    /// Counter at machine time 0.
    pub base: u64,
    /// Nanoseconds per 2^32 counts.
    pub scale: u64,
    /// Where the frequency comes from.
    pub source: &'static str,
}

/// Frequency of the programmable interval timer.
const PIT_HZ: u64 = 1_193_182;
/// How long to measure (20 ms of it).
const PIT_COUNTS: u16 = 23_864;

fn pit_start() {
    // SAFETY: the timer's ports. Channel 0, both bytes, mode 0: counts down once; its interrupt is masked.
    unsafe {
        Port::<u8>::new(0x43).write(0x30);
        Port::<u8>::new(0x40).write(0xff);
        Port::<u8>::new(0x40).write(0xff);
    }
}

fn pit_read() -> u16 {
    // SAFETY: the timer's ports; latches channel 0 and reads both bytes.
    unsafe {
        Port::<u8>::new(0x43).write(0x00);
        let low = Port::<u8>::new(0x40).read();
        let high = Port::<u8>::new(0x40).read();
        u16::from_le_bytes([low, high])
    }
}

/// Reads something together with the counter: of some attempts the one in which least time passed, because an
/// emulator may be interrupted in between.
fn sample(read: impl Fn() -> u64) -> (u64, u64) {
    let mut best = (u64::MAX, 0, 0);
    for _ in 0..7 {
        let before = counter();
        let value = read();
        let after = counter();
        if after - before < best.0 {
            best = (after - before, before + (after - before) / 2, value);
        }
    }
    (best.1, best.2)
}

/// How often to measure, if a busy host stops the machine for so long that the timer runs out.
const ATTEMPTS: u32 = 20;

/// Whether the interval timer has run out, and counts on from its highest value.
fn pit_has_ended() -> bool {
    // SAFETY: the timer's ports; reads the status of channel 0, of which the highest bit is the output.
    unsafe {
        Port::<u8>::new(0x43).write(0xe2);
        Port::<u8>::new(0x40).read() & 0x80 != 0
    }
}

/// Counts that passed in the same time.
struct Interval {
    tsc: u64,
    /// Of the interval timer; 0 if it ran out or is not there.
    pit: u64,
    timer: u64,
    /// Of the time-stamp counter, while the local timer counted that.
    timer_tsc: u64,
}

/// Lets some time pass.
fn interval(apic: &Apic) -> Interval {
    pit_start();
    // Mode 0 counts from the load on; a timer that is not there reads as all ones for ever.
    let (tsc_start, pit_at_start) = sample(|| u64::from(pit_read()));
    apic.start_timer(u32::MAX);
    let (timer_tsc_start, timer_start) = sample(|| u64::from(apic.timer_count()));
    let mut polls = 0_u32;
    loop {
        let passed = pit_at_start.wrapping_sub(u64::from(pit_read()));
        if passed >= u64::from(PIT_COUNTS) {
            break;
        }
        polls += 1;
        if polls > 10_000_000 || (polls > 100_000 && passed == 0) {
            break;
        }
    }
    let (tsc_end, pit_at_end) = sample(|| u64::from(pit_read()));
    let (timer_tsc_end, timer_end) = sample(|| u64::from(apic.timer_count()));
    apic.start_timer(0);
    Interval {
        tsc: tsc_end - tsc_start,
        pit: if pit_has_ended() { 0 } else { pit_at_start.saturating_sub(pit_at_end) },
        timer: timer_start.saturating_sub(timer_end),
        timer_tsc: timer_tsc_end - timer_tsc_start,
    }
}

/// Measures time-stamp counter and local timer; `None` without a reference that runs. `scratch` is a page for the
/// hypervisor to write to.
pub fn measure(apic: &Apic, scratch: &Page) -> Option<Measured> {
    let base = counter();
    let told = told_by_cpuid().or_else(|| told_by_hypervisor(scratch));
    let mut passed = interval(apic);
    for _ in 1..ATTEMPTS {
        if told.is_some() || passed.pit != 0 {
            break;
        }
        passed = interval(apic);
    }
    let (tsc_hz, source) = match told {
        Some(told) => told,
        None => (frequency(passed.tsc, passed.pit, PIT_HZ)?, "interval timer"),
    };
    let timer_hz = frequency(passed.timer, passed.timer_tsc, tsc_hz)?;
    let scale = scale_of(tsc_hz);
    BASE.store(base, Ordering::Relaxed);
    SCALE.store(scale, Ordering::Relaxed);
    Some(Measured { tsc_hz, timer_hz, base, scale, source })
}

/// The frequency as the processor states it.
fn told_by_cpuid() -> Option<(u64, &'static str)> {
    let ratio = cpuid(0x15, 0);
    if ratio.eax != 0 && ratio.ebx != 0 && ratio.ecx != 0 {
        return Some((u64::from(ratio.ecx) * u64::from(ratio.ebx) / u64::from(ratio.eax), "cpuid"));
    }
    // Some hypervisors say so in kilohertz.
    let highest = core::arch::x86_64::__cpuid(0x4000_0000).eax;
    if cpuid(1, 0).ecx >> 31 == 1 && (0x4000_0010..0x4000_0100).contains(&highest) {
        let khz = core::arch::x86_64::__cpuid(0x4000_0010).eax;
        return (khz != 0).then(|| (u64::from(khz) * 1000, "hypervisor"));
    }
    None
}

/// The frequency as KVM's clock page states it.
fn told_by_hypervisor(scratch: &Page) -> Option<(u64, &'static str)> {
    if cpuid(1, 0).ecx >> 31 == 0 {
        return None;
    }
    let name = core::arch::x86_64::__cpuid(0x4000_0000);
    let is_kvm = [name.ebx, name.ecx, name.edx] == [0x4b4d_564b, 0x564b_4d56, 0x4d];
    if !is_kvm || core::arch::x86_64::__cpuid(0x4000_0001).eax >> 3 & 1 == 0 {
        return None;
    }
    let page = u64::from(scratch.mpn().0) * crate::PAGE;
    let at = address(scratch.mpn());
    // SAFETY: the register is there, says KVM; it writes 32 bytes to the page, which is ours, until told to stop.
    let (factor, shift) = unsafe {
        Msr::new(0x4b56_4d01).write(page | 1);
        let found = (at.add(24).cast::<u32>().read_volatile(), at.add(28).cast::<i8>().read_volatile());
        Msr::new(0x4b56_4d01).write(0);
        found
    };
    frequency_of_factor(factor, shift).map(|hz| (hz, "kvm clock"))
}

fn cmos(register: u8) -> u8 {
    // SAFETY: the real-time clock's ports; bit 7 keeps non-maskable interrupts as they are (on).
    unsafe {
        Port::<u8>::new(0x70).write(register);
        Port::<u8>::new(0x71).read()
    }
}

fn read_date() -> [u8; 7] {
    [cmos(0), cmos(2), cmos(4), cmos(7), cmos(8), cmos(9), cmos(0x32)]
}

/// Seconds since 1970 by the real-time clock, `None` if there is none.
pub fn wall_clock() -> Option<u64> {
    if cmos(0x0b) == 0xff {
        return None;
    }
    // Read twice the same outside an update: then no digit changed in between.
    for _ in 0..10_000 {
        if cmos(0x0a) & 0x80 != 0 {
            continue;
        }
        let fields = read_date();
        if fields == read_date() {
            return decode_date(fields, cmos(0x0b));
        }
    }
    None
}

fn decode_date(fields: [u8; 7], format: u8) -> Option<u64> {
    let is_binary = format & 4 != 0;
    let is_24_hours = format & 2 != 0;
    let number = |field: u8| u32::from(if is_binary { field } else { (field >> 4) * 10 + (field & 15) });
    let [second, minute, hour, day, month, year, century] = fields;
    let is_afternoon = !is_24_hours && hour & 0x80 != 0;
    let mut hours = number(hour & 0x7f);
    if !is_24_hours {
        hours = hours % 12 + if is_afternoon { 12 } else { 0 };
    }
    let century = match number(century) {
        century @ 19..=29 => century,
        _ => 20,
    };
    let (year, month, day) = (century * 100 + number(year), number(month), number(day));
    unix_seconds(Date { year, month, day, hour: hours, minute: number(minute), second: number(second) })
}
