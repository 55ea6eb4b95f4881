//! Requests, and reading their heads. Pure: bytes in, a request or a refusal out.

use super::{Limits, Status};
use alloc::vec::Vec;
use core::mem::MaybeUninit;
use core::ops::Range;

/// Most header lines.
const MAX_HEADERS: usize = 32;

/// Methods of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "they are HTTP's")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
    /// Any other one.
    Other,
}

impl Method {
    fn of(word: &str) -> Self {
        match word {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "PATCH" => Self::Patch,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            _ => Self::Other,
        }
    }

    /// Its word.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Other => "",
        }
    }
}

/// Part of a head's bytes.
type Part = Range<u16>;

/// A request: its head as it came, and its body.
///
/// ```
/// use libos::http::{Method, Request};
///
/// let request = Request::parse(b"GET /find?q=snow&lang=en HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n").unwrap();
/// assert_eq!((request.method(), request.path()), (Method::Get, "/find"));
/// assert_eq!(request.query("q"), Some("snow"));
/// assert_eq!(request.header("accept"), Some("text/plain"));
/// assert_eq!(request.headers().next(), Some(("Host", "x")));
/// assert_eq!(request.method().word(), "GET");
/// ```
#[derive(Clone, Debug)]
pub struct Request {
    head: Vec<u8>,
    method: Method,
    path: Part,
    query: Part,
    headers: Part,
    /// What the router found in the path.
    pub(super) parameters: Vec<(&'static str, Part)>,
    pub(super) body: Vec<u8>,
    pub(super) framing: Framing,
}

/// How a request is framed, and what becomes of its connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Framing {
    /// Whether the version is 1.0, in which staying open must be said.
    pub is_http_1_0: bool,
    /// Whether the connection stays open after the answer.
    pub keeps_alive: bool,
    /// Bytes of the body behind the head.
    pub body_bytes: usize,
    /// Whether the client waits for leave to send its body.
    pub expects: bool,
}

/// What the bytes so far are.
#[derive(Debug)]
pub(super) enum Parsed {
    /// The beginning of a head.
    Partial,
    /// A whole head, taken off the input.
    Complete(Request),
    /// No head, or one that is not served; the connection has to end.
    Refused(Status),
}

impl Request {
    /// Reads a whole request's head, as a test wants to.
    ///
    /// # Errors
    /// The status that a client would get for it; 400 if it is not whole.
    pub fn parse(head: &[u8]) -> Result<Self, Status> {
        match read(&mut head.to_vec(), &Limits::new()) {
            Parsed::Complete(request) => Ok(request),
            Parsed::Partial => Err(Status::BAD_REQUEST),
            Parsed::Refused(status) => Err(status),
        }
    }

    fn text(&self, part: &Part) -> &str {
        let bytes = self.head.get(usize::from(part.start)..usize::from(part.end)).unwrap_or_default();
        // Paths were checked to be text.
        core::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Its method. A `HEAD` comes to the handlers of `GET`, and its answer goes without the body.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// The path, as it came, without its query.
    #[must_use]
    pub fn path(&self) -> &str {
        // A client may leave the first one out behind an absolute address.
        if self.path.is_empty() { "/" } else { self.text(&self.path) }
    }

    /// Whether the path is this one.
    pub(super) fn has_path(&self, path: &str) -> bool {
        let own = self.head.get(usize::from(self.path.start)..usize::from(self.path.end)).unwrap_or_default();
        own == path.as_bytes() || (own.is_empty() && path == "/")
    }

    /// The value of `name=value` in the query, as it came: nothing in it is decoded.
    #[must_use]
    pub fn query(&self, name: &str) -> Option<&str> {
        let mut pairs = self.text(&self.query).split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|&(found, _)| found == name).map(|(_, value)| value)
    }

    /// What stands in the path at the place that the route calls `{name}`.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(found, _)| *found == name).map(|(_, part)| self.text(part))
    }

    /// The value of the first header of that name, if it is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// All headers that are text, in their order.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let lines = self.head.get(usize::from(self.headers.start)..usize::from(self.headers.end)).unwrap_or_default();
        lines.split(|&b| b == b'\n').filter_map(|line| {
            let (name, value) = core::str::from_utf8(line).ok()?.split_once(':')?;
            Some((name, value.trim_ascii()))
        })
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// The body as a value.
    ///
    /// ```
    /// # use libos::http::Request;
    /// #[derive(serde::Deserialize)]
    /// struct Order {
    ///     count: u32,
    /// }
    ///
    /// fn count(request: &Request) -> Result<u32, libos::Error> {
    ///     Ok(request.json::<Order>()?.count)
    /// }
    /// ```
    ///
    /// # Errors
    /// If it is not JSON, or not of that kind.
    #[cfg(feature = "json")]
    pub fn json<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, crate::Error> {
        serde_json::from_slice(&self.body).map_err(crate::Error::other)
    }

    /// Where a part of the path is among the head's bytes.
    pub(super) fn part_of_path(&self, part: &str) -> Part {
        let offset = part.as_ptr().addr().wrapping_sub(self.path().as_ptr().addr());
        let start = self.path.start.wrapping_add(u16::try_from(offset).unwrap_or(0));
        start..start.wrapping_add(u16::try_from(part.len()).unwrap_or(0))
    }
}

/// Reads a head at the beginning of `input`, and takes it off.
pub(super) fn read(input: &mut Vec<u8>, limits: &Limits) -> Parsed {
    // Offsets have 16 bits.
    let most = limits.head_bytes.min(usize::from(u16::MAX));
    let mut headers = [const { MaybeUninit::uninit() }; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut []);
    let length = match request.parse_with_uninit_headers(input, &mut headers) {
        Ok(httparse::Status::Complete(length)) if length <= most => length,
        Ok(httparse::Status::Partial) if input.len() < most => return Parsed::Partial,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Parsed::Refused(Status::HEAD_TOO_LARGE),
        Err(_) => return Parsed::Refused(Status::BAD_REQUEST),
    };
    match examine(&request, input, length, limits) {
        Ok(mut request) => {
            let rest = if length == input.len() { Vec::new() } else { input.split_off(length) };
            request.head = core::mem::replace(input, rest);
            Parsed::Complete(request)
        }
        Err(status) => Parsed::Refused(status),
    }
}

/// Makes a request of a head; its bytes are put in later.
fn examine(
    request: &httparse::Request<'_, '_>,
    input: &[u8],
    length: usize,
    limits: &Limits,
) -> Result<Request, Status> {
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Status::BAD_REQUEST);
    };
    let part_of = |text: &[u8]| {
        let start = u16::try_from(text.as_ptr().addr().wrapping_sub(input.as_ptr().addr())).unwrap_or(0);
        start..start.saturating_add(u16::try_from(text.len()).unwrap_or(0))
    };
    let (path, query) = split_target(target).ok_or(Status::BAD_REQUEST)?;
    let framing = read_framing(request.headers, version == 0, limits)?;
    let first = request.headers.first().map_or(length, |header| usize::from(part_of(header.name.as_bytes()).start));
    Ok(Request {
        head: Vec::new(),
        method: Method::of(method),
        path: part_of(path.as_bytes()),
        query: part_of(query.as_bytes()),
        headers: u16::try_from(first).unwrap_or(0)..u16::try_from(length).unwrap_or(0),
        parameters: Vec::new(),
        body: Vec::new(),
        framing,
    })
}

fn read_framing(headers: &[httparse::Header<'_>], is_http_1_0: bool, limits: &Limits) -> Result<Framing, Status> {
    let (mut hosts, mut length, mut has_transfer_encoding) = (0, None, false);
    let (mut expects, mut closes, mut keeps_alive) = (false, false, false);
    for header in headers {
        let is = |name: &str| header.name.eq_ignore_ascii_case(name);
        let text = || core::str::from_utf8(header.value).map_err(|_| Status::BAD_REQUEST);
        if is("host") {
            hosts += 1;
        } else if is("content-length") {
            let text = text()?;
            let is_number = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            let value: u64 = text.parse().ok().filter(|_| is_number).ok_or(Status::BAD_REQUEST)?;
            if length.is_some_and(|other| other != value) {
                return Err(Status::BAD_REQUEST);
            }
            length = Some(value);
        } else if is("transfer-encoding") {
            has_transfer_encoding = true;
        } else if is("expect") {
            expects = true;
        } else if is("connection") {
            for option in text()?.split(',').map(str::trim) {
                closes |= option.eq_ignore_ascii_case("close");
                keeps_alive |= option.eq_ignore_ascii_case("keep-alive");
            }
        }
    }
    if hosts > 1 || (hosts == 0 && !is_http_1_0) {
        return Err(Status::BAD_REQUEST);
    }
    // Two ways to say where the body ends are how requests are smuggled.
    if has_transfer_encoding {
        return Err(if length.is_some() { Status::BAD_REQUEST } else { Status::NOT_IMPLEMENTED });
    }
    let body_bytes = usize::try_from(length.unwrap_or(0)).unwrap_or(usize::MAX);
    if body_bytes > limits.body_bytes {
        return Err(Status::CONTENT_TOO_LARGE);
    }
    let keeps_alive = if is_http_1_0 { keeps_alive && !closes } else { !closes };
    Ok(Framing { is_http_1_0, keeps_alive, body_bytes, expects: expects && body_bytes > 0 })
}

/// The path of a request's target, and its query; `None` if the target is none.
fn split_target(target: &str) -> Option<(&str, &str)> {
    let path = match target.strip_prefix("http://") {
        // To a proxy, but servers must take it too.
        Some(rest) => rest.get(rest.find('/').unwrap_or(rest.len())..)?,
        None => target,
    };
    // `*` is a target, if not one that anything is at, and an absolute one may have no path.
    if !path.starts_with('/') && path != "*" && !(path.is_empty() && target.len() > path.len()) {
        return None;
    }
    let path = path.split('#').next().unwrap_or(path);
    path.split_once('?').or_else(|| path.split_at_checked(path.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use proptest::prelude::*;

    fn complete(text: &str) -> Request {
        let mut input = text.as_bytes().to_vec();
        match read(&mut input, &Limits::default()) {
            Parsed::Complete(request) => {
                assert_eq!(input, b"");
                request
            }
            other => panic!("{text:?}: {other:?}"),
        }
    }

    fn refused(text: &str) -> Status {
        match read(&mut text.as_bytes().to_vec(), &Limits::default()) {
            Parsed::Refused(status) => status,
            other => panic!("{text:?}: {other:?}"),
        }
    }

    #[test]
    fn good_requests_are_understood() {
        let get = complete("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((get.method(), get.path()), (Method::Get, "/"));
        assert_eq!(get.framing, Framing { keeps_alive: true, ..Framing::default() });
        let id = complete("GET /id?x=1&y=&z HTTP/1.1\r\nhost: a\r\nConnection: Close\r\nX-Y:  two words \r\n\r\n");
        assert!(id.path() == "/id" && !id.framing.keeps_alive);
        assert_eq!((id.query("x"), id.query("y"), id.query("z")), (Some("1"), Some(""), None));
        assert_eq!(id.header("x-y"), Some("two words"));
        assert_eq!(id.headers().count(), 3);
        let head = complete("HEAD http://10.65.0.7/healthz HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!((head.method(), head.path()), (Method::Head, "/healthz"));
        assert_eq!(complete("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n").path(), "/");
        let old = complete("GET / HTTP/1.0\r\n\r\n");
        assert!(old.framing.is_http_1_0 && !old.framing.keeps_alive && old.headers().count() == 0);
        assert!(complete("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").framing.keeps_alive);
        assert_eq!(complete("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").path(), "*");
        let post = complete("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n");
        assert_eq!((post.method(), post.framing.body_bytes), (Method::Post, 5));
        let expects = complete("PUT /id HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n");
        assert!(expects.framing.expects);
    }

    #[test]
    fn bad_requests_are_refused_with_the_right_status() {
        assert_eq!(refused("\0\x01\x02 nonsense\r\n\r\n"), Status::BAD_REQUEST);
        assert_eq!(refused("GET / HTTP/3.0\r\n\r\n"), Status::BAD_REQUEST);
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), Status::BAD_REQUEST);
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), Status::BAD_REQUEST);
        assert_eq!(refused("GET nonsense HTTP/1.1\r\nHost: a\r\n\r\n"), Status::BAD_REQUEST);
        for length in ["-1", "+5", "5 5", "", "0x5", "99999999999999999999999"] {
            let text = format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
            assert_eq!(refused(&text), Status::BAD_REQUEST, "{length}");
        }
        let with = |lines: &str| refused(&format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n"));
        assert_eq!(with("Content-Length: 5\r\nContent-Length: 6"), Status::BAD_REQUEST);
        assert_eq!(with("Content-Length: 5\r\nTransfer-Encoding: chunked"), Status::BAD_REQUEST);
        assert_eq!(with("Transfer-Encoding: chunked"), Status::NOT_IMPLEMENTED);
        assert_eq!(with("Content-Length: 65537"), Status::CONTENT_TOO_LARGE);
        assert_eq!(with(&"X: y\r\n".repeat(40)), Status::HEAD_TOO_LARGE);
        assert_eq!(with(&format!("X: {}", "y".repeat(5000))), Status::HEAD_TOO_LARGE);
        assert_eq!(refused(&format!("GET /{}", "x".repeat(5000))), Status::HEAD_TOO_LARGE);
    }

    proptest! {
        #[test]
        fn any_bytes_are_something(bytes: Vec<u8>) {
            let mut input = bytes.clone();
            if let Parsed::Complete(request) = read(&mut input, &Limits::default()) {
                prop_assert_eq!(request.head.len() + input.len(), bytes.len());
            }
        }

        #[test]
        fn whatever_a_head_says_can_be_asked_for(
            target in "[/*?#&=a-z%:.]{0,20}",
            lines in proptest::collection::vec("[A-Za-z-]{1,9}:[ -~]{0,20}", 0..5),
        ) {
            let text = format!("GET {target} HTTP/1.0\r\n{}\r\n\r\n", lines.join("\r\n"));
            if let Ok(request) = Request::parse(text.as_bytes()) {
                prop_assert!(target.contains(request.path()) || request.path() == "/");
                prop_assert!(request.headers().count() <= lines.len());
                let _ = (request.query("a"), request.header("b"), request.parameter("c"));
            }
        }

        #[test]
        fn a_head_in_pieces_is_partial_to_the_end(cut in 0usize..36) {
            let text = b"GET /id HTTP/1.1\r\nHost: 10.65.0.7\r\n\r\n";
            prop_assert!(matches!(read(&mut text[..cut].to_vec(), &Limits::default()), Parsed::Partial));
        }
    }
}
