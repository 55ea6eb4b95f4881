//! Creating, ending and destroying VMs. Neither takes time in proportion to a VM's memory: what an ended VM
//! leaves is freed a few pages at a time.

use crate::console::{CONSOLE_RATE, Level, log};
use crate::core::{BootError, Core, SUPERVISOR};
use crate::memory::{FixedPages, Memory};
use crate::report;
use crate::vm::{Indices, State, Vm};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use hal::{Hardware, NoMemory, PAGE_SIZE, Page, Ppn, Registers, VectorState};
use policy::bucket::Bucket;
use virtual_isa::control;
use virtual_isa::exception::Cause;
use virtual_isa::gate::{Counters, Event};
use virtual_isa::layout;
use virtual_isa::limits::{MAX_ARGUMENT_BYTES, MAX_PAGES_PER_STEP};
use virtual_isa::network::{MTU, Network};
use virtual_isa::register::{Features, REGISTER_MAGIC, RegisterPage};

/// What is left of a VM that ended, on its way back to the machine.
pub struct Remains<H: Hardware> {
    pages: hashbrown::hash_map::IntoIter<Ppn, Page>,
    rest: Option<(FixedPages, Option<H::Space>)>,
}

/// What a new VM is to be.
#[derive(Clone, Copy, Debug)]
pub struct Birth<'a> {
    pub number: u32,
    pub image: u32,
    pub memory_pages: u32,
    pub shares: u32,
    pub arguments: &'a str,
    pub is_privileged: bool,
}

impl<H: Hardware> Core<'_, H> {
    pub(crate) fn create_supervisor(&mut self, memory_pages: u32) -> Result<(), BootError> {
        let birth =
            Birth { number: SUPERVISOR, image: 0, memory_pages, shares: 100, arguments: "", is_privileged: true };
        let mut vm = self.create(&birth)?;
        self.make_runnable(&mut vm);
        self.vms.insert(vm);
        Ok(())
    }

    /// Makes a VM from values that were checked. It is in no table and no queue yet.
    pub(crate) fn create(&mut self, birth: &Birth<'_>) -> Result<Box<Vm<H>>, NoMemory> {
        let entry = self.images.get(birth.image as usize).map_or(0, |image| image.entry);
        let fixed = FixedPages::allocate(&mut self.hw, birth.is_privileged)?;
        let generation = self.next_generation;
        self.next_generation += 1;
        let page = self.register_page(birth, generation);
        self.hw.write(fixed.register.mpn(), 0, &page.to_bytes());
        Ok(Box::new(Vm {
            number: birth.number,
            generation,
            state: State::Created,
            is_queued: false,
            is_blocked: false,
            is_privileged: birth.is_privileged,
            registers: Registers::at(entry, layout::STACK_TOP),
            vector: VectorState::new(),
            memory: Some(Memory::new(birth.memory_pages, fixed)),
            image: birth.image,
            shares: birth.shares,
            indices: Indices::default(),
            queue: VecDeque::new(),
            queued_bytes: 0,
            last_fault: None,
            enabled: 0,
            deadline: None,
            console: Bucket::new(CONSOLE_RATE, self.hw.now()),
            last_spoof_event: None,
            counters: Counters::default(),
        }))
    }

    fn register_page(&self, birth: &Birth<'_>, generation: u64) -> RegisterPage {
        let mut arguments = [0; MAX_ARGUMENT_BYTES];
        for (place, byte) in arguments.iter_mut().zip(birth.arguments.bytes()) {
            *place = byte;
        }
        let mut features = Features::TSC;
        features.set(Features::AVX, self.hw.has_avx());
        features.set(Features::SUPERVISOR, birth.is_privileged);
        let clock = self.hw.clock();
        RegisterPage {
            magic: REGISTER_MAGIC,
            isa_version: virtual_isa::ISA_VERSION,
            vm: birth.number,
            generation,
            features: features.bits(),
            memory_pages: birth.memory_pages,
            mtu: u32::try_from(MTU).unwrap_or(u32::MAX),
            base_tsc: clock.base_tsc,
            base_ns: clock.base_ns,
            scale: clock.scale,
            epoch_ns: clock.epoch_ns,
            mac: Network::mac_of(birth.number),
            gateway_mac: Network::SWITCH_MAC,
            ipv4: self.network.ipv4_of(birth.number),
            gateway_ipv4: self.network.switch_ipv4,
            prefix_bits: u32::from(self.network.prefix_bits),
            argument_bytes: u32::try_from(birth.arguments.len().min(MAX_ARGUMENT_BYTES)).unwrap_or(0),
            arguments,
        }
    }

    /// Ends a VM: report to the log and to the supervisor, memory to the remains.
    pub(crate) fn end(&mut self, vm: &mut Vm<H>, cause: Cause) {
        if vm.state == State::Ended {
            return;
        }
        let image = self.images.get(vm.image as usize);
        let report = report::make(&self.hw, vm.memory.as_ref(), image, &vm.registers, cause);
        report::print(&mut self.hw, vm.number, &report);
        if vm.number == SUPERVISOR {
            log(&mut self.hw, Level::Error, format_args!("the supervisor has ended; the other VMs run on"));
        }
        vm.state = State::Ended;
        if let Some(deadline) = vm.deadline.take() {
            self.timers.clear(deadline, vm.number);
        }
        while let Some(frame) = vm.queue.pop_front() {
            self.hw.give_frame(frame);
        }
        vm.queue = VecDeque::new();
        vm.queued_bytes = 0;
        if let Some(memory) = vm.memory.take() {
            let (fixed, private, space) = memory.into_parts();
            self.remains.push_back(Remains { pages: private.into_iter(), rest: Some((fixed, space)) });
        }
        self.post_event(Event::Ended { vm: vm.number, report });
    }

    /// Frees some of what ended VMs left. Returns whether there is more.
    pub(crate) fn reap_remains(&mut self) -> bool {
        let Some(remains) = self.remains.front_mut() else { return false };
        // The tables go first: no page is free while it can still be reached.
        if let Some((fixed, space)) = remains.rest.take() {
            if let Some(space) = space {
                self.hw.destroy_space(space);
            }
            fixed.release(&mut self.hw);
        }
        for _ in 0..MAX_PAGES_PER_STEP {
            let Some((_, page)) = remains.pages.next() else {
                self.remains.pop_front();
                break;
            };
            self.hw.release(page);
        }
        !self.remains.is_empty()
    }
}

impl<H: Hardware> Vm<H> {
    /// Puts a byte into the console ring; false if there is no room, or the guest's index cannot be.
    pub(crate) fn type_byte(&mut self, hw: &mut H, byte: u8) -> bool {
        let Some(memory) = &self.memory else { return false };
        let page = memory.fixed.control.mpn();
        let used = self.indices.console_head.wrapping_sub(hw.load(page, control::CONSOLE_TAIL));
        if used >= control::CONSOLE_INPUT_BYTES {
            self.counters.console_dropped += 1;
            return false;
        }
        let at = self.indices.console_head % control::CONSOLE_INPUT_BYTES;
        let offset = control::CONSOLE_INPUT.saturating_add(at as usize).min(PAGE_SIZE - 1);
        hw.write(page, offset, &[byte]);
        self.indices.console_head = self.indices.console_head.wrapping_add(1);
        hw.store(page, control::CONSOLE_HEAD, self.indices.console_head);
        true
    }
}
