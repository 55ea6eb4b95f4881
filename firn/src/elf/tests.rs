use super::craft::{Elf, good, load};
use super::*;
use object::elf::{PT_DYNAMIC, PT_INTERP, PT_TLS, SHT_RELA};
use proptest::prelude::*;

/// The error for a good file with one thing changed.
fn refused(change: impl FnOnce(&mut Elf)) -> ElfError {
    let mut elf = good();
    change(&mut elf);
    read(&elf.bytes()).unwrap_err()
}

#[test]
fn a_good_file_becomes_runs_of_pages() {
    let guest = read(&good().bytes()).unwrap();
    assert_eq!(guest.entry, 0x20_010);
    let shape: Vec<_> = guest.segments.iter().map(|s| (s.first_page, s.nr_pages, s.rights, s.content.len())).collect();
    assert_eq!(
        shape,
        [(0x20, 1, Rights::ReadExecute, 0x800), (0x21, 1, Rights::Read, 9), (0x22, 5, Rights::ReadWrite, 0x1004)]
    );
}

#[test]
fn files_cut_anywhere_are_refused() {
    let whole = good().bytes();
    assert_eq!(read(b"#!/bin/sh\n"), Err(ElfError::NotElf));
    assert_eq!(read(b""), Err(ElfError::NotElf));
    for cut in (4..whole.len()).step_by(7) {
        assert!(matches!(read(&whole[..cut]), Err(ElfError::Truncated { .. })), "cut at {cut}");
    }
    let text = refused(|elf| elf.programs[0].memory_bytes = 0x10);
    assert_eq!(text, ElfError::Truncated { what: "segment 0x20000".into() });
}

#[test]
fn files_for_other_machines_are_refused() {
    assert!(matches!(refused(|elf| elf.class = 1), ElfError::WrongMachine { .. }));
    assert!(matches!(refused(|elf| elf.order = 2), ElfError::WrongMachine { .. }));
    assert_eq!(refused(|elf| elf.machine = 183), ElfError::WrongMachine { found: "machine 183".into() });
}

#[test]
fn dynamic_and_relocated_files_are_refused() {
    for kind in [1, 3, 4] {
        assert!(matches!(refused(|elf| elf.kind = kind), ElfError::NotFixed { .. }), "type {kind}");
    }
    for kind in [PT_INTERP, PT_DYNAMIC] {
        let error = refused(|elf| elf.programs[1].kind = kind);
        assert!(matches!(error, ElfError::NeedsLoader { .. }), "{error}");
    }
    let error = refused(|elf| elf.sections.push((".rela.dyn", SHT_RELA, vec![0; 24])));
    assert_eq!(error, ElfError::NeedsLoader { part: "the relocation section .rela.dyn".into() });
    let mut empty = good();
    empty.sections.push((".rela.dyn", SHT_RELA, Vec::new()));
    assert!(read(&empty.bytes()).is_ok());
}

#[test]
fn thread_local_storage_is_refused() {
    assert_eq!(refused(|elf| elf.programs[1].kind = PT_TLS), ElfError::ThreadLocal);
}

#[test]
fn overlapping_segments_are_refused() {
    let error = refused(|elf| elf.programs[2].address = 0x21_008);
    assert_eq!(error, ElfError::Overlap { address: 0x21_008 });
    let error = refused(|elf| elf.programs.push(load(5, 0x20_000, &[0], 1)));
    assert_eq!(error, ElfError::Overlap { address: 0x20_000 });
}

#[test]
fn rights_are_those_an_image_can_give() {
    assert_eq!(refused(|elf| elf.programs[0].flags = 7), ElfError::WritableExecutable { address: 0x20_000 });
    assert_eq!(refused(|elf| elf.programs[0].flags = 3), ElfError::WritableExecutable { address: 0x20_000 });
    for flags in [0, 1, 2] {
        assert_eq!(refused(|elf| elf.programs[1].flags = flags), ElfError::BadRights { address: 0x21_000, flags });
    }
}

#[test]
fn segments_outside_the_range_are_refused() {
    assert_eq!(refused(|elf| elf.programs[0].address = 0x1f_000), ElfError::BelowBase { address: 0x1f_000 });
    let error = refused(|elf| elf.programs[2].memory_bytes = IMAGE_LIMIT - 0x22_000 + 1);
    assert_eq!(error, ElfError::TooLarge { end: IMAGE_LIMIT + 1 });
    let error = refused(|elf| elf.programs[2].memory_bytes = u64::MAX);
    assert_eq!(error, ElfError::TooLarge { end: u64::MAX });
    let mut largest = good();
    largest.programs[2].memory_bytes = IMAGE_LIMIT - 0x22_000;
    assert!(read(&largest.bytes()).is_ok());
}

#[test]
fn a_page_has_one_set_of_rights() {
    let error = refused(|elf| elf.programs[1].address = 0x20_900);
    assert_eq!(error, ElfError::SharedPage { address: 0x20_000 });
    let mut same = good();
    same.programs[1] = load(5, 0x20_900, b"more", 4);
    let guest = read(&same.bytes()).unwrap();
    assert_eq!(guest.segments.len(), 2);
    assert_eq!(&guest.segments[0].content[0x900..], b"more");
    assert_eq!(guest.segments[0].content[0x8ff], 0);
}

#[test]
fn the_entry_is_in_the_text() {
    for entry in [0, 0x1f_fff, 0x21_000, 0x22_000, u64::MAX] {
        assert_eq!(refused(|elf| elf.entry = entry), ElfError::BadEntry { entry });
    }
}

#[test]
fn runs_are_counted() {
    let error = refused(|elf| {
        for n in 0..20 {
            elf.programs.push(load(4, 0x40_000 + n * 0x2000, b"x", 1));
        }
    });
    assert_eq!(error, ElfError::TooManyRuns { found: 23 });
    assert_eq!(refused(|elf| elf.programs.clear()), ElfError::Empty);
}

#[test]
fn each_message_has_a_remedy() {
    for error in [ElfError::NotElf, ElfError::ThreadLocal, ElfError::Empty, ElfError::BadEntry { entry: 1 }] {
        assert!(!error.remedy().is_empty() && !error.to_string().is_empty());
    }
}

proptest! {
    #[test]
    fn what_is_accepted_becomes_a_good_image(
        edits in proptest::collection::vec((0usize..64 + 3 * 56, any::<u8>()), 0..4),
        length in 0usize..0x3000,
    ) {
        let mut bytes = good().bytes();
        for (at, value) in edits {
            bytes[at] = value;
        }
        bytes.truncate(length);
        if let Ok(guest) = read(&bytes) {
            let image = crate::image::encode(&guest);
            prop_assert!(image.is_ok(), "{image:?} of {guest:?}");
        }
    }
}
