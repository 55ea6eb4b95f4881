//! Speaking with one client.
//!
//! Answers to requests that came together go out together, and an answer that fits is one write: one frame.

use crate::Settings;
use crate::request::{self, MAX_HEAD_BYTES, Parsed, Request, Resource};
use crate::response::{self, FILLER, Persistence, Status};
use alloc::vec::Vec;
use embedded_io_async::{Read, Write};
use libos::time::{Instant, timeout, timeout_at};

/// Bytes read at a time.
const READ_BYTES: usize = 1024;

/// Answers are written when they are together this long.
const FLUSH_BYTES: usize = 2048;

/// Why a connection was ended by this side.
#[derive(Debug, PartialEq, Eq)]
pub enum Error<E> {
    /// What the stream says.
    Stream(E),
    /// The client did not take an answer in time.
    Stalled,
}

/// One client's connection.
struct Connection<'a, S> {
    stream: S,
    settings: &'a Settings,
    /// Bytes that were read and not used yet.
    input: Vec<u8>,
    /// Answers that were not written yet.
    output: Vec<u8>,
}

/// Serves a client until it goes, has to go, or has been silent for too long.
///
/// # Errors
/// If the stream fails or the client takes no answers.
pub async fn serve<S: Read + Write>(stream: S, settings: &Settings) -> Result<(), Error<S::Error>> {
    Connection { stream, settings, input: Vec::new(), output: Vec::new() }.run().await
}

impl<S: Read + Write> Connection<'_, S> {
    async fn run(&mut self) -> Result<(), Error<S::Error>> {
        while let Some(request) = self.next_request().await? {
            self.answer(&request).await?;
            if !request.keeps_alive {
                break;
            }
            if !self.skip_body(request.body_bytes).await? {
                break;
            }
        }
        self.flush().await
    }

    /// The next request, or `None` if there is to be none: what that takes to be said was said.
    async fn next_request(&mut self) -> Result<Option<Request>, Error<S::Error>> {
        let mut deadline = (!self.input.is_empty()).then(|| Instant::now() + self.settings.head_timeout);
        loop {
            // Empty lines before a request are allowed, and no beginning of one.
            let skipped = self.input.iter().take_while(|&&b| b == b'\r' || b == b'\n').count();
            self.input.drain(..skipped);
            match request::parse(&self.input) {
                Parsed::Complete(request, length) => {
                    self.input.drain(..length);
                    return Ok(Some(request));
                }
                Parsed::Refused(status) => {
                    response::write_refusal(&mut self.output, status, Persistence::Close, false);
                    return Ok(None);
                }
                Parsed::Partial => {}
            }
            // Nothing more to answer at once.
            self.flush().await?;
            let until = match deadline {
                Some(deadline) => deadline,
                None => Instant::now() + self.settings.idle_timeout,
            };
            let has_begun = !self.input.is_empty();
            match timeout_at(until, self.fill()).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) => return Ok(None),
                Ok(Err(e)) => return Err(Error::Stream(e)),
                Err(_) if has_begun => {
                    response::write_refusal(&mut self.output, Status::RequestTimeout, Persistence::Close, false);
                    return Ok(None);
                }
                Err(_) => return Ok(None),
            }
            // From the first byte on, whatever it is.
            deadline.get_or_insert_with(|| Instant::now() + self.settings.head_timeout);
        }
    }

    /// Reads some more. Returns whether there was more.
    async fn fill(&mut self) -> Result<bool, S::Error> {
        let used = self.input.len();
        let room = READ_BYTES.min((MAX_HEAD_BYTES + 1).saturating_sub(used)).max(1);
        self.input.reserve_exact(room);
        self.input.resize(used + room, 0);
        let read = self.stream.read(&mut self.input[used..]).await;
        let length = *read.as_ref().unwrap_or(&0);
        self.input.truncate(used + length);
        read.map(|n| n > 0)
    }

    /// Throws a request's body away. Returns whether all of it came in time.
    async fn skip_body(&mut self, length: u64) -> Result<bool, Error<S::Error>> {
        let mut left = usize::try_from(length).unwrap_or(usize::MAX);
        let deadline = Instant::now() + self.settings.head_timeout;
        loop {
            let skipped = left.min(self.input.len());
            self.input.drain(..skipped);
            left -= skipped;
            if left == 0 {
                return Ok(true);
            }
            self.flush().await?;
            match timeout_at(deadline, self.fill()).await {
                Ok(Ok(true)) => {}
                Ok(Ok(false)) | Err(_) => return Ok(false),
                Ok(Err(e)) => return Err(Error::Stream(e)),
            }
        }
    }

    async fn answer(&mut self, request: &Request) -> Result<(), Error<S::Error>> {
        let persistence = match (request.keeps_alive, request.is_http_1_0) {
            (false, _) => Persistence::Close,
            (true, true) => Persistence::KeepAlive,
            (true, false) => Persistence::Open,
        };
        let output = &mut self.output;
        match request.resource {
            Err(status) => response::write_refusal(output, status, persistence, request.is_head),
            Ok(Resource::Root) => {
                let length = self.settings.body_bytes;
                response::write_head(output, "200 OK", "text/plain", length, persistence);
                if !request.is_head {
                    self.write_filler(length).await?;
                }
            }
            Ok(Resource::Health) => {
                response::write_head(output, "200 OK", "text/plain", 3, persistence);
                if !request.is_head {
                    output.extend_from_slice(b"ok\n");
                }
            }
            Ok(Resource::Id) => {
                let registers = libos::registers();
                let mut body = Vec::with_capacity(128);
                response::write_identity(&mut body, registers.vm, registers.generation, &crate::identity::identity());
                response::write_head(output, "200 OK", "application/json", body.len(), persistence);
                if !request.is_head {
                    output.extend_from_slice(&body);
                }
            }
        }
        if self.output.len() >= FLUSH_BYTES { self.flush().await } else { Ok(()) }
    }

    async fn write_filler(&mut self, length: usize) -> Result<(), Error<S::Error>> {
        let mut left = length;
        while left > 0 {
            let piece = &FILLER[..left.min(FILLER.len())];
            self.output.extend_from_slice(piece);
            left -= piece.len();
            if self.output.len() >= FLUSH_BYTES {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Writes the answers so far.
    async fn flush(&mut self) -> Result<(), Error<S::Error>> {
        let mut rest = self.output.as_slice();
        while !rest.is_empty() {
            match timeout(self.settings.write_timeout, self.stream.write(rest)).await {
                Ok(Ok(written)) => rest = &rest[written..],
                Ok(Err(e)) => return Err(Error::Stream(e)),
                Err(_) => return Err(Error::Stalled),
            }
        }
        self.output.clear();
        Ok(())
    }
}
