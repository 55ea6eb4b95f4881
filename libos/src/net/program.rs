//! What a program does with the stack: listening, connecting, reading, writing, closing.

use super::backlog::Listener;
use super::device::FrameMemory;
use super::stack::{CONNECT_NS, LINGER_NS, Owner, Stack, address_of, new_socket};
use super::{Error, ListenOptions, SocketAddrV4};
use alloc::vec;
use core::task::{Poll, Waker};
use smoltcp::iface::SocketHandle;
use smoltcp::phy::Device;
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Duration;
use smoltcp::wire::{IpAddress, IpEndpoint, IpListenEndpoint};

/// A peer that acknowledges nothing for that long is given up.
const PEER_TIMEOUT: Duration = Duration::from_secs(60);

/// First port of those that are chosen for who does not care.
pub(super) const FIRST_EPHEMERAL: u16 = 49_152;

/// Datagrams that wait in a UDP socket, each way.
const UDP_PACKETS: usize = 8;

/// Bytes of datagrams that wait in a UDP socket, each way.
const UDP_BYTES: usize = 4096;

impl<M: FrameMemory> Stack<M> {
    fn is_port_free(&self, port: u16) -> bool {
        let is_listened_on = self.listeners.iter().flatten().any(|l| l.port == port);
        let is_connected = self.connections.iter().any(|c| {
            let socket = self.sockets.get::<tcp::Socket<'_>>(c.handle);
            socket.local_endpoint().is_some_and(|local| local.port == port)
        });
        !is_listened_on && !is_connected
    }

    fn choose_port(&mut self) -> Result<u16, Error> {
        for _ in FIRST_EPHEMERAL..=u16::MAX {
            let port = self.next_port;
            self.next_port = port.checked_add(1).unwrap_or(FIRST_EPHEMERAL);
            if self.is_port_free(port) {
                return Ok(port);
            }
        }
        Err(Error::AddressInUse)
    }

    fn check_own(&self, address: SocketAddrV4) -> Result<(), Error> {
        if address.ip().is_unspecified() || *address.ip() == self.address { Ok(()) } else { Err(Error::BadAddress) }
    }

    /// Listens on a port. Returns the listener's number.
    pub fn listen(&mut self, address: SocketAddrV4, options: ListenOptions) -> Result<usize, Error> {
        self.check_own(address)?;
        let port = if address.port() == 0 { self.choose_port()? } else { address.port() };
        if self.listeners.iter().flatten().any(|l| l.port == port) {
            return Err(Error::AddressInUse);
        }
        let listener = Some(Listener::new(port, options));
        if let Some(index) = self.listeners.iter().position(Option::is_none) {
            self.listeners[index] = listener;
            return Ok(index);
        }
        self.listeners.push(listener);
        Ok(self.listeners.len() - 1)
    }

    pub fn listener_address(&self, index: usize) -> Option<SocketAddrV4> {
        let listener = self.listeners.get(index)?.as_ref()?;
        Some(SocketAddrV4::new(self.address, listener.port))
    }

    /// Ends listening. Connections that were not accepted are reset.
    pub fn close_listener(&mut self, index: usize, now_ns: u64) {
        self.listeners[index] = None;
        for connection in &mut self.connections {
            if connection.owner == Owner::HalfOpen(index) || connection.owner == Owner::Waiting(index) {
                self.sockets.get_mut::<tcp::Socket<'_>>(connection.handle).abort();
                connection.owner = Owner::Lingering;
                connection.deadline_ns = now_ns + LINGER_NS;
            }
        }
    }

    /// The next connection of a listener.
    pub fn poll_accept(&mut self, index: usize, waker: &Waker) -> Poll<(SocketHandle, SocketAddrV4)> {
        while let Some(handle) = self.listeners[index].as_mut().and_then(|listener| listener.accept(waker)) {
            let Some(connection) = self.connections.iter_mut().find(|c| c.handle == handle) else { continue };
            connection.owner = Owner::Program;
            let socket = self.sockets.get::<tcp::Socket<'_>>(handle);
            if let Some(remote) = socket.remote_endpoint() {
                return Poll::Ready((handle, address_of(remote)));
            }
            connection.owner = Owner::Lingering;
        }
        Poll::Pending
    }

    /// Begins to connect.
    pub fn connect(&mut self, to: SocketAddrV4, sizes: ListenOptions, now_ns: u64) -> Result<SocketHandle, Error> {
        if self.buffer_bytes + sizes.receive_bytes + sizes.transmit_bytes > self.max_buffer_bytes {
            return Err(Error::NoMemory);
        }
        let port = self.choose_port()?;
        let mut socket = new_socket(sizes.receive_bytes, sizes.transmit_bytes);
        let remote = IpEndpoint::new(IpAddress::Ipv4(*to.ip()), to.port());
        let local = IpListenEndpoint { addr: Some(IpAddress::Ipv4(self.address)), port };
        socket.connect(self.interface.context(), remote, local).map_err(|_| Error::BadAddress)?;
        Ok(self.add(socket, Owner::Connecting, now_ns + CONNECT_NS))
    }

    /// Whether a connection is open by now.
    pub fn poll_connected(&mut self, handle: SocketHandle, waker: &Waker, now_ns: u64) -> Poll<Result<(), Error>> {
        let Some(connection) = self.connections.iter_mut().find(|c| c.handle == handle) else {
            return Poll::Ready(Err(Error::Closed));
        };
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        match socket.state() {
            tcp::State::SynSent | tcp::State::SynReceived => {
                socket.register_send_waker(waker);
                Poll::Pending
            }
            tcp::State::Closed if now_ns >= connection.deadline_ns => Poll::Ready(Err(Error::TimedOut)),
            tcp::State::Closed => Poll::Ready(Err(Error::ConnectionRefused)),
            _ => {
                connection.owner = Owner::Program;
                connection.deadline_ns = u64::MAX;
                Poll::Ready(Ok(()))
            }
        }
    }

    pub fn poll_read(&mut self, handle: SocketHandle, bytes: &mut [u8], waker: &Waker) -> Poll<Result<usize, Error>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        match socket.recv_slice(bytes) {
            Ok(0) => {
                socket.register_recv_waker(waker);
                Poll::Pending
            }
            Ok(n) => Poll::Ready(Ok(n)),
            Err(tcp::RecvError::Finished) => Poll::Ready(Ok(0)),
            Err(tcp::RecvError::InvalidState) => Poll::Ready(Err(Error::ConnectionReset)),
        }
    }

    pub fn poll_write(&mut self, handle: SocketHandle, bytes: &[u8], waker: &Waker) -> Poll<Result<usize, Error>> {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        match socket.send_slice(bytes) {
            Ok(0) if !bytes.is_empty() => {
                socket.register_send_waker(waker);
                Poll::Pending
            }
            Ok(n) => {
                socket.set_timeout(Some(PEER_TIMEOUT));
                Poll::Ready(Ok(n))
            }
            Err(tcp::SendError::InvalidState) => Poll::Ready(Err(match socket.state() {
                tcp::State::Closed => Error::ConnectionReset,
                _ => Error::Closed,
            })),
        }
    }

    /// Ends the stream to the peer.
    pub fn close_write(&mut self, handle: SocketHandle) {
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        socket.set_timeout(Some(PEER_TIMEOUT));
        socket.close();
    }

    /// The program is done with a connection: it is closed in the background.
    pub fn release(&mut self, handle: SocketHandle, now_ns: u64) {
        self.close_write(handle);
        if let Some(connection) = self.connections.iter_mut().find(|c| c.handle == handle) {
            connection.owner = Owner::Lingering;
            connection.deadline_ns = now_ns + LINGER_NS;
        }
    }

    pub fn set_nodelay(&mut self, handle: SocketHandle, nodelay: bool) {
        self.sockets.get_mut::<tcp::Socket<'_>>(handle).set_nagle_enabled(!nodelay);
    }

    /// Peer's and own address of a connection that is one still.
    pub fn addresses(&self, handle: SocketHandle) -> Option<(SocketAddrV4, SocketAddrV4)> {
        let socket = self.sockets.get::<tcp::Socket<'_>>(handle);
        Some((address_of(socket.remote_endpoint()?), address_of(socket.local_endpoint()?)))
    }

    /// Takes datagrams to a port.
    pub fn bind_udp(&mut self, address: SocketAddrV4) -> Result<SocketHandle, Error> {
        self.check_own(address)?;
        let is_taken = |stack: &Self, port| {
            stack.sockets.iter().any(|(_, s)| matches!(s, smoltcp::socket::Socket::Udp(s) if s.endpoint().port == port))
        };
        let mut port = address.port();
        while port == 0 || (address.port() == 0 && is_taken(self, port)) {
            port = self.choose_port()?;
        }
        if is_taken(self, port) {
            return Err(Error::AddressInUse);
        }
        if self.buffer_bytes + 2 * UDP_BYTES > self.max_buffer_bytes {
            return Err(Error::NoMemory);
        }
        let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; UDP_PACKETS], vec![0; UDP_BYTES]);
        let mut socket = udp::Socket::new(buffer(), buffer());
        socket.bind(port).map_err(|_| Error::BadAddress)?;
        self.nr_udp += 1;
        self.buffer_bytes += 2 * UDP_BYTES;
        Ok(self.sockets.add(socket))
    }

    pub fn release_udp(&mut self, handle: SocketHandle) {
        self.sockets.remove(handle);
        self.nr_udp -= 1;
        self.buffer_bytes -= 2 * UDP_BYTES;
        self.shrink();
    }

    pub fn udp_address(&self, handle: SocketHandle) -> SocketAddrV4 {
        SocketAddrV4::new(self.address, self.sockets.get::<udp::Socket<'_>>(handle).endpoint().port)
    }

    pub fn poll_recv_from(
        &mut self,
        handle: SocketHandle,
        bytes: &mut [u8],
        waker: &Waker,
    ) -> Poll<(usize, SocketAddrV4)> {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(handle);
        match socket.recv() {
            Ok((datagram, from)) => {
                let length = datagram.len().min(bytes.len());
                bytes[..length].copy_from_slice(&datagram[..length]);
                Poll::Ready((length, address_of(from.endpoint)))
            }
            Err(_) => {
                socket.register_recv_waker(waker);
                Poll::Pending
            }
        }
    }

    pub fn poll_send_to(
        &mut self,
        handle: SocketHandle,
        bytes: &[u8],
        to: SocketAddrV4,
        waker: &Waker,
    ) -> Poll<Result<(), Error>> {
        let socket = self.sockets.get_mut::<udp::Socket<'_>>(handle);
        // A datagram that needs fragments is not sent: smoltcp is built without them.
        if bytes.len() > socket.payload_send_capacity() || bytes.len() + 28 > self.device.capabilities().ip_mtu() {
            return Poll::Ready(Err(Error::TooLarge));
        }
        match socket.send_slice(bytes, IpEndpoint::new(IpAddress::Ipv4(*to.ip()), to.port())) {
            Ok(()) => Poll::Ready(Ok(())),
            Err(udp::SendError::BufferFull) => {
                socket.register_send_waker(waker);
                Poll::Pending
            }
            Err(udp::SendError::Unaddressable) => Poll::Ready(Err(Error::BadAddress)),
        }
    }
}
