//! Buffers for frames: made when they are first needed, then kept, up to a fixed number.

use crate::heap::is_in_window;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::alloc::Layout;
use hal::{FRAME_CAPACITY, Frame};

/// The buffers that are free, and how many there may be.
pub struct FramePool {
    free: Vec<Frame>,
    /// Other cores' buffers, on their way home.
    foreign: Vec<Frame>,
    nr_made: usize,
    limit: usize,
    home: u32,
}

impl FramePool {
    /// The pool of a core, that may take that many bytes of the kernel's heap.
    pub const fn new(bytes: u64, home: u32) -> Self {
        let limit = (bytes / FRAME_CAPACITY as u64) as usize;
        Self { free: Vec::new(), foreign: Vec::new(), nr_made: 0, limit, home }
    }

    /// Most buffers there can be.
    pub const fn limit(&self) -> usize {
        self.limit
    }

    /// Buffers that can be taken, made or not.
    pub fn free(&self) -> usize {
        self.limit.saturating_sub(self.nr_made) + self.free.len()
    }

    /// Takes an empty frame.
    pub fn take(&mut self) -> Option<Frame> {
        if let Some(mut frame) = self.free.pop() {
            frame.set_length(0);
            return Some(frame);
        }
        if self.nr_made >= self.limit {
            return None;
        }
        // So that giving the frame back never allocates.
        self.free.try_reserve(self.nr_made + 1).ok()?;
        let frame = Frame::new(new_buffer()?, self.home);
        self.nr_made += 1;
        Some(frame)
    }

    /// Gives a frame back.
    pub fn give(&mut self, frame: Frame) {
        let list = if frame.home() == self.home { &mut self.free } else { &mut self.foreign };
        list.push(frame);
    }

    /// A buffer that was given back here and is another core's: the card sent it.
    pub fn take_foreign(&mut self) -> Option<Frame> {
        self.foreign.pop()
    }
}

/// A zeroed buffer, or `None` if the heap has no room for one where devices reach it.
fn new_buffer() -> Option<Box<[u8; FRAME_CAPACITY]>> {
    let layout = Layout::new::<[u8; FRAME_CAPACITY]>();
    // SAFETY: the layout is not empty; a block of it that is all zero is a valid array.
    unsafe {
        let block = alloc::alloc::alloc_zeroed(layout);
        if is_in_window(block) {
            // The card could not find it.
            alloc::alloc::dealloc(block, layout);
            return None;
        }
        if block.is_null() { None } else { Some(Box::from_raw(block.cast::<[u8; FRAME_CAPACITY]>())) }
    }
}
