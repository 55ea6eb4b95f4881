//! Whose time it is: every nanosecond is charged to a VM, spent idle, or overhead by name.
//!
//! There is one mark, up to which time has been accounted for. Whoever has done something for somebody bills that
//! one, which moves the mark; so nothing is counted twice, and what nobody was billed for goes to the next one that is
//! billed. That is the VM that runs next, for the turn of the loop that led to it.

use crate::classes::{DEFAULT_GROUP_TERMS, SUPERVISOR_GROUP};
use crate::core::{Core, SUPERVISOR};
use crate::network::Out;
use crate::vm::Vm;
use hal::{Hardware, Nanos};
use policy::scheduler::{Claim, Group, Terms};
use virtual_isa::gate::{ClassTerms, LATENCY_BUCKETS, ProcessorTerms};

/// Where the core's time went.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ledger {
    /// Up to when time has been accounted for.
    pub mark: Nanos,
    /// What the VM that runs has used since it was charged last.
    pub run_ns: u64,
    /// Charged to VMs.
    pub charged_ns: u64,
    /// There was nothing to run.
    pub idle_ns: u64,
    /// Looking for work before a halt.
    pub loop_ns: u64,
    /// Frames that are for nobody.
    pub wire_ns: u64,
    /// Memory of the machine: reclaim, and transfers to and from the swap disk.
    pub memory_ns: u64,
}

impl Ledger {
    /// The time since the mark, which moves to `now`.
    pub const fn move_mark(&mut self, now: Nanos) -> u64 {
        let ns = now.since(self.mark);
        self.mark = now;
        ns
    }
}

/// How long a VM waits for the processor.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// Since when it could run.
    pub since: Nanos,
    /// Whether it had slept before.
    pub has_slept: bool,
    /// Time it could run and did not.
    pub waited_ns: u64,
    /// Times it had to give way although it could go on.
    pub preemptions: u64,
    /// Times from waking to running, by the logarithm.
    pub latency: [u32; LATENCY_BUCKETS],
}

/// Where a time is in a histogram of powers of two of a microsecond.
pub const fn latency_bucket(ns: u64) -> usize {
    let bucket = (u64::BITS - (ns >> 10).leading_zeros()) as usize;
    if bucket < LATENCY_BUCKETS { bucket } else { LATENCY_BUCKETS - 1 }
}

/// Notes one that belongs there.
pub fn note_latency(histogram: &mut [u32; LATENCY_BUCKETS], bucket: usize) {
    if let Some(count) = histogram.get_mut(bucket) {
        *count = count.saturating_add(1);
    }
}

impl<H: Hardware> Core<'_, H> {
    fn elapsed(&mut self) -> u64 {
        let now = self.hw.now();
        self.ledger.move_mark(now)
    }

    /// The core has not run until now: it is idle time, that nobody pays for. Whoever drives several cores by turns, in
    /// one time, says so before a core's turn.
    pub fn note_absence(&mut self) {
        self.ledger.idle_ns += self.elapsed();
    }

    /// What was done since the mark was for this VM, which is in the table or parked.
    pub(crate) fn bill(&mut self, number: u32) {
        let ns = self.elapsed();
        let counters = match self.vms.get_mut(number) {
            Some(vm) => &mut vm.counters,
            None => match self.vms.stub_mut(number) {
                Some(stub) => &mut stub.counters,
                None => {
                    self.ledger.wire_ns += ns;
                    return;
                }
            },
        };
        counters.kernel_ns = counters.kernel_ns.saturating_add(ns);
        self.charge(number, ns);
    }

    /// The same for a VM that is taken out of the table.
    pub(crate) fn bill_vm(&mut self, vm: &mut Vm<H>) {
        let ns = self.elapsed();
        vm.counters.kernel_ns = vm.counters.kernel_ns.saturating_add(ns);
        self.charge(vm.number, ns);
    }

    /// The same for one that may be taken out; what was for no VM is the wire's.
    pub(crate) fn bill_out(&mut self, out: &mut Out<'_, H>, number: Option<u32>) {
        let Some(number) = number else { return self.note_wire_work() };
        match out.find(number) {
            Some(vm) => self.bill_vm(vm),
            None => self.bill(number),
        }
    }

    /// What was done since the mark was for the machine as a whole: its memory.
    pub(crate) fn note_memory_work(&mut self) {
        self.ledger.memory_ns += self.elapsed();
    }

    /// What was done since the mark was for frames that nobody gets.
    pub(crate) fn note_wire_work(&mut self) {
        self.ledger.wire_ns += self.elapsed();
    }

    /// What has run since it was charged last was done for the supervisor.
    pub(crate) fn bill_run_to_supervisor(&mut self) {
        let ns = core::mem::take(&mut self.ledger.run_ns);
        if let Some(vm) = self.vms.get_mut(SUPERVISOR) {
            vm.counters.kernel_ns = vm.counters.kernel_ns.saturating_add(ns);
        }
        self.charge(SUPERVISOR, ns);
    }

    /// Charges the VM that runs with what it has used since it was charged last.
    pub(crate) fn charge_run(&mut self, number: u32) {
        let ns = core::mem::take(&mut self.ledger.run_ns);
        self.charge(number, ns);
    }

    fn charge(&mut self, number: u32, ns: u64) {
        self.ledger.charged_ns += ns;
        self.scheduler.charge(number, ns);
    }

    /// As what a VM competes for the processor.
    pub(crate) fn processor_claim(&self, vm: &Vm<H>) -> Claim {
        let shares = vm.shares;
        if vm.is_privileged {
            return Claim { group: Group(SUPERVISOR_GROUP), terms: Terms::shares(shares) };
        }
        let &ClassTerms { group, reservation_ppm, limit_ppm, .. } = self.classes.terms(vm.class);
        Claim { group: Group(group), terms: Terms { shares, reservation_ppm, limit_ppm } }
    }

    /// On what terms a group competes on this core.
    pub(crate) fn group_terms(&self, group: Group) -> Terms {
        self.part_of_core(self.groups.get(group.0 as usize).copied().unwrap_or(DEFAULT_GROUP_TERMS))
    }

    /// What this core has of a group's reservation and its limit: they are divided evenly among the cores, so that
    /// together they are what was said.
    pub(crate) fn part_of_core(&self, terms: ProcessorTerms) -> Terms {
        let ProcessorTerms { shares, reservation_ppm, limit_ppm } = terms;
        let nr_cores = self.seat.nr_cores();
        Terms { shares, reservation_ppm: reservation_ppm.div_ceil(nr_cores), limit_ppm: limit_ppm.div_ceil(nr_cores) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_fall_into_powers_of_two() {
        let mut histogram = [0; LATENCY_BUCKETS];
        for (ns, bucket) in [(0, 0), (1023, 0), (1024, 1), (2047, 1), (2048, 2), (1 << 20, 11), (u64::MAX, 15)] {
            let before = histogram[bucket];
            note_latency(&mut histogram, latency_bucket(ns));
            assert_eq!(histogram[bucket], before + 1, "{ns}");
        }
    }
}
