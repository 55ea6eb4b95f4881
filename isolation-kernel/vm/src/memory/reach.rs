//! The kernel's own way to a guest's memory: what guests name in virtual instructions, and what they give back.

use super::{Absent, Backing, Means, Memory, Shared};
use crate::decode::Allegation;
use crate::delta::Place;
use crate::fixed::{END_FIXED, FIRST_FIXED};
use crate::swap::Swap;
use hal::{Access, Hardware, NoMemory, PAGE_SIZE, Ppn, Rights};
use virtual_isa::instruction::InstructionError;
use virtual_isa::layout;

impl<S> Memory<S> {
    /// Copies bytes out of the memory a guest named.
    ///
    /// # Errors
    /// `BadAddress` if part of it is not the guest's to read, `Busy` if part of it is not in memory:
    /// [`need`](Self::need) it first.
    pub fn try_read<H>(
        &self,
        hw: &H,
        shared: &Shared<'_>,
        from: Allegation,
        into: &mut [u8],
    ) -> Result<(), InstructionError>
    where
        H: Hardware<Space = S>,
    {
        let mut rest = into;
        for piece in Pieces::new(from, rest.len())? {
            let backing = self.backing(shared, piece.ppn).ok_or(InstructionError::BadAddress)?;
            let (bytes, tail) = rest.split_at_mut_checked(piece.length).ok_or(InstructionError::BadAddress)?;
            match backing {
                Backing::Fixed(mpn, _) | Backing::Private(_, mpn) | Backing::Shared(mpn, _) => {
                    hw.read(mpn, piece.offset, bytes);
                }
                Backing::Zero(_) | Backing::FixedAbsent => bytes.fill(0),
                Backing::Away => return Err(InstructionError::Busy),
            }
            rest = tail;
        }
        Ok(())
    }

    /// Copies bytes into the memory a guest named, which [`need`](Self::need) has made writable.
    ///
    /// # Errors
    /// `BadAddress` if part of it is not.
    pub fn try_write<H>(
        &mut self,
        hw: &mut H,
        shared: &Shared<'_>,
        to: Allegation,
        from: &[u8],
    ) -> Result<(), InstructionError>
    where
        H: Hardware<Space = S>,
    {
        let mut rest = from;
        for piece in Pieces::new(to, from.len())? {
            let (Some(Backing::Private(_, mpn) | Backing::Fixed(mpn, Rights::ReadWrite)), Some((bytes, tail))) =
                (self.backing(shared, piece.ppn), rest.split_at_checked(piece.length))
            else {
                return Err(InstructionError::BadAddress);
            };
            hw.write(mpn, piece.offset, bytes);
            rest = tail;
        }
        Ok(())
    }

    /// Brings the memory a guest named into memory, for the kernel to read, or to write.
    ///
    /// # Errors
    /// Why that cannot be, or not yet.
    pub fn need<H>(
        &mut self,
        hw: &mut H,
        shared: &Shared<'_>,
        means: &mut Means<'_>,
        range: Allegation,
        access: Access,
    ) -> Result<(), Absent>
    where
        H: Hardware<Space = S>,
    {
        let length = usize::try_from(range.length).map_err(|_| Absent::Violation)?;
        for piece in Pieces::new(range, length).map_err(|_| Absent::Violation)? {
            let backing = self.backing(shared, piece.ppn).ok_or(Absent::Violation)?;
            if access == Access::Write || matches!(backing, Backing::Away | Backing::FixedAbsent) {
                self.own(hw, shared, means, piece.ppn)?;
            }
        }
        Ok(())
    }

    /// Gives one page back: it is as the image has it afterwards, whatever the template has.
    fn discard_page<H>(
        &mut self,
        hw: &mut H,
        shared: &Shared<'_>,
        swap: &mut Swap,
        ppn: Ppn,
    ) -> Result<(), InstructionError>
    where
        H: Hardware<Space = S>,
    {
        let is_in_template = shared.template.page(ppn).is_some();
        let is_in_image = shared.image.page(ppn).is_some_and(|page| page.mpn.is_some());
        let place = self.delta.find(ppn);
        if is_in_template && place.is_none() {
            self.delta.reserve().map_err(|NoMemory| InstructionError::NoMemory)?;
        }
        self.unmap(hw, ppn, false);
        match place {
            Some(Place::Resident(_)) => {
                if let Some(page) = self.delta.evict(ppn, None) {
                    hw.release(page);
                }
            }
            Some(Place::Packed { pack, .. }) => {
                self.delta.forget(ppn);
                self.let_go(hw, swap, pack);
            }
            Some(Place::Filled(_) | Place::Bare) => self.delta.forget(ppn),
            None => {}
        }
        match (is_in_template, is_in_image, place) {
            // What the template has must stay out of sight.
            (true, ..) => {
                self.delta.put(ppn, Place::Bare);
                if place.is_none() {
                    self.hidden_pages = self.hidden_pages.saturating_add(1);
                }
            }
            (false, true, Some(_)) => self.hidden_pages = self.hidden_pages.saturating_sub(1),
            (false, ..) => {}
        }
        Ok(())
    }

    /// Gives back up to `limit` whole pages at the start of a range, and returns what is left of it, or `None`
    /// if nothing is.
    ///
    /// # Errors
    /// `BadAddress` if part of the range is not the guest's, or is a fixed page; then nothing has changed.
    pub fn discard<H>(
        &mut self,
        hw: &mut H,
        shared: &Shared<'_>,
        swap: &mut Swap,
        range: Allegation,
        limit: u32,
    ) -> Result<Option<Allegation>, InstructionError>
    where
        H: Hardware<Space = S>,
    {
        let bad = InstructionError::BadAddress;
        let page = PAGE_SIZE as u64;
        let end = range.address.checked_add(range.length).ok_or(bad)?;
        if range.address < page || end > u64::from(self.size_pages).saturating_mul(page) {
            return Err(bad);
        }
        let number = |n: u64| u32::try_from(n).map_err(|_| bad);
        let first = number(range.address.div_ceil(page))?;
        let last = number(layout::page_of(end))?;
        if first < END_FIXED && last > FIRST_FIXED {
            return Err(bad);
        }
        let stop = last.min(first.saturating_add(limit));
        for ppn in (first..stop).map(Ppn) {
            self.discard_page(hw, shared, swap, ppn)?;
        }
        if stop >= last {
            return Ok(None);
        }
        let address = u64::from(stop).saturating_mul(page);
        Ok(Some(Allegation { address, length: end.saturating_sub(address) }))
    }
}

/// The part of a range that lies in one page.
struct Piece {
    ppn: Ppn,
    offset: usize,
    length: usize,
}

/// The pieces of a range, page by page.
struct Pieces {
    address: u64,
    left: usize,
}

impl Pieces {
    fn new(at: Allegation, length: usize) -> Result<Self, InstructionError> {
        at.address.checked_add(length as u64).ok_or(InstructionError::BadAddress)?;
        // Page numbers of 32 bits: no VM has memory beyond them.
        u32::try_from(layout::page_of(at.address.saturating_add(length as u64)))
            .map_err(|_| InstructionError::BadAddress)?;
        Ok(Self { address: at.address, left: length })
    }
}

impl Iterator for Pieces {
    type Item = Piece;

    fn next(&mut self) -> Option<Piece> {
        if self.left == 0 {
            return None;
        }
        let offset = usize::try_from(self.address % PAGE_SIZE as u64).ok()?;
        let length = self.left.min(PAGE_SIZE.saturating_sub(offset));
        let ppn = Ppn(u32::try_from(layout::page_of(self.address)).ok()?);
        self.address = self.address.saturating_add(length as u64);
        self.left = self.left.saturating_sub(length);
        Some(Piece { ppn, offset, length })
    }
}
