//! Publishes ring indices and frames that cannot be.
#![cfg_attr(firn_guest, no_std, no_main)]

hostile::only_in_a_vm!();

#[cfg(firn_guest)]
mod attack {
    use core::sync::atomic::Ordering;
    use hostile::frames::{good_frame, is_taken, send, word};
    use libos::instruction::{Devices, notify};
    use virtual_isa::control::{RECEIVE_TAIL, TRANSMIT_HEAD};
    use virtual_isa::layout::TRANSMIT_RING_BYTES;

    /// Publishes a head of the transmit ring.
    fn publish(head: u32) -> ! {
        word(TRANSMIT_HEAD).store(head, Ordering::Release);
        notify(Devices::TRANSMIT);
        hostile::lived()
    }

    /// Sends a frame that must be dropped, and then sees whether the ring still works.
    fn dropped(bytes: &[u8], length: u32) -> ! {
        send(bytes, length);
        if !is_taken() {
            hostile::failure(format_args!("the bad frame was left in the ring"));
        }
        send(&good_frame(), 64);
        if !is_taken() {
            hostile::failure(format_args!("the good frame was left in the ring"));
        }
        hostile::ok()
    }

    #[libos::main]
    async fn main() {
        let how = libos::arguments::get("how").unwrap_or("far");
        libos::log::info!("corrupting: {how}");
        let mut frame = good_frame();
        match how {
            "far" => publish(TRANSMIT_RING_BYTES + 8),
            "backwards" => publish(0u32.wrapping_sub(8)),
            "misaligned" => publish(12),
            "receive_far" => {
                // The kernel looks at the index when it has a frame for this VM: one from itself will do.
                word(RECEIVE_TAIL).store(0x4000_0000, Ordering::Release);
                send(&frame, 64);
                notify(Devices::RECEIVE);
                hostile::lived()
            }
            "length" => dropped(&frame, 65_535),
            "short" => dropped(&frame[..13], 13),
            "long" => dropped(&long_frame(), 1515),
            "spoofed_mac" => {
                frame[11] ^= 1;
                dropped(&frame, 64)
            }
            "spoofed_ip" => {
                frame[29] ^= 1;
                dropped(&frame, 64)
            }
            "unknown" => {
                frame[12..14].copy_from_slice(&[0x88, 0xb5]);
                dropped(&frame, 64)
            }
            "arp" => {
                frame[12..14].copy_from_slice(&[8, 6]);
                dropped(&frame, 64)
            }
            _ => hostile::failure(format_args!("how={how} is unknown")),
        }
    }

    fn long_frame() -> [u8; 1515] {
        let mut long = [0; 1515];
        long[..64].copy_from_slice(&good_frame());
        // The IP packet says that it fills the frame.
        long[16..18].copy_from_slice(&1501u16.to_be_bytes());
        long
    }
}
