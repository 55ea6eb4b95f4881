//! Reading chunked bodies, strictly. Extensions and trailers are understood, bounded, and not passed on.

/// Most bytes of the line before a chunk, with its extensions.
const MAX_LINE_BYTES: u16 = 256;

/// Most bytes of all trailers.
const MAX_TRAILER_BYTES: u16 = 2048;

/// Most bytes of one chunk: what a number of this many digits can say.
const MAX_DIGITS: u8 = 15;

/// Where in the body it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the digits of a size.
    Size { size: u64, digits: u8, line: u16 },
    /// In an extension, which is skipped.
    Extension { size: u64, line: u16 },
    /// After the carriage return behind a size.
    SizeEnd { size: u64 },
    /// In a chunk with so many bytes left.
    Data { left: u64 },
    /// Behind a chunk.
    DataReturn,
    /// After the carriage return behind a chunk.
    DataEnd,
    /// In the trailers: bytes so far, and of the current line.
    Trailer { bytes: u16, line: u16 },
    /// After a carriage return in the trailers.
    TrailerEnd { bytes: u16, line: u16 },
    /// Behind the body.
    End,
}

/// The body is not what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadChunk;

/// What the first bytes of some input are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// So many bytes that are none of the body, to be skipped; all of the input, if it was used up.
    Skip(usize),
    /// So many bytes of the body.
    Data(usize),
    /// So many bytes that are none of the body; then it ends.
    End(usize),
}

/// A reader of one chunked body.
#[derive(Clone, Copy, Debug)]
pub struct Chunks {
    state: State,
}

impl Chunks {
    /// A reader at the beginning of a body.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: State::Size { size: 0, digits: 0, line: 0 } }
    }

    /// Says what the first bytes of `input` are, and takes them as read.
    ///
    /// # Errors
    /// If they can be in no such body.
    pub fn next(&mut self, input: &[u8]) -> Result<Piece, BadChunk> {
        for (at, &byte) in input.iter().enumerate() {
            if let State::Data { left } = self.state {
                if at > 0 {
                    return Ok(Piece::Skip(at));
                }
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                let left = left - here as u64;
                self.state = if left == 0 { State::DataReturn } else { State::Data { left } };
                return Ok(Piece::Data(here));
            }
            self.state = self.state.after(byte)?;
            if self.state == State::End {
                return Ok(Piece::End(at + 1));
            }
        }
        Ok(Piece::Skip(input.len()))
    }
}

impl Default for Chunks {
    fn default() -> Self {
        Self::new()
    }
}

impl State {
    fn after(self, byte: u8) -> Result<Self, BadChunk> {
        Ok(match (self, byte) {
            (Self::Size { size, digits: 1.., line: _ }, b'\r') => Self::SizeEnd { size },
            (Self::Size { size, digits: 1.., line }, b';' | b' ' | b'\t') => Self::Extension { size, line: line + 1 },
            (Self::Size { size, digits: digits @ 0..MAX_DIGITS, line }, _) => {
                let digit = char::from(byte).to_digit(16).ok_or(BadChunk)?;
                // At most 15 digits: below 2^60.
                Self::Size { size: size << 4 | u64::from(digit), digits: digits + 1, line: line + 1 }
            }
            (Self::Extension { size, .. }, b'\r') => Self::SizeEnd { size },
            (Self::Extension { size, line }, b'\t' | b' '..=b'~' | 0x80..) if line < MAX_LINE_BYTES => {
                Self::Extension { size, line: line + 1 }
            }
            (Self::SizeEnd { size: 0 }, b'\n') => Self::Trailer { bytes: 0, line: 0 },
            (Self::SizeEnd { size }, b'\n') => Self::Data { left: size },
            (Self::DataReturn, b'\r') => Self::DataEnd,
            (Self::DataEnd, b'\n') => Self::Size { size: 0, digits: 0, line: 0 },
            (Self::Trailer { bytes, line }, b'\r') => Self::TrailerEnd { bytes, line },
            (Self::Trailer { bytes, line }, b'\t' | b' '..=b'~' | 0x80..) if bytes < MAX_TRAILER_BYTES => {
                Self::Trailer { bytes: bytes + 1, line: line + 1 }
            }
            (Self::TrailerEnd { line: 0, .. }, b'\n') => Self::End,
            (Self::TrailerEnd { bytes, .. }, b'\n') => Self::Trailer { bytes, line: 0 },
            _ => return Err(BadChunk),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Reads a body that comes in pieces. Returns it and what is left behind it; `None` inside if it is not over.
    fn read(pieces: &[&[u8]]) -> Result<(Vec<u8>, Option<usize>), BadChunk> {
        let (mut chunks, mut body, mut used) = (Chunks::default(), Vec::new(), 0);
        for piece in pieces {
            let mut rest = *piece;
            while !rest.is_empty() {
                let taken = match chunks.next(rest)? {
                    Piece::Skip(taken) => taken,
                    Piece::Data(taken) => {
                        body.extend_from_slice(&rest[..taken]);
                        taken
                    }
                    Piece::End(taken) => return Ok((body, Some(used + taken))),
                };
                assert!(taken > 0, "it comes forward");
                used += taken;
                rest = &rest[taken..];
            }
        }
        Ok((body, None))
    }

    #[test]
    fn bodies_end_where_they_say() {
        let text = b"5\r\nhello\r\n00A;x=\"y\"\r\n, 89 bytes\r\n0\r\nX: y\r\n\r\nGET";
        assert_eq!(read(&[text]), Ok((b"hello, 89 bytes".to_vec(), Some(text.len() - 3))));
        assert_eq!(read(&[b"0\r\n\r\n"]), Ok((vec![], Some(5))));
        assert_eq!(read(&[b"5\r\nhel"]), Ok((b"hel".to_vec(), None)));
    }

    #[test]
    fn what_others_might_read_differently_is_refused() {
        for text in [
            "\r\n",
            "5\nhello\r\n",
            "5\r\nhello\n0\r\n\r\n",
            "5\r\nhelloo\r\n",
            "-1\r\n",
            "0x5\r\n",
            " 5\r\nhello",
            "5\rx",
            ";\r\n",
            "1000000000000000\r\n",
            "0\r\n\n",
            "0\r\nX: y\n\r\n",
            "5;a\nb\r\nhello",
            "g\r\n",
        ] {
            assert_eq!(read(&[text.as_bytes()]), Err(BadChunk), "{text:?}");
        }
        let long = |n: usize| format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(n));
        assert!(read(&[long(200).as_bytes()]).is_ok());
        assert_eq!(read(&[long(300).as_bytes()]), Err(BadChunk));
        let trailers = format!("0\r\n{}\r\n", "X: yyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(100));
        assert_eq!(read(&[trailers.as_bytes()]), Err(BadChunk));
    }

    proptest! {
        #[test]
        fn however_it_is_cut_it_is_the_same_body(
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
            cuts in proptest::collection::vec(1..20usize, 1..40),
        ) {
            let mut text = Vec::new();
            for part in &parts {
                text.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                text.extend_from_slice(part);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
            let (mut rest, mut pieces) = (&text[..], Vec::new());
            for &cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, others) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece);
                rest = others;
            }
            prop_assert_eq!(read(&pieces), Ok((parts.concat(), Some(text.len()))));
        }

        #[test]
        fn any_bytes_are_something(bytes in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'3'), Just(b';'), any::<u8>()], 0..60)) {
            let _ = read(&[&bytes]);
        }
    }
}
