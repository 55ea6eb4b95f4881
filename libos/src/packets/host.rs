//! The host has no packets for a program.

use core::convert::Infallible;

/// All packets of this VM; there are none on the host.
#[derive(Debug)]
pub struct Packets(Infallible);

impl Packets {
    /// Takes the VM's packets. `None` if somebody has them already, and on the host.
    #[must_use]
    pub fn open() -> Option<Self> {
        None
    }

    /// Waits for a packet, and copies it. Returns its length; what does not fit is cut off.
    pub async fn receive(&mut self, _packet: &mut [u8]) -> usize {
        match self.0 {}
    }

    /// Sends a packet, when there is room. What is not of the Internet Protocol, or longer than a packet can be, is dropped.
    pub async fn send(&mut self, _packet: &[u8]) {
        match self.0 {}
    }
}
