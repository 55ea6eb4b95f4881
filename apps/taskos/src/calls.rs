//! System calls: what the registers say, and what is done about it.
//!
//! A call that cannot be made now waits, and is made again from its beginning when something has changed. So a call
//! has no effect before it is certain that it succeeds.

use crate::fate::StartError;
use crate::kernel::Kernel;
use crate::pipe::{Transfer, pipe};
use crate::task::{Handle, Pid, Task};
use libos::mmu::{Backing, Context, MapError, Rights, SharedMemory};
use libos::virtual_isa::PAGE_SIZE;
use programs::abi::{CONSOLE, Error, HEAP_LIMIT, MAX_TRANSFER, NO_HANDLE, Number, SHARED_LIMIT};

/// Most bytes of a program's name.
const MAX_NAME: usize = 32;

/// Most pages of shared memory in one piece.
const MAX_SHARED_PAGES: u64 = 16;

/// Bytes of a page.
const PAGE: u64 = PAGE_SIZE as u64;

/// Memory that a program reads and writes.
const READ_WRITE: Rights = Rights::READ.union(Rights::WRITE).union(Rights::USER);

/// A system call, read from registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    number: Number,
    arguments: [u64; 4],
}

/// What comes of a call that is not refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The program goes on with this result.
    Value(u64),
    /// The others have their turn first; the result is 0.
    Yield,
    /// It sleeps until this time of the machine's clock; the result is 0.
    Sleep(u64),
    /// It waits until something has changed.
    Wait,
    /// It ends with this status.
    Exit(u64),
}

impl Call {
    /// Reads the registers of a program that has executed `syscall`.
    ///
    /// # Errors
    /// The number, if there is no such call.
    pub fn of(registers: &Context) -> Result<Self, u64> {
        let number = Number::from_word(registers.rax).ok_or(registers.rax)?;
        Ok(Self { number, arguments: [registers.rdi, registers.rsi, registers.rdx, registers.r10] })
    }
}

impl Kernel {
    /// Makes a call of a task, which is out of the table meanwhile.
    pub(crate) fn perform(&mut self, task: &mut Task, call: Call) -> Result<Answer, Error> {
        let [first, second, third, fourth] = call.arguments;
        match call.number {
            Number::Exit if first < 256 => Ok(Answer::Exit(first)),
            Number::Exit => Err(Error::BadArgument),
            Number::Yield => Ok(Answer::Yield),
            Number::Sleep => Ok(Answer::Sleep(self.now_ns().saturating_add(first))),
            Number::Clock => Ok(Answer::Value(self.now_ns())),
            Number::Write => self.write(task, first, second, third),
            Number::Read => self.read(task, first, second, third),
            Number::Close => {
                task.handles.close(first)?;
                self.has_changed();
                Ok(Answer::Value(0))
            }
            Number::Pipe => make_pipe(task),
            Number::Memory => self.memory(task, first),
            Number::Attach => attach(task, first),
            Number::Grow => grow(task, first),
            Number::Spawn => self.spawn(task, (first, second), third, fourth),
            Number::Wait => wait(task, first),
        }
    }

    fn write(&mut self, task: &mut Task, handle: u64, address: u64, length: u64) -> Result<Answer, Error> {
        let mut buffer = [0; MAX_TRANSFER];
        let length = usize::try_from(length).unwrap_or(MAX_TRANSFER).min(MAX_TRANSFER);
        let writer = match handle {
            CONSOLE => None,
            _ => match task.handles.get(handle)? {
                Handle::Writer(writer) => Some(writer.clone()),
                _ => return Err(Error::BadHandle),
            },
        };
        let length = match writer.as_ref().map_or(Transfer::Done(length), |writer| writer.room(length)) {
            Transfer::Done(length) => length,
            Transfer::Wait => return Ok(Answer::Wait),
            Transfer::Broken => return Err(Error::Broken),
        };
        let bytes = &mut buffer[..length];
        task.space.read(address, bytes).map_err(|_| Error::BadAddress)?;
        match writer {
            Some(writer) => {
                writer.put(bytes);
                self.has_changed();
            }
            None => self.print(task, bytes),
        }
        Ok(Answer::Value(length as u64))
    }

    fn read(&mut self, task: &mut Task, handle: u64, address: u64, length: u64) -> Result<Answer, Error> {
        let mut buffer = [0; MAX_TRANSFER];
        let length = usize::try_from(length).unwrap_or(MAX_TRANSFER).min(MAX_TRANSFER);
        let Handle::Reader(reader) = task.handles.get(handle)? else { return Err(Error::BadHandle) };
        let reader = reader.clone();
        let length = match reader.available(length) {
            Transfer::Done(length) => length,
            Transfer::Wait => return Ok(Answer::Wait),
            Transfer::Broken => return Ok(Answer::Value(0)),
        };
        let bytes = &mut buffer[..length];
        reader.peek(bytes);
        task.space.write(address, bytes).map_err(|_| Error::BadAddress)?;
        reader.take(length);
        self.has_changed();
        Ok(Answer::Value(length as u64))
    }

    fn memory(&mut self, task: &mut Task, nr_pages: u64) -> Result<Answer, Error> {
        match nr_pages {
            0 => return Err(Error::BadArgument),
            n if n > MAX_SHARED_PAGES || task.handles.room() == 0 => return Err(Error::Limit),
            _ => {}
        }
        let nr_pages = usize::try_from(nr_pages).map_err(|_| Error::Limit)?;
        let memory = SharedMemory::try_new(self.pool(), nr_pages).ok_or(Error::NoMemory)?;
        task.handles.add(Handle::Memory(memory)).map(Answer::Value)
    }

    fn spawn(&mut self, task: &mut Task, name: (u64, u64), argument: u64, handle: u64) -> Result<Answer, Error> {
        let mut buffer = [0; MAX_NAME];
        let length = usize::try_from(name.1).ok().filter(|&n| n <= MAX_NAME).ok_or(Error::BadArgument)?;
        let buffer = &mut buffer[..length];
        task.space.read(name.0, buffer).map_err(|_| Error::BadAddress)?;
        let name = core::str::from_utf8(buffer).map_err(|_| Error::NoProgram)?;
        let handle = match handle {
            NO_HANDLE => None,
            handle => Some(task.handles.get(handle)?.clone()),
        };
        let child = self.start_child(task, name, argument, handle).map_err(|error| match error {
            StartError::NoProgram | StartError::Elf(_) => Error::NoProgram,
            StartError::Limit => Error::Limit,
            StartError::Map(_) => Error::NoMemory,
        })?;
        task.children.insert(child, None);
        Ok(Answer::Value(child))
    }
}

fn make_pipe(task: &mut Task) -> Result<Answer, Error> {
    if task.handles.room() < 2 {
        return Err(Error::Limit);
    }
    let (reader, writer) = pipe();
    let reader = task.handles.add(Handle::Reader(reader))?;
    let writer = task.handles.add(Handle::Writer(writer))?;
    Ok(Answer::Value(reader | writer << 8))
}

fn attach(task: &mut Task, handle: u64) -> Result<Answer, Error> {
    let Handle::Memory(memory) = task.handles.get(handle)? else { return Err(Error::BadHandle) };
    let backing = Backing::Shared(memory.clone());
    let pages = task.shared_end..task.shared_end + memory.nr_pages() as u64;
    if pages.end > SHARED_LIMIT / PAGE {
        return Err(Error::Limit);
    }
    task.space.map(pages.clone(), READ_WRITE, backing).map_err(refused)?;
    task.shared_end = pages.end;
    Ok(Answer::Value(pages.start * PAGE))
}

fn grow(task: &mut Task, nr_pages: u64) -> Result<Answer, Error> {
    if nr_pages == 0 {
        return Err(Error::BadArgument);
    }
    let end = task.heap_end.checked_add(nr_pages).filter(|&end| end <= HEAP_LIMIT / PAGE).ok_or(Error::Limit)?;
    task.space.map(task.heap_end..end, READ_WRITE, Backing::Zero).map_err(refused)?;
    let start = core::mem::replace(&mut task.heap_end, end);
    Ok(Answer::Value(start * PAGE))
}

/// Ranges are chosen here: what is refused is their number, or that of the pages.
fn refused(_: MapError) -> Error {
    Error::Limit
}

fn wait(task: &mut Task, child: Pid) -> Result<Answer, Error> {
    match task.children.get(&child) {
        None => Err(Error::NoChild),
        Some(None) => Ok(Answer::Wait),
        Some(&Some(status)) => {
            task.children.remove(&child);
            Ok(Answer::Value(status))
        }
    }
}
