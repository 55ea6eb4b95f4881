//! Address spaces of the VM's own: entering one after the other, loading entries, misses.

extern crate alloc;

use crate::Error;
use alloc::boxed::Box;
use hostile::frames::word;
use hostile::spaces::{Page, enter, entry, load};
use libos::instruction::{InstructionError, NO_DEADLINE};
use virtual_isa::context::{Context, Exit};
use virtual_isa::control;
use virtual_isa::tlb::{Key, Right, Rights};

/// Where the program is in each space.
const CODE: u64 = 0x40_0000;

/// First page that is used beyond it.
const FIRST: u32 = 0x1000;

/// `syscall`, and back to it.
const CALL: [u8; 4] = [0x0f, 0x05, 0xeb, 0xfc];

/// `mov rax, [rdi]; add rdi, 4096`, and back to it.
const WALK: [u8; 12] = [0x48, 0x8b, 0x07, 0x48, 0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, 0xeb, 0xf4];

/// Pages and what is in them.
pub struct Spaces {
    code: Box<Page>,
    data: Box<Page>,
}

impl From<InstructionError> for Error {
    fn from(_: InstructionError) -> Self {
        Self::Space
    }
}

impl Spaces {
    /// Two spaces with a program that comes back at once, and a third with one that walks through its pages.
    pub fn new() -> Result<Self, Error> {
        let mut spaces = Self { code: Box::new(Page::ZERO), data: Box::new(Page::ZERO) };
        spaces.code.0[..CALL.len()].copy_from_slice(&CALL);
        spaces.code.0[64..64 + WALK.len()].copy_from_slice(&WALK);
        // Nothing else is to end a context.
        word(control::ENABLED).store(0, core::sync::atomic::Ordering::Release);
        let rights = Rights::READ | Rights::EXECUTE | Rights::USER;
        load(&[1, 2, 3].map(|asid| entry(asid, CODE, &spaces.code, rights)))?;
        Ok(spaces)
    }

    /// Enters contexts in two spaces by turns, each of which comes back at once.
    pub fn enter(&mut self, count: u32) -> Result<(), Error> {
        let mut contexts = [1, 2].map(|asid| (asid, Context::at(CODE, 0)));
        for _ in 0..count / 2 {
            for (asid, context) in &mut contexts {
                let (after, exit) = enter(*asid, Right::User, NO_DEADLINE, context)?;
                *context = after;
                if exit != Exit::Instruction {
                    return Err(Error::Space);
                }
            }
        }
        Ok(())
    }

    /// Lets a context walk through pages that have no entry yet, and gives it one for each.
    pub fn miss(&mut self, count: u32) -> Result<(), Error> {
        let mut context = Context { rdi: u64::from(FIRST) << 12, ..Context::at(CODE + 64, 0) };
        for _ in 0..count {
            let (after, exit) = enter(3, Right::User, NO_DEADLINE, &context)?;
            let Exit::Miss { address, .. } = exit else { return Err(Error::Space) };
            // Entries make room for others as chance has it, that of the program too.
            let is_code = address < u64::from(FIRST) << 12;
            let (page, right) = if is_code { (&self.code, Rights::EXECUTE) } else { (&self.data, Rights::WRITE) };
            load(&[entry(3, address, page, Rights::READ | Rights::USER | right)])?;
            context = after;
        }
        Ok(())
    }

    /// Loads `N` entries at a time, instead of those that were loaded before.
    pub fn write<const N: usize>(&mut self, count: u32) -> Result<(), Error> {
        let rights = Rights::READ | Rights::USER;
        let mut entries = [entry(4, CODE, &self.data, rights); N];
        for (entry, page) in entries.iter_mut().zip(FIRST..) {
            entry.key = Key { page, ..entry.key };
        }
        for _ in 0..count {
            load(&entries)?;
        }
        Ok(())
    }
}
