//! The register page on the host: what a program that is no VM can be told.
//!
//! ```
//! let page = libos::registers();
//! println!("VM {} of generation {}", page.vm, page.generation);
//! ```

use std::sync::OnceLock;
pub use virtual_isa::register::RegisterPage;
use virtual_isa::register::{Features, REGISTER_MAGIC};

/// The virtual registers: number `FIRN_VM` of the environment, or 0, and generation 1.
#[must_use]
pub fn registers() -> &'static RegisterPage {
    static PAGE: OnceLock<RegisterPage> = OnceLock::new();
    PAGE.get_or_init(|| RegisterPage {
        magic: REGISTER_MAGIC,
        isa_version: virtual_isa::ISA_VERSION,
        vm: std::env::var("FIRN_VM").ok().and_then(|vm| vm.parse().ok()).unwrap_or(0),
        generation: 1,
        features: Features::empty().bits(),
        memory_pages: virtual_isa::limits::MIN_MEMORY_PAGES,
        mtu: 1500,
        base_tsc: 0,
        base_ns: 0,
        scale: 0,
        epoch_ns: 0,
        mac: [0; 6],
        gateway_mac: [0; 6],
        ipv4: [127, 0, 0, 1],
        gateway_ipv4: [127, 0, 0, 1],
        prefix_bits: 8,
        argument_bytes: 0,
        arguments: [0; virtual_isa::limits::MAX_ARGUMENT_BYTES],
    })
}
