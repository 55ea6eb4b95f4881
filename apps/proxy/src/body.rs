//! Bodies on their way from one side to the other: a piece at a time, never more of them in memory than that.

use crate::chunks::{Chunks, Piece};
use crate::head::Framing;
use alloc::format;
use alloc::vec::Vec;
use libos::net::{Error, TcpStream};

/// Bytes read at a time.
const PIECE_BYTES: usize = 4096;

/// What was read and not used yet.
#[derive(Debug, Default)]
pub struct Input {
    bytes: Vec<u8>,
    used: usize,
}

impl Input {
    /// It.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(self.used..).unwrap_or_default()
    }

    /// So much of it was used.
    pub fn consume(&mut self, length: usize) {
        self.used = self.used.saturating_add(length).min(self.bytes.len());
    }

    /// Reads some more. Returns whether there was more. Who waits for it holds no buffer, if nothing is in it.
    ///
    /// # Errors
    /// What the stream says.
    pub async fn fill(&mut self, stream: &TcpStream) -> Result<bool, Error> {
        if self.bytes().is_empty() {
            *self = Self::default();
            stream.readable().await?;
        }
        self.bytes.drain(..self.used);
        self.used = 0;
        let before = self.bytes.len();
        self.bytes.resize(before + PIECE_BYTES, 0);
        let read = stream.read(&mut self.bytes[before..]).await;
        self.bytes.truncate(before + *read.as_ref().unwrap_or(&0));
        Ok(read? > 0)
    }
}

/// Why a body did not get to the other side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyError {
    /// It ended early.
    Ended,
    /// Nothing more of it came in time.
    Stalled,
    /// It is not framed as it said.
    Malformed,
    /// The other side takes no more of it.
    Destination,
}

/// Where in a body the source is.
enum Place {
    Length(u64),
    Chunked(Chunks),
    UntilClose,
    End,
}

impl Place {
    const fn begin(framing: Framing) -> Self {
        match framing {
            Framing::Nothing | Framing::Length(0) => Self::End,
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunks::new()),
            Framing::UntilClose => Self::UntilClose,
        }
    }

    /// What the first bytes of the input are.
    fn next(&mut self, input: &[u8]) -> Result<Piece, CopyError> {
        match self {
            Self::Length(left) => {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= here as u64;
                if *left == 0 {
                    *self = Self::End;
                }
                Ok(Piece::Data(here))
            }
            Self::Chunked(chunks) => {
                let piece = chunks.next(input).map_err(|_| CopyError::Malformed)?;
                if matches!(piece, Piece::End(_)) {
                    *self = Self::End;
                }
                Ok(piece)
            }
            Self::UntilClose => Ok(Piece::Data(input.len())),
            Self::End => Ok(Piece::End(0)),
        }
    }
}

/// Copies a body, framed anew, behind what is in `out` already. That goes out at the latest when the body has to be
/// waited for.
///
/// # Errors
/// See [`CopyError`]. Some of it has arrived then.
pub async fn copy(
    (source, input): (&TcpStream, &mut Input),
    framing: Framing,
    destination: &TcpStream,
    framing_out: Framing,
    mut out: Vec<u8>,
) -> Result<(), CopyError> {
    let mut place = Place::begin(framing);
    loop {
        while !matches!(place, Place::End) && !input.bytes().is_empty() {
            let taken = match place.next(input.bytes())? {
                Piece::Skip(taken) | Piece::End(taken) => taken,
                Piece::Data(taken) => {
                    put(&mut out, input.bytes().get(..taken).unwrap_or_default(), framing_out);
                    taken
                }
            };
            input.consume(taken);
        }
        let is_over = matches!(place, Place::End);
        if is_over && framing_out == Framing::Chunked {
            out.extend_from_slice(b"0\r\n\r\n");
        }
        if !out.is_empty() {
            destination.write_all(&out).await.map_err(|_| CopyError::Destination)?;
            // What was written may have been much more than what comes next.
            out = Vec::new();
        }
        if is_over {
            return Ok(());
        }
        match (input.fill(source).await, &place) {
            (Ok(true), _) => {}
            (Ok(false), Place::UntilClose) => place = Place::End,
            (Ok(false), _) => return Err(CopyError::Ended),
            (Err(Error::TimedOut), _) => return Err(CopyError::Stalled),
            (Err(_), _) => return Err(CopyError::Ended),
        }
    }
}

/// A piece of a body as the other side gets it.
fn put(out: &mut Vec<u8>, piece: &[u8], framing: Framing) {
    if framing == Framing::Chunked {
        out.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
    }
    out.extend_from_slice(piece);
    if framing == Framing::Chunked {
        out.extend_from_slice(b"\r\n");
    }
}
