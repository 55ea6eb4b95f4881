//! The fake disk and what can go wrong with it: slow and reordered completions, errors, torn and lost writes,
//! contents that change by themselves, a full queue.

use hal::{DiskError, DiskRequest, MAX_TRANSFER_PAGES, PAGE_SIZE, Transfer};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// How the disk behaves. The default is a good disk: in order, a tenth of a millisecond for each transfer.
#[derive(Clone, Debug, PartialEq)]
pub struct DiskFaults {
    /// Nanoseconds that a transfer takes.
    pub delay_ns: Range<u64>,
    /// Whether transfers that are done are reported in any order.
    pub is_reordered: bool,
    /// Transfers that the queue holds.
    pub queue: usize,
    /// Probability that a read reports an error.
    pub read_errors: f64,
    /// Probability that a write reports an error, with any part of it written.
    pub write_errors: f64,
    /// Probability that a write is cut short and reports success.
    pub torn_writes: f64,
    /// Probability that a write does nothing and reports success.
    pub lost_writes: f64,
    /// Blocks that cannot be read.
    pub unreadable: BTreeSet<u64>,
    /// Blocks that cannot be written.
    pub unwritable: BTreeSet<u64>,
}

impl Default for DiskFaults {
    fn default() -> Self {
        Self {
            delay_ns: 100_000..100_001,
            is_reordered: false,
            queue: 64,
            read_errors: 0.0,
            write_errors: 0.0,
            torn_writes: 0.0,
            lost_writes: 0.0,
            unreadable: BTreeSet::new(),
            unwritable: BTreeSet::new(),
        }
    }
}

/// What the disk did, and what was done to it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskCounts {
    /// Reads that ended.
    pub reads: u64,
    /// Blocks of these.
    pub read_blocks: u64,
    /// Writes that ended.
    pub writes: u64,
    /// Blocks of these.
    pub written_blocks: u64,
    /// Reads that reported an error.
    pub read_errors: u64,
    /// Writes that reported an error.
    pub write_errors: u64,
    /// Writes that were cut short or lost, and blocks that were corrupted.
    pub silent: u64,
}

/// A transfer under way.
#[derive(Debug)]
pub(crate) struct UnderWay {
    pub ticket: u64,
    pub request: DiskRequest,
    ready_at: u64,
    is_announced: bool,
}

impl UnderWay {
    fn blocks(&self) -> Range<u64> {
        self.request.block..self.request.block + self.request.pages.len() as u64
    }
}

/// The disk. Pages that were submitted are its own until they are collected.
#[derive(Debug)]
pub struct FakeDisk {
    /// How it behaves from now on.
    pub faults: DiskFaults,
    /// What it did.
    pub counts: DiskCounts,
    random: fastrand::Rng,
    nr_blocks: u64,
    blocks: BTreeMap<u64, Box<[u8; PAGE_SIZE]>>,
    under_way: Vec<UnderWay>,
}

impl Default for FakeDisk {
    fn default() -> Self {
        Self::new(0)
    }
}

impl FakeDisk {
    /// A disk of so many blocks; 0 is none.
    #[must_use]
    pub fn new(nr_blocks: u64) -> Self {
        Self {
            faults: DiskFaults::default(),
            counts: DiskCounts::default(),
            random: fastrand::Rng::with_seed(0),
            nr_blocks,
            blocks: BTreeMap::new(),
            under_way: Vec::new(),
        }
    }

    /// Makes chance go another way.
    pub fn reseed(&mut self, seed: u64) {
        self.random.seed(seed);
    }

    /// Blocks there are.
    #[must_use]
    pub const fn nr_blocks(&self) -> u64 {
        self.nr_blocks
    }

    /// Transfers under way.
    #[must_use]
    pub const fn nr_under_way(&self) -> usize {
        self.under_way.len()
    }

    /// Blocks that were ever written, in ascending order.
    #[must_use]
    pub fn written(&self) -> Vec<u64> {
        self.blocks.keys().copied().collect()
    }

    /// Changes one byte of a block that was written.
    ///
    /// # Panics
    /// If it was not.
    pub fn corrupt(&mut self, block: u64, at: usize) {
        let bytes = self.blocks.get_mut(&block).expect("only what was written can be corrupted");
        bytes[at % PAGE_SIZE] ^= 0x40;
        self.counts.silent += 1;
    }

    /// Changes one byte of one block of those that were written, if any was.
    pub fn corrupt_any(&mut self) {
        let written = self.written();
        if let Some(&block) = self.random.choice(&written) {
            let at = self.random.usize(..PAGE_SIZE);
            self.corrupt(block, at);
        }
    }

    /// Begins a transfer.
    pub(crate) fn submit(
        &mut self,
        now: u64,
        ticket: u64,
        request: DiskRequest,
    ) -> Result<(), (DiskError, DiskRequest)> {
        let count = request.pages.len();
        if self.nr_blocks == 0 {
            return Err((DiskError::NoDisk, request));
        }
        let end = request.block.checked_add(count as u64);
        if count == 0 || count > MAX_TRANSFER_PAGES || end.is_none_or(|end| end > self.nr_blocks) {
            return Err((DiskError::OutOfRange, request));
        }
        if self.under_way.len() >= self.faults.queue {
            return Err((DiskError::QueueFull, request));
        }
        let ready_at = now + self.random.u64(self.faults.delay_ns.clone());
        let new = UnderWay { ticket, request, ready_at, is_announced: false };
        let blocks = new.blocks();
        for other in &self.under_way {
            let is_apart = other.blocks().end <= blocks.start || blocks.end <= other.blocks().start;
            // The disk promises no order: what is read is uncertain until the write has ended.
            assert!(
                is_apart || other.request.transfer == Transfer::Read,
                "a transfer of blocks {blocks:?} begins while blocks {:?} are being written",
                other.blocks()
            );
            assert_ne!(other.ticket, ticket, "two transfers with the same ticket are under way");
        }
        self.under_way.push(new);
        Ok(())
    }

    /// When the next transfer ends, if it has not yet.
    pub(crate) fn next_at(&self) -> Option<u64> {
        if self.faults.is_reordered {
            self.under_way.iter().map(|transfer| transfer.ready_at).min()
        } else {
            self.under_way.first().map(|transfer| transfer.ready_at)
        }
    }

    /// Whether a transfer has ended that was not collected.
    pub(crate) fn is_due(&self, now: u64) -> bool {
        self.next_at().is_some_and(|at| at <= now)
    }

    /// Whether a transfer has ended since this was last asked: what a card raises its interrupt for.
    pub(crate) fn interrupts(&mut self, now: u64) -> bool {
        let mut any = false;
        for transfer in self.under_way.iter_mut().filter(|transfer| transfer.ready_at <= now) {
            any |= !std::mem::replace(&mut transfer.is_announced, true);
        }
        any
    }

    /// Takes out a transfer that has ended.
    pub(crate) fn take(&mut self, now: u64) -> Option<UnderWay> {
        if !self.is_due(now) {
            return None;
        }
        let mut at = 0;
        if self.faults.is_reordered {
            let due: Vec<usize> = (0..self.under_way.len()).filter(|&n| self.under_way[n].ready_at <= now).collect();
            at = *self.random.choice(&due)?;
        }
        Some(self.under_way.remove(at))
    }

    /// Reads a block into a page.
    pub(crate) fn load(&self, block: u64, into: &mut [u8; PAGE_SIZE]) {
        match self.blocks.get(&block) {
            Some(bytes) => into.copy_from_slice(&bytes[..]),
            // A new disk holds anything.
            None => into.fill(block.to_le_bytes()[0] | 1),
        }
    }

    /// Writes a block from a page.
    pub(crate) fn store(&mut self, block: u64, from: &[u8; PAGE_SIZE]) {
        self.blocks.insert(block, Box::new(*from));
    }

    /// Decides how a read of these blocks ends.
    pub(crate) fn end_read(&mut self, blocks: &Range<u64>) -> Result<(), DiskError> {
        self.counts.reads += 1;
        self.counts.read_blocks += blocks.end - blocks.start;
        let is_bad = self.faults.unreadable.range(blocks.clone()).next().is_some();
        if is_bad || self.happens(self.faults.read_errors) {
            self.counts.read_errors += 1;
            return Err(DiskError::Io);
        }
        Ok(())
    }

    /// Decides how a write of these blocks ends, and how many of them really change.
    pub(crate) fn end_write(&mut self, blocks: &Range<u64>) -> (usize, Result<(), DiskError>) {
        let count = usize::try_from(blocks.end - blocks.start).expect("a transfer is short");
        self.counts.writes += 1;
        self.counts.written_blocks += count as u64;
        let is_bad = self.faults.unwritable.range(blocks.clone()).next().is_some();
        if is_bad || self.happens(self.faults.write_errors) {
            self.counts.write_errors += 1;
            return (self.random.usize(..=count), Err(DiskError::Io));
        }
        if self.happens(self.faults.lost_writes) {
            self.counts.silent += 1;
            return (0, Ok(()));
        }
        if self.happens(self.faults.torn_writes) {
            self.counts.silent += 1;
            return (self.random.usize(..count), Ok(()));
        }
        (count, Ok(()))
    }

    fn happens(&mut self, probability: f64) -> bool {
        probability > 0.0 && self.random.f64() < probability
    }
}

impl DiskCounts {
    /// Faults of all kinds that may lose a page.
    #[must_use]
    pub const fn may_lose_pages(&self) -> bool {
        self.read_errors > 0 || self.silent > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hal::{Mpn, Page};

    fn request(transfer: Transfer, block: u64, count: u32) -> DiskRequest {
        DiskRequest { transfer, block, pages: (0..count).map(|n| Page::new(Mpn(n))).collect() }
    }

    fn refusal(disk: &mut FakeDisk, block: u64, count: u32) -> Option<DiskError> {
        disk.submit(0, 9, request(Transfer::Read, block, count)).err().map(|(error, _)| error)
    }

    #[test]
    fn transfers_that_cannot_be_are_refused() {
        assert_eq!(refusal(&mut FakeDisk::new(0), 0, 1), Some(DiskError::NoDisk));
        let mut disk = FakeDisk::new(100);
        for (block, count) in [(0, 0), (0, 33), (69, 32), (100, 1), (u64::MAX, 2)] {
            assert_eq!(refusal(&mut disk, block, count), Some(DiskError::OutOfRange), "{count} at {block}");
        }
        disk.faults.queue = 1;
        assert_eq!(refusal(&mut disk, 68, 32), None);
        assert_eq!(refusal(&mut disk, 0, 1), Some(DiskError::QueueFull));
    }

    #[test]
    fn transfers_end_in_order_and_in_time_unless_they_are_to_be_reordered() {
        let mut disk = FakeDisk::new(1000);
        disk.faults.delay_ns = 0..1000;
        let order = |disk: &mut FakeDisk| {
            for ticket in 0..20 {
                disk.submit(500, ticket, request(Transfer::Read, ticket, 1)).expect("there is room");
            }
            assert!(disk.take(499).is_none());
            let order: Vec<u64> = std::iter::from_fn(|| disk.take(1500)).map(|ended| ended.ticket).collect();
            assert_eq!(disk.nr_under_way(), 0);
            order
        };
        assert!(order(&mut disk).is_sorted());
        disk.faults.is_reordered = true;
        let mut reordered = order(&mut disk);
        assert!(!reordered.is_sorted());
        reordered.sort_unstable();
        assert_eq!(reordered, (0..20).collect::<Vec<_>>());
    }

    #[test]
    #[should_panic(expected = "are being written")]
    fn a_read_of_what_is_being_written_is_a_defect() {
        let mut disk = FakeDisk::new(100);
        disk.submit(0, 1, request(Transfer::Write, 10, 4)).expect("there is room");
        let _ = disk.submit(0, 2, request(Transfer::Read, 13, 1));
    }
}
