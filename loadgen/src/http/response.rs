//! Reads HTTP/1 responses as they arrive: the head through `httparse`, the body only counted and handed on.
//!
//! A [`Parser`] belongs to one connection and reads its responses one after the other. It copies bytes only
//! when a head arrives in pieces, and allocates only then.

/// Most bytes of a response's head.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Most header fields of a response.
const MAX_HEADERS: usize = 64;

/// A response that no HTTP client could take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadResponse;

/// How far a response has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// More bytes are needed.
    More,
    /// The response is complete.
    Complete,
}

/// What the end of the stream means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The response was to end with the connection, and did.
    Complete,
    /// Not one byte of a response had come.
    Nothing,
    /// The response is cut short.
    Short,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    Counted(u64),
    UntilClose,
    Chunk(Chunk),
    Complete,
}

/// Where in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// In the digits of a size.
    Size { size: u64, digits: u8 },
    /// Behind them, until the end of the line.
    Extension { size: u64 },
    /// In the bytes.
    Data { left: u64 },
    /// At the line end behind the bytes.
    DataEnd,
    /// In the trailer: bytes of the line so far.
    Trailer { line: u32 },
}

/// Reads the responses of one connection.
#[derive(Debug)]
pub struct Parser {
    state: State,
    /// The head as far as it has come, if it comes in pieces.
    head: Vec<u8>,
    status: u16,
    keep_alive: bool,
    begun: bool,
}

impl Default for Parser {
    fn default() -> Self {
        Self { state: State::Head, head: Vec::new(), status: 0, keep_alive: false, begun: false }
    }
}

impl Parser {
    /// Makes ready for the next response.
    pub fn reset(&mut self) {
        self.state = State::Head;
        self.head.clear();
        self.status = 0;
        self.keep_alive = false;
        self.begun = false;
    }

    /// Status code of the response, once its head is complete.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// Whether the connection can take another request after this response.
    #[must_use]
    pub const fn keep_alive(&self) -> bool {
        self.keep_alive && !matches!(self.state, State::UntilClose)
    }

    /// Whether any byte of the response has come.
    #[must_use]
    pub const fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether the response is complete.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.state == State::Complete
    }

    /// Takes bytes as they came, and hands the body's to `body`.
    ///
    /// # Errors
    /// [`BadResponse`] if this is not HTTP/1, is larger than allowed, or goes on behind its end: the server's
    /// fault.
    pub fn feed(&mut self, mut bytes: &[u8], body: &mut dyn FnMut(&[u8])) -> Result<Progress, BadResponse> {
        self.begun |= !bytes.is_empty();
        while self.state == State::Head {
            let Some(used) = self.feed_head(bytes)? else { return Ok(Progress::More) };
            bytes = &bytes[used..];
        }
        match self.state {
            State::Head => return Ok(Progress::More),
            State::Counted(left) => {
                let n = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                body(&bytes[..n]);
                bytes = &bytes[n..];
                let left = left - n as u64;
                self.state = if left == 0 { State::Complete } else { State::Counted(left) };
            }
            State::UntilClose => {
                body(bytes);
                return Ok(Progress::More);
            }
            State::Chunk(chunk) => bytes = self.feed_chunks(chunk, bytes, body)?,
            State::Complete => {}
        }
        match (self.state, bytes.is_empty()) {
            (State::Complete, true) => Ok(Progress::Complete),
            (State::Complete, false) => Err(BadResponse),
            _ => Ok(Progress::More),
        }
    }

    /// The stream has ended.
    #[must_use]
    pub const fn end(&mut self) -> End {
        match self.state {
            State::UntilClose | State::Complete => {
                self.state = State::Complete;
                End::Complete
            }
            _ if self.begun => End::Short,
            _ => End::Nothing,
        }
    }

    /// Takes bytes of the head. Says how many of `bytes` belong to it once it is complete.
    fn feed_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, BadResponse> {
        let before = self.head.len();
        let complete = if before == 0 {
            let complete = self.parse_head(bytes)?;
            if complete.is_none() {
                self.head.extend_from_slice(bytes);
            }
            complete
        } else {
            self.head.extend_from_slice(bytes);
            let head = std::mem::take(&mut self.head);
            let complete = self.parse_head(&head);
            self.head = head;
            complete?
        };
        if complete.unwrap_or(self.head.len()) > MAX_HEAD_BYTES {
            return Err(BadResponse);
        }
        if complete.is_some() {
            self.head.clear();
        }
        // The head's end lies in the new bytes, or it would have been found before.
        Ok(complete.map(|length| length.saturating_sub(before)))
    }

    /// Parses a head if it is complete: sets the state for what follows and says how long it is.
    fn parse_head(&mut self, bytes: &[u8]) -> Result<Option<usize>, BadResponse> {
        let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut headers);
        let length = match response.parse(bytes).map_err(|_| BadResponse)? {
            httparse::Status::Complete(length) => length,
            httparse::Status::Partial => return Ok(None),
        };
        self.status = response.code.ok_or(BadResponse)?;
        if (100..200).contains(&self.status) {
            // An interim answer; the real one follows. We never ask for another protocol.
            return if self.status == 101 { Err(BadResponse) } else { Ok(Some(length)) };
        }
        self.keep_alive = response.version == Some(1);
        let mut counted = None;
        let mut chunked = false;
        for header in response.headers.iter() {
            if header.name.eq_ignore_ascii_case("content-length") {
                let n = parse_decimal(header.value)?;
                if counted.is_some_and(|other| other != n) {
                    return Err(BadResponse);
                }
                counted = Some(n);
            } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
                if !header.value.eq_ignore_ascii_case(b"chunked") {
                    return Err(BadResponse);
                }
                chunked = true;
            } else if header.name.eq_ignore_ascii_case("connection") {
                for word in header.value.split(|&b| b == b',').map(<[u8]>::trim_ascii) {
                    if word.eq_ignore_ascii_case(b"close") {
                        self.keep_alive = false;
                    } else if word.eq_ignore_ascii_case(b"keep-alive") {
                        self.keep_alive = true;
                    }
                }
            }
        }
        self.state = match (chunked, counted) {
            _ if matches!(self.status, 204 | 304) => State::Complete,
            (true, Some(_)) => return Err(BadResponse),
            (true, None) => State::Chunk(Chunk::Size { size: 0, digits: 0 }),
            (false, Some(0)) => State::Complete,
            (false, Some(n)) => State::Counted(n),
            (false, None) => State::UntilClose,
        };
        Ok(Some(length))
    }

    /// Takes bytes of a chunked body, and returns what is left behind its end.
    fn feed_chunks<'b>(
        &mut self,
        mut chunk: Chunk,
        mut bytes: &'b [u8],
        body: &mut dyn FnMut(&[u8]),
    ) -> Result<&'b [u8], BadResponse> {
        while let Some((&byte, rest)) = bytes.split_first() {
            chunk = match chunk {
                Chunk::Data { left } => {
                    let n = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                    body(&bytes[..n]);
                    bytes = &bytes[n..];
                    let left = left - n as u64;
                    chunk = if left == 0 { Chunk::DataEnd } else { Chunk::Data { left } };
                    continue;
                }
                Chunk::Trailer { line: 0 } if byte == b'\n' => {
                    self.state = State::Complete;
                    return Ok(rest);
                }
                other => next_chunk_state(other, byte)?,
            };
            bytes = rest;
        }
        self.state = State::Chunk(chunk);
        Ok(bytes)
    }
}

/// The state after one byte of a chunked body's framing.
fn next_chunk_state(chunk: Chunk, byte: u8) -> Result<Chunk, BadResponse> {
    let after_size = |size| if size == 0 { Chunk::Trailer { line: 0 } } else { Chunk::Data { left: size } };
    Ok(match (chunk, byte) {
        (Chunk::Size { digits: 1.., size }, b'\n') | (Chunk::Extension { size }, b'\n') => after_size(size),
        (Chunk::Size { digits: 1.., size }, b'\r' | b';' | b' ') => Chunk::Extension { size },
        (Chunk::Size { size, digits: digits @ 0..=14 }, _) => {
            let digit = (byte as char).to_digit(16).ok_or(BadResponse)?;
            Chunk::Size { size: size * 16 + u64::from(digit), digits: digits + 1 }
        }
        (Chunk::Extension { size }, _) => Chunk::Extension { size },
        (Chunk::DataEnd, b'\r') => Chunk::DataEnd,
        (Chunk::DataEnd, b'\n') => Chunk::Size { size: 0, digits: 0 },
        (Chunk::Trailer { line }, b'\r') => Chunk::Trailer { line },
        (Chunk::Trailer { .. }, b'\n') => Chunk::Trailer { line: 0 },
        (Chunk::Trailer { line }, _) if line < 4096 => Chunk::Trailer { line: line + 1 },
        _ => return Err(BadResponse),
    })
}

fn parse_decimal(digits: &[u8]) -> Result<u64, BadResponse> {
    if digits.is_empty() {
        return Err(BadResponse);
    }
    digits.iter().try_fold(0u64, |n, &digit| {
        let digit = digit.checked_sub(b'0').filter(|&d| d < 10).ok_or(BadResponse)?;
        n.checked_mul(10).and_then(|n| n.checked_add(u64::from(digit))).ok_or(BadResponse)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Feeds `stream` in pieces of `piece` bytes. Returns the last progress, the body, and the parser.
    fn feed(stream: &[u8], piece: usize) -> (Result<Progress, BadResponse>, Vec<u8>, Parser) {
        let mut parser = Parser::default();
        let mut body = Vec::new();
        let mut last = Ok(Progress::More);
        for bytes in stream.chunks(piece) {
            last = parser.feed(bytes, &mut |b| body.extend_from_slice(b));
            if last.is_err() {
                break;
            }
        }
        (last, body, parser)
    }

    #[test]
    fn each_way_to_frame_a_body_is_read_however_it_is_cut() {
        let cases: &[(&str, u16, bool, &str)] = &[
            ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, true, "hello"),
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nConnection: close\r\n\r\n", 200, false, ""),
            ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", 200, false, "hi"),
            ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\nConnection: keep-alive\r\n\r\nhi", 200, true, "hi"),
            ("HTTP/1.1 204 No Content\r\n\r\n", 204, true, ""),
            ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 Not Found\r\nContent-Length: 1\r\n\r\nx", 404, true, "x"),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=1\r\n0123456789\r\n0\r\nT: v\r\n\r\n",
                200,
                true,
                "abc0123456789",
            ),
        ];
        for (stream, status, keep_alive, body) in cases {
            for piece in 1..=stream.len() {
                let (last, got, parser) = feed(stream.as_bytes(), piece);
                assert_eq!(last, Ok(Progress::Complete), "{stream:?} in pieces of {piece}");
                assert_eq!((parser.status(), parser.keep_alive()), (*status, *keep_alive), "{stream:?}");
                assert_eq!(got, body.as_bytes(), "{stream:?} in pieces of {piece}");
            }
        }
    }

    #[test]
    fn the_end_of_the_stream_is_judged_by_the_framing() {
        let end = |stream: &str| feed(stream.as_bytes(), 7).2.end();
        assert_eq!(Parser::default().end(), End::Nothing);
        assert_eq!(end("HTTP/1.1 200 O"), End::Short);
        assert_eq!(end("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell"), End::Short);
        assert_eq!(end("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"), End::Short);
        assert_eq!(end("HTTP/1.1 200 OK\r\n\r\nto the end"), End::Complete);
        assert_eq!(end("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), End::Complete);
    }

    #[test]
    fn nonsense_is_refused() {
        for stream in [
            "SSH-2.0-OpenSSH_9.2\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: five\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nxx",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1111111111111111",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        ] {
            for piece in [1, 3, stream.len()] {
                assert_eq!(feed(stream.as_bytes(), piece).0, Err(BadResponse), "{stream:?} in pieces of {piece}");
            }
        }
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(MAX_HEAD_BYTES));
        assert_eq!(feed(endless.as_bytes(), 1000).0, Err(BadResponse));
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_or_refused_the_same_however_they_are_cut(
            good in 0usize..200,
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            piece in 1usize..50,
        ) {
            let text = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nA;x=1\r\n0123456789\r\n0\r\n\r\n";
            let mut stream = text.as_bytes()[..good.min(text.len())].to_vec();
            stream.extend_from_slice(&noise);
            let (whole, whole_body, _) = feed(&stream, stream.len().max(1));
            let (cut, cut_body, _) = feed(&stream, piece);
            prop_assert_eq!(whole, cut);
            if whole.is_ok() {
                prop_assert_eq!(whole_body, cut_body);
            }
        }
    }
}
