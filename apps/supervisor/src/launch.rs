//! Reading the plan out of the bundle, and starting what it says.

use crate::crowd::IN_FLIGHT;
use crate::plan::{Plan, PlanError, Service};
use crate::{Machine, Office};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::cell::RefCell;
use core::fmt;
use hashbrown::HashMap;
use libos::gate::{Answer, Error, Operation};
use virtual_isa::bundle::{EntryKind, FIRST_PLANNED_GROUP};
use virtual_isa::limits::MAX_READ_BYTES;

/// Failures of one service that are said one by one.
const MAX_SAID: u32 = 8;

/// Most bytes of a plan.
const MAX_PLAN_BYTES: u32 = 1 << 20;

/// Why there is nothing to start.
#[derive(Debug)]
pub enum NoPlan {
    /// The kernel does not answer this program.
    Gate(Error),
    /// The bundle has no plan that can be used.
    Bad(Problem),
}

/// What is wrong with the bundle's plan.
#[derive(Debug, PartialEq, Eq)]
pub enum Problem {
    /// There is none.
    Missing,
    /// There are several.
    Several,
    /// It is too long.
    TooLong(u32),
    /// The kernel refused to read it.
    Refused(Error),
    /// It is none.
    Plan(PlanError),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the bundle has none"),
            Self::Several => f.write_str("the bundle has more than one"),
            Self::TooLong(bytes) => write!(f, "it has {bytes} bytes, allowed are {MAX_PLAN_BYTES}"),
            Self::Refused(e) => write!(f, "the kernel says: {e}"),
            Self::Plan(e) => e.fmt(f),
        }
    }
}

/// An answer of another kind than was asked for: the kernel and this program do not understand each other.
fn unexpected() -> NoPlan {
    NoPlan::Bad(Problem::Plan(PlanError::Unreadable))
}

/// Finds and reads the launch plan.
///
/// # Errors
/// [`NoPlan`].
pub async fn read_plan<M: Machine>(machine: &M) -> Result<Plan, NoPlan> {
    let Answer::Machine(status) = machine.call(Operation::Machine).await.map_err(NoPlan::Gate)? else {
        return Err(unexpected());
    };
    let refused = |e| NoPlan::Bad(Problem::Refused(e));
    let mut found = None;
    for entry in 0..status.bundle_entries {
        if let Answer::Entry { kind, bytes } = machine.call(Operation::Entry { entry }).await.map_err(refused)?
            && kind == EntryKind::Plan as u32
            && found.replace((entry, bytes)).is_some()
        {
            return Err(NoPlan::Bad(Problem::Several));
        }
    }
    let (entry, length) = found.ok_or(NoPlan::Bad(Problem::Missing))?;
    if length > MAX_PLAN_BYTES {
        return Err(NoPlan::Bad(Problem::TooLong(length)));
    }
    let mut bytes: Vec<u8> = Vec::new();
    while let Ok(offset) = u32::try_from(bytes.len())
        && offset < length
    {
        let piece = (length - offset).min(u32::try_from(MAX_READ_BYTES).unwrap_or(u32::MAX));
        let read = Operation::ReadEntry { entry, offset, length: piece };
        match machine.call(read).await.map_err(refused)? {
            Answer::Bytes(piece) if !piece.is_empty() => bytes.extend_from_slice(&piece),
            _ => return Err(unexpected()),
        }
    }
    Plan::parse(&bytes, status.bundle_entries).map_err(|e| NoPlan::Bad(Problem::Plan(e)))
}

/// What VMs beyond the plan are made of: the first service that could be loaded.
#[derive(Clone, Copy, Debug)]
pub struct Spare {
    /// Their image, as the kernel names it.
    pub image: u32,
    /// Memory of each in pages.
    pub memory_pages: u32,
    /// Pages of it that are kept for each.
    pub minimum_pages: u32,
    /// Weight of each.
    pub shares: u32,
}

impl Spare {
    /// What creates one.
    #[must_use]
    pub const fn create(self, vm: u32) -> Operation<'static> {
        let Self { image, memory_pages, minimum_pages, shares } = self;
        Operation::Create { vm, image, memory_pages, minimum_pages, shares, class: 0, arguments: "" }
    }
}

/// VMs that wait to be created: service by service, each with its image.
struct Queue {
    services: Vec<(Rc<Service>, u32)>,
    service: usize,
    offset: u32,
}

impl Queue {
    fn next(&mut self) -> Option<(usize, u32)> {
        loop {
            let (service, _) = self.services.get(self.service)?;
            let vm = service.vms.start + self.offset;
            if service.vms.contains(&vm) {
                self.offset += 1;
                return Some((self.service, vm));
            }
            self.service += 1;
            self.offset = 0;
        }
    }
}

/// Creates and starts every VM of the plan, as many at a time as the gate's ring takes. What fails is said, and booked;
/// the others go on.
pub async fn start_all<M: Machine>(office: &Rc<Office<M>>) {
    let refused = agree(office).await;
    let services = load_images(office, &refused).await;
    let nr_services = services.len();
    let queue = Rc::new(RefCell::new(Queue { services, service: 0, offset: 0 }));
    let failures = Rc::new(RefCell::new(alloc::vec![0u32; nr_services]));
    let nr_workers = IN_FLIGHT.min(office.fleet.borrow().plan.nr_vms());
    let workers: Vec<_> =
        (0..nr_workers).map(|_| libos::task::spawn(work(office.clone(), queue.clone(), failures.clone()))).collect();
    for worker in workers {
        worker.await;
    }
    for ((service, _), &failed) in queue.borrow().services.iter().zip(failures.borrow().iter()) {
        if failed > MAX_SAID {
            office.machine.say(&format!("error: service {}: {failed} VMs failed in all", service.name));
        }
    }
}

/// Tells the kernel of the plan's groups and classes. Returns the classes it refuses, those of a group that it refuses
/// among them, and why: what was to be on certain terms is not started on others.
async fn agree<M: Machine>(office: &Office<M>) -> HashMap<u32, String> {
    let (groups, classes) = {
        let plan = &office.fleet.borrow().plan;
        (plan.groups.clone(), plan.classes.clone())
    };
    let mut refused_groups = HashMap::new();
    for (group, planned) in (FIRST_PLANNED_GROUP..).zip(&groups) {
        let operation = Operation::Group { group, processor: planned.processor };
        if let Err(e) = office.machine.call(operation).await {
            office.machine.say(&format!("error: group {}: {e}", planned.name));
            refused_groups.insert(group, format!("its group {} was refused: {e}", planned.name));
        }
    }
    let mut refused = HashMap::new();
    for (class, terms) in (1..).zip(classes) {
        if let Some(why) = refused_groups.get(&terms.group) {
            refused.insert(class, why.clone());
        } else if let Err(e) = office.machine.call(Operation::Class { class, terms }).await {
            refused.insert(class, format!("its terms were refused: {e}"));
        }
    }
    refused
}

/// Loads each image of the plan once. Returns the services that can be started, with their images; those of refused
/// classes and behind refused gateways cannot.
async fn load_images<M: Machine>(office: &Office<M>, refused: &HashMap<u32, String>) -> Vec<(Rc<Service>, u32)> {
    let services = office.fleet.borrow().plan.services.clone();
    let mut images: HashMap<u32, Result<u32, String>> = HashMap::new();
    let mut loaded = Vec::new();
    for service in services {
        let why = match refused.get(&service.class) {
            Some(why) => Some(why.clone()),
            None => lead(office, &service).await.err(),
        };
        if let Some(why) = why {
            let Service { name, vms, .. } = service.as_ref();
            office.machine.say(&format!("error: service {name}: {why}"));
            office.fleet.borrow_mut().note_failed(vms.end - vms.start);
            continue;
        }
        let entry = service.entry;
        if !images.contains_key(&entry) {
            let image = match office.machine.call(Operation::LoadImage { entry }).await {
                Ok(Answer::Image(image)) => Ok(image),
                Ok(_) => Err(String::from("unexpected answer")),
                Err(e) => Err(format!("{e}")),
            };
            images.insert(entry, image);
        }
        match images.get(&entry) {
            Some(Ok(image)) => {
                if office.spare.get().is_none() {
                    let Service { memory_pages, minimum_pages, shares, .. } = *service;
                    office.spare.set(Some(Spare { image: *image, memory_pages, minimum_pages, shares }));
                }
                loaded.push((service, *image));
            }
            Some(Err(e)) => {
                let Service { name, vms, .. } = service.as_ref();
                office.machine.say(&format!("error: service {name}: image (bundle entry {entry}): {e}"));
                office.fleet.borrow_mut().note_failed(vms.end - vms.start);
            }
            None => {}
        }
    }
    loaded
}

/// Has a service's frames go through its gateway, if it is to have one. Says why it cannot be: without, it is not started.
async fn lead<M: Machine>(office: &Office<M>, service: &Service) -> Result<(), String> {
    let Some(gateway) = service.gateway else { return Ok(()) };
    let (first, count) = (service.vms.start, service.vms.end - service.vms.start);
    let led = office.machine.call(Operation::Gateway { first, count, through: Some(gateway) }).await;
    led.map(drop).map_err(|e| format!("its gateway, vm {gateway}, was refused: {e}"))
}

async fn work<M: Machine>(office: Rc<Office<M>>, queue: Rc<RefCell<Queue>>, failures: Rc<RefCell<Vec<u32>>>) {
    loop {
        let next = queue.borrow_mut().next();
        let Some((index, vm)) = next else { return };
        let (service, image) = queue.borrow().services[index].clone();
        if let Err((what, e)) = start(&office, &service, image, vm).await {
            office.fleet.borrow_mut().note_failed(1);
            let failed = {
                let mut failures = failures.borrow_mut();
                failures[index] += 1;
                failures[index]
            };
            if failed <= MAX_SAID {
                office.machine.say(&format!("error: service {}: vm {vm}: cannot {what} it: {e}", service.name));
            }
        }
    }
}

async fn start<M: Machine>(
    office: &Office<M>,
    service: &Service,
    image: u32,
    vm: u32,
) -> Result<(), (&'static str, Error)> {
    let create = Operation::Create {
        vm,
        image,
        memory_pages: service.memory_pages,
        minimum_pages: service.minimum_pages,
        shares: service.shares,
        class: service.class,
        arguments: &service.arguments,
    };
    office.machine.call(create).await.map_err(|e| ("create", e))?;
    office.fleet.borrow_mut().note_created();
    office.machine.call(Operation::Start { vm }).await.map_err(|e| ("start", e))?;
    office.fleet.borrow_mut().note_started();
    Ok(())
}
