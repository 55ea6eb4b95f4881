//! Reads a guest's ELF file and checks that it can become a flat image: a fixed address, no relocation, no
//! page that is writable and executable, everything inside the pages an image may use.

use object::Endianness;
use object::elf::{self, FileHeader64, PF_R, PF_W, PF_X, ProgramHeader64};
use object::read::elf::{FileHeader, ProgramHeader, SectionHeader};
use std::fmt;
use virtual_isa::PAGE_SIZE;
use virtual_isa::image::Rights;
use virtual_isa::layout::{IMAGE_BASE, IMAGE_LIMIT, page_of};
use virtual_isa::limits::MAX_RUNS;

#[cfg(test)]
pub mod craft;
#[cfg(test)]
mod tests;

type Header = FileHeader64<Endianness>;

/// Pages with the same rights, and their contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Number of its first page.
    pub first_page: u32,
    /// How many pages.
    pub nr_pages: u32,
    /// What the guest may do with them.
    pub rights: Rights,
    /// Contents from the start of the first page on. The rest is zero.
    pub content: Vec<u8>,
}

/// A checked guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Address of the first instruction.
    pub entry: u64,
    /// Its pages, in ascending order, none twice.
    pub segments: Vec<Segment>,
}

/// Why an ELF file cannot become an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// The file does not start as an ELF file does.
    NotElf,
    /// The file ends before what it states.
    Truncated {
        /// What is cut.
        what: String,
    },
    /// It is not for this machine.
    WrongMachine {
        /// What it is for.
        found: String,
    },
    /// It is not an executable at a fixed address.
    NotFixed {
        /// What it is.
        found: String,
    },
    /// It has a part that only a dynamic linker or loader could serve.
    NeedsLoader {
        /// Which part.
        part: String,
    },
    /// It has thread-local storage.
    ThreadLocal,
    /// It has nothing to load.
    Empty,
    /// Two segments claim the same address.
    Overlap {
        /// The first address claimed twice.
        address: u64,
    },
    /// A segment is writable and executable.
    WritableExecutable {
        /// Its address.
        address: u64,
    },
    /// A segment's rights are none that an image can give.
    BadRights {
        /// Its address.
        address: u64,
        /// Its flags.
        flags: u32,
    },
    /// A segment lies below the pages an image may use.
    BelowBase {
        /// Its address.
        address: u64,
    },
    /// A segment ends beyond the pages an image may use.
    TooLarge {
        /// First address after it.
        end: u64,
    },
    /// Segments with different rights lie in one page.
    SharedPage {
        /// Address of the page.
        address: u64,
    },
    /// The entry is in no executable segment.
    BadEntry {
        /// The entry.
        entry: u64,
    },
    /// More runs of pages than an image may have.
    TooManyRuns {
        /// How many.
        found: usize,
    },
}

impl fmt::Display for ElfError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotElf => f.write_str("not an ELF file"),
            Self::Truncated { what } => write!(f, "truncated: {what} lies outside the file"),
            Self::WrongMachine { found } => write!(f, "built for {found}, not for 64-bit x86-64"),
            Self::NotFixed { found } => write!(f, "is {found}, not an executable linked at a fixed address (ET_EXEC)"),
            Self::NeedsLoader { part } => write!(f, "is dynamic or relocated: it has {part}"),
            Self::ThreadLocal => f.write_str("has thread-local storage (PT_TLS)"),
            Self::Empty => f.write_str("has no segment to load"),
            Self::Overlap { address } => write!(f, "segments overlap at {address:#x}"),
            Self::WritableExecutable { address } => write!(f, "segment {address:#x} is writable and executable"),
            Self::BadRights { address, flags } => {
                write!(f, "segment {address:#x} has the rights {flags:#x}: allowed are r--, rw- and r-x")
            }
            Self::BelowBase { address } => {
                write!(f, "segment {address:#x} lies below the first address of images, {IMAGE_BASE:#x}")
            }
            Self::TooLarge { end } => {
                write!(f, "too large: a segment ends at {end:#x}, images end at {IMAGE_LIMIT:#x}")
            }
            Self::SharedPage { address } => write!(f, "segments with different rights share the page {address:#x}"),
            Self::BadEntry { entry } => write!(f, "entry {entry:#x} is outside the text"),
            Self::TooManyRuns { found } => write!(f, "{found} runs of pages, at most {MAX_RUNS} are allowed"),
        }
    }
}

impl ElfError {
    /// What whoever built the file should do.
    #[must_use]
    pub const fn remedy(&self) -> &'static str {
        match self {
            Self::NotElf => "give the executable that the linker wrote",
            Self::Truncated { .. } => "build it again: the file is incomplete",
            Self::WrongMachine { .. } => "build for x86_64-unknown-linux-musl; `firn build APP` does",
            Self::NotFixed { .. } | Self::NeedsLoader { .. } => {
                "link statically, without relocation (-Crelocation-model=static, libos/guest.ld); `firn build APP` does"
            }
            Self::ThreadLocal => "a VM has one processor and no threads: use a `static` with a cell instead",
            Self::Empty => "the program has no code: does it use libos::main?",
            Self::TooLarge { .. } => "move large data out of the image, or allocate it at run time",
            Self::Overlap { .. }
            | Self::WritableExecutable { .. }
            | Self::BadRights { .. }
            | Self::BelowBase { .. }
            | Self::SharedPage { .. }
            | Self::BadEntry { .. }
            | Self::TooManyRuns { .. } => {
                "link with libos/guest.ld, which keeps text, constants and data on pages apart"
            }
        }
    }
}

/// Reads and checks a guest.
///
/// # Errors
/// See [`ElfError`]; the first thing found wrong.
pub fn read(bytes: &[u8]) -> Result<Guest, ElfError> {
    let header = check_header(bytes)?;
    let programs = check_programs(header, bytes)?;
    check_sections(header, bytes)?;
    let segments = merge(programs)?;
    let entry = header.e_entry(Endianness::Little);
    let is_text = |s: &Segment| {
        let pages = u64::from(s.first_page)..u64::from(s.first_page) + u64::from(s.nr_pages);
        s.rights == Rights::ReadExecute && pages.contains(&page_of(entry))
    };
    if !segments.iter().any(is_text) {
        return Err(ElfError::BadEntry { entry });
    }
    if segments.len() > MAX_RUNS {
        return Err(ElfError::TooManyRuns { found: segments.len() });
    }
    Ok(Guest { entry, segments })
}

fn check_header(bytes: &[u8]) -> Result<&Header, ElfError> {
    let Some(magic) = bytes.get(..4) else { return Err(ElfError::NotElf) };
    if magic != elf::ELFMAG {
        return Err(ElfError::NotElf);
    }
    match bytes.get(4..6) {
        Some([elf::ELFCLASS64, elf::ELFDATA2LSB]) | None => {}
        Some([elf::ELFCLASS32, _]) => return Err(ElfError::WrongMachine { found: "a 32-bit machine".into() }),
        Some(_) => return Err(ElfError::WrongMachine { found: "a big-endian or unknown machine".into() }),
    }
    let header = Header::parse(bytes).map_err(|_| ElfError::Truncated { what: "the file header".into() })?;
    let endian = Endianness::Little;
    if header.e_machine(endian) != elf::EM_X86_64 {
        return Err(ElfError::WrongMachine { found: format!("machine {}", header.e_machine(endian)) });
    }
    match header.e_type(endian) {
        elf::ET_EXEC => Ok(header),
        elf::ET_DYN => Err(ElfError::NotFixed { found: "position-independent or a shared library (ET_DYN)".into() }),
        elf::ET_REL => Err(ElfError::NotFixed { found: "an object file (ET_REL)".into() }),
        other => Err(ElfError::NotFixed { found: format!("of ELF type {other}") }),
    }
}

/// One `PT_LOAD` segment that has passed its own checks.
struct Load<'a> {
    start: u64,
    end: u64,
    rights: Rights,
    content: &'a [u8],
}

fn check_programs<'a>(header: &Header, bytes: &'a [u8]) -> Result<Vec<Load<'a>>, ElfError> {
    let endian = Endianness::Little;
    let programs = header
        .program_headers(endian, bytes)
        .map_err(|_| ElfError::Truncated { what: "the table of program headers".into() })?;
    let mut loads = Vec::new();
    for program in programs {
        match program.p_type(endian) {
            elf::PT_INTERP => return Err(ElfError::NeedsLoader { part: "an interpreter (PT_INTERP)".into() }),
            elf::PT_DYNAMIC => return Err(ElfError::NeedsLoader { part: "a dynamic section (PT_DYNAMIC)".into() }),
            elf::PT_TLS if program.p_memsz(endian) > 0 => return Err(ElfError::ThreadLocal),
            elf::PT_LOAD if program.p_memsz(endian) > 0 => loads.push(check_load(program, bytes)?),
            _ => {}
        }
    }
    if loads.is_empty() { Err(ElfError::Empty) } else { Ok(loads) }
}

fn check_load<'a>(program: &ProgramHeader64<Endianness>, bytes: &'a [u8]) -> Result<Load<'a>, ElfError> {
    let endian = Endianness::Little;
    let start = program.p_vaddr(endian);
    let end = start.saturating_add(program.p_memsz(endian));
    let flags = program.p_flags(endian) & (PF_R | PF_W | PF_X);
    let rights = match flags {
        f if f & PF_W != 0 && f & PF_X != 0 => return Err(ElfError::WritableExecutable { address: start }),
        f if f == PF_R => Rights::Read,
        f if f == PF_R | PF_W => Rights::ReadWrite,
        f if f == PF_R | PF_X => Rights::ReadExecute,
        flags => return Err(ElfError::BadRights { address: start, flags }),
    };
    if start < IMAGE_BASE {
        return Err(ElfError::BelowBase { address: start });
    }
    if end > IMAGE_LIMIT {
        return Err(ElfError::TooLarge { end });
    }
    let content = program.data(endian, bytes).ok().filter(|c| c.len() as u64 <= end - start);
    let content = content.ok_or_else(|| ElfError::Truncated { what: format!("segment {start:#x}") })?;
    Ok(Load { start, end, rights, content })
}

fn check_sections(header: &Header, bytes: &[u8]) -> Result<(), ElfError> {
    let endian = Endianness::Little;
    let sections =
        header.sections(endian, bytes).map_err(|_| ElfError::Truncated { what: "the table of sections".into() })?;
    for section in sections.iter() {
        let has = section.sh_size(endian) > 0;
        if has && matches!(section.sh_type(endian), elf::SHT_REL | elf::SHT_RELA | elf::SHT_RELR | elf::SHT_DYNAMIC) {
            let name = sections.section_name(endian, section).unwrap_or(b"?");
            let name = String::from_utf8_lossy(name);
            return Err(ElfError::NeedsLoader { part: format!("the relocation section {name}") });
        }
    }
    Ok(())
}

/// Turns segments into runs of whole pages, in ascending order. Segments with the same rights may share a page.
fn merge(mut loads: Vec<Load<'_>>) -> Result<Vec<Segment>, ElfError> {
    loads.sort_by_key(|load| load.start);
    let mut runs: Vec<Segment> = Vec::new();
    let mut free_from = 0;
    for load in loads {
        if load.start < free_from {
            return Err(ElfError::Overlap { address: load.start });
        }
        free_from = load.end;
        let first_page = to_page(page_of(load.start));
        let end_page = to_page(load.end.div_ceil(PAGE_SIZE as u64));
        let page_address = u64::from(first_page) * PAGE_SIZE as u64;
        let shares_page = runs.last().is_some_and(|run| run.first_page + run.nr_pages > first_page);
        if !shares_page {
            let nr_pages = end_page - first_page;
            runs.push(Segment { first_page, nr_pages, rights: load.rights, content: Vec::new() });
        }
        let Some(run) = runs.last_mut() else { continue };
        if run.rights != load.rights {
            return Err(ElfError::SharedPage { address: page_address });
        }
        run.nr_pages = end_page - run.first_page;
        let at = usize::try_from(load.start - u64::from(run.first_page) * PAGE_SIZE as u64).unwrap_or(usize::MAX);
        run.content.resize(at, 0);
        run.content.extend_from_slice(load.content);
    }
    Ok(runs)
}

/// Addresses have been checked to lie below `IMAGE_LIMIT`.
fn to_page(page: u64) -> u32 {
    u32::try_from(page).unwrap_or(u32::MAX)
}
