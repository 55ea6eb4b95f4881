//! Devices: Ethernet, disk, serial line.

use crate::Page;
use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;

/// Bytes of a frame buffer: the room a driver needs before the frame, and the largest frame.
pub const FRAME_CAPACITY: usize = 2048;

/// A buffer of the kernel's that holds one Ethernet frame. Buffers come from [`Ethernet::take_frame`] and go
/// back with [`Ethernet::give_frame`] or [`Ethernet::transmit`]; there is a fixed number of them.
#[derive(Debug)]
pub struct Frame {
    buffer: Box<[u8; FRAME_CAPACITY]>,
    length: usize,
    home: u32,
}

impl Frame {
    /// Bytes before the frame that belong to the driver (a virtio-net header lies at their end).
    pub const HEADROOM: usize = 64;

    /// Largest frame a buffer holds.
    pub const MAX_LENGTH: usize = FRAME_CAPACITY - Self::HEADROOM;

    /// Makes a buffer of a core's with an empty frame. Only an implementation of [`Ethernet`] has reason to.
    #[must_use]
    pub const fn new(buffer: Box<[u8; FRAME_CAPACITY]>, home: u32) -> Self {
        Self { buffer, length: 0, home }
    }

    /// The core whose buffer it is, and which is to have it back.
    #[must_use]
    pub const fn home(&self) -> u32 {
        self.home
    }

    /// The frame's bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[Self::HEADROOM..Self::HEADROOM + self.length]
    }

    /// The frame's bytes, to change.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[Self::HEADROOM..Self::HEADROOM + self.length]
    }

    /// Makes the frame `length` bytes long (at most [`Frame::MAX_LENGTH`]); new bytes hold anything.
    ///
    /// # Panics
    /// If it is longer.
    pub fn set_length(&mut self, length: usize) {
        assert!(length <= Self::MAX_LENGTH);
        self.length = length;
    }

    /// The whole buffer, headroom too, for a driver.
    pub fn buffer_mut(&mut self) -> &mut [u8; FRAME_CAPACITY] {
        &mut self.buffer
    }
}

/// The network card.
pub trait Ethernet {
    /// Takes an empty frame from the pool. `None` if all are in use.
    fn take_frame(&mut self) -> Option<Frame>;

    /// Frames that can be taken now.
    fn free_frames(&self) -> usize;

    /// Gives a frame back to the pool it is from: this core's.
    fn give_frame(&mut self, frame: Frame);

    /// Whether [`receive`](Self::receive) may have something to do: a look that costs less. It is true as long as
    /// the card would not tell of a frame that arrives.
    fn has_received(&self) -> bool {
        true
    }

    /// The next frame from the wire.
    fn receive(&mut self) -> Option<Frame>;

    /// Queues a frame for the wire. It may stay queued until [`flush`](Self::flush).
    ///
    /// # Errors
    /// The frame comes back if the card's queue is full.
    fn transmit(&mut self, frame: Frame) -> Result<(), Frame>;

    /// Sends what is queued.
    fn flush(&mut self);

    /// The next frame that was sent and is another core's buffer, which that core is to have back.
    fn sent_frame(&mut self) -> Option<Frame>;
}

/// Why a block could not be read or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError {
    /// There is no disk.
    NoDisk,
    /// Part of it lies beyond the disk's end, or it has no pages or too many.
    OutOfRange,
    /// Too many requests are under way: try again after a completion.
    QueueFull,
    /// The device reported an error.
    Io,
}

/// Most pages in one transfer.
pub const MAX_TRANSFER_PAGES: usize = 32;

/// Which way a transfer goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// Fills the pages from the blocks.
    Read,
    /// Writes the pages to the blocks.
    Write,
}

/// A transfer between pages and as many consecutive blocks, in one operation of the device. The pages belong to
/// the disk until they come back.
#[derive(Debug)]
pub struct DiskRequest {
    /// Which way.
    pub transfer: Transfer,
    /// Number of the first block.
    pub block: u64,
    /// The pages, 1 to [`MAX_TRANSFER_PAGES`], in the order of the blocks.
    pub pages: Vec<Page>,
}

/// A transfer that has ended.
#[derive(Debug)]
pub struct Completion {
    /// The ticket it was submitted with.
    pub ticket: u64,
    /// Its pages. After a read that failed they hold anything.
    pub pages: Vec<Page>,
    /// How it ended. A write that failed may have changed any part of its blocks.
    pub result: Result<(), DiskError>,
}

/// The disk, in blocks of 4 KiB.
pub trait Disk {
    /// Blocks there are; 0 without a disk.
    fn nr_blocks(&self) -> u64;

    /// Begins a transfer. The ticket comes back with its completion; completions come in any order.
    ///
    /// # Errors
    /// With the request given back, if it cannot begin.
    fn submit(&mut self, ticket: u64, request: DiskRequest) -> Result<(), (DiskError, DiskRequest)>;

    /// The next transfer that has ended.
    fn complete(&mut self) -> Option<Completion>;
}

/// The serial line.
pub trait Serial {
    /// Prints text as it is.
    fn print(&mut self, text: fmt::Arguments<'_>);

    /// Whether [`read_byte`](Self::read_byte) may have something: a look that costs less.
    fn has_typed(&self) -> bool {
        true
    }

    /// The next byte that was typed.
    fn read_byte(&mut self) -> Option<u8>;
}
