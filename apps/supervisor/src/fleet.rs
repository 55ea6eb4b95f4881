//! The books: what was planned, what runs, what ended and how.

use crate::bits::Bits;
use crate::plan::Plan;
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::string::String;
use virtual_isa::exception::Cause;

/// Ends whose cause is kept. Of later ones only that they were, and whether they were clean, is counted.
const MAX_CAUSES: usize = 4096;

/// The fleet's books.
#[derive(Debug)]
pub struct Fleet {
    /// What was planned.
    pub plan: Plan,
    planned: Bits,
    created: u32,
    started: u32,
    failed: u32,
    ended: Bits,
    causes: BTreeMap<u32, Cause>,
    unclean: u32,
}

impl Fleet {
    /// Books with nothing in them yet.
    #[must_use]
    pub fn new(plan: Plan) -> Self {
        let planned = Bits::of(plan.services.iter().map(|service| service.vms.clone()));
        Self {
            plan,
            planned,
            created: 0,
            started: 0,
            failed: 0,
            ended: Bits::default(),
            causes: BTreeMap::new(),
            unclean: 0,
        }
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

    /// A VM ended. Those that are not of the plan are nobody's concern.
    pub fn note_end(&mut self, vm: u32, cause: Cause) {
        if !self.planned.contains(vm) || !self.ended.insert(vm) {
            return;
        }
        self.unclean += u32::from(!cause.is_clean());
        if self.causes.len() < MAX_CAUSES {
            self.causes.insert(vm, cause);
        }
    }

    /// How a VM ended, if it has and that is known still.
    #[must_use]
    pub fn end_of(&self, vm: u32) -> Option<&Cause> {
        self.causes.get(&vm)
    }

    /// VMs of the plan.
    #[must_use]
    pub const fn nr_vms(&self) -> u32 {
        self.planned.count()
    }

    /// VMs that were created.
    #[must_use]
    pub const fn created(&self) -> u32 {
        self.created
    }

    /// VMs that could not be created or started.
    #[must_use]
    pub const fn failed(&self) -> u32 {
        self.failed
    }

    /// VMs that have ended.
    #[must_use]
    pub const fn ended(&self) -> u32 {
        self.ended.count()
    }

    /// VMs that have ended otherwise than cleanly.
    #[must_use]
    pub const fn unclean(&self) -> u32 {
        self.unclean
    }

    /// VMs that were started.
    #[must_use]
    pub const fn started(&self) -> u32 {
        self.started
    }

    /// Whether everything that was planned has been started or has failed to.
    #[must_use]
    pub fn is_launched(&self) -> bool {
        self.started + self.failed == self.nr_vms()
    }

    /// The line that says that the fleet is about to be started.
    #[must_use]
    pub fn opening(&self) -> String {
        format!("starting fleet {}: {} VMs", self.plan.name, self.nr_vms())
    }

    /// The line that says that the fleet is up.
    #[must_use]
    pub fn summary(&self) -> String {
        let name = &self.plan.name;
        match self.failed {
            0 => format!("fleet {name}: {} VMs started", self.started),
            _ => format!("fleet {name}: {} of {} VMs started", self.started, self.nr_vms()),
        }
    }

    /// Whether the machine is done, and if so, whether all went well. `None` as long as VMs run, and for a plan
    /// that does not end by itself.
    #[must_use]
    pub fn verdict(&self) -> Option<bool> {
        let is_over = self.is_launched() && self.ended() >= self.started;
        (self.plan.power_off_when_done && is_over).then_some(self.failed == 0 && self.unclean == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Service;
    use alloc::rc::Rc;

    fn fleet(power_off_when_done: bool) -> Fleet {
        planned(1..4, power_off_when_done)
    }

    fn planned(vms: core::ops::Range<u32>, power_off_when_done: bool) -> Fleet {
        let web = Service {
            name: "web".into(),
            entry: 0,
            vms,
            memory_pages: 256,
            minimum_pages: 16,
            shares: 1,
            class: 0,
            gateway: None,
            arguments: "".into(),
        };
        Fleet::new(Plan {
            name: "default".into(),
            power_off_when_done,
            groups: vec![],
            classes: vec![],
            services: vec![Rc::new(web)],
        })
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
    fn spare_vms_are_not_counted_and_few_causes_are_kept_of_many() {
        let mut fleet = planned(1..100_001, false);
        fleet.note_end(100_001, Cause::Stopped);
        fleet.note_end(0, Cause::Stopped);
        assert_eq!((fleet.ended(), fleet.end_of(0)), (0, None));
        for vm in 1..100_001 {
            fleet.note_end(vm, Cause::Terminated { status: u64::from(vm % 2) });
        }
        assert_eq!((fleet.ended(), fleet.unclean(), fleet.causes.len()), (100_000, 50_000, MAX_CAUSES));
        assert_eq!(fleet.end_of(7), Some(&Cause::Terminated { status: 1 }));
        assert_eq!(fleet.end_of(99_999), None);
    }
}
