//! The system calls.

use crate::abi::{CONSOLE, Error, NO_HANDLE, Number};
use core::arch::asm;

/// Executes `syscall` with any words.
///
/// # Safety
/// The kernel may write to memory that the words name.
pub unsafe fn raw(number: u64, arguments: [u64; 4]) -> u64 {
    let [first, second, third, fourth] = arguments;
    let result;
    // SAFETY: the kernel preserves everything but rax, rcx and r11, and does not use the stack.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            in("r10") fourth,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

fn call(number: Number, arguments: [u64; 4]) -> Result<u64, Error> {
    // SAFETY: the callers below pass only memory that they hold.
    Error::read(unsafe { raw(number as u64, arguments) })
}

/// Ends the program.
pub fn exit(status: u64) -> ! {
    let _ = call(Number::Exit, [status, 0, 0, 0]);
    // The status was none: any will do.
    let _ = call(Number::Exit, [255, 0, 0, 0]);
    unreachable!("a program that has ended ran on")
}

/// Lets others have their turn.
pub fn yield_now() {
    let _ = call(Number::Yield, [0; 4]);
}

/// Sleeps.
pub fn sleep(ns: u64) {
    let _ = call(Number::Sleep, [ns, 0, 0, 0]);
}

/// Nanoseconds of the machine's clock.
pub fn clock() -> u64 {
    call(Number::Clock, [0; 4]).unwrap_or(0)
}

/// Writes some of the bytes, and says how many.
///
/// # Errors
/// See [`Number::Write`].
pub fn write(handle: u64, bytes: &[u8]) -> Result<usize, Error> {
    let written = call(Number::Write, [handle, bytes.as_ptr().addr() as u64, bytes.len() as u64, 0])?;
    Ok(usize::try_from(written).unwrap_or(0))
}

/// Prints on the console.
pub fn print(text: &str) {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match write(CONSOLE, rest) {
            Ok(n) if n > 0 => rest = rest.get(n..).unwrap_or(&[]),
            _ => return,
        }
    }
}

/// Reads some bytes, and says how many: 0 at the end.
///
/// # Errors
/// See [`Number::Read`].
pub fn read(handle: u64, bytes: &mut [u8]) -> Result<usize, Error> {
    let n = call(Number::Read, [handle, bytes.as_mut_ptr().addr() as u64, bytes.len() as u64, 0])?;
    Ok(usize::try_from(n).unwrap_or(0))
}

/// Gives a handle up.
///
/// # Errors
/// See [`Number::Close`].
pub fn close(handle: u64) -> Result<(), Error> {
    call(Number::Close, [handle, 0, 0, 0]).map(|_| ())
}

/// Makes a pipe: the reading and the writing end.
///
/// # Errors
/// See [`Number::Pipe`].
pub fn pipe() -> Result<(u64, u64), Error> {
    call(Number::Pipe, [0; 4]).map(|ends| (ends % 256, ends / 256))
}

/// Makes shared memory.
///
/// # Errors
/// See [`Number::Memory`].
pub fn memory(nr_pages: u64) -> Result<u64, Error> {
    call(Number::Memory, [nr_pages, 0, 0, 0])
}

/// Maps shared memory.
///
/// # Errors
/// See [`Number::Attach`].
pub fn attach(handle: u64) -> Result<u64, Error> {
    call(Number::Attach, [handle, 0, 0, 0])
}

/// Gets more memory.
///
/// # Errors
/// See [`Number::Grow`].
pub fn grow(nr_pages: u64) -> Result<u64, Error> {
    call(Number::Grow, [nr_pages, 0, 0, 0])
}

/// Starts a program, and gives it a copy of a handle.
///
/// # Errors
/// See [`Number::Spawn`].
pub fn spawn(name: &str, argument: u64, handle: Option<u64>) -> Result<u64, Error> {
    let handle = handle.unwrap_or(NO_HANDLE);
    call(Number::Spawn, [name.as_ptr().addr() as u64, name.len() as u64, argument, handle])
}

/// Waits for the end of a program that this one has spawned.
///
/// # Errors
/// See [`Number::Wait`].
pub fn wait(program: u64) -> Result<u64, Error> {
    call(Number::Wait, [program, 0, 0, 0])
}
