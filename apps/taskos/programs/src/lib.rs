//! What a program of `taskos` is linked with. [`abi`] is the contract with the kernel, which uses it too; the rest is
//! there in a program (`cfg(firn_program)`) alone.
//!
//! ```ignore
//! #![cfg_attr(firn_program, no_std, no_main)]
//!
//! programs::program!(|argument: u64| {
//!     programs::print("hello\n");
//!     argument
//! });
//! ```
#![no_std]
#![warn(missing_docs)]

pub mod abi;
pub mod attacks;

#[cfg(firn_program)]
mod calls;
#[cfg(firn_program)]
mod runtime;

#[cfg(firn_program)]
pub use calls::*;
#[cfg(firn_program)]
#[doc(hidden)]
pub use runtime::run;

/// The program's start: a function from its argument to the status it exits with.
#[cfg(firn_program)]
#[macro_export]
macro_rules! program {
    ($main:expr) => {
        #[unsafe(no_mangle)]
        extern "C" fn program_main(argument: u64) -> ! {
            $crate::run($main, argument)
        }
    };
}

/// The program on the host, which is no operating system of this kind.
#[cfg(not(firn_program))]
#[macro_export]
macro_rules! program {
    ($main:expr) => {
        fn main() -> ::std::process::ExitCode {
            eprintln!("this is a program of taskos, which runs it in a VM");
            ::std::process::ExitCode::from(2)
        }
    };
}
