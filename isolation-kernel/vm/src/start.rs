//! Starting a core: from the boot bundle to a kernel that runs.

use crate::ablation::Ablation;
use crate::account::Ledger;
use crate::classes::{Classes, DEFAULT_GROUP_TERMS};
use crate::console::{self, Level, log};
use crate::core::{Core, MAX_EVENTS};
use crate::cores::{FIRST, Message, Seat, seats};
use crate::gateways::Gateways;
use crate::images::LoadedImage;
use crate::mail::Search;
use crate::network::Wire;
use crate::network::transmit::Senders;
use crate::pack::Packer;
use crate::swap::Swap;
use crate::table::Vms;
use crate::template::Template;
use crate::timers::Timers;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt;
use hal::{Hardware, Nanos, NoMemory};
use policy::bucket::Bucket;
use policy::gatekeeper::{Gatekeeper, Timekeeper};
use policy::reclaim::Watermarks;
use policy::scheduler::Scheduler;
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng;
use virtual_isa::bundle::{Bundle, BundleError, EntryKind, MachinePlan};
use virtual_isa::gate::LATENCY_BUCKETS;
use virtual_isa::image::{Image, ImageError};
use virtual_isa::limits::{MAX_COMPLETION_BYTES, MAX_GROUPS};
use virtual_isa::network::NetworkError;

/// Why a core cannot start. Whoever made the bundle must mend it, or the machine is too small.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootError {
    /// The bundle is refused.
    Bundle(BundleError),
    /// The bundle has no machine entry, or an unreadable one.
    NoMachinePlan,
    /// The addresses in it cannot be.
    Network(NetworkError),
    /// The bundle has no image for the supervisor.
    NoSupervisor,
    /// The supervisor's image is refused.
    Image(ImageError),
    /// The machine has too little memory for the supervisor.
    NoMemory,
}

impl fmt::Display for BootError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle(e) => write!(f, "boot bundle: {e}"),
            Self::NoMachinePlan => f.write_str("boot bundle: no machine entry, or an unreadable one"),
            Self::Network(e) => write!(f, "boot bundle: network: {e}"),
            Self::NoSupervisor => f.write_str("boot bundle: no image for the supervisor"),
            Self::Image(e) => write!(f, "boot bundle: supervisor image: {e}"),
            Self::NoMemory => f.write_str("the machine has too little memory for the supervisor"),
        }
    }
}

impl core::error::Error for BootError {}

impl From<NoMemory> for BootError {
    fn from(NoMemory: NoMemory) -> Self {
        Self::NoMemory
    }
}

impl<'b, H: Hardware> Core<'b, H> {
    /// Starts the only core of a machine. See [`Core::boot`].
    ///
    /// # Errors
    /// See [`BootError`].
    pub fn new(hw: H, bundle: &'b [u8]) -> Result<Self, BootError> {
        let seat = seats(1).pop().ok_or(BootError::NoMemory)?;
        Self::boot(hw, bundle, seat)
    }

    /// Starts a core with the bundle the machine was booted with. On the first core, the first image becomes the
    /// supervisor VM; the others wait for what that core tells them.
    ///
    /// # Errors
    /// See [`BootError`].
    pub fn boot(hw: H, bundle: &'b [u8], seat: Seat<H>) -> Result<Self, BootError> {
        let bundle = Bundle::check(bundle).map_err(BootError::Bundle)?;
        let plan = bundle.entries().find(|entry| entry.kind == EntryKind::Machine);
        let plan: MachinePlan =
            plan.and_then(|entry| postcard::from_bytes(entry.bytes).ok()).ok_or(BootError::NoMachinePlan)?;
        plan.network.check(1).map_err(BootError::Network)?;
        let mut core = Self::bare(hw, bundle, &plan, seat)?;
        if core.seat.core() == FIRST {
            core.start_supervisor(&plan)?;
        }
        if core.hw.free_pages() < core.marks.high {
            return Err(BootError::NoMemory);
        }
        if core.seat.core() != FIRST {
            core.seat.welcome(FIRST);
            for other in 0..core.seat.nr_cores() {
                core.seat.send(&mut core.hw, other, Message::Hello);
            }
        }
        Ok(core)
    }

    fn start_supervisor(&mut self, plan: &MachinePlan) -> Result<(), BootError> {
        let entry = self.bundle.entries().find(|entry| entry.kind == EntryKind::Image);
        let entry = entry.ok_or(BootError::NoSupervisor)?;
        let image = Image::check(entry.bytes).map_err(BootError::Image)?;
        image.check_memory(plan.supervisor_pages).map_err(BootError::Image)?;
        let mut loaded = LoadedImage::new(&image, entry.name);
        loaded.load_more(&image, u32::MAX, &mut self.hw)?;
        self.templates.push(Template::plain(0, loaded.entry, plan.supervisor_pages).born());
        self.template_pages += u64::from(loaded.nr_pages());
        self.images.push(Arc::new(loaded));
        self.create_supervisor(plan.supervisor_pages)
    }

    /// A core without images and VMs.
    fn bare(mut hw: H, bundle: Bundle<'b>, plan: &MachinePlan, seat: Seat<H>) -> Result<Self, BootError> {
        let mut random = ChaCha20Rng::from_seed(seed(&mut hw, plan.seed));
        // Also where the host's seed is all there is, no two cores draw the same numbers.
        random.set_stream(u64::from(seat.core()));
        let mark = hw.now();
        let zero = hw.allocate().ok_or(BootError::NoMemory)?;
        let swap = Swap::new(&mut hw, plan.swap_pages);
        let pages = hw.total_pages();
        let marks = Watermarks::of(pages);
        let nr_cores = seat.nr_cores();
        let next_generation = u64::from(seat.core()).saturating_add(1);
        Ok(Self {
            hw,
            bundle,
            network: plan.network,
            gateways: Gateways::new(),
            vms: Vms::new(),
            seat,
            images: Vec::new(),
            templates: Vec::new(),
            embryos: VecDeque::new(),
            template_pages: 1,
            swap,
            packer: Packer::new(),
            marks,
            gatekeeper: Gatekeeper::new(pages.saturating_sub(marks.high)),
            timekeeper: Timekeeper::new(1, MAX_GROUPS),
            total_shares: 0,
            newborns: 0,
            classes: Classes::new(),
            groups: alloc::vec![DEFAULT_GROUP_TERMS; MAX_GROUPS as usize],
            latency: alloc::vec![[0; LATENCY_BUCKETS]; MAX_GROUPS as usize],
            nr_turns: 0,
            is_reclaiming: false,
            vain_turns: 0,
            heap_wanted: 0,
            clock: VecDeque::new(),
            heaviest: heapless::Vec::new(),
            parking: VecDeque::new(),
            starved: VecDeque::new(),
            waiting: VecDeque::new(),
            parks: 0,
            record_bytes: 0,
            wakes_memory: 0,
            wakes_disk: 0,
            parked_on_disk: 0,
            message: Box::new([0; MAX_COMPLETION_BYTES]),
            is_gate_stalled: false,
            no_room_since: None,
            zero,
            scheduler: Scheduler::new(),
            ledger: Ledger { mark, ..Ledger::default() },
            timers: Timers::default(),
            ablation: Ablation::default(),
            random,
            wire: Wire::default(),
            console: Bucket::new(console::machine_rate(nr_cores), Nanos(0)),
            senders: Senders::new(nr_cores),
            loading: VecDeque::new(),
            remains: VecDeque::new(),
            events: VecDeque::with_capacity(MAX_EVENTS),
            events_lost: 0,
            replies: VecDeque::new(),
            orders: 0,
            gatherings: Vec::new(),
            search: Search::default(),
            next_generation,
        })
    }
}

/// Mixes the host's randomness with the processor's: as good as the better of the two.
fn seed<H: Hardware>(hw: &mut H, mut seed: [u8; 32]) -> [u8; 32] {
    let mut own = [0; 32];
    if !hw.hardware_entropy(&mut own) {
        log(hw, Level::Warn, format_args!("the processor has no random numbers: relying on the host's seed alone"));
    }
    for (byte, own) in seed.iter_mut().zip(own) {
        *byte ^= own;
    }
    seed
}
