//! Interrupt controllers: the local one with its timer, those for devices, and the legacy ones, silenced.

use crate::cpu::Features;
use crate::paging::map_device;
use crate::trap::{DEVICE_VECTOR, EDGE_VECTOR, LEGACY_VECTORS, SPURIOUS_VECTOR, TIMER_VECTOR};
use core::sync::atomic::{AtomicU64, Ordering};
use hal::NoMemory;
use x86_64::instructions::port::Port;
use x86_64::registers::model_specific::Msr;

const APIC_BASE: u32 = 0x1b;

const ID: u32 = 0x20;
const TASK_PRIORITY: u32 = 0x80;
const END: u32 = 0xb0;
const SPURIOUS: u32 = 0xf0;
const COMMAND: u32 = 0x300;
const COMMAND_TARGET: u32 = 0x310;
const TIMER: u32 = 0x320;
const LINT0: u32 = 0x350;
const LINT1: u32 = 0x360;
const ERROR: u32 = 0x370;
const INITIAL_COUNT: u32 = 0x380;
const CURRENT_COUNT: u32 = 0x390;
const DIVIDER: u32 = 0x3e0;
const MASKED: u32 = 1 << 16;
const SENDING: u32 = 1 << 12;

/// Where the registers are, for whoever has no [`Apic`] at hand: an address, [`AS_REGISTERS`], or 0 before the start.
/// All processors have theirs at the same address.
static PLACE: AtomicU64 = AtomicU64::new(0);
const AS_REGISTERS: u64 = 1;

/// The processor's interrupt controller.
pub enum Apic {
    /// Its registers in memory.
    Memory(*mut u8),
    /// Its registers as model-specific registers.
    X2,
}

impl Apic {
    /// Switches it on: timer masked, everything else that could arrive by itself too.
    pub fn start(features: &Features) -> Result<Self, NoMemory> {
        let mut register = Msr::new(APIC_BASE);
        // SAFETY: the processor has an APIC; the bits set are "enabled" and, if there, "x2APIC".
        let base = unsafe {
            let value = register.read() | 1 << 11 | if features.x2apic { 1 << 10 } else { 0 };
            register.write(value);
            value & 0x000f_ffff_ffff_f000
        };
        let apic = if features.x2apic { Self::X2 } else { Self::Memory(map_device(base, 4096)?) };
        PLACE.store(apic.place(), Ordering::Relaxed);
        apic.write(TASK_PRIORITY, 0);
        for vector in [LINT0, ERROR] {
            apic.write(vector, MASKED);
        }
        // The second pin is where non-maskable interrupts come in.
        apic.write(LINT1, 4 << 8);
        apic.write(TIMER, u32::from(TIMER_VECTOR));
        // Divide by 16: with 32 bits, alarms up to a minute.
        apic.write(DIVIDER, 3);
        apic.write(INITIAL_COUNT, 0);
        apic.write(SPURIOUS, 1 << 8 | u32::from(SPURIOUS_VECTOR));
        Ok(apic)
    }

    fn place(&self) -> u64 {
        match self {
            Self::Memory(base) => *base as u64,
            Self::X2 => AS_REGISTERS,
        }
    }

    /// The controller of the processor that runs this, if it was started: for the end of the machine.
    pub fn current() -> Option<Self> {
        match PLACE.load(Ordering::Relaxed) {
            0 => None,
            AS_REGISTERS => Some(Self::X2),
            base => Some(Self::Memory(base as *mut u8)),
        }
    }

    fn write(&self, register: u32, value: u32) {
        // SAFETY: one of the registers above; writing them only decides which interrupts come.
        unsafe {
            match self {
                Self::Memory(base) => base.add(register as usize).cast::<u32>().write_volatile(value),
                Self::X2 => Msr::new(0x800 + register / 16).write(u64::from(value)),
            }
        }
    }

    fn read(&self, register: u32) -> u32 {
        // SAFETY: one of the registers above.
        unsafe {
            match self {
                Self::Memory(base) => base.add(register as usize).cast::<u32>().read_volatile(),
                Self::X2 => Msr::new(0x800 + register / 16).read() as u32,
            }
        }
    }

    /// This processor's number as interrupt controllers for devices name it.
    pub fn id(&self) -> u32 {
        match self {
            Self::Memory(_) => self.read(ID) >> 24,
            Self::X2 => self.read(ID),
        }
    }

    /// Sends another processor a command: a vector, or one of the ways to start it.
    pub fn send(&self, processor: u32, command: u32) {
        match self {
            Self::Memory(_) => {
                self.write(COMMAND_TARGET, processor << 24);
                self.write(COMMAND, command);
                while self.read(COMMAND) & SENDING != 0 {
                    core::hint::spin_loop();
                }
            }
            // SAFETY: the command register, which takes both halves at once. What was written before must be seen by
            // whoever is woken, and this write is not ordered after it by itself.
            Self::X2 => unsafe {
                core::arch::asm!("mfence", "lfence", options(nostack, preserves_flags));
                Msr::new(0x830).write(u64::from(processor) << 32 | u64::from(command));
            },
        }
    }

    /// Ends the interrupt being served.
    #[inline]
    pub fn end_interrupt(&self) {
        self.write(END, 0);
    }

    /// Rings once after that many counts; never for 0.
    #[inline]
    pub fn start_timer(&self, counts: u32) {
        self.write(INITIAL_COUNT, counts);
    }

    /// Counts until the timer rings.
    pub fn timer_count(&self) -> u32 {
        self.read(CURRENT_COUNT)
    }
}

/// How an interrupt line signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Its number in the machine (global system interrupt).
    pub gsi: u32,
    /// Whether it stays asserted until it is seen to.
    pub is_level: bool,
    /// Whether it is asserted when low.
    pub is_low: bool,
}

/// An interrupt controller for devices.
pub struct IoApic {
    base: *mut u8,
    first: u32,
    count: u32,
}

impl IoApic {
    /// Finds it, with all lines masked. `first` is the number of its first line.
    pub fn start(physical: u64, first: u32) -> Result<Self, NoMemory> {
        let base = map_device(physical, 0x20)?;
        let mut io = Self { base, first, count: 0 };
        io.count = (io.read(1) >> 16 & 0xff) + 1;
        for line in 0..io.count {
            io.write(0x10 + line * 2, MASKED);
        }
        Ok(io)
    }

    /// Its lines.
    pub fn lines(&self) -> core::ops::Range<u32> {
        self.first..self.first + self.count
    }

    fn read(&self, register: u32) -> u32 {
        // SAFETY: the two registers of the controller: select, then the window.
        unsafe {
            self.base.cast::<u32>().write_volatile(register);
            self.base.add(0x10).cast::<u32>().read_volatile()
        }
    }

    fn write(&self, register: u32, value: u32) {
        // SAFETY: as in `read`.
        unsafe {
            self.base.cast::<u32>().write_volatile(register);
            self.base.add(0x10).cast::<u32>().write_volatile(value);
        }
    }

    /// Delivers a line, if it is one of this controller's, to a processor as [`DEVICE_VECTOR`] or [`EDGE_VECTOR`].
    pub fn route(&self, line: Line, processor: u32) {
        if !self.lines().contains(&line.gsi) {
            return;
        }
        let register = 0x10 + (line.gsi - self.first) * 2;
        let mode = u32::from(line.is_low) << 13 | u32::from(line.is_level) << 15;
        self.write(register + 1, processor << 24);
        let vector = if line.is_level { DEVICE_VECTOR } else { EDGE_VECTOR };
        self.write(register, u32::from(vector) | mode);
    }
}

/// Silences the legacy interrupt controllers: moved away from the exceptions, then masked.
pub fn silence_legacy() {
    let send = |port: u16, value: u8| {
        // SAFETY: the legacy controllers' ports; where there are none, nothing listens.
        unsafe { Port::<u8>::new(port).write(value) };
    };
    for (command, data, vector, wiring) in [(0x20, 0x21, LEGACY_VECTORS, 4), (0xa0, 0xa1, LEGACY_VECTORS + 8, 2)] {
        send(command, 0x11);
        send(data, vector);
        send(data, wiring);
        send(data, 1);
        send(data, 0xff);
    }
}
