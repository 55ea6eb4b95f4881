//! The launch plan: decoded from the bundle's entry, and checked before anything is started.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use hashbrown::HashSet;
use virtual_isa::bundle::{Plan as PlanHeader, ServicePlan};
use virtual_isa::limits::{MAX_ARGUMENT_BYTES, MAX_MEMORY_PAGES, MAX_NAME_BYTES, MAX_VMS, MIN_MEMORY_PAGES};

/// Most services in a plan.
pub const MAX_SERVICES: u32 = 4096;

/// A checked plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Name of the fleet.
    pub name: String,
    /// Whether the machine powers off when the last VM has ended.
    pub power_off_when_done: bool,
    /// The services, in the order in which they are started.
    pub services: Vec<Rc<Service>>,
}

/// One service: VMs of one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Index of its image in the bundle.
    pub entry: u32,
    /// The numbers of its VMs.
    pub vms: Range<u32>,
    /// Memory of each in pages.
    pub memory_pages: u32,
    /// Pages of it that are kept for each.
    pub minimum_pages: u32,
    /// Weight of each.
    pub shares: u32,
    /// Arguments of each.
    pub arguments: String,
}

/// Why a plan cannot be used. Whoever wrote the bundle must mend it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// The bytes are no plan, or a plan that is cut short.
    Unreadable,
    /// There are bytes behind the last service.
    TrailingBytes(usize),
    /// More services than allowed.
    TooManyServices(u32),
    /// A service's name is empty, too long or used before.
    BadName(String),
    /// What else is wrong with a service.
    BadService {
        /// Its name.
        service: String,
        /// The field.
        field: &'static str,
    },
    /// Two services claim the same VM number.
    Overlap {
        /// The second one's name.
        service: String,
        /// The number.
        vm: u32,
    },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => f.write_str("it is damaged or cut short"),
            Self::TrailingBytes(n) => write!(f, "{n} bytes follow its last service"),
            Self::TooManyServices(n) => write!(f, "{n} services, allowed are {MAX_SERVICES}"),
            Self::BadName(name) => write!(f, "service name {name:?} is empty, too long or used twice"),
            Self::BadService { service, field } => write!(f, "service {service}: {field} is out of range"),
            Self::Overlap { service, vm } => write!(f, "service {service}: vm {vm} belongs to another service too"),
        }
    }
}

impl core::error::Error for PlanError {}

impl Plan {
    /// Decodes and checks a plan. `nr_entries` is the number of entries in the bundle.
    ///
    /// # Errors
    /// The first thing found wrong.
    pub fn parse(bytes: &[u8], nr_entries: u32) -> Result<Self, PlanError> {
        let (header, mut rest): (PlanHeader<'_>, _) =
            postcard::take_from_bytes(bytes).map_err(|_| PlanError::Unreadable)?;
        if header.nr_services > MAX_SERVICES {
            return Err(PlanError::TooManyServices(header.nr_services));
        }
        let mut services = Vec::new();
        let mut names = HashSet::new();
        for _ in 0..header.nr_services {
            let (service, behind): (ServicePlan<'_>, _) =
                postcard::take_from_bytes(rest).map_err(|_| PlanError::Unreadable)?;
            rest = behind;
            if service.name.is_empty() || service.name.len() > MAX_NAME_BYTES || !names.insert(service.name) {
                return Err(PlanError::BadName(service.name.into()));
            }
            services.push(Rc::new(check(&service, nr_entries)?));
        }
        if !rest.is_empty() {
            return Err(PlanError::TrailingBytes(rest.len()));
        }
        check_overlap(&services)?;
        Ok(Self { name: header.name.into(), power_off_when_done: header.power_off_when_done, services })
    }

    /// Number of VMs in all services.
    #[must_use]
    pub fn nr_vms(&self) -> u32 {
        self.services.iter().map(|s| s.vms.end - s.vms.start).sum()
    }

    /// The service a VM belongs to.
    #[must_use]
    pub fn service_of(&self, vm: u32) -> Option<&Service> {
        self.services.iter().map(Rc::as_ref).find(|s| s.vms.contains(&vm))
    }
}

fn check(service: &ServicePlan<'_>, nr_entries: u32) -> Result<Service, PlanError> {
    let bad = |field| PlanError::BadService { service: service.name.into(), field };
    let end = service.first_vm.checked_add(service.count).filter(|&end| end <= MAX_VMS).ok_or(bad("count"))?;
    let limits = [
        ("count", service.count > 0),
        // Number 0 is the supervisor's own.
        ("first_vm", service.first_vm > 0),
        ("entry", service.entry < nr_entries),
        ("memory_pages", (MIN_MEMORY_PAGES..=MAX_MEMORY_PAGES).contains(&service.memory_pages)),
        ("minimum_pages", service.minimum_pages <= service.memory_pages),
        ("shares", service.shares > 0),
        ("arguments", service.arguments.len() <= MAX_ARGUMENT_BYTES),
    ];
    if let Some((field, _)) = limits.into_iter().find(|(_, holds)| !holds) {
        return Err(bad(field));
    }
    Ok(Service {
        name: service.name.into(),
        entry: service.entry,
        vms: service.first_vm..end,
        memory_pages: service.memory_pages,
        minimum_pages: service.minimum_pages,
        shares: service.shares,
        arguments: service.arguments.into(),
    })
}

fn check_overlap(services: &[Rc<Service>]) -> Result<(), PlanError> {
    let mut by_number: Vec<&Service> = services.iter().map(Rc::as_ref).collect();
    by_number.sort_by_key(|s| s.vms.start);
    for pair in by_number.windows(2) {
        if let [first, second] = pair
            && second.vms.start < first.vms.end
        {
            return Err(PlanError::Overlap { service: second.name.clone(), vm: second.vms.start });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WEB: ServicePlan<'_> = ServicePlan {
        name: "web",
        entry: 3,
        first_vm: 1,
        count: 10,
        memory_pages: 256,
        minimum_pages: 16,
        shares: 100,
        arguments: "body=128",
    };

    fn encode(services: &[ServicePlan<'_>]) -> Vec<u8> {
        let nr_services = u32::try_from(services.len()).unwrap();
        let header = PlanHeader { power_off_when_done: true, nr_services, name: "default" };
        let mut bytes = postcard::to_allocvec(&header).unwrap();
        for service in services {
            bytes.extend(postcard::to_allocvec(service).unwrap());
        }
        bytes
    }

    fn refused(services: &[ServicePlan<'_>]) -> PlanError {
        Plan::parse(&encode(services), 5).unwrap_err()
    }

    #[test]
    fn a_good_plan_is_read() {
        let echo = ServicePlan { name: "echo", first_vm: 11, count: 2, ..WEB };
        let plan = Plan::parse(&encode(&[WEB, echo]), 5).unwrap();
        assert_eq!((plan.name.as_str(), plan.power_off_when_done, plan.nr_vms()), ("default", true, 12));
        assert_eq!(plan.services[1].vms, 11..13);
        assert_eq!(plan.service_of(10).unwrap().name, "web");
        assert_eq!(plan.service_of(11).unwrap().name, "echo");
        assert!(plan.service_of(0).is_none() && plan.service_of(13).is_none());
        assert_eq!(Plan::parse(&encode(&[]), 2).unwrap().nr_vms(), 0);
    }

    #[test]
    fn each_defect_is_named() {
        let bad = |service: ServicePlan<'_>, field| {
            assert_eq!(refused(&[service]), PlanError::BadService { service: "web".into(), field });
        };
        bad(ServicePlan { count: 0, ..WEB }, "count");
        bad(ServicePlan { count: u32::MAX, ..WEB }, "count");
        bad(ServicePlan { count: MAX_VMS, ..WEB }, "count");
        bad(ServicePlan { first_vm: 0, ..WEB }, "first_vm");
        bad(ServicePlan { entry: 5, ..WEB }, "entry");
        bad(ServicePlan { memory_pages: 255, ..WEB }, "memory_pages");
        bad(ServicePlan { memory_pages: u32::MAX, ..WEB }, "memory_pages");
        bad(ServicePlan { minimum_pages: 257, ..WEB }, "minimum_pages");
        bad(ServicePlan { shares: 0, ..WEB }, "shares");
        let long = "x".repeat(MAX_ARGUMENT_BYTES + 1);
        bad(ServicePlan { arguments: &long, ..WEB }, "arguments");
        assert_eq!(refused(&[WEB, WEB]), PlanError::BadName("web".into()));
        assert_eq!(refused(&[ServicePlan { name: "", ..WEB }]), PlanError::BadName("".into()));
        let second = ServicePlan { name: "b", first_vm: 10, ..WEB };
        assert_eq!(refused(&[second, WEB]), PlanError::Overlap { service: "b".into(), vm: 10 });
        let mut trailing = encode(&[WEB]);
        trailing.extend([1, 2, 3]);
        assert_eq!(Plan::parse(&trailing, 5), Err(PlanError::TrailingBytes(3)));
        let header = PlanHeader { power_off_when_done: false, nr_services: u32::MAX, name: "x" };
        let many = postcard::to_allocvec(&header).unwrap();
        assert_eq!(Plan::parse(&many, 5), Err(PlanError::TooManyServices(u32::MAX)));
    }

    proptest! {
        #[test]
        fn a_cut_or_random_plan_is_never_taken_for_a_whole_one(cut in 0usize..20, noise: Vec<u8>) {
            let bytes = encode(&[WEB]);
            prop_assert_eq!(Plan::parse(&bytes[..cut.min(bytes.len() - 1)], 5), Err(PlanError::Unreadable));
            if let Ok(plan) = Plan::parse(&noise, 5) {
                prop_assert!(plan.services.iter().all(|s| !s.vms.is_empty() && s.vms.end <= MAX_VMS));
            }
        }
    }
}
