//! The x86-64 machine: the one implementation of `hal` on real hardware, and the one place of the kernel with
//! `unsafe` and knowledge of the processor.
//!
//! [`Machine`] implements all traits of `hal` for one processor. The first one's is made by [`Machine::start`] from
//! what the loader said ([`BootInfo`]), which the binary gets through [`entry!`]; the others' by
//! [`Machine::start_core`].
//!
//! | module | what |
//! |---|---|
//! | `boot`, `entry.s` | from the loader to the first Rust code |
//! | `layout` | addresses of the kernel's half |
//! | `memory_map`, `ram`, `common`, `frames` | memory: the map, the pools of all processors, the free pages of one |
//! | `paging`, `entry_bits`, `space` | page tables: the kernel's own, and spaces |
//! | `cpu`, `per_cpu` | features; what each processor has of its own |
//! | `smp`, `trampoline.s` | the processors but the first: started, woken, stopped |
//! | `cores` | a machine for each of them |
//! | `trap`, `guest` | into the kernel, and into a guest |
//! | `machine`, `processor` | the whole as one value; its traits |
//! | `time`, `scale`, `apic`, `alarm` | clock, alarm, interrupt controllers |
//! | `firmware` | ACPI |
//! | `virtio`, `net`, `disk`, `pool` | devices |
//! | `parts` | one disk for many cores |
//! | `serial`, `bytes`, `logger`, `panic` | the serial line, the log, and the last thing said on it |
//! | `alone` | a program in place of guests: in ring 0, with the machine to itself |
//!
//! Invariants: the kernel runs with interrupts off, but for the one instruction in which it halts, so nothing here
//! runs in interrupt context. It has no vector registers of its own. It never faults: an exception in the kernel
//! ends the machine. Guest memory is only reached through the direct map, by copies and atomics.
#![no_std]
#![warn(missing_docs)]
#![cfg_attr(
    target_os = "none",
    allow(
        clippy::cast_possible_truncation,
        reason = "64-bit only: addresses, lengths and words of the processor change their type, not their value"
    )
)]
#![cfg_attr(
    not(target_os = "none"),
    allow(dead_code, reason = "on the host only the pure modules are built, for tests")
)]

#[cfg(test)]
extern crate std;

extern crate alloc;

/// Bytes in a page.
pub(crate) const PAGE: u64 = 4096;

// Pure: built and tested on the host too.
mod alarm;
mod bytes;
mod entry_bits;
mod memory_map;
mod parts;
mod scale;

#[cfg(target_os = "none")]
mod alone;
#[cfg(target_os = "none")]
mod apic;
#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod common;
#[cfg(target_os = "none")]
mod copy;
#[cfg(target_os = "none")]
mod cores;
#[cfg(target_os = "none")]
mod cpu;
#[cfg(target_os = "none")]
mod disk;
#[cfg(target_os = "none")]
mod firmware;
#[cfg(target_os = "none")]
mod frames;
#[cfg(target_os = "none")]
mod guest;
#[cfg(target_os = "none")]
mod heap;
#[cfg(target_os = "none")]
mod layout;
#[cfg(target_os = "none")]
mod logger;
#[cfg(target_os = "none")]
mod machine;
#[cfg(target_os = "none")]
mod net;
#[cfg(target_os = "none")]
mod paging;
#[cfg(target_os = "none")]
mod panic;
#[cfg(target_os = "none")]
mod per_cpu;
#[cfg(target_os = "none")]
mod pool;
#[cfg(target_os = "none")]
mod processor;
#[cfg(target_os = "none")]
mod ram;
#[cfg(target_os = "none")]
mod serial;
#[cfg(target_os = "none")]
mod smp;
#[cfg(target_os = "none")]
mod space;
#[cfg(target_os = "none")]
mod time;
#[cfg(target_os = "none")]
mod trap;
#[cfg(target_os = "none")]
mod virtio;

#[cfg(target_os = "none")]
pub use crate::{
    alone::{Alone, Answer},
    boot::{BootInfo, LoaderError},
    cpu::Features,
    guest::kernel_flags,
    heap::{
        claimed_bytes as heap_claimed_bytes, is_in_window as is_in_heap_window, room as heap_room,
        used_bytes as heap_bytes,
    },
    logger::start as start_logger,
    machine::{Config, Machine, StartError, StartFault},
    panic::{die, halt_for_ever, refuse},
    serial::{print, start as start_serial},
    smp::Job,
    space::{Space, rights_at},
    time::uptime_ns,
};
