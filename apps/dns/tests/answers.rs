//! Answers as resolvers see them, read by the `domain` crate; and over real sockets.

use dns::{Settings, Transport, Zone, answer, text};
use domain::base::iana::{Class, Opcode, OptRcode, Rcode, Rtype};
use domain::base::{Message, MessageBuilder, Name};
use domain::rdata::AllRecordData;
use libos::net::{TcpListener, TcpStream, UdpSocket};
use libos::time::{Duration, timeout};
use proptest::prelude::*;
use std::rc::Rc;

const ZONE: &str = r#"
$TTL 1h
@       SOA     ns1 hostmaster 7 1h 15m 2w 5m
        NS      ns1
        NS      ns2.elsewhere.test.
        MX      10 mail
        TXT     "v=spf1 mx -all" "second \"string\""
ns1     A       10.0.0.1
mail    A       10.0.0.2
        AAAA    fd00::2
www     CNAME   web
web 60  A       10.0.0.3
    60  A       10.0.0.4
out     CNAME   www.elsewhere.test.
loop1   CNAME   loop2
loop2   CNAME   loop1
a.deep.tree A   10.0.0.5
*.dyn   A       10.0.0.6
x.dyn   TXT     here
sub     NS      ns.sub
ns.sub  A       10.0.0.7
below.sub TXT   "not ours to say"
_s._tcp SRV     1 2 80 web
$ORIGIN many.example.org.
"#;

fn zone() -> Zone {
    let many: String = (0..100).map(|n| format!("@ A 10.1.0.{n}\n")).collect();
    text::parse(&[ZONE, &many].concat(), "example.org", 60).unwrap()
}

struct Asked {
    bytes: Vec<u8>,
}

impl Asked {
    fn message(&self) -> Message<&[u8]> {
        Message::from_octets(&self.bytes[..]).unwrap()
    }

    fn rcode(&self) -> Rcode {
        self.message().header().rcode()
    }

    fn flags(&self) -> String {
        self.message().header().flags().to_string()
    }

    /// Sections as lines.
    fn sections(&self) -> [Vec<String>; 3] {
        let message = self.message();
        let lines = |section: domain::base::message::RecordSection<'_, &[u8]>| -> Vec<String> {
            section
                .limit_to::<AllRecordData<_, _>>()
                .map(|record| record.unwrap())
                .filter(|record| record.rtype() != Rtype::OPT)
                .map(|record| {
                    format!("{} {} {} {}", record.owner(), record.ttl().as_secs(), record.rtype(), record.data())
                })
                .collect()
        };
        [lines(message.answer().unwrap()), lines(message.authority().unwrap()), lines(message.additional().unwrap())]
    }
}

fn query(name: &str, rtype: Rtype, size: Option<u16>) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(0x1234);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((Name::vec_from_str(name).unwrap(), rtype)).unwrap();
    let mut builder = builder.additional();
    if let Some(size) = size {
        builder
            .opt(|opt| {
                opt.set_udp_payload_size(size);
                opt.set_dnssec_ok(true);
                Ok(())
            })
            .unwrap();
    }
    builder.finish()
}

fn ask_over(name: &str, rtype: Rtype, size: Option<u16>, transport: Transport) -> Asked {
    Asked { bytes: answer(&zone(), &query(name, rtype, size), transport).unwrap() }
}

fn ask(name: &str, rtype: Rtype) -> Asked {
    ask_over(name, rtype, None, Transport::Udp)
}

const SOA: &str = "example.org 300 SOA ns1.example.org. hostmaster.example.org. 7 3600 900 1209600 300";

#[test]
fn records_are_found_with_the_addresses_that_are_wanted_next() {
    let asked = ask("web.example.org", Rtype::A);
    assert_eq!((asked.rcode(), asked.flags().as_str()), (Rcode::NOERROR, "QR AA RD"));
    assert_eq!(asked.message().header().id(), 0x1234);
    assert_eq!(asked.sections()[0], ["web.example.org 60 A 10.0.0.3", "web.example.org 60 A 10.0.0.4"]);
    let [answers, authority, additional] = ask("example.org", Rtype::MX).sections();
    assert_eq!((answers.len(), authority.len()), (1, 0));
    assert!(answers[0].ends_with("MX 10 mail.example.org."), "{answers:?}");
    assert_eq!(additional, ["mail.example.org 3600 A 10.0.0.2", "mail.example.org 3600 AAAA fd00::2"]);
    let [answers, ..] = ask("MAIL.Example.ORG", Rtype::A).sections();
    assert_eq!(answers, ["MAIL.Example.ORG 3600 A 10.0.0.2"], "as it was asked");
    let [answers, _, additional] = ask("example.org", Rtype::NS).sections();
    assert_eq!((answers.len(), additional), (2, vec!["ns1.example.org 3600 A 10.0.0.1".to_owned()]));
    let [answers, ..] = ask("example.org", Rtype::TXT).sections();
    assert!(answers[0].contains(r#""v=spf1 mx -all" "second \"string\"""#), "{answers:?}");
    assert_eq!(ask("example.org", Rtype::SOA).sections()[0].len(), 1);
    assert_eq!(ask("_s._tcp.example.org", Rtype::SRV).sections()[2].len(), 2);
    assert_eq!(ask("mail.example.org", Rtype::ANY).sections()[0].len(), 1, "one set of what there is");
}

#[test]
fn aliases_are_followed_as_far_as_the_zone_goes() {
    let [answers, ..] = ask("www.example.org", Rtype::A).sections();
    assert_eq!(answers.len(), 3);
    assert!(answers[0].starts_with("www.example.org 3600 CNAME web.example.org"), "{answers:?}");
    assert_eq!(ask("www.example.org", Rtype::CNAME).sections()[0].len(), 1);
    let [answers, authority, _] = ask("www.example.org", Rtype::MX).sections();
    assert_eq!((answers.len(), authority), (1, vec![SOA.to_owned()]));
    let out = ask("out.example.org", Rtype::A);
    assert_eq!((out.rcode(), out.sections()[0].len(), out.sections()[1].len()), (Rcode::NOERROR, 1, 0));
    // A chain without end has one.
    assert_eq!(ask("loop1.example.org", Rtype::A).sections()[0].len(), 9);
}

#[test]
fn what_is_not_there_is_said_with_how_long_that_is_so() {
    let none = ask("none.example.org", Rtype::A);
    assert_eq!((none.rcode(), none.flags().as_str()), (Rcode::NXDOMAIN, "QR AA RD"));
    assert_eq!(none.sections()[1], [SOA]);
    // The name is there, such a record is not.
    for name in ["web.example.org", "tree.example.org", "deep.tree.example.org", "dyn.example.org"] {
        let asked = ask(name, Rtype::TXT);
        assert_eq!(
            (asked.rcode(), asked.sections()),
            (Rcode::NOERROR, [vec![], vec![SOA.to_owned()], vec![]]),
            "{name}"
        );
    }
    assert_eq!(ask("b.deep.tree.example.org", Rtype::A).rcode(), Rcode::NXDOMAIN);
}

#[test]
fn a_star_stands_for_names_that_are_not_there() {
    let [answers, ..] = ask("any.thing.dyn.example.org", Rtype::A).sections();
    assert_eq!(answers, ["any.thing.dyn.example.org 3600 A 10.0.0.6"]);
    assert_eq!(ask("y.dyn.example.org", Rtype::TXT).sections()[1], [SOA]);
    assert_eq!(ask("x.dyn.example.org", Rtype::A).sections()[1], [SOA], "a name that is there hides it");
    assert_eq!(ask("below.x.dyn.example.org", Rtype::A).rcode(), Rcode::NXDOMAIN);
}

#[test]
fn what_others_have_is_referred_to_them() {
    for name in ["sub.example.org", "below.sub.example.org", "ns.sub.example.org"] {
        let asked = ask(name, Rtype::A);
        let [answers, authority, additional] = asked.sections();
        assert_eq!((asked.flags().as_str(), answers.len()), ("QR RD", 0), "{name}");
        assert_eq!(authority, ["sub.example.org 3600 NS ns.sub.example.org."]);
        assert_eq!(additional, ["ns.sub.example.org 3600 A 10.0.0.7"]);
    }
}

#[test]
fn what_is_not_ours_is_refused() {
    for (name, rtype) in [("example.com", Rtype::A), ("org", Rtype::NS), (".", Rtype::NS), ("example.org", Rtype::AXFR)]
    {
        let asked = ask(name, rtype);
        assert_eq!((asked.rcode(), asked.flags().as_str()), (Rcode::REFUSED, "QR RD"), "{name}");
        assert!(asked.sections().iter().all(Vec::is_empty));
    }
    let mut chaos = MessageBuilder::new_vec().question();
    chaos.push((Name::vec_from_str("version.bind").unwrap(), Rtype::TXT, Class::CH)).unwrap();
    let bytes = answer(&zone(), &chaos.finish(), Transport::Udp).unwrap();
    assert_eq!(Asked { bytes }.rcode(), Rcode::REFUSED);
}

#[test]
fn an_answer_is_as_long_as_its_asker_takes_it() {
    let sizes = |size, transport| {
        let asked = ask_over("many.example.org", Rtype::A, size, transport);
        let is_cut = asked.message().header().tc();
        assert_eq!(asked.sections()[0].len(), if is_cut { 0 } else { 100 });
        (is_cut, asked.bytes.len())
    };
    assert_eq!(sizes(None, Transport::Udp), (true, 34));
    assert_eq!(sizes(Some(600), Transport::Udp), (true, 45));
    assert_eq!(sizes(Some(65535), Transport::Udp), (true, 45));
    // Every owner is two bytes: the name is said once.
    assert_eq!(sizes(None, Transport::Tcp), (false, 34 + 100 * 16));
    let twenty: String = (0..31).map(|n| format!("@ A 10.1.0.{n}\n")).collect();
    let zone = text::parse(&format!("@ SOA a b 1 2 3 4 5\n{twenty}"), "many.example.org", 60).unwrap();
    // 34 + 31 * 16 is 530: too long for those who say nothing, not for others.
    for (size, is_cut, length) in [(None, true, 34), (Some(530), true, 45), (Some(541), false, 541)] {
        let bytes = answer(&zone, &query("many.example.org", Rtype::A, size), Transport::Udp).unwrap();
        let asked = Asked { bytes };
        assert_eq!((asked.message().header().tc(), asked.bytes.len()), (is_cut, length), "{size:?}");
    }
}

#[test]
fn what_an_asker_can_is_heard() {
    let asked = ask_over("web.example.org", Rtype::A, Some(4096), Transport::Udp);
    let message = asked.message();
    let opt = message.opt().unwrap();
    assert_eq!((opt.udp_payload_size(), opt.dnssec_ok(), opt.version()), (1232, true, 0));
    assert!(ask("web.example.org", Rtype::A).message().opt().is_none());
    let with_opts = |versions: &[u8]| {
        let mut builder = MessageBuilder::new_vec().question();
        builder.push((Name::vec_from_str("web.example.org").unwrap(), Rtype::A)).unwrap();
        let mut builder = builder.additional();
        for &version in versions {
            builder
                .opt(|opt| {
                    opt.set_version(version);
                    Ok(())
                })
                .unwrap();
        }
        Asked { bytes: answer(&zone(), &builder.finish(), Transport::Udp).unwrap() }
    };
    let unknown = with_opts(&[1]);
    assert_eq!(unknown.message().opt_rcode(), OptRcode::BADVERS);
    assert_eq!(unknown.sections()[0].len(), 0);
    assert_eq!(with_opts(&[0, 0]).rcode(), Rcode::FORMERR);
}

#[test]
fn what_is_no_query_is_refused_or_not_answered() {
    let zone = zone();
    let good = query("web.example.org", Rtype::A, None);
    let changed = |change: fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        change(&mut bytes);
        answer(&zone, &bytes, Transport::Udp).map(|bytes| Asked { bytes }.rcode())
    };
    assert_eq!(changed(|bytes| bytes[2] |= 0x80), None, "an answer");
    assert_eq!(changed(|bytes| bytes.truncate(11)), None);
    assert_eq!(changed(|bytes| bytes[2] |= 5 << 3), Some(Rcode::NOTIMP), "an update");
    assert_eq!(changed(|bytes| bytes[5] = 2), Some(Rcode::FORMERR), "two questions, of which one is there");
    assert_eq!(changed(|bytes| bytes[5] = 0), Some(Rcode::FORMERR));
    assert_eq!(changed(|bytes| bytes.truncate(20)), Some(Rcode::FORMERR));
    assert_eq!(changed(|bytes| bytes[12] = 0xc0), Some(Rcode::FORMERR), "a name that points to itself");
    assert_eq!(changed(|bytes| bytes[11] = 1), Some(Rcode::FORMERR), "a record that is not there");
}

#[test]
fn it_answers_datagrams_and_streams() {
    libos::block_on(async {
        let zone = Rc::new(zone());
        let listener = TcpListener::bind(([127, 0, 0, 1], 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let socket = UdpSocket::bind(([127, 0, 0, 1], 0)).unwrap();
        let udp = socket.local_addr().unwrap();
        let quick = Duration::from_millis(500);
        let settings = Settings { max_clients: 2, idle_timeout: quick, query_timeout: quick, ..Settings::default() };
        libos::task::spawn(dns::serve_udp(socket, zone.clone())).detach();
        let server = libos::task::spawn(dns::serve_tcp(listener, zone, settings));

        let client = UdpSocket::bind(([127, 0, 0, 1], 0)).unwrap();
        let mut bytes = [0; 2000];
        client.send_to(b"nonsense", udp).await.unwrap();
        client.send_to(&query("web.example.org", Rtype::A, None), udp).await.unwrap();
        let (length, from) = timeout(Duration::from_secs(10), client.recv_from(&mut bytes)).await.unwrap().unwrap();
        assert_eq!((from, length), (udp, 33 + 2 * 16));

        // Two queries at once, in pieces; then silence.
        let stream = TcpStream::connect(address).await.unwrap();
        let one = query("many.example.org", Rtype::A, None);
        let framed = [&u16::try_from(one.len()).unwrap().to_be_bytes()[..], &one].concat().repeat(2);
        for piece in framed.chunks(7) {
            stream.write_all(piece).await.unwrap();
        }
        let got = timeout(Duration::from_secs(10), stream.read_to_end(10_000)).await.unwrap().unwrap();
        assert_eq!(got.len(), 2 * (2 + 34 + 100 * 16));

        // What is no query ends the stream, and others go on.
        let half = TcpStream::connect(address).await.unwrap();
        half.write_all(&framed[..10]).await.unwrap();
        let long = TcpStream::connect(address).await.unwrap();
        long.write_all(&[255; 10]).await.unwrap();
        for stream in [&half, &long] {
            let end = timeout(Duration::from_secs(10), stream.read_to_end(10)).await.unwrap();
            assert!(end.is_err() || end == Ok(vec![]));
        }
        // One too many is closed at once.
        let two = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        let third = TcpStream::connect(address).await.unwrap();
        let end = timeout(Duration::from_millis(400), third.read(&mut bytes)).await.unwrap();
        assert!(end.is_err() || end == Ok(0));
        drop((two, server));
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn any_bytes_are_answered_with_a_message_or_not_at_all(bytes: Vec<u8>, is_tcp: bool) {
        let transport = if is_tcp { Transport::Tcp } else { Transport::Udp };
        if let Some(answer) = answer(&zone(), &bytes, transport) {
            prop_assert!(Message::from_octets(&answer[..]).unwrap().header().qr());
        }
    }

    /// Queries with a few bytes changed: what random bytes do not reach.
    #[test]
    fn nearly_queries_are_answered_within_their_limits(
        name in "([a-z*]{1,4}\\.){0,3}((web|www|sub|dyn|many|deep\\.tree)\\.)?example\\.org",
        rtype in prop::sample::select(vec![Rtype::A, Rtype::NS, Rtype::TXT, Rtype::ANY, Rtype::OPT]),
        size in prop::option::of(any::<u16>()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let mut bytes = query(&name, rtype, size);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(answer) = answer(&zone(), &bytes, Transport::Udp) {
            prop_assert!(answer.len() <= 1232);
            let message = Message::from_octets(&answer[..]).unwrap();
            prop_assert!(message.header().qr() && message.header().id() == u16::from_be_bytes([bytes[0], bytes[1]]));
            prop_assert!(message.header().opcode() != Opcode::QUERY || message.iter().all(|record| record.is_ok()));
        }
    }
}
