//! Fake machine pages: whose each is, and its bytes.
//!
//! Strict: a page that is released twice, released while it is mapped, used after its release, used while it is
//! with the disk, or shared while one mapping allows writing, ends the test with a panic that says so.

use hal::{Mpn, PAGE_SIZE, Page, Rights};

/// What unused memory holds: anything, as after power-on.
const RUBBISH: u8 = 0xdb;

/// Who may use a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    Nobody,
    Kernel,
    Disk,
}

/// What is known of a page.
#[derive(Clone, Debug)]
struct Record {
    owner: Owner,
    /// Whose spaces map it: once for each mapping.
    mapped: Vec<Family>,
    /// Mappings that allow writing.
    writable: u32,
}

/// The spaces of one VM, as a number that tells them from others.
pub(crate) type Family = u64;

/// Tables that spaces of all families share.
pub(crate) const NO_FAMILY: Family = 0;

/// The machine's memory.
pub struct Memory {
    bytes: Vec<[u8; PAGE_SIZE]>,
    records: Vec<Record>,
    free: Vec<u32>,
}

impl Memory {
    /// So many pages, all free.
    #[must_use]
    pub fn new(nr_pages: u32) -> Self {
        let count = nr_pages as usize;
        Self {
            bytes: vec![[RUBBISH; PAGE_SIZE]; count],
            records: vec![Record { owner: Owner::Nobody, mapped: Vec::new(), writable: 0 }; count],
            free: (0..nr_pages).rev().collect(),
        }
    }

    /// Pages that are free.
    #[must_use]
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Pages there are.
    #[must_use]
    pub fn total(&self) -> usize {
        self.bytes.len()
    }

    /// Takes a page, all zero.
    pub(crate) fn take(&mut self) -> Option<Page> {
        let number = self.free.pop()?;
        self.records[number as usize].owner = Owner::Kernel;
        self.bytes[number as usize].fill(0);
        Some(Page::new(Mpn(number)))
    }

    /// Takes a page back.
    #[expect(clippy::needless_pass_by_value, reason = "the token ends here")]
    pub(crate) fn give(&mut self, page: Page) {
        let number = page.mpn().0;
        let record = &mut self.records[number as usize];
        assert_eq!(record.owner, Owner::Kernel, "page {number} is released, but it is not the kernel's");
        assert!(record.mapped.is_empty(), "page {number} is released while it is mapped");
        *record = Record { owner: Owner::Nobody, mapped: Vec::new(), writable: 0 };
        self.bytes[number as usize].fill(RUBBISH);
        self.free.push(number);
    }

    /// The bytes of a page that is the kernel's.
    pub(crate) fn page(&self, mpn: Mpn) -> &[u8; PAGE_SIZE] {
        self.check(mpn, "used");
        &self.bytes[mpn.0 as usize]
    }

    /// The bytes of a page that is the kernel's, to change.
    pub(crate) fn page_mut(&mut self, mpn: Mpn) -> &mut [u8; PAGE_SIZE] {
        self.check(mpn, "used");
        &mut self.bytes[mpn.0 as usize]
    }

    fn check(&self, mpn: Mpn, how: &str) {
        match self.records[mpn.0 as usize].owner {
            Owner::Kernel => {}
            Owner::Nobody => panic!("page {} is {how} after its release", mpn.0),
            Owner::Disk => panic!("page {} is {how} while it is with the disk", mpn.0),
        }
    }

    /// A page goes to the disk.
    pub(crate) fn lend(&mut self, mpn: Mpn) {
        self.check(mpn, "given to the disk");
        let record = &mut self.records[mpn.0 as usize];
        assert!(record.mapped.is_empty(), "page {} is given to the disk while it is mapped", mpn.0);
        record.owner = Owner::Disk;
    }

    /// A page comes back from the disk. Returns its bytes, for the disk to use them.
    pub(crate) fn end_loan(&mut self, mpn: Mpn) -> &mut [u8; PAGE_SIZE] {
        let record = &mut self.records[mpn.0 as usize];
        assert_eq!(record.owner, Owner::Disk, "page {} was not with the disk", mpn.0);
        record.owner = Owner::Kernel;
        &mut self.bytes[mpn.0 as usize]
    }

    /// A page is mapped once more. One that can be written is mapped by the spaces of one VM alone.
    pub(crate) fn note_mapped(&mut self, mpn: Mpn, rights: Rights, family: Family) {
        self.check(mpn, "mapped");
        let record = &mut self.records[mpn.0 as usize];
        record.mapped.push(family);
        record.writable += u32::from(rights == Rights::ReadWrite);
        let is_one = record.mapped.iter().all(|&other| other == family);
        assert!(record.writable == 0 || is_one, "page {} is shared while it can be written", mpn.0);
    }

    /// A mapping of a page is gone.
    pub(crate) fn note_unmapped(&mut self, mpn: Mpn, rights: Rights, family: Family) {
        let record = &mut self.records[mpn.0 as usize];
        let at = record.mapped.iter().rposition(|&other| other == family).expect("what is unmapped was mapped");
        record.mapped.swap_remove(at);
        record.writable -= u32::from(rights == Rights::ReadWrite);
    }
}
