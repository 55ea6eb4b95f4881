//! Running guests, and time.

use crate::{Registers, Spaces, VectorState};

/// Nanoseconds of the machine's clock, which is 0 at boot and never goes back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// A time that never comes.
    pub const NEVER: Self = Self(u64::MAX);

    /// This time and so many nanoseconds.
    #[must_use]
    pub const fn after(self, ns: u64) -> Self {
        Self(self.0.saturating_add(ns))
    }

    /// Nanoseconds since an earlier time, 0 if it is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// What a guest tried to do with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Execute,
}

/// Why a guest came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Exit {
    /// It executed `syscall`: a virtual instruction, with `rip` after it.
    Instruction,
    /// It used an address that is not mapped, or not for this; `rip` is at the instruction.
    PageFault {
        /// The address.
        address: u64,
        /// What it tried.
        access: Access,
    },
    /// It raised another exception; `rip` is as the processor defines for it.
    Exception {
        /// The processor's vector.
        vector: u8,
        /// The error code, or 0.
        code: u64,
    },
    /// The alarm rang or a device has something: see to them.
    Interrupt,
}

/// How a guest turns the time-stamp counter into nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Counter at `base_ns`.
    pub base_tsc: u64,
    /// Nanoseconds of the machine's clock at `base_tsc`.
    pub base_ns: u64,
    /// Nanoseconds per 2^32 counts.
    pub scale: u64,
    /// Nanoseconds of UTC since 1970 at machine time 0.
    pub epoch_ns: u64,
}

/// The processor of this core.
///
/// A VM is run like this: [`switch_to`](Self::switch_to) once, [`enter`](Self::enter) as often as needed, and
/// [`switch_from`](Self::switch_from) before another VM's turn. Between `enter`s the VM's vector registers stay
/// in the processor, as the kernel uses none.
pub trait Processor: Spaces {
    /// Loads an address space and vector registers. Nothing of the last VM remains readable.
    fn switch_to(&mut self, space: &Self::Space, vector: &VectorState);

    /// Loads another address space of the VM that was switched to. Its vector registers stay; its segment registers do
    /// not. Nothing happens if it is loaded.
    fn change_space(&mut self, space: &Self::Space);

    /// Saves the vector registers of the VM that was switched to.
    fn switch_from(&mut self, vector: &mut VectorState);

    /// Runs the VM that was switched to until it comes back.
    fn enter(&mut self, registers: &mut Registers) -> Exit;

    /// The machine's time.
    fn now(&self) -> Nanos;

    /// What guests are told about the clock.
    fn clock(&self) -> Clock;

    /// Sets the one alarm: at that time or shortly after it, a running guest comes back with
    /// [`Exit::Interrupt`] and [`halt`](Self::halt) returns. It may also ring early.
    fn set_alarm(&mut self, at: Nanos);

    /// Sleeps until the alarm rings, a device has something, or another core wakes this one. May return early.
    fn halt(&mut self);

    /// Random bytes from the processor; false if it has none.
    fn hardware_entropy(&mut self, into: &mut [u8; 32]) -> bool;

    /// Whether guests may use AVX.
    fn has_avx(&self) -> bool;

    /// Ends the machine with a status for whoever started it.
    fn power_off(&mut self, status: u8);
}

/// The machine's cores, as one of them sees them.
pub trait Cores {
    /// Its own number. Core 0 has the devices.
    fn core(&self) -> u32;

    /// How many there are.
    fn nr_cores(&self) -> u32;

    /// Ends another core's [`halt`](Processor::halt), or its next one if it is not halted now. What this core has
    /// written before, the other sees when it comes back.
    fn wake(&mut self, core: u32);
}
