//! The state of a virtual processor.

/// General registers, instruction pointer and flags, in the order in which the trap path saves them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
#[expect(missing_docs, reason = "named as the processor names them")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rsp: u64,
    pub rflags: u64,
}

impl Registers {
    /// The state in which a VM starts: all zero but for these two.
    #[must_use]
    pub fn at(rip: u64, rsp: u64) -> Self {
        // Interrupts on (bit 9), and the bit that always reads as one.
        Self { rip, rsp, rflags: 0x202, ..Self::default() }
    }
}

/// x87, SSE and AVX state in the processor's standard `XSAVE` format: 512 bytes of legacy area, 64 of header,
/// 256 of upper halves. [`VectorState::new`] is the state after reset.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct VectorState(pub [u8; 832]);

impl VectorState {
    /// The state in which a VM starts.
    #[must_use]
    pub const fn new() -> Self {
        let mut bytes = [0; 832];
        // FCW = 0x037f, MXCSR = 0x1f80: all exceptions masked, as after FNINIT. The header's XSTATE_BV is 0, so
        // that XRSTOR loads initial values for all components; MXCSR is loaded from memory all the same.
        bytes[0] = 0x7f;
        bytes[1] = 0x03;
        bytes[24] = 0x80;
        bytes[25] = 0x1f;
        Self(bytes)
    }
}

impl Default for VectorState {
    fn default() -> Self {
        Self::new()
    }
}
