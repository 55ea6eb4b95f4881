//! What the processor can do, and switching it on.

use core::arch::asm;
use core::arch::x86_64::{__cpuid, __cpuid_count, CpuidResult};
use core::fmt;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::model_specific::Msr;
use x86_64::registers::xcontrol::XCr0Flags;

/// What the kernel uses when the processor has it.
#[derive(Clone, Copy, Debug, Default)]
#[expect(missing_docs, reason = "named as in the processor manuals")]
pub struct Features {
    pub smep: bool,
    pub smap: bool,
    pub umip: bool,
    pub avx: bool,
    pub xsaveopt: bool,
    pub x2apic: bool,
    pub rdrand: bool,
    pub rdseed: bool,
    pub gigabyte_pages: bool,
    pub global_pages: bool,
    pub machine_check: bool,
    pub ibpb: bool,
    /// The x87 instruction and operand addresses of one guest may stay for the next.
    pub x87_pointers_stay: bool,
    /// User mode may be able to read what is mapped for the kernel alone (Meltdown).
    pub leaks_kernel_memory: bool,
}

/// A leaf of `cpuid`, all zero if the processor does not have it.
pub fn cpuid(leaf: u32, sub: u32) -> CpuidResult {
    let highest = __cpuid(leaf & 0xffff_0000).eax;
    if leaf > highest {
        return CpuidResult { eax: 0, ebx: 0, ecx: 0, edx: 0 };
    }
    __cpuid_count(leaf, sub)
}

/// Who made the processor.
fn vendor() -> [u8; 12] {
    let leaf = cpuid(0, 0);
    let mut name = [0; 12];
    for (bytes, word) in name.chunks_exact_mut(4).zip([leaf.ebx, leaf.edx, leaf.ecx]) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    name
}

/// Whether this is QEMU's emulation, which claims to be any processor and has the defects of none.
fn is_emulated() -> bool {
    let name = __cpuid(0x4000_0000);
    bit(cpuid(1, 0).ecx, 31) && [name.ebx, name.ecx, name.edx] == [0x5447_4354, 0x4354_4743, 0x4743_5447]
}

/// Whether this is a processor of Intel's that does not state to be free of the defect.
fn leaks_kernel_memory(structured_edx: u32) -> bool {
    if vendor() != *b"GenuineIntel" || is_emulated() {
        return false;
    }
    // SAFETY: the register is there, says the feature.
    let is_free = bit(structured_edx, 29) && unsafe { Msr::new(0x10a).read() } & 1 == 1;
    !is_free
}

const fn bit(word: u32, n: u32) -> bool {
    word >> n & 1 == 1
}

impl Features {
    /// Asks the processor.
    pub fn detect() -> Self {
        let basic = cpuid(1, 0);
        let structured = cpuid(7, 0);
        let extended = cpuid(0x8000_0001, 0);
        let amd = cpuid(0x8000_0008, 0);
        let has_xsave = bit(basic.ecx, 26);
        // The upper halves must lie where the standard format has them for every processor so far.
        let upper = cpuid(0xd, 2);
        let has_usual_layout = upper.eax == 256 && upper.ebx == 576;
        Self {
            smep: bit(structured.ebx, 7),
            smap: bit(structured.ebx, 20),
            umip: bit(structured.ecx, 2),
            avx: has_xsave && bit(basic.ecx, 28) && has_usual_layout,
            xsaveopt: has_xsave && bit(cpuid(0xd, 1).eax, 0),
            x2apic: bit(basic.ecx, 21),
            rdrand: bit(basic.ecx, 30),
            rdseed: bit(structured.ebx, 18),
            gigabyte_pages: bit(extended.edx, 26),
            global_pages: bit(basic.edx, 13),
            machine_check: bit(basic.edx, 7),
            ibpb: bit(structured.edx, 26) || bit(amd.ebx, 12),
            x87_pointers_stay: vendor() == *b"AuthenticAMD" && !bit(amd.ebx, 2) && !is_emulated(),
            leaks_kernel_memory: leaks_kernel_memory(structured.edx),
        }
    }

    /// What the kernel cannot do without and this processor lacks.
    pub fn missing() -> Missing {
        let basic = cpuid(1, 0);
        let extended = cpuid(0x8000_0001, 0);
        let has = [
            bit(basic.edx, 4),
            bit(basic.edx, 5),
            bit(basic.edx, 9),
            bit(basic.edx, 24),
            bit(basic.edx, 26),
            bit(basic.ecx, 26) && cpuid(0xd, 0).eax & 3 == 3,
            bit(extended.edx, 11),
            bit(extended.edx, 20),
        ];
        Missing(has.map(|is_there| !is_there))
    }

    /// Switches the processor into the state in which the kernel and its guests run.
    ///
    /// # Safety
    /// The page tables in use must map the kernel with rights under which it can run, none of it for user mode.
    pub unsafe fn enable(&self) {
        let cr0 = Cr0Flags::PROTECTED_MODE_ENABLE
            | Cr0Flags::MONITOR_COPROCESSOR
            | Cr0Flags::EXTENSION_TYPE
            | Cr0Flags::NUMERIC_ERROR
            | Cr0Flags::WRITE_PROTECT
            | Cr0Flags::ALIGNMENT_MASK
            | Cr0Flags::PAGING;
        let mut cr4 =
            Cr4Flags::PHYSICAL_ADDRESS_EXTENSION | Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE | Cr4Flags::OSXSAVE;
        cr4.set(Cr4Flags::PAGE_GLOBAL, self.global_pages);
        cr4.set(Cr4Flags::MACHINE_CHECK_EXCEPTION, self.machine_check);
        cr4.set(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION, self.smep);
        cr4.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, self.smap);
        cr4.set(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, self.umip);
        let mut xcr0 = XCr0Flags::X87 | XCr0Flags::SSE;
        xcr0.set(XCr0Flags::AVX, self.avx);
        // SAFETY: long mode and paging stay as they are; what is switched on only takes rights away (WP, SMEP,
        // SMAP, UMIP) or concerns registers the kernel does not use. Everything else, performance counters in
        // user mode and FSGSBASE among it, is switched off.
        unsafe {
            Cr0::write_raw(cr0.bits());
            Cr4::write_raw(cr4.bits());
            // Written whole, without reading it first: there are accelerators that cannot do the latter.
            asm!("xsetbv", in("ecx") 0, in("eax") xcr0.bits() as u32, in("edx") 0, options(nostack, preserves_flags));
            Efer::write(
                EferFlags::SYSTEM_CALL_EXTENSIONS
                    | EferFlags::LONG_MODE_ENABLE
                    | EferFlags::LONG_MODE_ACTIVE
                    | EferFlags::NO_EXECUTE_ENABLE,
            );
            asm!("mov dr7, {}", in(reg) 0x400_u64, options(nomem, nostack, preserves_flags));
            asm!("lldt {0:x}", in(reg) 0_u64, options(nomem, nostack, preserves_flags));
        }
    }
}

impl fmt::Display for Features {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = [
            (self.smep, "smep"),
            (self.smap, "smap"),
            (self.umip, "umip"),
            (self.avx, "avx"),
            (self.xsaveopt, "xsaveopt"),
            (self.x2apic, "x2apic"),
            (self.rdrand || self.rdseed, "rdrand"),
            (self.gigabyte_pages, "1g-pages"),
            (self.ibpb, "ibpb"),
        ];
        let mut separator = "";
        for (_, name) in names.into_iter().filter(|n| n.0) {
            write!(f, "{separator}{name}")?;
            separator = " ";
        }
        Ok(())
    }
}

/// Missing features, in the order of their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing([bool; 8]);

impl Missing {
    const NAMES: [&str; 8] = ["TSC", "MSR", "APIC", "FXSR", "SSE2", "XSAVE", "SYSCALL", "NX"];

    /// Whether nothing is missing.
    pub const fn is_empty(&self) -> bool {
        matches!(self.0, [false, false, false, false, false, false, false, false])
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (name, _) in Self::NAMES.iter().zip(self.0).filter(|(_, is_missing)| *is_missing) {
            write!(f, "{separator}{name}")?;
            separator = ", ";
        }
        Ok(())
    }
}

/// Random bytes from the processor, 8 at a time.
pub fn random_word(features: &Features) -> Option<u64> {
    for _ in 0..32 {
        let word: u64;
        let ok: u8;
        // SAFETY: the instructions are there, says `features`, and touch only the two registers.
        unsafe {
            if features.rdseed {
                asm!("rdseed {}", "setc {}", out(reg) word, out(reg_byte) ok, options(nomem, nostack));
            } else if features.rdrand {
                asm!("rdrand {}", "setc {}", out(reg) word, out(reg_byte) ok, options(nomem, nostack));
            } else {
                return None;
            }
        }
        // All zeros or all ones is what broken generators answer.
        if ok == 1 && word != 0 && word != u64::MAX {
            return Some(word);
        }
        core::hint::spin_loop();
    }
    None
}
