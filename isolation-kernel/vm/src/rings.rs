//! The kernel's ends of the byte rings. The kernel keeps its own index of each ring itself and never reads it
//! back from the guest; the guest's index is read once and checked.

use hal::{Hardware, Mpn, PAGE_SIZE};
use virtual_isa::control;
use virtual_isa::exception::{Cause, Ring};
use virtual_isa::ring::{self, Corrupt, Found, Place};

/// Where a ring lies: its pages, one after the other.
#[derive(Clone, Copy, Debug)]
pub struct RingMemory<const PAGES: usize> {
    /// Which ring, for reports.
    pub ring: Ring,
    /// The control page.
    pub control: Mpn,
    /// The ring's pages.
    pub pages: [Mpn; PAGES],
    /// Offset of the producer's index in the control page.
    pub head_at: usize,
    /// Offset of the consumer's index in the control page.
    pub tail_at: usize,
}

impl RingMemory<1> {
    /// A transmit ring.
    #[inline(always)]
    pub const fn transmit(control: Mpn, pages: [Mpn; 1]) -> Self {
        let (head_at, tail_at) = (control::TRANSMIT_HEAD, control::TRANSMIT_TAIL);
        Self { ring: Ring::Transmit, control, pages, head_at, tail_at }
    }
}

impl RingMemory<2> {
    /// A receive ring.
    #[inline(always)]
    pub const fn receive(control: Mpn, pages: [Mpn; 2]) -> Self {
        let (head_at, tail_at) = (control::RECEIVE_HEAD, control::RECEIVE_TAIL);
        Self { ring: Ring::Receive, control, pages, head_at, tail_at }
    }
}

/// What a consumer finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Empty,
    /// A record.
    Record {
        /// Offset of its bytes.
        at: usize,
        /// How many.
        length: usize,
        /// The tail after it.
        next_tail: u32,
    },
    /// A record that cannot be; everything up to this tail is lost.
    Malformed {
        /// The tail after everything published.
        next_tail: u32,
    },
}

impl<const PAGES: usize> RingMemory<PAGES> {
    #[expect(clippy::cast_possible_truncation, reason = "rings have one or two pages")]
    const CAPACITY: u32 = (PAGES * PAGE_SIZE) as u32;

    fn corrupt(&self, Corrupt { head, tail }: Corrupt) -> Cause {
        Cause::RingCorrupt { ring: self.ring, head, tail }
    }

    /// The guest's index of a ring that the guest writes.
    pub fn guest_head<H: Hardware>(&self, hw: &H) -> u32 {
        hw.load(self.control, self.head_at)
    }

    /// Finds the record at the kernel's `tail`, up to a guest's `head` that was read before.
    ///
    /// # Errors
    /// With the cause for which the VM ends, if its index cannot be.
    pub fn next<H: Hardware>(&self, hw: &H, head: u32, mut tail: u32) -> Result<Next, Cause> {
        loop {
            let mut word = [0; 4];
            // Nothing is read through an index that was not checked.
            ring::published(Self::CAPACITY, head, tail).map_err(|c| self.corrupt(c))?;
            self.read(hw, ring::header_at(Self::CAPACITY, tail) as usize, &mut word);
            let found = ring::read(Self::CAPACITY, head, tail, u32::from_le_bytes(word));
            match found.map_err(|c| self.corrupt(c))? {
                Found::Empty => return Ok(Next::Empty),
                Found::Skip { next_tail } => tail = next_tail,
                Found::Record { bytes_at, length, next_tail } => {
                    return Ok(Next::Record { at: bytes_at as usize, length: length as usize, next_tail });
                }
                Found::Malformed { .. } => return Ok(Next::Malformed { next_tail: head }),
            }
        }
    }

    /// Tells the guest how far the kernel has read.
    pub fn publish_tail<H: Hardware>(&self, hw: &mut H, tail: u32) {
        hw.store(self.control, self.tail_at, tail);
    }

    /// Whether a record of `length` bytes fits at the kernel's `head` now.
    ///
    /// # Errors
    /// With the cause for which the VM ends, if its index cannot be.
    pub fn has_room<H: Hardware>(&self, hw: &H, head: u32, length: usize) -> Result<bool, Cause> {
        Ok(self.find_room(hw, head, length)?.is_some())
    }

    /// Where a record of `length` bytes goes at the kernel's `head`, if there is room for it now.
    fn find_room<H: Hardware>(&self, hw: &H, head: u32, length: usize) -> Result<Option<Place>, Cause> {
        let tail = hw.load(self.control, self.tail_at);
        let Ok(length) = u32::try_from(length) else { return Ok(None) };
        ring::place(Self::CAPACITY, head, tail, length).map_err(|c| self.corrupt(c))
    }

    /// Writes a record at the kernel's `head` and publishes it. Returns the new head, or `None` if there is no
    /// room for it now.
    ///
    /// # Errors
    /// With the cause for which the VM ends, if its index cannot be.
    pub fn push<H: Hardware>(&self, hw: &mut H, head: u32, bytes: &[u8]) -> Result<Option<u32>, Cause> {
        let Some(place) = self.find_room(hw, head, bytes.len())? else { return Ok(None) };
        if let Some(at) = place.skip_at {
            self.write(hw, at as usize, &ring::SKIP.to_le_bytes());
        }
        let mut header = [0; ring::RECORD_HEADER_BYTES as usize];
        if let (Some(field), Ok(length)) = (header.first_chunk_mut(), u32::try_from(bytes.len())) {
            *field = length.to_le_bytes();
        }
        self.write(hw, place.header_at as usize, &header);
        self.write(hw, place.bytes_at as usize, bytes);
        hw.store(self.control, self.head_at, place.next_head);
        Ok(Some(place.next_head))
    }

    /// Copies bytes out of the ring; they may span its pages.
    pub fn read<H: Hardware>(&self, hw: &H, mut at: usize, mut into: &mut [u8]) {
        while let (false, Some(page)) = (into.is_empty(), self.pages.get(at / PAGE_SIZE)) {
            let offset = at % PAGE_SIZE;
            let length = into.len().min(PAGE_SIZE.saturating_sub(offset));
            let (now, rest) = into.split_at_mut(length);
            hw.read(*page, offset, now);
            at = at.saturating_add(length);
            into = rest;
        }
    }

    fn write<H: Hardware>(&self, hw: &mut H, mut at: usize, mut from: &[u8]) {
        while let (false, Some(page)) = (from.is_empty(), self.pages.get(at / PAGE_SIZE)) {
            let offset = at % PAGE_SIZE;
            let length = from.len().min(PAGE_SIZE.saturating_sub(offset));
            let (now, rest) = from.split_at(length);
            hw.write(*page, offset, now);
            at = at.saturating_add(length);
            from = rest;
        }
    }
}
