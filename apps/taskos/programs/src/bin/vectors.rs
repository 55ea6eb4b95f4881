//! Fills its vector registers and their control words, lets itself be interrupted, and looks whether they are still its
//! own.
#![cfg_attr(firn_program, no_std, no_main)]

#[cfg(firn_program)]
mod registers {
    use core::arch::asm;

    /// Counts of the time-stamp counter that show that somebody else had the processor.
    const GAP: u64 = 20_000;

    /// How often it must have been interrupted.
    const INTERRUPTIONS: u64 = 3;

    /// Looks at the counter, if nothing interrupts it so often.
    const LOOKS: u64 = 3_000_000;

    /// MXCSR and x87 control word as nobody else has them: rounding down, exceptions masked.
    const CONTROL: (u32, u16) = (0x3f80, 0x77f);

    #[repr(align(16))]
    struct Registers([u8; 256]);

    /// Which of the 16 registers or control words has changed, or 0.
    pub fn check(seed: u64) -> u64 {
        let mut before = Registers([0; 256]);
        for (n, byte) in (0u64..).zip(&mut before.0) {
            *byte = seed.wrapping_mul(2 * n + 1).rotate_left(17).to_le_bytes()[0];
        }
        let mut after = Registers([0; 256]);
        let (mut mxcsr, mut x87) = CONTROL;
        // SAFETY: what is read and written is this function's; every register that is changed is named, and the control
        // words are put back to what they were.
        unsafe {
            asm!(
                "movaps xmm0, [r8]", "movaps xmm1, [r8 + 16]", "movaps xmm2, [r8 + 32]", "movaps xmm3, [r8 + 48]",
                "movaps xmm4, [r8 + 64]", "movaps xmm5, [r8 + 80]", "movaps xmm6, [r8 + 96]", "movaps xmm7, [r8 + 112]",
                "movaps xmm8, [r8 + 128]", "movaps xmm9, [r8 + 144]", "movaps xmm10, [r8 + 160]",
                "movaps xmm11, [r8 + 176]", "movaps xmm12, [r8 + 192]", "movaps xmm13, [r8 + 208]",
                "movaps xmm14, [r8 + 224]", "movaps xmm15, [r8 + 240]",
                "ldmxcsr [r10]", "fldcw [r11]",
                "rdtsc", "shl rdx, 32", "or rdx, rax", "mov rdi, rdx",
                // Until it has been interrupted often enough.
                "2:", "rdtsc", "shl rdx, 32", "or rdx, rax", "mov rax, rdx", "sub rax, rdi", "mov rdi, rdx",
                "cmp rax, {gap}", "jb 3f", "dec rsi", "jz 4f",
                "3:", "dec rcx", "jnz 2b",
                "4:",
                "stmxcsr [r10]", "fnstcw [r11]", "fninit",
                "movaps [r9], xmm0", "movaps [r9 + 16], xmm1", "movaps [r9 + 32], xmm2", "movaps [r9 + 48], xmm3",
                "movaps [r9 + 64], xmm4", "movaps [r9 + 80], xmm5", "movaps [r9 + 96], xmm6", "movaps [r9 + 112], xmm7",
                "movaps [r9 + 128], xmm8", "movaps [r9 + 144], xmm9", "movaps [r9 + 160], xmm10",
                "movaps [r9 + 176], xmm11", "movaps [r9 + 192], xmm12", "movaps [r9 + 208], xmm13",
                "movaps [r9 + 224], xmm14", "movaps [r9 + 240], xmm15",
                "push 0x1f80", "ldmxcsr [rsp]", "pop rdx",
                gap = const GAP,
                in("r8") &raw const before, in("r9") &raw mut after,
                in("r10") &raw mut mxcsr, in("r11") &raw mut x87,
                inout("rcx") LOOKS => _, inout("rsi") INTERRUPTIONS => _, out("rdi") _, out("rax") _, out("rdx") _,
                out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _, out("xmm4") _, out("xmm5") _,
                out("xmm6") _, out("xmm7") _, out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
            );
        }
        if (mxcsr, x87) != CONTROL {
            return 17;
        }
        let is_same = |n: &usize| before.0[16 * n..16 * n + 16] == after.0[16 * n..16 * n + 16];
        (0..16).find(|n| !is_same(n)).map_or(0, |n| n as u64 + 1)
    }
}

programs::program!(|argument: u64| registers::check(programs::clock() ^ argument));
