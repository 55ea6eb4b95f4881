//! `taskos`: a small operating system as a guest. It runs programs, each in an address space of its own, in turns that
//! the timer ends; it gives them system calls ([`programs::abi`]), and kills those that do what they may not.
//!
//! | module | what is in it |
//! |---|---|
//! | [`kernel`] | tasks and whose turn it is |
//! | [`calls`] | system calls |
//! | [`task`] | one task: memory, registers, handles |
//! | [`elf`] | reading programs |
//! | [`pipe`] | pipes |
//! | [`fate`] | how programs end |
//!
//! The programs are in `programs/`, part of the image, and most of them hostile.
#![cfg_attr(firn_guest, no_std)]
#![warn(missing_docs)]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod calls;
pub mod elf;
pub mod fate;
pub mod kernel;
pub mod pipe;
pub mod task;

mod images;
#[cfg(test)]
mod tests;

pub use images::PROGRAMS;

use alloc::format;
use core::fmt;
use core::str::FromStr;
use fate::StartError;
use kernel::Kernel;
use libos::arguments::{BadArgument, get, parse_or};
use libos::mmu::{Mmu, Pool};
use programs::attacks::Attack;

/// A program in this guest's image.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    /// Its name.
    pub name: &'static str,
    /// Its ELF file, at the start of a page.
    pub bytes: &'static [u8],
}

/// What is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Say {
    /// One line at the end.
    Summary,
    /// And how each program ended.
    Ends,
    /// And what programs print.
    All,
}

impl FromStr for Say {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "summary" => Ok(Self::Summary),
            "ends" => Ok(Self::Ends),
            "all" => Ok(Self::All),
            _ => Err(()),
        }
    }
}

/// What the arguments say.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// `programs=`: how many are started, in the order of the list and again from its start. All of the list once, if
    /// nothing is said; with `run=NAME` only that one, once if nothing is said.
    pub nr_programs: usize,
    /// `say=`: `summary`, `ends` or `all`.
    pub say: Say,
    /// `quantum_us=`: how long a turn is.
    pub quantum_ns: u64,
    /// `turns=`: how many a task may use up to the end.
    pub turns: u32,
    /// `task_pages=`: most pages of a task.
    pub task_pages: usize,
}

impl Settings {
    /// Reads the arguments.
    ///
    /// # Errors
    /// The first that cannot be.
    pub fn read() -> Result<Self, BadArgument> {
        Ok(Self {
            nr_programs: parse_or("programs", if get("run").is_some() { 1 } else { list().count() })?,
            say: parse_or("say", Say::All)?,
            quantum_ns: parse_or("quantum_us", 2000u64)?.clamp(100, 1_000_000) * 1000,
            turns: parse_or("turns", 50u32)?.max(1),
            task_pages: parse_or("task_pages", 32usize)?,
        })
    }
}

/// Programs that do what they should, with their arguments.
const GOOD: [(&str, u64); 8] = [
    ("hello", 0),
    ("vectors", 0),
    ("sleeper", 0),
    ("keeper", 0),
    ("pipe", 0),
    ("shared", 0),
    ("bomb", 0),
    ("calls", 0),
];

/// What is run: what it is called, the program, its argument.
fn list() -> impl Iterator<Item = (&'static str, &'static str, u64)> + Clone {
    let good = GOOD.into_iter().map(|(name, argument)| (name, name, argument));
    good.chain(Attack::ALL.into_iter().map(|(name, attack)| (name, "hostile", attack as u64)))
}

/// Why the operating system gave up.
#[derive(Clone, Copy, Debug)]
pub enum Error {
    /// Whoever started this VM must mend it.
    Argument(BadArgument),
    /// There is no program of this name to run.
    NoSuchRun(&'static str),
    /// A program could not be started.
    Start(&'static str, StartError),
    /// Somebody else has the processor's part in address spaces.
    NoMmu,
    /// Tasks are gone and their pages are not.
    Leak(usize),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Argument(error) => error.fmt(f),
            Self::NoSuchRun(name) => write!(f, "bad argument: run={name}: nothing of this name is in the list"),
            Self::Start(name, error) => write!(f, "cannot start {name}: {error}"),
            Self::NoMmu => f.write_str("address spaces are in use already"),
            Self::Leak(pages) => write!(f, "all tasks are gone, and {pages} pages of theirs are not"),
        }
    }
}

impl core::error::Error for Error {}

impl From<BadArgument> for Error {
    fn from(error: BadArgument) -> Self {
        Self::Argument(error)
    }
}

/// Runs the programs that the arguments say, until all have ended.
///
/// # Errors
/// See [`Error`].
pub async fn run(images: &'static [Image]) -> Result<(), Error> {
    let settings = Settings::read()?;
    let mmu = Mmu::new().ok_or(Error::NoMmu)?;
    // The rest is for this program itself.
    let memory_pages = libos::registers().memory_pages;
    let pool = Pool::new(usize::try_from(memory_pages / 4 * 3).unwrap_or(0));
    let mut kernel = Kernel::new(mmu, pool.clone(), images, settings, |line| libos::console::print(line.as_bytes()));
    match get("run") {
        Some(name) => {
            let found = list().find(|(label, ..)| *label == name).ok_or(Error::NoSuchRun(name))?;
            start(&mut kernel, core::iter::repeat_n(found, settings.nr_programs))?;
        }
        None => start(&mut kernel, list().cycle().take(settings.nr_programs))?,
    }
    let counts = kernel.run().await;
    libos::console::print(format!("taskos: {counts}\n").as_bytes());
    match pool.used() {
        0 => Ok(()),
        pages => Err(Error::Leak(pages)),
    }
}

fn start(kernel: &mut Kernel, list: impl Iterator<Item = (&'static str, &'static str, u64)>) -> Result<(), Error> {
    for (label, program, argument) in list {
        kernel.start(label, program, argument).map_err(|error| Error::Start(label, error))?;
    }
    Ok(())
}
