//! Fake page tables. They take pages of the machine, as real ones do, so that making or filling them can fail.

use hal::{Mpn, Page, Ppn, Rights};

/// Entries of a table.
const ENTRIES: u32 = 512;

/// Tables above those that hold a VM's entries.
const UPPER_TABLES: usize = 3;

/// An address space, as the kernel holds it; the number tells spaces apart.
#[derive(Debug)]
pub struct Space {
    pub(crate) number: u64,
}

/// A mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub mpn: Mpn,
    pub rights: Rights,
    /// Whether the guest has used it.
    pub is_accessed: bool,
}

/// A lowest table: the entries of 512 neighbours.
struct Leaf {
    first: u32,
    table: Page,
    entries: Box<[Option<Entry>; ENTRIES as usize]>,
}

/// What an address space is made of.
pub(crate) struct Tables {
    upper: Vec<Page>,
    leaves: Vec<Leaf>,
}

/// Where the entry of a page stands: the first page of its table, and its index in that.
fn place(at: Ppn) -> (u32, usize) {
    (at.0 - at.0 % ENTRIES, (at.0 % ENTRIES) as usize)
}

impl Tables {
    /// An empty space, in pages that `allocate` gives; if it stops giving, those it gave come back.
    pub fn new(mut allocate: impl FnMut() -> Option<Page>) -> Result<Self, Vec<Page>> {
        let mut upper = Vec::new();
        while upper.len() < UPPER_TABLES {
            match allocate() {
                Some(page) => upper.push(page),
                None => return Err(upper),
            }
        }
        Ok(Self { upper, leaves: Vec::new() })
    }

    /// Whether there is a table for the entry of this page.
    pub fn has_table(&self, at: Ppn) -> bool {
        self.leaves.iter().any(|leaf| leaf.first == place(at).0)
    }

    /// Adds the table for the entry of this page.
    pub fn add_table(&mut self, at: Ppn, table: Page) {
        let entries = vec![None; ENTRIES as usize].try_into().expect("as many as it takes");
        self.leaves.push(Leaf { first: place(at).0, table, entries });
    }

    /// The entry of a page, to change, if there is a table for it.
    pub fn slot(&mut self, at: Ppn) -> Option<&mut Option<Entry>> {
        let (first, index) = place(at);
        self.leaves.iter_mut().find(|leaf| leaf.first == first).map(|leaf| &mut leaf.entries[index])
    }

    /// Pages they take.
    pub fn count(&self) -> usize {
        self.upper.len() + self.leaves.len()
    }

    /// Takes them apart: what is mapped, and the pages of the tables.
    pub fn into_parts(self) -> (Vec<Mpn>, Vec<Page>) {
        let mut pages = self.upper;
        let mut mapped = Vec::new();
        for leaf in self.leaves {
            mapped.extend(leaf.entries.iter().flatten().map(|entry| entry.mpn));
            pages.push(leaf.table);
        }
        (mapped, pages)
    }
}
