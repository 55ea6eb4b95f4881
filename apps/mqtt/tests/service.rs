//! The service as its clients see it, over real sockets.

use libos::net::{SocketAddr, TcpListener, TcpStream};
use libos::time::{Duration, sleep, timeout};
use mqtt::Settings;
use proptest::prelude::*;

fn settings() -> Settings {
    Settings { max_clients: 8, max_packet: 50_000, memory: 200_000, ..Settings::for_memory(4 << 20) }
}

fn start(settings: Settings) -> SocketAddr {
    let listener = TcpListener::bind(([127, 0, 0, 1], 0)).unwrap();
    let address = listener.local_addr().unwrap();
    libos::task::spawn(mqtt::serve(listener, settings)).detach();
    address
}

fn string(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

/// A packet of any length below 16 KiB... or, with three bytes of it, 2 MiB.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    let mut length = body.len();
    loop {
        let low = u8::try_from(length & 0x7f).unwrap();
        length >>= 7;
        bytes.push(if length > 0 { low | 0x80 } else { low });
        if length == 0 {
            break;
        }
    }
    bytes.extend(body);
    bytes
}

struct Client(TcpStream);

impl Client {
    async fn raw(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    /// Connects; the answer has to be this.
    async fn new(
        address: SocketAddr,
        name: &str,
        flags: u8,
        keep_alive: u8,
        will: &[Vec<u8>],
        answer: [u8; 2],
    ) -> Self {
        let client = Self::raw(address).await;
        let body = [string("MQTT"), vec![4, flags, 0, keep_alive], string(name), will.concat()].concat();
        client.send(&packet(0x10, &body)).await;
        assert_eq!(client.next().await, [&[0x20, 2], &answer[..]].concat());
        client
    }

    async fn clean(address: SocketAddr, name: &str) -> Self {
        Self::new(address, name, 2, 0, &[], [0, 0]).await
    }

    async fn send(&self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    async fn subscribe(&self, filter: &str, qos: u8) {
        self.send(&packet(0x82, &[vec![0, 5], string(filter), vec![qos]].concat())).await;
        assert_eq!(self.next().await, [0x90, 3, 0, 5, qos]);
    }

    /// Publishes; flags as in the packet's first byte.
    async fn publish(&self, flags: u8, topic: &str, payload: &[u8]) {
        let id = if flags & 6 != 0 { vec![0, 9] } else { vec![] };
        self.send(&packet(0x30 | flags, &[string(topic), id, payload.to_vec()].concat())).await;
        if flags & 6 != 0 {
            assert_eq!(self.next().await, [0x40, 2, 0, 9]);
        }
    }

    /// The next packet, empty at the end of the stream.
    async fn next(&self) -> Vec<u8> {
        timeout(Duration::from_secs(20), self.read()).await.expect("nothing comes").unwrap_or_default()
    }

    async fn read(&self) -> Result<Vec<u8>, libos::net::Error> {
        let mut bytes = vec![0; 2];
        self.0.read_exact(&mut bytes).await?;
        while bytes[bytes.len() - 1] & 0x80 != 0 {
            bytes.push(0);
            let last = bytes.len() - 1;
            self.0.read_exact(&mut bytes[last..]).await?;
        }
        let length = bytes[1..].iter().rev().fold(0, |length, byte| length << 7 | usize::from(byte & 0x7f));
        let head = bytes.len();
        bytes.resize(head + length, 0);
        self.0.read_exact(&mut bytes[head..]).await?;
        Ok(bytes)
    }
}

fn published(flags: u8, topic: &str, id: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let id = id.map(|id| id.to_be_bytes().to_vec()).unwrap_or_default();
    packet(0x30 | flags, &[string(topic), id, payload.to_vec()].concat())
}

#[test]
fn messages_go_to_those_who_want_them() {
    libos::block_on(async {
        let address = start(settings());
        let (a, b) = (Client::clean(address, "a").await, Client::clean(address, "").await);
        a.subscribe("home/+/temp", 1).await;
        b.subscribe("home/#", 0).await;
        b.publish(2, "home/attic/temp", b"21").await;
        assert_eq!(a.next().await, published(2, "home/attic/temp", Some(1), b"21"));
        assert_eq!(b.next().await, published(0, "home/attic/temp", None, b"21"));
        a.send(&[0x40, 2, 0, 1]).await;
        // Larger than any buffer on the way.
        let large = vec![7; 40_000];
        a.publish(0, "home/x", &large).await;
        assert_eq!(b.next().await, published(0, "home/x", None, &large));
        a.send(&[0xc0, 0]).await;
        assert_eq!(a.next().await, [0xd0, 0]);
        a.send(&packet(0xa2, &[vec![0, 6], string("home/+/temp")].concat())).await;
        assert_eq!(a.next().await, [0xb0, 2, 0, 6]);
        a.send(&[0xe0, 0]).await;
        assert_eq!(a.next().await, [0; 0]);
    });
}

#[test]
fn what_is_kept_and_what_is_a_last_will_comes() {
    libos::block_on(async {
        let address = start(settings());
        let a = Client::clean(address, "a").await;
        a.publish(1, "state", b"on").await;
        a.subscribe("will", 1).await;
        let will = [string("will"), string("gone")];
        // Flags: clean, a will of quality 1 that is kept.
        let lost = Client::new(address, "lost", 0b0010_1110, 0, &will, [0, 0]).await;
        drop(lost);
        assert_eq!(a.next().await, published(2, "will", Some(1), b"gone"));
        let b = Client::clean(address, "b").await;
        b.subscribe("#", 0).await;
        assert_eq!(b.next().await, published(1, "state", None, b"on"));
        assert_eq!(b.next().await, published(1, "will", None, b"gone"));
        // Who says good-bye has none.
        let polite = Client::new(address, "polite", 0b0000_0110, 0, &will, [0, 0]).await;
        polite.send(&[0xe0, 0]).await;
        assert_eq!(polite.next().await, [0; 0]);
        b.publish(0, "last", b"").await;
        assert_eq!(b.next().await, published(0, "last", None, b""));
    });
}

#[test]
fn a_kept_session_is_found_again() {
    libos::block_on(async {
        let address = start(settings());
        let first = Client::new(address, "me", 0, 0, &[], [0, 0]).await;
        first.subscribe("t", 1).await;
        let other = Client::clean(address, "other").await;
        other.publish(2, "t", b"1").await;
        assert_eq!(first.next().await, published(2, "t", Some(1), b"1"));
        // A second connection of the same name ends the first one.
        let second = Client::new(address, "me", 0, 0, &[], [1, 0]).await;
        assert_eq!(first.next().await, [0; 0]);
        assert_eq!(second.next().await, published(0xa, "t", Some(1), b"1"));
        second.send(&[0xe0, 0]).await;
        assert_eq!(second.next().await, [0; 0]);
        other.publish(2, "t", b"2").await;
        let third = Client::new(address, "me", 0, 0, &[], [1, 0]).await;
        assert_eq!(third.next().await, published(0xa, "t", Some(1), b"1"));
        assert_eq!(third.next().await, published(2, "t", Some(2), b"2"));
    });
}

#[test]
fn a_burst_of_sure_messages_arrives_whole() {
    libos::block_on(async {
        let address = start(Settings { max_queue: 16, ..settings() });
        let taker = Client::clean(address, "taker").await;
        taker.subscribe("t", 1).await;
        let giver = Client::clean(address, "giver").await;
        let burst: Vec<u8> = (0..500u16)
            .flat_map(|n| {
                packet(0x32, &[string("t"), (n + 1).to_be_bytes().to_vec(), n.to_be_bytes().to_vec()].concat())
            })
            .collect();
        let (reader, writer) = giver.0.into_split();
        libos::task::spawn(async move { writer.write_all(&burst).await.map(|()| writer) }).detach();
        libos::task::spawn(async move {
            let mut bytes = [0; 500];
            while let Ok(1..) = reader.read(&mut bytes).await {}
        })
        .detach();
        for n in 0..500u16 {
            let got = taker.next().await;
            let id = [got[5], got[6]];
            assert_eq!(got[7..], n.to_be_bytes(), "{n}");
            taker.send(&[0x40, 2, id[0], id[1]]).await;
        }
    });
}

#[test]
fn who_does_not_belong_here_is_sent_away() {
    libos::block_on(async {
        let address = start(Settings { packet_timeout: Duration::from_millis(500), ..settings() });
        let answer = |bytes: Vec<u8>| async move {
            let client = Client::raw(address).await;
            client.send(&bytes).await;
            client.next().await
        };
        assert_eq!(answer(packet(0x10, &[string("MQTT"), vec![5, 2, 0, 0, 0]].concat())).await, [0x20, 2, 0, 1]);
        assert_eq!(answer(packet(0x10, &[string("MQTT"), vec![4, 0, 0, 0, 0, 0]].concat())).await, [0x20, 2, 0, 2]);
        let long = [string("MQTT"), vec![4, 2, 0, 0], string(&"x".repeat(300))].concat();
        assert_eq!(answer(packet(0x10, &long)).await, [0x20, 2, 0, 2]);
        let nothing = [0u8; 0];
        assert_eq!(answer(b"GET / HTTP/1.1\r\n\r\n".to_vec()).await, nothing);
        assert_eq!(answer(vec![0xc0, 0]).await, nothing);
        assert_eq!(answer(vec![0x10, 0xff, 0xff, 0xff, 0x7f]).await, nothing);
        // Silence, before CONNECT and in the middle of a packet.
        assert_eq!(answer(vec![0x10]).await, nothing);
        let client = Client::clean(address, "a").await;
        client.send(&[0x30, 100, 0]).await;
        assert_eq!(client.next().await, nothing);
        for wrong in [packet(0x30, &string("a/+")), packet(0x34, &[string("a"), vec![0, 1]].concat())] {
            let client = Client::clean(address, "a").await;
            client.send(&wrong).await;
            assert_eq!(client.next().await, nothing);
        }
    });
}

#[test]
fn who_promises_to_speak_and_does_not_is_lost() {
    libos::block_on(async {
        let address = start(settings());
        let watcher = Client::clean(address, "watcher").await;
        watcher.subscribe("will", 0).await;
        let will = [string("will"), string("silent")];
        let silent = Client::new(address, "silent", 0b0000_0110, 1, &will, [0, 0]).await;
        for _ in 0..3 {
            sleep(Duration::from_millis(700)).await;
            silent.send(&[0xc0, 0]).await;
            assert_eq!(silent.next().await, [0xd0, 0]);
        }
        assert_eq!(watcher.next().await, published(0, "will", None, b"silent"));
        assert_eq!(silent.next().await, [0; 0]);
    });
}

#[test]
fn one_too_many_is_closed_and_who_goes_makes_room() {
    libos::block_on(async {
        let address = start(Settings { max_clients: 2, ..settings() });
        let (a, _b) = (Client::clean(address, "a").await, Client::clean(address, "b").await);
        let third = Client::raw(address).await;
        assert_eq!(third.next().await, [0; 0]);
        a.send(&[0xe0, 0]).await;
        assert_eq!(a.next().await, [0; 0]);
        Client::clean(address, "c").await;
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever a client sends, the service goes on for others.
    #[test]
    fn any_bytes_from_a_client_hurt_nobody_else(
        is_connected: bool,
        pieces in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..50),
            Just(packet(0x82, &[vec![0, 5], string("#"), vec![1]].concat())),
            Just(packet(0x33, &[string("a"), vec![0, 1], vec![1; 2000]].concat())),
            Just(vec![0x40, 2, 0, 1]),
            Just(vec![0x30, 0xff, 0xff, 1]),
        ], 0..12)
    ) {
        libos::block_on(async {
            let address = start(settings());
            let hostile = Client::raw(address).await;
            if is_connected {
                let _ = hostile.0.write_all(&packet(0x10, &[string("MQTT"), vec![4, 0, 0, 0], string("h")].concat())).await;
            }
            for piece in &pieces {
                let _ = hostile.0.write_all(piece).await;
            }
            let c = Client::clean(address, "c").await;
            c.subscribe("x", 1).await;
            c.publish(2, "x", b"1").await;
            assert_eq!(c.next().await, published(2, "x", Some(1), b"1"));
        });
    }
}
