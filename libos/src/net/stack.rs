//! The TCP/IP stack of a VM: smoltcp's sockets, with what smoltcp leaves to its user: backlogs, closing in the
//! background, and a bound on everything.
//!
//! Nothing is allocated before it is needed: a listener is a port number, a connection gets its buffers when its
//! SYN arrives and gives them back when it is over. The time is an argument.

use super::SocketAddrV4;
use super::backlog::Listener;
use super::device::{FrameMemory, Link, RingDevice};
use super::program::FIRST_EPHEMERAL;
use super::time_wait::{Segment, TimeWait, Verdict};
use alloc::vec;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use smoltcp::iface::{Config, Interface, PollResult, SocketHandle, SocketSet};
use smoltcp::phy::{Device, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{
    HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint, IpProtocol, Ipv4Packet, Ipv4Repr, TcpControl,
    TcpPacket, TcpRepr,
};

const SECOND_NS: u64 = 1_000_000_000;

/// A connection that was begun and not completed by then is forgotten.
const HALF_OPEN_NS: u64 = 5 * SECOND_NS;

/// A `connect` without an answer by then has failed.
pub(super) const CONNECT_NS: u64 = 20 * SECOND_NS;

/// A closed connection whose peer has acknowledged everything may go on sending that long.
const FIN_WAIT_NS: u64 = 10 * SECOND_NS;

/// A closed connection is over by then, whatever its peer does.
pub(super) const LINGER_NS: u64 = 120 * SECOND_NS;

/// Packets taken in one go, before answers go out.
const INGRESS_BATCH: usize = 64;

/// What a stack is built with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub link: Link,
    pub ipv4: [u8; 4],
    pub prefix_bits: u8,
    /// From entropy: sequence numbers and ports are drawn from it.
    pub seed: u64,
    /// Most bytes in the buffers of all sockets together.
    pub max_buffer_bytes: usize,
}

/// What happened to a stack's connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Connections that came in and were completed.
    pub accepted: u64,
    /// SYNs dropped because the listener's backlog was full.
    pub backlog_full: u64,
    /// SYNs dropped because there was no memory for another connection.
    pub memory_full: u64,
    /// Connections that were begun and never completed.
    pub half_open_expired: u64,
    /// Closed connections that were forgotten early.
    pub time_wait_dropped: u64,
    /// Closed connections that were reset because their peer did not end them.
    pub linger_expired: u64,
}

/// Whose a TCP socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// A listener's, half-open.
    HalfOpen(usize),
    /// A listener's, to be accepted.
    Waiting(usize),
    /// The program's, still connecting.
    Connecting,
    /// The program's.
    Program,
    /// Nobody's: the program is done with it, its peer is not.
    Lingering,
}

pub(super) struct Connection {
    pub(super) handle: SocketHandle,
    pub(super) owner: Owner,
    pub(super) deadline_ns: u64,
    buffer_bytes: usize,
}

/// What is to be done with the packet at hand.
enum Screened {
    None,
    Pass,
    Drop,
    Begin(usize),
    Acknowledge(Segment),
}

/// A VM's TCP/IP stack.
pub(crate) struct Stack<M> {
    pub(super) device: RingDevice<M>,
    pub(super) interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    pub(super) connections: Vec<Connection>,
    pub(super) nr_udp: usize,
    pub(super) listeners: Vec<Option<Listener>>,
    time_wait: TimeWait,
    pub(super) address: Ipv4Addr,
    pub(super) next_port: u16,
    pub(super) buffer_bytes: usize,
    pub(super) max_buffer_bytes: usize,
    /// Something was not sent for want of room: only the transmit ring's interrupt helps.
    is_blocked: bool,
    pub counters: Counters,
}

/// The IP layer of the VM that `settings` say.
fn interface_of<M: FrameMemory>(device: &mut RingDevice<M>, settings: &Settings, now_ns: u64) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = settings.seed;
    let mut interface = Interface::new(config, device, micros(now_ns));
    interface.update_ip_addrs(|addresses| {
        // There is room for exactly one.
        let _ = addresses.push(IpCidr::new(IpAddress::Ipv4(Ipv4Addr::from(settings.ipv4)), settings.prefix_bits));
    });
    interface
}

/// The port that is chosen first for who does not care.
fn first_port(seed: u64) -> u16 {
    let ephemeral = u64::from(u16::MAX - FIRST_EPHEMERAL);
    FIRST_EPHEMERAL + u16::try_from((seed >> 16) % ephemeral).unwrap_or(0)
}

/// smoltcp counts microseconds.
fn micros(now_ns: u64) -> Instant {
    Instant::from_micros(i64::try_from(now_ns / 1000).unwrap_or(i64::MAX))
}

/// The IPv4 address in one of smoltcp's.
pub(super) fn address_of(endpoint: IpEndpoint) -> SocketAddrV4 {
    let IpAddress::Ipv4(address) = endpoint.addr;
    SocketAddrV4::new(address, endpoint.port)
}

impl<M: FrameMemory> Stack<M> {
    pub fn new(memory: M, settings: &Settings, now_ns: u64) -> Self {
        let mut device = RingDevice::new(memory, settings.link);
        let interface = interface_of(&mut device, settings, now_ns);
        Self {
            device,
            interface,
            sockets: SocketSet::new(Vec::new()),
            connections: Vec::new(),
            nr_udp: 0,
            listeners: Vec::new(),
            time_wait: TimeWait::new(),
            address: Ipv4Addr::from(settings.ipv4),
            next_port: first_port(settings.seed),
            buffer_bytes: 0,
            max_buffer_bytes: settings.max_buffer_bytes,
            is_blocked: false,
            counters: Counters::default(),
        }
    }

    /// Makes this the stack of the VM that this one has become: another address, other random numbers. Its listeners
    /// stay. Its connections were another VM's: they are over at once, and their peers hear nothing of it, for every
    /// frame would be sent from an address that is not this VM's.
    pub fn renew(&mut self, settings: &Settings, now_ns: u64) {
        self.device.relink(settings.link);
        self.interface = interface_of(&mut self.device, settings, now_ns);
        self.address = Ipv4Addr::from(settings.ipv4);
        self.next_port = first_port(settings.seed);
        self.max_buffer_bytes = settings.max_buffer_bytes;
        self.time_wait = TimeWait::new();
        for connection in &self.connections {
            let socket = self.sockets.get_mut::<tcp::Socket<'_>>(connection.handle);
            // Wakes whoever waits for it. What replaces it has no peer that a reset could be sent to.
            socket.abort();
            *socket = new_socket(0, 0);
        }
    }

    #[cfg(test)]
    pub fn memory(&mut self) -> &mut M {
        self.device.memory()
    }

    /// Whether only room in the transmit ring can help now.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Takes what has arrived, sends what can be sent, and moves every connection on.
    pub fn poll(&mut self, now_ns: u64) {
        let now = micros(now_ns);
        loop {
            self.device.take_blocked();
            let has_more = self.take_packets(now, now_ns);
            while self.interface.poll_egress(now, &mut self.device, &mut self.sockets) == PollResult::SocketStateChanged
            {
            }
            // Resets of what this gives up go out at once.
            if self.sweep(now_ns) {
                self.interface.poll_egress(now, &mut self.device, &mut self.sockets);
            }
            self.is_blocked = self.device.take_blocked();
            if !has_more || self.is_blocked {
                return;
            }
        }
    }

    /// When to poll next if nothing happens.
    pub fn poll_at(&mut self, now_ns: u64) -> Option<u64> {
        let own = self.connections.iter().map(|c| c.deadline_ns).min().filter(|&at| at != u64::MAX);
        let stack = match self.is_blocked {
            true => None,
            false => self.interface.poll_at(micros(now_ns), &self.sockets),
        };
        let stack = stack.map(|at| u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1000));
        let first = own.into_iter().chain(stack).min()?;
        // All that can be done now was done: "at once" can only mean soon.
        Some(first.max(now_ns + SECOND_NS / 1000))
    }

    /// Takes a batch of packets. Returns whether there may be more.
    fn take_packets(&mut self, now: Instant, now_ns: u64) -> bool {
        for _ in 0..INGRESS_BATCH {
            match self.screen(now_ns) {
                Screened::None => return false,
                Screened::Drop => self.device.drop_next(),
                Screened::Acknowledge(segment) => {
                    self.acknowledge(&segment, now);
                    self.device.drop_next();
                }
                // An answer may be due.
                _ if !self.device.has_room() => return false,
                Screened::Pass => {
                    self.interface.poll_ingress_single(now, &mut self.device, &mut self.sockets);
                }
                Screened::Begin(listener) => self.begin(listener, now, now_ns),
            }
        }
        true
    }

    /// Looks at the next packet before smoltcp does.
    fn screen(&mut self, now_ns: u64) -> Screened {
        let Some(packet) = self.device.peek() else { return Screened::None };
        let Some(segment) = Segment::parse(packet) else { return Screened::Pass };
        match self.time_wait.judge(&segment, now_ns) {
            Verdict::Drop => return Screened::Drop,
            Verdict::Acknowledge => return Screened::Acknowledge(segment),
            Verdict::Unknown => {}
        }
        if !segment.opens() || segment.to.0 != self.address || self.find_connection(&segment).is_some() {
            return Screened::Pass;
        }
        let port = segment.to.1;
        let Some(index) = self.listeners.iter().position(|l| l.as_ref().is_some_and(|l| l.port == port)) else {
            // Answered with a reset.
            return Screened::Pass;
        };
        let Some(listener) = &self.listeners[index] else { return Screened::Pass };
        if !listener.has_room() {
            self.counters.backlog_full += 1;
            return Screened::Drop;
        }
        if self.buffer_bytes + listener.options.receive_bytes + listener.options.transmit_bytes > self.max_buffer_bytes
        {
            self.counters.memory_full += 1;
            return Screened::Drop;
        }
        Screened::Begin(index)
    }

    fn find_connection(&self, segment: &Segment) -> Option<&Connection> {
        let remote = IpEndpoint::new(IpAddress::Ipv4(segment.from.0), segment.from.1);
        self.connections.iter().find(|connection| {
            let socket = self.sockets.get::<tcp::Socket<'_>>(connection.handle);
            socket.remote_endpoint() == Some(remote)
                && socket.local_endpoint().is_some_and(|local| local.port == segment.to.1)
        })
    }

    /// Makes a socket for a connection that is asked for, and lets it have its SYN.
    fn begin(&mut self, index: usize, now: Instant, now_ns: u64) {
        let Some(Some(listener)) = self.listeners.get_mut(index) else { return self.device.drop_next() };
        let (port, options) = (listener.port, listener.options);
        let mut socket = new_socket(options.receive_bytes, options.transmit_bytes);
        let endpoint = IpListenEndpoint { addr: Some(IpAddress::Ipv4(self.address)), port };
        if socket.listen(endpoint).is_err() {
            return self.device.drop_next();
        }
        listener.begin();
        let handle = self.add(socket, Owner::HalfOpen(index), now_ns + HALF_OPEN_NS);
        self.interface.poll_ingress_single(now, &mut self.device, &mut self.sockets);
        if self.sockets.get::<tcp::Socket<'_>>(handle).is_listening() {
            // The packet was no good after all (a checksum): nothing listens on after it.
            if let Some(Some(listener)) = self.listeners.get_mut(index) {
                listener.abandon();
            }
            self.remove(handle);
        }
    }

    /// Acknowledges a repeated FIN of a connection that is over.
    fn acknowledge(&mut self, segment: &Segment, now: Instant) {
        let tcp = TcpRepr {
            src_port: segment.to.1,
            dst_port: segment.from.1,
            control: TcpControl::None,
            seq_number: segment.acknowledged,
            ack_number: Some(segment.sequence + segment.length),
            window_len: 0,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let ip = Ipv4Repr {
            src_addr: segment.to.0,
            dst_addr: segment.from.0,
            next_header: IpProtocol::Tcp,
            payload_len: tcp.buffer_len(),
            hop_limit: 64,
        };
        let checksums = self.device.capabilities().checksum;
        let Some(token) = self.device.transmit(now) else { return };
        token.consume(ip.buffer_len() + tcp.buffer_len(), |bytes| {
            let mut packet = Ipv4Packet::new_unchecked(bytes);
            ip.emit(&mut packet, &checksums);
            let (from, to) = (IpAddress::Ipv4(ip.src_addr), IpAddress::Ipv4(ip.dst_addr));
            tcp.emit(&mut TcpPacket::new_unchecked(packet.payload_mut()), &from, &to, &checksums);
        });
    }

    pub(super) fn add(&mut self, socket: tcp::Socket<'static>, owner: Owner, deadline_ns: u64) -> SocketHandle {
        let buffer_bytes = socket.recv_capacity() + socket.send_capacity();
        self.buffer_bytes += buffer_bytes;
        let handle = self.sockets.add(socket);
        self.connections.push(Connection { handle, owner, deadline_ns, buffer_bytes });
        handle
    }

    fn remove(&mut self, handle: SocketHandle) {
        if let Some(index) = self.connections.iter().position(|c| c.handle == handle) {
            let connection = self.connections.swap_remove(index);
            self.buffer_bytes -= connection.buffer_bytes;
            self.sockets.remove(handle);
        }
        self.shrink();
    }

    /// Gives the tables back when there is nothing in them. However small, one that was made in a burst may lie at the
    /// end of a heap that is otherwise free, and hold on to all of it.
    pub(super) fn shrink(&mut self) {
        if self.connections.is_empty() && self.nr_udp == 0 {
            self.connections = Vec::new();
            self.sockets = SocketSet::new(Vec::new());
            self.listeners.iter_mut().flatten().for_each(Listener::trim);
        }
    }

    /// Moves every connection on whose state asks for it. Returns whether one was given up.
    fn sweep(&mut self, now_ns: u64) -> bool {
        let mut has_given_up = false;
        let mut index = 0;
        while let Some(connection) = self.connections.get(index) {
            let handle = connection.handle;
            match self.step(index, now_ns) {
                Step::Keep => index += 1,
                Step::GiveUp => {
                    has_given_up = true;
                    index += 1;
                }
                // The last one takes its place.
                Step::Remove => self.remove(handle),
            }
        }
        has_given_up
    }

    fn step(&mut self, index: usize, now_ns: u64) -> Step {
        let connection = &mut self.connections[index];
        let handle = connection.handle;
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(handle);
        let is_gone = socket.state() == tcp::State::Closed && socket.remote_endpoint().is_none();
        let is_late = now_ns >= connection.deadline_ns;
        match connection.owner {
            Owner::HalfOpen(listener) => {
                let Some(Some(listener_of)) = self.listeners.get_mut(listener) else { return Step::Remove };
                match socket.state() {
                    tcp::State::SynReceived if !is_late => Step::Keep,
                    tcp::State::SynReceived | tcp::State::Closed | tcp::State::Listen => {
                        self.counters.half_open_expired += u64::from(!is_gone);
                        listener_of.abandon();
                        Step::Remove
                    }
                    _ => {
                        connection.owner = Owner::Waiting(listener);
                        connection.deadline_ns = u64::MAX;
                        listener_of.complete(handle);
                        self.counters.accepted += 1;
                        Step::Keep
                    }
                }
            }
            Owner::Waiting(listener) if is_gone => {
                if let Some(Some(listener)) = self.listeners.get_mut(listener) {
                    listener.lose(handle);
                }
                Step::Remove
            }
            Owner::Waiting(_) => Step::Keep,
            Owner::Connecting if is_late && socket.state() == tcp::State::SynSent => {
                socket.abort();
                Step::GiveUp
            }
            Owner::Connecting | Owner::Program => {
                if socket.send_queue() == 0 && socket.state() == tcp::State::Established {
                    // An idle connection may be silent for ever.
                    socket.set_timeout(None);
                }
                Step::Keep
            }
            Owner::Lingering if is_gone => Step::Remove,
            Owner::Lingering => self.step_lingering(index, now_ns),
        }
    }

    fn step_lingering(&mut self, index: usize, now_ns: u64) -> Step {
        let connection = &mut self.connections[index];
        let socket = self.sockets.get_mut::<tcp::Socket<'_>>(connection.handle);
        // Nobody reads it; the end of the stream comes behind it.
        while socket.can_recv() && socket.recv(|bytes| (bytes.len(), bytes.len())).is_ok_and(|n| n > 0) {}
        match socket.state() {
            tcp::State::TimeWait => {
                let ends = socket.remote_endpoint().zip(socket.local_endpoint());
                if let Some((remote, local)) = ends {
                    let IpAddress::Ipv4(peer) = remote.addr;
                    let is_early = self.time_wait.remember((peer, remote.port), local.port, now_ns);
                    self.counters.time_wait_dropped += u64::from(is_early);
                }
                Step::Remove
            }
            tcp::State::FinWait2 if connection.deadline_ns > now_ns.saturating_add(FIN_WAIT_NS) => {
                connection.deadline_ns = now_ns + FIN_WAIT_NS;
                Step::Keep
            }
            _ if now_ns >= connection.deadline_ns => {
                socket.abort();
                connection.deadline_ns = u64::MAX;
                self.counters.linger_expired += 1;
                Step::GiveUp
            }
            _ => Step::Keep,
        }
    }

    #[cfg(test)]
    pub fn usage(&self) -> (usize, usize, usize) {
        (self.connections.len(), self.buffer_bytes, self.time_wait.len())
    }
}

/// What becomes of a connection in a sweep.
enum Step {
    Keep,
    Remove,
    /// It was aborted: a reset is to be sent, and then it is gone.
    GiveUp,
}

pub(super) fn new_socket(receive_bytes: usize, transmit_bytes: usize) -> tcp::Socket<'static> {
    tcp::Socket::new(tcp::SocketBuffer::new(vec![0; receive_bytes]), tcp::SocketBuffer::new(vec![0; transmit_bytes]))
}
