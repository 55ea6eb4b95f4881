//! What the supervisor tells, as JSON objects that fit one console line each.

use crate::fleet::Fleet;
use crate::json::Object;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use virtual_isa::exception::Cause;
use virtual_isa::gate::{MachineStatus, VmState, VmStatus};

/// The answer to `status`: the fleet, and the machine's most important counters.
#[must_use]
pub fn status(fleet: &Fleet, machine: &MachineStatus) -> String {
    Object::default()
        .string("fleet", &fleet.plan.name)
        .number("services", fleet.plan.services.len())
        .number("planned", fleet.nr_vms())
        .number("created", fleet.created())
        .number("started", fleet.started())
        .number("failed", fleet.failed())
        .number("ended", fleet.ended())
        .number("ended_unclean", fleet.unclean())
        .number("vms", machine.vms)
        .number("waiting", machine.waiting)
        .number("parked", machine.parked)
        .number("parked_on_disk", machine.parked_on_disk)
        .number("uptime_ns", machine.uptime_ns)
        .number("idle_ns", machine.idle_ns)
        .number("charged_ns", machine.charged_ns)
        .number("overhead_ns", machine.overhead_ns())
        .number("cpus", machine.cpus)
        .number("bundle_entries", machine.bundle_entries)
        .number("total_pages", machine.total_pages)
        .number("free_pages", machine.free_pages)
        .number("private_pages", machine.private_pages)
        .number("table_pages", machine.table_pages)
        .number("heap_bytes", machine.heap_bytes)
        .number("frames_in", machine.frames_in)
        .number("frames_out", machine.frames_out)
        .number("frames_dropped", machine.frames_dropped)
        .number("drops_bad_length", machine.drops_bad_length)
        .number("drops_spoofed", machine.drops_spoofed)
        .number("drops_unroutable", machine.drops_unroutable)
        .number("drops_queue_full", machine.drops_queue_full)
        .number("drops_no_buffer", machine.drops_no_buffer)
        .number("answers_dropped", machine.answers_dropped)
        .number("senders_waiting", machine.senders_waiting)
        .number("swap_errors", machine.swap_errors)
        .number("events_lost", machine.events_lost)
        .finish()
}

/// The answer to `memory`: where all memory is, and what has gone to the swap disk and come back.
#[must_use]
pub fn memory(machine: &MachineStatus) -> String {
    Object::default()
        .number("uptime_ns", machine.uptime_ns)
        .number("idle_ns", machine.idle_ns)
        .number("cpus", machine.cpus)
        .number("vms", machine.vms)
        .number("waiting", machine.waiting)
        .number("parked", machine.parked)
        .number("parked_on_disk", machine.parked_on_disk)
        .number("total_pages", machine.total_pages)
        .number("free_pages", machine.free_pages)
        .number("reserve_pages", machine.reserve_pages)
        .number("private_pages", machine.private_pages)
        .number("table_pages", machine.table_pages)
        .number("template_pages", machine.template_pages)
        .number("packed_pages", machine.packed_pages)
        .number("heap_bytes", machine.heap_bytes)
        .number("heap_pages", machine.heap_pages)
        .number("kept_pages", machine.kept_pages)
        .number("parks", machine.parks)
        .number("record_bytes", machine.record_bytes)
        .number("wakes_memory", machine.wakes_memory)
        .number("wakes_disk", machine.wakes_disk)
        .number("swap_blocks", machine.swap_blocks)
        .number("swap_used_blocks", machine.swap_used_blocks)
        .number("swap_reads", machine.swap_reads)
        .number("swap_read_blocks", machine.swap_read_blocks)
        .number("swap_writes", machine.swap_writes)
        .number("swap_written_blocks", machine.swap_written_blocks)
        .number("swap_errors", machine.swap_errors)
        .finish()
}

/// A state's name.
#[must_use]
pub const fn state(state: VmState) -> &'static str {
    match state {
        VmState::Created => "created",
        VmState::Runnable => "runnable",
        VmState::Idle => "idle",
        VmState::Paused => "paused",
        VmState::Ended => "ended",
        VmState::Waiting => "waiting",
        VmState::Parked => "parked",
        VmState::Paging => "paging",
        VmState::Starved => "starved",
    }
}

fn beginning(fleet: &Fleet, vm: u32, status: &VmStatus) -> Object {
    let service = fleet.plan.service_of(vm).map_or(if vm == 0 { "supervisor" } else { "spare" }, |s| s.name.as_str());
    Object::default().number("vm", vm).string("service", service).string("state", state(status.state))
}

/// The answer to `vm N`: who it is, how it does, what it has done.
#[must_use]
pub fn vm(fleet: &Fleet, vm: u32, status: &VmStatus) -> String {
    let mut object = beginning(fleet, vm, status);
    if let Some(cause) = fleet.end_of(vm) {
        object = object.string("cause", &cause.to_string()).number("clean", Cause::is_clean(cause));
    }
    let counters = &status.counters;
    object
        .number("shares", status.shares)
        .number("class", status.class)
        .number("core", status.core)
        .string("group", if vm == 0 { "supervisor" } else { fleet.plan.group_of(status.class) })
        .number("memory_pages", status.memory_pages)
        .number("minimum_pages", status.minimum_pages)
        .number("private_pages", status.private_pages)
        .number("table_pages", status.table_pages)
        .number("generation", status.generation)
        .number("guest_ns", counters.guest_ns)
        .number("kernel_ns", counters.kernel_ns)
        .number("instructions", counters.instructions)
        .number("faults", counters.faults)
        .number("parks", counters.parks)
        .number("dispatches", counters.dispatches)
        .number("frames_sent", counters.frames_sent)
        .number("frames_received", counters.frames_received)
        .number("drops_queue_full", counters.drops_queue_full)
        .number("drops_no_buffer", counters.drops_no_buffer)
        .number("drops_bad_length", counters.drops_bad_length)
        .number("drops_spoofed", counters.drops_spoofed)
        .number("drops_unroutable", counters.drops_unroutable)
        .number("waits_wire", counters.waits_wire)
        .number("waits_rate", counters.waits_rate)
        .number("console_dropped", counters.console_dropped)
        .finish()
}

/// The answer to `vm-time N`: what it has had of the processor, and how long it waited for it.
#[must_use]
pub fn vm_time(fleet: &Fleet, vm: u32, status: &VmStatus) -> String {
    let counters = &status.counters;
    beginning(fleet, vm, status)
        .number("guest_ns", counters.guest_ns)
        .number("kernel_ns", counters.kernel_ns)
        .number("dispatches", counters.dispatches)
        .number("waited_ns", status.waited_ns)
        .number("preemptions", status.preemptions)
        .raw("wake_latency", &list(&status.latency))
        .finish()
}

/// Numbers as a JSON list.
fn list(numbers: &[u32]) -> String {
    let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
    format!("[{}]", numbers.join(","))
}

/// The answer to `vm-memory N`: where its pages are, and how it came by them.
#[must_use]
pub fn vm_memory(fleet: &Fleet, vm: u32, status: &VmStatus) -> String {
    let counters = &status.counters;
    beginning(fleet, vm, status)
        .number("memory_pages", status.memory_pages)
        .number("minimum_pages", status.minimum_pages)
        .number("private_pages", status.private_pages)
        .number("template_pages", status.template_pages)
        .number("packed_pages", status.packed_pages)
        .number("disk_pages", status.disk_pages)
        .number("table_pages", status.table_pages)
        .number("faults", counters.faults)
        .number("faults_zero", counters.faults_zero)
        .number("faults_copied", counters.faults_copied)
        .number("faults_packed", counters.faults_packed)
        .number("faults_disk", counters.faults_disk)
        .number("parks", counters.parks)
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Plan, Service};
    use alloc::rc::Rc;
    use virtual_isa::exception::{Access, SwapError};
    use virtual_isa::gate::{Counters, LATENCY_BUCKETS};
    use virtual_isa::limits::MAX_CONSOLE_BYTES;

    fn fleet() -> Fleet {
        let web = Service {
            name: "web".into(),
            entry: 0,
            vms: 1..4,
            memory_pages: 256,
            minimum_pages: 16,
            shares: 1,
            class: 0,
            gateway: None,
            arguments: "".into(),
        };
        Fleet::new(Plan {
            name: "default".into(),
            power_off_when_done: true,
            groups: vec![],
            classes: vec![],
            services: vec![Rc::new(web)],
        })
    }

    /// As large as a machine of 2^40 bytes that has been up for a year can have it.
    fn machine() -> MachineStatus {
        let (pages, ns) = (1 << 28, 31_536_000_000_000_000);
        MachineStatus {
            uptime_ns: ns,
            idle_ns: ns * 64,
            charged_ns: ns * 64,
            overhead_loop_ns: ns * 64,
            overhead_wire_ns: ns * 64,
            overhead_memory_ns: ns * 64,
            cpus: 64,
            bundle_entries: 1024,
            vms: 1 << 20,
            waiting: 1 << 20,
            parked: 1 << 20,
            parked_on_disk: 1 << 20,
            total_pages: pages,
            free_pages: pages,
            reserve_pages: pages,
            private_pages: pages,
            table_pages: pages,
            template_pages: pages,
            packed_pages: pages,
            heap_bytes: pages << 12,
            heap_pages: pages,
            kept_pages: pages,
            parks: 1 << 50,
            record_bytes: 1 << 60,
            wakes_memory: 1 << 50,
            wakes_disk: 1 << 50,
            swap_blocks: 1 << 40,
            swap_used_blocks: 1 << 40,
            swap_reads: 1 << 50,
            swap_read_blocks: 1 << 50,
            swap_writes: 1 << 50,
            swap_written_blocks: 1 << 50,
            swap_errors: 1 << 50,
            frames_in: 1 << 50,
            frames_out: 1 << 50,
            frames_dropped: 1 << 50,
            drops_bad_length: 1 << 50,
            drops_spoofed: 1 << 50,
            drops_unroutable: 1 << 50,
            drops_queue_full: 1 << 50,
            drops_no_buffer: 1 << 50,
            answers_dropped: 1 << 50,
            senders_waiting: 1 << 20,
            events_lost: 1 << 50,
        }
    }

    fn status(state: VmState) -> VmStatus {
        let large = 1 << 56;
        let counters = Counters {
            guest_ns: large,
            kernel_ns: large,
            instructions: large,
            faults: large,
            faults_zero: large,
            faults_copied: large,
            faults_packed: large,
            faults_disk: large,
            parks: large,
            dispatches: large,
            frames_sent: large,
            frames_received: large,
            drops_queue_full: u32::MAX,
            drops_no_buffer: u32::MAX,
            drops_bad_length: u32::MAX,
            drops_spoofed: u32::MAX,
            drops_unroutable: u32::MAX,
            waits_wire: u32::MAX,
            waits_rate: u32::MAX,
            console_dropped: large,
        };
        VmStatus {
            state,
            shares: u32::MAX,
            class: u32::MAX,
            core: u32::MAX,
            memory_pages: u32::MAX,
            minimum_pages: u32::MAX,
            private_pages: 9,
            template_pages: 31,
            packed_pages: u32::MAX,
            disk_pages: u32::MAX,
            table_pages: u32::MAX,
            generation: u64::MAX,
            counters,
            waited_ns: large,
            preemptions: large,
            latency: [u32::MAX; LATENCY_BUCKETS],
        }
    }

    fn parse(prefix: &str, text: &str) -> serde_json::Value {
        assert!(prefix.len() + text.len() < MAX_CONSOLE_BYTES && !text.contains('\n'), "{} bytes", text.len());
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn answers_are_one_line_of_json_that_the_console_takes_whole() {
        let mut fleet = fleet();
        fleet.note_end(2, Cause::PageLost { block: u64::MAX, error: SwapError::Checksum });
        let shown = parse("status ", &super::status(&fleet, &machine()));
        assert_eq!(
            (&shown["planned"], &shown["ended_unclean"], &shown["waiting"]),
            (&3.into(), &1.into(), &(1 << 20).into())
        );
        let shown = parse("memory ", &memory(&machine()));
        assert_eq!(shown["swap_written_blocks"], 1u64 << 50);
        assert_eq!(shown["packed_pages"], 1 << 28);
        let shown = parse("vm ", &vm(&fleet, 2, &status(VmState::Ended)));
        assert!(shown["cause"].as_str().unwrap().starts_with("page lost: block "));
        assert_eq!((&shown["service"], &shown["private_pages"]), (&"web".into(), &9.into()));
        let shown = parse("vm-memory ", &vm_memory(&fleet, 3, &status(VmState::Starved)));
        assert_eq!((&shown["state"], &shown["template_pages"]), (&"starved".into(), &31.into()));
        assert_eq!(shown["faults_disk"], 1u64 << 56);
        let shown = parse("vm-time ", &vm_time(&fleet, 3, &status(VmState::Starved)));
        assert_eq!((&shown["waited_ns"], &shown["wake_latency"][15]), (&(1u64 << 56).into(), &u32::MAX.into()));
    }

    #[test]
    fn vms_that_are_nobodys_are_called_so() {
        let service = |number| parse("vm ", &vm(&fleet(), number, &status(VmState::Idle)))["service"].clone();
        assert_eq!((service(0), service(3), service(4)), ("supervisor".into(), "web".into(), "spare".into()));
        let mut fleet = fleet();
        fleet.note_end(1, Cause::Memory { address: 0, access: Access::Write });
        assert_eq!(parse("vm ", &vm(&fleet, 1, &status(VmState::Ended)))["cause"], "memory violation: write to 0x0");
    }
}
