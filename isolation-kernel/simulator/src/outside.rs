//! What a test sees and changes of the outside, while the kernel owns the machine.

use crate::disk::FakeDisk;
use hal::{Completion, Mpn};
use std::collections::{BTreeMap, VecDeque};

/// How allocation fails although there are pages.
#[derive(Debug)]
pub struct AllocationFaults {
    /// Pages that can still be allocated before allocation fails for good; `None` for no limit but memory itself.
    pub left: Option<u64>,
    /// Allocations before the one that fails; the next ones succeed again.
    pub fail_after: Option<u64>,
    /// Probability that one fails.
    pub chance: f64,
    random: fastrand::Rng,
}

impl Default for AllocationFaults {
    fn default() -> Self {
        Self { left: None, fail_after: None, chance: 0.0, random: fastrand::Rng::with_seed(0) }
    }
}

impl AllocationFaults {
    /// Makes chance go another way.
    pub fn reseed(&mut self, seed: u64) {
        self.random.seed(seed);
    }

    /// Whether the next allocation fails.
    pub(crate) fn strikes(&mut self) -> bool {
        if let Some(left) = &mut self.left {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => return true,
            }
        }
        if let Some(after) = self.fail_after {
            self.fail_after = after.checked_sub(1);
            if after == 0 {
                return true;
            }
        }
        self.chance > 0.0 && self.random.f64() < self.chance
    }
}

/// The outside.
#[derive(Debug, Default)]
pub struct Outside {
    /// Frames on their way in.
    pub incoming: VecDeque<Vec<u8>>,
    /// Frames that came out.
    pub outgoing: Vec<Vec<u8>>,
    /// When each of them left.
    pub outgoing_at: Vec<u64>,
    /// Whether the card takes no frames.
    pub is_wire_full: bool,
    /// How long the wire takes for a byte; 0 for no time at all.
    pub wire_ns_per_byte: u64,
    /// Text that was printed.
    pub serial: String,
    /// Bytes that are typed.
    pub typed: VecDeque<u8>,
    /// Bytes that will be typed while a guest runs: after how many of its steps each.
    pub typed_later: VecDeque<(u32, u8)>,
    /// The status of a power-off.
    pub power_off: Option<u8>,
    /// Times the processor halted with nothing to wait for.
    pub dead_halts: u32,
    /// Bytes that the kernel's heap can still hand out; `None` for any number.
    pub heap_room: Option<u64>,
    /// How allocation fails.
    pub allocation: AllocationFaults,
    /// Whether what the kernel does takes time: without it only guests' steps do.
    pub has_costs: bool,
    /// The disk.
    pub disk: FakeDisk,
    /// Transfers that have ended, by the core that began them.
    pub done: BTreeMap<u32, VecDeque<Completion>>,
    /// Cores that another has woken, by number.
    pub woken: Vec<bool>,
    /// The time.
    pub now: u64,
    /// VMs in which the kernel has raised interrupts since it looked at the wire.
    pub raised: u32,
    /// The page of the last one.
    pub raised_last: Option<Mpn>,
    /// The most of these there were.
    pub most_raised: u32,
}

impl Outside {
    /// The kernel has done something that takes so long.
    pub(crate) const fn spend(&mut self, ns: u64) {
        if self.has_costs {
            self.now += ns;
        }
    }

    /// Types the next byte if its time has come, which interrupts the guest that runs.
    pub(crate) fn type_now(&mut self) -> bool {
        let Some((steps, byte)) = self.typed_later.front_mut() else { return false };
        let Some(left) = steps.checked_sub(1) else {
            self.typed.push_back(*byte);
            self.typed_later.pop_front();
            return true;
        };
        *steps = left;
        false
    }
}
