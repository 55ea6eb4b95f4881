//! Packets as they are on the wire.

use mqtt::packet::{Connect, Malformed, Message, Packet, Qos, length, read, write_publish_head, write_suback};
use proptest::prelude::*;

const MAX: usize = 10_000;

fn string(text: &str) -> Vec<u8> {
    [&u16::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat()
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() < 128);
    [&[first, u8::try_from(body.len()).unwrap()], body].concat()
}

fn connect(flags: u8, rest: &[Vec<u8>]) -> Vec<u8> {
    packet(0x10, &[string("MQTT"), vec![4, flags, 0, 60], rest.concat()].concat())
}

#[test]
fn what_clients_send_is_read() {
    let plain = connect(2, &[string("me")]);
    let expected = Connect { client: "me", is_clean: true, keep_alive: 60, will: None };
    assert_eq!(read(&plain), Ok(Packet::Connect(expected)));
    let full = connect(0b1110_1100, &[string("me"), string("t"), string("w"), string("user"), string("pass")]);
    let will = Message { topic: "t", payload: b"w", qos: Qos::AtLeastOnce, is_retained: true };
    let expected = Connect { client: "me", is_clean: false, keep_alive: 60, will: Some(will) };
    assert_eq!(read(&full), Ok(Packet::Connect(expected)));
    assert_eq!(read(&packet(0x10, &[string("MQTT"), vec![5]].concat())), Ok(Packet::OtherVersion));
    assert_eq!(read(&packet(0x10, &[string("MQIsdp"), vec![3]].concat())), Ok(Packet::OtherVersion));
    let message = Message { topic: "a/b", payload: b"hi", qos: Qos::AtLeastOnce, is_retained: true };
    let bytes = packet(0x3b, &[string("a/b"), vec![1, 2], b"hi".to_vec()].concat());
    assert_eq!(read(&bytes), Ok(Packet::Publish(message, Some(0x102))));
    assert_eq!(read(&[0x40, 2, 0, 9]), Ok(Packet::PubAck(9)));
    assert_eq!(read(&[0xc0, 0]), Ok(Packet::PingReq));
    assert_eq!(read(&[0xe0, 0]), Ok(Packet::Disconnect));
    let bytes = packet(0x82, &[vec![0, 7], string("a"), vec![0], string("b/#"), vec![2]].concat());
    let Ok(Packet::Subscribe(7, filters)) = read(&bytes) else { panic!() };
    assert_eq!(filters.collect::<Vec<_>>(), [("a", Qos::AtMostOnce), ("b/#", Qos::AtLeastOnce)]);
    let bytes = packet(0xa2, &[vec![0, 7], string("a"), string("b")].concat());
    let Ok(Packet::Unsubscribe(7, filters)) = read(&bytes) else { panic!() };
    assert_eq!(filters.map(|(filter, _)| filter).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn what_the_standard_forbids_is_refused() {
    let id = string("me");
    for (bytes, what) in [
        (connect(3, std::slice::from_ref(&id)), "flags that are reserved"),
        (connect(0x42, std::slice::from_ref(&id)), "flags that are reserved"),
        (connect(0x22, std::slice::from_ref(&id)), "flags that are reserved"),
        (connect(0x16, &[id.clone(), id.clone(), id.clone()]), "quality of service 2 is not there"),
        (connect(0x82, std::slice::from_ref(&id)), "a packet that ends early"),
        (connect(2, &[id.clone(), vec![0]]), "a packet that is too long"),
        (connect(2, &[vec![0, 1, 0xff]]), "text that is not UTF-8"),
        (connect(2, &[vec![0, 1, 0]]), "text with a zero"),
        (packet(0x10, &[string("HTTP"), vec![4]].concat()), "another protocol"),
        (packet(0x34, &[string("a"), vec![0, 1]].concat()), "quality of service 2 is not there"),
        (packet(0x36, &[string("a"), vec![0, 1]].concat()), "quality of service 3"),
        (packet(0x38, &string("a")), "a repetition of what is sent once"),
        (packet(0x32, &[string("a"), vec![0, 0]].concat()), "packet number 0"),
        (packet(0x80, &[vec![0, 1], string("a"), vec![0]].concat()), "flags that are reserved"),
        (packet(0x82, &[0, 1]), "a packet that ends early"),
        (packet(0x82, &[vec![0, 1], string("a"), vec![3]].concat()), "a subscription's options"),
        (vec![0x62, 2, 0, 1], "quality of service 2 is not there"),
        (vec![0xd0, 0], "a packet that clients do not send"),
        (vec![0xf0, 0], "a packet that clients do not send"),
        (vec![0xc1, 0], "flags that are reserved"),
        (vec![0xc0, 1, 0], "a packet that is too long"),
    ] {
        assert_eq!(read(&bytes), Err(Malformed(what)), "{bytes:x?}");
    }
    let many = [&[0xa2, 0x84, 2, 0, 1][..], &[0, 1, b'a'].repeat(86)].concat();
    assert_eq!(read(&many), Err(Malformed("too many filters in a packet")));
}

#[test]
fn lengths_are_known_as_early_as_they_can_be() {
    for (bytes, expected) in [
        (&[][..], Ok(None)),
        (&[0x30], Ok(None)),
        (&[0x30, 0x80], Ok(None)),
        (&[0x30, 0], Ok(Some(2))),
        (&[0x30, 0x7f], Ok(Some(129))),
        (&[0x30, 0x80, 1], Ok(Some(131))),
        (&[0x30, 0x8d, 0x4e], Ok(Some(10_000))),
        (&[0x30, 0x8e, 0x4e], Err(Malformed("a packet that is too large"))),
        (&[0x30, 0xff, 0xff, 0xff, 0x7f], Err(Malformed("a packet that is too large"))),
        (&[0x30, 0xff, 0xff, 0xff, 0xff], Err(Malformed("a length of more than four bytes"))),
    ] {
        assert_eq!(length(bytes, MAX), expected, "{bytes:x?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5000))]

    #[test]
    fn any_bytes_are_something(bytes: Vec<u8>, max in 0usize..300) {
        if let Ok(Some(length)) = length(&bytes, max) {
            prop_assert!((2..=max).contains(&length));
        }
        if let Ok(Packet::Subscribe(_, filters) | Packet::Unsubscribe(_, filters)) = read(&bytes) {
            prop_assert!(filters.count() <= 64);
        }
    }

    /// A head that fits, and then anything: what random bytes do not reach.
    #[test]
    fn nearly_packets_are_something(
        first in prop::sample::select(vec![0x10u8, 0x30, 0x32, 0x33, 0x40, 0x82, 0xa2]),
        pieces in prop::collection::vec(prop_oneof![
            Just(string("MQTT")), Just(vec![4, 2, 0, 60]), Just(vec![4, 0xce, 0, 60]), Just(string("a/b")), Just(string("#")),
            Just(vec![0, 1]), Just(vec![1]), prop::collection::vec(any::<u8>(), 0..4),
        ], 0..8),
    ) {
        let bytes = packet(first, &pieces.concat());
        prop_assert_eq!(length(&bytes, MAX), Ok(Some(bytes.len())));
        if let Ok(Packet::Subscribe(_, filters)) = read(&bytes) {
            prop_assert!(filters.count() > 0, "all that were looked at come again");
        }
    }

    #[test]
    fn what_is_written_is_read_again(
        topic in "[a-z/]{1,200}", payload in prop::collection::vec(any::<u8>(), 0..300), sure: bool, is_retained: bool,
    ) {
        let qos = if sure { Qos::AtLeastOnce } else { Qos::AtMostOnce };
        let message = Message { topic: &topic, payload: &payload, qos, is_retained };
        let id = sure.then_some(77);
        let mut bytes = Vec::new();
        write_publish_head(&mut bytes, &message, id, sure);
        bytes.extend(&payload);
        prop_assert_eq!(length(&bytes, MAX), Ok(Some(bytes.len())));
        prop_assert_eq!(read(&bytes), Ok(Packet::Publish(message, id)));
    }
}

#[test]
fn answers_are_what_the_standard_says() {
    let mut bytes = Vec::new();
    write_suback(&mut bytes, 0x102, &[Some(Qos::AtMostOnce), None, Some(Qos::AtLeastOnce)]);
    assert_eq!(bytes, [0x90, 5, 1, 2, 0, 0x80, 1]);
}
