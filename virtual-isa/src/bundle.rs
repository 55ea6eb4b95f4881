//! The boot bundle: everything a machine boots with, as one file.
//!
//! ```text
//! 0   magic        u64   "firnbndl"
//! 8   version      u32
//! 12  nr_entries   u32
//! 16  file_bytes   u64
//! 24  checksum     u32   CRC-32 of the entry table
//! 28  zero         u32
//! 32  entries      48 bytes each: kind u32, bytes u32, offset u64, name 32 bytes padded with zeros
//! ..  contents     at multiples of 4096
//! ```
//! The first image in it is the supervisor's. The kernel reads only the table and the machine entry; what the
//! plan means is between whoever wrote the bundle and the supervisor VM.

use crate::gate::{ClassTerms, ProcessorTerms};
use crate::limits::MAX_NAME_BYTES;
use crate::network::Network;
use core::fmt;
use serde::{Deserialize, Serialize};

/// "firnbndl", little-endian.
pub const BUNDLE_MAGIC: u64 = u64::from_le_bytes(*b"firnbndl");

/// Version of the bundle's encoding.
pub const BUNDLE_VERSION: u32 = 3;

/// Bytes before the entries.
pub const HEADER_BYTES: usize = 32;

/// Bytes of one entry.
pub const ENTRY_BYTES: usize = 48;

/// Most entries in a bundle.
pub const MAX_ENTRIES: u32 = 1024;

/// Exit status of the emulator when the machine powers off with a status, through the debug-exit device:
/// distinct from 0 (a triple fault) and from the emulator's own failures.
///
/// ```
/// assert_eq!(virtual_isa::bundle::exit_status(0), 33);
/// ```
#[must_use]
pub const fn exit_status(status: u8) -> u8 {
    (debug_exit_value(status) << 1) | 1
}

/// The value the kernel writes to the debug-exit device to power off with a status. Statuses above
/// [`MAX_STATUS`] count as that.
#[must_use]
pub const fn debug_exit_value(status: u8) -> u8 {
    0x10 + if status > MAX_STATUS { MAX_STATUS } else { status }
}

/// Highest status of a power-off.
pub const MAX_STATUS: u8 = 62;

/// The value the kernel writes to the debug-exit device when it panics; the emulator's exit status is 255.
pub const PANIC_VALUE: u8 = 0x7f;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum EntryKind {
    /// A guest image ([`crate::image`]).
    Image = 1,
    /// The launch plan, a postcard-encoded [`Plan`], for the supervisor.
    Plan = 2,
    /// A postcard-encoded [`MachinePlan`], for the kernel.
    Machine = 3,
}

/// What the kernel itself must know: addresses, randomness, the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachinePlan {
    /// The addresses.
    pub network: Network,
    /// Fresh random bytes of the host, mixed with the processor's.
    pub seed: [u8; 32],
    /// UTC when the bundle was written, in nanoseconds since 1970.
    pub written_ns: u64,
    /// Memory the supervisor VM gets, in pages.
    pub supervisor_pages: u32,
    /// Pages of the disk, from its beginning, that the kernel may use to swap; 0 for none.
    pub swap_pages: u64,
}

/// What the supervisor starts, one service after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan<'a> {
    /// Whether the machine powers off when the last VM of the plan has ended: with status 0 if all ended
    /// cleanly, else 1.
    pub power_off_when_done: bool,
    /// Number of groups: the entry holds this record, then that many [`GroupPlan`]s, one after the other.
    pub nr_groups: u32,
    /// Number of services: behind the groups come that many [`ServicePlan`]s.
    pub nr_services: u32,
    /// Name of the fleet, for the log.
    pub name: &'a str,
}

/// Number of a plan's first group; the others follow in their order. Group 0 is the supervisor's, group 1 that of VMs
/// of which nothing is said.
pub const FIRST_PLANNED_GROUP: u32 = 2;

/// One group of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupPlan<'a> {
    /// Its name, unique among the groups.
    pub name: &'a str,
    /// Its part of the processors.
    pub processor: ProcessorTerms,
}

/// One service of a plan: `count` VMs of one image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePlan<'a> {
    /// Its name, unique in the plan.
    pub name: &'a str,
    /// Index of its image's entry in the bundle.
    pub entry: u32,
    /// Number of its first VM. The others follow.
    pub first_vm: u32,
    /// How many VMs.
    pub count: u32,
    /// Memory of each in pages.
    pub memory_pages: u32,
    /// Pages of it that are kept for each whatever the others need.
    pub minimum_pages: u32,
    /// Weight of each when it competes for the machine.
    pub shares: u32,
    /// On what other terms each shares the machine. Services with the same terms are of one class.
    pub terms: ClassTerms,
    /// The VM through which all their frames go, if there is one.
    pub gateway: Option<u32>,
    /// Arguments of each.
    pub arguments: &'a str,
}

/// One entry of a checked bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What it is.
    pub kind: EntryKind,
    /// Its name.
    pub name: &'a str,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// Why a bundle is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleError {
    /// The file is shorter than its header, its table or its stated length.
    Truncated,
    /// It does not start with [`BUNDLE_MAGIC`].
    BadMagic,
    /// It has another version.
    BadVersion(u32),
    /// No entries, or more than [`MAX_ENTRIES`].
    BadEntryCount(u32),
    /// The table is not the one that was written.
    BadChecksum,
    /// An entry's kind is undefined.
    BadKind {
        /// Which entry.
        entry: u32,
        /// The word found.
        kind: u32,
    },
    /// An entry's name is empty, not UTF-8, or not padded with zeros.
    BadName(u32),
    /// An entry's bytes lie outside the file or are not aligned.
    OutOfRange(u32),
}

impl fmt::Display for BundleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated => f.write_str("the bundle is cut short"),
            Self::BadMagic => f.write_str("not a Firn boot bundle"),
            Self::BadVersion(v) => write!(f, "bundle version {v}, this is {BUNDLE_VERSION}"),
            Self::BadEntryCount(n) => write!(f, "{n} entries, allowed are 1 to {MAX_ENTRIES}"),
            Self::BadChecksum => f.write_str("the bundle's table is damaged"),
            Self::BadKind { entry, kind } => write!(f, "entry {entry}: kind {kind} is not defined"),
            Self::BadName(entry) => write!(f, "entry {entry}: bad name"),
            Self::OutOfRange(entry) => write!(f, "entry {entry} lies outside the bundle"),
        }
    }
}

impl core::error::Error for BundleError {}

/// A checked bundle.
#[derive(Clone, Copy, Debug)]
pub struct Bundle<'a> {
    bytes: &'a [u8],
    nr_entries: u32,
}

fn word(bytes: &[u8], at: usize) -> Result<u32, BundleError> {
    let field = bytes.get(at..at + 4).and_then(|b| b.try_into().ok());
    field.map(u32::from_le_bytes).ok_or(BundleError::Truncated)
}

fn long(bytes: &[u8], at: usize) -> Result<u64, BundleError> {
    let field = bytes.get(at..at + 8).and_then(|b| b.try_into().ok());
    field.map(u64::from_le_bytes).ok_or(BundleError::Truncated)
}

impl<'a> Bundle<'a> {
    /// Checks the bytes of a file. More bytes than it states (padding of a boot loader) are ignored.
    ///
    /// # Errors
    /// See [`BundleError`]; the first thing found wrong. Whoever wrote the file must mend it.
    pub fn check(bytes: &'a [u8]) -> Result<Self, BundleError> {
        if long(bytes, 0)? != BUNDLE_MAGIC {
            return Err(BundleError::BadMagic);
        }
        let version = word(bytes, 8)?;
        if version != BUNDLE_VERSION {
            return Err(BundleError::BadVersion(version));
        }
        let nr_entries = word(bytes, 12)?;
        if nr_entries == 0 || nr_entries > MAX_ENTRIES {
            return Err(BundleError::BadEntryCount(nr_entries));
        }
        let length = usize::try_from(long(bytes, 16)?).map_err(|_| BundleError::Truncated)?;
        let bytes = bytes.get(..length).ok_or(BundleError::Truncated)?;
        let table = bytes.get(HEADER_BYTES..HEADER_BYTES + nr_entries as usize * ENTRY_BYTES);
        if word(bytes, 24)? != crate::image::checksum(table.ok_or(BundleError::Truncated)?) || word(bytes, 28)? != 0 {
            return Err(BundleError::BadChecksum);
        }
        let bundle = Self { bytes, nr_entries };
        for n in 0..nr_entries {
            bundle.read_entry(n)?;
        }
        Ok(bundle)
    }

    fn read_entry(&self, n: u32) -> Result<Entry<'a>, BundleError> {
        let at = HEADER_BYTES + n as usize * ENTRY_BYTES;
        let kind = match word(self.bytes, at)? {
            1 => EntryKind::Image,
            2 => EntryKind::Plan,
            3 => EntryKind::Machine,
            kind => return Err(BundleError::BadKind { entry: n, kind }),
        };
        let length = u64::from(word(self.bytes, at + 4)?);
        let offset = long(self.bytes, at + 8)?;
        let name = self.bytes.get(at + 16..at + 16 + MAX_NAME_BYTES).ok_or(BundleError::Truncated)?;
        let used = name.iter().position(|&b| b == 0).unwrap_or(MAX_NAME_BYTES);
        let (name, padding) = name.split_at(used);
        if name.is_empty() || padding.iter().any(|&b| b != 0) {
            return Err(BundleError::BadName(n));
        }
        let name = core::str::from_utf8(name).map_err(|_| BundleError::BadName(n))?;
        let end = offset.checked_add(length).ok_or(BundleError::OutOfRange(n))?;
        let range = usize::try_from(offset).ok().zip(usize::try_from(end).ok());
        let bytes = range.and_then(|(from, to)| self.bytes.get(from..to)).ok_or(BundleError::OutOfRange(n))?;
        if !offset.is_multiple_of(crate::PAGE_SIZE as u64) {
            return Err(BundleError::OutOfRange(n));
        }
        Ok(Entry { kind, name, bytes })
    }

    /// Number of entries.
    #[must_use]
    pub const fn nr_entries(&self) -> u32 {
        self.nr_entries
    }

    /// The entry of that index.
    #[must_use]
    pub fn entry(&self, n: u32) -> Option<Entry<'a>> {
        if n < self.nr_entries { self.read_entry(n).ok() } else { None }
    }

    /// All entries, in order.
    pub fn entries(&self) -> impl Iterator<Item = Entry<'a>> {
        let bundle = *self;
        (0..self.nr_entries).filter_map(move |n| bundle.read_entry(n).ok())
    }
}

/// Encodes header and table into `put`; the contents follow, each at the next multiple of the page size.
/// Returns the length of the whole file.
pub fn encode_header<'e, I>(entries: I, mut put: impl FnMut(&[u8])) -> u64
where
    I: ExactSizeIterator<Item = (EntryKind, &'e str, u32)> + Clone,
{
    let align = |n: u64| n.next_multiple_of(crate::PAGE_SIZE as u64);
    let nr_entries = entries.len();
    let first = align((HEADER_BYTES + nr_entries * ENTRY_BYTES) as u64);
    let encode = |entries: I, put: &mut dyn FnMut(&[u8])| {
        let mut offset = first;
        for (kind, name, length) in entries {
            let mut padded = [0u8; MAX_NAME_BYTES];
            let name = &name.as_bytes()[..name.len().min(MAX_NAME_BYTES)];
            padded[..name.len()].copy_from_slice(name);
            put(&(kind as u32).to_le_bytes());
            put(&length.to_le_bytes());
            put(&offset.to_le_bytes());
            put(&padded);
            offset = align(offset + u64::from(length));
        }
        offset
    };
    let mut sum = crate::image::Checksum::new();
    let file_bytes = encode(entries.clone(), &mut |bytes| sum.update(bytes));
    put(&BUNDLE_MAGIC.to_le_bytes());
    put(&BUNDLE_VERSION.to_le_bytes());
    put(&u32::try_from(nr_entries).unwrap_or(u32::MAX).to_le_bytes());
    put(&file_bytes.to_le_bytes());
    put(&sum.finish().to_le_bytes());
    put(&[0; 4]);
    encode(entries, &mut put);
    file_bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    fn file() -> Vec<u8> {
        let entries = [(EntryKind::Machine, "machine", 10u32), (EntryKind::Image, "web", 5000)];
        let mut bytes = Vec::new();
        let length = encode_header(entries.into_iter(), |b| bytes.extend_from_slice(b));
        bytes.resize(usize::try_from(length).unwrap(), 7);
        bytes
    }

    fn reseal(bytes: &mut [u8], nr_entries: usize) {
        let sum = crate::image::checksum(&bytes[HEADER_BYTES..HEADER_BYTES + nr_entries * ENTRY_BYTES]);
        bytes[24..28].copy_from_slice(&sum.to_le_bytes());
    }

    #[test]
    fn a_good_bundle_is_read_as_written() {
        let mut bytes = file();
        assert_eq!(bytes.len(), 4096 * 4);
        bytes.extend_from_slice(&[0; 100]);
        let bundle = Bundle::check(&bytes).unwrap();
        assert_eq!(bundle.nr_entries(), 2);
        let web = bundle.entry(1).unwrap();
        assert_eq!((web.kind, web.name, web.bytes.len()), (EntryKind::Image, "web", 5000));
        assert_eq!(web.bytes[0], 7);
        assert!(bundle.entry(2).is_none());
        assert_eq!(bundle.entries().count(), 2);
    }

    #[test]
    fn each_defect_is_named() {
        use BundleError as E;
        let good = file();
        let refused = |bytes: &[u8]| Bundle::check(bytes).map(|_| ()).unwrap_err();
        for cut in [0, 7, 20, 31, 50, 4096, good.len() - 1] {
            assert_eq!(refused(&good[..cut]), E::Truncated, "cut at {cut}");
        }
        let with = |at: usize, value: u8| {
            let mut bytes = good.clone();
            bytes[at] = value;
            bytes
        };
        assert_eq!(refused(&with(0, 0)), E::BadMagic);
        assert_eq!(refused(&with(8, 1)), E::BadVersion(1));
        assert_eq!(refused(&with(12, 0)), E::BadEntryCount(0));
        assert_eq!(refused(&with(14, 1)), E::BadEntryCount(65_538));
        assert_eq!(refused(&with(40, 9)), E::BadChecksum);
        let resealed = |at: usize, value: u8| {
            let mut bytes = with(at, value);
            reseal(&mut bytes, 2);
            refused(&bytes)
        };
        assert_eq!(resealed(HEADER_BYTES, 9), E::BadKind { entry: 0, kind: 9 });
        assert_eq!(resealed(HEADER_BYTES + 16, 0), E::BadName(0));
        assert_eq!(resealed(HEADER_BYTES + 16, 0xff), E::BadName(0));
        assert_eq!(resealed(HEADER_BYTES + 8, 1), E::OutOfRange(0));
        assert_eq!(resealed(HEADER_BYTES + 15, 0xff), E::OutOfRange(0));
        assert_eq!(resealed(HEADER_BYTES + ENTRY_BYTES + 7, 1), E::OutOfRange(1));
    }

    proptest! {
        #[test]
        fn damaged_bundles_never_lead_outside_the_file(
            edits in proptest::collection::vec((0usize..128, any::<u8>()), 0..6),
            length in 0usize..4096 * 4,
        ) {
            let mut bytes = file();
            for (at, value) in edits {
                bytes[at] = value;
            }
            bytes.truncate(length);
            if bytes.len() > 128 {
                reseal(&mut bytes, 2);
            }
            if let Ok(bundle) = Bundle::check(&bytes) {
                prop_assert!(bundle.entries().all(|entry| !entry.name.is_empty()));
            }
        }
    }
}
