//! What the virtual instructions do.

use crate::console;
use crate::core::{After, Core};
use crate::decode::{Allegation, Request, decode};
use crate::memory::Shared;
use crate::vm::Vm;
use hal::{Hardware, Nanos};
use rand_chacha::rand_core::Rng;
use virtual_isa::control::{self, Devices, Pending};
use virtual_isa::instruction::InstructionError;
use virtual_isa::limits::{MAX_CONSOLE_BYTES, MAX_ENTROPY_BYTES, MAX_PAGES_PER_STEP};

/// Bytes of the `syscall` instruction: what the instruction pointer goes back by to execute it again.
const SYSCALL_BYTES: u64 = 2;

/// What an instruction comes to: a value for the guest, an error for the guest, or something else than going on.
type Performed = Result<Result<u64, InstructionError>, After>;

impl<H: Hardware> Core<'_, H> {
    /// Performs the virtual instruction in a VM's registers.
    pub(crate) fn perform(&mut self, vm: &mut Vm<H>) -> After {
        vm.counters.instructions += 1;
        let performed = match decode(&vm.registers) {
            Err(e) => Ok(Err(e)),
            Ok(Request::Idle(deadline)) => {
                vm.registers.rax = 0;
                return self.idle(vm, deadline).unwrap_or_else(After::End);
            }
            Ok(Request::Terminate { status }) => {
                return After::End(virtual_isa::exception::Cause::Terminated { status });
            }
            Ok(Request::Notify(devices)) => self.notify(vm, devices),
            Ok(Request::Ready) => Ok(self.ready(vm)),
            Ok(Request::Discard(range)) => Ok(self.discard(vm, range)),
            Ok(Request::Entropy(range)) => Ok(self.entropy(vm, range)),
            Ok(Request::Console(range)) => Ok(self.console(vm, range)),
            Ok(Request::Gate) => self.serve_requests(vm).map(|taken| taken.map(u64::from)).map_err(After::End),
        };
        match performed {
            Ok(Ok(value)) => vm.registers.rax = value,
            Ok(Err(e)) => vm.registers.rax = e.to_word(),
            Err(after) => return after,
        }
        After::Resume
    }

    /// Serves every ring, then lets the VM sleep unless there is something for it already.
    fn idle(&mut self, vm: &mut Vm<H>, deadline: Nanos) -> Result<After, virtual_isa::exception::Cause> {
        self.drain_transmit_ring(vm)?;
        self.fill_receive_ring(vm)?;
        if vm.is_privileged {
            // Only a VM with the bit has the ring; what it asked and how that went is in its rings.
            let _ = self.serve_requests(vm)?;
            self.pump_events(vm)?;
        }
        let Some(memory) = &vm.memory else { return Ok(After::Sleep(deadline)) };
        let page = memory.fixed.control.mpn();
        let Nanos(ns) = deadline;
        #[expect(clippy::cast_possible_truncation, reason = "the two halves of a long")]
        for (at, half) in [(control::DEADLINE, ns as u32), (control::DEADLINE + 4, (ns >> 32) as u32)] {
            self.hw.store(page, at, half);
        }
        if deadline <= self.hw.now() {
            vm.set_pending(&mut self.hw, Pending::TIMER);
            return Ok(After::Resume);
        }
        vm.enabled = self.hw.load(page, control::ENABLED);
        if self.hw.load(page, control::PENDING) & vm.enabled != 0 {
            return Ok(After::Resume);
        }
        Ok(After::Sleep(deadline))
    }

    fn notify(&mut self, vm: &mut Vm<H>, devices: Devices) -> Performed {
        if devices.contains(Devices::TRANSMIT) {
            self.drain_transmit_ring(vm).map_err(After::End)?;
        }
        if devices.contains(Devices::RECEIVE) {
            self.fill_receive_ring(vm).map_err(After::End)?;
        }
        Ok(Ok(0))
    }

    /// Accepted for images that call it: every VM is a plain boot of its image.
    fn ready(&self, vm: &Vm<H>) -> Result<u64, InstructionError> {
        let Some(memory) = &vm.memory else { return Err(InstructionError::Busy) };
        let page = memory.fixed.control.mpn();
        let rings = [
            (control::TRANSMIT_HEAD, vm.indices.transmit_tail),
            (control::RECEIVE_TAIL, vm.indices.receive_head),
            (control::CONSOLE_TAIL, vm.indices.console_head),
            (control::REQUEST_HEAD, vm.indices.request_tail),
            (control::COMPLETION_TAIL, vm.indices.completion_head),
        ];
        let are_empty = rings.iter().all(|&(at, own)| self.hw.load(page, at) == own);
        if are_empty { Ok(0) } else { Err(InstructionError::Busy) }
    }

    fn discard(&mut self, vm: &mut Vm<H>, range: Allegation) -> Result<u64, InstructionError> {
        let memory = vm.memory.as_mut().ok_or(InstructionError::BadAddress)?;
        if let Some(rest) = memory.discard(&mut self.hw, range, MAX_PAGES_PER_STEP)? {
            // Not done: the same instruction is executed again on what is left.
            vm.registers.rdi = rest.address;
            vm.registers.rsi = rest.length;
            vm.registers.rip = vm.registers.rip.wrapping_sub(SYSCALL_BYTES);
            return Ok(vm.registers.rax);
        }
        Ok(0)
    }

    fn entropy(&mut self, vm: &mut Vm<H>, range: Allegation) -> Result<u64, InstructionError> {
        let mut bytes = [0; MAX_ENTROPY_BYTES];
        let bytes = bounded(&mut bytes, range)?;
        self.random.fill_bytes(bytes);
        let memory = vm.memory.as_mut().ok_or(InstructionError::BadAddress)?;
        let image = self.images.get(vm.image as usize).ok_or(InstructionError::BadAddress)?;
        let shared = Shared { image, zero: self.zero.mpn() };
        memory.try_write(&mut self.hw, &shared, range, bytes)?;
        Ok(range.length)
    }

    fn console(&mut self, vm: &mut Vm<H>, range: Allegation) -> Result<u64, InstructionError> {
        let mut bytes = [0; MAX_CONSOLE_BYTES];
        let bytes = bounded(&mut bytes, range)?;
        let memory = vm.memory.as_ref().ok_or(InstructionError::BadAddress)?;
        let image = self.images.get(vm.image as usize).ok_or(InstructionError::BadAddress)?;
        memory.try_read(&self.hw, image, range, bytes)?;
        if bytes.is_empty() {
            return Ok(0);
        }
        let now = self.hw.now();
        let (own, all) = (&mut vm.console, &mut self.console);
        let is_free = vm.is_privileged;
        let may_print = |cost| is_free || (own.take(cost, now) && all.take(cost, now));
        vm.counters.console_dropped += console::print_guest(&mut self.hw, vm.number, bytes, may_print);
        Ok(range.length)
    }
}

/// As much of a buffer as a range is long; [`decode`] has bounded it.
fn bounded(buffer: &mut [u8], range: Allegation) -> Result<&mut [u8], InstructionError> {
    let length = usize::try_from(range.length).map_err(|_| InstructionError::BadArgument)?;
    buffer.get_mut(..length).ok_or(InstructionError::BadArgument)
}
