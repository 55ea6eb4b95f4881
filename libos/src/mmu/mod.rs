//! Address spaces of a VM's own: for a guest that is an operating system, or that keeps parts of itself apart.
//!
//! The program itself runs in the VM's physical memory, as every program of this libOS does. Beside it there can be any
//! number of [`AddressSpace`]s, each of which says what its pages are, range by range; a [`Thread`] runs in one of them
//! by [`AddressSpace::enter`], which is a call and comes back with the reason. No page of this program can be reached
//! from a space unless it was mapped there.
//!
//! ```no_run
//! use libos::mmu::{AddressSpace, Backing, Exit, Mmu, Pool, Rights, Thread};
//!
//! # fn answer(_: &mut Thread) {}
//! # async fn run(text: &'static [u8]) -> Result<(), Box<dyn std::error::Error>> {
//! let mmu = Mmu::new().ok_or("only one at a time")?;
//! let pool = Pool::new(256);
//! let mut space = AddressSpace::new(&mmu, &pool, 32);
//! space.map(0x400..0x401, Rights::READ | Rights::EXECUTE | Rights::USER, Backing::Image(text))?;
//! space.map(0x500..0x510, Rights::READ | Rights::WRITE | Rights::USER, Backing::Zero)?;
//!
//! let mut thread = Thread::new(0x40_0000, 0x51_0000);
//! loop {
//!     let deadline = libos::time::Instant::now().as_nanos() + 2_000_000;
//!     match space.enter(&mut thread, deadline)? {
//!         // Its time is up, or a frame has come: others have their turn, then it goes on.
//!         Exit::Interrupt => libos::task::yield_now().await,
//!         // It executed `syscall`: what that means is this program's to say.
//!         Exit::Instruction => answer(&mut thread),
//!         Exit::Fault(fault) => return Err(fault.into()),
//!         Exit::Exception { exception, .. } => return Err(exception.name().into()),
//!     }
//! }
//! # }
//! ```
//!
//! The processor knows a space by the entries that were loaded for it; it may lose any of them, and there are fewer
//! asids than there may be spaces. Neither is seen here: what is missing is loaded when it is missed.
//!
//! On the host the same types work over a [`fake`] processor, for tests.

mod asids;
mod pages;
mod ranges;
mod space;
mod thread;

#[cfg(not(firn_guest))]
pub mod fake;
#[cfg(not(firn_guest))]
use fake as hardware;
#[cfg(firn_guest)]
mod hardware;

#[cfg(test)]
mod tests;

pub use pages::{Page, Pool, SharedMemory};
pub use space::{AddressSpace, Backing, MAX_AREAS};
pub use thread::Thread;
pub use virtual_isa::context::Context;
pub use virtual_isa::exception::{Access, Exception};
pub use virtual_isa::tlb::{Right, Rights};

use alloc::rc::Rc;
use core::cell::RefCell;
use core::fmt;
use virtual_isa::PAGE_SIZE;

/// The processor's part in address spaces, of which a VM has one. Clones of it are the same.
#[derive(Clone, Debug)]
pub struct Mmu(Rc<Processor>);

#[derive(Debug)]
struct Processor {
    asids: RefCell<asids::Asids>,
}

impl Drop for Processor {
    fn drop(&mut self) {
        hardware::release();
    }
}

impl Mmu {
    /// The VM's; `None` while somebody has it.
    ///
    /// Only after `ready()`, as everywhere behind `#[libos::main]`.
    #[must_use]
    pub fn new() -> Option<Self> {
        hardware::take().then(|| Self(Rc::new(Processor { asids: RefCell::new(asids::Asids::new()) })))
    }
}

/// Fills pages when they are first used: see [`Backing::Filled`].
pub trait Fill {
    /// Fills a page of zeros that becomes page number `page` of a space.
    ///
    /// # Errors
    /// If there is nothing to fill it with: the access that needed it faults.
    fn fill(&self, page: u64, bytes: &mut [u8; PAGE_SIZE]) -> Result<(), NotFilled>;
}

/// A page that could not be filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotFilled;

/// Why a thread came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Something enabled is pending, or the deadline has passed.
    Interrupt,
    /// It executed `syscall` at user right. Its registers say what it wants; `rip` is behind the instruction.
    Instruction,
    /// It used memory in a way it may not. `rip` is at the instruction, which has had no effect.
    Fault(Fault),
    /// It raised an exception.
    Exception {
        /// Which.
        exception: Exception,
        /// The processor's error code, or 0.
        code: u64,
    },
}

/// An access that a space does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The address.
    pub address: u64,
    /// What was tried there.
    pub access: Access,
    /// Why it cannot be.
    pub cause: FaultCause,
}

/// Why an access cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultCause {
    /// Nothing is mapped there.
    Unmapped,
    /// What is mapped there does not allow it.
    Protection,
    /// The space has all the pages that it may have.
    Limit,
    /// The pool, or the VM, has no page left.
    NoMemory,
    /// Whoever was to fill the page could not.
    NotFilled,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.access {
            Access::Read => "read of",
            Access::Write => "write to",
            Access::Execute => "execution of",
        };
        let why = match self.cause {
            FaultCause::Unmapped => "nothing is there",
            FaultCause::Protection => "not allowed there",
            FaultCause::Limit => "it has all the memory it may have",
            FaultCause::NoMemory => "no memory is left",
            FaultCause::NotFilled => "the page cannot be filled",
        };
        write!(f, "{what} {:#x}: {why}", self.address)
    }
}

impl core::error::Error for Fault {}

/// Why pages cannot be mapped, protected or taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapError {
    /// An empty range, page 0, or pages that no space has.
    BadRange,
    /// Rights that no page can have, or not this one.
    BadRights,
    /// The backing has not whole pages for all of the range.
    BadBacking,
    /// A page is mapped already.
    Overlap,
    /// A page is not mapped.
    NotMapped,
    /// The space would have more than [`MAX_AREAS`] ranges.
    TooManyAreas,
    /// The space would have more pages than it may.
    OverLimit,
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadRange => "no range of pages that a space can have",
            Self::BadRights => "rights that these pages cannot have",
            Self::BadBacking => "what is to be mapped has not whole pages for all of the range",
            Self::Overlap => "a page is mapped already",
            Self::NotMapped => "a page is not mapped",
            Self::TooManyAreas => "too many ranges of pages",
            Self::OverLimit => "more pages than the space may have",
        })
    }
}

impl core::error::Error for MapError {}

/// What a space uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Pages of its own.
    pub own_pages: usize,
    /// Pages of shared memory that it has mapped.
    pub shared_pages: usize,
    /// Most pages of both kinds that it may have.
    pub limit_pages: usize,
    /// Ranges of pages.
    pub areas: usize,
    /// Times that a thread missed an entry, or found one that did not allow what it did.
    pub misses: u64,
    /// Pages that were made.
    pub fills: u64,
}
