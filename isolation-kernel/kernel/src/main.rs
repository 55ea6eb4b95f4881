//! Firn's kernel: the binary. It makes the machine from what the loader says, and hands it over.
//!
//! Options on the command line, separated by spaces:
//!
//! | option | what |
//! |---|---|
//! | `selftest` | checks what the machine layer promises, and powers off with status 0 if it holds |
//! | `log=error`, `warn`, `info`, `debug` | how much is logged |
//! | `barrier=off` | no barrier in the branch predictors between VMs: faster, and less apart |
//! | `batching=off` | a VM for which a frame arrives is switched to at once, for measurements |
//! | `idle-timeout=off` | `idle` with a time returns at once, for measurements |
//! | `panic`, `panic=stack` | panics or overflows the kernel's stack on purpose, to show the report |
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
extern crate alloc;

#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod logger;
#[cfg(target_os = "none")]
mod options;
#[cfg(target_os = "none")]
mod selftest;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("the kernel is built for its own target: cargo build -p kernel --target x86_64-unknown-none");
    std::process::exit(2);
}
