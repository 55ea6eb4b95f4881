//! Heads of requests and responses: read, judged, and written anew for the other side. Pure: bytes in, bytes out.
//!
//! Nothing is passed on as it came. What says where a body ends is understood here or refused, and said in our own
//! words to the other side, so that both can only agree about it; what is for one connection only stays on it.

use alloc::vec::Vec;
use core::net::IpAddr;
use libos::http::Status;

/// Most bytes of a head.
pub const MAX_HEAD_BYTES: usize = 8192;

/// Most header lines.
const MAX_HEADERS: usize = 64;

/// Bytes of a line that a head of a response gets at its end, at most: a length of 20 digits.
const MORE_BYTES: usize = "content-length: \r\n".len() + 20;

/// What we call ourselves in `Via`.
const NAME: &str = "firn-proxy";

/// How often a request may have come through proxies of this name: more is a loop.
const MOST_PASSES: usize = 8;

/// Headers that are for one connection, by the standard or by habit, whatever `Connection` says.
const HOP_BY_HOP: [&str; 10] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    // Not for one connection, but always in our own words.
    "content-length",
];

/// Where a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    Nothing,
    /// After so many bytes.
    Length(u64),
    /// After the last chunk.
    Chunked,
    /// At the end of the connection.
    UntilClose,
}

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed<T> {
    /// The beginning of a head.
    Partial,
    /// A head, and how many bytes it took.
    Complete(T, usize),
    /// No head, or one that is not passed on: the answer to its sender.
    Refused(Status),
}

/// A request's head.
#[derive(Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The head as the back end gets it, to its empty line.
    pub forward: Vec<u8>,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether it asks for the head of an answer only.
    pub is_head: bool,
    /// Whether doing it twice is as good as doing it once.
    pub is_idempotent: bool,
    /// Whether the client speaks HTTP/1.0.
    pub is_http_1_0: bool,
    /// Whether the client wants to go on.
    pub keeps_alive: bool,
}

/// A response's head.
#[derive(Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// Its status.
    pub status: u16,
    /// Status and header lines as the client gets them, without those that [`ResponseHead::write`] adds.
    lines: Vec<u8>,
    /// Where the body ends.
    pub framing: Framing,
    /// The length that is told of a body that is not sent.
    told_length: Option<u64>,
    /// Whether the back end's connection can be used again.
    pub keeps_alive: bool,
}

/// What headers say about framing and connection.
#[derive(Default)]
struct Survey<'a> {
    length: Option<u64>,
    is_chunked: bool,
    hosts: usize,
    host: &'a [u8],
    closes: bool,
    keeps: bool,
    passes: usize,
    /// Names that are for this connection only, as `Connection` says.
    nominated: Vec<&'a [u8]>,
}

/// The words of a list.
fn words(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&b| b == b',').map(<[u8]>::trim_ascii).filter(|word| !word.is_empty())
}

fn is(name: &str, other: &str) -> bool {
    name.eq_ignore_ascii_case(other)
}

/// Reads what matters; `None` if it cannot be understood in one way only.
fn survey<'a>(headers: &[httparse::Header<'a>]) -> Option<Survey<'a>> {
    let mut found = Survey::default();
    for header in headers {
        if is(header.name, "content-length") {
            let is_number = (1..=19).contains(&header.value.len()) && header.value.iter().all(u8::is_ascii_digit);
            let value = core::str::from_utf8(header.value).ok().filter(|_| is_number)?;
            // Twice is too often, also if they agree.
            if found.length.replace(value.parse().ok()?).is_some() {
                return None;
            }
        } else if is(header.name, "transfer-encoding") {
            if found.is_chunked || !header.value.eq_ignore_ascii_case(b"chunked") {
                return None;
            }
            found.is_chunked = true;
        } else if is(header.name, "host") {
            found.hosts += 1;
            found.host = header.value;
        } else if is(header.name, "connection") {
            for word in words(header.value) {
                found.closes |= word.eq_ignore_ascii_case(b"close");
                found.keeps |= word.eq_ignore_ascii_case(b"keep-alive");
                found.nominated.push(word);
            }
        } else if is(header.name, "via") {
            let is_ours = |entry: &&[u8]| entry.ends_with(NAME.as_bytes());
            found.passes += words(header.value).filter(is_ours).count();
        }
    }
    Some(found)
}

/// Whether a header goes on to the other side.
fn goes_on(name: &str, survey: &Survey<'_>) -> bool {
    !HOP_BY_HOP.iter().any(|known| is(name, known))
        && !survey.nominated.iter().any(|word| word.eq_ignore_ascii_case(name.as_bytes()))
}

fn line(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn length_line(out: &mut Vec<u8>, length: u64) {
    line(out, "content-length", alloc::format!("{length}").as_bytes());
}

/// Whether a head is within the limits that it was read with, still after `more` lines of at most [`MORE_BYTES`]: whoever
/// gets it may have the same. The first line is no header, the last one is empty.
fn is_within_limits(head: &[u8], more: usize) -> bool {
    let lines = head.iter().filter(|&&b| b == b'\n').count();
    lines + more <= MAX_HEADERS + 2 && head.len() + more * MORE_BYTES <= MAX_HEAD_BYTES
}

/// A host with or without a port, and nothing that could be taken for more.
fn is_host(host: &[u8]) -> bool {
    host.len() <= 255 && host.iter().all(|b| b.is_ascii_alphanumeric() || b"-._:[]%~".contains(b))
}

/// The target as servers want it, and the host if the target names one; `None` if it is no target of ours.
fn split_target(target: &str) -> Option<(&str, Option<&str>)> {
    if target.starts_with('/') || target == "*" {
        return Some((target, None));
    }
    let scheme = target.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://"))?;
    let rest = &target[scheme.len()..];
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(end);
    let path = if path.is_empty() { "/" } else { path };
    (path.starts_with('/') && !host.is_empty() && !host.contains('@')).then_some((path, Some(host)))
}

/// Reads the head of a request from `client`.
#[must_use]
pub fn read_request(bytes: &[u8], client: IpAddr) -> Parsed<RequestHead> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let length = match request.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD_BYTES => length,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD_BYTES => return Parsed::Partial,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => return Parsed::Refused(Status::HEAD_TOO_LARGE),
        Err(_) => return Parsed::Refused(Status::BAD_REQUEST),
    };
    match judge_request(&request, client) {
        Ok(head) => Parsed::Complete(head, length),
        Err(status) => Parsed::Refused(status),
    }
}

fn judge_request(request: &httparse::Request<'_, '_>, client: IpAddr) -> Result<RequestHead, Status> {
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(Status::BAD_REQUEST);
    };
    let is_http_1_0 = version == 0;
    if method == "CONNECT" {
        return Err(Status::METHOD_NOT_ALLOWED);
    }
    let survey = match survey(request.headers) {
        Some(survey) => survey,
        // A coding that we do not know is not a mistake.
        None if has_unknown_coding(request.headers) => return Err(Status::NOT_IMPLEMENTED),
        None => return Err(Status::BAD_REQUEST),
    };
    let (target, named) = split_target(target).ok_or(Status::BAD_REQUEST)?;
    if survey.hosts > 1 || (survey.hosts == 0 && !is_http_1_0) || !is_host(survey.host) {
        return Err(Status::BAD_REQUEST);
    }
    // Two ways to say where the body ends are how requests are smuggled, and HTTP/1.0 knows one only.
    if survey.is_chunked && (survey.length.is_some() || is_http_1_0) {
        return Err(Status::BAD_REQUEST);
    }
    if survey.passes >= MOST_PASSES {
        return Err(Status::LOOP_DETECTED);
    }
    let host = named.map_or(survey.host, str::as_bytes);
    if !is_host(host) {
        return Err(Status::BAD_REQUEST);
    }
    let framing = match (survey.is_chunked, survey.length) {
        (true, _) => Framing::Chunked,
        (false, Some(length)) if length > 0 => Framing::Length(length),
        (false, _) => Framing::Nothing,
    };
    let mut forward = Vec::with_capacity(512);
    for part in [method, " ", target, " HTTP/1.1\r\n"] {
        forward.extend_from_slice(part.as_bytes());
    }
    line(&mut forward, "host", host);
    let mut chain = Vec::new();
    for header in request.headers.iter().filter(|header| goes_on(header.name, &survey)) {
        if is(header.name, "x-forwarded-for") {
            chain.extend_from_slice(header.value);
            chain.extend_from_slice(b", ");
        } else if !is(header.name, "host") {
            line(&mut forward, header.name, header.value);
        }
    }
    chain.extend_from_slice(alloc::format!("{client}").as_bytes());
    line(&mut forward, "x-forwarded-for", &chain);
    line(&mut forward, "via", alloc::format!("1.{version} {NAME}").as_bytes());
    match framing {
        Framing::Chunked => line(&mut forward, "transfer-encoding", b"chunked"),
        Framing::Length(length) => length_line(&mut forward, length),
        // Some servers want to be told of every one of these.
        Framing::Nothing if survey.length.is_some() => length_line(&mut forward, 0),
        Framing::Nothing | Framing::UntilClose => {}
    }
    forward.extend_from_slice(b"\r\n");
    if !is_within_limits(&forward, 0) {
        return Err(Status::HEAD_TOO_LARGE);
    }
    Ok(RequestHead {
        forward,
        framing,
        is_head: method == "HEAD",
        is_idempotent: matches!(method, "GET" | "HEAD" | "OPTIONS" | "PUT" | "DELETE" | "TRACE"),
        is_http_1_0,
        keeps_alive: !survey.closes && (!is_http_1_0 || survey.keeps),
    })
}

/// Whether there is one `Transfer-Encoding`, no length, and a coding that is not ours.
fn has_unknown_coding(headers: &[httparse::Header<'_>]) -> bool {
    let mut codings = headers.iter().filter(|header| is(header.name, "transfer-encoding"));
    let has_length = headers.iter().any(|header| is(header.name, "content-length"));
    match (codings.next(), codings.next()) {
        (Some(one), None) => !has_length && !words(one.value).any(|word| word.eq_ignore_ascii_case(b"chunked")),
        _ => false,
    }
}

/// Reads the head of a response; `is_head`: to a request for the head only. What is refused is a back end's mistake.
#[must_use]
pub fn read_response(bytes: &[u8], is_head: bool) -> Parsed<ResponseHead> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut response = httparse::Response::new(&mut headers);
    let length = match response.parse(bytes) {
        Ok(httparse::Status::Complete(length)) if length <= MAX_HEAD_BYTES => length,
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD_BYTES => return Parsed::Partial,
        _ => return Parsed::Refused(Status::BAD_GATEWAY),
    };
    judge_response(&response, is_head)
        .map_or(Parsed::Refused(Status::BAD_GATEWAY), |head| Parsed::Complete(head, length))
}

fn judge_response(response: &httparse::Response<'_, '_>, is_head: bool) -> Option<ResponseHead> {
    let (status, version) = (response.code?, response.version?);
    let survey = survey(response.headers)?;
    // Nobody was asked to change the protocol.
    if !(100..=599).contains(&status) || status == 101 || (survey.is_chunked && survey.length.is_some()) {
        return None;
    }
    let is_bodiless = is_head || status < 200 || status == 204 || status == 304;
    let framing = match (survey.is_chunked, survey.length) {
        _ if is_bodiless => Framing::Nothing,
        (true, _) => Framing::Chunked,
        (false, Some(0)) => Framing::Nothing,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::UntilClose,
    };
    let mut lines = Vec::with_capacity(512);
    let reason = response.reason.unwrap_or("");
    lines.extend_from_slice(alloc::format!("HTTP/1.1 {status} {reason}\r\n").as_bytes());
    for header in response.headers.iter().filter(|header| goes_on(header.name, &survey)) {
        line(&mut lines, header.name, header.value);
    }
    line(&mut lines, "via", alloc::format!("1.{version} {NAME}").as_bytes());
    // About the body, about the connection, and the empty one.
    if !is_within_limits(&lines, 3) {
        return None;
    }
    let keeps_alive = !survey.closes && framing != Framing::UntilClose && (version == 1 || survey.keeps);
    let told_length = survey.length.filter(|_| status >= 200 && status != 204 && framing == Framing::Nothing);
    Some(ResponseHead { status, lines, framing, told_length, keeps_alive })
}

impl ResponseHead {
    /// How the body goes to a client.
    #[must_use]
    pub const fn framing_to(&self, is_http_1_0: bool) -> Framing {
        match self.framing {
            Framing::Chunked | Framing::UntilClose if is_http_1_0 => Framing::UntilClose,
            Framing::Chunked | Framing::UntilClose => Framing::Chunked,
            other => other,
        }
    }

    /// The head as the client gets it; `keeps_alive`: whether its connection goes on.
    #[must_use]
    pub fn write(&self, is_http_1_0: bool, keeps_alive: bool) -> Vec<u8> {
        let mut out = self.lines.clone();
        match (self.framing_to(is_http_1_0), self.told_length) {
            (Framing::Length(length), _) | (Framing::Nothing, Some(length)) => length_line(&mut out, length),
            (Framing::Chunked, _) => line(&mut out, "transfer-encoding", b"chunked"),
            (Framing::Nothing | Framing::UntilClose, _) => {}
        }
        match (keeps_alive, is_http_1_0) {
            // An interim response says nothing of the connection.
            _ if self.status < 200 => {}
            (false, _) => line(&mut out, "connection", b"close"),
            (true, true) => line(&mut out, "connection", b"keep-alive"),
            (true, false) => {}
        }
        out.extend_from_slice(b"\r\n");
        out
    }
}

#[cfg(test)]
#[path = "head_tests.rs"]
mod tests;
