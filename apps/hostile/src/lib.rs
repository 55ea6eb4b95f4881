//! Guests that do what no guest may: one program per attack.
//!
//! | program | arguments | what must become of it |
//! |---|---|---|
//! | `read_kernel_memory` | `address=` (hexadecimal) | memory violation: read of that address; general protection if it is not canonical |
//! | `write_text` | `what=text` `rodata` `registers` `null` | memory violation: write |
//! | `execute_data` | `what=stack` `heap` `data` `rodata` `null` `kernel` | memory violation: execution of that address |
//! | `privileged_instruction` | `name=` one of [`privileged::NAMES`] | exception: general protection, or illegal instruction |
//! | `privileged_instruction` | `name=` one of [`privileged::HARMLESS`] | `ok`, status 0: without effect, or the same exceptions |
//! | `bad_pointer` | | `ok`, status 0: each case has got its error code |
//! | `address_spaces` | | `ok`, status 0: programs in address spaces of its own came back, each as it must |
//! | `undefined_instruction` | | `ok`, status 0 |
//! | `stack_overflow` | | memory violation: write below the stack, in the page at 0 |
//! | `corrupt_ring` | `how=far` `backwards` `misaligned` `receive_far` | corrupt ring |
//! | `corrupt_ring` | `how=length` `short` `long` `spoofed_mac` `spoofed_ip` `unknown` `arp` | `ok`, status 0: the frame is dropped |
//!
//! One that lives on where it must not prints `FAILURE: lived` and ends with status 1; one that finds something
//! else wrong prints `FAILURE:` and what.
#![cfg_attr(firn_guest, no_std)]
#![warn(missing_docs)]

#[cfg(firn_guest)]
pub mod frames;
#[cfg(firn_guest)]
pub mod privileged;
#[cfg(firn_guest)]
pub mod spaces;

/// Says what did not go as it must, and ends the VM with status 1.
#[cfg(firn_guest)]
pub fn failure(what: core::fmt::Arguments<'_>) -> ! {
    extern crate alloc;
    libos::console::print(alloc::format!("FAILURE: {what}\n").as_bytes());
    libos::instruction::terminate(1)
}

/// The end of a program that should have died before.
#[cfg(firn_guest)]
pub fn lived() -> ! {
    failure(format_args!("lived"))
}

/// The end of a program that has found everything as it must be.
#[cfg(firn_guest)]
pub fn ok() -> ! {
    libos::console::print(b"ok\n");
    libos::instruction::terminate(0)
}

/// The program on the host, where there is nothing to attack.
#[macro_export]
macro_rules! only_in_a_vm {
    () => {
        #[cfg(not(firn_guest))]
        fn main() -> std::process::ExitCode {
            eprintln!("this program attacks the isolation kernel: it runs only in a VM");
            std::process::ExitCode::from(2)
        }
    };
}
