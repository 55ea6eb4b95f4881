//! Parsers of guests: what clients, servers and packets of strangers say.

use arena_protocol::{ClientMessage, ServerMessage};
use core::convert::Infallible;
use core::net::{IpAddr, Ipv4Addr};
use dns::{Transport, answer, text};
use embedded_io_async::{ErrorType, Read, Write};
use kv::resp::{Arguments, Parser};
use libos::http::{self, File, Limits, Request, Response, Router, Status, serve_stream};
use libos::net::parsers as names;
use mqtt::packet::{self, Packet};
use proxy::chunks::{Chunks, Piece};
use proxy::head::{MAX_HEAD_BYTES, Parsed, read_request, read_response};

fn bytes_of(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// Heads of requests and responses, and requests one after the other.
#[must_use]
pub fn http_examples() -> Vec<Vec<u8>> {
    bytes_of(&[
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /file?x=1&y=2 HTTP/1.1\r\nHost: a\r\nRange: bytes=1-3\r\nIf-None-Match: \"x\"\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhelloGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "POST http://a/ HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close, x-y\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        "\r\nHEAD /things/7/parts HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
        "HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n",
    ])
}

/// A request's head says what it says of itself, and nothing of it lies outside.
///
/// # Panics
/// If it does.
pub fn http_head(bytes: &[u8]) {
    let Ok(request) = Request::parse(bytes) else { return };
    assert!(request.headers().count() <= 32);
    assert!(!request.path().is_empty());
    for (name, value) in request.headers() {
        assert!(bytes.len() > name.len() + value.len());
        assert!(request.header(name).is_some());
    }
    let _ = (request.query("x"), request.parameter("x"), request.method().word(), request.body());
}

/// A client that has said all it says, and takes everything.
struct Client<'a> {
    rest: &'a [u8],
    taken: usize,
}

impl ErrorType for &mut Client<'_> {
    type Error = Infallible;
}

impl Read for &mut Client<'_> {
    async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Infallible> {
        // In pieces, so that heads and bodies are cut somewhere.
        let length = self.rest.len().min(bytes.len()).min(37);
        let (now, rest) = self.rest.split_at(length);
        bytes[..length].copy_from_slice(now);
        self.rest = rest;
        Ok(length)
    }
}

impl Write for &mut Client<'_> {
    async fn write(&mut self, bytes: &[u8]) -> Result<usize, Infallible> {
        self.taken += bytes.len();
        Ok(bytes.len())
    }

    async fn flush(&mut self) -> Result<(), Infallible> {
        Ok(())
    }
}

impl http::Transport for &mut Client<'_> {}

/// What a client gets is bounded by what it said, however requests follow each other.
///
/// # Panics
/// If it is not.
pub fn http_stream(bytes: &[u8]) {
    let router = Router::new()
        .get("/", |_: Request| Response::text("root"))
        .get("/{*rest}", |request: Request| FILE.respond(&request))
        .post("/echo", |request: Request| Response::bytes("text/plain", request.body().to_vec()));
    let mut client = Client { rest: bytes, taken: 0 };
    let served = libos::block_on(serve_stream(&mut client, &router, &Limits::new()));
    assert!(served.is_ok(), "a stream that never fails");
    // Of the shortest request there are so many, and each has an answer of at most that.
    let requests = bytes.len() / 18 + 1;
    assert!(client.taken <= bytes.len() + requests * 300, "{} bytes for {}", client.taken, bytes.len());
}

static FILE: File = File::new("a.txt", b"0123456789");

/// Values of `Range` and of the conditions.
#[must_use]
pub fn range_examples() -> Vec<Vec<u8>> {
    bytes_of(&["bytes=0-3", "bytes=-3", "bytes=3-", "bytes=9-99999999999999999999", "bytes=1-2,4-5", "W/\"x\", *", "x"])
}

/// A file's part is a part of it, and what a client has already is not sent.
///
/// # Panics
/// If it is not.
pub fn http_range(bytes: &[u8]) {
    let Ok(value) = core::str::from_utf8(bytes) else { return };
    for name in ["range", "if-none-match", "if-range: \"x\"\r\nrange"] {
        let head = format!("GET / HTTP/1.1\r\nhost: a\r\n{name}: {value}\r\n\r\n");
        let Ok(request) = Request::parse(head.as_bytes()) else { return };
        let response = FILE.respond(&request);
        match response.status().code() {
            200 => assert_eq!(response.body().len(), 10),
            206 => assert!((1..=10).contains(&response.body().len())),
            304 => assert!(response.body().is_empty()),
            416 => assert!(name.ends_with("range")),
            code => panic!("{code} for {value:?}"),
        }
    }
}

/// Whether a few more lines may be more than a proxy reads, and what is there is not.
fn is_nearly_too_large(head: &[u8]) -> bool {
    let lines = head.iter().filter(|&&b| b == b'\n').count() - 2;
    assert!(lines <= 64 && head.len() <= MAX_HEAD_BYTES, "{lines} lines, {} bytes", head.len());
    lines > 60 || head.len() > MAX_HEAD_BYTES - 200
}

/// Heads for a proxy: those of others, and the longest ones.
#[must_use]
pub fn proxy_examples() -> Vec<Vec<u8>> {
    let long = ["GET / HTTP/1.1\r\nHost: a\r\n", "HTTP/1.1 200 OK\r\nA: b\r\n"].into_iter().flat_map(|first| {
        [59, 60, 61, 62, 63].map(|lines| format!("{first}{}\r\n", "X: y\r\n".repeat(lines)).into_bytes())
    });
    http_examples().into_iter().chain(long).collect()
}

/// What is passed on is read in the same way once more, and never as longer than it was.
///
/// # Panics
/// If it is not.
pub fn proxy_heads(bytes: &[u8]) {
    let client = IpAddr::V4(Ipv4Addr::new(10, 65, 0, 9));
    if let Parsed::Complete(head, length) = read_request(bytes, client) {
        assert!(length <= bytes.len());
        match read_request(&head.forward, client) {
            // It would have to say once more that it has been passed on, or was passed on too often.
            Parsed::Refused(Status::HEAD_TOO_LARGE) if is_nearly_too_large(&head.forward) => {}
            Parsed::Refused(Status::LOOP_DETECTED) => {}
            Parsed::Complete(again, all) => {
                assert_eq!(all, head.forward.len());
                assert_eq!((again.framing, again.is_head), (head.framing, head.is_head));
            }
            other => panic!("{:?} is {other:?}", String::from_utf8_lossy(&head.forward)),
        }
    }
    for is_head in [false, true] {
        if let Parsed::Complete(head, length) = read_response(bytes, is_head) {
            assert!(length <= bytes.len());
            let written = head.write(false, true);
            match read_response(&written, is_head) {
                Parsed::Complete(again, all) => assert_eq!((again.status, all), (head.status, written.len())),
                Parsed::Refused(Status::BAD_GATEWAY) if is_nearly_too_large(&written) => {}
                other => panic!("{:?} is {other:?}", String::from_utf8_lossy(&written)),
            }
        }
    }
}

/// Chunked bodies.
#[must_use]
pub fn chunk_examples() -> Vec<Vec<u8>> {
    bytes_of(&[
        "5\r\nhello\r\n0\r\n\r\n",
        "a;x=\"y\"\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\n",
        "ffffffffffffffff\r\n",
        "\r\n",
    ])
}

/// A body is the same however it is cut, and every step goes on.
///
/// # Panics
/// If it is not.
pub fn proxy_chunks(bytes: &[u8]) {
    /// The body and whether it ended well, if at most that much is seen at a time.
    fn body(bytes: &[u8], most: usize) -> (Vec<u8>, Option<usize>, bool) {
        let (mut chunks, mut at, mut body) = (Chunks::new(), 0, Vec::new());
        while at < bytes.len() {
            let input = &bytes[at..(at + most).min(bytes.len())];
            match chunks.next(input) {
                Ok(Piece::Skip(length)) => {
                    assert!((1..=input.len()).contains(&length));
                    at += length;
                }
                Ok(Piece::Data(length)) => {
                    assert!((1..=input.len()).contains(&length));
                    body.extend_from_slice(&input[..length]);
                    at += length;
                }
                Ok(Piece::End(length)) => {
                    assert!(length <= input.len());
                    return (body, Some(at + length), true);
                }
                Err(_) => return (body, None, false),
            }
        }
        (body, None, true)
    }
    let whole = body(bytes, usize::MAX - bytes.len());
    for most in [1, 3] {
        assert_eq!(body(bytes, most), whole);
    }
}

/// Commands of Redis' clients.
#[must_use]
pub fn resp_examples() -> Vec<Vec<u8>> {
    bytes_of(&[
        "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n*1\r\n$4\r\nPING\r\n",
        "PING\r\nGET key\r\n\r\n",
        "*2\r\n$4\r\nMGET\r\n$0\r\n\r\n",
        "*0\r\n*-1\r\n",
        "*1\r\n$99999999999\r\n",
    ])
}

/// A request in pieces is the same as whole, its arguments lie in it, and numbers are what they are written as.
///
/// # Panics
/// If it is not.
pub fn resp(bytes: &[u8]) {
    const MOST: usize = 1 << 16;
    let mut at = 0;
    loop {
        let rest = &bytes[at..];
        let whole = Parser::default().parse(rest, MOST);
        let mut parser = Parser::default();
        let in_pieces = (0..=rest.len()).find_map(|end| match parser.parse(&rest[..end], MOST) {
            Ok(None) => None,
            said => Some(said),
        });
        // Pieces may show sooner what is wrong, and never something else.
        match (&whole, in_pieces) {
            (Ok(Some(length)), Some(Ok(Some(other)))) => assert_eq!(*length, other),
            (Ok(None), None) | (Err(_), Some(Err(_))) => return,
            (whole, pieces) => panic!("{whole:?} whole, {pieces:?} in pieces"),
        }
        let Ok(Some(length)) = whole else { return };
        assert!(length > 0 && length <= rest.len());
        for argument in Arguments::of(&rest[..length]) {
            assert!(argument.len() <= length);
            if let Some(number) = kv::resp::number(argument) {
                let text = core::str::from_utf8(argument).expect("digits");
                assert_eq!(text.parse::<i64>(), Ok(number));
            }
        }
        at += length;
    }
}

/// Queries, and texts of zones.
#[must_use]
pub fn dns_examples() -> Vec<Vec<u8>> {
    let query = |kind: u8, edns: &[u8]| {
        let mut bytes = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, u8::from(!edns.is_empty())];
        bytes.extend_from_slice(b"\x03www\x07example\x03org\x00\x00");
        bytes.extend_from_slice(&[kind, 0, 1]);
        bytes.extend_from_slice(edns);
        bytes
    };
    let mut examples = vec![query(1, &[]), query(28, &[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]), query(255, &[])];
    examples.extend(bytes_of(&[ZONE, "$TTL 1h\n@ SOA a b (1 2\n3 4 5) ; x\n", "@ TXT \"a b\" c\\032d\n"]));
    examples
}

const ZONE: &str = "@ SOA ns admin 1 3600 600 86400 60\n@ NS ns\nns A 10.65.0.2\nwww CNAME ns\n*.w AAAA ::1\n";

/// A query has an answer that fits, or none; a text is a zone or an error.
///
/// # Panics
/// If it is not.
pub fn dns(bytes: &[u8]) {
    let zone = text::parse(ZONE, "example.org", 60).expect("it is a zone");
    for (transport, most) in [(Transport::Udp, 1232), (Transport::Tcp, 65_535)] {
        if let Some(answer) = answer(&zone, bytes, transport) {
            assert!((12..=most).contains(&answer.len()), "{} bytes", answer.len());
            assert_eq!(answer[..2], bytes[..2], "the query's number");
            assert!(answer[2] & 0x80 != 0, "it is an answer");
        }
    }
    if let Ok(zone) =
        core::str::from_utf8(bytes).map_err(|_| ()).and_then(|it| text::parse(it, "x.org", 60).map_err(|_| ()))
    {
        assert!(zone.soa().is_some() && zone.nr_names() > 0);
    }
}

/// Answers of name servers to the question for a name's IPv4 address.
#[must_use]
pub fn resolver_examples() -> Vec<Vec<u8>> {
    let mut answer =
        b"\x00\x07\x81\x80\x00\x01\x00\x02\x00\x00\x00\x00\x03www\x07example\x03org\x00\x00\x01\x00\x01".to_vec();
    answer.extend_from_slice(b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x3c\x00\x05\x02ns\xc0\x10");
    answer.extend_from_slice(b"\xc0\x2d\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\x0a\x41\x00\x02");
    vec![answer, names::question(7, "www.example.org").expect("it is a name")]
}

/// An answer has at most so many addresses; a text is a name or none.
///
/// # Panics
/// If it has more.
pub fn resolver(bytes: &[u8]) {
    if let Some(addresses) = names::answer(bytes, 7, "www.example.org") {
        assert!(addresses.len() <= 16 && addresses.iter().all(IpAddr::is_ipv4));
    }
    if let Ok(text) = core::str::from_utf8(bytes)
        && let Some(question) = names::question(7, text)
    {
        assert!((17..=280).contains(&question.len()), "{} bytes", question.len());
    }
}

/// Packets of clients.
#[must_use]
pub fn mqtt_examples() -> Vec<Vec<u8>> {
    let with = |first: u8, rest: &[u8]| {
        let mut bytes = vec![first, u8::try_from(rest.len()).expect("it is short")];
        bytes.extend_from_slice(rest);
        bytes
    };
    vec![
        with(0x10, b"\x00\x04MQTT\x04\x02\x00\x3c\x00\x02me"),
        with(0x10, b"\x00\x04MQTT\x04\x2e\x00\x3c\x00\x02me\x00\x01w\x00\x03bye"),
        with(0x32, b"\x00\x03a/b\x00\x07hello"),
        with(0x82, b"\x00\x01\x00\x03a/+\x01\x00\x01#\x02"),
        with(0xa2, b"\x00\x02\x00\x01#"),
        with(0x40, b"\x00\x07"),
        with(0xc0, b""),
        with(0xe0, b""),
    ]
}

/// A packet's length is that of the packet, and what it carries lies in it; a message that is written is read again.
///
/// # Panics
/// If it is not.
pub fn mqtt(bytes: &[u8]) {
    let Ok(Some(length)) = packet::length(bytes, 1 << 16) else { return };
    assert!((2..=1 << 16).contains(&length));
    let Some(bytes) = bytes.get(..length) else { return };
    match packet::read(bytes) {
        Ok(Packet::Subscribe(_, filters) | Packet::Unsubscribe(_, filters)) => {
            assert!((1..=64).contains(&filters.count()))
        }
        Ok(Packet::Connect(connect)) => assert!(connect.client.len() < bytes.len()),
        Ok(Packet::Publish(message, id)) => {
            let mut written = Vec::new();
            packet::write_publish_head(&mut written, &message, id, false);
            written.extend_from_slice(message.payload);
            assert_eq!(packet::read(&written), Ok(Packet::Publish(message, id)));
        }
        Ok(_) | Err(_) => {}
    }
}

/// Messages of players and of the server.
#[must_use]
pub fn arena_examples() -> Vec<Vec<u8>> {
    let client = [
        ClientMessage::Join { nonce: 1 },
        ClientMessage::Enter { nonce: 1, token: 2 },
        ClientMessage::Leave { player: 3, key: 4 },
        ClientMessage::Status,
    ];
    let server = [
        ServerMessage::Challenge { nonce: 1, token: 2 },
        ServerMessage::Welcome { nonce: 1, key: 2, tick: 3, player: 4 },
    ];
    let client = client.iter().map(|message| message.encode().bytes().to_vec());
    client.chain(server.iter().map(|message| message.encode().bytes().to_vec())).collect()
}

/// Every message has one encoding.
///
/// # Panics
/// If one has another.
pub fn arena(bytes: &[u8]) {
    if let Some(message) = ClientMessage::decode(bytes) {
        assert_eq!(message.encode().bytes(), bytes);
    }
    if let Some(message) = ServerMessage::decode(bytes) {
        assert_eq!(message.encode().bytes(), bytes);
    }
}

/// What a firewall lets through has its port, one hop less, and nothing else that is new but an IPv4 checksum.
///
/// # Panics
/// If it has not.
pub fn firewall(bytes: &[u8]) {
    let rules = firewall::Rules::parse("allow=80,53 icmp").expect("they are rules");
    let mut packet = bytes.to_vec();
    if firewall::forward(&mut packet, &rules).is_err() {
        return;
    }
    let (hops_at, header) = if packet[0] >> 4 == 4 { (8, Some(10..12)) } else { (7, None) };
    assert!(bytes[hops_at] > 1 && packet[hops_at] == bytes[hops_at] - 1);
    for (at, (new, old)) in packet.iter().zip(bytes).enumerate() {
        let may_change = at == hops_at || header.as_ref().is_some_and(|checksum| checksum.contains(&at));
        assert!(new == old || may_change, "byte {at}");
    }
}
