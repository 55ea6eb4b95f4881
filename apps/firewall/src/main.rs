//! Stands between VMs and everybody else: `allow=80,443` lets connections and datagrams to these ports through, `icmp`
//! among the arguments lets ICMP through, and nothing else passes.
#![cfg_attr(firn_guest, no_std, no_main)]

use firewall::{Rules, forward};
use libos::packets::{MAX_PACKET_BYTES, Packets};

/// Packets that were dropped of which the log says so; the others are counted.
const MAX_SAID: u64 = 16;

#[libos::main]
async fn main() -> Result<(), &'static str> {
    let rules = Rules::parse(libos::arguments())?;
    let mut packets = Packets::open().ok_or("packets are there only in a VM")?;
    libos::log::info!("letting through {rules}");
    let mut packet = [0; MAX_PACKET_BYTES];
    let mut dropped = 0u64;
    loop {
        let length = packets.receive(&mut packet).await;
        match forward(&mut packet[..length], &rules) {
            Ok(()) => packets.send(&packet[..length]).await,
            Err(why) => {
                dropped += 1;
                if dropped <= MAX_SAID {
                    libos::log::info!("dropped: {why}");
                } else if dropped.is_power_of_two() {
                    libos::log::info!("{dropped} packets dropped so far");
                }
            }
        }
    }
}
