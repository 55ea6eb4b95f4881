//! Packs: immutable runs of compressed pages of one VM, in memory, on disk, or both.
//!
//! Pages lie in a pack one after the other, each as a [piece](crate::piece), at multiples of 8 bytes. A pack never changes: pages that were changed since go into another one. It is dropped
//! when nothing in it is needed any more.

use crate::piece::{Coder, MAX_PIECE_BYTES};
use crate::swap::Place as DiskPlace;
use alloc::boxed::Box;
use alloc::vec;
use alloc::vec::Vec;
use hal::{Mpn, NoMemory, PAGE_SIZE, Page, Pages};
use serde::Serialize;
use serde::de::DeserializeOwned;
use xxhash_rust::xxh64::Xxh64;

/// Pages that go into one pack, besides a head.
pub const PACK_PAGES: usize = 16;

/// Pieces begin at multiples of this.
const ALIGN: usize = 8;

/// Where something lies in a pack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Offset in units of 8 bytes.
    pub at: u16,
    /// Bytes it takes.
    pub length: u16,
}

/// A pack.
#[derive(Debug)]
pub struct Pack {
    /// Never the same for two packs: tells whether a transfer that ends still means this one.
    pub epoch: u64,
    /// Pages that hold its bytes, or none.
    pub pages: Vec<Page>,
    /// Pages in the VM's map that lie in it.
    pub live: u32,
    /// Whether and where it is on disk.
    pub disk: DiskPlace,
}

impl Pack {
    /// A pack with nothing in it.
    pub const fn none() -> Self {
        Self { epoch: 0, pages: Vec::new(), live: 0, disk: DiskPlace::Nowhere }
    }
}

/// Turns pages and records into pieces and back, in working memory that is kept from one time to the next.
pub struct Packer {
    coder: Coder,
    plain: Box<[u8]>,
    /// A record, as it is before it is encoded.
    record: Box<[u8]>,
}

/// What a page is worth keeping of.
pub enum Squeezed<'a> {
    /// It is this word over and over.
    Filled(u64),
    /// A piece.
    Bytes(&'a [u8]),
}

impl Packer {
    pub fn new() -> Self {
        let (plain, record) = (vec![0; PAGE_SIZE].into_boxed_slice(), vec![0; MAX_PIECE_BYTES].into_boxed_slice());
        Self { coder: Coder::new(), plain, record }
    }

    /// The piece for a page.
    pub fn squeeze<P: Pages>(&mut self, hw: &P, page: Mpn) -> Squeezed<'_> {
        hw.read(page, 0, &mut self.plain);
        let (words, _) = self.plain.as_chunks::<8>();
        if let Some(first) = words.first()
            && words.iter().all(|word| word == first)
        {
            return Squeezed::Filled(u64::from_le_bytes(*first));
        }
        Squeezed::Bytes(self.coder.encode(&self.plain).unwrap_or_default())
    }

    /// The piece for some bytes.
    pub fn squeeze_bytes(&mut self, bytes: &[u8]) -> Option<&[u8]> {
        self.coder.encode(bytes)
    }

    /// The piece for a record, and the record's length.
    pub fn squeeze_record(&mut self, record: &impl Serialize) -> Option<(usize, &[u8])> {
        let plain = postcard::to_slice(record, &mut self.record).ok()?;
        Some((plain.len(), self.coder.encode(plain)?))
    }

    /// Reads a record back that is that long.
    pub fn unpack_record<P: Pages, R: DeserializeOwned>(
        &mut self,
        hw: &P,
        pages: &[Page],
        span: Span,
        length: u32,
    ) -> Option<R> {
        let plain = self.record.get_mut(..length as usize)?;
        if !load(&mut self.coder, hw, pages, span) || !self.coder.decode(usize::from(span.length), plain) {
            return None;
        }
        postcard::from_bytes(plain).ok()
    }

    /// Reads bytes back. False if what lies in the pack is not their piece: then they are anything.
    pub fn unpack_bytes<P: Pages>(&mut self, hw: &P, pages: &[Page], span: Span, into: &mut [u8]) -> bool {
        load(&mut self.coder, hw, pages, span) && self.coder.decode(usize::from(span.length), into)
    }

    /// The checksum of pages, with a number that makes it differ for older contents of the same blocks.
    pub fn checksum<P: Pages>(&mut self, hw: &P, pages: &[Page], epoch: u64) -> u64 {
        let mut sum = Xxh64::new(epoch);
        for page in pages {
            hw.read(page.mpn(), 0, &mut self.plain);
            sum.update(&self.plain);
        }
        sum.digest()
    }

    /// Fills a page from its place in a pack. False if what lies there is no page: then the page holds anything.
    pub fn unpack<P: Pages>(&mut self, hw: &mut P, pages: &[Page], span: Span, to: Mpn) -> bool {
        let is_page =
            load(&mut self.coder, hw, pages, span) && self.coder.decode(usize::from(span.length), &mut self.plain);
        if is_page {
            hw.write(to, 0, &self.plain);
        }
        is_page
    }
}

/// Brings a piece to where it is decoded.
fn load<P: Pages>(coder: &mut Coder, hw: &P, pages: &[Page], span: Span) -> bool {
    coder.room(usize::from(span.length)).is_some_and(|room| read(hw, pages, offset(span), room))
}

fn offset(span: Span) -> usize {
    usize::from(span.at).saturating_mul(ALIGN)
}

/// Copies bytes out of a run of pages. False if they lie beyond it.
pub fn read<P: Pages>(hw: &P, pages: &[Page], mut at: usize, mut into: &mut [u8]) -> bool {
    while !into.is_empty() {
        let Some(page) = pages.get(at / PAGE_SIZE) else { return false };
        let start = at % PAGE_SIZE;
        let length = into.len().min(PAGE_SIZE.saturating_sub(start));
        let (now, rest) = into.split_at_mut(length);
        hw.read(page.mpn(), start, now);
        at = at.saturating_add(length);
        into = rest;
    }
    true
}

/// Writes the pages of a new pack, one piece after the other.
#[derive(Default)]
pub struct Writer {
    pages: Vec<Page>,
    length: usize,
}

impl Writer {
    /// Adds a piece.
    ///
    /// # Errors
    /// If there is no page for it; what was added before stays.
    pub fn push<P: Pages>(&mut self, hw: &mut P, piece: &[u8]) -> Result<Span, NoMemory> {
        let start = self.length.next_multiple_of(ALIGN);
        let end = start.saturating_add(piece.len());
        let needed = end.div_ceil(PAGE_SIZE);
        self.pages.try_reserve(needed.saturating_sub(self.pages.len())).map_err(|_| NoMemory)?;
        while self.pages.len() < needed {
            self.pages.push(hw.allocate().ok_or(NoMemory)?);
        }
        let span = Span {
            at: u16::try_from(start / ALIGN).map_err(|_| NoMemory)?,
            length: u16::try_from(piece.len()).map_err(|_| NoMemory)?,
        };
        let (mut at, mut rest) = (start, piece);
        while let (false, Some(page)) = (rest.is_empty(), self.pages.get(at / PAGE_SIZE)) {
            let within = at % PAGE_SIZE;
            let (now, later) = rest.split_at(rest.len().min(PAGE_SIZE.saturating_sub(within)));
            hw.write(page.mpn(), within, now);
            at = at.saturating_add(now.len());
            rest = later;
        }
        self.length = end;
        Ok(span)
    }

    /// Bytes written so far.
    pub const fn length(&self) -> usize {
        self.length
    }

    /// The pages that were written.
    pub fn finish(self) -> Vec<Page> {
        self.pages
    }
}
