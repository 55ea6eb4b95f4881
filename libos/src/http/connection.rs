//! Speaking with one client.
//!
//! Answers to requests that came together go out together, and an answer that fits is one write: one frame.

use super::request::{self, Framing, Parsed};
use super::response::Persistence;
use super::{Body, Limits, Method, Reply, Request, Response, Router, Status};
use crate::memory;
use crate::net::TcpStream;
use crate::time::{Instant, timeout, timeout_at};
use alloc::vec::Vec;
use core::fmt;
use embedded_io_async::{Read, Write};

/// Bytes read at a time.
const READ_BYTES: usize = 1024;

/// Bytes of an answer's head, usually.
const HEAD_BYTES: usize = 192;

/// Answers are written when they are together this long.
const FLUSH_BYTES: usize = 2048;

/// Bytes of a body that are thrown away at most; a client that sends more is cut off.
const MOST_SKIPPED: usize = 64 * 1024;

/// A stream that a client is spoken to over: a [`TcpStream`], or any other, as that of a test.
///
/// ```
/// use embedded_io_async::{ErrorType, Read, Write};
/// use libos::http::{Limits, Request, Response, Router, ServeError, Transport, serve_stream};
///
/// /// A client that has said all it has to say.
/// struct Client(&'static [u8], Vec<u8>);
///
/// impl ErrorType for &mut Client {
///     type Error = core::convert::Infallible;
/// }
/// impl Read for &mut Client {
///     async fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Self::Error> {
///         self.0.read(bytes).await
///     }
/// }
/// impl Write for &mut Client {
///     async fn write(&mut self, bytes: &[u8]) -> Result<usize, Self::Error> {
///         self.1.extend_from_slice(bytes);
///         Ok(bytes.len())
///     }
///     async fn flush(&mut self) -> Result<(), Self::Error> {
///         Ok(())
///     }
/// }
/// impl Transport for &mut Client {}
///
/// let router = Router::new().get("/", |_: Request| Response::text("it works"));
/// let mut client = Client(b"GET / HTTP/1.0\r\n\r\n", Vec::new());
/// let served: Result<(), ServeError<_>> = libos::block_on(serve_stream(&mut client, &router, &Limits::new()));
/// assert!(served.is_ok() && client.1.ends_with(b"\r\n\r\nit works"));
/// ```
pub trait Transport: Read + Write {
    /// Appends what has come, at most `limit` bytes, and returns how many; 0 at the end of the stream. A stream that may
    /// be silent for long should wait without a buffer, as a [`TcpStream`] does.
    fn append_to(&mut self, bytes: &mut Vec<u8>, limit: usize) -> impl Future<Output = Result<usize, Self::Error>> {
        async move {
            let used = bytes.len();
            bytes.resize(used + limit, 0);
            let read = self.read(&mut bytes[used..]).await;
            bytes.truncate(used + *read.as_ref().unwrap_or(&0));
            read
        }
    }
}

impl Transport for &TcpStream {
    fn append_to(&mut self, bytes: &mut Vec<u8>, limit: usize) -> impl Future<Output = Result<usize, Self::Error>> {
        TcpStream::append_to(self, bytes, limit)
    }
}

/// Why a connection was ended by this side.
#[derive(Debug, PartialEq, Eq)]
pub enum ServeError<E> {
    /// What the stream says.
    Stream(E),
    /// The client did not take an answer in time.
    Stalled,
}

impl<E: fmt::Debug> fmt::Display for ServeError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(e) => write!(f, "the connection failed: {e:?}"),
            Self::Stalled => f.write_str("the client took no answer"),
        }
    }
}

impl<E: fmt::Debug> core::error::Error for ServeError<E> {}

/// One client's connection.
struct Connection<'a, S> {
    stream: S,
    router: &'a Router,
    limits: &'a Limits,
    /// Bytes that were read and not used yet.
    input: Vec<u8>,
    /// Answers that were not written yet.
    output: Vec<u8>,
}

/// Serves a client until it goes, has to go, or has been silent for too long.
///
/// # Errors
/// If the stream fails or the client takes no answers.
pub async fn serve_stream<S: Transport>(
    stream: S,
    router: &Router,
    limits: &Limits,
) -> Result<(), ServeError<S::Error>> {
    Connection { stream, router, limits, input: Vec::new(), output: Vec::new() }.run().await
}

impl<S: Transport> Connection<'_, S> {
    async fn run(&mut self) -> Result<(), ServeError<S::Error>> {
        while let Some(request) = self.next_request().await? {
            if !self.answer(request).await? {
                break;
            }
        }
        self.flush().await
    }

    /// The next request, or `None` if there is to be none: what that takes to be said was said.
    async fn next_request(&mut self) -> Result<Option<Request>, ServeError<S::Error>> {
        let mut has_come = !self.input.is_empty();
        let mut deadline = None;
        loop {
            // Empty lines before a request are allowed, and no beginning of one.
            let skipped = self.input.iter().take_while(|&&b| b == b'\r' || b == b'\n').count();
            if skipped > 0 {
                self.input.drain(..skipped);
            }
            if !self.input.is_empty() {
                match request::read(&mut self.input, self.limits) {
                    Parsed::Complete(request) => return Ok(Some(request)),
                    Parsed::Refused(status) => {
                        self.refuse(status);
                        return Ok(None);
                    }
                    Parsed::Partial => {}
                }
            }
            // From the first byte on, whatever it is.
            if has_come && deadline.is_none() {
                deadline = Some(Instant::now() + self.limits.head_timeout);
            }
            // Nothing more to answer at once.
            self.flush().await?;
            let patience = deadline.map_or(self.limits.idle_timeout, |deadline| deadline - Instant::now());
            let has_begun = !self.input.is_empty();
            match timeout(patience, self.fill()).await {
                Ok(Ok(0)) => return Ok(None),
                Ok(Ok(_)) => has_come = true,
                Ok(Err(e)) => return Err(ServeError::Stream(e)),
                Err(_) if has_begun => {
                    self.refuse(Status::REQUEST_TIMEOUT);
                    return Ok(None);
                }
                Err(_) => return Ok(None),
            }
        }
    }

    /// Reads some more. Returns how much; 0 at the end of the stream.
    fn fill(&mut self) -> impl Future<Output = Result<usize, S::Error>> {
        if self.input.is_empty() {
            // A client may be silent for long: no buffer before it speaks.
            self.input = Vec::new();
        }
        self.stream.append_to(&mut self.input, READ_BYTES)
    }

    /// Says what is wrong, and that this is the end.
    fn refuse(&mut self, status: Status) {
        self.write_small(Response::new(status), Persistence::Close, false);
    }

    fn write_small(&mut self, response: Response, persistence: Persistence, is_head: bool) {
        response.write_head(&mut self.output, persistence);
        if let Body::Bytes(bytes) = response.into_body()
            && !is_head
        {
            self.output.extend_from_slice(&bytes);
        }
    }

    /// Answers a request. Returns whether the connection stays.
    async fn answer(&mut self, mut request: Request) -> Result<bool, ServeError<S::Error>> {
        let framing = request.framing;
        let is_head = request.method() == Method::Head;
        let response = match self.router.find(&mut request) {
            Err(response) => {
                // A client that waits for leave to send its body gets the answer instead, and no chance to send it.
                let stays = framing.keeps_alive && !framing.expects;
                self.write(response, persistence_of(framing, stays), is_head).await?;
                return Ok(stays && self.skip(framing.body_bytes).await?);
            }
            Ok(found) => {
                if framing.body_bytes > 0 {
                    match self.body(framing).await? {
                        Some(body) => request.body = body,
                        None => return Ok(false),
                    }
                }
                match found.call(request) {
                    Reply::Now(response) => response,
                    Reply::Later(future) => {
                        // Others need not wait for this one.
                        self.flush().await?;
                        match timeout(self.limits.answer_timeout, future).await {
                            Ok(response) => response,
                            Err(_) => Response::new(Status::SERVICE_UNAVAILABLE),
                        }
                    }
                }
            }
        };
        self.write(response, persistence_of(framing, framing.keeps_alive), is_head).await?;
        Ok(framing.keeps_alive)
    }

    /// Reads a body. `None` if it did not come, or not in time: what that takes to be said was said.
    async fn body(&mut self, framing: Framing) -> Result<Option<Vec<u8>>, ServeError<S::Error>> {
        if framing.expects {
            self.output.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.flush().await?;
        let deadline = Instant::now() + self.limits.body_timeout;
        while self.input.len() < framing.body_bytes {
            if !memory::allows(self.input.len()) {
                self.refuse(Status::SERVICE_UNAVAILABLE);
                return Ok(None);
            }
            match timeout_at(deadline, self.fill()).await {
                Ok(Ok(0)) => return Ok(None),
                Ok(Ok(_)) => {}
                Ok(Err(e)) => return Err(ServeError::Stream(e)),
                Err(_) => {
                    self.refuse(Status::REQUEST_TIMEOUT);
                    return Ok(None);
                }
            }
        }
        let rest = self.input.split_off(framing.body_bytes);
        Ok(Some(core::mem::replace(&mut self.input, rest)))
    }

    /// Throws a body away. Returns whether all of it came in time.
    async fn skip(&mut self, length: usize) -> Result<bool, ServeError<S::Error>> {
        if length > MOST_SKIPPED {
            return Ok(false);
        }
        let mut left = length;
        let deadline = Instant::now() + self.limits.head_timeout;
        loop {
            let skipped = left.min(self.input.len());
            self.input.drain(..skipped);
            left -= skipped;
            if left == 0 {
                return Ok(true);
            }
            self.flush().await?;
            match timeout_at(deadline, self.fill()).await {
                Ok(Ok(0)) | Err(_) => return Ok(false),
                Ok(Ok(_)) => {}
                Ok(Err(e)) => return Err(ServeError::Stream(e)),
            }
        }
    }

    async fn write(
        &mut self,
        response: Response,
        persistence: Persistence,
        is_head: bool,
    ) -> Result<(), ServeError<S::Error>> {
        let rest = self.put(response, persistence, is_head);
        if rest.is_empty() && self.output.len() < FLUSH_BYTES { Ok(()) } else { self.write_rest(rest).await }
    }

    /// Puts an answer to the others that are to be written. Returns what of its body does not belong there.
    fn put(&mut self, response: Response, persistence: Persistence, is_head: bool) -> Body {
        if self.output.capacity() == 0 {
            self.output = self.router.take_spare();
        }
        // In one piece: the buffer would grow by halves otherwise.
        self.output.reserve(HEAD_BYTES + response.body().len().min(FLUSH_BYTES));
        response.write_head(&mut self.output, persistence);
        match response.into_body() {
            _ if is_head => Body::EMPTY,
            Body::Bytes(bytes) if self.output.len() + bytes.len() <= FLUSH_BYTES => {
                self.output.extend_from_slice(&bytes);
                Body::EMPTY
            }
            body => body,
        }
    }

    /// Writes the answers so far and a body that is behind them.
    async fn write_rest(&mut self, body: Body) -> Result<(), ServeError<S::Error>> {
        match body {
            Body::Bytes(bytes) => {
                // What fills the first packet is copied, the rest is written from where it is.
                let (first, rest) = bytes.split_at(bytes.len().min(FLUSH_BYTES / 2));
                self.output.extend_from_slice(first);
                self.flush().await?;
                self.write_all(rest).await
            }
            Body::Pieces { bytes, mut next } => {
                let mut left = bytes;
                while left > 0 {
                    let before = self.output.len();
                    next(&mut self.output);
                    let made = self.output.len() - before;
                    if made == 0 {
                        // The length was promised: nothing but the end of the connection tells the client.
                        log::error!("a body ended {left} bytes early");
                        return Err(ServeError::Stalled);
                    }
                    self.output.truncate(before + made.min(left));
                    left -= made.min(left);
                    if self.output.len() >= FLUSH_BYTES {
                        self.flush().await?;
                    }
                }
                Ok(())
            }
        }
    }

    /// Writes the answers so far.
    async fn flush(&mut self) -> Result<(), ServeError<S::Error>> {
        if self.output.is_empty() {
            return Ok(());
        }
        let output = core::mem::take(&mut self.output);
        self.write_all(&output).await?;
        self.router.keep_spare(output);
        Ok(())
    }

    async fn write_all(&mut self, bytes: &[u8]) -> Result<(), ServeError<S::Error>> {
        let mut rest = bytes;
        while !rest.is_empty() {
            match timeout(self.limits.write_timeout, self.stream.write(rest)).await {
                Ok(Ok(written)) => rest = &rest[written..],
                Ok(Err(e)) => return Err(ServeError::Stream(e)),
                Err(_) => return Err(ServeError::Stalled),
            }
        }
        Ok(())
    }
}

const fn persistence_of(framing: Framing, stays: bool) -> Persistence {
    match (stays, framing.is_http_1_0) {
        (false, _) => Persistence::Close,
        (true, true) => Persistence::KeepAlive,
        (true, false) => Persistence::Open,
    }
}
