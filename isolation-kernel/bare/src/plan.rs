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
