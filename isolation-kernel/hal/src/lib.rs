//! The hardware as the kernel's policy and mechanism see it.
//!
//! `vm` is written over these traits alone. `machine` implements them for x86-64, `simulator` on the host.
//! One value implements all of them ([`Hardware`]) and belongs to one core, which owns it outright.
//!
//! | trait | gives |
//! |---|---|
//! | [`Pages`] | machine pages, as tokens of ownership, and their bytes |
//! | [`Spaces`] | cached page tables |
//! | [`Processor`] | running a guest until it comes back, the clock, the alarm, halting |
//! | [`Cores`] | the other cores: which there are, waking them |
//! | [`Ethernet`] | frames in and out |
//! | [`Disk`] | blocks in and out |
//! | [`Serial`] | text out, bytes in |
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

extern crate alloc;

mod context;
mod devices;
mod memory;
mod processor;

pub use context::{Registers, VectorState};
pub use devices::{
    Completion, Disk, DiskError, DiskRequest, Ethernet, FRAME_CAPACITY, Frame, MAX_TRANSFER_PAGES, Serial, Transfer,
};
pub use memory::{LEAF_PAGES, Leaf, Mpn, NoMemory, Page, Pages, Ppn, Rights, Spaces};
pub use processor::{Access, Clock, Cores, Exit, Nanos, Processor};

/// Bytes in a page.
pub const PAGE_SIZE: usize = 4096;

/// All of a core's hardware.
pub trait Hardware: Pages + Spaces + Processor + Cores + Ethernet + Disk + Serial + 'static {}

impl<T: Pages + Spaces + Processor + Cores + Ethernet + Disk + Serial + 'static> Hardware for T {}
