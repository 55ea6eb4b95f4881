//! What the program asks: the virtual instructions, as far as somebody alone has a use for them.

use crate::console::Console;
use crate::program::Memory;
use crate::wire::Wire;
use hal::{Mpn, Nanos, Pages, Processor, Registers};
use log::{error, info};
use machine::{Answer, Machine};
use virtual_isa::control::{self, Devices, Pending};
use virtual_isa::exception::Cause;
use virtual_isa::instruction::InstructionError;
use virtual_isa::limits::MAX_CONSOLE_BYTES;
use virtual_isa::{PAGE_SIZE, layout};
use vm::decode::{Allegation, Request, decode};

/// Status of a power-off by a program that had one which the machine cannot say.
const FAILED: u8 = 1;

/// The machine, and the program on it.
pub struct Bare {
    hw: Machine,
    vm: u32,
    memory: Memory,
    control: Mpn,
    /// First page that is no part of the image.
    heap_page: u64,
    wire: Wire,
    console: Console,
    /// How long the processor had nothing to do.
    idle_ns: u64,
}

impl Bare {
    /// Nothing has been asked yet. `None` if the program has no control page or no rings.
    pub fn new(hw: Machine, only: &crate::plan::Only<'_>, memory: Memory) -> Option<Self> {
        Some(Self {
            hw,
            vm: only.vm,
            control: memory.at(layout::CONTROL_PAGE)?,
            heap_page: only.image.end_page().into(),
            wire: Wire::new(only.network, only.vm, &memory)?,
            memory,
            console: Console::default(),
            idle_ns: 0,
        })
    }

    /// Serves the rings, and then halts until there is something for the program.
    fn idle(&mut self, deadline: Nanos) -> Result<(), Cause> {
        loop {
            self.wire.send(&mut self.hw)?;
            self.wire.take_in(&mut self.hw)?;
            self.console.listen(&mut self.hw, self.idle_ns);
            if deadline <= self.hw.now() {
                self.hw.set_bits(self.control, control::PENDING, Pending::TIMER.bits());
                return Ok(());
            }
            let enabled = self.hw.load(self.control, control::ENABLED);
            if self.hw.load(self.control, control::PENDING) & enabled != 0 {
                return Ok(());
            }
            self.wire.flush(&mut self.hw);
            self.hw.set_alarm(deadline);
            let since = self.hw.now();
            self.hw.halt();
            self.idle_ns += self.hw.now().since(since);
        }
    }

    fn notify(&mut self, devices: Devices) -> Result<(), Cause> {
        if devices.contains(Devices::TRANSMIT) {
            self.wire.send(&mut self.hw)?;
        }
        if devices.contains(Devices::RECEIVE) {
            self.wire.take_in(&mut self.hw)?;
        }
        Ok(())
    }

    /// Nobody else wants the pages: they only read as the ISA says.
    fn discard(&mut self, range: Allegation) -> Result<u64, InstructionError> {
        let is_page = |address: u64| address.is_multiple_of(PAGE_SIZE as u64);
        if !is_page(range.address) || !is_page(range.length) {
            return Err(InstructionError::BadArgument);
        }
        let end = range.address.checked_add(range.length).ok_or(InstructionError::BadAddress)?;
        if range.address < self.heap_page * PAGE_SIZE as u64 || end > self.memory.end() {
            return Err(InstructionError::BadAddress);
        }
        let zeros = [0; PAGE_SIZE];
        for address in (range.address..end).step_by(PAGE_SIZE) {
            if let Some(page) = self.memory.at(address) {
                self.hw.write(page, 0, &zeros);
            }
        }
        Ok(0)
    }

    fn entropy(&mut self, range: Allegation) -> Result<u64, InstructionError> {
        let length = usize::try_from(range.length).map_err(|_| InstructionError::BadArgument)?;
        for piece in self.memory.pieces(range.address, length) {
            let piece = piece.ok_or(InstructionError::BadAddress)?;
            let mut offset = piece.offset;
            let mut left = piece.bytes.len();
            while left > 0 {
                let mut random = [0; 32];
                if !self.hw.hardware_entropy(&mut random) {
                    return Err(InstructionError::NoMemory);
                }
                let now = left.min(random.len());
                self.hw.write(piece.page, offset, &random[..now]);
                (offset, left) = (offset + now, left - now);
            }
        }
        Ok(range.length)
    }

    fn console(&mut self, range: Allegation) -> Result<u64, InstructionError> {
        let mut bytes = [0; MAX_CONSOLE_BYTES];
        let length = usize::try_from(range.length).map_err(|_| InstructionError::BadArgument)?;
        let text = bytes.get_mut(..length).ok_or(InstructionError::BadArgument)?;
        for piece in self.memory.pieces(range.address, length) {
            let piece = piece.ok_or(InstructionError::BadAddress)?;
            self.hw.read(piece.page, piece.offset, &mut text[piece.bytes]);
        }
        vm::print_guest(&mut self.hw, self.vm, text, |_| true);
        Ok(range.length)
    }

    fn terminate(&mut self, status: u64) -> ! {
        info!("vm {} ended: {}", self.vm, Cause::Terminated { status });
        self.hw.power_off(u8::try_from(status).unwrap_or(FAILED));
        unreachable!("a machine that is off runs no code")
    }

    fn perform(&mut self, request: Request) -> Result<u64, InstructionError> {
        let served = match request {
            Request::Notify(devices) => self.notify(devices),
            Request::Idle(deadline) => self.idle(deadline),
            Request::Ready => Ok(()),
            Request::Discard(range) => return self.discard(range),
            Request::Entropy(range) => return self.entropy(range),
            Request::Console(range) => return self.console(range),
            Request::Terminate { status } => self.terminate(status),
            Request::Gate | Request::Spaces => return Err(InstructionError::NotPermitted),
        };
        match served {
            Ok(()) => Ok(0),
            Err(cause) => {
                error!("vm {} is at its end: {cause}", self.vm);
                panic!("the program is broken: {cause}")
            }
        }
    }
}

impl Answer for Bare {
    fn answer(&mut self, number: u64, first: u64, second: u64) -> u64 {
        let words = Registers { rax: number, rdi: first, rsi: second, ..Registers::default() };
        decode(&words).and_then(|request| self.perform(request)).unwrap_or_else(InstructionError::to_word)
    }
}
