//! The limit of what isolation costs: one guest in ring 0 with the machine to itself.
//!
//! It boots as the kernel does, on the same machine and with the same bundle, and runs the one VM of the bundle's plan:
//! the same image at the same addresses, all of its memory mapped before it starts. There is no other address space, no
//! ring 3, no scheduler, no template, no swap, no supervisor and no switch. What stays of the virtual ISA is what a
//! driver would be: the two rings of frames, the deadline, and a halt when there is nothing to do.
//!
//! On the console it speaks as a supervisor does, so that `firn up --bare` starts it and `firn down` ends it.
//!
//! | module | what |
//! |---|---|
//! | `plan` | which VM of which bundle |
//! | `program` | its pages |
//! | `instructions` | what it asks |
//! | `wire` | its frames |
//! | `console` | what is typed for a supervisor |
#![cfg_attr(target_os = "none", no_std, no_main)]

extern crate alloc;

#[cfg(target_os = "none")]
mod boot;
#[cfg(target_os = "none")]
mod console;
#[cfg(target_os = "none")]
mod instructions;
#[cfg_attr(not(target_os = "none"), allow(dead_code, reason = "on the host it is only tested"))]
mod plan;
#[cfg(target_os = "none")]
mod program;
#[cfg(target_os = "none")]
mod wire;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("this is built for its own target: cargo build -p bare --target x86_64-unknown-none");
    std::process::exit(2);
}
