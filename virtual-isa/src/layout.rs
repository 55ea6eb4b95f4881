//! Where things lie in a guest's physical memory.
//!
//! A VM sees `[0, size)`. All hot pages lie in the first 2 MiB, so that an active VM needs four table pages:
//!
//! ```text
//! 0x00000  never mapped
//! 0x01000  stack, grows down to the hole at 0
//! 0x10000  register page, read-only
//! 0x11000  control page
//! 0x12000  transmit ring
//! 0x13000  receive ring, two pages
//! 0x15000  gate request ring      (supervisor VM only)
//! 0x16000  gate completion ring   (supervisor VM only), two pages
//! 0x20000  image: text, read-only data, data
//! ...      heap, from the end of the image to the end of memory
//! ```

use crate::PAGE_SIZE;

/// Lowest address of the stack. A stack that overflows runs into the hole below, and the VM is terminated.
pub const STACK_BOTTOM: u64 = 0x1000;

/// First address above the stack: the stack pointer a VM starts with.
pub const STACK_TOP: u64 = 0x1_0000;

/// The register page ([`crate::register::RegisterPage`]), read-only.
pub const REGISTER_PAGE: u64 = 0x1_0000;

/// The control page ([`crate::control`]), read-write.
pub const CONTROL_PAGE: u64 = 0x1_1000;

/// The transmit ring: frames from the guest.
pub const TRANSMIT_RING: u64 = 0x1_2000;

/// Bytes in the transmit ring.
pub const TRANSMIT_RING_BYTES: u32 = 4096;

/// The receive ring: frames to the guest.
pub const RECEIVE_RING: u64 = 0x1_3000;

/// Bytes in the receive ring.
pub const RECEIVE_RING_BYTES: u32 = 8192;

/// The supervisor gate's request ring. Mapped only in a VM with the privilege bit.
pub const REQUEST_RING: u64 = 0x1_5000;

/// Bytes in the request ring.
pub const REQUEST_RING_BYTES: u32 = 4096;

/// The supervisor gate's completion ring. Mapped only in a VM with the privilege bit.
pub const COMPLETION_RING: u64 = 0x1_6000;

/// Bytes in the completion ring.
pub const COMPLETION_RING_BYTES: u32 = 8192;

/// Lowest address of an image.
pub const IMAGE_BASE: u64 = 0x2_0000;

/// First address above the largest image (16 MiB).
pub const IMAGE_LIMIT: u64 = 0x100_0000;

/// The number of the page that holds an address.
///
/// ```
/// assert_eq!(virtual_isa::layout::page_of(0x11fff), 0x11);
/// ```
#[must_use]
pub const fn page_of(address: u64) -> u64 {
    address / PAGE_SIZE as u64
}

const _: () = {
    assert!(STACK_TOP <= REGISTER_PAGE);
    assert!(REGISTER_PAGE + PAGE_SIZE as u64 == CONTROL_PAGE);
    assert!(CONTROL_PAGE + PAGE_SIZE as u64 == TRANSMIT_RING);
    assert!(TRANSMIT_RING + TRANSMIT_RING_BYTES as u64 == RECEIVE_RING);
    assert!(RECEIVE_RING + RECEIVE_RING_BYTES as u64 == REQUEST_RING);
    assert!(REQUEST_RING + REQUEST_RING_BYTES as u64 == COMPLETION_RING);
    assert!(COMPLETION_RING + COMPLETION_RING_BYTES as u64 <= IMAGE_BASE);
    assert!(TRANSMIT_RING_BYTES.is_power_of_two() && RECEIVE_RING_BYTES.is_power_of_two());
    assert!(REQUEST_RING_BYTES.is_power_of_two() && COMPLETION_RING_BYTES.is_power_of_two());
};
