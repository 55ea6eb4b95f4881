//! Files that are programs, and files that are not.

use super::*;
use libos::virtual_isa::PAGE_SIZE;

/// A loaded segment of a file to be.
#[derive(Clone, Debug)]
pub struct Load {
    /// `p_type`.
    pub kind: u32,
    /// `p_flags`.
    pub flags: u32,
    /// `p_vaddr`.
    pub address: u64,
    /// What is in the file.
    pub content: Vec<u8>,
    /// `p_memsz`.
    pub memory_bytes: u64,
}

/// A segment to be loaded.
pub fn load(flags: u32, address: u64, content: &[u8], memory_bytes: u64) -> Load {
    Load { kind: elf::PT_LOAD, flags, address, content: content.to_vec(), memory_bytes }
}

/// A file, at the start of a page, with its segments' contents where their addresses want them.
pub fn file(kind: u16, entry: u64, loads: &[Load]) -> &'static [u8] {
    let mut bytes = Vec::from([0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(kind.to_le_bytes());
    bytes.extend(elf::EM_X86_64.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    for word in [entry, 64, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(0u32.to_le_bytes());
    let nr_loads = u16::try_from(loads.len()).unwrap();
    for half in [64, 56, nr_loads, 64, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    let mut end = bytes.len() + loads.len() * 56;
    let mut body = Vec::new();
    for load in loads {
        let place = usize::try_from(load.address % PAGE).unwrap();
        let offset = end.next_multiple_of(PAGE_SIZE) + place;
        bytes.extend(load.kind.to_le_bytes());
        bytes.extend(load.flags.to_le_bytes());
        let length = load.content.len() as u64;
        for word in [offset as u64, load.address, load.address, length, load.memory_bytes, PAGE] {
            bytes.extend(word.to_le_bytes());
        }
        end = offset + load.content.len();
        body.push((offset, &load.content));
    }
    for (offset, content) in body {
        bytes.resize(offset, 0);
        bytes.extend(content);
    }
    bytes.resize(bytes.len().next_multiple_of(PAGE_SIZE), 0);
    aligned(&bytes)
}

/// The bytes at the start of a page, for ever.
fn aligned(bytes: &[u8]) -> &'static [u8] {
    let place: &'static mut [u8] = vec![0; bytes.len() + PAGE_SIZE].leak();
    let first = place.as_ptr().align_offset(PAGE_SIZE);
    let place = &mut place[first..first + bytes.len()];
    place.copy_from_slice(bytes);
    place
}

const BASE: u64 = PROGRAM_BASE;

fn good() -> Vec<Load> {
    Vec::from([
        load(PF_R | PF_X, BASE, &[0x90; 100], 100),
        load(PF_R, BASE + PAGE, &[1; 5000], 5000),
        load(PF_R | PF_W, BASE + 3 * PAGE + 8, &[2; 10], 9000),
    ])
}

fn refused(loads: &[Load]) -> ElfError {
    read(file(elf::ET_EXEC, BASE, loads)).unwrap_err()
}

/// The good file with one thing changed.
fn but(change: impl Fn(&mut Vec<Load>)) -> ElfError {
    let mut loads = good();
    change(&mut loads);
    refused(&loads)
}

#[test]
fn a_program_is_its_segments_and_what_is_not_written_is_mapped_in_place() {
    let program = read(file(elf::ET_EXEC, BASE + 99, &good())).unwrap();
    assert_eq!(program.entry, BASE + 99);
    let first = BASE / PAGE;
    let shape: Vec<_> =
        program.segments.iter().map(|s| (s.pages.clone(), s.rights, s.in_place.map(<[u8]>::len))).collect();
    let (read, write, execute) = (Rights::READ | Rights::USER, Rights::WRITE, Rights::EXECUTE);
    assert_eq!(
        shape,
        [
            (first..first + 1, read | execute, Some(PAGE_SIZE)),
            (first + 1..first + 3, read, Some(2 * PAGE_SIZE)),
            (first + 3..first + 6, read | write, None),
        ]
    );
    assert_eq!(program.segments[0].in_place.unwrap()[..100], [0x90; 100]);
    assert_eq!((program.segments[2].start, program.segments[2].content), (BASE + 3 * PAGE + 8, &[2; 10][..]));
}

#[test]
fn what_cannot_be_mapped_in_place_is_copied() {
    // Zeros behind the content; and a file that is not at the start of a page.
    let zeros = read(file(elf::ET_EXEC, BASE, &[load(PF_R | PF_X, BASE, &[0x90; 100], 200)])).unwrap();
    assert_eq!(zeros.segments[0].in_place, None);
    let bytes = file(elf::ET_EXEC, BASE, &good());
    let moved: &'static mut [u8] = vec![0; bytes.len() + 2 * PAGE_SIZE].leak();
    let first = moved.as_ptr().align_offset(PAGE_SIZE) + 16;
    moved[first..first + bytes.len()].copy_from_slice(bytes);
    let program = read(&moved[first..first + bytes.len()]).unwrap();
    assert!(program.segments.iter().all(|segment| segment.in_place.is_none()));
}

#[test]
fn what_is_no_program_is_refused() {
    let bytes = file(elf::ET_EXEC, BASE, &good());
    for length in [0, 3, 16, 63, 64, 100] {
        assert_eq!(read(&bytes[..length]), Err(ElfError::NotElf), "{length} bytes");
    }
    assert_eq!(read(&bytes[..PAGE_SIZE + 50]), Err(ElfError::NotElf), "the content is cut");
    assert_eq!(read(aligned(&[0; 4096])), Err(ElfError::NotElf));
    for (at, byte) in [(4, 1), (5, 2), (18, 3)] {
        let mut other = bytes.to_vec();
        other[at] = byte;
        assert_eq!(read(aligned(&other)), Err(ElfError::NotElf), "byte {at}");
    }
    assert_eq!(read(file(elf::ET_DYN, BASE, &good())), Err(ElfError::NotFixed));
    assert_eq!(but(|loads| loads[1].kind = elf::PT_INTERP), ElfError::NeedsLoader);
    assert_eq!(but(|loads| loads[1].kind = elf::PT_DYNAMIC), ElfError::NeedsLoader);
    assert_eq!(but(|loads| loads[1].kind = elf::PT_TLS), ElfError::NeedsLoader);
}

#[test]
fn segments_that_cannot_be_are_refused() {
    assert_eq!(refused(&[]), ElfError::BadCount);
    let many: Vec<_> = (0..9).map(|n| load(PF_R | PF_X, BASE + n * PAGE, &[0x90], 1)).collect();
    assert_eq!(refused(&many), ElfError::BadCount);
    assert!(read(file(elf::ET_EXEC, BASE, &many[..MAX_SEGMENTS])).is_ok());
    for address in [0, 0x2_0000, BASE - 1, PROGRAM_LIMIT, u64::MAX - 50, 1 << 63] {
        assert_eq!(but(|loads| loads[0].address = address), ElfError::BadRange { address }, "{address:#x}");
    }
    let start = BASE + 3 * PAGE + 8;
    for memory_bytes in [u64::MAX, u64::MAX - start, PROGRAM_LIMIT - start + 1, 9] {
        assert_eq!(but(|loads| loads[2].memory_bytes = memory_bytes), ElfError::BadRange { address: start });
    }
    for flags in [0, PF_W, PF_X, PF_R | PF_W | PF_X, PF_W | PF_X] {
        assert_eq!(but(|loads| loads[1].flags = flags), ElfError::BadRights { address: BASE + PAGE }, "{flags}");
    }
    assert_eq!(but(|loads| loads[1].address = BASE + 100), ElfError::Overlap { address: BASE + 100 });
    assert_eq!(but(|loads| loads.swap(0, 1)), ElfError::Overlap { address: BASE });
    for entry in [0, BASE - 1, BASE + PAGE, u64::MAX] {
        assert_eq!(read(file(elf::ET_EXEC, entry, &good())), Err(ElfError::BadEntry), "{entry:#x}");
    }
}
