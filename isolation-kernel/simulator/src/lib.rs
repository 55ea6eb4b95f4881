//! The real `vm` and `policy` code over fake hardware: memory is a vector, the wire a queue, time a number that
//! moves when something happens. Guests are programs of the test ([`Program`]), which use memory through the
//! address space that the kernel made for them and fault like real ones.
//!
//! Everything is deterministic: the same programs and the same seed give the same run.
//!
//! | module | what |
//! |---|---|
//! | [`machine`] | the fake hardware, which checks what the kernel does with it |
//! | [`guest`] | programs, and the processor as they see it |
//! | [`bundle`] | boot bundles for tests |
//! | [`supervisor`] | a supervisor that does what a test tells it |
//! | [`lab`] | a whole machine on the bench |
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod bundle;
pub mod guest;
pub mod lab;
pub mod machine;
pub mod supervisor;

pub use guest::{Cpu, Fault, Op, Program};
pub use lab::Lab;
pub use machine::Machine;
