//! What is in the bundle: the one VM that is to run, its image, and the machine's addresses. Pure.

use core::fmt;
use virtual_isa::bundle::{Bundle, BundleError, EntryKind, GroupPlan, MachinePlan, Plan, ServicePlan};
use virtual_isa::image::{Image, ImageError};
use virtual_isa::network::{Network, NetworkError};

/// The one VM of a plan.
#[derive(Clone, Copy, Debug)]
pub struct Only<'a> {
    /// The machine's addresses.
    pub network: Network,
    /// Name of the fleet.
    pub fleet: &'a str,
    /// The VM's number.
    pub vm: u32,
    /// Its memory in pages: no less than its image takes.
    pub memory_pages: u32,
    /// Its arguments.
    pub arguments: &'a str,
    /// Its image.
    pub image: Image<'a>,
}

/// Why there is nothing that can run. Whoever made the bundle must mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanError {
    /// The bundle is refused.
    Bundle(BundleError),
    /// It has no machine entry or no plan, or an unreadable one.
    Unreadable,
    /// The addresses in it cannot be.
    Network(NetworkError),
    /// The plan has another number of VMs than one.
    NotOne {
        /// How many.
        vms: u64,
    },
    /// There is no image where the plan says.
    NoImage,
    /// The image is refused, or does not fit the VM.
    Image(ImageError),
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle(e) => write!(f, "boot bundle: {e}"),
            Self::Unreadable => f.write_str("boot bundle: no machine entry or no plan, or an unreadable one"),
            Self::Network(e) => write!(f, "boot bundle: network: {e}"),
            Self::NotOne { vms } => write!(f, "boot bundle: {vms} VMs, and only one can run alone"),
            Self::NoImage => f.write_str("boot bundle: no image for the VM"),
            Self::Image(e) => write!(f, "boot bundle: the VM's image: {e}"),
        }
    }
}

impl core::error::Error for PlanError {}

impl<'a> Only<'a> {
    /// Finds the VM in the bytes of a bundle.
    ///
    /// # Errors
    /// See [`PlanError`].
    pub fn read(bytes: &'a [u8]) -> Result<Self, PlanError> {
        let bundle = Bundle::check(bytes).map_err(PlanError::Bundle)?;
        let find = |kind| bundle.entries().find(|entry| entry.kind == kind).ok_or(PlanError::Unreadable);
        let machine: MachinePlan = unpack(find(EntryKind::Machine)?.bytes)?.0;
        let (plan, mut rest): (Plan<'a>, _) = unpack(find(EntryKind::Plan)?.bytes)?;
        for _ in 0..plan.nr_groups {
            rest = unpack::<GroupPlan<'a>>(rest)?.1;
        }
        let mut only = None;
        let mut vms = 0;
        for _ in 0..plan.nr_services {
            let (service, after) = unpack::<ServicePlan<'a>>(rest)?;
            rest = after;
            vms += u64::from(service.count);
            if service.count == 1 {
                only = Some(service);
            }
        }
        let service = only.filter(|_| vms == 1).ok_or(PlanError::NotOne { vms })?;
        machine.network.check(service.first_vm.saturating_add(1)).map_err(PlanError::Network)?;
        let entry = bundle.entries().nth(service.entry as usize).filter(|entry| entry.kind == EntryKind::Image);
        let image = Image::check(entry.ok_or(PlanError::NoImage)?.bytes).map_err(PlanError::Image)?;
        image.check_memory(service.memory_pages).map_err(PlanError::Image)?;
        Ok(Self {
            network: machine.network,
            fleet: plan.name,
            vm: service.first_vm,
            memory_pages: service.memory_pages,
            arguments: service.arguments,
            image,
        })
    }
}

fn unpack<'a, T: serde::Deserialize<'a>>(bytes: &'a [u8]) -> Result<(T, &'a [u8]), PlanError> {
    postcard::take_from_bytes(bytes).map_err(|_| PlanError::Unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;
    use virtual_isa::PAGE_SIZE;
    use virtual_isa::bundle::encode_header;
    use virtual_isa::gate::{ClassTerms, ProcessorTerms};
    use virtual_isa::image::{HEADER_BYTES, IMAGE_MAGIC, RUN_BYTES, checksum};

    /// An image of one page of text, and no contents.
    fn image() -> Vec<u8> {
        let mut run = Vec::new();
        for word in [0x20_u32, 1, 5, 0, 0, 0] {
            run.extend(word.to_le_bytes());
        }
        let mut bytes = Vec::new();
        bytes.extend(IMAGE_MAGIC.to_le_bytes());
        bytes.extend(virtual_isa::ISA_VERSION.to_le_bytes());
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(0x2_0000_u64.to_le_bytes());
        bytes.extend(((HEADER_BYTES + RUN_BYTES) as u64).to_le_bytes());
        bytes.extend(checksum(&run).to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend(run);
        bytes
    }

    fn service(entry: u32, first_vm: u32, count: u32) -> ServicePlan<'static> {
        ServicePlan {
            name: "web",
            entry,
            first_vm,
            count,
            memory_pages: 1024,
            minimum_pages: 0,
            shares: 100,
            terms: ClassTerms::DEFAULT,
            gateway: None,
            arguments: "body=128",
        }
    }

    fn plan(services: &[ServicePlan<'_>]) -> Vec<u8> {
        let nr_services = u32::try_from(services.len()).unwrap();
        let header = Plan { power_off_when_done: false, nr_groups: 1, nr_services, name: "fleet" };
        let group =
            GroupPlan { name: "group", processor: ProcessorTerms { shares: 7, reservation_ppm: 0, limit_ppm: 0 } };
        let mut bytes = postcard::to_stdvec(&header).unwrap();
        bytes.extend(postcard::to_stdvec(&group).unwrap());
        services.iter().for_each(|service| bytes.extend(postcard::to_stdvec(service).unwrap()));
        bytes
    }

    /// A bundle with that plan, a supervisor's image and the VM's, which are entries 2 and 3.
    fn bundle(plan: Vec<u8>) -> Vec<u8> {
        let machine = MachinePlan {
            network: Network::default(),
            seed: [7; 32],
            written_ns: 1,
            supervisor_pages: 1024,
            swap_pages: 0,
        };
        let machine = postcard::to_stdvec(&machine).unwrap();
        let contents = [
            (EntryKind::Machine, "machine", machine),
            (EntryKind::Plan, "plan", plan),
            (EntryKind::Image, "supervisor", image()),
            (EntryKind::Image, "web", image()),
        ];
        let table = contents.iter().map(|(kind, name, bytes)| (*kind, *name, u32::try_from(bytes.len()).unwrap()));
        let mut file = Vec::new();
        encode_header(table, |bytes| file.extend_from_slice(bytes));
        for (_, _, bytes) in &contents {
            file.resize(file.len().next_multiple_of(PAGE_SIZE), 0);
            file.extend_from_slice(bytes);
        }
        file.resize(file.len().next_multiple_of(PAGE_SIZE), 0);
        file
    }

    #[test]
    fn the_one_vm_is_found_behind_groups_and_empty_services() {
        let file = bundle(plan(&[service(2, 1, 0), service(3, 1, 1)]));
        let only = Only::read(&file).unwrap();
        assert_eq!((only.fleet, only.vm, only.memory_pages, only.arguments), ("fleet", 1, 1024, "body=128"));
        assert_eq!((only.image.entry(), only.network), (0x2_0000, Network::default()));
    }

    #[test]
    fn what_cannot_run_alone_is_refused_with_its_reason() {
        let refused = |services: &[ServicePlan<'_>]| Only::read(&bundle(plan(services))).map(|_| ()).unwrap_err();
        assert_eq!(refused(&[]), PlanError::NotOne { vms: 0 });
        assert_eq!(refused(&[service(3, 1, 2)]), PlanError::NotOne { vms: 2 });
        assert_eq!(refused(&[service(3, 1, 1), service(3, 2, 1)]), PlanError::NotOne { vms: 2 });
        let most = service(3, 1, u32::MAX);
        assert_eq!(refused(&[most, most]), PlanError::NotOne { vms: 2 * u64::from(u32::MAX) });
        for entry in [0, 1, 4, u32::MAX] {
            assert_eq!(refused(&[service(entry, 1, 1)]), PlanError::NoImage, "{entry}");
        }
        let small = ServicePlan { memory_pages: 0x20, ..service(3, 1, 1) };
        assert_eq!(refused(&[small]), PlanError::Image(ImageError::MemoryTooSmall { needed: 0x21 }));
        assert!(matches!(refused(&[service(3, u32::MAX, 1)]), PlanError::Network(_)));
    }

    #[test]
    fn plans_cut_anywhere_are_unreadable_and_nothing_panics() {
        let whole = plan(&[service(3, 1, 1)]);
        for length in 0..whole.len() {
            let read = Only::read(&bundle(whole[..length].to_vec())).map(|_| ());
            assert_eq!(read, Err(PlanError::Unreadable), "{length}");
        }
        assert!(matches!(Only::read(&[]), Err(PlanError::Bundle(BundleError::Truncated))));
    }
}
