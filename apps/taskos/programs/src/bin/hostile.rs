//! Does what no program may. If it is not killed for it, it says so and exits with 1.
#![cfg_attr(firn_program, no_std, no_main)]

#[cfg(firn_program)]
mod attack {
    use core::arch::asm;
    use core::hint::black_box;
    use programs::abi::{HEAP_BASE, INHERITED, PROGRAM_BASE};
    use programs::attacks::Attack;

    /// Where taskos itself is, in physical memory: `virtual_isa::layout::IMAGE_BASE`, which programs do not know.
    const KERNEL: u64 = 0x2_0000;

    /// An instruction that returns.
    static mut DATA: [u8; 16] = [0xc3; 16];

    fn read(address: u64) {
        // SAFETY: none. The kernel must not let it pass.
        black_box(unsafe { (address as *const u8).read_volatile() });
    }

    fn write(address: u64) {
        // SAFETY: none. The kernel must not let it pass.
        unsafe { (address as *mut u8).write_volatile(0xcc) };
    }

    fn jump(address: u64) {
        // SAFETY: none. The kernel must not let it pass.
        unsafe { asm!("call {}", in(reg) address, clobber_abi("C")) };
    }

    fn instruction(number: u64) {
        // SAFETY: none. The kernel must not perform it.
        let _ = unsafe { programs::raw(number, [0; 4]) };
    }

    #[expect(unconditional_recursion, reason = "that is the attack")]
    fn recurse(n: u64) -> u64 {
        let frame = black_box([n; 64]);
        recurse(n + frame[3]) + frame[7]
    }

    fn eat_memory() {
        while let Ok(address) = programs::grow(64) {
            for page in 0..64 {
                write(address + page * 4096);
            }
        }
    }

    fn wait_for_ever() {
        // It holds the only writing end itself.
        if let Ok((reader, _)) = programs::pipe() {
            let _ = programs::read(reader, &mut [0; 8]);
        }
    }

    pub fn run(attack: Attack) {
        match attack {
            Attack::ReadKernel => read(KERNEL),
            Attack::WriteKernel => write(KERNEL),
            Attack::ReadNeighbour => read(HEAP_BASE),
            Attack::ReadNull => read(black_box(0)),
            Attack::ReadRegisters => read(0x1_0000),
            Attack::WriteControl => write(0x1_1000),
            Attack::ReadIsolationKernel => read(0xffff_ffff_8000_0000),
            Attack::ReadNonCanonical => read(1 << 63),
            Attack::WriteText => write(PROGRAM_BASE),
            Attack::JumpToData => jump((&raw const DATA).addr() as u64),
            Attack::JumpToStack => jump(black_box([0xc3u8; 16]).as_ptr().addr() as u64),
            Attack::Terminate => instruction(2),
            Attack::TlbWrite => instruction(9),
            // SAFETY: none of these changes anything that the compiler relies on, if they do anything.
            Attack::Halt => unsafe { asm!("hlt") },
            // SAFETY: as above.
            Attack::Undefined => unsafe { asm!("ud2") },
            // SAFETY: as above.
            Attack::Divide => unsafe { asm!("xor ecx, ecx", "div ecx", out("rax") _, out("rcx") _, out("rdx") _) },
            // SAFETY: as above.
            Attack::Breakpoint => unsafe { asm!("int3") },
            // SAFETY: as above.
            Attack::SingleStep => unsafe { asm!("pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop", "nop") },
            Attack::OverflowStack => {
                black_box(recurse(1));
            }
            Attack::Spin => loop {
                black_box(INHERITED);
            },
            Attack::EatMemory => eat_memory(),
            Attack::WaitForEver => wait_for_ever(),
        }
    }
}

programs::program!(|argument: u64| {
    if let Some(attack) = programs::attacks::Attack::from_word(argument) {
        attack::run(attack);
    }
    programs::print("FAILURE: lived\n");
    1
});
