//! What runs in an address space: registers, vector registers included.

use core::fmt;
use virtual_isa::context::Context;

/// Bytes of the vector registers as `xsave64` lays them out: x87 and SSE (512), header (64), AVX (256).
const VECTOR_BYTES: usize = 832;

/// The x87 control word after reset.
const X87_CONTROL: u16 = 0x37f;

/// MXCSR after reset: all exceptions masked.
pub(super) const MXCSR: u32 = 0x1f80;

/// Vector registers while they are not in the processor.
#[derive(Clone)]
#[repr(C, align(64))]
pub(super) struct Vectors([u8; VECTOR_BYTES]);

impl Vectors {
    /// As after reset: all registers 0, and a header that says so.
    const fn new() -> Self {
        let mut bytes = [0; VECTOR_BYTES];
        let [low, high] = X87_CONTROL.to_le_bytes();
        (bytes[0], bytes[1]) = (low, high);
        let mxcsr = MXCSR.to_le_bytes();
        let mut n = 0;
        while n < mxcsr.len() {
            bytes[24 + n] = mxcsr[n];
            n += 1;
        }
        Self(bytes)
    }
}

/// One thread of control: what [`AddressSpace::enter`](super::AddressSpace::enter) runs, and what it leaves.
#[derive(Clone)]
pub struct Thread {
    /// The general registers. Whoever enters may change them between two calls: results, a new instruction pointer.
    pub registers: Context,
    #[cfg_attr(not(firn_guest), expect(dead_code, reason = "the fake processor has none"))]
    pub(super) vectors: Vectors,
}

impl fmt::Debug for Thread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Thread").field("registers", &self.registers).finish_non_exhaustive()
    }
}

impl Thread {
    /// One that begins at an address with a stack, all other registers as after reset.
    #[must_use]
    pub fn new(instruction: u64, stack: u64) -> Self {
        Self { registers: Context::at(instruction, stack), vectors: Vectors::new() }
    }
}
