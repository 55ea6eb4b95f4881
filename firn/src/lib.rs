//! What the `firn` command is made of.
//!
//! | module | what it does |
//! |---|---|
//! | [`elf`], [`image`], [`symbols`] | turn an ELF file into a flat guest image |
//! | [`fleet`], [`bundle`] | turn a fleet file into a boot bundle |
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod bundle;
pub mod elf;
pub mod error;
pub mod fleet;
pub mod image;
pub mod project;
pub mod size;
pub mod symbols;
