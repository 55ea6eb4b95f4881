//! The resolver against a server of the test's own, over real sockets.

use super::*;
use crate::net::TcpListener;
use crate::{block_on, task};
use alloc::rc::Rc;
use alloc::vec;
use core::cell::Cell;

/// Says of a question (its text name, and whether it asks for IPv4) what to answer: flags and addresses.
type Zone = fn(&str, bool) -> ([u8; 2], Vec<IpAddr>);

const FINE: [u8; 2] = [0x81, 0x80];

fn reply(question: &[u8], zone: Zone, may_truncate: bool) -> Vec<u8> {
    let mut text = std::string::String::new();
    let mut at = 12;
    while question[at] != 0 {
        let length = usize::from(question[at]);
        text.push_str(core::str::from_utf8(&question[at + 1..][..length]).unwrap());
        text.push('.');
        at += length + 1;
    }
    let is_v4 = question[at + 2] == 1;
    let (flags, addresses) = zone(text.trim_end_matches('.'), is_v4);
    let mut bytes = question.to_vec();
    bytes[2..4].copy_from_slice(&flags);
    if text.starts_with("long") && may_truncate {
        bytes[2] |= 2;
        return bytes;
    }
    bytes[7] = u8::try_from(addresses.len()).unwrap();
    for address in addresses {
        let (kind, data) = match address {
            IpAddr::V4(v4) => (1, v4.octets().to_vec()),
            IpAddr::V6(v6) => (28, v6.octets().to_vec()),
        };
        bytes.extend_from_slice(&[0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, u8::try_from(data.len()).unwrap()]);
        bytes.extend_from_slice(&data);
    }
    bytes
}

/// A name server. Returns its address and how many questions it was asked by UDP and by TCP.
fn serve(zone: Zone) -> (SocketAddr, Rc<Cell<(u32, u32)>>) {
    // A port that is free for UDP can be taken for TCP by somebody else on this host.
    let (socket, listener) = (0..100)
        .find_map(|_| {
            let socket = UdpSocket::bind(([127, 0, 0, 1], 0)).unwrap();
            let listener = TcpListener::bind(socket.local_addr().unwrap()).ok()?;
            Some((socket, listener))
        })
        .unwrap();
    let address = socket.local_addr().unwrap();
    let asked = Rc::new(Cell::new((0, 0)));
    let (by_udp, by_tcp) = (asked.clone(), asked.clone());
    task::spawn(async move {
        let mut bytes = [0; 512];
        loop {
            let (length, from) = socket.recv_from(&mut bytes).await.unwrap();
            by_udp.set((by_udp.get().0 + 1, by_udp.get().1));
            socket.send_to(b"nonsense", from).await.unwrap();
            socket.send_to(&reply(&bytes[..length], zone, true), from).await.unwrap();
        }
    })
    .detach();
    task::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            by_tcp.set((by_tcp.get().0, by_tcp.get().1 + 1));
            let mut length = [0; 2];
            stream.read_exact(&mut length).await.unwrap();
            let mut question = vec![0; usize::from(u16::from_be_bytes(length))];
            stream.read_exact(&mut question).await.unwrap();
            let answer = reply(&question, zone, false);
            stream.write_all(&u16::try_from(answer.len()).unwrap().to_be_bytes()).await.unwrap();
            stream.write_all(&answer).await.unwrap();
        }
    })
    .detach();
    (address, asked)
}

fn resolver(servers: Vec<SocketAddr>) -> Resolver {
    // Long enough for a busy host, on which an answer that comes too late would be asked for again.
    let timeout = Duration::from_secs(1);
    Resolver::new(ResolverOptions { servers, timeout, ..ResolverOptions::default() })
}

fn zone(name: &str, is_v4: bool) -> ([u8; 2], Vec<IpAddr>) {
    match (name, is_v4) {
        ("both.example" | "long.example", true) => (FINE, vec![[10, 65, 0, 7].into(), [10, 65, 0, 8].into()]),
        ("both.example", false) => (FINE, vec!["fd66::7".parse().unwrap()]),
        ("broken.example", _) => ([0x81, 0x82], vec![]),
        ("long.example" | "empty.example", _) => (FINE, vec![]),
        ("here.example", true) => (FINE, vec![[127, 0, 0, 1].into()]),
        ("here.example", false) => (FINE, vec![]),
        _ => ([0x81, 0x83], vec![]),
    }
}

#[test]
fn names_have_addresses_of_both_kinds_and_are_asked_for_once() {
    block_on(async {
        let (server, asked) = serve(zone);
        let resolver = resolver(vec![server]);
        let both: Vec<IpAddr> = vec![[10, 65, 0, 7].into(), [10, 65, 0, 8].into(), "fd66::7".parse().unwrap()];
        assert_eq!(resolver.lookup("both.example").await, Ok(both.clone()));
        assert_eq!(resolver.lookup("BOTH.example.").await, Ok(both));
        assert_eq!(asked.get(), (2, 0));
        for name in ["nobody.example", "empty.example"] {
            assert_eq!(resolver.lookup(name).await, Err(ResolveError::NoSuchName));
            assert_eq!(resolver.lookup(name).await, Err(ResolveError::NoSuchName));
        }
        assert_eq!(asked.get(), (6, 0));
        assert_eq!(resolver.lookup("not a name").await, Err(ResolveError::BadName));
    });
}

#[test]
fn long_answers_come_by_tcp() {
    block_on(async {
        let (server, asked) = serve(zone);
        let resolver = resolver(vec![server]);
        assert_eq!(resolver.lookup("long.example").await.unwrap().len(), 2);
        assert_eq!(asked.get(), (2, 2));
    });
}

#[test]
fn a_server_that_is_silent_or_fails_is_followed_by_the_next() {
    block_on(async {
        let silent = UdpSocket::bind(([127, 0, 0, 1], 0)).unwrap();
        let (server, asked) = serve(zone);
        let both = resolver(vec![silent.local_addr().unwrap(), server]);
        assert_eq!(both.lookup("both.example").await.unwrap().len(), 3);
        assert_eq!(both.lookup("broken.example").await, Err(ResolveError::NoAnswer));
        assert_eq!(asked.get().0, 4);
        assert_eq!(resolver(vec![]).lookup("both.example").await, Err(ResolveError::NoServer));
    });
}

#[test]
fn a_name_can_be_connected_to() {
    block_on(async {
        let (server, _) = serve(zone);
        let listener = TcpListener::bind(([127, 0, 0, 1], 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let stream = resolver(vec![server]).connect("here.example", port).await.unwrap();
        assert_eq!(listener.accept().await.unwrap().1, stream.local_addr().unwrap());
    });
}

#[test]
fn servers_have_a_port_or_the_usual_one() {
    assert_eq!(parse_server("10.64.0.1"), Some(([10, 64, 0, 1], 53).into()));
    assert_eq!(parse_server("10.64.0.1:5353"), Some(([10, 64, 0, 1], 5353).into()));
    assert_eq!(parse_server("[fd66::1]:5353"), "[fd66::1]:5353".parse().ok());
    assert_eq!(parse_server("server"), None);
}
