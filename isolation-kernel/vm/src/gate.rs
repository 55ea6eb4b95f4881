//! The supervisor's operations. Requests are copied out of the ring, decoded, checked, then performed; what
//! takes long becomes a job that advances a little each turn.

use crate::console::{Level, log};
use crate::core::{Core, SUPERVISOR};
use crate::cores;
use crate::images::LoadedImage;
use crate::lifecycle::{Birth, Identity};
use crate::rings::Next;
use crate::template::MAX_PENDING;
use crate::vm::{State, Vm};
use alloc::boxed::Box;
use alloc::sync::Arc;
use hal::Hardware;
use policy::scheduler::Group;
use virtual_isa::bundle::{EntryKind, MAX_STATUS};
use virtual_isa::control::Pending;
use virtual_isa::exception::Cause;
use virtual_isa::gate::{Answer, ClassTerms, GateError, Message, Operation, ProcessorTerms, Request};
use virtual_isa::image::Image;
use virtual_isa::instruction::InstructionError;
use virtual_isa::limits::{
    MAX_ARGUMENT_BYTES, MAX_COMPLETION_BYTES, MAX_MEMORY_PAGES, MAX_PAGES_PER_STEP, MAX_READ_BYTES, MAX_REQUEST_BYTES,
    MAX_VMS, MIN_MEMORY_PAGES,
};

/// Requests taken by one execution of `gate`.
const REQUEST_BATCH: u32 = 16;

/// How long requests are taken at a time, whatever they cost: others may want the processor.
const REQUESTS_NS: u64 = 200_000;

/// How long a creation waits for room on the kernel's heap.
const MAX_GATE_STALL_NS: u64 = 1_000_000_000;

/// Images that can be loading at a time.
const MAX_LOADING: usize = 8;

/// An image that is being loaded.
pub struct Loading<'b> {
    ticket: u64,
    source: Image<'b>,
    image: LoadedImage,
}

/// A creation that waits for its template.
pub struct PendingCreate {
    ticket: u64,
    number: u32,
    template: u32,
    memory_pages: u32,
    minimum_pages: u32,
    shares: u32,
    class: u16,
    arguments: Box<str>,
}

impl PendingCreate {
    /// Of a VM about which everything was checked.
    pub fn new(ticket: u64, birth: &Birth<'_>) -> Self {
        let Birth { number, template, memory_pages, minimum_pages, shares, class, arguments, .. } = *birth;
        let arguments = Box::from(arguments);
        Self { ticket, number, template, memory_pages, minimum_pages, shares, class, arguments }
    }

    /// What the VM is to be.
    pub fn birth(&self) -> Birth<'_> {
        let Self { number, template, memory_pages, minimum_pages, shares, class, .. } = *self;
        let (arguments, identity) = (&*self.arguments, Identity::Ordinary);
        Birth { number, template, memory_pages, minimum_pages, shares, class, arguments, identity }
    }
}

/// A completion that is on its way to the supervisor.
pub struct Reply {
    ticket: u64,
    result: Result<Answer<'static>, GateError>,
}

/// What an operation comes to.
#[expect(clippy::large_enum_variant, reason = "it is on the stack, once")]
pub(crate) enum Outcome<'a> {
    Done(Result<Answer<'a>, GateError>),
    /// The completion comes later.
    Later,
    /// It cannot be taken now, and stays in the ring.
    NotNow,
}

impl<'b, H: Hardware> Core<'b, H> {
    /// Serves the request ring of the VM that runs, which may let others run.
    pub(crate) fn gate(&mut self, vm: &mut Vm<H>) -> Result<Result<u32, InstructionError>, Cause> {
        self.settle_run(vm);
        self.serve_requests(vm)
    }

    /// Serves the request ring of a VM with the privilege bit. Returns how many requests it took.
    #[inline(never)]
    fn serve_requests(&mut self, vm: &mut Vm<H>) -> Result<Result<u32, InstructionError>, Cause> {
        let Some(requests) = vm.request_ring().filter(|_| vm.is_privileged) else {
            return Ok(Err(InstructionError::NotPermitted));
        };
        let head = requests.guest_head(&self.hw);
        let mut taken = 0;
        let mut space = [0; MAX_REQUEST_BYTES];
        let began = self.hw.now();
        while taken < REQUEST_BATCH
            && (taken == 0 || self.hw.now().since(began) < REQUESTS_NS)
            && self.has_room_for_message(vm)?
        {
            let (bytes, next_tail) = match requests.next(&self.hw, head, vm.indices.request_tail)? {
                Next::Empty => break,
                Next::Malformed { next_tail } => (None, next_tail),
                Next::Record { at, length, next_tail } => {
                    let bytes = space.get_mut(..length);
                    (bytes.map(|bytes| (at, bytes)), next_tail)
                }
            };
            let request = bytes.and_then(|(at, bytes)| {
                requests.read(&self.hw, at, bytes);
                postcard::from_bytes::<Request<'_>>(bytes).ok()
            });
            match request {
                None => self.send(vm, &Message::Unreadable)?,
                Some(Request { ticket, operation }) => match self.operate(vm, ticket, operation) {
                    Outcome::Done(result) => self.send(vm, &Message::Completion { ticket, result })?,
                    Outcome::Later => {}
                    Outcome::NotNow => break,
                },
            }
            vm.indices.request_tail = next_tail;
            taken += 1;
        }
        requests.publish_tail(&mut self.hw, vm.indices.request_tail);
        Ok(Ok(taken))
    }

    fn has_room_for_message(&self, vm: &Vm<H>) -> Result<bool, Cause> {
        let Some(ring) = vm.completion_ring() else { return Ok(false) };
        ring.has_room(&self.hw, vm.indices.completion_head, MAX_COMPLETION_BYTES)
    }

    /// Puts a message into the completion ring, in which there is room for it.
    fn send(&mut self, vm: &mut Vm<H>, message: &Message<'_>) -> Result<(), Cause> {
        let Some(ring) = vm.completion_ring() else { return Ok(()) };
        let Ok(bytes) = postcard::to_slice(message, &mut self.message[..]) else {
            log(&mut self.hw, Level::Error, format_args!("a message for the supervisor is too long"));
            return Ok(());
        };
        if let Some(head) = ring.push(&mut self.hw, vm.indices.completion_head, bytes)? {
            vm.indices.completion_head = head;
            vm.set_pending(&mut self.hw, Pending::GATE);
        }
        Ok(())
    }

    /// Moves completions and events into the supervisor's completion ring, as many as fit.
    #[inline(never)]
    pub(crate) fn pump_events(&mut self, vm: &mut Vm<H>) -> Result<(), Cause> {
        while !self.replies.is_empty() && self.has_room_for_message(vm)? {
            if let Some(Reply { ticket, result }) = self.replies.pop_front() {
                self.send(vm, &Message::Completion { ticket, result })?;
            }
        }
        while !self.events.is_empty() && self.has_room_for_message(vm)? {
            if let Some(event) = self.events.pop_front() {
                self.send(vm, &Message::Event(event))?;
            }
        }
        Ok(())
    }

    /// Brings waiting events to the supervisor and wakes it.
    pub(crate) fn tell_supervisor(&mut self) {
        if self.events.is_empty() && self.replies.is_empty() {
            return;
        }
        self.with_supervisor(|core, vm| core.pump_events(vm));
    }

    /// Ends a request that was begun earlier. The supervisor hears of it as soon as its ring has room.
    pub(crate) fn complete(&mut self, ticket: u64, result: Result<Answer<'static>, GateError>) {
        self.replies.push_back(Reply { ticket, result });
    }

    /// Works on the supervisor VM, between its runs, and wakes it if that left something for it.
    fn with_supervisor(&mut self, work: impl FnOnce(&mut Self, &mut Vm<H>) -> Result<(), Cause>) {
        let Some(mut vm) = self.vms.take(SUPERVISOR) else { return };
        if vm.state == State::Ended {
            // Nobody is there to hear them.
            self.events.clear();
            self.replies.clear();
        } else {
            let before = vm.indices.completion_head;
            match work(self, &mut vm) {
                Err(cause) => self.end(&mut vm, cause),
                Ok(()) => {
                    let told = vm.indices.completion_head != before && vm.enabled & Pending::GATE.bits() != 0;
                    if told && vm.state == State::Idle {
                        self.make_runnable(&mut vm);
                    }
                }
            }
        }
        self.vms.put(vm);
    }

    /// Advances the image that is being loaded. Returns whether there is more to do.
    pub(crate) fn load_images(&mut self) -> bool {
        let Some(mut loading) = self.loading.pop_front() else { return false };
        let result = match loading.image.load_more(&loading.source, MAX_PAGES_PER_STEP, &mut self.hw) {
            Ok(false) => {
                self.loading.push_front(loading);
                return true;
            }
            Ok(true) => Ok(()),
            Err(_) => Err(GateError::NoMemory),
        };
        let ticket = loading.ticket;
        let result = match result {
            Ok(()) => {
                let image = u32::try_from(self.images.len()).unwrap_or(u32::MAX);
                self.template_pages += u64::from(loading.image.nr_pages());
                let loaded = Arc::new(loading.image);
                self.tell_all(|| cores::Message::Image(Arc::clone(&loaded)));
                self.images.push(loaded);
                Ok(Answer::Image { image })
            }
            Err(e) => {
                loading.image.release(&mut self.hw);
                Err(e)
            }
        };
        self.complete(ticket, result);
        !self.loading.is_empty()
    }

    fn operate(&mut self, caller: &mut Vm<H>, ticket: u64, operation: Operation<'_>) -> Outcome<'b> {
        Outcome::Done(match operation {
            Operation::Machine => return self.ask_figures(ticket),
            Operation::Entry { entry } => match self.bundle.entry(entry) {
                Some(entry) => Ok(Answer::Entry {
                    kind: entry.kind as u32,
                    bytes: u32::try_from(entry.bytes.len()).unwrap_or(u32::MAX),
                }),
                None => Err(GateError::NoSuchEntry),
            },
            Operation::ReadEntry { entry, offset, length } => self.read_entry(entry, offset, length),
            Operation::LoadImage { entry } => return self.begin_loading(ticket, entry),
            Operation::Create { vm: number, image, memory_pages, minimum_pages, shares, class, arguments } => {
                let Some(class) = self.classes.find(class) else {
                    return Outcome::Done(Err(GateError::NoSuchClass));
                };
                let (template, identity) = (0, Identity::Ordinary);
                let birth = Birth { number, template, memory_pages, minimum_pages, shares, class, arguments, identity };
                return self.admit(ticket, image, birth);
            }
            Operation::Group { group, processor } => self.set_group(group, processor).map(|()| {
                self.tell_all(|| cores::Message::Group { group, processor });
                Answer::Done
            }),
            Operation::Class { class, terms } => self.classes.define(class, terms).map(|()| {
                self.tell_all(|| cores::Message::Class { class, terms });
                Answer::Done
            }),
            Operation::Gateway { first, count, through } => self.gateways.set(first, count, through).map(|()| {
                self.tell_all(|| cores::Message::Gateway { first, count, through });
                Answer::Done
            }),
            Operation::Inspect { vm } if vm == caller.number => Ok(Answer::Vm(self.vm_status(caller))),
            Operation::Start { vm: SUPERVISOR }
            | Operation::Pause { vm: SUPERVISOR }
            | Operation::Stop { vm: SUPERVISOR }
            | Operation::Destroy { vm: SUPERVISOR }
            | Operation::Park { vm: SUPERVISOR, .. } => Err(GateError::BadArgument),
            Operation::Inspect { vm }
            | Operation::Start { vm }
            | Operation::Pause { vm }
            | Operation::Stop { vm }
            | Operation::Destroy { vm }
            | Operation::Park { vm, .. } => return self.direct(ticket, vm, &operation),
            Operation::PowerOff { status } if status > MAX_STATUS => Err(GateError::BadArgument),
            Operation::PowerOff { status } => {
                log(&mut self.hw, Level::Info, format_args!("power off with status {status}"));
                self.hw.flush();
                self.hw.power_off(status);
                return Outcome::Later;
            }
        })
    }

    /// Says how a group competes for the processors.
    pub(crate) fn set_group(&mut self, group: u32, processor: ProcessorTerms) -> Result<(), GateError> {
        let part = self.part_of_core(processor);
        let place = self.groups.get_mut(group as usize).ok_or(GateError::BadArgument)?;
        if processor.shares == 0 || !processor.is_possible() {
            return Err(GateError::BadArgument);
        }
        let promised = self.timekeeper.set_group(group, part.reservation_ppm, part.limit_ppm);
        promised.map_err(|_| GateError::NoProcessor)?;
        *place = processor;
        let group = Group(group);
        if self.scheduler.has_group(group) {
            self.scheduler.set_group(group, &part).map_err(|_| GateError::NoMemory)?;
        }
        Ok(())
    }

    fn read_entry(&self, entry: u32, offset: u32, length: u32) -> Result<Answer<'b>, GateError> {
        let bytes = self.bundle.entry(entry).ok_or(GateError::NoSuchEntry)?.bytes;
        let (offset, length) = (offset as usize, length as usize);
        let end = offset.checked_add(length).filter(|_| length <= MAX_READ_BYTES).ok_or(GateError::BadArgument)?;
        bytes.get(offset..end).map(Answer::Bytes).ok_or(GateError::BadArgument)
    }

    fn begin_loading(&mut self, ticket: u64, entry: u32) -> Outcome<'b> {
        if self.loading.len() >= MAX_LOADING {
            return Outcome::NotNow;
        }
        let Some(found) = self.bundle.entry(entry).filter(|found| found.kind == EntryKind::Image) else {
            return Outcome::Done(Err(GateError::NoSuchEntry));
        };
        match Image::check(found.bytes) {
            Err(e) => {
                log(&mut self.hw, Level::Error, format_args!("image {}: {e}", found.name));
                Outcome::Done(Err(GateError::BadImage))
            }
            Ok(image) => {
                self.loading.push_back(Loading { ticket, source: image, image: LoadedImage::new(&image, found.name) });
                Outcome::Later
            }
        }
    }

    /// Creates a VM if everything about it can be, at once or when there is a template for it.
    fn admit(&mut self, ticket: u64, image: u32, mut birth: Birth<'_>) -> Outcome<'b> {
        if let Err(e) = self.check_birth(image, &birth) {
            return Outcome::Done(Err(e));
        }
        if self.is_heap_short(2) {
            // Reclaim makes room by parking VMs. If there is none to park the request must not block all others.
            let now = self.hw.now();
            let since = *self.no_room_since.get_or_insert(now);
            if now.since(since) > MAX_GATE_STALL_NS {
                return Outcome::Done(Err(GateError::NoMemory));
            }
            self.is_gate_stalled = true;
            return Outcome::NotNow;
        }
        self.no_room_since = None;
        let Ok((template, is_coming)) = self.find_template(image, birth.memory_pages) else {
            return Outcome::Done(Err(GateError::NoMemory));
        };
        birth.template = template;
        if !is_coming {
            return self.place(ticket, &birth);
        }
        let Some(embryo) = self.embryos.iter_mut().find(|embryo| embryo.template() == template) else {
            return Outcome::Done(Err(GateError::NoMemory));
        };
        if embryo.waiting.len() >= MAX_PENDING {
            self.is_gate_stalled = true;
            return Outcome::NotNow;
        }
        embryo.waiting.push(PendingCreate::new(ticket, &birth));
        Outcome::Later
    }

    fn check_birth(&self, image: u32, birth: &Birth<'_>) -> Result<(), GateError> {
        let Birth { number, memory_pages, minimum_pages, .. } = *birth;
        let sizes = MIN_MEMORY_PAGES..=MAX_MEMORY_PAGES;
        let has_address = self.network.vm_at(self.network.ipv4_of(number)) == Some(number);
        if number >= MAX_VMS
            || !has_address
            || !sizes.contains(&memory_pages)
            || minimum_pages > memory_pages
            || birth.shares == 0
            || birth.arguments.len() > MAX_ARGUMENT_BYTES
        {
            return Err(GateError::BadArgument);
        }
        let image = self.images.get(image as usize).ok_or(GateError::NoSuchImage)?;
        if image.end_page > memory_pages {
            return Err(GateError::BadArgument);
        }
        let is_coming = |number| self.embryos.iter().flat_map(|e| &e.waiting).any(|pending| pending.number == number);
        // One that is on its way from here to another core is nowhere, and has its number all the same.
        let is_taken = self.vms.exists(number) || self.seat.has_home(number);
        if number == SUPERVISOR || is_taken || is_coming(number) {
            return Err(GateError::VmExists);
        }
        if !self.gatekeeper.can_ever(u64::from(minimum_pages)) {
            return Err(GateError::NoMemory);
        }
        let &ClassTerms { group, reservation_ppm, .. } = self.classes.terms(birth.class);
        if !self.timekeeper.can_ever(group, reservation_ppm) {
            return Err(GateError::NoProcessor);
        }
        Ok(())
    }

    /// Ends a creation that waited for its template.
    pub(crate) fn finish_create(&mut self, pending: &PendingCreate, has_template: bool) {
        let outcome = match has_template {
            true => self.place(pending.ticket, &pending.birth()),
            false => Outcome::Done(Err(GateError::NoMemory)),
        };
        self.is_gate_stalled = true;
        if let Outcome::Done(result) = outcome {
            self.complete(pending.ticket, result);
        }
    }

    /// Goes on with requests that were left in the ring.
    pub(crate) fn resume_gate(&mut self) {
        self.is_gate_stalled = false;
        self.with_supervisor(|core, vm| core.serve_requests(vm).map(drop));
    }
}
