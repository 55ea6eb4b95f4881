//! Sizes and limits of sockets.

use core::time::Duration;

/// Bytes that a peer may have on its way to us, unless said otherwise.
const RECEIVE_BYTES: usize = 2048;

/// Bytes that may wait to be sent or acknowledged, unless said otherwise. With the receive buffer: two pages, of which
/// small answers touch one.
const TRANSMIT_BYTES: usize = 6144;

/// What a listener lets in, and what its connections are made of.
///
/// A buffer takes memory as far as it is used, and gives it back when it has been empty for a while: a large one costs
/// nothing until a peer is slow. What all buffers of a VM could take together is bounded by half of its heap; more
/// connections than that are not let in.
///
/// On the host only `backlog` counts.
///
/// ```
/// use libos::net::{ListenOptions, TcpListener};
///
/// # libos::block_on(async {
/// let options = ListenOptions { backlog: 16, transmit_bytes: 64 * 1024, ..ListenOptions::default() };
/// let listener = TcpListener::bind_with(([127, 0, 0, 1], 0), options).unwrap();
/// # });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Most connections that were not accepted yet, half-open ones included. Who comes when there are so many is not
    /// answered, and tries again.
    pub backlog: usize,
    /// Most connections that were begun by their peer and not completed. One that is older than a quarter of a second
    /// makes room for a new one, so that beginnings without an end do not keep others out for long.
    pub half_open: usize,
    /// Bytes that a connection's peer may have on its way to us.
    pub receive_bytes: usize,
    /// Bytes of a connection that may wait to be sent or acknowledged.
    pub transmit_bytes: usize,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { backlog: 128, half_open: 128, receive_bytes: RECEIVE_BYTES, transmit_bytes: TRANSMIT_BYTES }
    }
}

/// What a connection is made of that this side begins. On the host only `timeout` counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectOptions {
    /// How long the peer may take to answer.
    pub timeout: Duration,
    /// Bytes that the peer may have on its way to us.
    pub receive_bytes: usize,
    /// Bytes that may wait to be sent or acknowledged.
    pub transmit_bytes: usize,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(20), receive_bytes: RECEIVE_BYTES, transmit_bytes: TRANSMIT_BYTES }
    }
}

/// What a UDP socket is made of. On the host nothing of it counts.
///
/// ```
/// use libos::net::{UdpOptions, UdpSocket};
///
/// # libos::block_on(async {
/// let options = UdpOptions { datagrams: 64, bytes: 32 * 1024 };
/// let socket = UdpSocket::bind_with(([127, 0, 0, 1], 0), options).unwrap();
/// # });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UdpOptions {
    /// Datagrams that may wait, each way.
    pub datagrams: usize,
    /// Bytes of them, each way.
    pub bytes: usize,
}

impl Default for UdpOptions {
    fn default() -> Self {
        Self { datagrams: 16, bytes: 4096 }
    }
}
