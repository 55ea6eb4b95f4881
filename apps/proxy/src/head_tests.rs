//! What heads become, what is refused, and that nothing is understood in two ways.

use super::*;
use proptest::prelude::*;

const CLIENT: IpAddr = IpAddr::V4(core::net::Ipv4Addr::new(10, 0, 0, 9));

fn request(text: &str) -> RequestHead {
    match read_request(text.as_bytes(), CLIENT) {
        Parsed::Complete(head, length) => {
            assert_eq!(length, text.len());
            head
        }
        other => panic!("{text:?}: {other:?}"),
    }
}

fn forwarded(text: &str) -> String {
    String::from_utf8(request(text).forward).unwrap()
}

fn refused(text: &str) -> u16 {
    match read_request(text.as_bytes(), CLIENT) {
        Parsed::Refused(status) => status.code(),
        other => panic!("{text:?}: {other:?}"),
    }
}

fn response(text: &str) -> Option<ResponseHead> {
    match read_response(text.as_bytes(), false) {
        Parsed::Complete(head, _) => Some(head),
        Parsed::Refused(Status::BAD_GATEWAY) => None,
        other => panic!("{text:?}: {other:?}"),
    }
}

#[test]
fn what_is_for_one_connection_stays_on_it() {
    let text = "GET /a?b HTTP/1.1\r\nHost: web:8080\r\nConnection: close, X-Secret\r\nKeep-Alive: 5\r\nTE: trailers\r\n\
                Trailer: x\r\nUpgrade: websocket\r\nProxy-Authorization: y\r\nX-Secret: z\r\nAccept: */*\r\n\
                X-Forwarded-For: 1.2.3.4\r\nX-Forwarded-For: 5.6.7.8\r\n\r\n";
    let wanted = "GET /a?b HTTP/1.1\r\nhost: web:8080\r\nAccept: */*\r\nx-forwarded-for: 1.2.3.4, 5.6.7.8, 10.0.0.9\r\n\
                  via: 1.1 firn-proxy\r\n\r\n";
    assert_eq!(forwarded(text), wanted);
    assert!(!request(text).keeps_alive);
    // What the framing and the address depend on cannot be nominated away.
    let sly =
        forwarded("POST / HTTP/1.1\r\nHost: a\r\nConnection: Host, Content-Length, Via\r\nContent-Length: 3\r\n\r\n");
    assert!(sly.contains("host: a\r\n") && sly.contains("content-length: 3\r\n") && sly.contains("via: "), "{sly}");
}

#[test]
fn targets_become_paths() {
    assert!(
        forwarded("GET http://b:81/x HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("GET /x HTTP/1.1\r\nhost: b:81\r\n")
    );
    assert!(forwarded("GET http://b HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("GET / HTTP/1.1\r\n"));
    assert!(forwarded("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("OPTIONS * "));
    for target in ["x", "http://", "http:///x", "https://a/", "http://u@a/", "a:80", "http://a?x"] {
        assert_eq!(refused(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")), 400, "{target}");
    }
    assert_eq!(refused("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n"), 405);
}

#[test]
fn requests_that_could_be_smuggled_are_refused() {
    let with = |lines: &str| refused(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n"));
    for lines in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 0",
        "Content-Length: 5\r\nContent-Length: 5",
        "Content-Length: 5, 5",
        "Content-Length: +5",
        "Content-Length: -5",
        "Content-Length: 0x5",
        "Content-Length: 5 5",
        "Content-Length:",
        "Content-Length: 99999999999999999999",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: xchunked\r\nContent-Length: 5",
        "Transfer-Encoding : chunked",
        "X: a\r\n Transfer-Encoding: chunked",
        "Host: b",
        "X: a\rb",
    ] {
        assert_eq!(with(lines), 400, "{lines}");
    }
    assert_eq!(with("Transfer-Encoding: gzip"), 501);
    assert_eq!(refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
    assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), 400);
    assert_eq!(refused("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"), 400);
    assert_eq!(refused("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), 400);
    assert_eq!(refused(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(65))), 431);
    assert_eq!(refused(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(MAX_HEAD_BYTES))), 431);
}

/// Found by a fuzzer: what is added made a head of 64 lines one that the next proxy refused.
#[test]
fn what_is_passed_on_is_within_the_limits_it_came_with() {
    let request_of = |lines| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(lines));
    let response_of = |lines| format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(lines));
    let headers_of = |head: &[u8]| head.iter().filter(|&&b| b == b'\n').count() - 2;
    // Host and the two that every request gets; `via` and the two that a response may get.
    for lines in [60, 61] {
        assert_eq!(headers_of(&request(&request_of(lines)).forward), lines + 3);
        assert_eq!(headers_of(&response(&response_of(lines)).unwrap().write(false, false)), lines + 3);
    }
    for lines in [62, 63, 64] {
        assert_eq!(refused(&request_of(lines)), 431);
        assert!(response(&response_of(lines)).is_none(), "{lines}");
    }
    let long = |bytes: usize| format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(bytes));
    assert!(response(&long(MAX_HEAD_BYTES - 200)).is_some());
    assert!(response(&long(MAX_HEAD_BYTES - 60)).is_none());
    let long = |bytes: usize| format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(bytes));
    assert!(request(&long(MAX_HEAD_BYTES - 200)).forward.len() <= MAX_HEAD_BYTES);
    assert_eq!(refused(&long(MAX_HEAD_BYTES - 60)), 431);
}

#[test]
fn bodies_are_framed_in_our_own_words() {
    let post = |lines: &str| request(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n"));
    assert_eq!(post("Content-Length: 007").framing, Framing::Length(7));
    assert!(String::from_utf8(post("Content-Length: 007").forward).unwrap().contains("\r\ncontent-length: 7\r\n"));
    assert_eq!(post("Content-Length: 0").framing, Framing::Nothing);
    assert_eq!(post("transfer-encoding: CHUNKED").framing, Framing::Chunked);
    assert_eq!(post("X: y").framing, Framing::Nothing);
    let old = request("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
    assert!(old.is_http_1_0 && old.keeps_alive && old.forward.starts_with(b"GET / HTTP/1.1\r\nhost: \r\n"));
}

#[test]
fn a_request_that_goes_round_is_stopped() {
    let via = "via: 1.1 firn-proxy\r\n".repeat(MOST_PASSES);
    assert_eq!(refused(&format!("GET / HTTP/1.1\r\nHost: a\r\n{via}\r\n")), 508);
    let other = "via: 1.1 another\r\n".repeat(MOST_PASSES);
    assert!(forwarded(&format!("GET / HTTP/1.1\r\nHost: a\r\n{other}\r\n")).contains("1.1 firn-proxy"));
}

#[test]
fn responses_are_framed_for_their_client() {
    let ok = response("HTTP/1.1 200 Fine\r\nContent-Length: 5\r\nConnection: x-y\r\nX-Y: z\r\nA: b\r\n\r\n").unwrap();
    assert!(ok.keeps_alive && ok.framing == Framing::Length(5));
    let text = String::from_utf8(ok.write(false, true)).unwrap();
    assert_eq!(text, "HTTP/1.1 200 Fine\r\nA: b\r\nvia: 1.1 firn-proxy\r\ncontent-length: 5\r\n\r\n");
    let chunked = response("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    assert_eq!((chunked.framing_to(false), chunked.framing_to(true)), (Framing::Chunked, Framing::UntilClose));
    let endless = response("HTTP/1.0 200 OK\r\n\r\n").unwrap();
    assert!(
        !endless.keeps_alive && endless.framing == Framing::UntilClose && endless.framing_to(false) == Framing::Chunked
    );
    assert!(endless.write(true, false).ends_with(b"connection: close\r\n\r\n"));
    let Parsed::Complete(head, _) = read_response(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", true) else {
        panic!()
    };
    assert_eq!(head.framing, Framing::Nothing);
    assert!(String::from_utf8(head.write(false, true)).unwrap().contains("content-length: 5\r\n"));
    for text in [
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
        "HTTP/1.1 999 What\r\n\r\n",
        "nonsense\r\n\r\n",
    ] {
        assert_eq!(response(text), None, "{text}");
    }
}

proptest! {
    /// Whatever comes, what is passed on is one head, and it says of its body what we took it to say.
    #[test]
    fn what_is_passed_on_is_read_in_the_same_way(
        target in "(/[a-z?#/%.]{0,12}|http://[a-z@:/]{0,9}|[*a-z]{0,3})",
        lines in proptest::collection::vec(
            prop_oneof![
                Just("Content-Length: 5".to_owned()),
                Just("Transfer-Encoding: chunked".to_owned()),
                "(Connection|Host|Via|X-Forwarded-For|content-length|TRANSFER-ENCODING|[A-Za-z-]{1,9}):[ -~\t]{0,20}",
            ],
            0..6,
        ),
    ) {
        let text = format!("POST {target} HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", lines.join("\r\n"));
        if let Parsed::Complete(head, length) = read_request(text.as_bytes(), CLIENT) {
            prop_assert!(length <= text.len());
            // As another of us would read it.
            match read_request(&head.forward, CLIENT) {
                Parsed::Complete(again, length) => {
                    prop_assert_eq!(length, head.forward.len());
                    prop_assert_eq!(again.framing, head.framing);
                }
                Parsed::Refused(Status::LOOP_DETECTED | Status::HEAD_TOO_LARGE) => {}
                other => prop_assert!(false, "{:?} from {:?}", other, text),
            }
        }
    }

    #[test]
    fn any_bytes_are_something(bytes: Vec<u8>, is_head: bool) {
        let _ = read_request(&bytes, CLIENT);
        let _ = read_response(&bytes, is_head);
        let _ = read_response(&[b"HTTP/1.1 200 OK\r\n", &bytes[..]].concat(), is_head);
    }
}
