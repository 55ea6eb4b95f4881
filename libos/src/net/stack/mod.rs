//! The TCP/IP stack of a VM: smoltcp's sockets, with what smoltcp leaves to its user: backlogs, closing in the
//! background, buffers that take memory only while something is in them, and a bound on everything.
//!
//! Nothing is allocated before it is needed: a listener is a port number, a connection gets its socket when its SYN
//! arrives and gives it back when it is over. The time is an argument.
//!
//! `connections` keeps the table, `ingress` looks at packets before smoltcp does, `lifecycle` moves connections on,
//! `program` is what the program does, `buffers` the memory.

mod backlog;
mod buffers;
mod connections;
mod ingress;
mod lifecycle;
mod program;
mod segment;
mod time_wait;

pub(crate) use connections::Key;

use super::device::{FrameMemory, Link, RingDevice};
use alloc::vec::Vec;
use backlog::Listener;
use buffers::Buffers;
use connections::Connections;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use program::{Datagrams, FIRST_EPHEMERAL};
use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpCidr, IpEndpoint};
use time_wait::TimeWait;

const SECOND_NS: u64 = 1_000_000_000;

/// What a stack is built with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub link: Link,
    pub ipv4: [u8; 4],
    pub prefix_bits: u8,
    pub ipv6: [u8; 16],
    pub ipv6_prefix_bits: u8,
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
    /// Segments and datagrams dropped because they are not as they were sent.
    pub bad_checksums: u64,
    /// SYNs dropped because the listener's backlog was full.
    pub backlog_full: u64,
    /// SYNs dropped because there was no memory for another connection.
    pub memory_full: u64,
    /// Connections that were begun and never completed.
    pub half_open_expired: u64,
    /// Connections that were begun and made room for others.
    pub half_open_evicted: u64,
    /// Closed connections that were forgotten early.
    pub time_wait_dropped: u64,
    /// Closed connections that were reset because their peer did not end them.
    pub linger_expired: u64,
    /// Times that the pages of a connection's buffers were given back while it was idle.
    pub buffers_discarded: u64,
}

/// A VM's TCP/IP stack.
pub(crate) struct Stack<M> {
    device: RingDevice<M>,
    interface: Interface,
    connections: Connections,
    /// For packets that belong to no socket.
    nobody: SocketSet<'static>,
    datagrams: Datagrams,
    listeners: Vec<Option<Listener>>,
    time_wait: TimeWait,
    ipv4: Ipv4Addr,
    ipv6: Ipv6Addr,
    next_port: u16,
    buffers: Buffers,
    /// When it was polled last: reading the clock is dear under emulation.
    polled_ns: u64,
    /// When idle buffers are looked for.
    trim_at: Option<u64>,
    /// Something was not taken or sent for want of room: only the transmit ring's interrupt helps.
    is_blocked: bool,
    pub counters: Counters,
}

/// The IP layer of the VM that `settings` say.
fn interface_of<M: FrameMemory>(device: &mut RingDevice<M>, settings: &Settings, now_ns: u64) -> Interface {
    let mut config = Config::new(HardwareAddress::Ip);
    config.random_seed = settings.seed;
    let mut interface = Interface::new(config, device, micros(now_ns));
    interface.update_ip_addrs(|addresses| {
        // There is room for exactly two.
        let _ = addresses.push(IpCidr::new(IpAddr::from(settings.ipv4).into(), settings.prefix_bits));
        let _ = addresses.push(IpCidr::new(IpAddr::from(settings.ipv6).into(), settings.ipv6_prefix_bits));
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

/// The address of one of smoltcp's endpoints.
fn address_of(endpoint: IpEndpoint) -> SocketAddr {
    SocketAddr::new(endpoint.addr.into(), endpoint.port)
}

/// Gives the packet at hand to the sockets of a set. In one place: it is most of the stack.
#[inline(never)]
fn ingest<M: FrameMemory>(
    interface: &mut Interface,
    device: &mut RingDevice<M>,
    set: &mut SocketSet<'static>,
    now: Instant,
) {
    interface.poll_ingress_single(now, device, set);
}

/// Sends one packet of what the sockets of a set have to send. Returns whether there was one. In one place, too.
#[inline(never)]
fn send_one<M: FrameMemory>(
    interface: &mut Interface,
    device: &mut RingDevice<M>,
    set: &mut SocketSet<'static>,
    now: Instant,
) -> bool {
    interface.poll_egress(now, device, set) == PollResult::SocketStateChanged
}

impl<M: FrameMemory> Stack<M> {
    pub fn new(memory: M, settings: &Settings, now_ns: u64) -> Self {
        let mut device = RingDevice::new(memory, settings.link);
        let interface = interface_of(&mut device, settings, now_ns);
        Self {
            device,
            interface,
            connections: Connections::default(),
            nobody: SocketSet::new(Vec::new()),
            datagrams: Datagrams::new(),
            listeners: Vec::new(),
            time_wait: TimeWait::new(),
            ipv4: settings.ipv4.into(),
            ipv6: settings.ipv6.into(),
            next_port: first_port(settings.seed),
            buffers: Buffers::new(settings.max_buffer_bytes),
            polled_ns: now_ns,
            trim_at: None,
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
        (self.ipv4, self.ipv6) = (settings.ipv4.into(), settings.ipv6.into());
        self.next_port = first_port(settings.seed);
        self.buffers.max_bytes = settings.max_buffer_bytes;
        self.time_wait = TimeWait::new();
        for connection in self.connections.iter_mut() {
            let socket = connection.socket_mut();
            // Wakes whoever waits for it. What replaces it has no peer that a reset could be sent to.
            socket.abort();
            *socket = program::dead_socket();
        }
        let keys: Vec<Key> = self.connections.keys().collect();
        keys.into_iter().for_each(|key| self.connections.make_ready(key));
    }

    #[cfg(test)]
    pub fn memory(&mut self) -> &mut M {
        self.device.memory()
    }

    /// Whether only room in the transmit ring can help now.
    pub const fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// This VM's address of the same kind as `other`.
    const fn own_address(&self, other: IpAddr) -> IpAddr {
        match other {
            IpAddr::V4(_) => IpAddr::V4(self.ipv4),
            IpAddr::V6(_) => IpAddr::V6(self.ipv6),
        }
    }

    /// Gives what has arrived to its connections. Returns whether there may be more.
    pub fn take(&mut self, now_ns: u64) -> bool {
        self.polled_ns = now_ns;
        self.device.take_blocked();
        let has_more = self.take_packets(micros(now_ns), now_ns);
        self.is_blocked = self.device.take_blocked();
        has_more
    }

    /// Sends what can be sent, and moves on every connection that has something to do.
    pub fn serve(&mut self, now_ns: u64) {
        let now = micros(now_ns);
        self.polled_ns = now_ns;
        self.connections.make_due_ready(now_ns);
        self.serve_connections(now, now_ns);
        self.serve_datagrams(now);
        self.is_blocked |= self.device.take_blocked();
        if self.trim_at.is_some_and(|at| at <= now_ns) {
            self.trim_buffers(now_ns);
        }
    }

    /// Both, as long as there is something to do.
    #[cfg(test)]
    pub fn poll(&mut self, now_ns: u64) {
        while self.take(now_ns) && !self.is_blocked {
            self.serve(now_ns);
        }
        self.serve(now_ns);
    }

    /// Sends what datagrams wait.
    fn serve_datagrams(&mut self, now: Instant) {
        if core::mem::take(&mut self.datagrams.is_ready) {
            let Self { interface, device, datagrams, .. } = self;
            while send_one(interface, device, &mut datagrams.set, now) {}
            self.datagrams.is_ready = device.is_blocked();
        }
    }

    /// When to poll next if nothing happens.
    pub fn poll_at(&self, now_ns: u64) -> Option<u64> {
        let first = self.connections.next_due().into_iter().chain(self.trim_at).min()?;
        // All that can be done now was done: "at once" can only mean soon.
        Some(first.max(now_ns + SECOND_NS / 1000))
    }

    /// Connections, bytes of their buffers, and connections that are remembered.
    #[cfg(test)]
    pub fn usage(&self) -> (usize, usize, usize) {
        (self.connections.len(), self.buffers.used_bytes(), self.time_wait.len())
    }

    /// Buffers with pages in them.
    #[cfg(test)]
    pub fn touched(&self) -> u32 {
        self.buffers.nr_touched()
    }
}
