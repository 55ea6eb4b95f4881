//! The fixed pages, as Rust sees them.

use crate::rings::Control;
use core::slice;
use virtual_isa::layout;

/// The control page.
pub(crate) fn control() -> &'static Control {
    // SAFETY: the page is there for as long as the VM is, and everybody uses it through atomics only.
    unsafe { &*(layout::CONTROL_PAGE as *const Control) }
}

/// The transmit ring.
///
/// # Safety
/// Nobody else may use the ring while the slice lives.
pub(crate) unsafe fn transmit_ring<'a>() -> &'a mut [u8] {
    // SAFETY: mapped for as long as the VM is; the kernel only reads it, and only while this VM is in a trap.
    unsafe { slice::from_raw_parts_mut(layout::TRANSMIT_RING as *mut u8, layout::TRANSMIT_RING_BYTES as usize) }
}

/// The receive ring.
///
/// # Safety
/// No trap may happen while the slice lives: the kernel writes to the ring then.
pub(crate) unsafe fn receive_ring<'a>() -> &'a [u8] {
    // SAFETY: mapped for as long as the VM is, and nobody writes to it outside of traps.
    unsafe { slice::from_raw_parts(layout::RECEIVE_RING as *const u8, layout::RECEIVE_RING_BYTES as usize) }
}

/// The supervisor gate's request ring. Only in a VM with the privilege bit.
///
/// # Safety
/// As [`transmit_ring`].
pub(crate) unsafe fn request_ring<'a>() -> &'a mut [u8] {
    // SAFETY: as the transmit ring.
    unsafe { slice::from_raw_parts_mut(layout::REQUEST_RING as *mut u8, layout::REQUEST_RING_BYTES as usize) }
}

/// The supervisor gate's completion ring. Only in a VM with the privilege bit.
///
/// # Safety
/// As [`receive_ring`].
pub(crate) unsafe fn completion_ring<'a>() -> &'a [u8] {
    // SAFETY: as the receive ring.
    unsafe { slice::from_raw_parts(layout::COMPLETION_RING as *const u8, layout::COMPLETION_RING_BYTES as usize) }
}
