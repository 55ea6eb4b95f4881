//! The supervisor's operations. Requests are copied out of the ring, decoded, checked, then performed; what
//! takes long becomes a job that advances a little each turn.

use crate::classes::is_possible;
use crate::console::{Level, log};
use crate::core::{Core, SUPERVISOR};
use crate::images::LoadedImage;
use crate::lifecycle::{Birth, Identity};
use crate::memory::Memory;
use crate::park::{NotNow, count_places};
use crate::rings::Next;
use crate::template::MAX_PENDING;
use crate::vm::{Sleeper, State, Stub, Vm};
use alloc::boxed::Box;
use hal::{Hardware, NoMemory};
use policy::scheduler::Group;
use virtual_isa::bundle::{EntryKind, MAX_STATUS};
use virtual_isa::control::Pending;
use virtual_isa::exception::Cause;
use virtual_isa::gate::{
    Answer, ClassTerms, GateError, LATENCY_BUCKETS, MachineStatus, Message, Operation, ProcessorTerms, Request, Tier,
    VmState, VmStatus,
};
use virtual_isa::image::Image;
use virtual_isa::instruction::InstructionError;
use virtual_isa::limits::{
    MAX_ARGUMENT_BYTES, MAX_COMPLETION_BYTES, MAX_MEMORY_PAGES, MAX_PAGES_PER_STEP, MAX_READ_BYTES, MAX_REQUEST_BYTES,
    MAX_VMS, MIN_MEMORY_PAGES,
};

/// Requests taken by one execution of `gate`.
const REQUEST_BATCH: u32 = 16;

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

/// What an operation comes to.
#[expect(clippy::large_enum_variant, reason = "it is on the stack, once")]
enum Outcome<'a> {
    Done(Result<Answer<'a>, GateError>),
    /// The completion comes later.
    Later,
    /// It cannot be taken now, and stays in the ring.
    NotNow,
}

impl<'b, H: Hardware> Core<'b, H> {
    /// Serves the request ring of a VM with the privilege bit. Returns how many requests it took.
    pub(crate) fn serve_requests(&mut self, vm: &mut Vm<H>) -> Result<Result<u32, InstructionError>, Cause> {
        let Some(requests) = vm.request_ring().filter(|_| vm.is_privileged) else {
            return Ok(Err(InstructionError::NotPermitted));
        };
        let head = requests.guest_head(&self.hw);
        let mut taken = 0;
        let mut space = [0; MAX_REQUEST_BYTES];
        while taken < REQUEST_BATCH && self.has_room_for_message(vm)? {
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

    /// Moves events into the supervisor's completion ring, as many as fit.
    pub(crate) fn pump_events(&mut self, vm: &mut Vm<H>) -> Result<(), Cause> {
        while !self.events.is_empty() && self.has_room_for_message(vm)? {
            if let Some(event) = self.events.pop_front() {
                self.send(vm, &Message::Event(event))?;
            }
        }
        Ok(())
    }

    /// Brings waiting events to the supervisor and wakes it.
    pub(crate) fn tell_supervisor(&mut self) {
        if self.events.is_empty() {
            return;
        }
        self.with_supervisor(|core, vm| core.pump_events(vm));
    }

    /// Works on the supervisor VM, between its runs, and wakes it if that left something for it.
    fn with_supervisor(&mut self, work: impl FnOnce(&mut Self, &mut Vm<H>) -> Result<(), Cause>) {
        let Some(mut vm) = self.vms.take(SUPERVISOR) else { return };
        if vm.state == State::Ended {
            // Nobody is there to hear them.
            self.events.clear();
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
                self.images.push(loading.image);
                Ok(Answer::Image { image })
            }
            Err(e) => {
                loading.image.release(&mut self.hw);
                Err(e)
            }
        };
        self.with_supervisor(|core, vm| core.send(vm, &Message::Completion { ticket, result }));
        !self.loading.is_empty()
    }

    fn operate(&mut self, caller: &mut Vm<H>, ticket: u64, operation: Operation<'_>) -> Outcome<'b> {
        Outcome::Done(match operation {
            Operation::Machine => Ok(Answer::Machine(self.machine_status())),
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
            Operation::Group { group, processor } => self.set_group(group, processor).map(|()| Answer::Done),
            Operation::Class { class, terms } => self.classes.define(class, terms).map(|()| Answer::Done),
            Operation::Inspect { vm } if vm == caller.number => Ok(Answer::Vm(self.vm_status(caller))),
            Operation::Inspect { vm } => match self.vms.get(vm) {
                Some(vm) => Ok(Answer::Vm(self.vm_status(vm))),
                None => self.vms.stub(vm).map(|stub| Answer::Vm(stub_status(stub))).ok_or(GateError::NoSuchVm),
            },
            Operation::Start { vm }
            | Operation::Pause { vm }
            | Operation::Stop { vm }
            | Operation::Destroy { vm }
            | Operation::Park { vm, .. }
                if vm == SUPERVISOR =>
            {
                Err(GateError::BadArgument)
            }
            Operation::Start { vm } | Operation::Pause { vm } | Operation::Stop { vm }
                if self.vms.stub(vm).is_some() =>
            {
                self.change_parked(vm, operation)
            }
            Operation::Park { vm, tier } => self.park_for(vm, tier),
            Operation::Start { vm } => self.change(vm, |core, vm| match vm.state {
                State::Created => {
                    core.start(vm);
                    Ok(())
                }
                State::Paused => {
                    core.make_runnable(vm);
                    Ok(())
                }
                _ => Err(GateError::BadState),
            }),
            Operation::Pause { vm } => self.change(vm, |core, vm| match vm.state {
                State::Runnable | State::Idle | State::Paging | State::Starved => {
                    if let Some(deadline) = vm.deadline.take() {
                        core.timers.clear(deadline, vm.number);
                    }
                    vm.state = State::Paused;
                    Ok(())
                }
                _ => Err(GateError::BadState),
            }),
            Operation::Stop { vm } => self.change(vm, |core, vm| match vm.state {
                State::Ended => Err(GateError::BadState),
                _ => {
                    core.end(vm, Cause::Stopped);
                    Ok(())
                }
            }),
            Operation::Destroy { vm } => self.destroy(vm),
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
    fn set_group(&mut self, group: u32, processor: ProcessorTerms) -> Result<(), GateError> {
        let ProcessorTerms { reservation_ppm, limit_ppm, .. } = processor;
        let place = self.groups.get_mut(group as usize).ok_or(GateError::BadArgument)?;
        if processor.shares == 0 || !is_possible(reservation_ppm, limit_ppm) {
            return Err(GateError::BadArgument);
        }
        let promised = self.timekeeper.set_group(group, reservation_ppm, limit_ppm);
        promised.map_err(|_| GateError::NoProcessor)?;
        *place = processor;
        let group = Group(group);
        if self.scheduler.has_group(group) {
            let terms = self.group_terms(group);
            self.scheduler.set_group(group, &terms).map_err(|NoMemory| GateError::NoMemory)?;
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
            return Outcome::Done(self.create_and_settle(&birth));
        }
        let Some(embryo) = self.embryos.iter_mut().find(|embryo| embryo.template() == template) else {
            return Outcome::Done(Err(GateError::NoMemory));
        };
        if embryo.waiting.len() >= MAX_PENDING {
            self.is_gate_stalled = true;
            return Outcome::NotNow;
        }
        let Birth { number, memory_pages, minimum_pages, shares, class, arguments, .. } = birth;
        let arguments = Box::from(arguments);
        embryo.waiting.push(PendingCreate {
            ticket,
            number,
            template,
            memory_pages,
            minimum_pages,
            shares,
            class,
            arguments,
        });
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
        if number == SUPERVISOR || self.vms.exists(number) || is_coming(number) {
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

    fn create_and_settle(&mut self, birth: &Birth<'_>) -> Result<Answer<'b>, GateError> {
        let vm = self.create(birth).map_err(|NoMemory| GateError::NoMemory)?;
        self.settle(vm);
        Ok(Answer::Done)
    }

    /// Ends a creation that waited for its template.
    pub(crate) fn finish_create(&mut self, pending: PendingCreate, has_template: bool) {
        let birth = Birth {
            number: pending.number,
            template: pending.template,
            memory_pages: pending.memory_pages,
            minimum_pages: pending.minimum_pages,
            shares: pending.shares,
            class: pending.class,
            arguments: &pending.arguments,
            identity: Identity::Ordinary,
        };
        let result = if has_template { self.create_and_settle(&birth) } else { Err(GateError::NoMemory) };
        self.is_gate_stalled = true;
        self.with_supervisor(|core, vm| core.send(vm, &Message::Completion { ticket: pending.ticket, result }));
    }

    /// Goes on with requests that were left in the ring.
    pub(crate) fn resume_gate(&mut self) {
        self.is_gate_stalled = false;
        self.with_supervisor(|core, vm| core.serve_requests(vm).map(drop));
    }

    /// Parks a VM because the supervisor wants it.
    fn park_for(&mut self, number: u32, tier: Tier) -> Result<Answer<'b>, GateError> {
        let result = match self.vms.stub(number).map(|stub| stub.state) {
            Some(Sleeper::Ended) => Err(NotNow::Unfit),
            Some(_) => {
                if tier == Tier::Disk {
                    self.swap.hurry();
                }
                Ok(())
            }
            None if !self.vms.exists(number) => return Err(GateError::NoSuchVm),
            None => self.park(number, tier),
        };
        match result {
            Ok(()) | Err(NotNow::Later) => Ok(Answer::Done),
            Err(NotNow::NoMemory) => Err(GateError::NoMemory),
            Err(NotNow::Unfit) => Err(GateError::BadState),
        }
    }

    /// Starts, pauses or stops a VM that is parked.
    fn change_parked(&mut self, number: u32, operation: Operation<'_>) -> Result<Answer<'b>, GateError> {
        let stub = self.vms.stub_mut(number).ok_or(GateError::NoSuchVm)?;
        match (operation, stub.state) {
            (Operation::Start { .. }, Sleeper::Paused) => {
                stub.state = Sleeper::Idle;
                stub.is_waking = false;
                self.wake_parked(number);
            }
            (Operation::Pause { .. }, Sleeper::Idle) => {
                stub.state = Sleeper::Paused;
                if let Some(deadline) = stub.deadline.take() {
                    self.timers.clear(deadline, number);
                }
            }
            (Operation::Stop { .. }, Sleeper::Idle | Sleeper::Paused) => self.end_parked(number, Cause::Stopped),
            _ => return Err(GateError::BadState),
        }
        Ok(Answer::Done)
    }

    fn change(
        &mut self,
        number: u32,
        change: impl FnOnce(&mut Self, &mut Vm<H>) -> Result<(), GateError>,
    ) -> Result<Answer<'b>, GateError> {
        let mut vm = self.vms.take(number).ok_or(GateError::NoSuchVm)?;
        let result = change(self, &mut vm);
        self.vms.put(vm);
        result.map(|()| Answer::Done)
    }

    fn destroy(&mut self, number: u32) -> Result<Answer<'b>, GateError> {
        if let Some(stub) = self.vms.stub(number) {
            if stub.state != Sleeper::Ended {
                return Err(GateError::BadState);
            }
            if let Some(stub) = self.vms.remove_stub(number) {
                self.classes.leave(stub.class);
            }
            return Ok(Answer::Done);
        }
        let mut vm = self.vms.remove(number).ok_or(GateError::NoSuchVm)?;
        // Queues may still hold its number. That is harmless: they look at the VM's state, whoever it is by then.
        match vm.state {
            State::Created | State::Waiting => self.end(&mut vm, Cause::Stopped),
            State::Ended => {}
            _ => {
                self.vms.insert(vm);
                return Err(GateError::BadState);
            }
        }
        self.classes.leave(vm.class);
        Ok(Answer::Done)
    }

    fn vm_status(&self, vm: &Vm<H>) -> VmStatus {
        let memory = vm.memory.as_ref();
        let (packed_pages, disk_pages) = memory.map_or((0, 0), |memory| count_places::<H>(memory));
        VmStatus {
            state: match vm.state {
                State::Created => VmState::Created,
                State::Runnable => VmState::Runnable,
                State::Idle => VmState::Idle,
                State::Paused => VmState::Paused,
                State::Ended => VmState::Ended,
                State::Waiting => VmState::Waiting,
                State::Paging => VmState::Paging,
                State::Starved => VmState::Starved,
            },
            shares: vm.shares,
            class: u32::from(vm.class),
            memory_pages: vm.memory_pages,
            minimum_pages: vm.minimum_pages,
            private_pages: memory.map_or(0, Memory::private_pages),
            template_pages: self.shared(vm.template).map_or(0, |shared| {
                let pages = shared.template.nr_pages().saturating_add(shared.image.nr_pages());
                pages.saturating_sub(memory.map_or(0, |memory| memory.hidden_pages))
            }),
            packed_pages,
            disk_pages,
            table_pages: memory.map_or(0, Memory::table_pages),
            generation: vm.generation,
            counters: vm.counters,
            waited_ns: vm.pace.waited_ns,
            preemptions: vm.pace.preemptions,
            latency: vm.pace.latency,
        }
    }

    fn machine_status(&self) -> MachineStatus {
        let (private_pages, table_pages) = self.vms.pages();
        let (swap_blocks, swap_used_blocks) = self.swap.blocks();
        let figures = self.swap.figures;
        MachineStatus {
            uptime_ns: self.hw.now().0,
            cpus: 1,
            bundle_entries: self.bundle.nr_entries(),
            vms: self.vms.count(),
            total_pages: self.hw.total_pages(),
            free_pages: self.hw.free_pages(),
            reserve_pages: self.marks.high,
            private_pages,
            table_pages,
            template_pages: self.template_pages,
            packed_pages: self.swap.packed_pages,
            waiting: u32::try_from(self.waiting.len()).unwrap_or(u32::MAX),
            parked: self.vms.parked(),
            parked_on_disk: self.parked_on_disk,
            parks: self.parks,
            record_bytes: self.record_bytes,
            wakes_memory: self.wakes_memory,
            wakes_disk: self.wakes_disk,
            swap_blocks,
            swap_used_blocks,
            swap_reads: figures.reads,
            swap_read_blocks: figures.read_blocks,
            swap_writes: figures.writes,
            swap_written_blocks: figures.written_blocks,
            swap_errors: figures.errors,
            heap_bytes: self.hw.heap_bytes(),
            heap_pages: self.hw.heap_pages(),
            kept_pages: self.hw.kept_pages(),
            idle_ns: self.ledger.idle_ns,
            charged_ns: self.ledger.charged_ns,
            overhead_loop_ns: self.ledger.loop_ns,
            overhead_wire_ns: self.ledger.wire_ns,
            overhead_memory_ns: self.ledger.memory_ns,
            frames_in: self.wire.frames_in,
            frames_out: self.wire.frames_out,
            frames_dropped: self.wire.frames_dropped,
            events_lost: self.events_lost,
        }
    }
}

/// The status of a VM that is parked.
fn stub_status(stub: &Stub) -> VmStatus {
    let in_head = stub.own_pages.saturating_sub(stub.cold_pages);
    let is_away = stub.is_on_disk();
    let are_cold_kept = !stub.kept.is_empty();
    let mut packed_pages = if is_away { 0 } else { in_head };
    if are_cold_kept {
        packed_pages = packed_pages.saturating_add(stub.cold_pages);
    }
    VmStatus {
        state: match stub.state {
            Sleeper::Idle => VmState::Parked,
            Sleeper::Paused => VmState::Paused,
            Sleeper::Ended => VmState::Ended,
        },
        shares: stub.shares,
        class: u32::from(stub.class),
        memory_pages: stub.memory_pages,
        minimum_pages: stub.minimum_pages,
        private_pages: 0,
        template_pages: 0,
        packed_pages,
        disk_pages: stub.own_pages.saturating_sub(packed_pages),
        table_pages: 0,
        generation: stub.generation,
        counters: stub.counters,
        waited_ns: 0,
        preemptions: 0,
        latency: [0; LATENCY_BUCKETS],
    }
}
