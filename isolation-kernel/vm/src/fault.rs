//! Page faults, and all other work on a VM's memory: it has what it needs, waits for it, or ends.

use crate::core::{After, Core};
use crate::memory::{Absent, Mapped, Means, Memory, Shared, report_access};
use crate::swap::{Handle, Place};
use crate::vm::Vm;
use hal::{Access, Hardware, Ppn};
use virtual_isa::exception::{Cause, SwapError};
use virtual_isa::layout;

impl<H: Hardware> Vm<H> {
    /// Counts how a fault was mended.
    #[inline(always)]
    pub(crate) const fn note_mapped(&mut self, mapped: Mapped) {
        let counters = &mut self.counters;
        match mapped {
            Mapped::Found => {}
            Mapped::Zeroed => counters.faults_zero += 1,
            Mapped::Copied => counters.faults_copied += 1,
            Mapped::Unpacked => counters.faults_packed += 1,
        }
    }
}

impl<H: Hardware> Core<'_, H> {
    #[inline(never)]
    pub(crate) fn fault(&mut self, vm: &mut Vm<H>, address: u64, access: Access) -> After {
        if vm.is_embryo && layout::page_of(address) == layout::page_of(layout::REGISTER_PAGE) {
            // What it reads there is one VM's.
            return After::Plain;
        }
        vm.counters.faults += 1;
        let violation = Cause::Memory { address, access: report_access(access) };
        // What was just mapped cannot fault again, unless the processor means something else by it (emulated ones do,
        // for instructions that return to another privilege level). Mapping it for ever helps nobody.
        let fault = Some((address, access, vm.registers.rip));
        if core::mem::replace(&mut vm.last_fault, fault) == fault {
            return After::End(violation);
        }
        let Ok(page) = u32::try_from(layout::page_of(address)) else { return After::End(violation) };
        let result =
            self.with_memory(vm, |memory, hw, shared, means| memory.fault(hw, shared, means, Ppn(page), access));
        match result {
            Ok(mapped) => {
                vm.note_mapped(mapped);
                if mapped != Mapped::Found && vm.memory.as_ref().is_some_and(|m| m.private_pages().is_multiple_of(64)) {
                    self.weigh(vm);
                }
                After::Resume
            }
            Err(Absent::Violation) => After::End(violation),
            Err(other) => self.postpone(vm, other),
        }
    }

    /// What a VM does that needs a page it cannot have at once. It executes the same instruction again later.
    #[inline(never)]
    pub(crate) fn postpone(&mut self, vm: &mut Vm<H>, absent: Absent) -> After {
        vm.last_fault = None;
        let pack = |number| vm.memory.as_ref().and_then(|memory| memory.pack(number));
        let block = |number| match pack(number).map(|pack| pack.disk) {
            Some(Place::Stored(stored)) => u64::from(stored.first),
            _ => 0,
        };
        match absent {
            Absent::NoMemory => {
                self.note_heap_wanted(vm);
                After::Starve
            }
            Absent::Pack(number) => {
                let Some(pack) = pack(number) else {
                    return After::End(Cause::PageLost { block: 0, error: SwapError::Checksum });
                };
                let (epoch, place) = (pack.epoch, pack.disk);
                vm.counters.faults_disk += 1;
                vm.awaited = Some(number);
                if matches!(place, Place::Stored(_)) {
                    self.swap.want(Handle { vm: vm.number, pack: Some(number), epoch });
                }
                After::Wait
            }
            Absent::Broken(number) => After::End(Cause::PageLost { block: block(number), error: SwapError::Checksum }),
            Absent::Register | Absent::Violation => After::End(Cause::OutOfMemory { address: 0 }),
        }
    }

    /// Works on a VM's memory with all that takes. The register page is made if it turns out to be needed, and no
    /// memory is taken beyond what the VM may have.
    pub(crate) fn with_memory<R>(
        &mut self,
        vm: &mut Vm<H>,
        work: impl FnMut(&mut Memory<H::Space>, &mut H, &Shared<'_>, &mut Means<'_>) -> Result<R, Absent>,
    ) -> Result<R, Absent> {
        if !self.may_grow(vm) {
            return Err(Absent::NoMemory);
        }
        self.reach_memory(vm, work)
    }

    /// The same for work that takes no memory, or gives some back.
    pub(crate) fn reach_memory<R>(
        &mut self,
        vm: &mut Vm<H>,
        mut work: impl FnMut(&mut Memory<H::Space>, &mut H, &Shared<'_>, &mut Means<'_>) -> Result<R, Absent>,
    ) -> Result<R, Absent> {
        vm.has_changed = true;
        for is_again in [false, true] {
            let memory = vm.memory.as_mut().ok_or(Absent::Violation)?;
            let template = self.templates.get(vm.template as usize).ok_or(Absent::Violation)?;
            let image = self.images.get(template.image as usize).ok_or(Absent::Violation)?;
            let shared = Shared { image, template, zero: self.zero.mpn() };
            let mut means = Means { swap: &mut self.swap, packer: &mut self.packer };
            match work(memory, &mut self.hw, &shared, &mut means) {
                Err(Absent::Register) if !is_again => self.make_register_page(vm)?,
                result => return result,
            }
        }
        Err(Absent::Violation)
    }
}
