//! The stack against itself, over real ring bytes, with the test as the switch between two VMs.

use super::device::{FrameMemory, Link, Parts};
use super::stack::{Key, Settings, Stack};
use super::{ConnectOptions, Error, ListenOptions, SocketAddr, UdpOptions};
use crate::heap::watched::outside;
use crate::rings::fake::Memory;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::net::Ipv4Addr;
use core::ptr::NonNull;
use core::task::{Poll, Waker};
use virtual_isa::network::{IPV6_PREFIX_BITS, ipv6_of};

mod beginnings;
mod clones;
mod crowds;
mod datagrams;
mod ends;
mod ipv6;
mod storms;
mod transfers;

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1000 * MILLISECOND;
const SERVER: [u8; 4] = [10, 65, 0, 1];
const CLIENT: [u8; 4] = [10, 65, 0, 2];
const GATEWAY: [u8; 6] = [2, 0xf1, 0xff, 0, 0, 2];

/// A VM's rings, whose kernel takes frames only when asked to or when the test says.
struct Rings {
    memory: Memory,
    sent: VecDeque<Vec<u8>>,
    notifications: usize,
    /// A kernel that takes nothing.
    is_stuck: bool,
}

impl Rings {
    fn drain(&mut self) {
        // The kernel's memory is not the VM's.
        outside(|| {
            while !self.is_stuck
                && let Some(frame) = self.memory.kernel_take()
            {
                self.sent.push_back(frame);
            }
        });
    }
}

impl FrameMemory for Rings {
    fn parts(&mut self) -> Parts<'_> {
        let Memory { control, out, inward, .. } = &mut self.memory;
        Parts { control, transmit: out, receive: inward }
    }

    fn notify_transmit(&mut self) {
        self.notifications += 1;
        self.drain();
    }

    /// Whoever still needs what was given back finds something else there.
    fn discard(&mut self, start: NonNull<u8>, bytes: usize) {
        // SAFETY: the pages are the stack's, which says that there is nothing in them.
        unsafe { start.as_ptr().write_bytes(0xa5, bytes) };
    }
}

fn mac(ipv4: [u8; 4]) -> [u8; 6] {
    [2, 0xf1, 0, 0, 0, ipv4[3]]
}

fn rings() -> Rings {
    Rings { memory: Memory::ethernet(), sent: VecDeque::new(), notifications: 0, is_stuck: false }
}

fn settings(ipv4: [u8; 4], max_buffer_bytes: usize) -> Settings {
    let link = Link { mac: mac(ipv4), gateway_mac: GATEWAY, mtu: 1500 };
    let seed = u64::from(ipv4[3]) * 0x1234_5678_9abc;
    let (ipv6, ipv6_prefix_bits) = (ipv6_of(ipv4), IPV6_PREFIX_BITS);
    Settings { link, ipv4, prefix_bits: 10, ipv6, ipv6_prefix_bits, seed, max_buffer_bytes }
}

fn vm(ipv4: [u8; 4], max_buffer_bytes: usize) -> Stack<Rings> {
    Stack::new(rings(), &settings(ipv4, max_buffer_bytes), 1)
}

/// Two VMs and the switch.
struct Lab {
    server: Stack<Rings>,
    client: Stack<Rings>,
    now: u64,
    /// Says of a frame whether it is lost.
    loses: fn(&[u8], usize) -> bool,
    frames: usize,
    /// What went over the switch, if the test wants to see it.
    log: Vec<Vec<u8>>,
}

impl Lab {
    fn new() -> Self {
        Self::with_memory(1 << 20)
    }

    fn with_memory(server_bytes: usize) -> Self {
        Self {
            server: vm(SERVER, server_bytes),
            client: vm(CLIENT, 1 << 24),
            now: 1,
            loses: |_, _| false,
            frames: 0,
            log: Vec::new(),
        }
    }

    /// Carries frames to and fro until nothing moves, without time passing.
    fn settle(&mut self) {
        self.settle_as(CLIENT);
    }

    /// The same, when the client has another address.
    fn settle_as(&mut self, client: [u8; 4]) {
        loop {
            self.server.poll(self.now);
            self.client.poll(self.now);
            let mut has_moved = false;
            has_moved |=
                Self::carry(&mut self.server, &mut self.client, SERVER, self.loses, &mut self.frames, &mut self.log);
            has_moved |=
                Self::carry(&mut self.client, &mut self.server, client, self.loses, &mut self.frames, &mut self.log);
            if !has_moved {
                return;
            }
        }
    }

    fn carry(
        from: &mut Stack<Rings>,
        to: &mut Stack<Rings>,
        source: [u8; 4],
        loses: fn(&[u8], usize) -> bool,
        frames: &mut usize,
        log: &mut Vec<Vec<u8>>,
    ) -> bool {
        from.memory().drain();
        let mut has_moved = false;
        while let Some(frame) = from.memory().sent.front() {
            assert_eq!(frame[..6], GATEWAY);
            assert_eq!(frame[6..12], mac(source));
            match frame[12..14] {
                [8, 0] => assert_eq!(frame[26..30], source),
                [0x86, 0xdd] => assert_eq!(frame[22..38], ipv6_of(source)),
                _ => panic!("{frame:x?}"),
            }
            assert!(frame.len() <= 1514);
            if !loses(frame, *frames) && !to.memory().memory.kernel_put(frame) {
                break;
            }
            *frames += 1;
            has_moved = true;
            log.extend(from.memory().sent.pop_front());
        }
        has_moved
    }

    /// Lets time pass, as the stacks' own deadlines have it.
    fn run(&mut self, duration: u64) {
        let end = self.now + duration;
        loop {
            self.settle();
            let next = self.server.poll_at(self.now).into_iter().chain(self.client.poll_at(self.now)).min();
            self.now = next.unwrap_or(end).clamp(self.now + MILLISECOND, end.max(self.now + MILLISECOND));
            if self.now >= end {
                return self.settle();
            }
        }
    }

    fn dial(&mut self, port: u16) -> Key {
        let to = SocketAddr::new(SERVER.into(), port);
        self.client.connect(to, ConnectOptions::default(), self.now).unwrap()
    }

    fn connected(&mut self, handle: Key) -> Poll<Result<(), Error>> {
        self.client.poll_connected(handle, Waker::noop(), self.now)
    }

    fn accept(&mut self, listener: usize) -> Option<Key> {
        match self.server.poll_accept(listener, Waker::noop()) {
            Poll::Ready((handle, peer)) => {
                assert!([CLIENT.into(), ipv6_of(CLIENT).into()].contains(&peer.ip()));
                Some(handle)
            }
            Poll::Pending => None,
        }
    }

    /// One connection, open on both sides.
    fn open(&mut self, listener: usize) -> (Key, Key) {
        let client = self.dial(80);
        self.settle();
        assert_eq!(self.connected(client), Poll::Ready(Ok(())));
        (self.accept(listener).unwrap(), client)
    }
}

fn any(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port)
}

fn read(stack: &mut Stack<Rings>, handle: Key) -> Poll<Result<Vec<u8>, Error>> {
    let mut bytes = [0; 4096];
    stack.poll_read(handle, &mut bytes, Waker::noop()).map_ok(|n| bytes[..n].to_vec())
}

fn write(stack: &mut Stack<Rings>, handle: Key, bytes: &[u8]) -> usize {
    match stack.poll_write(handle, bytes, Waker::noop()) {
        Poll::Ready(n) => n.unwrap(),
        Poll::Pending => 0,
    }
}
