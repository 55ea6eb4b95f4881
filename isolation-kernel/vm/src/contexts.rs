//! Contexts: what a VM runs in address spaces of its own making, and how that comes back to it.
//!
//! A VM that has a TLB is run here, whether it is in a context or not: so the others do not pay for the difference.
//! See the ISA reference for the state in which a context ends.

use crate::core::{After, Core};
use crate::decode::{Allegation, Entering, Pages, SpacesRequest, decode_spaces};
use crate::memory::{Absent, Memory};
use crate::perform::{Performed, SYSCALL_BYTES};
use crate::tlb::{Entered, Found};
use crate::vm::Vm;
use alloc::boxed::Box;
use hal::{Access, Exit, Hardware, Nanos, Registers};
use virtual_isa::context::{CONTEXT_BYTES, CONTEXT_WORDS, Context, Exit as ContextExit};
use virtual_isa::control::{self, Pending};
use virtual_isa::exception::Exception;
use virtual_isa::instruction::InstructionError;
use virtual_isa::limits::MAX_TLB_WRITE;
use virtual_isa::tlb::{ENTRY_BYTES, Entry, Right};

/// Entries that are taken the short way.
const FEW_ENTRIES: usize = 4;

/// The registers as a context.
pub(crate) const fn context_of(r: &Registers) -> Context {
    let Registers { rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rsp, rflags } = *r;
    Context { rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rsp, rflags }
}

/// A context's registers.
pub(crate) const fn registers_of(context: &Context) -> Registers {
    let Context { rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rsp, rflags } =
        *context;
    Registers { rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rsp, rflags }
}

impl<H: Hardware> Vm<H> {
    /// The context that it is in, if it is in one.
    pub(crate) fn entered(&self) -> Option<&Entered> {
        self.memory.as_ref()?.entered()
    }

    /// The registers of its own context, for a report.
    pub(crate) fn own_registers(&self) -> Registers {
        self.entered().map_or(self.registers, |entered| entered.own)
    }

    /// Ends the context that the VM is in: its own goes on with the cause.
    fn exit_context(&mut self, hw: &mut H, exit: ContextExit) {
        self.last_fault = None;
        let Some(memory) = &mut self.memory else { return };
        let Some(entered) = memory.tlb.as_mut().and_then(|tlb| tlb.entered.take()) else { return };
        let page = memory.fixed.control.mpn();
        let words = context_of(&self.registers).to_words().map(u64::to_le_bytes);
        hw.write(page, control::CONTEXT, words.as_flattened());
        hw.write(page, control::EXIT, exit.to_words().map(u64::to_le_bytes).as_flattened());
        self.registers = Registers { rax: exit.cause(), ..entered.own };
    }

    /// Whether something ends the context that the VM is in before it goes on.
    fn is_interrupted(&self, hw: &mut H, now: Nanos) -> bool {
        let (Some(memory), Some(entered)) = (&self.memory, self.entered()) else { return false };
        let page = memory.fixed.control.mpn();
        if entered.deadline <= now {
            self.set_pending(hw, Pending::TIMER);
            return true;
        }
        hw.load(page, control::PENDING) & hw.load(page, control::ENABLED) != 0
    }
}

impl<H: Hardware> Core<'_, H> {
    /// Runs a VM that has address spaces of its own until it sleeps, ends, or others have waited long enough.
    #[inline(never)]
    pub(crate) fn run_contexts(&mut self, vm: &mut Box<Vm<H>>) -> After {
        let started = self.note_time(vm);
        if let Err(after) = self.load_vm(vm) {
            return after;
        }
        let mut now = started;
        let mut alarm = Nanos(0);
        let after = loop {
            if vm.is_interrupted(&mut self.hw, now) {
                vm.exit_context(&mut self.hw, ContextExit::Interrupt);
            }
            if let Err(after) = self.load_space(vm) {
                break after;
            }
            let deadline = vm.entered().map_or(Nanos::NEVER, |entered| entered.deadline);
            if alarm == Nanos(0) || deadline < alarm {
                let slice = self.scheduler.slice_ns(now.since(started));
                alarm = now.after(slice).min(self.next_alarm()).min(deadline);
                self.hw.set_alarm(alarm);
            }
            let (exit, left) = self.enter_guest(vm);
            let after = if vm.entered().is_some() {
                self.handle_context(vm, exit, left.since(started))
            } else {
                self.handle_own(vm, exit, left.since(started))
            };
            if exit == Exit::Interrupt {
                // It has set the alarm as it is for all.
                alarm = Nanos(0);
            }
            now = self.note_time(vm);
            if !matches!(after, After::Resume | After::Enter) {
                break after;
            }
            if self.scheduler.is_to_look_again() {
                if self.is_over(now, now.since(started)) {
                    break After::Yield;
                }
                alarm = Nanos(0);
            }
        };
        self.hw.switch_from(vm.vector.get_or_insert_default());
        self.until_deadline(vm, after)
    }

    /// Handles an exit as if there were no contexts. A copy of its own: the one in the loop of all other VMs stays a part
    /// of that loop.
    #[inline(never)]
    fn handle_own(&mut self, vm: &mut Vm<H>, exit: Exit, ran_ns: u64) -> After {
        self.handle(vm, exit, ran_ns)
    }

    /// The same for the account.
    #[inline(never)]
    fn note_time(&mut self, vm: &mut Vm<H>) -> Nanos {
        self.note_run(vm)
    }

    /// A context does not sleep beyond its deadline.
    fn until_deadline(&self, vm: &Vm<H>, after: After) -> After {
        match (after, vm.entered()) {
            (After::Sleep(at), Some(entered)) => After::Sleep(at.min(entered.deadline)),
            _ => after,
        }
    }

    /// Gives a VM the processor, with its vector registers.
    fn load_vm(&mut self, vm: &mut Vm<H>) -> Result<(), After> {
        vm.has_changed = true;
        let template = self.templates.get(vm.template as usize).ok_or(After::Sleep(Nanos::NEVER))?;
        let memory = vm.memory.as_mut().ok_or(After::Sleep(Nanos::NEVER))?;
        let space = memory.prepare_current(&mut self.hw).map_err(|_| After::Starve)?;
        self.hw.switch_to(space, vm.vector.as_deref().unwrap_or(&template.vector));
        Ok(())
    }

    /// Lets the processor have the tables that the VM is to run in.
    fn load_space(&mut self, vm: &mut Vm<H>) -> Result<(), After> {
        vm.has_changed = true;
        let memory = vm.memory.as_mut().ok_or(After::Sleep(Nanos::NEVER))?;
        let space = memory.prepare_current(&mut self.hw).map_err(|_| After::Starve)?;
        self.hw.change_space(space);
        Ok(())
    }

    /// Handles an exit of a VM that is in a context.
    fn handle_context(&mut self, vm: &mut Vm<H>, exit: Exit, ran_ns: u64) -> After {
        if !matches!(exit, Exit::PageFault { .. }) {
            vm.last_fault = None;
        }
        let is_trusted = vm.entered().is_some_and(|entered| entered.right == Right::Kernel);
        match exit {
            Exit::Instruction if is_trusted => return self.handle_own(vm, exit, ran_ns),
            Exit::Instruction => {
                vm.counters.instructions += 1;
                vm.exit_context(&mut self.hw, ContextExit::Instruction);
            }
            Exit::PageFault { address, access } => return self.context_fault(vm, address, access),
            Exit::Exception { vector, code } => {
                let exception = Exception::try_from(vector).unwrap_or(Exception::GeneralProtection);
                vm.exit_context(&mut self.hw, ContextExit::Exception { exception, code });
            }
            Exit::Interrupt => return self.handle_interrupt(vm, ran_ns),
        }
        After::Resume
    }

    /// A context used an address that is not mapped for it: it has an entry for that, or it ends.
    fn context_fault(&mut self, vm: &mut Vm<H>, address: u64, access: Access) -> After {
        vm.counters.faults += 1;
        let allowed = crate::memory::report_access(access);
        let protection = ContextExit::Protection { address, access: allowed };
        let fault = Some((address, access, vm.registers.rip));
        let is_again = core::mem::replace(&mut vm.last_fault, fault) == fault;
        let look = |memory: &Memory<H::Space>| memory.look(address, access);
        let (found, right) = vm.memory.as_ref().map_or((Found::Miss, Right::User), look);
        let entry = match found {
            Found::Miss => {
                vm.exit_context(&mut self.hw, ContextExit::Miss { address, access: allowed });
                return After::Resume;
            }
            // What was just mapped cannot fault again, unless the processor means something else by it.
            Found::Entry(entry) if !is_again => entry,
            Found::Entry(_) | Found::Protection => {
                vm.exit_context(&mut self.hw, protection);
                return After::Resume;
            }
        };
        let composed =
            self.with_memory(vm, |memory, hw, shared, means| memory.compose(hw, shared, means, entry, right, access));
        match composed {
            Ok(mapped) => {
                vm.note_mapped(mapped);
                After::Resume
            }
            Err(Absent::Violation) => {
                vm.exit_context(&mut self.hw, protection);
                After::Resume
            }
            Err(other) => self.postpone(vm, other),
        }
    }

    /// Performs a virtual instruction for address spaces.
    #[inline(never)]
    pub(crate) fn perform_spaces(&mut self, vm: &mut Vm<H>) -> After {
        let performed = match decode_spaces(&vm.registers) {
            Err(e) => Ok(Err(e)),
            Ok(SpacesRequest::Write(range)) => self.tlb_write(vm, range),
            Ok(SpacesRequest::Invalidate(pages)) => Ok(Ok(self.tlb_invalidate(vm, pages))),
            Ok(SpacesRequest::Enter(entering)) => match self.enter_context(vm, entering) {
                Ok(()) => return After::Enter,
                Err(e) => Ok(Err(e)),
            },
        };
        match performed {
            Ok(Ok(value)) => vm.registers.rax = value,
            Ok(Err(e)) => vm.registers.rax = e.to_word(),
            Err(after) => return after,
        }
        After::Resume
    }

    /// Lets a VM run the context in its control page.
    fn enter_context(&mut self, vm: &mut Vm<H>, entering: Entering) -> Result<(), InstructionError> {
        let memory = vm.memory.as_mut().ok_or(InstructionError::NotPermitted)?;
        if memory.entered().is_some() {
            return Err(InstructionError::NotPermitted);
        }
        let mut bytes = [0; CONTEXT_BYTES];
        self.hw.read(memory.fixed.control.mpn(), control::CONTEXT, &mut bytes);
        let mut words = [0; CONTEXT_WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks::<8>().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        let context = Context::from_words(words);
        context.check()?;
        let own = core::mem::replace(&mut vm.registers, registers_of(&context));
        let Entering { asid, right, deadline } = entering;
        memory.need_tlb().entered = Some(Entered { asid, right, deadline, own });
        vm.has_changed = true;
        Ok(())
    }

    /// Loads the entries that a guest names.
    fn tlb_write(&mut self, vm: &mut Vm<H>, range: Allegation) -> Performed {
        let loaded = self.load_list(vm, range);
        if loaded != Ok(Err(InstructionError::Busy)) {
            return loaded;
        }
        // Part of the list is not in memory.
        if let Err(refused) = self.need(vm, range, Access::Read) {
            return refused;
        }
        self.load_list(vm, range)
    }

    fn load_list(&mut self, vm: &mut Vm<H>, range: Allegation) -> Performed {
        if range.length <= (FEW_ENTRIES * ENTRY_BYTES) as u64 {
            return self.load_entries::<FEW_ENTRIES>(vm, range);
        }
        self.load_entries::<MAX_TLB_WRITE>(vm, range)
    }

    /// Loads at most `N` entries. `Busy` if they are not in memory.
    fn load_entries<const N: usize>(&mut self, vm: &mut Vm<H>, range: Allegation) -> Performed {
        let mut bytes = [[0; ENTRY_BYTES]; N];
        let length = usize::try_from(range.length).unwrap_or(usize::MAX);
        let Some(bytes) = bytes.as_flattened_mut().get_mut(..length) else {
            return Ok(Err(InstructionError::BadArgument));
        };
        let loaded = self.reach_memory(vm, |memory, hw, shared, _| {
            Ok(memory.try_read(hw, shared, range, bytes).and_then(|()| {
                let mut entries = heapless::Vec::<Entry, N>::new();
                for bytes in bytes.as_chunks().0 {
                    // There is room: as many as bytes were read for.
                    let _ = entries.push(Entry::from_bytes(*bytes)?);
                }
                memory.load_entries(hw, shared, &entries)
            }))
        });
        Ok(loaded.unwrap_or(Err(InstructionError::BadAddress)).map(|()| 0))
    }

    /// Drops the entries that a guest names.
    fn tlb_invalidate(&mut self, vm: &mut Vm<H>, pages: Pages) -> u64 {
        let is_more = self.reach_memory(vm, |memory, hw, _, means| Ok(memory.drop_entries(hw, means.swap, pages)));
        if is_more == Ok(true) {
            // Not done: the same instruction is executed again on what is left.
            vm.registers.rip = vm.registers.rip.wrapping_sub(SYSCALL_BYTES);
            return vm.registers.rax;
        }
        0
    }
}
