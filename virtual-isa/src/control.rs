//! The control page: what guest and kernel tell each other without a trap.
//!
//! Offsets are in bytes from [`crate::layout::CONTROL_PAGE`]. Each field has one writer, but for the pending
//! bits, which the kernel sets and the guest takes by an atomic swap. Indices run freely modulo 2^32 and count
//! bytes; [`crate::ring`] says how they are read.

use bitflags::bitflags;

/// Pending bits, `u32`. The kernel sets ([`Pending`]), the guest swaps with 0.
pub const PENDING: usize = 0x00;
/// Enabled bits, `u32`, guest writes: only these end an `idle`.
pub const ENABLED: usize = 0x04;
/// Timer deadline in nanoseconds of the machine's clock, `u64`, guest writes; sampled at every exit.
/// 0 and [`crate::instruction::NO_DEADLINE`] both mean none.
pub const DEADLINE: usize = 0x08;
/// Transmit ring: bytes written, `u32`, guest writes.
pub const TRANSMIT_HEAD: usize = 0x10;
/// Transmit ring: bytes taken, `u32`, kernel writes.
pub const TRANSMIT_TAIL: usize = 0x14;
/// Receive ring: bytes written, `u32`, kernel writes.
pub const RECEIVE_HEAD: usize = 0x18;
/// Receive ring: bytes taken, `u32`, guest writes.
pub const RECEIVE_TAIL: usize = 0x1c;
/// Console input: bytes written, `u32`, kernel writes.
pub const CONSOLE_HEAD: usize = 0x20;
/// Console input: bytes taken, `u32`, guest writes.
pub const CONSOLE_TAIL: usize = 0x24;
/// Gate request ring: bytes written, `u32`, guest writes.
pub const REQUEST_HEAD: usize = 0x28;
/// Gate request ring: bytes taken, `u32`, kernel writes.
pub const REQUEST_TAIL: usize = 0x2c;
/// Gate completion ring: bytes written, `u32`, kernel writes.
pub const COMPLETION_HEAD: usize = 0x30;
/// Gate completion ring: bytes taken, `u32`, guest writes.
pub const COMPLETION_TAIL: usize = 0x34;
/// Why the last context came back, 4 words of 8 bytes ([`crate::context::Exit`]), kernel writes.
pub const EXIT: usize = 0x40;
/// The registers of a context, 18 words of 8 bytes ([`crate::context::Context`]): the guest writes what is to be
/// entered, the kernel what came back.
pub const CONTEXT: usize = 0x80;
/// First byte of the console input ring, plain bytes without records.
pub const CONSOLE_INPUT: usize = 0xf00;
/// Bytes in the console input ring.
pub const CONSOLE_INPUT_BYTES: u32 = 256;

const _: () = {
    assert!(CONSOLE_INPUT + CONSOLE_INPUT_BYTES as usize == crate::PAGE_SIZE);
    assert!(CONSOLE_INPUT_BYTES.is_power_of_two());
    assert!(DEADLINE.is_multiple_of(8));
    assert!(COMPLETION_TAIL < EXIT && EXIT + crate::context::EXIT_WORDS * 8 <= CONTEXT);
    assert!(CONTEXT + crate::context::CONTEXT_BYTES <= CONSOLE_INPUT);
};

bitflags! {
    /// What has happened since the guest last looked.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Pending: u32 {
        /// The deadline in the control page has passed.
        const TIMER = 1 << 0;
        /// Frames were put into the receive ring.
        const RECEIVE = 1 << 1;
        /// Bytes were taken from the transmit ring, so that there is room.
        const TRANSMIT = 1 << 2;
        /// Bytes were put into the console input ring.
        const CONSOLE = 1 << 3;
        /// Completions or events were put into the gate's completion ring.
        const GATE = 1 << 4;
    }

    /// Devices that `notify` can name.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Devices: u64 {
        /// The transmit ring has frames.
        const TRANSMIT = 1 << 0;
        /// The receive ring has room again.
        const RECEIVE = 1 << 1;
    }
}
