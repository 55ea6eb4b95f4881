//! The flat guest image: a manifest of page runs, then their contents.
//!
//! ```text
//! 0   magic        u64   "firnimg1"
//! 8   version      u32   ISA version it was built for
//! 12  nr_runs      u32
//! 16  entry        u64   first instruction
//! 24  file_bytes   u64   length of the whole file
//! 32  checksum     u32   CRC-32 of everything from the first run on
//! 36  zero         u32
//! 40  runs         24 bytes each
//! ..  contents     at multiples of 4096
//! ```
//! A run: first page `u32`, pages `u32`, rights `u32` (1 read, 2 write, 4 execute), zero `u32`, offset of its
//! contents in the file `u32` (0 if it has none), pages of contents `u32`; the pages after these start as zero.
//!
//! `firn build` writes it and the kernel reads it; both call [`Image::check`].

use crate::PAGE_SIZE;
use crate::layout::{IMAGE_BASE, IMAGE_LIMIT, page_of};
use crate::limits::MAX_RUNS;
use core::fmt;

/// "firnimg1", little-endian.
pub const IMAGE_MAGIC: u64 = u64::from_le_bytes(*b"firnimg1");

/// Bytes before the first run.
pub const HEADER_BYTES: usize = 40;

/// Bytes of one run.
pub const RUN_BYTES: usize = 24;

/// What a guest may do with the pages of a run. Writable and executable at once cannot be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Rights {
    /// Constants.
    Read = 1,
    /// Data, copied on write.
    ReadWrite = 3,
    /// Text.
    ReadExecute = 5,
}

impl TryFrom<u32> for Rights {
    type Error = u32;

    fn try_from(word: u32) -> Result<Self, u32> {
        match word {
            1 => Ok(Self::Read),
            3 => Ok(Self::ReadWrite),
            5 => Ok(Self::ReadExecute),
            other => Err(other),
        }
    }
}

/// A run of pages with the same rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Number of its first page.
    pub first_page: u32,
    /// How many pages, at least one.
    pub nr_pages: u32,
    /// What the guest may do with them.
    pub rights: Rights,
    /// Where its contents lie in the file, a multiple of the page size.
    pub content_at: u32,
    /// How many of its pages have contents; the rest start as zero.
    pub content_pages: u32,
}

impl Run {
    /// First page after the run.
    #[must_use]
    pub const fn end_page(&self) -> u32 {
        self.first_page.saturating_add(self.nr_pages)
    }

    /// Whether a page belongs to the run.
    #[must_use]
    pub const fn contains(&self, page: u32) -> bool {
        page >= self.first_page && page < self.end_page()
    }
}

/// Why an image is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageError {
    /// The file is shorter than its header, its runs or its stated length.
    Truncated,
    /// It does not start with [`IMAGE_MAGIC`].
    BadMagic,
    /// It was built for another ISA version.
    BadVersion(u32),
    /// No runs, or more than [`MAX_RUNS`].
    BadRunCount(u32),
    /// The contents are not those that were written.
    BadChecksum,
    /// A run's rights are undefined, or writable and executable at once.
    BadRights {
        /// Which run.
        run: usize,
        /// The word found.
        rights: u32,
    },
    /// A run is empty, has more contents than pages, or a reserved word that is not zero.
    BadRun(usize),
    /// A run lies outside the pages an image may use, or its contents outside the file.
    OutOfRange(usize),
    /// A run overlaps the one before it, or the runs are not in ascending order.
    Overlap(usize),
    /// The entry is not in an executable run.
    BadEntry(u64),
    /// The memory asked for ends before the image does.
    MemoryTooSmall {
        /// Pages the image needs.
        needed: u32,
    },
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the image is cut short"),
            Self::BadMagic => f.write_str("not a Firn image"),
            Self::BadVersion(v) => write!(f, "built for ISA version {v}, this is {}", crate::ISA_VERSION),
            Self::BadRunCount(n) => write!(f, "{n} page runs, allowed are 1 to {MAX_RUNS}"),
            Self::BadChecksum => f.write_str("the checksum does not match: the image is damaged"),
            Self::BadRights { run, rights } => write!(f, "run {run}: rights {rights:#x} are not allowed"),
            Self::BadRun(run) => write!(f, "run {run} is malformed"),
            Self::OutOfRange(run) => {
                write!(f, "run {run} lies outside [{IMAGE_BASE:#x}, {IMAGE_LIMIT:#x}) or the file")
            }
            Self::Overlap(run) => write!(f, "run {run} overlaps the one before it"),
            Self::BadEntry(entry) => write!(f, "entry {entry:#x} is outside the text"),
            Self::MemoryTooSmall { needed } => write!(f, "the image alone needs {needed} pages of memory"),
        }
    }
}

impl core::error::Error for ImageError {}

/// A checked image: everything in it may be relied on.
#[derive(Clone, Copy, Debug)]
pub struct Image<'a> {
    bytes: &'a [u8],
    entry: u64,
    runs: [Option<Run>; MAX_RUNS],
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_le_bytes)
}

fn long(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}

impl<'a> Image<'a> {
    /// Checks the bytes of a file.
    ///
    /// # Errors
    /// See [`ImageError`]; the first thing found wrong. Whoever wrote the file must mend it.
    pub fn check(bytes: &'a [u8]) -> Result<Self, ImageError> {
        use ImageError as E;
        if long(bytes, 0).ok_or(E::Truncated)? != IMAGE_MAGIC {
            return Err(E::BadMagic);
        }
        let version = word(bytes, 8).ok_or(E::Truncated)?;
        if version != crate::ISA_VERSION {
            return Err(E::BadVersion(version));
        }
        let nr_runs = word(bytes, 12).ok_or(E::Truncated)?;
        let entry = long(bytes, 16).ok_or(E::Truncated)?;
        if long(bytes, 24).ok_or(E::Truncated)? != bytes.len() as u64 {
            return Err(E::Truncated);
        }
        let nr = nr_runs as usize;
        if nr == 0 || nr > MAX_RUNS {
            return Err(E::BadRunCount(nr_runs));
        }
        let checked = bytes.get(HEADER_BYTES..).ok_or(E::Truncated)?;
        if word(bytes, 32) != Some(checksum(checked)) || word(bytes, 36) != Some(0) {
            return Err(E::BadChecksum);
        }
        let mut runs = [None; MAX_RUNS];
        let mut free_from = 0;
        let mut entry_is_text = false;
        for (n, slot) in runs.iter_mut().enumerate().take(nr) {
            let run = Self::check_run(bytes, n, nr)?;
            if run.first_page < free_from {
                return Err(E::Overlap(n));
            }
            free_from = run.end_page();
            entry_is_text |=
                run.rights == Rights::ReadExecute && u32::try_from(page_of(entry)).is_ok_and(|page| run.contains(page));
            *slot = Some(run);
        }
        if !entry_is_text {
            return Err(E::BadEntry(entry));
        }
        Ok(Self { bytes, entry, runs })
    }

    fn check_run(bytes: &[u8], n: usize, nr_runs: usize) -> Result<Run, ImageError> {
        use ImageError as E;
        let at = HEADER_BYTES + n * RUN_BYTES;
        let field = |i: usize| word(bytes, at + i * 4).ok_or(E::Truncated);
        let rights = field(2)?;
        let run = Run {
            first_page: field(0)?,
            nr_pages: field(1)?,
            rights: Rights::try_from(rights).map_err(|rights| E::BadRights { run: n, rights })?,
            content_at: field(4)?,
            content_pages: field(5)?,
        };
        if run.nr_pages == 0 || run.content_pages > run.nr_pages || field(3)? != 0 {
            return Err(E::BadRun(n));
        }
        let end = u64::from(run.first_page) + u64::from(run.nr_pages);
        if u64::from(run.first_page) < page_of(IMAGE_BASE) || end > page_of(IMAGE_LIMIT) {
            return Err(E::OutOfRange(n));
        }
        if run.content_pages > 0 {
            let content = u64::from(run.content_at);
            let content_end = content + u64::from(run.content_pages) * PAGE_SIZE as u64;
            let runs_end = (HEADER_BYTES + nr_runs * RUN_BYTES) as u64;
            if content < runs_end || !content.is_multiple_of(PAGE_SIZE as u64) || content_end > bytes.len() as u64 {
                return Err(E::OutOfRange(n));
            }
        }
        Ok(run)
    }

    /// Checks that the image fits a VM's memory.
    ///
    /// # Errors
    /// `MemoryTooSmall`, with the pages needed.
    pub fn check_memory(&self, memory_pages: u32) -> Result<(), ImageError> {
        let needed = self.end_page();
        if needed > memory_pages { Err(ImageError::MemoryTooSmall { needed }) } else { Ok(()) }
    }

    /// Address of the first instruction.
    #[must_use]
    pub const fn entry(&self) -> u64 {
        self.entry
    }

    /// The runs, in ascending order.
    pub fn runs(&self) -> impl Iterator<Item = Run> + '_ {
        self.runs.iter().copied().flatten()
    }

    /// First page after the image.
    #[must_use]
    pub fn end_page(&self) -> u32 {
        self.runs().last().map_or(0, |run| run.end_page())
    }

    /// Contents of one page of a run, or `None` if it starts as zero.
    #[must_use]
    pub fn content(&self, run: &Run, page: u32) -> Option<&'a [u8]> {
        let index = page.checked_sub(run.first_page)?;
        if index >= run.content_pages {
            return None;
        }
        let at = run.content_at as usize + index as usize * PAGE_SIZE;
        self.bytes.get(at..at + PAGE_SIZE)
    }
}

/// A running CRC-32 (IEEE 802.3), four bits at a time: files are checked once each.
#[derive(Clone, Copy, Debug)]
pub struct Checksum(u32);

impl Checksum {
    const TABLE: [u32; 16] = {
        let mut table = [0u32; 16];
        let mut nibble = 0u32;
        while nibble < 16 {
            let mut c = nibble;
            let mut bit = 0;
            while bit < 4 {
                c = if c & 1 == 1 { (c >> 1) ^ 0xedb8_8320 } else { c >> 1 };
                bit += 1;
            }
            table[nibble as usize] = c;
            nibble += 1;
        }
        table
    };

    /// Starts over nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self(u32::MAX)
    }

    /// Goes on over more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 ^= u32::from(byte);
            self.0 = (self.0 >> 4) ^ Self::TABLE[(self.0 & 15) as usize];
            self.0 = (self.0 >> 4) ^ Self::TABLE[(self.0 & 15) as usize];
        }
    }

    /// The checksum of all bytes so far.
    #[must_use]
    pub const fn finish(self) -> u32 {
        !self.0
    }
}

impl Default for Checksum {
    fn default() -> Self {
        Self::new()
    }
}

/// The [`Checksum`] of these bytes.
#[must_use]
pub fn checksum(bytes: &[u8]) -> u32 {
    let mut sum = Checksum::new();
    sum.update(bytes);
    sum.finish()
}

/// Appends the encoding of header and runs to `put`. `checksum` and `file_bytes` are the caller's to know.
pub fn encode_header(entry: u64, file_bytes: u64, checksum: u32, runs: &[Run], mut put: impl FnMut(&[u8])) {
    put(&IMAGE_MAGIC.to_le_bytes());
    put(&crate::ISA_VERSION.to_le_bytes());
    put(&u32::try_from(runs.len()).unwrap_or(u32::MAX).to_le_bytes());
    put(&entry.to_le_bytes());
    put(&file_bytes.to_le_bytes());
    put(&checksum.to_le_bytes());
    put(&[0; 4]);
    for run in runs {
        for field in [run.first_page, run.nr_pages, run.rights as u32, 0, run.content_at, run.content_pages] {
            put(&field.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn text() -> Run {
        Run { first_page: 0x20, nr_pages: 1, rights: Rights::ReadExecute, content_at: 4096, content_pages: 1 }
    }

    fn data() -> Run {
        Run { first_page: 0x21, nr_pages: 3, rights: Rights::ReadWrite, content_at: 8192, content_pages: 1 }
    }

    fn file(entry: u64, runs: &[Run]) -> Vec<u8> {
        let mut bytes = Vec::new();
        encode_header(entry, 0, 0, runs, |b| bytes.extend_from_slice(b));
        bytes.resize(3 * 4096, 0x90);
        seal(&mut bytes);
        bytes
    }

    fn seal(bytes: &mut [u8]) {
        let length = bytes.len() as u64;
        bytes[24..32].copy_from_slice(&length.to_le_bytes());
        let sum = checksum(&bytes[HEADER_BYTES..]);
        bytes[32..36].copy_from_slice(&sum.to_le_bytes());
    }

    #[test]
    fn a_good_image_is_read_as_written() {
        let bytes = file(0x20_010, &[text(), data()]);
        let image = Image::check(&bytes).unwrap();
        assert_eq!(image.entry(), 0x20_010);
        assert_eq!(image.runs().collect::<Vec<_>>(), [text(), data()]);
        assert_eq!(image.end_page(), 0x24);
        assert_eq!(image.content(&data(), 0x21).unwrap().len(), 4096);
        assert!(image.content(&data(), 0x22).is_none());
        assert!(image.check_memory(0x24).is_ok());
        assert_eq!(image.check_memory(0x23), Err(ImageError::MemoryTooSmall { needed: 0x24 }));
    }

    #[test]
    fn checksum_is_the_one_of_ieee_802_3() {
        assert_eq!(checksum(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn each_defect_is_named() {
        use ImageError as E;
        let check = |entry, runs: &[Run]| Image::check(&file(entry, runs)).map(|_| ());
        assert_eq!(check(0x20_000, &[]), Err(E::BadRunCount(0)));
        assert_eq!(check(0x20_000, &[text(); 17]), Err(E::BadRunCount(17)));
        assert_eq!(check(0x21_000, &[text(), data()]), Err(E::BadEntry(0x21_000)));
        assert_eq!(check(u64::MAX, &[text()]), Err(E::BadEntry(u64::MAX)));
        assert_eq!(check(0x20_000, &[data(), text()]), Err(E::Overlap(1)));
        assert_eq!(check(0x20_000, &[text(), text()]), Err(E::Overlap(1)));
        let over = Run { nr_pages: 0, ..text() };
        assert_eq!(check(0x20_000, &[over]), Err(E::BadRun(0)));
        let over = Run { content_pages: 2, ..text() };
        assert_eq!(check(0x20_000, &[over]), Err(E::BadRun(0)));
        for first_page in [0, 0x10, 0x1f, 0x1000, u32::MAX] {
            assert_eq!(check(0x20_000, &[Run { first_page, ..text() }]), Err(E::OutOfRange(0)));
        }
        assert_eq!(check(0x20_000, &[Run { nr_pages: u32::MAX, ..text() }]), Err(E::OutOfRange(0)));
        for content_at in [0, 40, 4097, 12_288, !4095] {
            assert_eq!(check(0x20_000, &[Run { content_at, ..text() }]), Err(E::OutOfRange(0)));
        }

        let good = file(0x20_000, &[text(), data()]);
        let with = |at: usize, new: &[u8]| {
            let mut bytes = good.clone();
            bytes[at..at + new.len()].copy_from_slice(new);
            bytes
        };
        let refused = |bytes: &[u8]| Image::check(bytes).map(|_| ()).unwrap_err();
        assert_eq!(refused(&with(0, b"ELF")), E::BadMagic);
        assert_eq!(refused(&with(8, &[9])), E::BadVersion(9));
        assert_eq!(refused(&with(5000, &[1])), E::BadChecksum);
        let mut wx = with(HEADER_BYTES + 8, &[7]);
        seal(&mut wx);
        assert_eq!(refused(&wx), E::BadRights { run: 0, rights: 7 });
        for cut in [0, 7, 20, 39, 45, 4096, good.len() - 1] {
            assert_eq!(refused(&good[..cut]), E::Truncated, "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn damaged_images_never_lead_outside_the_file(
            edits in proptest::collection::vec((0usize..100, any::<u8>()), 0..6),
            length in 0usize..3 * 4096 + 1,
        ) {
            let mut bytes = file(0x20_000, &[text(), data()]);
            for (at, value) in edits {
                bytes[at] = value;
            }
            bytes.truncate(length);
            if bytes.len() >= HEADER_BYTES {
                seal(&mut bytes);
            }
            if let Ok(image) = Image::check(&bytes) {
                for run in image.runs() {
                    for page in run.first_page..run.end_page() {
                        let has = page - run.first_page < run.content_pages;
                        prop_assert_eq!(image.content(&run, page).is_some(), has);
                    }
                }
            }
        }
    }
}
