//! Instructions that are not the guest's.

use core::arch::asm;

/// Instructions that must end the VM.
pub const NAMES: [&str; 32] = [
    "hlt",
    "cli",
    "sti",
    "in",
    "out",
    "rdmsr",
    "wrmsr",
    "mov_from_cr0",
    "mov_to_cr3",
    "mov_to_cr4",
    "mov_from_dr7",
    "mov_to_dr7",
    "lgdt",
    "lidt",
    "lldt",
    "ltr",
    "lmsw",
    "clts",
    "invlpg",
    "invd",
    "wbinvd",
    "swapgs",
    "sysret",
    "xsetbv",
    "rdpmc",
    "sgdt",
    "sidt",
    "sldt",
    "str",
    "smsw",
    "int_0x80",
    "ud2",
];

/// Instructions that may have no effect, or end the VM, as the processor has it.
pub const HARMLESS: [&str; 2] = ["iretq", "popfq"];

/// Executes the instruction of that name, or returns false if there is none.
///
/// # Safety
/// The machine must keep the guest from it: otherwise all is lost.
pub unsafe fn execute(name: &str) -> bool {
    let mut space = [0u8; 16];
    let memory = space.as_mut_ptr();
    // SAFETY: that these do nothing is the kernel's promise, and what the caller is here to see.
    unsafe {
        match name {
            "hlt" => asm!("hlt"),
            "cli" => asm!("cli"),
            "sti" => asm!("sti"),
            "in" => asm!("in al, dx", in("dx") 0x3f8u16, out("al") _),
            "out" => asm!("out dx, al", in("dx") 0xf4u16, in("al") 0u8),
            "rdmsr" => asm!("rdmsr", in("ecx") 0xc000_0080u32, out("eax") _, out("edx") _),
            "wrmsr" => asm!("wrmsr", in("ecx") 0xc000_0082u32, in("eax") 0, in("edx") 0),
            "mov_from_cr0" => asm!("mov {}, cr0", out(reg) _),
            "mov_to_cr3" => asm!("mov cr3, {}", in(reg) 0u64),
            "mov_to_cr4" => asm!("mov cr4, {}", in(reg) 0u64),
            "mov_from_dr7" => asm!("mov {}, dr7", out(reg) _),
            "mov_to_dr7" => asm!("mov dr7, {}", in(reg) 0u64),
            "lgdt" => asm!("lgdt [{}]", in(reg) memory),
            "lidt" => asm!("lidt [{}]", in(reg) memory),
            "lldt" => asm!("lldt {0:x}", in(reg) 0u16),
            "ltr" => asm!("ltr {0:x}", in(reg) 0u16),
            "lmsw" => asm!("lmsw {0:x}", in(reg) 0u16),
            "clts" => asm!("clts"),
            "invlpg" => asm!("invlpg [{}]", in(reg) memory),
            "invd" => asm!("invd"),
            "wbinvd" => asm!("wbinvd"),
            "swapgs" => asm!("swapgs"),
            "sysret" => asm!("sysretq"),
            "xsetbv" => asm!("xsetbv", in("ecx") 0, in("eax") 1, in("edx") 0),
            "rdpmc" => asm!("rdpmc", in("ecx") 0, out("eax") _, out("edx") _),
            "sgdt" => asm!("sgdt [{}]", in(reg) memory),
            "sidt" => asm!("sidt [{}]", in(reg) memory),
            "sldt" => asm!("sldt {0:x}", out(reg) _),
            "str" => asm!("str {0:x}", out(reg) _),
            "smsw" => asm!("smsw {0:x}", out(reg) _),
            "int_0x80" => asm!("int 0x80"),
            "ud2" => asm!("ud2"),
            // To where it is, with the flags and segments it has.
            "iretq" => asm!(
                "mov {stack}, rsp",
                "mov {segment}, ss",
                "push {segment}",
                "push {stack}",
                "pushfq",
                "mov {segment}, cs",
                "push {segment}",
                "lea {stack}, [rip + 2f]",
                "push {stack}",
                "iretq",
                "2:",
                stack = out(reg) _,
                segment = out(reg) _,
            ),
            // Interrupts off, all privileges of I/O.
            "popfq" => {
                let flags: u64;
                asm!(
                    "pushfq",
                    "pop {flags}",
                    "and {flags}, -0x201",
                    "or {flags}, 0x3000",
                    "push {flags}",
                    "popfq",
                    "pushfq",
                    "pop {flags}",
                    flags = out(reg) flags,
                );
                if flags & 0x200 == 0 || flags & 0x3000 != 0 {
                    crate::failure(format_args!("popfq changed the flags to {flags:#x}"));
                }
            }
            _ => return false,
        }
    }
    true
}
