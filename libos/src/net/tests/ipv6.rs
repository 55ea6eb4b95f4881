//! The same over IPv6.

use super::*;
use core::net::Ipv6Addr;

fn any6(port: u16) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)
}

fn server6(port: u16) -> SocketAddr {
    SocketAddr::new(ipv6_of(SERVER).into(), port)
}

#[test]
fn a_listener_of_both_kinds_takes_both_and_one_of_ipv4_takes_its_own() {
    let mut lab = Lab::new();
    let both = lab.server.listen(any6(80), ListenOptions::default()).unwrap();
    let four = lab.server.listen(any(81), ListenOptions::default()).unwrap();
    for (to, takes) in [
        (server6(80), Some(both)),
        (SocketAddr::new(SERVER.into(), 80), Some(both)),
        (SocketAddr::new(SERVER.into(), 81), Some(four)),
        (server6(81), None),
    ] {
        let client = lab.client.connect(to, ConnectOptions::default(), lab.now).unwrap();
        lab.settle();
        let Some(listener) = takes else {
            assert_eq!(lab.connected(client), Poll::Ready(Err(Error::ConnectionRefused)));
            continue;
        };
        assert_eq!(lab.connected(client), Poll::Ready(Ok(())));
        let server = lab.accept(listener).unwrap();
        assert_eq!(lab.server.addresses(server).unwrap().1, to);
        assert_eq!(write(&mut lab.client, client, b"request"), 7);
        lab.settle();
        assert_eq!(read(&mut lab.server, server), Poll::Ready(Ok(b"request".to_vec())));
        lab.client.release(client, lab.now);
        lab.settle();
        lab.server.release(server, lab.now);
        lab.run(SECOND);
        assert_eq!(lab.server.usage().0, 0);
    }
    let elsewhere = SocketAddr::new(ipv6_of([10, 65, 0, 9]).into(), 82);
    assert_eq!(lab.server.listen(elsewhere, ListenOptions::default()), Err(Error::BadAddress));
}

#[test]
fn a_repeated_fin_is_acknowledged_after_the_end() {
    let mut lab = Lab::new();
    let listener = lab.server.listen(any6(80), ListenOptions::default()).unwrap();
    let client = lab.client.connect(server6(80), ConnectOptions::default(), lab.now).unwrap();
    lab.settle();
    let server = lab.accept(listener).unwrap();
    lab.server.release(server, lab.now);
    lab.settle();
    lab.client.release(client, lab.now);
    lab.loses = |frame, _| frame[22..38] == ipv6_of(SERVER);
    lab.settle();
    assert_eq!(lab.server.usage(), (0, 0, 1));
    lab.loses = |_, _| false;
    lab.run(5 * SECOND);
    assert_eq!(lab.client.usage(), (0, 0, 0));
    assert_eq!(lab.log.last().unwrap()[14 + 40 + 13], 0x10, "an acknowledgement and not a reset");
}

#[test]
fn datagrams_of_both_kinds_come_to_one_socket() {
    let mut lab = Lab::new();
    let server = lab.server.bind_udp(any6(7), UdpOptions::default()).unwrap();
    let client = lab.client.bind_udp(any6(0), UdpOptions::default()).unwrap();
    for to in [server6(7), SocketAddr::new(SERVER.into(), 7)] {
        assert_eq!(lab.client.poll_send_to(client, b"ping", to, Waker::noop()), Poll::Ready(Ok(())));
        lab.settle();
        let mut bytes = [0; 10];
        let Poll::Ready((length, from)) = lab.server.poll_recv_from(server, &mut bytes, Waker::noop()) else {
            panic!("nothing came to {to}");
        };
        assert_eq!((&bytes[..length], from.is_ipv6()), (&b"ping"[..], to.is_ipv6()));
        assert_eq!(lab.server.poll_send_to(server, b"pong", from, Waker::noop()), Poll::Ready(Ok(())));
        lab.settle();
        assert_eq!(lab.client.poll_recv_from(client, &mut bytes, Waker::noop()), Poll::Ready((4, to)));
    }
    let too_large = lab.client.poll_send_to(client, &[0; 1453], server6(7), Waker::noop());
    assert_eq!(too_large, Poll::Ready(Err(Error::TooLarge)));
    let four = lab.client.bind_udp(any(0), UdpOptions::default()).unwrap();
    let wrong = lab.client.poll_send_to(four, b"x", server6(7), Waker::noop());
    assert_eq!(wrong, Poll::Ready(Err(Error::BadAddress)));
}

#[test]
fn an_echo_request_is_answered() {
    let mut lab = Lab::new();
    let (from, to) = (ipv6_of(CLIENT), ipv6_of(SERVER));
    let mut frame = Vec::new();
    for piece in [&GATEWAY[..], &mac(CLIENT), &[0x86, 0xdd, 0x60, 0, 0, 0, 0, 8, 58, 64], &from, &to] {
        frame.extend_from_slice(piece);
    }
    frame.extend_from_slice(&[128, 0, 0, 0, 0, 1, 0, 1]);
    // The checksum is of the pseudo header as well: addresses, length, protocol.
    let mut sum: u32 = 8 + 58;
    for pair in frame[22..].chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    let checksum = !u16::try_from(sum).unwrap();
    frame[56..58].copy_from_slice(&checksum.to_be_bytes());
    assert!(lab.server.memory().memory.kernel_put(&frame));
    lab.server.poll(lab.now);
    lab.server.memory().drain();
    let answer = lab.server.memory().sent.pop_front().unwrap();
    assert_eq!((answer[54], &answer[22..38], &answer[38..54]), (129, &to[..], &from[..]));
}
