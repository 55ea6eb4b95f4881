//! The software-loaded TLB: entries, and what they are found by.
//!
//! A VM that wants protection domains of its own loads entries, each of which says what one virtual page of one
//! address space is, and enters contexts ([`crate::context`]) in these spaces. A space is named by its *asid*. Entries
//! are a cache that the guest fills: any of them may be gone at any time, and never says anything else than what was
//! loaded.
//!
//! An entry is two words, little-endian:
//!
//! | bits | first word ([`Key`]) | second word |
//! |---|---|---|
//! | 0..12 | asid | rights ([`Rights`]) |
//! | 12..44 | virtual page | physical page |
//! | 44..64 | zero | zero |

use crate::PAGE_SIZE;
use crate::exception::Access;
use crate::instruction::InstructionError;
use crate::limits::MAX_ASIDS;
use bitflags::bitflags;

/// Bytes of an entry in memory.
pub const ENTRY_BYTES: usize = 16;

/// Pages of an address space: virtual addresses are below this many pages, which is 2^44 bytes.
pub const VIRTUAL_PAGES: u64 = 1 << 32;

/// The asid that stands for all of them in `tlb_invalidate`. It is none itself: the VM's own context runs in its
/// physical memory.
pub const EVERY_ASID: u16 = 0;

bitflags! {
    /// What an entry allows.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct Rights: u64 {
        /// Loads. Every entry allows them.
        const READ = 1 << 0;
        /// Stores. Not together with `EXECUTE`.
        const WRITE = 1 << 1;
        /// Instruction fetches.
        const EXECUTE = 1 << 2;
        /// For contexts at user right too. Without it the entry is for those at kernel right alone.
        const USER = 1 << 3;
    }
}

impl Rights {
    /// Whether this says something that an entry can say.
    #[must_use]
    pub const fn is_valid(self) -> bool {
        self.contains(Self::READ) && !self.contains(Self::WRITE.union(Self::EXECUTE))
    }

    /// Whether an access is allowed, to whoever may use the entry at all.
    #[must_use]
    pub const fn allow(self, access: Access) -> bool {
        self.contains(match access {
            Access::Read => Self::READ,
            Access::Write => Self::WRITE,
            Access::Execute => Self::EXECUTE,
        })
    }
}

/// At which right a context runs in its space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Right {
    /// It sees entries with [`Rights::USER`]. Its virtual instructions end it, for the guest kernel to see to.
    User = 0,
    /// It sees all entries of its asid. Its virtual instructions are performed.
    Kernel = 1,
}

impl TryFrom<u64> for Right {
    type Error = InstructionError;

    fn try_from(word: u64) -> Result<Self, InstructionError> {
        match word {
            0 => Ok(Self::User),
            1 => Ok(Self::Kernel),
            _ => Err(InstructionError::BadArgument),
        }
    }
}

/// A virtual page of an address space.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The space, 1 to [`MAX_ASIDS`]; or [`EVERY_ASID`] where that has a meaning.
    pub asid: u16,
    /// The page's number.
    pub page: u32,
}

/// Bits of a word below the page's number.
const LOW: u64 = PAGE_SIZE as u64 - 1;

/// The page's number in a word; `None` if it is beyond what an address space has.
const fn page_of(word: u64) -> Option<u32> {
    let page = word / PAGE_SIZE as u64;
    #[expect(clippy::cast_possible_truncation, reason = "checked")]
    if page < VIRTUAL_PAGES { Some(page as u32) } else { None }
}

impl Key {
    /// The word for it.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        (self.page as u64 * PAGE_SIZE as u64) | (self.asid as u64 & LOW)
    }

    /// Reads a word whose asid may be [`EVERY_ASID`].
    ///
    /// # Errors
    /// `BadArgument` for an asid there is not, or a page that no address space has.
    pub fn from_word(word: u64) -> Result<Self, InstructionError> {
        let asid = u16::try_from(word & LOW).map_err(|_| InstructionError::BadArgument)?;
        let page = page_of(word).ok_or(InstructionError::BadArgument)?;
        if asid <= MAX_ASIDS { Ok(Self { asid, page }) } else { Err(InstructionError::BadArgument) }
    }
}

/// An asid that contexts and entries can have.
///
/// # Errors
/// `BadArgument` for any other number.
pub fn asid_of(word: u64) -> Result<u16, InstructionError> {
    let asid = u16::try_from(word).map_err(|_| InstructionError::BadArgument)?;
    if (1..=MAX_ASIDS).contains(&asid) { Ok(asid) } else { Err(InstructionError::BadArgument) }
}

/// An entry: what a virtual page of an address space is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which page of which space. Page 0 of a space is never mapped.
    pub key: Key,
    /// The physical page behind it.
    pub physical: u32,
    /// What it allows.
    pub rights: Rights,
}

impl Entry {
    /// The two words for it.
    #[must_use]
    pub const fn to_words(self) -> [u64; 2] {
        [self.key.to_word(), (self.physical as u64 * PAGE_SIZE as u64) | self.rights.bits()]
    }

    /// Reads two words. Whether the VM has the physical page is not known here.
    ///
    /// # Errors
    /// `BadArgument` for an asid there is not, virtual page 0 or one that no address space has, rights that cannot be
    /// or undefined ones; `BadAddress` for a physical page that no VM can have.
    pub fn from_words([key, target]: [u64; 2]) -> Result<Self, InstructionError> {
        let key = Key::from_word(key)?;
        let rights = Rights::from_bits(target & LOW).filter(|rights| rights.is_valid());
        let rights = rights.ok_or(InstructionError::BadArgument)?;
        if key.asid == EVERY_ASID || key.page == 0 {
            return Err(InstructionError::BadArgument);
        }
        let physical = page_of(target).ok_or(InstructionError::BadAddress)?;
        Ok(Self { key, physical, rights })
    }

    /// The bytes of it in memory.
    #[must_use]
    pub fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let [key, target] = self.to_words();
        (u128::from(target) << 64 | u128::from(key)).to_le_bytes()
    }

    /// Reads the bytes of one.
    ///
    /// # Errors
    /// As [`Entry::from_words`].
    pub fn from_bytes(bytes: [u8; ENTRY_BYTES]) -> Result<Self, InstructionError> {
        let words = u128::from_le_bytes(bytes);
        #[expect(clippy::cast_possible_truncation, reason = "the two halves")]
        Self::from_words([words as u64, (words >> 64) as u64])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = Entry> {
        let rights = prop_oneof![Just(1), Just(3), Just(5), Just(9), Just(11), Just(13)];
        (1..=MAX_ASIDS, 1u32.., any::<u32>(), rights).prop_map(|(asid, page, physical, rights)| Entry {
            key: Key { asid, page },
            physical,
            rights: Rights::from_bits_retain(rights),
        })
    }

    proptest! {
        #[test]
        fn entries_read_back_as_themselves(entry in entry()) {
            prop_assert_eq!(Entry::from_words(entry.to_words()), Ok(entry));
            prop_assert_eq!(Entry::from_bytes(entry.to_bytes()), Ok(entry));
        }

        #[test]
        fn any_words_are_an_entry_that_says_the_same_or_are_refused(key: u64, target: u64) {
            if let Ok(entry) = Entry::from_words([key, target]) {
                prop_assert_eq!(entry.to_words(), [key, target]);
                prop_assert!(entry.rights.is_valid());
            }
        }

        #[test]
        fn any_word_is_a_key_that_says_the_same_or_is_refused(word: u64) {
            if let Ok(key) = Key::from_word(word) {
                prop_assert_eq!(key.to_word(), word);
            }
        }
    }

    #[test]
    fn what_no_entry_can_say_is_refused() {
        let good = Entry { key: Key { asid: 1, page: 7 }, physical: 9, rights: Rights::READ | Rights::USER };
        let [key, target] = good.to_words();
        let bad = Err(InstructionError::BadArgument);
        assert_eq!(Entry::from_words([key, target]), Ok(good));
        assert_eq!(Entry::from_words([key & !LOW, target]), bad, "asid 0");
        assert_eq!(Entry::from_words([key + u64::from(MAX_ASIDS), target]), bad, "an asid too high");
        assert_eq!(Entry::from_words([1, target]), bad, "virtual page 0");
        assert_eq!(Entry::from_words([key + (1 << 44), target]), bad, "beyond an address space");
        assert_eq!(Entry::from_words([key + (1 << 47), target]), bad, "not canonical");
        assert_eq!(Entry::from_words([key + 0xffff_8000_0000_0000, target]), bad, "the kernel's half");
        assert_eq!(Entry::from_words([key, target | 6]), bad, "writable and executable");
        assert_eq!(Entry::from_words([key, target & !1]), bad, "not readable");
        assert_eq!(Entry::from_words([key, target | 16]), bad, "an undefined bit");
        assert_eq!(Entry::from_words([key, target + (1 << 44)]), Err(InstructionError::BadAddress));
    }
}
