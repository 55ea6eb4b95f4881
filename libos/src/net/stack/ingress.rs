//! Packets that have arrived: each is looked at before smoltcp has it, and goes to the one socket that it is for.

use super::backlog::{Admission, Listener};
use super::connections::{Ends, Key, Owner};
use super::lifecycle::HALF_OPEN_NS;
use super::program::new_socket;
use super::segment::{Kind, Segment};
use super::time_wait::Verdict;
use super::{FrameMemory, Stack, ingest};
use crate::net::checksum;
use core::net::IpAddr;
use smoltcp::phy::{Device, TxToken};
use smoltcp::time::Instant;
use smoltcp::wire::{IpListenEndpoint, IpProtocol, IpRepr, TcpControl, TcpPacket, TcpRepr};

/// Packets taken in one go, before answers go out.
const INGRESS_BATCH: usize = 64;

/// What is to be done with the packet at hand.
enum Screened {
    /// There is none.
    None,
    Drop,
    /// It is some connection's.
    Deliver(Key, usize),
    /// It begins a connection.
    Begin(usize, Segment),
    Acknowledge(Segment),
    Datagram,
    /// It is for no socket: smoltcp answers.
    Nobody,
}

impl<M: FrameMemory> Stack<M> {
    /// Takes a batch of packets. Returns whether there may be more.
    pub(super) fn take_packets(&mut self, now: Instant, now_ns: u64) -> bool {
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
                Screened::Deliver(key, data_bytes) => self.deliver(key, data_bytes, now, now_ns),
                Screened::Begin(listener, segment) => self.begin(listener, &segment, now, now_ns),
                Screened::Datagram => {
                    ingest(&mut self.interface, &mut self.device, &mut self.datagrams.set, now);
                    self.datagrams.is_ready = true;
                }
                Screened::Nobody => {
                    ingest(&mut self.interface, &mut self.device, &mut self.nobody, now);
                }
            }
        }
        true
    }

    /// Looks at the next packet before smoltcp does.
    fn screen(&mut self, now_ns: u64) -> Screened {
        let Some(packet) = self.device.peek() else { return Screened::None };
        let segment = match Kind::of(packet) {
            Kind::Other => return Screened::Nobody,
            _ if !checksum::is_right(packet) => {
                self.counters.bad_checksums += 1;
                return Screened::Drop;
            }
            Kind::Tcp(segment) => segment,
            Kind::Udp => return Screened::Datagram,
        };
        match self.time_wait.judge(&segment, now_ns) {
            Verdict::Drop => return Screened::Drop,
            Verdict::Acknowledge => return Screened::Acknowledge(segment),
            Verdict::Unknown => {}
        }
        if let Some(key) = self.connections.find(ends_of(&segment)) {
            return Screened::Deliver(key, segment.data_bytes);
        }
        if !segment.opens() || segment.to.0 != self.own_address(segment.to.0) {
            return Screened::Nobody;
        }
        let (is_v4, port) = (segment.to.0.is_ipv4(), segment.to.1);
        let takes = |listener: &Listener| listener.port == port && (is_v4 || !listener.is_v4_only);
        let Some(index) = self.listeners.iter().position(|l| l.as_ref().is_some_and(takes)) else {
            // Answered with a reset.
            return Screened::Nobody;
        };
        let Some(listener) = &self.listeners[index] else { return Screened::Nobody };
        match listener.admit(now_ns) {
            Admission::Begin => {}
            Admission::Evict(oldest) => {
                self.counters.half_open_evicted += 1;
                self.abandon_half_open(index, oldest);
            }
            Admission::Drop => {
                self.counters.backlog_full += 1;
                return Screened::Drop;
            }
        }
        let Some(listener) = &self.listeners[index] else { return Screened::Nobody };
        if !self.buffers.allows(listener.options.receive_bytes.saturating_add(listener.options.transmit_bytes)) {
            self.counters.memory_full += 1;
            return Screened::Drop;
        }
        Screened::Begin(index, segment)
    }

    /// Gives a packet to its connection.
    fn deliver(&mut self, key: Key, data_bytes: usize, now: Instant, now_ns: u64) {
        let connection = &mut self.connections[key];
        let before = connection.socket().recv_queue();
        ingest(&mut self.interface, &mut self.device, &mut connection.set, now);
        if data_bytes > 0 {
            connection.has_gap |= connection.socket().recv_queue() != before + data_bytes;
            self.touch(key, now_ns);
        }
        self.connections.make_ready(key);
    }

    /// Makes a socket for a connection that is asked for, and lets it have its SYN.
    fn begin(&mut self, index: usize, segment: &Segment, now: Instant, now_ns: u64) {
        let Some(Some(listener)) = self.listeners.get_mut(index) else { return self.device.drop_next() };
        let (port, options) = (listener.port, listener.options);
        let Self { buffers, device, .. } = self;
        let bytes = options.receive_bytes.saturating_add(options.transmit_bytes);
        let Some(slot) = buffers.take(bytes, &mut |start, bytes| device.discard(start, bytes)) else {
            self.counters.memory_full += 1;
            return self.device.drop_next();
        };
        let mut socket = new_socket(&slot, options.receive_bytes, options.transmit_bytes);
        let endpoint = IpListenEndpoint { addr: Some(segment.to.0.into()), port };
        // It is fresh and the port is not 0: it listens.
        let is_listening = socket.listen(endpoint).is_ok();
        let key = self.connections.add(socket, slot, ends_of(segment), Owner::HalfOpen(index), now_ns + HALF_OPEN_NS);
        listener.begin(key, now_ns);
        ingest(&mut self.interface, &mut self.device, &mut self.connections[key].set, now);
        if !is_listening || self.connections[key].socket().is_listening() {
            // The packet was no good after all: nothing listens on after it.
            self.abandon_half_open(index, key);
        }
    }

    /// Forgets a connection that was begun.
    fn abandon_half_open(&mut self, listener: usize, key: Key) {
        if let Some(Some(listener)) = self.listeners.get_mut(listener) {
            listener.abandon(key);
        }
        self.remove(key);
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
        let (own, peer): (IpAddr, IpAddr) = (segment.to.0, segment.from.0);
        let ip = IpRepr::new(own.into(), peer.into(), IpProtocol::Tcp, tcp.buffer_len(), 64);
        let checksums = self.device.capabilities().checksum;
        let Some(token) = self.device.transmit(now) else { return };
        token.consume(ip.buffer_len(), |bytes| {
            ip.emit(&mut *bytes, &checksums);
            let mut packet = TcpPacket::new_unchecked(&mut bytes[ip.header_len()..]);
            tcp.emit(&mut packet, &own.into(), &peer.into(), &checksums);
        });
    }
}

const fn ends_of(segment: &Segment) -> Ends {
    Ends { port: segment.to.1, peer_port: segment.from.1, peer: segment.from.0 }
}
