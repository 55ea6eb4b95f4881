//! The register page: virtual registers, read-only to the guest, written by the kernel alone.

use crate::limits::MAX_ARGUMENT_BYTES;
use crate::network::{MTU, Network};
use bitflags::bitflags;

/// "firnregs", little-endian: tells a guest that it runs on this ISA at all.
pub const REGISTER_MAGIC: u64 = u64::from_le_bytes(*b"firnregs");

bitflags! {
    /// Optional parts of the processor that this VM may use.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Features: u64 {
        /// AVX registers and instructions.
        const AVX = 1 << 0;
        /// `rdtsc`, with the scale in this page.
        const TSC = 1 << 1;
        /// The privilege bit: this VM may use the supervisor gate.
        const SUPERVISOR = 1 << 2;
    }
}

/// The register page, at [`crate::layout::REGISTER_PAGE`].
///
/// Time without a trap: `ns = base_ns + (((tsc - base_tsc) * scale) >> 32)`, with the product in 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RegisterPage {
    /// [`REGISTER_MAGIC`].
    pub magic: u64,
    /// [`crate::ISA_VERSION`] of the kernel.
    pub isa_version: u32,
    /// Number of this VM, unique in the machine.
    pub vm: u32,
    /// Changes when this VM becomes another one (clone, restore): reseed and re-address.
    pub generation: u64,
    /// [`Features`], as bits.
    pub features: u64,
    /// Size of memory in pages.
    pub memory_pages: u32,
    /// Largest frame payload in bytes (without the Ethernet header).
    pub mtu: u32,
    /// Time-stamp counter at `base_ns`.
    pub base_tsc: u64,
    /// Nanoseconds of the machine's clock at `base_tsc`.
    pub base_ns: u64,
    /// Nanoseconds per 2^32 counts.
    pub scale: u64,
    /// Nanoseconds of UTC since 1970 when the machine's clock was 0.
    pub epoch_ns: u64,
    /// Ethernet address of this VM.
    pub mac: [u8; 6],
    /// Ethernet address of the switch as next hop: frames sent to it are forwarded by IP address.
    pub gateway_mac: [u8; 6],
    /// IPv4 address of this VM.
    pub ipv4: [u8; 4],
    /// IPv4 address of the switch as next hop.
    pub gateway_ipv4: [u8; 4],
    /// Bits of the network prefix.
    pub prefix_bits: u32,
    /// Bytes of `arguments` in use.
    pub argument_bytes: u32,
    /// The argument string, UTF-8.
    pub arguments: [u8; MAX_ARGUMENT_BYTES],
}

impl RegisterPage {
    /// Size of the defined part of the page in bytes. The rest of the page is zero.
    pub const BYTES: usize = size_of::<Self>();

    /// What a VM of that number can be told without a look at the machine that it runs on: its addresses and arguments
    /// (as many bytes as there is room for). All else is 0, for the kernel to fill in.
    #[must_use]
    pub fn new(network: &Network, vm: u32, text: &str) -> Self {
        let mut arguments = [0; MAX_ARGUMENT_BYTES];
        let length = text.len().min(MAX_ARGUMENT_BYTES);
        arguments[..length].copy_from_slice(&text.as_bytes()[..length]);
        Self {
            magic: REGISTER_MAGIC,
            isa_version: crate::ISA_VERSION,
            vm,
            generation: 0,
            features: 0,
            memory_pages: 0,
            mtu: u32::try_from(MTU).unwrap_or(u32::MAX),
            base_tsc: 0,
            base_ns: 0,
            scale: 0,
            epoch_ns: 0,
            mac: Network::mac_of(vm),
            gateway_mac: Network::SWITCH_MAC,
            ipv4: network.ipv4_of(vm),
            gateway_ipv4: network.switch_ipv4,
            prefix_bits: u32::from(network.prefix_bits),
            argument_bytes: u32::try_from(length).unwrap_or(0),
            arguments,
        }
    }

    /// Encodes the page as the guest sees it, for a kernel that only writes bytes.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&self.magic.to_le_bytes());
        put(&self.isa_version.to_le_bytes());
        put(&self.vm.to_le_bytes());
        put(&self.generation.to_le_bytes());
        put(&self.features.to_le_bytes());
        put(&self.memory_pages.to_le_bytes());
        put(&self.mtu.to_le_bytes());
        put(&self.base_tsc.to_le_bytes());
        put(&self.base_ns.to_le_bytes());
        put(&self.scale.to_le_bytes());
        put(&self.epoch_ns.to_le_bytes());
        put(&self.mac);
        put(&self.gateway_mac);
        put(&self.ipv4);
        put(&self.gateway_ipv4);
        put(&self.prefix_bits.to_le_bytes());
        put(&self.argument_bytes.to_le_bytes());
        put(&self.arguments);
        bytes
    }
}

// The encoding above writes the fields one after the other: the struct has no holes, and the guest reads the
// same offsets.
const _: () = {
    use core::mem::offset_of;
    assert!(offset_of!(RegisterPage, generation) == 16);
    assert!(offset_of!(RegisterPage, memory_pages) == 32);
    assert!(offset_of!(RegisterPage, base_tsc) == 40);
    assert!(offset_of!(RegisterPage, mac) == 72);
    assert!(offset_of!(RegisterPage, ipv4) == 84);
    assert!(offset_of!(RegisterPage, prefix_bits) == 92);
    assert!(offset_of!(RegisterPage, arguments) == 100);
    assert!(size_of::<RegisterPage>() == 100 + MAX_ARGUMENT_BYTES + 4);
    assert!(size_of::<RegisterPage>() <= crate::PAGE_SIZE);
};
