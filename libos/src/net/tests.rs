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

mod clones;
mod crowds;
mod ipv6;
mod storms;

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

#[test]
fn a_request_is_answered_and_both_sides_give_everything_back() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    assert_eq!(lab.server.usage(), (0, 0, 0));
    let (server, client) = lab.open(listener);
    let (peer, own) = lab.server.addresses(server).unwrap();
    assert_eq!(Some(own), lab.server.listener_address(listener));
    assert_eq!(Some((own, peer)), lab.client.addresses(client));
    assert_eq!(write(&mut lab.client, client, b"request"), 7);
    lab.settle();
    assert_eq!(read(&mut lab.server, server), Poll::Ready(Ok(b"request".to_vec())));
    lab.log.clear();
    assert_eq!(write(&mut lab.server, server, b"answer"), 6);
    lab.server.release(server, lab.now);
    lab.settle();
    // Answer and end of stream are one frame.
    let flags = lab.log[0][14 + 20 + 13];
    assert_eq!(flags & 1, 1, "the first frame has the FIN");
    assert!(lab.log[0].ends_with(b"answer"));
    let mut answer = b"its ".to_vec();
    let mut append = |bytes: &mut Vec<u8>| lab.client.poll_append(client, bytes, 4, Waker::noop());
    assert_eq!(append(&mut answer), Poll::Ready(Ok(4)));
    assert_eq!(append(&mut answer), Poll::Ready(Ok(2)));
    assert_eq!((append(&mut answer), &answer[..]), (Poll::Ready(Ok(0)), &b"its answer"[..]));
    lab.client.release(client, lab.now);
    lab.run(SECOND);
    // The server closed first: it remembers, but holds no buffers.
    assert_eq!(lab.server.usage(), (0, 0, 1));
    assert_eq!(lab.client.usage(), (0, 0, 0));
}

#[test]
fn small_writes_wait_for_each_other_unless_told_not_to() {
    for (nodelay, frames) in [(false, 1), (true, 3)] {
        let mut lab = Lab::new();
        let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
        let (server, _) = lab.open(listener);
        lab.server.set_nodelay(server, nodelay);
        for piece in [b"one", b"two", b"six"] {
            write(&mut lab.server, server, piece);
            lab.server.poll(lab.now);
        }
        lab.server.memory().drain();
        assert_eq!(lab.server.memory().sent.len(), frames);
    }
}

#[test]
fn a_closed_port_refuses_at_once() {
    let mut lab = Lab::new();
    let client = lab.dial(81);
    lab.settle();
    assert_eq!(lab.connected(client), Poll::Ready(Err(Error::ConnectionRefused)));
    lab.client.release(client, lab.now);
    lab.run(SECOND);
    assert_eq!(lab.client.usage(), (0, 0, 0));
}

#[test]
fn many_connections_at_once_find_a_backlog() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions { backlog: 100, ..ListenOptions::default() }).unwrap();
    let clients: Vec<_> = (0..100).map(|_| lab.dial(80)).collect();
    lab.settle();
    assert!(clients.iter().all(|&client| lab.connected(client) == Poll::Ready(Ok(()))));
    let accepted: Vec<_> = core::iter::from_fn(|| lab.accept(listener)).collect();
    assert_eq!(accepted.len(), 100);
    assert_eq!(lab.server.counters.accepted, 100);
    assert_eq!(lab.server.counters.backlog_full, 0);
}

#[test]
fn a_full_backlog_drops_and_the_dropped_come_in_when_there_is_room() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions { backlog: 3, ..ListenOptions::default() }).unwrap();
    let clients: Vec<_> = (0..5).map(|_| lab.dial(80)).collect();
    lab.settle();
    let open = clients.iter().filter(|&&client| lab.connected(client) == Poll::Ready(Ok(()))).count();
    assert_eq!(open, 3);
    assert_eq!(lab.server.counters.backlog_full, 2);
    while lab.accept(listener).is_some() {}
    lab.run(5 * SECOND);
    assert!(clients.iter().all(|&client| lab.connected(client) == Poll::Ready(Ok(()))));
}

#[test]
fn memory_bounds_the_connections() {
    let mut lab = Lab::with_memory(4 * 8192 + 100);
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    let clients: Vec<_> = (0..6).map(|_| lab.dial(80)).collect();
    lab.settle();
    let open = clients.iter().filter(|&&client| lab.connected(client) == Poll::Ready(Ok(()))).count();
    assert_eq!(open, 4);
    assert_eq!(lab.server.counters.memory_full, 2);
    assert_eq!(lab.server.usage().1, 4 * 8192);
    for _ in 0..4 {
        let server = lab.accept(listener).unwrap();
        lab.server.release(server, lab.now);
    }
    for &client in &clients {
        lab.client.release(client, lab.now);
    }
    lab.run(20 * SECOND);
    assert_eq!(lab.server.usage().1, 0);
}

#[test]
fn half_open_connections_are_forgotten() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions { backlog: 4, ..ListenOptions::default() }).unwrap();
    // Answers to the client never arrive.
    lab.loses = |frame, _| frame[26..30] == SERVER;
    for _ in 0..4 {
        lab.dial(80);
    }
    lab.settle();
    assert_eq!(lab.server.usage().0, 4);
    lab.client = vm(CLIENT, 1 << 20);
    lab.run(10 * SECOND);
    assert_eq!(lab.server.usage(), (0, 0, 0));
    assert_eq!(lab.server.counters.half_open_expired, 4);
    lab.loses = |_, _| false;
    lab.open(listener);
}

#[test]
fn a_syn_with_a_bad_checksum_leaves_nothing() {
    let mut lab = Lab::new();
    lab.server.listen(any(80), ListenOptions::default()).unwrap();
    lab.dial(80);
    lab.client.poll(lab.now);
    lab.client.memory().drain();
    let mut frame = lab.client.memory().sent.pop_front().unwrap();
    frame[14 + 20 + 16] ^= 0xff;
    assert!(lab.server.memory().memory.kernel_put(&frame));
    lab.server.poll(lab.now);
    assert_eq!(lab.server.usage(), (0, 0, 0));
    lab.server.memory().drain();
    assert!(lab.server.memory().sent.is_empty());
}

#[test]
fn frames_that_are_no_packets_are_dropped_and_the_rest_goes_on() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    let mut arp = [0u8; 42];
    arp[12..14].copy_from_slice(&[8, 6]);
    let mut nonsense = [0xffu8; 60];
    nonsense[12..14].copy_from_slice(&[8, 0]);
    for frame in [&arp[..], &[1; 13], &[], &nonsense, &nonsense[..14]] {
        assert!(lab.server.memory().memory.kernel_put(frame));
    }
    lab.open(listener);
    assert_eq!(lab.server.usage().0, 1);
}

#[test]
fn a_large_transfer_survives_losses_and_a_small_transmit_ring() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    let (server, client) = lab.open(listener);
    lab.loses = |_, n| n % 29 == 28;
    let data: Vec<u8> = (0..100_000u32).map(|i| (i * 7 % 253).to_le_bytes()[0]).collect();
    let (mut sent, mut received) = (0, Vec::new());
    for _ in 0..20_000 {
        if sent < data.len() {
            sent += write(&mut lab.server, server, &data[sent..]);
            if sent == data.len() {
                lab.server.close_write(server);
            }
        }
        lab.run(5 * MILLISECOND);
        match read(&mut lab.client, client) {
            Poll::Ready(Ok(bytes)) if bytes.is_empty() => break,
            Poll::Ready(Ok(bytes)) => received.extend(bytes),
            Poll::Ready(Err(e)) => panic!("{e}"),
            Poll::Pending => {}
        }
    }
    assert_eq!(received.len(), data.len());
    assert!(received == data);
}

#[test]
fn a_stuck_kernel_blocks_and_nothing_is_lost() {
    let mut lab = Lab::new();
    let options = ListenOptions { transmit_bytes: 16_384, ..ListenOptions::default() };
    let listener = lab.server.listen(any(80), options).unwrap();
    let to = SocketAddr::new(SERVER.into(), 80);
    let client =
        lab.client.connect(to, ConnectOptions { receive_bytes: 16_384, ..ConnectOptions::default() }, lab.now).unwrap();
    lab.settle();
    let server = lab.accept(listener).unwrap();
    lab.server.memory().is_stuck = true;
    assert_eq!(write(&mut lab.server, server, &[7; 12_000]), 12_000);
    lab.server.poll(lab.now);
    assert!(lab.server.is_blocked());
    assert!(lab.server.memory().notifications > 0);
    // Only the interrupt helps: there is no timer to spin on.
    assert!(lab.server.poll_at(lab.now).is_none_or(|at| at > lab.now));
    lab.server.memory().is_stuck = false;
    lab.run(SECOND);
    assert!(!lab.server.is_blocked());
    let mut received = 0;
    while let Poll::Ready(Ok(bytes)) = read(&mut lab.client, client) {
        received += bytes.len();
        lab.run(100 * MILLISECOND);
    }
    assert_eq!(received, 12_000);
}

#[test]
fn each_side_can_end_its_own_stream() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    let (server, client) = lab.open(listener);
    write(&mut lab.client, client, b"all");
    lab.client.close_write(client);
    lab.settle();
    assert_eq!(read(&mut lab.server, server), Poll::Ready(Ok(b"all".to_vec())));
    assert_eq!(read(&mut lab.server, server), Poll::Ready(Ok(Vec::new())));
    assert_eq!(lab.client.poll_write(client, b"more", Waker::noop()), Poll::Ready(Err(Error::Closed)));
    assert_eq!(write(&mut lab.server, server, b"late answer"), 11);
    lab.settle();
    assert_eq!(read(&mut lab.client, client), Poll::Ready(Ok(b"late answer".to_vec())));
    lab.server.release(server, lab.now);
    lab.client.release(client, lab.now);
    lab.run(SECOND);
    assert_eq!(lab.server.usage(), (0, 0, 0));
    // This time the client was first.
    assert_eq!(lab.client.usage(), (0, 0, 1));
}

#[test]
fn a_peer_that_never_ends_its_stream_is_given_up() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    let (server, client) = lab.open(listener);
    lab.server.release(server, lab.now);
    lab.run(SECOND);
    assert_eq!(lab.server.usage().0, 1);
    lab.run(15 * SECOND);
    assert_eq!(lab.server.usage(), (0, 0, 0));
    assert_eq!(lab.server.counters.linger_expired, 1);
    assert_eq!(read(&mut lab.client, client), Poll::Ready(Ok(Vec::new())));
    assert_eq!(lab.client.poll_write(client, b"x", Waker::noop()), Poll::Ready(Err(Error::ConnectionReset)));
}

#[test]
fn an_idle_connection_stays_for_ever_and_a_dead_peer_does_not() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    let (server, client) = lab.open(listener);
    write(&mut lab.client, client, b"x");
    lab.settle();
    assert_eq!(read(&mut lab.server, server), Poll::Ready(Ok(b"x".to_vec())));
    write(&mut lab.server, server, b"y");
    lab.run(600 * SECOND);
    assert_eq!(read(&mut lab.client, client), Poll::Ready(Ok(b"y".to_vec())));
    assert_eq!(write(&mut lab.client, client, b"still here"), 10);
    lab.settle();
    assert_eq!(read(&mut lab.server, server), Poll::Ready(Ok(b"still here".to_vec())));
    lab.loses = |_, _| true;
    assert_eq!(write(&mut lab.server, server, b"anybody?"), 8);
    lab.run(120 * SECOND);
    assert_eq!(read(&mut lab.server, server), Poll::Ready(Err(Error::ConnectionReset)));
}

#[test]
fn nobody_answers_a_connect_times_out() {
    let mut lab = Lab::new();
    lab.loses = |_, _| true;
    let client = lab.dial(80);
    lab.run(30 * SECOND);
    assert_eq!(lab.connected(client), Poll::Ready(Err(Error::TimedOut)));
}

#[test]
fn thousands_of_connections_one_after_the_other_leave_a_bounded_trace() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    for _ in 0..3000 {
        let (server, client) = lab.open(listener);
        write(&mut lab.server, server, b"hello");
        lab.server.release(server, lab.now);
        lab.settle();
        lab.client.release(client, lab.now);
        lab.settle();
        lab.now += MILLISECOND;
    }
    assert_eq!(lab.server.usage(), (0, 0, 32));
    assert_eq!(lab.server.counters.accepted, 3000);
    assert!(lab.server.counters.time_wait_dropped > 2900);
}

#[test]
fn a_repeated_fin_is_acknowledged_after_the_end() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    let (server, client) = lab.open(listener);
    lab.server.release(server, lab.now);
    lab.settle();
    // The server's last acknowledgement, of the client's FIN, is lost.
    lab.client.release(client, lab.now);
    lab.loses = |frame, _| frame[26..30] == SERVER;
    lab.settle();
    assert_eq!(lab.server.usage(), (0, 0, 1));
    assert_eq!(lab.client.usage().0, 1);
    lab.loses = |_, _| false;
    lab.run(5 * SECOND);
    assert_eq!(lab.client.usage(), (0, 0, 0));
    let last = lab.log.last().unwrap();
    assert_eq!(last[14 + 20 + 13], 0x10, "an acknowledgement and not a reset");
}

#[test]
fn closing_a_listener_resets_who_waits_and_frees_the_port() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any(80), ListenOptions::default()).unwrap();
    assert_eq!(lab.server.listen(any(80), ListenOptions::default()), Err(Error::AddressInUse));
    let elsewhere = SocketAddr::from(([10, 65, 0, 9], 80));
    assert_eq!(lab.server.listen(elsewhere, ListenOptions::default()), Err(Error::BadAddress));
    let client = lab.dial(80);
    lab.settle();
    assert_eq!(lab.connected(client), Poll::Ready(Ok(())));
    lab.server.close_listener(listener, lab.now);
    lab.run(SECOND);
    assert_eq!(read(&mut lab.client, client), Poll::Ready(Err(Error::ConnectionReset)));
    assert_eq!(lab.server.usage(), (0, 0, 0));
    assert!(lab.server.listen(any(80), ListenOptions::default()).is_ok());
}

#[test]
fn datagrams_go_both_ways_and_too_large_ones_are_refused() {
    let mut lab = Lab::new();
    let server = lab.server.bind_udp(any(7), UdpOptions::default()).unwrap();
    assert_eq!(lab.server.bind_udp(any(7), UdpOptions::default()), Err(Error::AddressInUse));
    let client = lab.client.bind_udp(any(0), UdpOptions::default()).unwrap();
    let from = lab.client.udp_address(client);
    let to = SocketAddr::new(SERVER.into(), 7);
    assert_eq!(lab.client.poll_send_to(client, b"ping", to, Waker::noop()), Poll::Ready(Ok(())));
    assert_eq!(lab.client.poll_send_to(client, &[0; 1473], to, Waker::noop()), Poll::Ready(Err(Error::TooLarge)));
    assert_eq!(lab.client.poll_send_to(client, &[5; 1472], to, Waker::noop()), Poll::Ready(Ok(())));
    lab.settle();
    let mut bytes = [0; 2000];
    assert_eq!(lab.server.poll_recv_from(server, &mut bytes, Waker::noop()), Poll::Ready((4, from)));
    assert_eq!(bytes[..4], *b"ping");
    assert_eq!(lab.server.poll_recv_from(server, &mut bytes[..10], Waker::noop()), Poll::Ready((10, from)));
    assert!(lab.server.poll_recv_from(server, &mut bytes, Waker::noop()).is_pending());
    assert_eq!(lab.server.poll_send_to(server, b"pong", from, Waker::noop()), Poll::Ready(Ok(())));
    lab.settle();
    assert_eq!(lab.client.poll_recv_from(client, &mut bytes, Waker::noop()), Poll::Ready((4, to)));
    lab.server.release_udp(server);
    assert_eq!(lab.server.usage().1, 0);
    assert!(lab.server.bind_udp(any(7), UdpOptions::default()).is_ok());
}

#[test]
fn sockets_of_the_host_behave_the_same() {
    crate::block_on(async {
        use super::{TcpListener, TcpStream, UdpSocket};
        let listener = TcpListener::bind(([127, 0, 0, 1], 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = crate::task::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let mut bytes = [0; 100];
            let mut total = 0;
            loop {
                match stream.read(&mut bytes).await.unwrap() {
                    0 => break,
                    n => total += n,
                }
            }
            stream.write_all(&[9; 10]).await.unwrap();
            total
        });
        let client = TcpStream::connect(address).await.unwrap();
        client.set_nodelay(true).unwrap();
        client.write_all(&[1; 1000]).await.unwrap();
        client.close_write().unwrap();
        let mut bytes = [0; 100];
        assert_eq!(client.read(&mut bytes).await, Ok(10));
        assert_eq!(client.read(&mut bytes).await, Ok(0));
        assert_eq!(server.await, 1000);

        let socket = UdpSocket::bind(([127, 0, 0, 1], 0)).unwrap();
        let own = socket.local_addr().unwrap();
        socket.send_to(b"self", own).await.unwrap();
        assert_eq!(socket.recv_from(&mut bytes).await, Ok((4, own)));
        let refused = TcpStream::connect(([127, 0, 0, 1], 1)).await;
        assert_eq!(refused.err(), Some(Error::ConnectionRefused));
    });
}
