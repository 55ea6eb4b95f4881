//! What the virtual ISA means, over the hardware traits of `hal` and the decisions of `policy`.
//!
//! [`Core`] is one core's instance of the kernel: it owns its VMs and its hardware outright and is driven by
//! calling [`Core::turn`] for ever. Nothing in here blocks, has `unsafe`, or knows a processor.
//!
//! Untrusted words are first decoded into typed requests ([`decode`], pure), which are then performed. What a
//! guest wrote is read once and the copy is checked. Whatever a guest does ends in a result, an error code, or
//! that VM's end with a report.
//!
//! | module | what |
//! |---|---|
//! | `core` | the event loop: wire, timers, dispatch, halt |
//! | `start` | from the boot bundle to a core that runs |
//! | `vm` | one VM: context, memory, queue, counters |
//! | [`decode`] | virtual instructions as typed requests |
//! | `perform` | what they do |
//! | `memory` | a VM's pages: image, template, delta, zero |
//! | `fault` | page faults; waiting for pages |
//! | `tlb` | address spaces that a guest makes: its entries, and tables composed of them |
//! | `contexts` | running what is in those spaces |
//! | `fixed` | the pages at fixed addresses |
//! | `delta` | which pages are a VM's own, and where they are |
//! | `template` | what VMs of an image have in common |
//! | `pack` | compressed pages |
//! | `swap` | packs on disk, transfers |
//! | `park` | a VM as one record, and back |
//! | `reclaim` | keeping pages free |
//! | `table` | all VMs by number |
//! | `classes` | on what terms VMs share the machine |
//! | `images` | loaded images, shared by their VMs |
//! | [`rings`] | kernel ends of the byte rings |
//! | [`route`] | the switch's decisions, pure |
//! | `network` | moving frames |
//! | `gate` | the supervisor's operations |
//! | `orders` | those that are about one VM, on whichever core it is |
//! | `cores` | the other cores: rings, and what all may look at |
//! | `map` | maps by numbers, the same in every run |
//! | `mail` | what comes from other cores; VMs that change their home |
//! | `status` | what the supervisor is told |
//! | `lifecycle` | start, create, end, destroy |
//! | `report` | reports of VMs that ended |
//! | `timers` | deadlines |
//! | `ablation` | parts that can be switched off for measurements |
//! | `account` | whose time it is |
//! | `console` | guests' texts |
#![no_std]
#![forbid(unsafe_code)]
#![warn(missing_docs)]
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

extern crate alloc;

mod ablation;
mod account;
mod classes;
mod console;
mod contexts;
mod core;
mod cores;
pub mod decode;
mod delta;
mod fault;
mod fixed;
mod gate;
pub mod gateways;
mod images;
mod lifecycle;
mod mail;
mod map;
mod memory;
mod network;
mod orders;
mod pack;
mod park;
mod perform;
mod piece;
mod reclaim;
mod report;
pub mod rings;
pub mod route;
mod start;
mod status;
mod swap;
mod table;
mod template;
mod timers;
mod tlb;
mod vm;

pub use crate::ablation::Switches;
pub use crate::console::print_guest;
pub use crate::core::{Core, SUPERVISOR};
pub use crate::cores::{MAX_CORES, Seat, seats};
pub use crate::start::BootError;
#[cfg(feature = "planted-defects")]
pub use crate::swap::Defect;
