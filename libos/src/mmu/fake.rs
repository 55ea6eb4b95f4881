//! A processor for tests on the host: it has the software-loaded TLB of the ISA, and runs a closure as a context.
//!
//! Each thread of the host has its own. It checks what must never be: a page that is given back while an entry still
//! maps it.
//!
//! ```
//! use libos::mmu::{AddressSpace, Backing, Exit, Mmu, Pool, Rights, Thread, fake};
//!
//! fake::set_program(|processor, registers| {
//!     // A context that counts in memory and asks its kernel for something when it has counted to 3.
//!     loop {
//!         let count = match processor.read(0x5000) {
//!             Ok(count) => count,
//!             Err(exit) => return exit,
//!         };
//!         if count == 3 {
//!             registers.rax = 77;
//!             return virtual_isa::context::Exit::Instruction;
//!         }
//!         if let Err(exit) = processor.write(0x5000, count + 1) {
//!             return exit;
//!         }
//!     }
//! });
//!
//! let mmu = Mmu::new().unwrap();
//! let mut space = AddressSpace::new(&mmu, &Pool::new(8), 8);
//! space.map(5..6, Rights::READ | Rights::WRITE | Rights::USER, Backing::Zero)?;
//! let mut thread = Thread::new(0x40_0000, 0);
//! assert_eq!(space.enter(&mut thread, u64::MAX), Ok(Exit::Instruction));
//! assert_eq!(thread.registers.rax, 77);
//! # fake::set_program(|_, _| virtual_isa::context::Exit::Interrupt);
//! # Ok::<(), libos::mmu::MapError>(())
//! ```
//!
//! What the processor forgets is loaded again, and is not seen:
//!
//! ```
//! use libos::mmu::{AddressSpace, Backing, Exit, Mmu, Pool, Rights, Thread, fake};
//!
//! fn program(processor: &fake::Processor) -> virtual_isa::context::Exit {
//!     let found = processor.execute(0x5000).and_then(|()| processor.read(0x5000));
//!     found.map_or_else(|exit| exit, |_| virtual_isa::context::Exit::Instruction)
//! }
//! fake::set_program(|processor, _| program(processor));
//!
//! let mmu = Mmu::new().unwrap();
//! let mut space = AddressSpace::new(&mmu, &Pool::new(8), 8);
//! space.map(5..6, Rights::READ | Rights::EXECUTE | Rights::USER, Backing::Zero)?;
//! let mut thread = Thread::new(0x40_0000, 0);
//! for _ in 0..2 {
//!     assert_eq!(space.enter(&mut thread, u64::MAX), Ok(Exit::Instruction));
//!     assert_eq!(fake::nr_entries(), 1);
//!     fake::lose_entries();
//! }
//! # fake::set_program(|_, _| virtual_isa::context::Exit::Interrupt);
//! # Ok::<(), libos::mmu::MapError>(())
//! ```

use super::thread::Thread;
use core::cell::RefCell;
use core::ptr::NonNull;
use std::boxed::Box;
use std::collections::HashMap;
use virtual_isa::PAGE_SIZE;
use virtual_isa::context::{Context, Exit};
use virtual_isa::exception::Access;
use virtual_isa::instruction::InstructionError;
use virtual_isa::layout::page_of;
use virtual_isa::tlb::{EVERY_ASID, Entry, Key, Right, Rights};

type Program = Box<dyn FnMut(&Processor, &mut Context) -> Exit>;

#[derive(Default)]
struct State {
    is_taken: bool,
    entries: HashMap<Key, (u32, Rights)>,
    /// Addresses of the host's by physical page, and the other way round.
    pages: HashMap<u32, usize>,
    numbers: HashMap<usize, u32>,
    program: Option<Program>,
}

std::thread_local! {
    static STATE: RefCell<State> = RefCell::default();
}

/// The processor, as a context sees it.
#[derive(Debug)]
pub struct Processor {
    asid: u16,
    right: Right,
}

impl Processor {
    /// The byte at an address of the context's space.
    ///
    /// # Errors
    /// The exit that the access ends with.
    pub fn read(&self, address: u64) -> Result<u8, Exit> {
        // SAFETY: an entry maps the byte, and a page that one maps is there: `forget` checks it.
        self.find(address, Access::Read).map(|at| unsafe { *at })
    }

    /// Writes the byte at an address of the context's space.
    ///
    /// # Errors
    /// The exit that the access ends with.
    pub fn write(&self, address: u64, byte: u8) -> Result<(), Exit> {
        // SAFETY: as in `read`; nothing is mapped for writing that is borrowed while contexts run.
        self.find(address, Access::Write).map(|at| unsafe { *at = byte })
    }

    /// Whether an instruction could be fetched there.
    ///
    /// # Errors
    /// The exit that the access ends with.
    pub fn execute(&self, address: u64) -> Result<(), Exit> {
        self.find(address, Access::Execute).map(|_| ())
    }

    fn find(&self, address: u64, access: Access) -> Result<*mut u8, Exit> {
        let page = u32::try_from(page_of(address)).map_err(|_| Exit::Miss { address, access })?;
        STATE.with_borrow(|state| {
            let found = state.entries.get(&Key { asid: self.asid, page });
            let &(physical, rights) = found.ok_or(Exit::Miss { address, access })?;
            let is_visible = self.right == Right::Kernel || rights.contains(Rights::USER);
            if !rights.allow(access) || !is_visible {
                return Err(Exit::Protection { address, access });
            }
            let page = core::ptr::with_exposed_provenance_mut::<u8>(state.pages[&physical]);
            let offset = usize::try_from(address).unwrap_or(0) % PAGE_SIZE;
            Ok(page.wrapping_add(offset))
        })
    }
}

/// Sets what contexts do on this thread of the host from now on.
pub fn set_program(program: impl FnMut(&Processor, &mut Context) -> Exit + 'static) {
    STATE.with_borrow_mut(|state| state.program = Some(Box::new(program)));
}

/// Drops all entries, as the kernel may at any time.
pub fn lose_entries() {
    STATE.with_borrow_mut(|state| state.entries.clear());
}

/// How many entries there are.
#[must_use]
pub fn nr_entries() -> usize {
    STATE.with_borrow(|state| state.entries.len())
}

/// Whether nobody has the processor.
pub(super) fn take() -> bool {
    STATE.with_borrow_mut(|state| !core::mem::replace(&mut state.is_taken, true))
}

/// It is nobody's again.
pub(super) fn release() {
    // At the end of the host's thread it may be gone already.
    let _ = STATE.try_with(|state| state.borrow_mut().is_taken = false);
}

pub(super) fn physical_page(at: NonNull<u8>) -> u32 {
    STATE.with_borrow_mut(|state| {
        let next = u32::try_from(state.numbers.len()).unwrap_or(u32::MAX) + 1;
        let number = *state.numbers.entry(at.addr().get()).or_insert(next);
        state.pages.insert(number, at.as_ptr().expose_provenance());
        number
    })
}

pub(super) fn forget(at: NonNull<u8>) {
    let check = |state: &RefCell<State>| {
        let state = state.borrow();
        let Some(number) = state.numbers.get(&at.addr().get()) else { return };
        let user = state.entries.iter().find(|(_, (physical, _))| physical == number);
        assert!(user.is_none(), "a page goes while an entry maps it: {user:?}");
    };
    // A page that outlives the thread's other values is no context's any more.
    let _ = STATE.try_with(check);
}

/// # Safety
/// None is needed: it is the guest's that needs it.
pub(super) unsafe fn load(entries: &[Entry]) -> Result<(), InstructionError> {
    STATE.with_borrow_mut(|state| {
        for entry in entries {
            Entry::from_words(entry.to_words())?;
            state.entries.insert(entry.key, (entry.physical, entry.rights));
        }
        Ok(())
    })
}

pub(super) fn invalidate(key: Key, nr_pages: u64) {
    let pages = u64::from(key.page)..u64::from(key.page) + nr_pages;
    STATE.with_borrow_mut(|state| {
        let is_meant = |k: &Key| (key.asid == EVERY_ASID || k.asid == key.asid) && pages.contains(&u64::from(k.page));
        state.entries.retain(|k, _| !is_meant(k));
    });
}

pub(super) fn enter(asid: u16, right: Right, _deadline_ns: u64, thread: &mut Thread) -> Result<Exit, InstructionError> {
    thread.registers.check()?;
    let program = STATE.with_borrow_mut(|state| state.program.take());
    let mut program = program.ok_or(InstructionError::UndefinedInstruction)?;
    let exit = program(&Processor { asid, right }, &mut thread.registers);
    STATE.with_borrow_mut(|state| {
        // Unless it was set anew meanwhile.
        state.program.get_or_insert(program);
    });
    Ok(exit)
}
