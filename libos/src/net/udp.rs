//! UDP.

use super::{Error, SocketAddr, UdpOptions, backend};

/// A UDP socket.
///
/// ```
/// # libos::block_on(async {
/// use libos::net::UdpSocket;
///
/// let socket = UdpSocket::bind(([127, 0, 0, 1], 0)).unwrap();
/// let own = socket.local_addr().unwrap();
/// socket.send_to(b"to myself", own).await.unwrap();
/// let mut bytes = [0; 64];
/// let (length, from) = socket.recv_from(&mut bytes).await.unwrap();
/// assert_eq!((&bytes[..length], from), (&b"to myself"[..], own));
/// # });
/// ```
#[derive(Debug)]
pub struct UdpSocket(backend::Datagrams);

impl UdpSocket {
    /// Takes datagrams to an address; port 0 chooses a free one. `[::]` takes datagrams of both kinds, `0.0.0.0` those
    /// of IPv4.
    ///
    /// # Errors
    /// If the port is taken, the address is not ours, or there is no memory for it.
    pub fn bind(address: impl Into<SocketAddr>) -> Result<Self, Error> {
        Self::bind_with(address, UdpOptions::default())
    }

    /// Takes datagrams, with other sizes than the usual ones.
    ///
    /// # Errors
    /// As [`UdpSocket::bind`].
    pub fn bind_with(address: impl Into<SocketAddr>, options: UdpOptions) -> Result<Self, Error> {
        backend::Datagrams::bind(address.into(), options).map(Self)
    }

    /// Waits for a datagram. What of it does not fit is lost.
    ///
    /// # Errors
    /// What the host says; none in a VM.
    pub async fn recv_from(&self, bytes: &mut [u8]) -> Result<(usize, SocketAddr), Error> {
        self.0.recv_from(bytes).await
    }

    /// Sends a datagram. At most 1,472 bytes of IPv4, 1,452 of IPv6: what would need fragments is refused.
    ///
    /// # Errors
    /// If it is too large, or the address cannot be reached.
    pub async fn send_to(&self, bytes: &[u8], to: impl Into<SocketAddr>) -> Result<(), Error> {
        self.0.send_to(bytes, to.into()).await
    }

    /// The address it is bound to.
    ///
    /// # Errors
    /// What the host says; none in a VM.
    pub fn local_addr(&self) -> Result<SocketAddr, Error> {
        self.0.local_addr()
    }
}
