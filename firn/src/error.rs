//! What can go wrong, with a message that names the place and the remedy, and the exit status that goes with it.

use crate::elf::ElfError;
use crate::fleet::FleetError;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use virtual_isa::image::ImageError;

/// Shorthand for results of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Exit status of a run that failed.
pub const STATUS_FAILED: u8 = 1;

/// Exit status of bad input, with nothing started.
pub const STATUS_BAD_INPUT: u8 = 2;

/// Everything that ends a command of `firn` early.
#[derive(Debug)]
pub enum Error {
    /// A fleet file says something that cannot be.
    Fleet(FleetError),
    /// An ELF file is not a guest.
    Elf {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        error: ElfError,
    },
    /// An image does not pass its checks.
    Image {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        error: ImageError,
    },
    /// An option or argument of the command line cannot be.
    Argument {
        /// Which.
        argument: &'static str,
        /// What is wrong with it.
        problem: String,
        /// What would be right.
        remedy: String,
    },
    /// No machine of that name is there.
    NoMachine {
        /// The name asked for.
        name: String,
    },
    /// A machine of that name is up.
    AlreadyUp {
        /// Its name.
        name: String,
    },
    /// Something this host lacks.
    Missing {
        /// What.
        what: String,
        /// How to get it.
        remedy: String,
    },
    /// A file could not be read or written.
    Io {
        /// What was being done, as in "cannot ...".
        action: &'static str,
        /// To which file.
        file: PathBuf,
        /// What the operating system said.
        error: io::Error,
    },
    /// A run that was started failed.
    Failed {
        /// What happened.
        problem: String,
        /// What to look at or do next; may be empty.
        remedy: String,
    },
}

impl Error {
    /// Exit status of the process: [`STATUS_BAD_INPUT`] or [`STATUS_FAILED`].
    #[must_use]
    pub const fn status(&self) -> u8 {
        match self {
            Self::Io { .. } | Self::Failed { .. } => STATUS_FAILED,
            _ => STATUS_BAD_INPUT,
        }
    }

    /// A closure for `map_err` on file operations: `fs::read(p).map_err(Error::io("read", p))`.
    pub fn io(action: &'static str, file: &Path) -> impl FnOnce(io::Error) -> Self {
        let file = file.to_path_buf();
        move |error| Self::Io { action, file, error }
    }

    /// A run that failed.
    pub fn failed(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Failed { problem: problem.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fleet(error) => error.fmt(f),
            Self::Elf { file, error } => write!(f, "{}: {error}\n  help: {}", file.display(), error.remedy()),
            Self::Image { file, error } => {
                write!(f, "{}: {error}\n  help: build it again with `firn build`", file.display())
            }
            Self::Argument { argument, problem, remedy } => write!(f, "{argument}: {problem}\n  help: {remedy}"),
            Self::NoMachine { name } => {
                write!(
                    f,
                    "no machine is called {name:?}\n  help: `firn ps` lists them, `firn up FLEET.toml` starts one"
                )
            }
            Self::AlreadyUp { name } => write!(
                f,
                "machine {name:?} is up already\n  help: end it with `firn down --name {name}`, give the new one another --name, or `firn run` the --replace option"
            ),
            Self::Missing { what, remedy } => write!(f, "{what}\n  help: {remedy}"),
            Self::Io { action, file, error } => write!(f, "cannot {action} {}: {error}", file.display()),
            Self::Failed { problem, remedy } if remedy.is_empty() => f.write_str(problem),
            Self::Failed { problem, remedy } => write!(f, "{problem}\n  help: {remedy}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<FleetError> for Error {
    fn from(error: FleetError) -> Self {
        Self::Fleet(error)
    }
}
