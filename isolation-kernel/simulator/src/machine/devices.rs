//! The fake machine's card and its disk, as the kernel uses them.

use super::{FLUSH_NS, FRAME_NS, FRAME_POOL, Machine, TRANSMIT_QUEUE};
use hal::{Completion, Disk, DiskError, DiskRequest, Ethernet, FRAME_CAPACITY, Frame, Mpn, Page, Transfer};

/// Where a disk ticket says whose it is.
const CORE_SHIFT: u32 = 48;

impl Ethernet for Machine {
    fn take_frame(&mut self) -> Option<Frame> {
        if self.frames_out >= FRAME_POOL {
            return None;
        }
        self.frames_out += 1;
        Some(Frame::new(Box::new([0; FRAME_CAPACITY]), self.core))
    }

    fn free_frames(&self) -> usize {
        FRAME_POOL - self.frames_out
    }

    fn give_frame(&mut self, frame: Frame) {
        assert_eq!(frame.home(), self.core, "a frame is given to a core that it is not of");
        drop(frame);
        self.frames_out = self.frames_out.checked_sub(1).expect("a frame is given back that was never taken");
    }

    fn has_received(&self) -> bool {
        if self.core != 0 {
            return false;
        }
        let mut outside = self.outside.borrow_mut();
        outside.raised = 0;
        !self.is_frame_awaited || !outside.incoming.is_empty()
    }

    fn receive(&mut self) -> Option<Frame> {
        if self.core != 0 {
            return None;
        }
        self.outside.borrow_mut().raised = 0;
        self.let_leave();
        // Without a buffer a real card keeps waiting.
        let mut frame = self.take_frame()?;
        let Some(bytes) = self.outside.borrow_mut().incoming.pop_front() else {
            self.give_frame(frame);
            self.is_frame_awaited = true;
            return None;
        };
        // A real card has no room for more, and hands on what it has.
        let length = bytes.len().min(Frame::MAX_LENGTH);
        self.spend(FRAME_NS);
        frame.set_length(length);
        frame.bytes_mut().copy_from_slice(&bytes[..length]);
        Some(frame)
    }

    fn transmit(&mut self, frame: Frame) -> Result<(), Frame> {
        self.spend(FRAME_NS);
        assert_eq!(self.core, 0, "only the first core has a card");
        self.let_leave();
        if self.outside.borrow().is_wire_full || self.queued.len() + self.leaving.len() >= TRANSMIT_QUEUE {
            self.is_room_awaited = true;
            self.flush();
            return Err(frame);
        }
        self.queued.push(frame);
        Ok(())
    }

    fn flush(&mut self) {
        if !self.queued.is_empty() {
            self.spend(FLUSH_NS);
        }
        let (now, ns_per_byte) = {
            let outside = self.outside.borrow();
            (outside.now, outside.wire_ns_per_byte)
        };
        for frame in std::mem::take(&mut self.queued) {
            let begins = self.leaving.back().map_or(now, |&(ends, _)| ends.max(now));
            self.leaving.push_back((begins + ns_per_byte * frame.bytes().len() as u64, frame));
        }
        self.let_leave();
    }

    fn sent_frame(&mut self) -> Option<Frame> {
        self.sent.pop()
    }
}

impl Machine {
    /// When the card says that it has room, if it was found full.
    pub(super) fn room_at(&self) -> Option<u64> {
        self.leaving.front().filter(|_| self.is_room_awaited).map(|&(at, _)| at)
    }

    /// Takes back the frames that have left.
    pub(super) fn let_leave(&mut self) {
        let now = self.outside.borrow().now;
        while let Some((at, frame)) = self.leaving.pop_front_if(|(at, _)| *at <= now) {
            self.is_room_awaited = false;
            {
                let mut outside = self.outside.borrow_mut();
                outside.outgoing.push(frame.bytes().to_vec());
                outside.outgoing_at.push(at);
            }
            match frame.home() {
                home if home == self.core => self.give_frame(frame),
                // The card is done with it; the kernel finds out when it asks.
                _ => self.sent.push(frame),
            }
        }
    }
}

impl Disk for Machine {
    fn nr_blocks(&self) -> u64 {
        self.outside.borrow().disk.nr_blocks()
    }

    fn submit(&mut self, ticket: u64, request: DiskRequest) -> Result<(), (DiskError, DiskRequest)> {
        let pages: Vec<Mpn> = request.pages.iter().map(Page::mpn).collect();
        let mut outside = self.outside.borrow_mut();
        let now = outside.now;
        let tagged = ticket | u64::from(self.core) << CORE_SHIFT;
        outside.disk.submit(now, tagged, request)?;
        for mpn in pages {
            self.memory.lend(mpn);
        }
        Ok(())
    }

    fn complete(&mut self) -> Option<Completion> {
        loop {
            if let Some(mine) = self.outside.borrow_mut().done.entry(self.core).or_default().pop_front() {
                return Some(mine);
            }
            // Whoever looks takes what is there, and sees that those hear of it whose it is.
            let (tagged, pages, result) = self.end_transfer()?;
            let core = u32::try_from(tagged >> CORE_SHIFT).expect("a small number");
            let outside = &mut *self.outside.borrow_mut();
            let completion = Completion { ticket: tagged & !(u64::MAX << CORE_SHIFT), pages, result };
            outside.done.entry(core).or_default().push_back(completion);
            if core != self.core {
                outside.woken[core as usize] = true;
            }
        }
    }
}

impl Machine {
    fn end_transfer(&mut self) -> Option<(u64, Vec<Page>, Result<(), DiskError>)> {
        let outside = &mut *self.outside.borrow_mut();
        let ended = outside.disk.take(outside.now)?;
        let (ticket, DiskRequest { transfer, block, pages }) = (ended.ticket, ended.request);
        let blocks = block..block + pages.len() as u64;
        let result = match transfer {
            Transfer::Read => {
                let result = outside.disk.end_read(&blocks);
                for (block, page) in blocks.zip(&pages) {
                    let bytes = self.memory.end_loan(page.mpn());
                    match result {
                        Ok(()) => outside.disk.load(block, bytes),
                        Err(_) => bytes.fill(0xee),
                    }
                }
                result
            }
            Transfer::Write => {
                let (count, result) = outside.disk.end_write(&blocks);
                for (n, (block, page)) in blocks.zip(&pages).enumerate() {
                    let bytes = self.memory.end_loan(page.mpn());
                    if n < count {
                        outside.disk.store(block, bytes);
                    }
                }
                result
            }
        };
        Some((ticket, pages, result))
    }
}
