//! Bits of page table entries. Pure.

use hal::Rights;

/// The entry is valid.
pub const PRESENT: u64 = 1;
/// Stores are allowed.
pub const WRITE: u64 = 1 << 1;
/// User mode may use it.
pub const USER: u64 = 1 << 2;
/// Not cached (PCD and PWT): device registers.
pub const NO_CACHE: u64 = 1 << 3 | 1 << 4;
/// The page has been used.
pub const ACCESSED: u64 = 1 << 5;
/// The page has been written.
pub const DIRTY: u64 = 1 << 6;
/// In a table of level 2 or 3: a page, not a table.
pub const LARGE: u64 = 1 << 7;
/// The same in all spaces: stays cached when another is loaded.
pub const GLOBAL: u64 = 1 << 8;
/// Ours, in a table of level 2: the table below belongs to a template and is never changed.
pub const SHARED: u64 = 1 << 9;
/// No instruction may be fetched from it.
pub const NO_EXECUTE: u64 = 1 << 63;
/// The physical address.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Bytes that an entry of a level maps, level 1 being the lowest.
#[must_use]
pub const fn size_of_level(level: u32) -> u64 {
    1 << (12 + 9 * (level - 1))
}

/// The bits for a guest's page. Dirty is set from the start, so that the processor need not write the entry for
/// that; accessed is not, as it is what tells whether the guest uses the page.
#[must_use]
pub const fn guest_bits(rights: Rights) -> u64 {
    let base = PRESENT | USER | DIRTY;
    match rights {
        Rights::Read => base | NO_EXECUTE,
        Rights::ReadWrite => base | WRITE | NO_EXECUTE,
        Rights::ReadExecute => base,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_rights_are_writable_and_executable_at_once() {
        for rights in [Rights::Read, Rights::ReadWrite, Rights::ReadExecute] {
            let bits = guest_bits(rights);
            assert_eq!(bits & (PRESENT | USER), PRESENT | USER);
            assert!(bits & WRITE == 0 || bits & NO_EXECUTE != 0);
            assert_eq!(bits & (GLOBAL | LARGE | ADDRESS | NO_CACHE), 0);
            assert_eq!(bits & (ACCESSED | DIRTY), DIRTY, "nobody has used it yet");
        }
        assert_ne!(guest_bits(Rights::ReadWrite) & WRITE, 0);
        assert_eq!(guest_bits(Rights::ReadExecute) & (WRITE | NO_EXECUTE), 0);
        assert_eq!(guest_bits(Rights::Read) & WRITE, 0);
        assert_ne!(guest_bits(Rights::Read) & NO_EXECUTE, 0);
    }

    #[test]
    fn levels_map_what_the_manuals_say() {
        assert_eq!(size_of_level(1), 4096);
        assert_eq!(size_of_level(2), 2 << 20);
        assert_eq!(size_of_level(3), 1 << 30);
        assert_eq!(size_of_level(4), 512 << 30);
    }
}
