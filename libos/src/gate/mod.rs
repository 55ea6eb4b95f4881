//! The supervisor gate, typed: operations are awaited, events come as a stream.
//!
//! Only a VM with the privilege bit has the gate; on the host it is refused.
//!
//! ```
//! use libos::gate::{Answer, Error, Operation, call, next_event};
//!
//! # libos::block_on(async {
//! match call(Operation::Inspect { vm: 7 }).await {
//!     Ok(Answer::Vm(status)) => println!("VM 7 has {} pages of its own", status.private_pages),
//!     Ok(_) => unreachable!("each operation has its answer"),
//!     Err(Error::NotPermitted) => println!("this program is no supervisor"),
//!     Err(e) => println!("{e}"),
//! }
//! # });
//! async fn report() -> ! {
//!     loop {
//!         println!("{:?}", next_event().await);
//!     }
//! }
//! ```

#[cfg(any(firn_guest, test))]
mod tickets;

#[cfg(firn_guest)]
mod guest;
#[cfg(firn_guest)]
pub use guest::{call, next_event};
#[cfg(not(firn_guest))]
mod host;
#[cfg(not(firn_guest))]
pub use host::{call, next_event};

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::fmt;
pub use virtual_isa::gate::{Event, GateError, MachineStatus, Operation, Tier, VmState, VmStatus};

/// How an operation ended well: [`virtual_isa::gate::Answer`] with bytes of its own. What is long and rare is boxed:
/// answers wait in a table for their askers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Done, nothing to tell.
    Done,
    /// To `LoadImage`: names the image in `Create`.
    Image(u32),
    /// To `Entry`.
    Entry {
        /// [`virtual_isa::bundle::EntryKind`], as a number.
        kind: u32,
        /// Its length.
        bytes: u32,
    },
    /// To `ReadEntry`.
    Bytes(Vec<u8>),
    /// To `Inspect`.
    Vm(Box<VmStatus>),
    /// To `Machine`.
    Machine(Box<MachineStatus>),
}

impl From<virtual_isa::gate::Answer<'_>> for Answer {
    fn from(answer: virtual_isa::gate::Answer<'_>) -> Self {
        use virtual_isa::gate::Answer as Wire;
        match answer {
            Wire::Done => Self::Done,
            Wire::Image { image } => Self::Image(image),
            Wire::Entry { kind, bytes } => Self::Entry { kind, bytes },
            Wire::Bytes(bytes) => Self::Bytes(bytes.into()),
            Wire::Vm(status) => Self::Vm(Box::new(status)),
            Wire::Machine(status) => Self::Machine(Box::new(status)),
        }
    }
}

/// Why an operation did not end well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The kernel refused it.
    Refused(GateError),
    /// This program has no gate: it is not VM 0, or not a VM at all.
    NotPermitted,
    /// The operation is too long for a request.
    TooLong,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(e) => e.fmt(f),
            Self::NotPermitted => f.write_str("only the supervisor VM has the gate"),
            Self::TooLong => f.write_str("the request is too long"),
        }
    }
}

impl core::error::Error for Error {}
