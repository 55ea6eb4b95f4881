//! Copying bytes: the kernel's `memcpy` and its kin, and copies to and from memory that others may be writing.

use core::arch::global_asm;

global_asm!(include_str!("copy.s"));

unsafe extern "C" {
    // Declared under its own name so that the compiler treats it as a call it knows nothing about: for memory
    // that a guest or a device may be writing, where an ordinary copy would have no meaning in the language.
    #[link_name = "memcpy"]
    fn opaque_copy(to: *mut u8, from: *const u8, bytes: usize) -> *mut u8;
    fn firn_zero_page(to: *mut u8);
}

/// Copies bytes of which somebody else may be writing some: each is copied as it was at some moment.
///
/// # Safety
/// Both ranges are mapped, the second writable, and they do not overlap.
#[inline(always)]
pub unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: as promised by the caller.
    unsafe { opaque_copy(to, from, bytes) };
}

/// Fills a page with zeros.
///
/// # Safety
/// `to` is a mapped, writable, aligned page that belongs to the caller.
#[inline(always)]
pub unsafe fn zero_page(to: *mut u8) {
    // SAFETY: as promised by the caller.
    unsafe { firn_zero_page(to) };
}
