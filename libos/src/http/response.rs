//! Answers.

use super::Status;
use alloc::borrow::Cow;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

/// What makes a body piece by piece.
pub type Maker = Box<dyn FnMut(&mut Vec<u8>)>;

/// What an answer says.
///
/// ```
/// use libos::http::{Body, Maker, Response};
///
/// let next: Maker = Box::new(|out| out.extend_from_slice(b"and so on, "));
/// let long = Response::bytes("text/plain", Vec::new()).with_body(Body::Pieces { bytes: 1000, next });
/// assert_eq!((long.body().len(), long.body().is_empty(), Body::EMPTY.is_empty()), (1000, false, true));
/// ```
pub enum Body {
    /// These bytes: part of the program, or the handler's own.
    Bytes(Cow<'static, [u8]>),
    /// So many bytes, made piece by piece as the client takes them.
    Pieces {
        /// All of them.
        bytes: usize,
        /// Appends the next ones: at least one, and not much more than a page.
        next: Maker,
    },
}

impl Body {
    /// Nothing.
    pub const EMPTY: Self = Self::Bytes(Cow::Borrowed(&[]));

    /// Its length.
    #[must_use]
    pub fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Pieces { bytes, .. } => *bytes,
        }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

/// An answer.
///
/// ```
/// use libos::http::{Response, Status};
///
/// let made = Response::text("made").with_status(Status::CREATED).with_header("location", "/things/7");
/// assert_eq!(made.status(), Status::CREATED);
/// let gone = Response::new(Status::NOT_FOUND);
/// assert_eq!(gone.body().len(), "404 Not Found\n".len());
/// ```
#[derive(Debug)]
pub struct Response {
    status: Status,
    kind: &'static str,
    /// Lines, each with its end.
    headers: Vec<u8>,
    body: Body,
}

impl Response {
    /// An answer that says its status, and that in words if it is no success.
    #[must_use]
    pub fn new(status: Status) -> Self {
        let mut body = Vec::new();
        if status.code() >= 400 {
            write_number(&mut body, status.code().into());
            body.push(b' ');
            body.extend_from_slice(status.reason().as_bytes());
            body.push(b'\n');
        }
        Self { status, kind: "text/plain", headers: Vec::new(), body: Body::Bytes(Cow::Owned(body)) }
    }

    /// 200 with a text.
    #[must_use]
    pub fn text(text: impl Into<Cow<'static, str>>) -> Self {
        let bytes = match text.into() {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        };
        Self::bytes("text/plain", bytes)
    }

    /// 200 with bytes of a media type.
    #[must_use]
    pub fn bytes(kind: &'static str, bytes: impl Into<Cow<'static, [u8]>>) -> Self {
        Self { status: Status::OK, kind, headers: Vec::new(), body: Body::Bytes(bytes.into()) }
    }

    /// 200 with so many bytes, which are made piece by piece while the client takes them.
    ///
    /// ```
    /// use libos::http::Response;
    ///
    /// let long = Response::pieces("text/plain", 1 << 20, |out: &mut Vec<u8>| out.extend_from_slice(&[b'x'; 1024]));
    /// assert_eq!(long.body().len(), 1 << 20);
    /// ```
    #[must_use]
    pub fn pieces(kind: &'static str, bytes: usize, next: impl FnMut(&mut Vec<u8>) + 'static) -> Self {
        let body = Body::Pieces { bytes, next: Box::new(next) };
        Self { status: Status::OK, kind, headers: Vec::new(), body }
    }

    /// Another status.
    #[must_use]
    pub const fn with_status(mut self, status: Status) -> Self {
        self.status = status;
        self
    }

    /// One more header line. Left out, and said in the log, if it has what ends a line in it, or a name with anything
    /// but letters, digits and `-`. Length, connection and media type are written by the server.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !is_name || value.bytes().any(|b| b.is_ascii_control() && b != b'\t') {
            log::warn!("a header that cannot be sent was left out");
            return self;
        }
        for piece in [name, ": ", value, "\r\n"] {
            self.headers.extend_from_slice(piece.as_bytes());
        }
        self
    }

    /// Another body, of the same media type.
    #[must_use]
    pub fn with_body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    /// Its status.
    #[must_use]
    pub const fn status(&self) -> Status {
        self.status
    }

    /// Its body.
    #[must_use]
    pub const fn body(&self) -> &Body {
        &self.body
    }

    pub(super) fn into_body(self) -> Body {
        if self.status.is_bodiless() { Body::EMPTY } else { self.body }
    }

    /// Appends the head.
    pub(super) fn write_head(&self, out: &mut Vec<u8>, persistence: Persistence) {
        // Few pieces: each costs about as much as its bytes.
        let has_body = !self.status.is_bodiless();
        self.status.write_start(out, has_body);
        if has_body {
            out.extend_from_slice(self.kind.as_bytes());
            out.extend_from_slice(b"\r\ncontent-length: ");
            write_number(out, self.body.len() as u64);
        }
        match persistence {
            Persistence::Open if self.headers.is_empty() => return out.extend_from_slice(b"\r\n\r\n"),
            Persistence::Open => out.extend_from_slice(b"\r\n"),
            Persistence::KeepAlive => out.extend_from_slice(b"\r\nconnection: keep-alive\r\n"),
            Persistence::Close => out.extend_from_slice(b"\r\nconnection: close\r\n"),
        }
        out.extend_from_slice(&self.headers);
        out.extend_from_slice(b"\r\n");
    }
}

/// What is said of the connection in an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persistence {
    /// It stays open, as it does by default.
    Open,
    /// It stays open, which has to be said to a client of HTTP/1.0.
    KeepAlive,
    /// It is closed.
    Close,
}

/// Writes a number in decimal digits, without what `format!` brings along.
///
/// ```
/// let mut out = b"id=".to_vec();
/// libos::http::write_number(&mut out, 42);
/// assert_eq!(out, b"id=42");
/// ```
pub fn write_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10).to_le_bytes()[0];
        number /= 10;
        if number == 0 {
            return out.extend_from_slice(&digits[at..]);
        }
    }
}

/// What a handler may return.
pub trait IntoResponse {
    /// The answer it is.
    fn into_response(self) -> Response;
}

impl IntoResponse for Response {
    fn into_response(self) -> Response {
        self
    }
}

impl IntoResponse for &'static str {
    fn into_response(self) -> Response {
        Response::text(self)
    }
}

impl IntoResponse for String {
    fn into_response(self) -> Response {
        Response::text(self)
    }
}

impl IntoResponse for Vec<u8> {
    fn into_response(self) -> Response {
        Response::bytes("application/octet-stream", self)
    }
}

impl IntoResponse for Status {
    fn into_response(self) -> Response {
        Response::new(self)
    }
}

impl<T: IntoResponse> IntoResponse for (Status, T) {
    fn into_response(self) -> Response {
        self.1.into_response().with_status(self.0)
    }
}

impl<T: IntoResponse, E: IntoResponse> IntoResponse for Result<T, E> {
    fn into_response(self) -> Response {
        match self {
            Ok(value) => value.into_response(),
            Err(e) => e.into_response(),
        }
    }
}

/// 500: the reason is for the log, not for the client.
impl IntoResponse for crate::Error {
    fn into_response(self) -> Response {
        log::error!("{self:#}");
        Response::new(Status::INTERNAL_SERVER_ERROR)
    }
}

/// A value as JSON.
///
/// ```
/// use libos::http::{IntoResponse, Json};
///
/// #[derive(serde::Serialize)]
/// struct Order {
///     count: u32,
/// }
///
/// let response = Json(Order { count: 7 }).into_response();
/// assert_eq!(response.body().len(), r#"{"count":7}"#.len());
/// ```
#[cfg(feature = "json")]
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

#[cfg(feature = "json")]
impl<T: serde::Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(bytes) => Response::bytes("application/json", bytes),
            Err(e) => crate::Error::other(e).into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(response: &Response, persistence: Persistence) -> String {
        let mut out = Vec::new();
        response.write_head(&mut out, persistence);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn heads_are_written_as_they_are_read() {
        let refusal = Response::new(Status::METHOD_NOT_ALLOWED).with_header("allow", "GET, HEAD");
        assert_eq!(
            head(&refusal, Persistence::Close),
            "HTTP/1.1 405 Method Not Allowed\r\ncontent-type: text/plain\r\ncontent-length: 23\r\n\
             connection: close\r\nallow: GET, HEAD\r\n\r\n"
        );
        assert_eq!(head(&Response::new(Status::NOT_MODIFIED), Persistence::Open), "HTTP/1.1 304 Not Modified\r\n\r\n");
        let mut out = Vec::new();
        write_number(&mut out, u64::MAX);
        assert_eq!(String::from_utf8(out).unwrap(), std::format!("{}", usize::MAX));
    }

    #[test]
    fn a_header_cannot_end_the_head() {
        for (name, value) in [("a", "b\r\nc: d"), ("a\r\nb", "c"), ("", "x"), ("a b", "c"), ("a", "\0")] {
            assert_eq!(head(&Response::text("").with_header(name, value), Persistence::Open).lines().count(), 4);
        }
        assert!(head(&Response::text("").with_header("x-a", "b c"), Persistence::Open).contains("\r\nx-a: b c\r\n"));
    }

    #[test]
    fn handlers_may_return_what_is_handy() {
        assert_eq!("x".into_response().status(), Status::OK);
        assert_eq!((Status::CREATED, std::string::String::from("x")).into_response().status(), Status::CREATED);
        let failed: Result<&'static str, crate::Error> = Err(crate::Error::new("secret"));
        let response = failed.into_response();
        assert_eq!(response.status(), Status::INTERNAL_SERVER_ERROR);
        assert!(matches!(response.body(), Body::Bytes(bytes) if !bytes.starts_with(b"secret")));
    }
}
