//! The launch plan: decoded from the bundle's entry, and checked before anything is started.

use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use hashbrown::{HashMap, HashSet};
use virtual_isa::bundle::{FIRST_PLANNED_GROUP, GroupPlan, Plan as PlanHeader, ServicePlan};
use virtual_isa::gate::{ClassTerms, ProcessorTerms};
use virtual_isa::limits::{
    MAX_ARGUMENT_BYTES, MAX_CLASSES, MAX_GROUPS, MAX_MEMORY_PAGES, MAX_NAME_BYTES, MAX_VMS, MIN_MEMORY_PAGES,
};

/// Most services in a plan.
pub const MAX_SERVICES: u32 = 4096;

/// Most groups in a plan.
pub const MAX_PLANNED_GROUPS: u32 = MAX_GROUPS - FIRST_PLANNED_GROUP;

/// A checked plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Name of the fleet.
    pub name: String,
    /// Whether the machine powers off when the last VM has ended.
    pub power_off_when_done: bool,
    /// The groups, numbered from [`FIRST_PLANNED_GROUP`] on.
    pub groups: Vec<Group>,
    /// The terms of the classes, numbered from 1 on: what services have that differ from class 0.
    pub classes: Vec<ClassTerms>,
    /// The services, in the order in which they are started.
    pub services: Vec<Rc<Service>>,
}

/// One group of services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its part of the processors.
    pub processor: ProcessorTerms,
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
    /// The class of each.
    pub class: u32,
    /// The VM through which their frames go, if there is one.
    pub gateway: Option<u32>,
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
    /// More groups than allowed.
    TooManyGroups(u32),
    /// More different terms than there are classes.
    TooManyClasses,
    /// A group's name is empty, too long or used before.
    BadGroupName(String),
    /// A group's terms cannot be.
    BadGroup(String),
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
            Self::TooManyGroups(n) => write!(f, "{n} groups, allowed are {MAX_PLANNED_GROUPS}"),
            Self::TooManyClasses => {
                write!(f, "its services have more different terms than a machine has classes, {MAX_CLASSES}")
            }
            Self::BadGroupName(name) => write!(f, "group name {name:?} is empty, too long or used twice"),
            Self::BadGroup(name) => write!(f, "group {name}: its terms are out of range"),
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
        if header.nr_groups > MAX_PLANNED_GROUPS {
            return Err(PlanError::TooManyGroups(header.nr_groups));
        }
        let mut groups = Vec::new();
        let mut names = HashSet::new();
        for _ in 0..header.nr_groups {
            let (group, behind): (GroupPlan<'_>, _) =
                postcard::take_from_bytes(rest).map_err(|_| PlanError::Unreadable)?;
            rest = behind;
            if group.name.is_empty() || group.name.len() > MAX_NAME_BYTES || !names.insert(group.name) {
                return Err(PlanError::BadGroupName(group.name.into()));
            }
            groups.push(check_group(&group)?);
        }
        let mut services = Vec::new();
        let mut classes = Classes::default();
        let mut names = HashSet::new();
        for _ in 0..header.nr_services {
            let (service, behind): (ServicePlan<'_>, _) =
                postcard::take_from_bytes(rest).map_err(|_| PlanError::Unreadable)?;
            rest = behind;
            if service.name.is_empty() || service.name.len() > MAX_NAME_BYTES || !names.insert(service.name) {
                return Err(PlanError::BadName(service.name.into()));
            }
            services.push(Rc::new(check(&service, nr_entries, header.nr_groups, &mut classes)?));
        }
        if !rest.is_empty() {
            return Err(PlanError::TrailingBytes(rest.len()));
        }
        check_overlap(&services)?;
        let Classes { terms: classes, .. } = classes;
        let name = header.name.into();
        Ok(Self { name, power_off_when_done: header.power_off_when_done, groups, classes, services })
    }

    /// Number of VMs in all services.
    #[must_use]
    pub fn nr_vms(&self) -> u32 {
        self.services.iter().map(|s| s.vms.end - s.vms.start).sum()
    }

    /// The name of the group that a class is in.
    #[must_use]
    pub fn group_of(&self, class: u32) -> &str {
        let terms = class.checked_sub(1).and_then(|n| self.classes.get(n as usize)).unwrap_or(&ClassTerms::DEFAULT);
        let planned = terms.group.checked_sub(FIRST_PLANNED_GROUP).and_then(|n| self.groups.get(n as usize));
        planned.map_or("default", |group| group.name.as_str())
    }

    /// The service a VM belongs to.
    #[must_use]
    pub fn service_of(&self, vm: u32) -> Option<&Service> {
        self.services.iter().map(Rc::as_ref).find(|s| s.vms.contains(&vm))
    }
}

/// The classes that services have had so far.
#[derive(Default)]
struct Classes {
    terms: Vec<ClassTerms>,
    numbers: HashMap<[u32; 5], u32>,
}

impl Classes {
    /// The number of the class with these terms: one there is, or the next.
    fn number(&mut self, terms: &ClassTerms) -> Result<u32, PlanError> {
        if *terms == ClassTerms::DEFAULT {
            return Ok(0);
        }
        let ClassTerms { group, reservation_ppm, limit_ppm, frames_per_s, bytes_per_s } = *terms;
        let key = [group, reservation_ppm, limit_ppm, frames_per_s, bytes_per_s];
        if let Some(&number) = self.numbers.get(&key) {
            return Ok(number);
        }
        let number = u32::try_from(self.terms.len()).unwrap_or(u32::MAX).saturating_add(1);
        if number >= MAX_CLASSES {
            return Err(PlanError::TooManyClasses);
        }
        self.numbers.insert(key, number);
        self.terms.push(*terms);
        Ok(number)
    }
}

fn check_group(group: &GroupPlan<'_>) -> Result<Group, PlanError> {
    if group.processor.shares == 0 || !group.processor.is_possible() {
        return Err(PlanError::BadGroup(group.name.into()));
    }
    Ok(Group { name: group.name.into(), processor: group.processor })
}

fn check(
    service: &ServicePlan<'_>,
    nr_entries: u32,
    nr_groups: u32,
    classes: &mut Classes,
) -> Result<Service, PlanError> {
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
        ("group", (ClassTerms::DEFAULT.group..FIRST_PLANNED_GROUP + nr_groups).contains(&service.terms.group)),
        ("reservation", service.terms.is_possible()),
        ("gateway", service.gateway.is_none_or(|vm| vm > 0 && vm < MAX_VMS && !(service.first_vm..end).contains(&vm))),
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
        class: classes.number(&service.terms)?,
        gateway: service.gateway,
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
        terms: ClassTerms::DEFAULT,
        gateway: None,
        arguments: "body=128",
    };

    const RED: GroupPlan<'_> =
        GroupPlan { name: "red", processor: ProcessorTerms { shares: 100, reservation_ppm: 0, limit_ppm: 0 } };

    fn encode(services: &[ServicePlan<'_>]) -> Vec<u8> {
        encode_with(&[], services)
    }

    fn encode_with(groups: &[GroupPlan<'_>], services: &[ServicePlan<'_>]) -> Vec<u8> {
        let [nr_groups, nr_services] = [groups.len(), services.len()].map(|n| u32::try_from(n).unwrap());
        let header = PlanHeader { power_off_when_done: true, nr_groups, nr_services, name: "default" };
        let mut bytes = postcard::to_allocvec(&header).unwrap();
        for group in groups {
            bytes.extend(postcard::to_allocvec(group).unwrap());
        }
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
        let echo = ServicePlan { name: "echo", first_vm: 11, count: 2, gateway: Some(10), ..WEB };
        let plan = Plan::parse(&encode(&[WEB, echo]), 5).unwrap();
        assert_eq!((plan.name.as_str(), plan.power_off_when_done, plan.nr_vms()), ("default", true, 12));
        assert_eq!((&plan.services[1].vms, plan.services[1].gateway), (&(11..13), Some(10)));
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
        for vm in [0, 1, 10, MAX_VMS] {
            bad(ServicePlan { gateway: Some(vm), ..WEB }, "gateway");
        }
        let long = "x".repeat(MAX_ARGUMENT_BYTES + 1);
        bad(ServicePlan { arguments: &long, ..WEB }, "arguments");
        assert_eq!(refused(&[WEB, WEB]), PlanError::BadName("web".into()));
        assert_eq!(refused(&[ServicePlan { name: "", ..WEB }]), PlanError::BadName("".into()));
        let second = ServicePlan { name: "b", first_vm: 10, ..WEB };
        assert_eq!(refused(&[second, WEB]), PlanError::Overlap { service: "b".into(), vm: 10 });
        let mut trailing = encode(&[WEB]);
        trailing.extend([1, 2, 3]);
        assert_eq!(Plan::parse(&trailing, 5), Err(PlanError::TrailingBytes(3)));
        let header = PlanHeader { power_off_when_done: false, nr_groups: 0, nr_services: u32::MAX, name: "x" };
        let many = postcard::to_allocvec(&header).unwrap();
        assert_eq!(Plan::parse(&many, 5), Err(PlanError::TooManyServices(u32::MAX)));
    }

    #[test]
    fn services_with_the_same_terms_are_of_one_class() {
        let in_group = |name, first_vm, group| {
            let terms = ClassTerms { group, ..ClassTerms::DEFAULT };
            ServicePlan { name, first_vm, count: 1, terms, ..WEB }
        };
        let blue = GroupPlan { name: "blue", ..RED };
        let services =
            [in_group("a", 1, 2), in_group("b", 2, 1), in_group("c", 3, 3), in_group("d", 4, 2), in_group("e", 5, 3)];
        let plan = Plan::parse(&encode_with(&[RED, blue], &services), 5).unwrap();
        let classes: Vec<u32> = plan.services.iter().map(|service| service.class).collect();
        assert_eq!(classes, [1, 0, 2, 1, 2]);
        assert_eq!(plan.classes.iter().map(|terms| terms.group).collect::<Vec<_>>(), [2, 3]);
        let names: Vec<&str> = (0..4).map(|class| plan.group_of(class)).collect();
        assert_eq!(names, ["default", "red", "blue", "default"]);
    }

    #[test]
    fn each_defect_of_groups_and_terms_is_named() {
        let parse = |groups: &[GroupPlan<'_>], services: &[ServicePlan<'_>]| {
            Plan::parse(&encode_with(groups, services), 5).map(|_| ())
        };
        assert_eq!(parse(&[RED, RED], &[WEB]), Err(PlanError::BadGroupName("red".into())));
        assert_eq!(parse(&[GroupPlan { name: "", ..RED }], &[]), Err(PlanError::BadGroupName("".into())));
        let with = |shares, reservation_ppm, limit_ppm| GroupPlan {
            processor: ProcessorTerms { shares, reservation_ppm, limit_ppm },
            ..RED
        };
        assert_eq!(parse(&[with(0, 0, 0)], &[]), Err(PlanError::BadGroup("red".into())));
        assert_eq!(parse(&[with(1, 2, 1)], &[]), Err(PlanError::BadGroup("red".into())));
        assert_eq!(parse(&[with(1, 2, 0), GroupPlan { name: "blue", ..with(1, 2, 2) }], &[]), Ok(()));
        let web = |terms| ServicePlan { terms, ..WEB };
        let bad = |field| Err(PlanError::BadService { service: "web".into(), field });
        for (group, nr_groups, expected) in [
            (0, 1, bad("group")),
            (2, 0, bad("group")),
            (3, 1, bad("group")),
            (2, 1, Ok(())),
            (u32::MAX, 1, bad("group")),
        ] {
            let terms = ClassTerms { group, ..ClassTerms::DEFAULT };
            assert_eq!(parse(&[RED][..nr_groups], &[web(terms)]), expected, "{group} of {nr_groups}");
        }
        let terms = ClassTerms { reservation_ppm: 2, limit_ppm: 1, ..ClassTerms::DEFAULT };
        assert_eq!(parse(&[], &[web(terms)]), bad("reservation"));
        let header = PlanHeader { power_off_when_done: false, nr_groups: 255, nr_services: 0, name: "x" };
        let many = postcard::to_allocvec(&header).unwrap();
        assert_eq!(Plan::parse(&many, 5), Err(PlanError::TooManyGroups(255)));
        let names: Vec<String> = (1..=MAX_CLASSES).map(|n| format!("s{n}")).collect();
        let differ = |n: u32| ServicePlan {
            name: &names[n as usize - 1],
            first_vm: n,
            count: 1,
            terms: ClassTerms { frames_per_s: n, ..ClassTerms::DEFAULT },
            ..WEB
        };
        let services: Vec<_> = (1..=MAX_CLASSES).map(differ).collect();
        assert_eq!(parse(&[], &services[1..]), Ok(()));
        assert_eq!(parse(&[], &services), Err(PlanError::TooManyClasses));
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
