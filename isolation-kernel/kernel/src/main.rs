//! Firn's kernel: the binary. It makes the machine from what the loader says, and hands it over.
//!
//! Options on the command line, separated by spaces:
//!
//! | option | what |
//! |---|---|
//! | `selftest` | checks what the machine layer promises, and powers off with status 0 if it holds |
//! | `selftest=long` | the same, with more rounds of what processors race for |
//! | `log=error`, `warn`, `info`, `debug` | how much is logged |
//! | `barrier=off` | no barrier in the branch predictors between VMs: faster, and less apart |
//! | `cpus=N` | uses no more than so many processors |
//! | `wire-rate=N` | all VMs together send no more than so many bytes in a second: what the line behind the card carries, if the card does not say when it is full |
//! | `batching=off` | a VM for which a frame arrives is switched to at once, for measurements |
//! | `idle-timeout=off` | `idle` with a time returns at once, for measurements |
//! | `write-blocks=N` | no more packs are added to a write of the swap disk once it has so many blocks, for measurements |
//! | `panic`, `panic=stack`, `panic=other` | panics or overflows the kernel's stack on purpose, or panics on another processor, to show the report |
//! | `cpu-fault=missing`, `cpu-fault=page` | starts the other processors with one that is not there, or without a page to start in |
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod options;
#[cfg(target_os = "none")]
mod selftest;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("the kernel is built for its own target: cargo build -p kernel --target x86_64-unknown-none");
    std::process::exit(2);
}
