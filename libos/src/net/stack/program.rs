//! What a program does with the stack: listening, connecting, reading, writing, closing.

use super::backlog::Listener;
use super::buffers::Slot;
use super::connections::{Ends, Key, Owner};
use super::lifecycle::{LINGER_NS, PEER_TIMEOUT};
use super::{FrameMemory, Stack, address_of};
use crate::net::{ConnectOptions, Error, ListenOptions, SocketAddr, UdpOptions};
use alloc::vec;
use alloc::vec::Vec;
use core::net::IpAddr;
use core::task::{Poll, Waker};
use smoltcp::iface::{SocketHandle, SocketSet};
use smoltcp::phy::Device;
use smoltcp::socket::{Socket, tcp, udp};
use smoltcp::time::Duration;
use smoltcp::wire::{IpEndpoint, IpListenEndpoint};

/// First port of those that are chosen for who does not care.
pub(super) const FIRST_EPHEMERAL: u16 = 49_152;

/// The UDP sockets of a stack.
pub(super) struct Datagrams {
    pub set: SocketSet<'static>,
    slots: Vec<(SocketHandle, Slot)>,
    /// Something may have to be sent.
    pub is_ready: bool,
}

impl Datagrams {
    pub fn new() -> Self {
        Self { set: SocketSet::new(Vec::new()), slots: Vec::new(), is_ready: false }
    }
}

/// A socket with buffers in `slot`, whose only user it is.
pub(super) fn new_socket(slot: &Slot, receive_bytes: usize, transmit_bytes: usize) -> tcp::Socket<'static> {
    // SAFETY: every slot is made into one socket, which is dropped before the slot is given back.
    let (receive, transmit) = unsafe { slot.split(receive_bytes, transmit_bytes) };
    tcp::Socket::new(tcp::SocketBuffer::new(receive), tcp::SocketBuffer::new(transmit))
}

/// A socket that was never connected and has no memory.
pub(super) fn dead_socket() -> tcp::Socket<'static> {
    new_socket(&Slot::empty(), 0, 0)
}

impl<M: FrameMemory> Stack<M> {
    fn is_port_free(&self, port: u16) -> bool {
        !self.listeners.iter().flatten().any(|l| l.port == port) && !self.connections.has_port(port)
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

    fn check_own(&self, address: SocketAddr) -> Result<(), Error> {
        let ip = address.ip();
        if ip.is_unspecified() || ip == self.own_address(ip) { Ok(()) } else { Err(Error::BadAddress) }
    }

    /// The slot's memory is whatever `discard` leaves.
    fn take_slot(&mut self, bytes: usize) -> Result<Slot, Error> {
        let Self { buffers, device, .. } = self;
        buffers.take(bytes, &mut |start, bytes| device.discard(start, bytes)).ok_or(Error::NoMemory)
    }

    /// Listens on a port. Returns the listener's number.
    pub fn listen(&mut self, address: SocketAddr, options: ListenOptions) -> Result<usize, Error> {
        self.check_own(address)?;
        let port = if address.port() == 0 { self.choose_port()? } else { address.port() };
        if self.listeners.iter().flatten().any(|l| l.port == port) {
            return Err(Error::AddressInUse);
        }
        let listener = Some(Listener::new(port, address.is_ipv4(), options));
        if let Some(index) = self.listeners.iter().position(Option::is_none) {
            self.listeners[index] = listener;
            return Ok(index);
        }
        self.listeners.push(listener);
        Ok(self.listeners.len() - 1)
    }

    pub fn listener_address(&self, index: usize) -> Option<SocketAddr> {
        let listener = self.listeners.get(index)?.as_ref()?;
        let ip = if listener.is_v4_only { self.ipv4.into() } else { self.ipv6.into() };
        Some(SocketAddr::new(ip, listener.port))
    }

    /// Ends listening. Connections that were not accepted are reset.
    pub fn close_listener(&mut self, index: usize, now_ns: u64) {
        self.listeners[index] = None;
        let is_its = |owner| owner == Owner::HalfOpen(index) || owner == Owner::Waiting(index);
        let keys: Vec<Key> = self.connections.keys().collect();
        for key in keys {
            let connection = &mut self.connections[key];
            if is_its(connection.owner) {
                connection.socket_mut().abort();
                connection.owner = Owner::Lingering;
                connection.deadline_ns = now_ns + LINGER_NS;
                self.connections.make_ready(key);
            }
        }
    }

    /// The next connection of a listener.
    pub fn poll_accept(&mut self, index: usize, waker: &Waker) -> Poll<(Key, SocketAddr)> {
        while let Some(key) = self.listeners[index].as_mut().and_then(|listener| listener.accept(waker)) {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            connection.owner = Owner::Program;
            if let Some(remote) = connection.socket().remote_endpoint() {
                return Poll::Ready((key, address_of(remote)));
            }
            connection.owner = Owner::Lingering;
            self.connections.make_ready(key);
        }
        Poll::Pending
    }

    /// Begins to connect.
    pub fn connect(&mut self, to: SocketAddr, options: ConnectOptions, now_ns: u64) -> Result<Key, Error> {
        let port = self.choose_port()?;
        let slot = self.take_slot(options.receive_bytes.saturating_add(options.transmit_bytes))?;
        let mut socket = new_socket(&slot, options.receive_bytes, options.transmit_bytes);
        let remote = IpEndpoint::new(to.ip().into(), to.port());
        let local = IpListenEndpoint { addr: Some(self.own_address(to.ip()).into()), port };
        if socket.connect(self.interface.context(), remote, local).is_err() {
            drop(socket);
            self.buffers.give_back(slot);
            return Err(Error::BadAddress);
        }
        let ends = Ends { port, peer_port: to.port(), peer: to.ip() };
        let deadline_ns = now_ns.saturating_add(u64::try_from(options.timeout.as_nanos()).unwrap_or(u64::MAX));
        Ok(self.connections.add(socket, slot, ends, Owner::Connecting, deadline_ns))
    }

    /// Whether a connection is open by now.
    pub fn poll_connected(&mut self, key: Key, waker: &Waker, now_ns: u64) -> Poll<Result<(), Error>> {
        let Some(connection) = self.connections.get_mut(key) else { return Poll::Ready(Err(Error::Closed)) };
        let is_late = now_ns >= connection.deadline_ns;
        let socket = connection.socket_mut();
        match socket.state() {
            tcp::State::SynSent | tcp::State::SynReceived => {
                socket.register_send_waker(waker);
                Poll::Pending
            }
            tcp::State::Closed if is_late => Poll::Ready(Err(Error::TimedOut)),
            tcp::State::Closed => Poll::Ready(Err(Error::ConnectionRefused)),
            _ => {
                connection.owner = Owner::Program;
                connection.deadline_ns = u64::MAX;
                Poll::Ready(Ok(()))
            }
        }
    }

    pub fn poll_read(&mut self, key: Key, bytes: &mut [u8], waker: &Waker) -> Poll<Result<usize, Error>> {
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let read = self.connections[key].socket_mut().recv_slice(bytes);
        self.read_of(key, read, waker)
    }

    /// Appends what has come, or the first of two parts of it.
    pub fn poll_append(
        &mut self,
        key: Key,
        bytes: &mut Vec<u8>,
        limit: usize,
        waker: &Waker,
    ) -> Poll<Result<usize, Error>> {
        let socket = self.connections[key].socket_mut();
        let appended = socket.recv(|queued| {
            let queued = queued.get(..limit).unwrap_or(queued);
            bytes.reserve_exact(queued.len());
            bytes.extend_from_slice(queued);
            (queued.len(), queued.len())
        });
        self.read_of(key, appended, waker)
    }

    /// What a read comes to.
    fn read_of(&mut self, key: Key, read: Result<usize, tcp::RecvError>, waker: &Waker) -> Poll<Result<usize, Error>> {
        match read {
            Ok(0) => {
                self.connections[key].socket_mut().register_recv_waker(waker);
                Poll::Pending
            }
            Ok(n) => {
                // The peer may have to know that there is room.
                self.connections.make_ready(key);
                Poll::Ready(Ok(n))
            }
            Err(tcp::RecvError::Finished) => Poll::Ready(Ok(0)),
            Err(tcp::RecvError::InvalidState) => Poll::Ready(Err(Error::ConnectionReset)),
        }
    }

    /// Whether a read has something to say.
    #[cfg_attr(not(firn_guest), expect(dead_code, reason = "the host waits in its own way"))]
    pub fn poll_readable(&mut self, key: Key, waker: &Waker) -> Poll<Result<(), Error>> {
        let socket = self.connections[key].socket_mut();
        if socket.recv_queue() > 0 || !socket.may_recv() {
            return Poll::Ready(Ok(()));
        }
        socket.register_recv_waker(waker);
        Poll::Pending
    }

    pub fn poll_write(&mut self, key: Key, bytes: &[u8], waker: &Waker) -> Poll<Result<usize, Error>> {
        let socket = self.connections[key].socket_mut();
        match socket.send_slice(bytes) {
            Ok(0) if !bytes.is_empty() => {
                socket.register_send_waker(waker);
                Poll::Pending
            }
            Ok(n) => {
                socket.set_timeout(Some(PEER_TIMEOUT));
                self.touch(key, self.polled_ns);
                self.connections.make_ready(key);
                Poll::Ready(Ok(n))
            }
            Err(tcp::SendError::InvalidState) => Poll::Ready(Err(match socket.state() {
                tcp::State::Closed => Error::ConnectionReset,
                _ => Error::Closed,
            })),
        }
    }

    /// Ends the stream to the peer.
    pub fn close_write(&mut self, key: Key) {
        let socket = self.connections[key].socket_mut();
        socket.set_timeout(Some(PEER_TIMEOUT));
        socket.close();
        self.connections.make_ready(key);
    }

    /// The program is done with a connection: it is closed in the background.
    pub fn release(&mut self, key: Key, now_ns: u64) {
        self.close_write(key);
        let connection = &mut self.connections[key];
        connection.owner = Owner::Lingering;
        connection.deadline_ns = now_ns + LINGER_NS;
    }

    /// Resets a connection, as a peer does that means harm.
    #[cfg(test)]
    pub fn abort(&mut self, key: Key) {
        self.connections[key].socket_mut().abort();
        self.connections.make_ready(key);
    }

    pub fn set_nodelay(&mut self, key: Key, nodelay: bool) {
        self.connections[key].socket_mut().set_nagle_enabled(!nodelay);
    }

    /// Asks a silent peer whether it is there.
    pub fn set_keepalive(&mut self, key: Key, after: Option<core::time::Duration>) {
        let after =
            after.map(|after| Duration::from_micros(u64::try_from(after.as_micros()).unwrap_or(u64::MAX).max(1)));
        let connection = &mut self.connections[key];
        connection.keepalive = after;
        connection.socket_mut().set_keep_alive(after);
        self.connections.make_ready(key);
    }

    /// Peer's and own address of a connection that is one still.
    pub fn addresses(&self, key: Key) -> Option<(SocketAddr, SocketAddr)> {
        let socket = self.connections[key].socket();
        Some((address_of(socket.remote_endpoint()?), address_of(socket.local_endpoint()?)))
    }

    /// Takes datagrams to a port.
    pub fn bind_udp(&mut self, address: SocketAddr, options: UdpOptions) -> Result<SocketHandle, Error> {
        self.check_own(address)?;
        let is_taken = |stack: &Self, port| {
            stack.datagrams.set.iter().any(|(_, s)| matches!(s, Socket::Udp(s) if s.endpoint().port == port))
        };
        let mut port = address.port();
        while port == 0 || (address.port() == 0 && is_taken(self, port)) {
            port = self.choose_port()?;
        }
        if is_taken(self, port) {
            return Err(Error::AddressInUse);
        }
        let slot = self.take_slot(options.bytes.saturating_mul(2))?;
        // SAFETY: as in `new_socket`.
        let (receive, transmit) = unsafe { slot.split(options.bytes, options.bytes) };
        let headers = || vec![udp::PacketMetadata::EMPTY; options.datagrams.max(1)];
        let (receive, transmit) =
            (udp::PacketBuffer::new(headers(), receive), udp::PacketBuffer::new(headers(), transmit));
        let mut socket = udp::Socket::new(receive, transmit);
        // `[::]` is every address, `0.0.0.0` those of IPv4.
        let addr: Option<IpAddr> =
            (address.ip() != IpAddr::V6(core::net::Ipv6Addr::UNSPECIFIED)).then(|| self.own_address(address.ip()));
        // It is fresh, and the port is not 0.
        let _ = socket.bind(IpListenEndpoint { addr: addr.map(Into::into), port });
        self.buffers.touch(&slot);
        let handle = self.datagrams.set.add(socket);
        self.datagrams.slots.push((handle, slot));
        Ok(handle)
    }

    pub fn release_udp(&mut self, handle: SocketHandle) {
        drop(self.datagrams.set.remove(handle));
        if let Some(index) = self.datagrams.slots.iter().position(|&(other, _)| other == handle) {
            let (_, slot) = self.datagrams.slots.swap_remove(index);
            self.buffers.give_back(slot);
        }
        if self.datagrams.slots.is_empty() {
            self.datagrams = Datagrams::new();
        }
    }

    pub fn udp_address(&self, handle: SocketHandle) -> SocketAddr {
        let endpoint = self.datagrams.set.get::<udp::Socket<'_>>(handle).endpoint();
        let ip = endpoint.addr.map_or(IpAddr::V6(self.ipv6), Into::into);
        SocketAddr::new(ip, endpoint.port)
    }

    pub fn poll_recv_from(
        &mut self,
        handle: SocketHandle,
        bytes: &mut [u8],
        waker: &Waker,
    ) -> Poll<(usize, SocketAddr)> {
        let socket = self.datagrams.set.get_mut::<udp::Socket<'_>>(handle);
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
        to: SocketAddr,
        waker: &Waker,
    ) -> Poll<Result<(), Error>> {
        let socket = self.datagrams.set.get_mut::<udp::Socket<'_>>(handle);
        let header_bytes = if to.is_ipv4() { 20 } else { 40 } + 8;
        // A datagram that needs fragments is not sent: smoltcp is built without them.
        let mtu = self.device.capabilities().ip_mtu();
        if bytes.len() > socket.payload_send_capacity() || bytes.len() + header_bytes > mtu {
            return Poll::Ready(Err(Error::TooLarge));
        }
        let is_bound_to_other = socket.endpoint().addr.is_some_and(|own| IpAddr::from(own).is_ipv4() != to.is_ipv4());
        if is_bound_to_other {
            return Poll::Ready(Err(Error::BadAddress));
        }
        match socket.send_slice(bytes, IpEndpoint::new(to.ip().into(), to.port())) {
            Ok(()) => {
                self.datagrams.is_ready = true;
                Poll::Ready(Ok(()))
            }
            Err(udp::SendError::BufferFull) => {
                socket.register_send_waker(waker);
                Poll::Pending
            }
            Err(udp::SendError::Unaddressable) => Poll::Ready(Err(Error::BadAddress)),
        }
    }
}
