//! What the `firn` command is made of.
//!
//! | module | what it does |
//! |---|---|
//! | [`cli`] | the command line |
//! | [`new`] | make a project for a service |
//! | [`builder`], [`elf`], [`image`], [`symbols`], [`lines`] | build guests and turn their ELF files into flat images |
//! | [`fleet`], [`bundle`], [`run`] | turn a fleet file into a boot bundle, or a service that is to run without one |
//! | [`up`], [`holder`], [`net`], [`namespace`], [`qemu`], [`swap`], [`accel`], [`gdb`] | start a machine |
//! | [`machine`], [`serial`], [`qmp`], [`logs`], [`status`], [`ask`], [`down`] | see and end one that is up |
//! | [`host`], [`doctor`] | what this host offers and lacks |
//!
//! A fleet goes through `fleet` (checked), `bundle` (encoded), `up` (started) and then lives as a folder that
//! `machine` reads; every other command needs only that folder.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod accel;
pub mod ask;
pub mod builder;
pub mod bundle;
pub mod cli;
pub mod doctor;
pub mod down;
pub mod elf;
pub mod error;
pub mod fleet;
pub mod gdb;
pub mod holder;
pub mod host;
pub mod image;
pub mod lines;
pub mod logs;
pub mod machine;
pub mod namespace;
pub mod net;
pub mod new;
pub mod project;
pub mod qemu;
pub mod qmp;
pub mod run;
pub mod serial;
pub mod size;
pub mod status;
pub mod swap;
pub mod symbols;
pub mod table;
pub mod up;
