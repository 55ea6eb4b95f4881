//! What the virtual instructions do.

use crate::console;
use crate::core::{After, Core};
use crate::decode::{Allegation, Request, decode, decode_notify};
use crate::memory::Absent;
use crate::vm::Vm;
use hal::{Access, Hardware, Nanos};
use rand_chacha::rand_core::Rng;
use virtual_isa::control::{self, Devices, Pending};
use virtual_isa::instruction::InstructionError;
use virtual_isa::limits::{MAX_CONSOLE_BYTES, MAX_ENTROPY_BYTES, MAX_PAGES_PER_STEP};

/// Bytes of the `syscall` instruction: what the instruction pointer goes back by to execute it again.
pub const SYSCALL_BYTES: u64 = 2;

/// What an instruction comes to: a value for the guest, an error for the guest, or something else than going on.
pub type Performed = Result<Result<u64, InstructionError>, After>;

impl<H: Hardware> Core<'_, H> {
    /// Performs the virtual instruction in a VM's registers.
    #[inline(always)]
    pub(crate) fn perform(&mut self, vm: &mut Vm<H>) -> After {
        vm.counters.instructions += 1;
        if !vm.is_embryo
            && let Some(devices) = decode_notify(&vm.registers)
        {
            // The one that comes most often, and the one whose cost matters: a VM's frames wait for it.
            vm.registers.rax = 0;
            return self.notify(vm, devices).err().unwrap_or(After::Resume);
        }
        self.perform_other(vm)
    }

    #[inline(always)]
    fn perform_other(&mut self, vm: &mut Vm<H>) -> After {
        let request = decode(&vm.registers);
        if vm.is_embryo && !matches!(request, Ok(Request::Ready | Request::Discard(_))) {
            return After::Plain;
        }
        let performed = match request {
            Err(e) => Ok(Err(e)),
            Ok(Request::Idle(deadline)) => {
                vm.registers.rax = 0;
                return self.idle(vm, deadline).unwrap_or_else(|after| after);
            }
            Ok(Request::Terminate { status }) => {
                return After::End(virtual_isa::exception::Cause::Terminated { status });
            }
            Ok(Request::Notify(devices)) => self.notify(vm, devices).map(|()| Ok(0)),
            Ok(Request::Ready) => match self.ready(vm) {
                Ok(_) if vm.is_embryo => return After::Ready,
                answer => Ok(answer),
            },
            Ok(Request::Discard(range)) => Ok(self.discard(vm, range)),
            Ok(Request::Entropy(range)) => self.entropy(vm, range),
            Ok(Request::Console(range)) => self.console(vm, range),
            Ok(Request::Spaces) => return self.perform_spaces(vm),
            Ok(Request::Gate) => self.gate(vm).map(|taken| taken.map(u64::from)).map_err(After::End),
        };
        match performed {
            Ok(Ok(value)) => vm.registers.rax = value,
            Ok(Err(e)) => vm.registers.rax = e.to_word(),
            Err(after) => return after,
        }
        After::Resume
    }

    /// Serves every ring, then lets the VM sleep unless there is something for it already.
    #[inline(always)]
    fn idle(&mut self, vm: &mut Vm<H>, deadline: Nanos) -> Result<After, After> {
        self.drain_transmit_ring(vm, None).map_err(After::End)?;
        self.fill_receive_ring(vm)?;
        if vm.is_privileged {
            // Only a VM with the bit has the ring; what it asked and how that went is in its rings.
            let _ = self.gate(vm).map_err(After::End)?;
            self.pump_events(vm).map_err(After::End)?;
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
        if deadline != Nanos::NEVER && !self.ablation.switches.idle_timeout {
            return Ok(After::Yield);
        }
        Ok(After::Sleep(deadline))
    }

    fn notify(&mut self, vm: &mut Vm<H>, devices: Devices) -> Result<(), After> {
        if devices.contains(Devices::TRANSMIT) {
            self.drain_transmit_ring(vm, None).map_err(After::End)?;
        }
        if devices.contains(Devices::RECEIVE) {
            self.fill_receive_ring(vm)?;
        }
        Ok(())
    }

    /// Says whether a clone could start here. For a VM that is no embryo nothing comes of it.
    #[inline(never)]
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

    #[inline(never)]
    fn discard(&mut self, vm: &mut Vm<H>, range: Allegation) -> Result<u64, InstructionError> {
        let discarded = self.reach_memory(vm, |memory, hw, shared, means| {
            Ok(memory.discard(hw, shared, means.swap, range, MAX_PAGES_PER_STEP))
        });
        if let Some(rest) = discarded.unwrap_or(Err(InstructionError::NoMemory))? {
            // Not done: the same instruction is executed again on what is left.
            vm.registers.rdi = rest.address;
            vm.registers.rsi = rest.length;
            vm.registers.rip = vm.registers.rip.wrapping_sub(SYSCALL_BYTES);
            return Ok(vm.registers.rax);
        }
        Ok(0)
    }

    #[inline(never)]
    fn entropy(&mut self, vm: &mut Vm<H>, range: Allegation) -> Performed {
        let mut bytes = [0; MAX_ENTROPY_BYTES];
        let bytes = match bounded(&mut bytes, range) {
            Ok(bytes) => bytes,
            Err(e) => return Ok(Err(e)),
        };
        if let Err(refused) = self.need(vm, range, Access::Write) {
            return refused;
        }
        self.random.fill_bytes(bytes);
        let written = self.reach_memory(vm, |memory, hw, shared, _| Ok(memory.try_write(hw, shared, range, bytes)));
        Ok(written.unwrap_or(Err(InstructionError::BadAddress)).map(|()| range.length))
    }

    /// Brings memory that an instruction names into memory, before anything is done: an instruction that has to
    /// wait is executed again from its beginning.
    #[inline(never)]
    pub(crate) fn need(&mut self, vm: &mut Vm<H>, range: Allegation, access: Access) -> Result<(), Performed> {
        let needed = self.with_memory(vm, |memory, hw, shared, means| memory.need(hw, shared, means, range, access));
        match needed {
            Ok(()) => Ok(()),
            Err(Absent::Violation) => Err(Ok(Err(InstructionError::BadAddress))),
            Err(absent) => {
                let after = self.postpone(vm, absent);
                if matches!(after, After::Wait | After::Starve) {
                    vm.registers.rip = vm.registers.rip.wrapping_sub(SYSCALL_BYTES);
                }
                Err(Err(after))
            }
        }
    }

    #[inline(never)]
    fn console(&mut self, vm: &mut Vm<H>, range: Allegation) -> Performed {
        let mut bytes = [0; MAX_CONSOLE_BYTES];
        let bytes = match bounded(&mut bytes, range) {
            Ok(bytes) => bytes,
            Err(e) => return Ok(Err(e)),
        };
        if let Err(refused) = self.need(vm, range, Access::Read) {
            return refused;
        }
        let read = self.reach_memory(vm, |memory, hw, shared, _| Ok(memory.try_read(hw, shared, range, bytes)));
        match read {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return Ok(Err(e)),
            Err(_) => return Ok(Err(InstructionError::BadAddress)),
        }
        if bytes.is_empty() {
            return Ok(Ok(0));
        }
        let now = self.hw.now();
        let (own, all) = (&mut vm.console, &mut self.console);
        let is_free = vm.is_privileged;
        let may_print = |cost| is_free || (own.take(cost, now) && all.take(cost, now));
        vm.counters.console_dropped += console::print_guest(&mut self.hw, vm.number, bytes, may_print);
        Ok(Ok(range.length))
    }
}

/// As much of a buffer as a range is long; [`decode`] has bounded it.
fn bounded(buffer: &mut [u8], range: Allegation) -> Result<&mut [u8], InstructionError> {
    let length = usize::try_from(range.length).map_err(|_| InstructionError::BadArgument)?;
    buffer.get_mut(..length).ok_or(InstructionError::BadArgument)
}
