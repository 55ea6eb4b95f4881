//! Bytes of one message: writing them, and reading them with every length checked.

use crate::{Place, SIDE, VERSION};

/// Bytes of the longest message: a snapshot of a full field.
pub const MAX_BYTES: usize = 256;

/// One message as bytes.
#[derive(Clone, Copy, Debug)]
pub struct Datagram {
    bytes: [u8; MAX_BYTES],
    length: usize,
}

impl Datagram {
    pub(crate) fn new(kind: u8) -> Self {
        let mut datagram = Self { bytes: [0; MAX_BYTES], length: 0 };
        datagram.put(&[b'A', b'R', VERSION, kind]);
        datagram
    }

    /// Every message fits: the tests write the longest of each kind.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        if let Some(place) = self.bytes.get_mut(self.length..self.length + bytes.len()) {
            place.copy_from_slice(bytes);
            self.length += bytes.len();
        }
    }

    pub(crate) fn put_place(&mut self, place: Place) {
        self.put(&place.x.to_le_bytes());
        self.put(&place.y.to_le_bytes());
    }

    /// Zeros up to a length.
    pub(crate) fn pad_to(&mut self, length: usize) {
        self.length = self.length.max(length.min(MAX_BYTES));
    }

    /// The bytes to send.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// What of a message is still to be read.
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// Reads the kind of a message.
    pub fn open(bytes: &'a [u8]) -> Option<(u8, Self)> {
        match bytes {
            [b'A', b'R', VERSION, kind, rest @ ..] => Some((*kind, Self(rest))),
            _ => None,
        }
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.take().map(|[byte]| byte)
    }

    pub fn i8(&mut self) -> Option<i8> {
        self.take().map(i8::from_le_bytes)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    pub fn place(&mut self) -> Option<Place> {
        let place = Place { x: self.u16()?, y: self.u16()? };
        (place.x <= SIDE && place.y <= SIDE).then_some(place)
    }

    /// Nothing may be left but so many zeros.
    pub fn end(self, zeros: usize) -> Option<()> {
        (self.0.len() == zeros && self.0.iter().all(|&byte| byte == 0)).then_some(())
    }
}
