//! The kernel's policies, as plain Rust: numbers in, decision out. No clock of their own, no globals, no
//! hardware; time is always an argument. The same code runs on the machine and in the simulator.
//!
//! | module | decides |
//! |---|---|
//! | [`scheduler`] | which VM runs next, and for how long |
//! | [`gatekeeper`] | whether a VM may be created |
//! | [`reclaim`] | whose pages go when memory runs short, and who may still take some |
//! | [`extents`] | which blocks of the swap disk what is swapped out gets |
//! | [`packet_share`] | how many frames may wait for a VM |
//! | [`deficit`] | who sends next when the wire is short |
//! | [`split`] | which core's frames go next |
//! | [`pace`] | how fast a VM may send |
//! | [`bucket`] | how much of something a VM may use at a time |
//! | [`wheel`] | whose deadline comes next |
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod bucket;
pub mod deficit;
pub mod extents;
pub mod gatekeeper;
pub mod pace;
pub mod packet_share;
pub mod reclaim;
pub mod scheduler;
pub mod split;
pub mod wheel;
