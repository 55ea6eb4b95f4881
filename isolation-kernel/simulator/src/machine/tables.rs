//! The fake machine's page tables, as the kernel makes and changes them.

use super::Machine;
use crate::pages::{Family, NO_FAMILY};
use crate::spaces::{Entry, Space, Tables, no_entries, place};
use hal::{LEAF_PAGES, Leaf, Mpn, NoMemory, Ppn, Rights, Spaces};

impl Machine {
    /// Makes sure that a space has a table of its own for the entry of a page.
    fn own_table(&mut self, space: &Space, at: Ppn) -> Result<(), NoMemory> {
        let has_it = self.spaces.get_mut(&space.number).expect("the space exists").has_own_table(at);
        if !has_it {
            let table = self.allocate_page().ok_or(NoMemory)?;
            self.spaces.get_mut(&space.number).expect("the space exists").add_table(at, table);
        }
        Ok(())
    }
}

impl Machine {
    /// Adds an empty space.
    fn add_space(&mut self, family: Family) -> Result<Space, NoMemory> {
        let tables = Tables::new(family, || self.allocate_page());
        let tables = tables.map_err(|pages| {
            for page in pages {
                self.memory.give(page);
            }
            NoMemory
        })?;
        let number = self.next_space;
        self.next_space += 1;
        self.spaces.insert(number, tables);
        Ok(Space { number })
    }
}

impl Spaces for Machine {
    type Space = Space;

    fn create_space(&mut self) -> Result<Space, NoMemory> {
        let family = self.next_space;
        self.add_space(family)
    }

    fn create_space_beside(&mut self, other: &Space) -> Result<Space, NoMemory> {
        let family = self.spaces[&other.number].family;
        self.add_space(family)
    }

    fn create_leaf(&mut self, at: Ppn) -> Result<Leaf, NoMemory> {
        let table = self.allocate_page().ok_or(NoMemory)?;
        self.leaves.insert(table.mpn(), no_entries());
        Ok(Leaf { first: Ppn(at.0 - at.0 % LEAF_PAGES), table })
    }

    fn fill_leaf(&mut self, leaf: &mut Leaf, at: Ppn, to: Mpn, rights: Rights) {
        let (first, index) = place(at);
        assert_eq!(first, leaf.first.0, "page {:#x} is in another table", at.0);
        assert_ne!(rights, Rights::ReadWrite, "a shared page that can be written");
        let entries = self.leaves.get_mut(&leaf.table.mpn()).expect("the table was made");
        entries[index] = Some(Entry { mpn: to, rights, is_accessed: true });
        self.memory.note_mapped(to, rights, NO_FAMILY);
    }

    fn share_leaf(&mut self, space: &mut Space, leaf: &Leaf) -> Result<bool, NoMemory> {
        let tables = self.spaces.get_mut(&space.number).expect("the space exists");
        if tables.has_table(leaf.first) {
            return Ok(false);
        }
        let entries = self.leaves[&leaf.table.mpn()].clone();
        for entry in entries.iter().flatten() {
            self.memory.note_mapped(entry.mpn, entry.rights, tables.family);
        }
        tables.share(leaf.first, entries);
        Ok(true)
    }

    fn map(&mut self, space: &mut Space, at: Ppn, to: Mpn, rights: Rights) -> Result<(), NoMemory> {
        self.own_table(space, at)?;
        let tables = self.spaces.get_mut(&space.number).expect("the space exists");
        let family = tables.family;
        let slot = tables.slot(at).expect("its table is there");
        if let Some(before) = slot.take() {
            self.memory.note_unmapped(before.mpn, before.rights, family);
        }
        *slot = Some(Entry { mpn: to, rights, is_accessed: false });
        self.memory.note_mapped(to, rights, family);
        Ok(())
    }

    fn unmap(&mut self, space: &mut Space, at: Ppn) {
        let tables = self.spaces.get_mut(&space.number).expect("the space exists");
        if !tables.has_table(at) {
            return;
        }
        if self.own_table(space, at).is_err() {
            let tables = self.spaces.get_mut(&space.number).expect("the space exists");
            for entry in tables.drop_shared(at) {
                self.memory.note_unmapped(entry.mpn, entry.rights, tables.family);
            }
            return;
        }
        let tables = self.spaces.get_mut(&space.number).expect("the space exists");
        if let Some(entry) = tables.slot(at).and_then(Option::take) {
            self.memory.note_unmapped(entry.mpn, entry.rights, tables.family);
        }
    }

    fn take_accessed(&mut self, space: &mut Space, at: Ppn) -> bool {
        let tables = self.spaces.get_mut(&space.number).expect("the space exists");
        if !tables.has_own_table(at) {
            return false;
        }
        let entry = tables.slot(at).and_then(Option::as_mut);
        entry.is_some_and(|entry| std::mem::take(&mut entry.is_accessed))
    }

    fn destroy_space(&mut self, space: Space) {
        if self.current == Some(space.number) {
            self.current = None;
        }
        let tables = self.spaces.remove(&space.number).expect("the space exists");
        let family = tables.family;
        let (mapped, tables) = tables.into_parts();
        for entry in mapped {
            self.memory.note_unmapped(entry.mpn, entry.rights, family);
        }
        for page in tables {
            self.memory.give(page);
        }
    }

    fn table_pages(&self, space: &Space) -> u32 {
        u32::try_from(self.spaces[&space.number].count()).unwrap_or(u32::MAX)
    }
}
