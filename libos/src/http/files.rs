//! Files that are part of the program, with conditional requests and ranges.

use super::response::write_number;
use super::{Body, Request, Response, Status};
use alloc::borrow::Cow;
use alloc::vec::Vec;
use core::ops::Range;

/// A file that is part of the program: in an image its pages are shared by all VMs.
#[derive(Clone, Copy, Debug)]
pub struct File {
    path: &'static str,
    bytes: &'static [u8],
    kind: &'static str,
    /// A hash of the bytes, as sixteen digits in quotes.
    tag: [u8; 18],
}

impl File {
    /// A file of that path, whose media type follows from the path's end.
    ///
    /// ```
    /// use libos::http::File;
    ///
    /// const PAGE: File = File::new("index.html", b"<p>snow</p>");
    /// assert_eq!(PAGE.kind(), "text/html; charset=utf-8");
    /// ```
    #[must_use]
    pub const fn new(path: &'static str, bytes: &'static [u8]) -> Self {
        Self { path, bytes, kind: kind_of(path), tag: tag_of(bytes) }
    }

    /// Its media type.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        self.kind
    }

    fn tag(&self) -> &str {
        core::str::from_utf8(&self.tag).unwrap_or_default()
    }

    /// The answer to a request for it: all of it, the part that is asked for, or that it is what the client has already.
    #[must_use]
    pub fn respond(&self, request: &Request) -> Response {
        let whole = || Response::bytes(self.kind, self.bytes);
        let describe =
            |response: Response| response.with_header("etag", self.tag()).with_header("accept-ranges", "bytes");
        if request.header("if-none-match").is_some_and(|tags| is_among(tags, self.tag())) {
            return describe(Response::new(Status::NOT_MODIFIED));
        }
        let is_same = request.header("if-range").is_none_or(|tag| tag == self.tag());
        let Some(range) = request.header("range").filter(|_| is_same) else { return describe(whole()) };
        let length = self.bytes.len();
        match parse_range(range, length) {
            Asked::All => describe(whole()),
            Asked::Part(part) => {
                let header = content_range(Some(&part), length);
                let bytes = Cow::Borrowed(self.bytes.get(part).unwrap_or_default());
                let response = whole().with_status(Status::PARTIAL_CONTENT).with_body(Body::Bytes(bytes));
                describe(response).with_header("content-range", text(&header))
            }
            Asked::Nothing => describe(Response::new(Status::RANGE_NOT_SATISFIABLE))
                .with_header("content-range", text(&content_range(None, length))),
        }
    }
}

/// Files by their paths.
///
/// ```
/// use libos::http::{File, Files, Request, Router};
///
/// static FILES: Files = Files::new(&[File::new("index.html", b"<p>snow</p>"), File::new("a.css", b"p {}")]);
/// let router = Router::new().get("/static/{*path}", |request: Request| FILES.respond("path", &request));
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Files(&'static [File]);

impl Files {
    /// These files.
    #[must_use]
    pub const fn new(files: &'static [File]) -> Self {
        Self(files)
    }

    /// The answer to a request for the file whose path stands in this parameter; `index.html` if it ends with `/`, or
    /// is empty.
    #[must_use]
    pub fn respond(&self, parameter: &str, request: &Request) -> Response {
        let path = request.parameter(parameter).unwrap_or_default();
        let is_folder = path.is_empty() || path.ends_with('/');
        let is_it = |file: &File| match is_folder {
            true => file.path.strip_prefix(path) == Some("index.html"),
            false => file.path == path,
        };
        self.0.iter().find(|file| is_it(file)).map_or_else(|| Response::new(Status::NOT_FOUND), |f| f.respond(request))
    }
}

/// What a client wants of a file.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    All,
    Part(Range<usize>),
    /// What is not there.
    Nothing,
}

/// Reads a `Range` (RFC 9110, 14.2). Several ranges, and what is not understood, ask for all, as they may.
fn parse_range(text: &str, length: usize) -> Asked {
    let Some(range) = text.strip_prefix("bytes=").filter(|range| !range.contains(',')) else { return Asked::All };
    let Some((first, last)) = range.split_once('-') else { return Asked::All };
    let number = |text: &str| match text.bytes().all(|b| b.is_ascii_digit()) {
        // One that is too large for this machine is larger than the file.
        true if !text.is_empty() => Some(text.parse().unwrap_or(usize::MAX)),
        _ => None,
    };
    let part = match (number(first.trim()), number(last.trim())) {
        (Some(first), None) if last.trim().is_empty() => first..length,
        (Some(first), Some(last)) if first <= last => first..last.saturating_add(1).min(length),
        // The last so many.
        (None, Some(count)) if first.trim().is_empty() => length.saturating_sub(count)..length,
        _ => return Asked::All,
    };
    if part.is_empty() { Asked::Nothing } else { Asked::Part(part) }
}

fn content_range(part: Option<&Range<usize>>, length: usize) -> Vec<u8> {
    let mut out = b"bytes ".to_vec();
    match part {
        Some(part) => {
            write_number(&mut out, part.start as u64);
            out.push(b'-');
            write_number(&mut out, part.end as u64 - 1);
        }
        None => out.push(b'*'),
    }
    out.push(b'/');
    write_number(&mut out, length as u64);
    out
}

fn text(bytes: &[u8]) -> &str {
    core::str::from_utf8(bytes).unwrap_or_default()
}

/// Whether a tag is in a list of tags. Weak ones are as good here.
fn is_among(tags: &str, tag: &str) -> bool {
    tags.split(',').map(str::trim).any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

const KINDS: &[(&str, &str)] = &[
    ("html", "text/html; charset=utf-8"),
    ("css", "text/css; charset=utf-8"),
    ("js", "text/javascript; charset=utf-8"),
    ("txt", "text/plain; charset=utf-8"),
    ("json", "application/json"),
    ("svg", "image/svg+xml"),
    ("png", "image/png"),
    ("jpg", "image/jpeg"),
    ("ico", "image/x-icon"),
    ("woff2", "font/woff2"),
    ("wasm", "application/wasm"),
    ("pdf", "application/pdf"),
];

const fn kind_of(path: &str) -> &'static str {
    let path = path.as_bytes();
    let mut n = 0;
    while n < KINDS.len() {
        let end = KINDS[n].0.as_bytes();
        if path.len() > end.len() && path[path.len() - end.len() - 1] == b'.' {
            let mut at = 0;
            while at < end.len() && path[path.len() - end.len() + at] == end[at] {
                at += 1;
            }
            if at == end.len() {
                return KINDS[n].1;
            }
        }
        n += 1;
    }
    "application/octet-stream"
}

/// FNV-1a of the bytes, as an entity tag.
const fn tag_of(bytes: &[u8]) -> [u8; 18] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut at = 0;
    while at < bytes.len() {
        hash = (hash ^ bytes[at] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        at += 1;
    }
    let mut tag = [b'"'; 18];
    at = 0;
    while at < 16 {
        // The lowest four bits.
        tag[16 - at] = DIGITS[(hash.to_le_bytes()[0] & 15) as usize];
        hash >>= 4;
        at += 1;
    }
    tag
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::String;
    use proptest::prelude::*;

    static FILES: Files = Files::new(&[
        File::new("index.html", b"0123456789"),
        File::new("deep/index.html", b"deep"),
        File::new("empty.txt", b""),
    ]);

    fn ask(path: &str, headers: &str) -> (u16, String, Vec<u8>) {
        let router = super::super::Router::new().get("/{*path}", |request: Request| FILES.respond("path", &request));
        let text = format!("GET /{path} HTTP/1.0\r\n{headers}\r\n");
        let mut request = Request::parse(text.as_bytes()).unwrap();
        let found = router.find(&mut request).unwrap();
        let super::super::Reply::Now(response) = found.call(request) else { panic!("later") };
        let mut head = Vec::new();
        response.write_head(&mut head, super::super::response::Persistence::Open);
        let status = response.status().code();
        let Body::Bytes(bytes) = response.into_body() else { panic!("pieces") };
        (status, String::from_utf8(head).unwrap(), bytes.into_owned())
    }

    #[test]
    fn files_are_found_by_path_and_folders_have_an_index() {
        let (status, head, body) = ask("", "");
        assert_eq!((status, &body[..]), (200, &b"0123456789"[..]));
        assert!(head.contains("content-type: text/html; charset=utf-8\r\n") && head.contains("etag: \""), "{head}");
        assert_eq!(ask("deep/", "").2, b"deep");
        assert_eq!(ask("index.html", "").0, 200);
        assert_eq!(ask("empty.txt", "").0, 200);
        for path in ["deep", "../index.html", "nowhere/", "index.htm"] {
            assert_eq!(ask(path, "").0, 404, "{path}");
        }
    }

    #[test]
    fn who_has_it_already_is_told_so() {
        let tag = FILES.0[0].tag();
        for tags in [tag, "*", &format!("\"x\", W/{tag}")] {
            let (status, head, body) = ask("", &format!("If-None-Match: {tags}\r\n"));
            assert_eq!((status, body.len()), (304, 0), "{tags}");
            assert!(head.contains(tag) && !head.contains("content-length"), "{head}");
        }
        assert_eq!(ask("", "If-None-Match: \"x\"\r\n").0, 200);
        assert_ne!(FILES.0[0].tag, FILES.0[1].tag);
    }

    #[test]
    fn parts_are_given_as_they_are_asked_for() {
        for (range, status, body) in [
            ("bytes=2-4", 206, "234"),
            ("bytes=7-", 206, "789"),
            ("bytes=-3", 206, "789"),
            ("bytes=0-99", 206, "0123456789"),
            ("bytes=-99", 206, "0123456789"),
            ("bytes=4-2", 200, "0123456789"),
            ("bytes=1-2,4-5", 200, "0123456789"),
            ("lines=1-2", 200, "0123456789"),
            ("bytes=-", 200, "0123456789"),
        ] {
            let (got, _, bytes) = ask("", &format!("Range: {range}\r\n"));
            assert_eq!((got, &bytes[..]), (status, body.as_bytes()), "{range}");
        }
        assert!(ask("", "Range: bytes=2-4\r\n").1.contains("content-range: bytes 2-4/10\r\n"));
        for range in ["bytes=10-", "bytes=-0", "bytes=99999999999999999999-"] {
            let (status, head, _) = ask("", &format!("Range: {range}\r\n"));
            assert_eq!(status, 416, "{range}");
            assert!(head.contains("content-range: bytes */10\r\n"), "{head}");
        }
        assert_eq!(ask("", "Range: bytes=2-4\r\nIf-Range: \"x\"\r\n").0, 200);
        let tag = FILES.0[0].tag();
        assert_eq!(ask("", &format!("Range: bytes=2-4\r\nIf-Range: {tag}\r\n")).0, 206);
    }

    proptest! {
        #[test]
        fn any_range_is_within_the_file(text in "bytes=[0-9 ]{0,22}-[0-9 ]{0,22}", length in 0usize..100) {
            if let Asked::Part(part) = parse_range(&text, length) {
                prop_assert!(part.start < part.end && part.end <= length);
            }
        }
    }
}
