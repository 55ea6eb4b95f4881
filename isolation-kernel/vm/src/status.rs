//! What the supervisor is told about VMs and the machine.

use crate::core::Core;
use crate::memory::Memory;
use crate::park::count_places;
use crate::vm::{Sleeper, State, Stub, Vm};
use hal::Hardware;
use virtual_isa::gate::{LATENCY_BUCKETS, MachineStatus, VmState, VmStatus};

impl<H: Hardware> Core<'_, H> {
    /// A VM's status.
    pub(crate) fn vm_status(&self, vm: &Vm<H>) -> VmStatus {
        let memory = vm.memory.as_ref();
        let (packed_pages, disk_pages) = memory.map_or((0, 0), |memory| count_places::<H>(memory));
        VmStatus {
            state: match vm.state {
                State::Created => VmState::Created,
                State::Runnable => VmState::Runnable,
                State::Idle => VmState::Idle,
                State::Paused => VmState::Paused,
                State::Ended => VmState::Ended,
                State::Waiting => VmState::Waiting,
                State::Paging => VmState::Paging,
                State::Starved => VmState::Starved,
            },
            shares: vm.shares,
            class: u32::from(vm.class),
            core: self.seat.core(),
            memory_pages: vm.memory_pages,
            minimum_pages: vm.minimum_pages,
            private_pages: memory.map_or(0, Memory::private_pages),
            template_pages: self.shared(vm.template).map_or(0, |shared| {
                let pages = shared.template.nr_pages().saturating_add(shared.image.nr_pages());
                pages.saturating_sub(memory.map_or(0, |memory| memory.hidden_pages))
            }),
            packed_pages,
            disk_pages,
            table_pages: memory.map_or(0, Memory::table_pages),
            generation: vm.generation,
            counters: vm.counters,
            waited_ns: vm.pace.waited_ns,
            preemptions: vm.pace.preemptions,
            latency: vm.pace.latency,
        }
    }

    /// This core's part of the machine's status.
    pub(crate) fn machine_status(&self) -> MachineStatus {
        let (private_pages, table_pages) = self.vms.pages();
        let (swap_blocks, swap_used_blocks) = self.swap.blocks();
        let figures = self.swap.figures;
        MachineStatus {
            uptime_ns: self.hw.now().0,
            cpus: 1,
            bundle_entries: self.bundle.nr_entries(),
            vms: self.vms.count(),
            total_pages: self.hw.total_pages(),
            free_pages: self.hw.free_pages(),
            reserve_pages: self.marks.high,
            private_pages,
            table_pages,
            template_pages: self.template_pages,
            packed_pages: self.swap.packed_pages,
            waiting: u32::try_from(self.waiting.len()).unwrap_or(u32::MAX),
            parked: self.vms.parked(),
            parked_on_disk: self.parked_on_disk,
            parks: self.parks,
            record_bytes: self.record_bytes,
            wakes_memory: self.wakes_memory,
            wakes_disk: self.wakes_disk,
            swap_blocks,
            swap_used_blocks,
            swap_reads: figures.reads,
            swap_read_blocks: figures.read_blocks,
            swap_writes: figures.writes,
            swap_written_blocks: figures.written_blocks,
            swap_errors: figures.errors,
            heap_bytes: self.hw.heap_bytes(),
            heap_pages: self.hw.heap_pages(),
            kept_pages: self.hw.kept_pages(),
            idle_ns: self.ledger.idle_ns,
            charged_ns: self.ledger.charged_ns,
            overhead_loop_ns: self.ledger.loop_ns,
            overhead_wire_ns: self.ledger.wire_ns,
            overhead_memory_ns: self.ledger.memory_ns,
            frames_in: self.wire.frames_in,
            frames_out: self.wire.frames_out,
            frames_dropped: self.wire.frames_dropped,
            drops_bad_length: self.wire.drops_bad_length,
            drops_spoofed: self.wire.drops_spoofed,
            drops_unroutable: self.wire.drops_unroutable,
            drops_queue_full: self.wire.drops_queue_full,
            drops_no_buffer: self.wire.drops_no_buffer,
            answers_dropped: self.wire.answers_dropped,
            senders_waiting: u32::try_from(self.senders.circle.len()).unwrap_or(u32::MAX),
            events_lost: self.events_lost,
        }
    }
}

/// Adds what another core has to the status of the first.
pub fn add(sum: &mut MachineStatus, other: &MachineStatus) {
    // What the cores have in common, the first has said: uptime, bundle, memory, the heap.
    sum.cpus = sum.cpus.saturating_add(other.cpus);
    for (sum, more) in [
        (&mut sum.vms, other.vms),
        (&mut sum.waiting, other.waiting),
        (&mut sum.parked, other.parked),
        (&mut sum.parked_on_disk, other.parked_on_disk),
        (&mut sum.senders_waiting, other.senders_waiting),
    ] {
        *sum = sum.saturating_add(more);
    }
    for (sum, more) in [
        (&mut sum.private_pages, other.private_pages),
        (&mut sum.table_pages, other.table_pages),
        (&mut sum.template_pages, other.template_pages),
        (&mut sum.packed_pages, other.packed_pages),
        (&mut sum.parks, other.parks),
        (&mut sum.record_bytes, other.record_bytes),
        (&mut sum.wakes_memory, other.wakes_memory),
        (&mut sum.wakes_disk, other.wakes_disk),
        (&mut sum.swap_blocks, other.swap_blocks),
        (&mut sum.swap_used_blocks, other.swap_used_blocks),
        (&mut sum.swap_reads, other.swap_reads),
        (&mut sum.swap_read_blocks, other.swap_read_blocks),
        (&mut sum.swap_writes, other.swap_writes),
        (&mut sum.swap_written_blocks, other.swap_written_blocks),
        (&mut sum.swap_errors, other.swap_errors),
        (&mut sum.idle_ns, other.idle_ns),
        (&mut sum.charged_ns, other.charged_ns),
        (&mut sum.overhead_loop_ns, other.overhead_loop_ns),
        (&mut sum.overhead_wire_ns, other.overhead_wire_ns),
        (&mut sum.overhead_memory_ns, other.overhead_memory_ns),
        (&mut sum.frames_in, other.frames_in),
        (&mut sum.frames_out, other.frames_out),
        (&mut sum.frames_dropped, other.frames_dropped),
        (&mut sum.drops_bad_length, other.drops_bad_length),
        (&mut sum.drops_spoofed, other.drops_spoofed),
        (&mut sum.drops_unroutable, other.drops_unroutable),
        (&mut sum.drops_queue_full, other.drops_queue_full),
        (&mut sum.drops_no_buffer, other.drops_no_buffer),
        (&mut sum.answers_dropped, other.answers_dropped),
        (&mut sum.events_lost, other.events_lost),
    ] {
        *sum = sum.saturating_add(more);
    }
}

/// The status of a VM that is parked.
pub fn stub_status(stub: &Stub, core: u32) -> VmStatus {
    let in_head = stub.own_pages.saturating_sub(stub.cold_pages);
    let is_away = stub.is_on_disk();
    let are_cold_kept = !stub.kept.is_empty();
    let mut packed_pages = if is_away { 0 } else { in_head };
    if are_cold_kept {
        packed_pages = packed_pages.saturating_add(stub.cold_pages);
    }
    VmStatus {
        state: match stub.state {
            Sleeper::Idle => VmState::Parked,
            Sleeper::Paused => VmState::Paused,
            Sleeper::Ended => VmState::Ended,
        },
        shares: stub.shares,
        class: u32::from(stub.class),
        core,
        memory_pages: stub.memory_pages,
        minimum_pages: stub.minimum_pages,
        private_pages: 0,
        template_pages: 0,
        packed_pages,
        disk_pages: stub.own_pages.saturating_sub(packed_pages),
        table_pages: 0,
        generation: stub.generation,
        counters: stub.counters,
        waited_ns: 0,
        preemptions: 0,
        latency: [0; LATENCY_BUCKETS],
    }
}
