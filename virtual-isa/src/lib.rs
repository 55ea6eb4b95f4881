//! The virtual ISA: everything that crosses the boundary between the isolation kernel and a guest.
//!
//! Numbers, layouts and limits are defined here once and nowhere else. Both sides depend on this crate; it
//! depends on neither. There is no `unsafe` in it: it describes memory, it never touches memory.
//!
//! | module | what it fixes |
//! |---|---|
//! | [`layout`] | where things lie in a guest's physical memory |
//! | [`instruction`] | virtual instructions, their numbers and error codes |
//! | [`exception`] | what can end a VM, and the report that says so |
//! | [`register`] | the read-only register page |
//! | [`control`] | the read-write control page: pending bits, ring indices |
//! | [`tlb`] | the software-loaded TLB: entries of a guest's own address spaces |
//! | [`context`] | what runs in those spaces, and how it comes back |
//! | [`ring`] | the byte ring, as pure arithmetic for both ends |
//! | [`image`] | the flat guest image and its checks |
//! | [`bundle`] | what a machine boots with: images and a launch plan |
//! | [`network`] | how a VM's number becomes its addresses |
//! | [`gate`] | the supervisor's requests, completions and events |
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]

#[cfg(test)]
extern crate std;

pub mod bundle;
pub mod context;
pub mod control;
pub mod exception;
pub mod gate;
pub mod image;
pub mod instruction;
pub mod layout;
pub mod limits;
pub mod network;
pub mod register;
pub mod ring;
pub mod tlb;

/// Version of the virtual ISA. A change that an existing image could notice raises it.
pub const ISA_VERSION: u32 = 4;

/// Bytes in a page, the unit of guest memory.
pub const PAGE_SIZE: usize = 4096;
