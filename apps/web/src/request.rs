//! Reading a request's head. Pure: bytes in, a request or a refusal out.

use crate::response::Status;

/// Most bytes of a head.
pub const MAX_HEAD_BYTES: usize = 4096;

/// Most header lines.
const MAX_HEADERS: usize = 32;

/// Most bytes of a request's body, which is read and thrown away.
pub const MAX_REQUEST_BODY_BYTES: u64 = 64 * 1024;

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// `/`.
    Root,
    /// `/id`.
    Id,
    /// `/healthz`.
    Health,
}

/// A request, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What is asked for, or why it cannot be given.
    pub resource: Result<Resource, Status>,
    /// Whether only the answer's head is wanted.
    pub is_head: bool,
    /// Whether the version is 1.0, in which staying open must be said.
    pub is_http_1_0: bool,
    /// Whether the connection stays open after the answer.
    pub keeps_alive: bool,
    /// Bytes of the body behind the head.
    pub body_bytes: u64,
}

/// What the bytes so far are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a head.
    Partial,
    /// A head of that many bytes.
    Complete(Request, usize),
    /// No head, or one that is not served; the connection has to end.
    Refused(Status),
}

/// Reads a head.
#[must_use]
pub fn parse(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD_BYTES => length,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD_BYTES => return Parsed::Partial,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Parsed::Refused(Status::HeadTooLarge),
        Err(_) => return Parsed::Refused(Status::BadRequest),
    };
    match examine(&request) {
        Ok(request) => Parsed::Complete(request, length),
        Err(status) => Parsed::Refused(status),
    }
}

/// Header lines that decide how a request is framed and answered.
#[derive(Default)]
struct Framing {
    hosts: usize,
    length: Option<u64>,
    has_transfer_encoding: bool,
    expects: bool,
    closes: bool,
    keeps_alive: bool,
}

fn examine(request: &httparse::Request<'_, '_>) -> Result<Request, Status> {
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Status::BadRequest);
    };
    let framing = read_framing(request.headers)?;
    let is_http_1_0 = version == 0;
    if framing.hosts > 1 || (framing.hosts == 0 && !is_http_1_0) {
        return Err(Status::BadRequest);
    }
    // Two ways to say where the body ends are how requests are smuggled.
    if framing.has_transfer_encoding {
        return Err(if framing.length.is_some() { Status::BadRequest } else { Status::NotImplemented });
    }
    let body_bytes = framing.length.unwrap_or(0);
    if body_bytes > MAX_REQUEST_BODY_BYTES {
        return Err(Status::BodyTooLarge);
    }
    let is_head = method == "HEAD";
    let is_served = is_head || method == "GET";
    let resource = path_of(target).ok_or(Status::BadRequest)?;
    let resource = match resource {
        "/" => Ok(Resource::Root),
        "/id" => Ok(Resource::Id),
        "/healthz" => Ok(Resource::Health),
        _ => Err(Status::NotFound),
    };
    let keeps_alive = if is_http_1_0 { framing.keeps_alive && !framing.closes } else { !framing.closes };
    Ok(Request {
        resource: resource.and_then(|r| if is_served { Ok(r) } else { Err(Status::MethodNotAllowed) }),
        is_head,
        is_http_1_0,
        // A client that waits for leave to send its body gets the answer instead, and no chance to send it after all.
        keeps_alive: keeps_alive && !(framing.expects && body_bytes > 0),
        body_bytes: if framing.expects { 0 } else { body_bytes },
    })
}

fn read_framing(headers: &[httparse::Header<'_>]) -> Result<Framing, Status> {
    let mut framing = Framing::default();
    for header in headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let text = || core::str::from_utf8(header.value).map_err(|_| Status::BadRequest);
        if is("host") {
            framing.hosts += 1;
        } else if is("content-length") {
            let text = text()?;
            let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let length = text.parse().ok().filter(|_| is_number).ok_or(Status::BadRequest)?;
            if framing.length.is_some_and(|other| other != length) {
                return Err(Status::BadRequest);
            }
            framing.length = Some(length);
        } else if is("transfer-encoding") {
            framing.has_transfer_encoding = true;
        } else if is("expect") {
            framing.expects = true;
        } else if is("connection") {
            for option in text()?.split(',').map(str::trim) {
                framing.closes |= option.eq_ignore_ascii_case("close");
                framing.keeps_alive |= option.eq_ignore_ascii_case("keep-alive");
            }
        }
    }
    Ok(framing)
}

/// The path of a request's target, without its query; `None` if the target is none.
fn path_of(target: &str) -> Option<&str> {
    let path = match target.strip_prefix("http://") {
        // To a proxy, but servers must take it too.
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => target,
    };
    if !path.starts_with('/') {
        // `*` is a target, if not one that anything is at.
        return (path == "*").then_some(path);
    }
    path.split(['?', '#']).next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn complete(text: &str) -> Request {
        match parse(text.as_bytes()) {
            Parsed::Complete(request, length) => {
                assert_eq!(length, text.len());
                request
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }

    fn refused(text: &str) -> Status {
        match parse(text.as_bytes()) {
            Parsed::Refused(status) => status,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn good_requests_are_understood() {
        let get = complete("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(get.resource, Ok(Resource::Root));
        assert!(get.keeps_alive && !get.is_head && !get.is_http_1_0 && get.body_bytes == 0);
        let id = complete("GET /id?x=1 HTTP/1.1\r\nhost: a\r\nConnection: Close\r\n\r\n");
        assert!(id.resource == Ok(Resource::Id) && !id.keeps_alive);
        let head = complete("HEAD http://10.65.0.7/healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(head.resource == Ok(Resource::Health) && head.is_head);
        let old = complete("GET / HTTP/1.0\r\n\r\n");
        assert!(old.is_http_1_0 && !old.keeps_alive);
        assert!(complete("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").keeps_alive);
        assert_eq!(complete("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n").resource, Err(Status::NotFound));
        assert_eq!(complete("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").resource, Err(Status::NotFound));
        let post = complete("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
        assert_eq!((post.resource, post.body_bytes), (Err(Status::MethodNotAllowed), 5));
        let expects = complete("PUT /id HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
        assert!(!expects.keeps_alive && expects.body_bytes == 0);
    }

    #[test]
    fn bad_requests_are_refused_with_the_right_status() {
        assert_eq!(refused("\0\x01\x02 nonsense\r\n\r\n"), Status::BadRequest);
        assert_eq!(refused("GET / HTTP/3.0\r\n\r\n"), Status::BadRequest);
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), Status::BadRequest);
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), Status::BadRequest);
        assert_eq!(refused("GET nonsense HTTP/1.1\r\nHost: a\r\n\r\n"), Status::BadRequest);
        for length in ["-1", "+5", "5 5", "", "0x5", "99999999999999999999999"] {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
            assert_eq!(refused(&text), Status::BadRequest, "{length}");
        }
        let with = |lines: &str| refused(&format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n"));
        assert_eq!(with("Content-Length: 5\r\nContent-Length: 6"), Status::BadRequest);
        assert_eq!(with("Content-Length: 5\r\nTransfer-Encoding: chunked"), Status::BadRequest);
        assert_eq!(with("Transfer-Encoding: chunked"), Status::NotImplemented);
        assert_eq!(with("Content-Length: 65537"), Status::BodyTooLarge);
        assert_eq!(with(&"X: y\r\n".repeat(40)), Status::HeadTooLarge);
        assert_eq!(with(&format!("X: {}", "y".repeat(5000))), Status::HeadTooLarge);
        assert_eq!(refused(&format!("GET /{}", "x".repeat(5000))), Status::HeadTooLarge);
    }

    proptest! {
        #[test]
        fn any_bytes_are_something(bytes: Vec<u8>) {
            if let Parsed::Complete(_, length) = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }

        #[test]
        fn a_head_in_pieces_is_partial_to_the_end(cut in 0usize..36) {
            let text = b"GET /id HTTP/1.1\r\nHost: 10.65.0.7\r\n\r\n";
            prop_assert_eq!(parse(&text[..cut]), Parsed::Partial);
        }
    }
}
