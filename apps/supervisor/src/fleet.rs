//! The books: what was planned, what runs, what ended and how.

use crate::json::Object;
use crate::plan::Plan;
use alloc::format;
use alloc::string::{String, ToString};
use hashbrown::HashMap;
use virtual_isa::exception::Cause;
use virtual_isa::gate::{MachineStatus, VmState, VmStatus};

/// The fleet's books.
#[derive(Debug)]
pub struct Fleet {
    /// What was planned.
    pub plan: Plan,
    created: u32,
    started: u32,
    failed: u32,
    /// Ended VMs, and how.
    ended: HashMap<u32, Cause>,
    unclean: u32,
}

/// Pages of all VMs of the plan together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// VMs counted.
    pub vms: u64,
    /// Pages that are one VM's alone.
    pub private_pages: u64,
    /// Pages of page tables.
    pub table_pages: u64,
}

impl Fleet {
    /// Books with nothing in them yet.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        Self { plan, created: 0, started: 0, failed: 0, ended: HashMap::new(), unclean: 0 }
    }

    /// A VM was created.
    pub fn note_created(&mut self) {
        self.created += 1;
    }

    /// A VM was started.
    pub fn note_started(&mut self) {
        self.started += 1;
    }

    /// VMs could not be created or started.
    pub fn note_failed(&mut self, count: u32) {
        self.failed += count;
    }

    /// A VM ended.
    pub fn note_end(&mut self, vm: u32, cause: Cause) {
        if self.ended.insert(vm, cause).is_none() && !cause.is_clean() {
            self.unclean += 1;
        }
    }

    /// How a VM ended, if it has.
    #[must_use]
    pub fn end_of(&self, vm: u32) -> Option<&Cause> {
        self.ended.get(&vm)
    }

    /// VMs that were started.
    #[must_use]
    pub const fn started(&self) -> u32 {
        self.started
    }

    /// Whether everything that was planned has been started or has failed to.
    #[must_use]
    pub fn is_launched(&self) -> bool {
        self.started + self.failed == self.plan.nr_vms()
    }

    /// The line that says that the fleet is about to be started.
    #[must_use]
    pub fn opening(&self) -> String {
        format!("starting fleet {}: {} VMs", self.plan.name, self.plan.nr_vms())
    }

    /// The line that says that the fleet is up.
    #[must_use]
    pub fn summary(&self) -> String {
        let name = &self.plan.name;
        match self.failed {
            0 => format!("fleet {name}: {} VMs started", self.started),
            _ => format!("fleet {name}: {} of {} VMs started", self.started, self.plan.nr_vms()),
        }
    }

    /// Whether the machine is done, and if so, whether all went well. `None` as long as VMs run, and for a plan
    /// that does not end by itself.
    #[must_use]
    pub fn verdict(&self) -> Option<bool> {
        let is_over = self.is_launched() && self.ended.len() >= self.started as usize;
        (self.plan.power_off_when_done && is_over).then_some(self.failed == 0 && self.unclean == 0)
    }

    /// The answer to `status`.
    #[must_use]
    pub fn status(&self, machine: &MachineStatus, usage: Usage) -> String {
        Object::default()
            .string("fleet", &self.plan.name)
            .number("services", self.plan.services.len())
            .number("planned", self.plan.nr_vms())
            .number("created", self.created)
            .number("started", self.started)
            .number("failed", self.failed)
            .number("ended", self.ended.len())
            .number("ended_unclean", self.unclean)
            .number("private_pages", usage.private_pages)
            .number("table_pages", usage.table_pages)
            .number("inspected", usage.vms)
            .number("uptime_ns", machine.uptime_ns)
            .number("cpus", machine.cpus)
            .number("bundle_entries", machine.bundle_entries)
            .number("vms", machine.vms)
            .number("total_pages", machine.total_pages)
            .number("free_pages", machine.free_pages)
            .number("heap_bytes", machine.heap_bytes)
            .number("idle_ns", machine.idle_ns)
            .number("frames_in", machine.frames_in)
            .number("frames_out", machine.frames_out)
            .number("frames_dropped", machine.frames_dropped)
            .number("events_lost", machine.events_lost)
            .finish()
    }

    /// The answer to `vm N`.
    #[must_use]
    pub fn vm(&self, vm: u32, status: &VmStatus) -> String {
        let state = match status.state {
            VmState::Created => "created",
            VmState::Runnable => "runnable",
            VmState::Idle => "idle",
            VmState::Paused => "paused",
            VmState::Ended => "ended",
        };
        let service = self.plan.service_of(vm).map_or("supervisor", |s| s.name.as_str());
        let mut object = Object::default().number("vm", vm).string("service", service).string("state", state);
        if let Some(cause) = self.end_of(vm) {
            object = object.string("cause", &cause.to_string()).number("clean", cause.is_clean());
        }
        let counters = &status.counters;
        object
            .number("shares", status.shares)
            .number("memory_pages", status.memory_pages)
            .number("private_pages", status.private_pages)
            .number("table_pages", status.table_pages)
            .number("generation", status.generation)
            .number("guest_ns", counters.guest_ns)
            .number("kernel_ns", counters.kernel_ns)
            .number("instructions", counters.instructions)
            .number("faults", counters.faults)
            .number("dispatches", counters.dispatches)
            .number("frames_sent", counters.frames_sent)
            .number("frames_received", counters.frames_received)
            .number("drops_queue_full", counters.drops_queue_full)
            .number("drops_bad_length", counters.drops_bad_length)
            .number("drops_spoofed", counters.drops_spoofed)
            .number("drops_unroutable", counters.drops_unroutable)
            .number("console_dropped", counters.console_dropped)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Service;
    use virtual_isa::gate::Counters;
    use virtual_isa::limits::MAX_CONSOLE_BYTES;

    fn fleet(power_off_when_done: bool) -> Fleet {
        let web =
            Service { name: "web".into(), entry: 0, vms: 1..4, memory_pages: 256, shares: 1, arguments: "".into() };
        Fleet::new(Plan { name: "default".into(), power_off_when_done, services: vec![web] })
    }

    fn start(fleet: &mut Fleet, count: u32) {
        for _ in 0..count {
            fleet.note_created();
            fleet.note_started();
        }
    }

    #[test]
    fn a_fleet_is_done_when_all_that_started_has_ended() {
        let mut fleet = fleet(true);
        assert_eq!(fleet.verdict(), None);
        start(&mut fleet, 3);
        assert_eq!(fleet.opening(), "starting fleet default: 3 VMs");
        assert_eq!(fleet.summary(), "fleet default: 3 VMs started");
        for vm in 1..3 {
            fleet.note_end(vm, Cause::Terminated { status: 0 });
            assert_eq!(fleet.verdict(), None);
        }
        fleet.note_end(3, Cause::Stopped);
        fleet.note_end(3, Cause::Stopped);
        assert_eq!(fleet.verdict(), Some(true));
    }

    #[test]
    fn one_bad_end_or_failed_start_spoils_it() {
        let mut bad_end = fleet(true);
        start(&mut bad_end, 3);
        for vm in 1..=3 {
            bad_end.note_end(vm, Cause::Terminated { status: u64::from(vm == 2) });
        }
        assert_eq!(bad_end.verdict(), Some(false));
        let mut bad_start = fleet(true);
        start(&mut bad_start, 2);
        bad_start.note_end(1, Cause::Stopped);
        bad_start.note_end(2, Cause::Stopped);
        assert_eq!(bad_start.verdict(), None);
        bad_start.note_failed(1);
        assert_eq!(bad_start.verdict(), Some(false));
        assert_eq!(bad_start.summary(), "fleet default: 2 of 3 VMs started");
        let mut lasting = fleet(false);
        start(&mut lasting, 3);
        (1..=3).for_each(|vm| lasting.note_end(vm, Cause::Stopped));
        assert_eq!(lasting.verdict(), None);
    }

    #[test]
    fn answers_are_one_line_of_json_that_the_console_takes_whole() {
        let mut fleet = fleet(true);
        fleet.note_end(2, Cause::Memory { address: 0, access: virtual_isa::exception::Access::Write });
        let machine = MachineStatus {
            uptime_ns: u64::MAX,
            cpus: u32::MAX,
            bundle_entries: u32::MAX,
            vms: u32::MAX,
            total_pages: u64::MAX,
            free_pages: u64::MAX,
            heap_bytes: u64::MAX,
            idle_ns: u64::MAX,
            frames_in: u64::MAX,
            frames_out: u64::MAX,
            frames_dropped: u64::MAX,
            events_lost: u64::MAX,
        };
        let status = fleet.status(&machine, Usage { vms: 3, private_pages: 30, table_pages: 12 });
        let vm = fleet.vm(
            2,
            &VmStatus {
                state: VmState::Ended,
                shares: u32::MAX,
                memory_pages: 256,
                private_pages: 9,
                table_pages: 4,
                generation: u64::MAX,
                counters: Counters { guest_ns: u64::MAX, kernel_ns: u64::MAX, ..Counters::default() },
            },
        );
        for text in [&status, &vm] {
            assert!(text.len() < MAX_CONSOLE_BYTES - 10 && !text.contains('\n'), "{}", text.len());
        }
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        assert_eq!(status["planned"], 3);
        assert_eq!(status["ended_unclean"], 1);
        assert_eq!(status["free_pages"], u64::MAX);
        let vm: serde_json::Value = serde_json::from_str(&vm).unwrap();
        assert_eq!(vm["cause"], "memory violation: write to 0x0");
        assert_eq!(vm["service"], "web");
        assert_eq!(vm["private_pages"], 9);
    }
}
