//! A task: a program that runs, in an address space of its own.

use crate::elf::Program;
use crate::pipe::{Reader, Writer};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use libos::mmu::{AddressSpace, Backing, Fill, MapError, Mmu, NotFilled, Pool, Rights, SharedMemory, Thread};
use libos::virtual_isa::PAGE_SIZE;
use programs::abi::{CONSOLE, Error, HEAP_BASE, MAX_HANDLES, SHARED_BASE, STACK_PAGES, STACK_TOP};

use crate::calls::Call;

/// Bytes of a page.
const PAGE: u64 = PAGE_SIZE as u64;

/// Number of a task, never used again.
pub type Pid = u64;

/// What a task's handle stands for.
#[derive(Clone, Debug)]
pub enum Handle {
    /// The reading end of a pipe.
    Reader(Reader),
    /// The writing end of a pipe.
    Writer(Writer),
    /// Shared memory.
    Memory(Rc<SharedMemory>),
}

/// The handles of a task. Handle 0 is the console, which everybody has.
#[derive(Debug, Default)]
pub struct Handles([Option<Handle>; MAX_HANDLES]);

impl Handles {
    /// The thing behind a handle.
    ///
    /// # Errors
    /// `BadHandle`.
    pub fn get(&self, handle: u64) -> Result<&Handle, Error> {
        let handle = usize::try_from(handle).map_err(|_| Error::BadHandle)?;
        self.0.get(handle).and_then(Option::as_ref).ok_or(Error::BadHandle)
    }

    /// How many more there can be.
    #[must_use]
    pub fn room(&self) -> usize {
        self.0.iter().skip(1).filter(|handle| handle.is_none()).count()
    }

    /// Gives something a handle.
    ///
    /// # Errors
    /// `Limit` if all are in use.
    pub fn add(&mut self, thing: Handle) -> Result<u64, Error> {
        let mut free = self.0.iter_mut().enumerate().skip(1);
        let (n, place) = free.find(|(_, place)| place.is_none()).ok_or(Error::Limit)?;
        *place = Some(thing);
        Ok(n as u64)
    }

    /// Gives a handle up.
    ///
    /// # Errors
    /// `BadHandle`.
    pub fn close(&mut self, handle: u64) -> Result<(), Error> {
        if handle == CONSOLE {
            return Err(Error::BadHandle);
        }
        let handle = usize::try_from(handle).map_err(|_| Error::BadHandle)?;
        self.0.get_mut(handle).and_then(Option::take).map(|_| ()).ok_or(Error::BadHandle)
    }
}

/// A task.
#[derive(Debug)]
pub struct Task {
    /// Its number.
    pub pid: Pid,
    /// What it is called in messages.
    pub label: String,
    /// The task that spawned it, if one did.
    pub parent: Option<Pid>,
    /// The first of those that spawned each other, down to this one.
    pub family: Pid,
    /// Its memory.
    pub space: AddressSpace,
    /// Its registers.
    pub thread: Box<Thread>,
    /// Its handles.
    pub handles: Handles,
    /// Tasks that it has spawned and not waited for, and the status of each that has ended.
    pub children: BTreeMap<Pid, Option<u64>>,
    /// The system call that it waits to be able to make.
    pub waits_to: Option<Call>,
    /// Turns that it used up to the end.
    pub nr_full_turns: u32,
    /// The line that it prints.
    pub line: Vec<u8>,
    /// Bytes that it has printed.
    pub printed: usize,
    /// First page behind its heap.
    pub heap_end: u64,
    /// First page behind the shared memory that it has attached.
    pub shared_end: u64,
}

/// What the initialised memory of a program holds.
struct Content {
    start: u64,
    bytes: &'static [u8],
}

impl Fill for Content {
    fn fill(&self, page: u64, bytes: &mut [u8; PAGE_SIZE]) -> Result<(), NotFilled> {
        let first = page.checked_mul(PAGE).ok_or(NotFilled)?;
        // The content may begin or end on this page, or have ended on one before.
        let skipped = usize::try_from(self.start.saturating_sub(first)).map_err(|_| NotFilled)?;
        let done = usize::try_from(first.saturating_sub(self.start)).map_err(|_| NotFilled)?;
        let to = bytes.get_mut(skipped..).unwrap_or(&mut []);
        for (to, from) in to.iter_mut().zip(self.bytes.get(done..).unwrap_or(&[])) {
            *to = *from;
        }
        Ok(())
    }
}

/// Makes the memory of a program. Text and constants are mapped where they lie in this guest's own image.
///
/// # Errors
/// See [`MapError`].
pub fn load(mmu: &Mmu, pool: &Pool, limit: usize, program: &Program) -> Result<AddressSpace, MapError> {
    let mut space = AddressSpace::new(mmu, pool, limit);
    for segment in &program.segments {
        let backing = match segment.in_place {
            Some(pages) => Backing::Image(pages),
            None => Backing::Filled(Rc::new(Content { start: segment.start, bytes: segment.content })),
        };
        space.map(segment.pages.clone(), segment.rights, backing)?;
    }
    let stack_end = STACK_TOP / PAGE;
    space.map(stack_end - STACK_PAGES..stack_end, Rights::READ | Rights::WRITE | Rights::USER, Backing::Zero)?;
    Ok(space)
}

impl Task {
    /// A task that has not run yet.
    #[must_use]
    pub fn new(pid: Pid, label: &str, program: &Program, space: AddressSpace, argument: u64) -> Self {
        let mut thread = Box::new(Thread::new(program.entry, STACK_TOP));
        thread.registers.rdi = argument;
        Self {
            pid,
            label: label.into(),
            parent: None,
            family: pid,
            space,
            thread,
            handles: Handles::default(),
            children: BTreeMap::new(),
            waits_to: None,
            nr_full_turns: 0,
            line: Vec::new(),
            printed: 0,
            heap_end: HEAP_BASE / PAGE,
            shared_end: SHARED_BASE / PAGE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipe::pipe;

    #[test]
    fn handles_are_the_lowest_free_ones_and_never_the_consoles() {
        let mut handles = Handles::default();
        let (reader, writer) = pipe();
        assert_eq!(handles.room(), MAX_HANDLES - 1);
        assert_eq!(handles.add(Handle::Reader(reader.clone())), Ok(1));
        for n in 2..MAX_HANDLES as u64 {
            assert_eq!(handles.add(Handle::Writer(writer.clone())), Ok(n));
        }
        assert_eq!((handles.room(), handles.add(Handle::Reader(reader))), (0, Err(Error::Limit)));
        assert_eq!((handles.close(3), handles.close(3)), (Ok(()), Err(Error::BadHandle)));
        assert_eq!(handles.add(Handle::Writer(writer)), Ok(3));
        for bad in [CONSOLE, MAX_HANDLES as u64, u64::MAX] {
            assert!(handles.get(bad).is_err() && handles.close(bad).is_err());
        }
    }

    #[test]
    fn content_is_placed_on_its_pages_and_the_rest_is_zero() {
        static BYTES: [u8; 6000] = [7; 6000];
        let content = Content { start: 5 * PAGE + 100, bytes: &BYTES };
        let page = |page| {
            let mut bytes = [0; PAGE_SIZE];
            content.fill(page, &mut bytes).unwrap();
            bytes
        };
        assert!(page(5)[..100].iter().all(|&b| b == 0) && page(5)[100..].iter().all(|&b| b == 7));
        let rest = 6000 - (PAGE_SIZE - 100);
        assert!(page(6)[..rest].iter().all(|&b| b == 7) && page(6)[rest..].iter().all(|&b| b == 0));
        assert_eq!((page(7), page(4)), ([0; PAGE_SIZE], [0; PAGE_SIZE]));
    }
}
