//! The real `vm` and `policy` code over fake hardware: memory is a vector, the wire a queue, time a number that
//! moves when something happens. Guests are programs of the test ([`Program`]), which use memory through the
//! address space that the kernel made for them and fault like real ones.
//!
//! Everything is deterministic: the same programs and the same seed give the same run.
//!
//! | module | what |
//! |---|---|
//! | [`machine`] | the fake hardware, which checks what the kernel does with it |
//! | [`pages`] | its memory, page by page |
//! | [`spaces`] | its page tables |
//! | [`disk`] | its disk, and what can go wrong with that |
//! | [`outside`] | what a test sees and changes while the kernel owns the machine |
//! | [`guest`] | programs, and the processor as they see it |
//! | [`bundle`] | boot bundles for tests |
//! | [`supervisor`] | a supervisor that does what a test tells it |
//! | [`lab`] | a whole machine on the bench |
//! | [`errands`] | a guest that does what a test asks, one thing after the other |
//! | [`script`] | a guest with address spaces of its own that follows a script |
//! | [`model`] | a guest that knows what every byte of its memory must be |
//! | [`domains`] | the same with address spaces that it makes |
//! | [`trial`] | random runs of memory against a model, by seed |
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod bundle;
pub mod disk;
pub mod domains;
pub mod errands;
pub mod guest;
pub mod lab;
pub mod machine;
pub mod model;
pub mod outside;
pub mod pages;
pub mod script;
pub mod seeds;
pub mod spaces;
pub mod supervisor;
pub mod trial;

pub use guest::{Cpu, Fault, Op, Program};
pub use lab::{Lab, LabPlan};
pub use machine::Machine;
