//! Fake page tables. They take pages of the machine, as real ones do, so that making or filling them can fail.

use crate::pages::Family;
use hal::{LEAF_PAGES as ENTRIES, Mpn, Page, Ppn, Rights};

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

/// The entries of a lowest table.
pub(crate) type Entries = Box<[Option<Entry>; ENTRIES as usize]>;

/// No entries.
pub(crate) fn no_entries() -> Entries {
    vec![None; ENTRIES as usize].try_into().expect("as many as it takes")
}

/// A lowest table: the entries of 512 neighbours.
struct Leaf {
    first: u32,
    /// `None` if it is shared: then these entries are as they are for all.
    table: Option<Page>,
    entries: Entries,
}

/// What an address space is made of.
pub(crate) struct Tables {
    /// The spaces of the same VM have the same.
    pub family: Family,
    upper: Vec<Page>,
    leaves: Vec<Leaf>,
}

/// Where the entry of a page stands: the first page of its table, and its index in that.
pub(crate) fn place(at: Ppn) -> (u32, usize) {
    (at.0 - at.0 % ENTRIES, (at.0 % ENTRIES) as usize)
}

impl Tables {
    /// An empty space, in pages that `allocate` gives; if it stops giving, those it gave come back.
    pub fn new(family: Family, mut allocate: impl FnMut() -> Option<Page>) -> Result<Self, Vec<Page>> {
        let mut upper = Vec::new();
        while upper.len() < UPPER_TABLES {
            match allocate() {
                Some(page) => upper.push(page),
                None => return Err(upper),
            }
        }
        Ok(Self { family, upper, leaves: Vec::new() })
    }

    fn leaf(&mut self, at: Ppn) -> Option<&mut Leaf> {
        self.leaves.iter_mut().find(|leaf| leaf.first == place(at).0)
    }

    /// Whether there is a table for the entry of this page, of its own or shared.
    pub fn has_table(&mut self, at: Ppn) -> bool {
        self.leaf(at).is_some()
    }

    /// Whether there is a table for the entry of this page that may be changed.
    pub fn has_own_table(&mut self, at: Ppn) -> bool {
        self.leaf(at).is_some_and(|leaf| leaf.table.is_some())
    }

    /// Adds the table for the entry of this page, or makes the one that was shared its own.
    pub fn add_table(&mut self, at: Ppn, table: Page) {
        match self.leaf(at) {
            Some(leaf) => leaf.table = Some(table),
            None => self.leaves.push(Leaf { first: place(at).0, table: Some(table), entries: no_entries() }),
        }
    }

    /// Adds a table that is shared.
    pub fn share(&mut self, at: Ppn, entries: Entries) {
        self.leaves.push(Leaf { first: place(at).0, table: None, entries });
    }

    /// Drops a table that is shared. Returns what was mapped by it.
    pub fn drop_shared(&mut self, at: Ppn) -> Vec<Entry> {
        let Some(index) = self.leaves.iter().position(|leaf| leaf.first == place(at).0) else { return Vec::new() };
        self.leaves.remove(index).entries.iter().flatten().copied().collect()
    }

    /// The entry of a page, to change, if there is a table for it.
    pub fn slot(&mut self, at: Ppn) -> Option<&mut Option<Entry>> {
        self.leaf(at).map(|leaf| &mut leaf.entries[place(at).1])
    }

    /// Pages they take.
    pub fn count(&self) -> usize {
        self.upper.len() + self.leaves.iter().filter(|leaf| leaf.table.is_some()).count()
    }

    /// Takes them apart: what is mapped, and the pages of the tables.
    pub fn into_parts(self) -> (Vec<Entry>, Vec<Page>) {
        let mut pages = self.upper;
        let mut mapped = Vec::new();
        for leaf in self.leaves {
            mapped.extend(leaf.entries.iter().flatten().copied());
            pages.extend(leaf.table);
        }
        (mapped, pages)
    }
}
