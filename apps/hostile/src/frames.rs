//! The transmit ring by hand.

use core::sync::atomic::{AtomicU32, Ordering};
use libos::instruction::{Devices, notify};
use virtual_isa::control::{TRANSMIT_HEAD, TRANSMIT_TAIL};
use virtual_isa::layout::{CONTROL_PAGE, TRANSMIT_RING, TRANSMIT_RING_BYTES};

/// A word of the control page.
#[must_use]
pub fn word(at: usize) -> &'static AtomicU32 {
    // SAFETY: the page is there for as long as the VM is, and is used through atomics only.
    unsafe { &*(CONTROL_PAGE as *const AtomicU32).byte_add(at) }
}

/// A frame to this VM itself that the switch would forward: IPv4, from and to its own address.
#[must_use]
pub fn good_frame() -> [u8; 64] {
    let registers = libos::registers();
    let mut frame = [0; 64];
    frame[..6].copy_from_slice(&registers.gateway_mac);
    frame[6..12].copy_from_slice(&registers.mac);
    frame[12..14].copy_from_slice(&[8, 0]);
    // Version and header length, total length, time to live, a protocol for experiments.
    frame[14] = 0x45;
    frame[17] = 50;
    frame[22] = 64;
    frame[23] = 253;
    frame[26..30].copy_from_slice(&registers.ipv4);
    frame[30..34].copy_from_slice(&registers.ipv4);
    frame
}

/// Puts a record at the head of the transmit ring, which must be empty, and has the kernel look. Its length word
/// says `length`, whatever `bytes` are.
pub fn send(bytes: &[u8], length: u32) {
    let head = word(TRANSMIT_HEAD).load(Ordering::Relaxed);
    let at = head % TRANSMIT_RING_BYTES;
    // Programs here send one record or two: it never wraps.
    let room = (TRANSMIT_RING_BYTES - at - 8) as usize;
    let used = bytes.len().min(room);
    // SAFETY: the record lies in the ring, which nobody else uses in this program.
    unsafe {
        let record = (TRANSMIT_RING as *mut u64).byte_add(at as usize);
        record.write_volatile(u64::from(length));
        core::ptr::copy_nonoverlapping(bytes.as_ptr(), record.add(1).cast(), used);
    }
    let taken = u32::try_from(used).unwrap_or(0).next_multiple_of(8) + 8;
    word(TRANSMIT_HEAD).store(head.wrapping_add(taken), Ordering::Release);
    notify(Devices::TRANSMIT);
}

/// Whether the kernel has taken everything.
#[must_use]
pub fn is_taken() -> bool {
    word(TRANSMIT_HEAD).load(Ordering::Relaxed) == word(TRANSMIT_TAIL).load(Ordering::Acquire)
}
