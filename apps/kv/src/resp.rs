//! RESP2, the protocol: requests as they come, replies as they go.
//!
//! A request is an array of strings, or a line of words for people with a terminal. Nothing is copied to read one: a
//! [`Parser`] finds its end, however it was cut into pieces, looking at each byte of a header once; [`Arguments`] then
//! walks through it.

use alloc::vec::Vec;
use core::fmt::{self, Write};

/// Most arguments of a request, the command's name included.
pub const MAX_ARGUMENTS: usize = 65_536;

/// Longest line: a header, or words.
pub const MAX_LINE_BYTES: usize = 1024;

/// Room that small replies may rely on. Whatever may be longer is written after [`Replies::reserve`].
pub const SMALL_REPLY_BYTES: usize = 512;

/// Bytes of replies that gather before they are written, when nothing large is among them.
pub const BASE_REPLY_BYTES: usize = 2048;

/// What makes a request none. The connection cannot go on: nobody knows where the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// The number of arguments is none, or too large.
    Count,
    /// The length of an argument is none, or larger than a request may be.
    Length,
    /// Something else than the length of an argument.
    NoLength(u8),
    /// An argument does not end where it should.
    NoEnd,
    /// A line that does not end.
    Line,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Protocol error: ")?;
        match self {
            Self::Count => f.write_str("invalid multibulk length"),
            Self::Length => f.write_str("invalid bulk length"),
            Self::NoLength(byte) => write!(f, "expected '$', got '{}'", byte.escape_ascii()),
            Self::NoEnd => f.write_str("expected the end of the bulk string"),
            Self::Line => f.write_str("too big inline request"),
        }
    }
}

/// Finds the end of a request that comes in pieces.
#[derive(Debug, Default)]
pub struct Parser {
    /// Bytes of the request that are known to be good.
    at: usize,
    /// Arguments that are still to come; `None` before the header.
    left: Option<usize>,
    /// Bytes that the argument at `at` needs, with its header and end, when they are known.
    wanted: usize,
}

impl Parser {
    /// Looks at the bytes from the start of a request on. Returns its length when all of it is there; the next call is
    /// for the next request then.
    ///
    /// # Errors
    /// What makes it none. An argument longer than `max_bytes` does.
    pub fn parse(&mut self, input: &[u8], max_bytes: usize) -> Result<Option<usize>, Malformed> {
        let mut left = match self.left {
            Some(left) => left,
            None => {
                let Some((first, rest)) = input.split_first() else { return Ok(None) };
                if *first != b'*' {
                    return find_line(input).map(|line| line.map(|(_, length)| length));
                }
                let Some((line, length)) = find_line(rest)? else { return Ok(None) };
                let count = number(line).filter(|&count| count <= MAX_ARGUMENTS as i64).ok_or(Malformed::Count)?;
                self.at = length + 1;
                // -1 is "no array": nothing is asked.
                usize::try_from(count).unwrap_or(0)
            }
        };
        while left > 0 {
            self.left = Some(left);
            match argument(input.get(self.at..).unwrap_or(&[]), max_bytes)? {
                Found::Whole(_, length) => self.at += length,
                Found::Part(wanted) => {
                    self.wanted = wanted;
                    return Ok(None);
                }
            }
            left -= 1;
        }
        let length = self.at;
        *self = Self::default();
        Ok(Some(length))
    }

    /// Bytes of the request as far as its end is known: more than were there, if the last call returned `None`.
    #[must_use]
    pub const fn wanted_bytes(&self) -> usize {
        self.at.saturating_add(self.wanted)
    }
}

/// The line at the start, without its end, and its length with it. The end is `\n` or `\r\n`.
fn find_line(input: &[u8]) -> Result<Option<(&[u8], usize)>, Malformed> {
    let head = input.get(..MAX_LINE_BYTES).unwrap_or(input);
    match head.iter().position(|&byte| byte == b'\n') {
        Some(end) => {
            let line = input.get(..end).unwrap_or(&[]);
            Ok(Some((line.strip_suffix(b"\r").unwrap_or(line), end + 1)))
        }
        None if head.len() == MAX_LINE_BYTES => Err(Malformed::Line),
        None => Ok(None),
    }
}

enum Found<'a> {
    /// The argument, and its length with header and end.
    Whole(&'a [u8], usize),
    /// It is not all there. Its length, or more than there is if that is not known yet.
    Part(usize),
}

/// The argument at the start of `input`.
fn argument(input: &[u8], max_bytes: usize) -> Result<Found<'_>, Malformed> {
    let Some((first, rest)) = input.split_first() else { return Ok(Found::Part(1)) };
    if *first != b'$' {
        return Err(Malformed::NoLength(*first));
    }
    let Some((line, header)) = find_line(rest)? else { return Ok(Found::Part(input.len() + 1)) };
    let length = number(line).and_then(|n| usize::try_from(n).ok()).filter(|&n| n <= max_bytes);
    let length = length.ok_or(Malformed::Length)?;
    let (header, whole) = (header + 1, header + 1 + length + 2);
    match (input.get(header..header + length), input.get(header + length..whole)) {
        (Some(bytes), Some(b"\r\n")) => Ok(Found::Whole(bytes, whole)),
        (_, Some(_)) => Err(Malformed::NoEnd),
        (_, None) => Ok(Found::Part(whole)),
    }
}

/// A number, written in the one way there is to write it.
#[must_use]
pub fn number(text: &[u8]) -> Option<i64> {
    let digits = text.strip_prefix(b"-").unwrap_or(text);
    let is_canonical = match digits {
        [b'0'] => text.len() == 1,
        [b'1'..=b'9', rest @ ..] => rest.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    if !is_canonical {
        return None;
    }
    core::str::from_utf8(text).ok()?.parse().ok()
}

/// The arguments of a request that is all there, one after the other, the command's name first.
#[derive(Clone, Debug)]
pub struct Arguments<'a> {
    /// What follows.
    rest: &'a [u8],
    /// How many there are in it.
    left: usize,
    /// Whether they are words of a line.
    is_inline: bool,
}

impl<'a> Arguments<'a> {
    /// Of a request that [`Parser::parse`] has found to be whole.
    #[must_use]
    pub fn of(request: &'a [u8]) -> Self {
        match request.split_first() {
            Some((b'*', rest)) => {
                let (line, length) = find_line(rest).ok().flatten().unwrap_or((&[], rest.len()));
                let left = number(line).and_then(|count| usize::try_from(count).ok()).unwrap_or(0);
                Self { rest: rest.get(length..).unwrap_or(&[]), left, is_inline: false }
            }
            _ => {
                let words = request.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
                Self { rest: request, left: words.count(), is_inline: true }
            }
        }
    }
}

impl<'a> Iterator for Arguments<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        self.left = self.left.checked_sub(1)?;
        if self.is_inline {
            let text = self.rest.trim_ascii_start();
            let end = text.iter().position(u8::is_ascii_whitespace).unwrap_or(text.len());
            let (word, rest) = text.split_at(end);
            self.rest = rest;
            return Some(word);
        }
        let Ok(Found::Whole(bytes, length)) = argument(self.rest, usize::MAX / 2) else {
            self.left = 0;
            return None;
        };
        self.rest = self.rest.get(length..).unwrap_or(&[]);
        Some(bytes)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Arguments<'_> {}

/// There is no room for a reply of so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom(pub usize);

/// Replies that were not written yet.
#[derive(Debug)]
pub struct Replies {
    bytes: Vec<u8>,
    limit: usize,
}

impl Default for Replies {
    fn default() -> Self {
        Self { bytes: Vec::new(), limit: BASE_REPLY_BYTES }
    }
}

impl Replies {
    /// What there is.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whether small replies to one more command fit.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.bytes.len() + SMALL_REPLY_BYTES <= self.limit
    }

    /// Forgets what there is, and more than the usual room.
    pub fn clear(&mut self) {
        if self.bytes.capacity() > BASE_REPLY_BYTES {
            self.bytes = Vec::new();
        } else {
            self.bytes.clear();
        }
        self.limit = BASE_REPLY_BYTES;
    }

    /// Gives the memory back.
    pub fn release(&mut self) {
        self.bytes = Vec::new();
    }

    /// Lets so many bytes gather.
    pub fn allow(&mut self, bytes: usize) {
        self.limit = bytes.max(BASE_REPLY_BYTES);
    }

    /// Makes room for `bytes` bytes. A command that may say much does so before anything is changed.
    ///
    /// # Errors
    /// [`NoRoom`] if they are too many together with what is there already.
    pub fn reserve(&mut self, bytes: usize) -> Result<(), NoRoom> {
        if bytes > self.limit.saturating_sub(self.bytes.len()) {
            return Err(NoRoom(bytes));
        }
        if bytes > SMALL_REPLY_BYTES {
            self.bytes.reserve_exact(bytes);
        }
        Ok(())
    }

    /// Bytes of a reply that is one string.
    #[must_use]
    pub const fn bulk_bytes(length: usize) -> usize {
        // '$', at most 20 digits, two ends.
        length.saturating_add(25)
    }

    /// A word, such as `OK`.
    pub fn simple(&mut self, word: &str) {
        self.write(format_args!("+{word}\r\n"));
    }

    /// An error. Its first word says of what kind it is.
    pub fn error(&mut self, message: impl fmt::Display) {
        self.write(format_args!("-{message}\r\n"));
    }

    /// A number.
    pub fn integer(&mut self, number: i64) {
        self.write(format_args!(":{number}\r\n"));
    }

    /// How many there are of something.
    pub fn count(&mut self, number: usize) {
        self.write(format_args!(":{number}\r\n"));
    }

    /// A string.
    pub fn bulk(&mut self, bytes: &[u8]) {
        self.write(format_args!("${}\r\n", bytes.len()));
        self.bytes.extend_from_slice(bytes);
        self.bytes.extend_from_slice(b"\r\n");
    }

    /// Nothing, where a string would be.
    pub fn nil(&mut self) {
        self.bytes.extend_from_slice(b"$-1\r\n");
    }

    /// The head of an array of `length` replies, which follow.
    pub fn array(&mut self, length: usize) {
        self.write(format_args!("*{length}\r\n"));
    }

    fn write(&mut self, text: fmt::Arguments<'_>) {
        struct Bytes<'a>(&'a mut Vec<u8>);
        impl Write for Bytes<'_> {
            fn write_str(&mut self, text: &str) -> fmt::Result {
                self.0.extend_from_slice(text.as_bytes());
                Ok(())
            }
        }
        // Memory takes everything.
        let _ = Bytes(&mut self.bytes).write_fmt(text);
    }
}
