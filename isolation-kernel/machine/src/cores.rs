//! A machine for each processor: what it has of its own, what it shares, and how it begins.
//!
//! | | |
//! |---|---|
//! | of its own | free pages, the space in use, alarm, frame buffers, clock, a part of the disk |
//! | core 0's | the network card, the disk itself, the serial line's input, all interrupts of devices |
//! | shared, behind locks held for some words | the pool of pages, the kernel's heap, the serial line's output |
//! | shared, and only ever added to | the kernel's page tables |
//!
//! The kernel's tables: all that is done to them after the start is that pages that were not mapped become mapped
//! ([`crate::paging::map_heap`]). No processor remembers that an address is not mapped, and all have the tables below
//! the same entries of their top tables (`KernelHalf`), so nobody is told. What a page holds there is written after
//! it is mapped, and whoever finds the address finds it through something that the writer gave out after that.

use crate::alarm::Alarm;
use crate::apic::Apic;
use crate::cpu::Features;
use crate::frames::Frames;
use crate::machine::Config;
use crate::parts::{DiskAccess, Part};
use crate::pool::FramePool;
use crate::space::KernelHalf;
use crate::time::Measured;
use crate::{Machine, PAGE, paging, ram, smp};
use alloc::boxed::Box;
use hal::FRAME_CAPACITY;

/// Memory that the frame buffers of the core with the card may take on the smallest machine.
const MIN_FRAME_BYTES: u64 = 2 << 20;

/// The same of each other core: its VMs send from these. What comes off the wire is in core 0's.
const MIN_OTHER_FRAME_BYTES: u64 = 256 * FRAME_CAPACITY as u64;

/// How far the clocks of two cores may be apart and count as one: about what it takes to tell.
const IN_STEP_NS: u64 = 1_000;

/// What a core's machine is made of, made by core 0.
pub struct Kit {
    core: u32,
    nr_cores: u32,
    config: Config,
    features: Features,
    kernel_half: KernelHalf,
    clock: Measured,
    part: Option<Part>,
}

/// Bytes for a core's frame buffers. Core 0 has what there is for frames, or three quarters of it beside others: the
/// card's queue is filled from it, and all that comes off the wire lies in it until its VM has taken it.
pub fn frame_bytes(core: u32, nr_cores: u32) -> u64 {
    let all = ram::total_pages() * PAGE / 64;
    match (core, nr_cores) {
        (0, ..=1) => all.max(MIN_FRAME_BYTES),
        (0, _) => (all / 4 * 3).max(MIN_FRAME_BYTES),
        _ => (all / 4 / u64::from(nr_cores - 1)).max(MIN_OTHER_FRAME_BYTES),
    }
}

impl Machine {
    /// Gives a core that waits for one a machine of its own, with which it goes on in `entry`. `state` is whatever it
    /// needs beside. Cores that are not given one only answer [`Machine::ask`].
    ///
    /// # Errors
    /// With the state, if there is no such core, or it has been started already, or this is not core 0.
    pub fn start_core<T: Send + 'static>(&mut self, core: u32, state: T, entry: fn(Self, T) -> !) -> Result<(), T> {
        if self.core != 0 || core == 0 || core >= self.nr_cores || self.is_started(core) {
            return Err(state);
        }
        let part = self.parts.get_mut(core as usize - 1).and_then(Option::take);
        let clock = self.clock_of(core);
        let kit = Kit {
            core,
            nr_cores: self.nr_cores,
            config: self.config,
            features: self.features,
            kernel_half: self.kernel_half.clone(),
            clock,
            part,
        };
        let life = move |apic: Apic| entry(Self::from_kit(kit, apic), state);
        // It has been waiting since it came up, and is not started twice.
        assert!(smp::send_life(&self.apic, core, Box::new(life)), "core {core} does not wait to be started");
        Ok(())
    }

    /// Whether a core has a machine of its own already.
    #[must_use]
    pub fn is_started(&self, core: u32) -> bool {
        core == 0 || !smp::is_waiting(core)
    }

    /// The clock as a core has to read it. Time-stamp counters that are not in step are made so by what they differ
    /// in, which is known to half of the time of the quickest exchange between the two.
    fn clock_of(&self, core: u32) -> Measured {
        let mut clock = self.clock;
        let Some((least, most)) = smp::compare_clocks(&self.apic, core) else {
            log::warn!("the clock of processor {core} could not be compared: it is taken to be in step");
            return clock;
        };
        let tolerated = i64::try_from(u128::from(clock.tsc_hz) * u128::from(IN_STEP_NS) / 1_000_000_000).unwrap_or(0);
        let is_in_step = least <= tolerated && most >= -tolerated;
        if !is_in_step {
            let ahead = i64::midpoint(least, most);
            clock.base = clock.base.wrapping_add_signed(ahead);
            log::warn!(
                "the clock of processor {core} is {ahead} counts ahead: set right to {} counts or better",
                most.abs_diff(least) / 2 + 1
            );
        }
        log::debug!("clock of processor {core}: {least} to {most} counts ahead");
        clock
    }

    fn from_kit(kit: Kit, apic: Apic) -> Self {
        let Kit { core, nr_cores, config, features, kernel_half, clock, part } = kit;
        Self {
            core,
            nr_cores,
            config,
            features,
            frames: Frames::new(),
            kernel_half,
            current_root: paging::kernel_root(),
            alarm: Alarm::new(clock.timer_hz),
            apic,
            clock,
            seen_nmis: 0,
            has_barrier: features.ibpb && config.predictor_barrier,
            pool: FramePool::new(frame_bytes(core, nr_cores), core),
            net: None,
            disk: part.map_or(DiskAccess::None, DiskAccess::Part),
            parts: alloc::vec::Vec::new(),
            nr_cpus: nr_cores,
            bundle: None,
            command_line: "",
        }
    }

    /// Free pages that only this core can take, and how many those may be at most.
    #[must_use]
    pub const fn cached_pages(&self) -> (u64, u64) {
        (self.frames.kept_here(), crate::frames::CACHE_PAGES)
    }
}
