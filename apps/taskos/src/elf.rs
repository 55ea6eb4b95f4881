//! Reads a program: a static ELF file at a fixed address, with text, constants and data on pages of their own.
//!
//! `object` finds the headers and checks every offset; what a program may be is decided here.

use alloc::vec::Vec;
use core::fmt;
use core::ops::Range;
use libos::mmu::Rights;
use object::Endianness;
use object::elf::{self, FileHeader64, PF_R, PF_W, PF_X, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader};
use programs::abi::{PROGRAM_BASE, PROGRAM_LIMIT};

#[cfg(test)]
pub(crate) mod tests;

type Header = FileHeader64<Endianness>;

/// Bytes of a page.
const PAGE: u64 = libos::virtual_isa::PAGE_SIZE as u64;

/// Most segments of a program.
pub const MAX_SEGMENTS: usize = 8;

/// Pages of a program with the same rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Which pages of the program's space.
    pub pages: Range<u64>,
    /// What it may do with them.
    pub rights: Rights,
    /// Address of the first byte of the content.
    pub start: u64,
    /// The content. All else on the pages is zero.
    pub content: &'static [u8],
    /// The pages themselves, if they lie in the file as they are to be mapped and are never written.
    pub in_place: Option<&'static [u8]>,
}

/// A checked program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Address of the first instruction.
    pub entry: u64,
    /// Its pages, in ascending order, none twice.
    pub segments: Vec<Segment>,
}

/// Why a file is no program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// It is no 64-bit ELF file for this processor, or is cut short.
    NotElf,
    /// It is not linked at a fixed address.
    NotFixed,
    /// It needs a dynamic linker, or has thread-local storage.
    NeedsLoader,
    /// It has no segment, or more than [`MAX_SEGMENTS`].
    BadCount,
    /// A segment lies outside the pages that programs have, or ends before its content does.
    BadRange {
        /// Its address.
        address: u64,
    },
    /// A segment's rights are none that pages can have.
    BadRights {
        /// Its address.
        address: u64,
    },
    /// Two segments need the same page, or are not in order.
    Overlap {
        /// Address of the second.
        address: u64,
    },
    /// The entry is in no executable segment.
    BadEntry,
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => f.write_str("no 64-bit ELF file for x86-64, or cut short"),
            Self::NotFixed => f.write_str("not linked at a fixed address"),
            Self::NeedsLoader => f.write_str("dynamic, or with thread-local storage"),
            Self::BadCount => write!(f, "no segments, or more than {MAX_SEGMENTS}"),
            Self::BadRange { address } => write!(f, "segment {address:#x} is not where programs are"),
            Self::BadRights { address } => write!(f, "segment {address:#x} has rights that pages cannot have"),
            Self::Overlap { address } => write!(f, "segment {address:#x} overlaps the one before"),
            Self::BadEntry => f.write_str("the entry is not in its text"),
        }
    }
}

impl core::error::Error for ElfError {}

/// Reads and checks a program.
///
/// # Errors
/// See [`ElfError`]: the first thing that is wrong with it.
pub fn read(bytes: &'static [u8]) -> Result<Program, ElfError> {
    let endian = Endianness::Little;
    let header = Header::parse(bytes).map_err(|_| ElfError::NotElf)?;
    let is_ours = header.is_class_64() && header.is_little_endian() && header.e_machine(endian) == elf::EM_X86_64;
    if !is_ours {
        return Err(ElfError::NotElf);
    }
    if header.e_type(endian) != elf::ET_EXEC {
        return Err(ElfError::NotFixed);
    }
    let mut segments = Vec::new();
    for program in header.program_headers(endian, bytes).map_err(|_| ElfError::NotElf)? {
        let has_bytes = program.p_memsz(endian) > 0;
        match program.p_type(endian) {
            elf::PT_INTERP | elf::PT_DYNAMIC => return Err(ElfError::NeedsLoader),
            elf::PT_TLS if has_bytes => return Err(ElfError::NeedsLoader),
            elf::PT_LOAD if has_bytes => {
                let before = segments.last().map_or(0, |segment: &Segment| segment.pages.end);
                let segment = check(program, bytes)?;
                if segment.pages.start < before {
                    return Err(ElfError::Overlap { address: segment.start });
                }
                if segments.len() == MAX_SEGMENTS {
                    return Err(ElfError::BadCount);
                }
                segments.push(segment);
            }
            _ => {}
        }
    }
    let entry = header.e_entry(endian);
    let is_text = |s: &Segment| s.rights.contains(Rights::EXECUTE) && s.pages.contains(&(entry / PAGE));
    match segments.is_empty() {
        true => Err(ElfError::BadCount),
        false if !segments.iter().any(is_text) => Err(ElfError::BadEntry),
        false => Ok(Program { entry, segments }),
    }
}

fn check(program: &ProgramHeader64<Endianness>, bytes: &'static [u8]) -> Result<Segment, ElfError> {
    let endian = Endianness::Little;
    let address = program.p_vaddr(endian);
    let end = address.checked_add(program.p_memsz(endian)).filter(|&end| end <= PROGRAM_LIMIT);
    let end = end.filter(|_| address >= PROGRAM_BASE).ok_or(ElfError::BadRange { address })?;
    let rights = match program.p_flags(endian) & (PF_R | PF_W | PF_X) {
        flags if flags == PF_R => Rights::READ,
        flags if flags == PF_R | PF_W => Rights::READ | Rights::WRITE,
        flags if flags == PF_R | PF_X => Rights::READ | Rights::EXECUTE,
        _ => return Err(ElfError::BadRights { address }),
    };
    let content = program.data(endian, bytes).map_err(|()| ElfError::NotElf)?;
    if content.len() as u64 > end - address {
        return Err(ElfError::BadRange { address });
    }
    let pages = address / PAGE..end.div_ceil(PAGE);
    let is_whole = content.len() as u64 == end - address && !rights.contains(Rights::WRITE);
    let in_place = if is_whole { in_place(bytes, program.p_offset(endian), address, &pages) } else { None };
    Ok(Segment { pages, rights: rights | Rights::USER, start: address, content, in_place })
}

/// The whole pages of the file that a segment lies on, if they can be mapped as they are. What else is on the first and
/// the last one is the same program's.
fn in_place(bytes: &'static [u8], offset: u64, address: u64, pages: &Range<u64>) -> Option<&'static [u8]> {
    if offset % PAGE != address % PAGE {
        return None;
    }
    let first = usize::try_from(offset / PAGE * PAGE).ok()?;
    let length = usize::try_from((pages.end - pages.start) * PAGE).ok()?;
    let found = bytes.get(first..first.checked_add(length)?)?;
    (found.as_ptr().addr() as u64).is_multiple_of(PAGE).then_some(found)
}
