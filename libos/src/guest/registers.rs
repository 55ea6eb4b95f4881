//! The register page.

use core::arch::x86_64::_rdtsc;
use core::ptr::{addr_of, read_volatile};
use virtual_isa::layout::REGISTER_PAGE;
pub use virtual_isa::register::RegisterPage;

const PAGE: *const RegisterPage = REGISTER_PAGE as *const RegisterPage;

/// The virtual registers, as they are now.
#[must_use]
pub fn registers() -> &'static RegisterPage {
    // A later call must see a later generation.
    core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
    // SAFETY: the page is there for as long as the VM is; the kernel writes it only while the VM does not run.
    unsafe { &*core::hint::black_box(PAGE) }
}

/// Nanoseconds of the machine's clock.
pub(crate) fn now_ns() -> u64 {
    // SAFETY: the fields are there and aligned; they may change between two calls, when the VM moves.
    let (base_tsc, base_ns, scale) = unsafe {
        (
            read_volatile(addr_of!((*PAGE).base_tsc)),
            read_volatile(addr_of!((*PAGE).base_ns)),
            read_volatile(addr_of!((*PAGE).scale)),
        )
    };
    // SAFETY: `rdtsc` is part of the ISA.
    let count = unsafe { _rdtsc() }.wrapping_sub(base_tsc);
    let scaled = (u128::from(count) * u128::from(scale)) >> 32;
    base_ns.wrapping_add(u64::try_from(scaled).unwrap_or(u64::MAX))
}

/// Nanoseconds of UTC since 1970.
pub(crate) fn epoch_ns() -> u64 {
    registers().epoch_ns.wrapping_add(now_ns())
}

/// The argument string.
pub(crate) fn argument_string() -> &'static str {
    let page = registers();
    let bytes = page.arguments.get(..page.argument_bytes as usize).unwrap_or(&[]);
    core::str::from_utf8(bytes).unwrap_or("")
}
