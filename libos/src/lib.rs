//! The library OS: what a program links to be a VM of the isolation kernel, or, unchanged, a program of the host.
//!
//! ```no_run
//! #![cfg_attr(firn_guest, no_std, no_main)]
//!
//! #[libos::main]
//! async fn main() -> Result<(), libos::Error> {
//!     let listener = libos::net::TcpListener::bind(([0, 0, 0, 0], 80))?;
//!     loop {
//!         let (stream, peer) = listener.accept().await?;
//!         libos::log::info!("{peer} is here");
//!         stream.write_all(b"hello\n").await?;
//!     }
//! }
//! ```
//!
//! | module | what is in it |
//! |---|---|
//! | [`task`] | spawning tasks onto the one thread there is |
//! | [`time`] | clocks, sleeping, timeouts |
//! | [`sync`] | channels, locks, waking each other |
//! | [`net`] | `TcpListener`, `TcpStream`, `UdpSocket`, `Resolver` |
//! | [`packets`] | packets as they are, for gateways |
//! | `http` | a server with a router (feature `http`) |
//! | [`rand`] | random bytes |
//! | [`log`] | what happens, line by line |
//! | [`console`] | lines in, bytes out |
//! | [`arguments`] | the argument string |
//! | [`memory`] | how much is left |
//! | [`gate`] | the supervisor's operations |
//! | [`mmu`] | address spaces of the program's own, for guests that are operating systems |
//! | `instruction` | the virtual instructions themselves (in a VM only) |
//!
//! Every error becomes an [`Error`] by `?`. What is public has an example; a test sees to it.
//!
//! In a VM (`cfg(firn_guest)`) all of this runs over the virtual ISA with no operating system below; on the host
//! it runs over real sockets and clocks, so that an app is tested by `cargo test` and tried out by `cargo run`.
#![no_std]
#![warn(missing_docs)]

extern crate alloc;
#[cfg(not(firn_guest))]
extern crate std;

pub mod arguments;
pub mod gate;
#[cfg(feature = "http")]
pub mod http;
pub mod memory;
pub mod mmu;
pub mod net;
pub mod packets;
pub mod rand;
pub mod sync;
pub mod task;
pub mod time;

#[cfg(any(firn_guest, test))]
mod burst;
mod error;
mod line;
#[cfg(any(firn_guest, test))]
mod ready_queue;
#[cfg(any(firn_guest, test))]
mod rings;
#[cfg(any(firn_guest, test))]
mod timers;

#[cfg(firn_guest)]
mod guest;
#[cfg(firn_guest)]
pub use guest::{console, instruction, registers};

#[cfg(not(firn_guest))]
mod host;
#[cfg(not(firn_guest))]
pub use host::{block_on, console, registers};

#[cfg(all(test, not(firn_guest)))]
#[path = "guest/copy.rs"]
mod copy;
#[cfg(any(firn_guest, test))]
#[cfg_attr(not(firn_guest), expect(dead_code, reason = "the host tests it, only guests allocate with it"))]
mod heap;

pub use arguments::arguments;
pub use error::{Context, Error};
pub use libos_macros::main;
pub use log;
pub use registers::registers;
pub use virtual_isa;

#[doc(hidden)]
pub mod start_up {
    //! What `#[libos::main]` expands to.
    #[cfg(firn_guest)]
    pub use crate::guest::start::run;
    #[cfg(not(firn_guest))]
    pub use crate::host::run;
    use core::fmt::Display;

    /// What `main` may return.
    pub trait Outcome {
        /// The status the program ends with. An error is logged.
        fn report(self) -> u8;
    }

    impl Outcome for () {
        fn report(self) -> u8 {
            0
        }
    }

    impl<E: Display> Outcome for Result<(), E> {
        fn report(self) -> u8 {
            match self {
                Ok(()) => 0,
                Err(e) => {
                    log::error!(target: "main", "{e:#}");
                    1
                }
            }
        }
    }
}

/// The program's start. `#[libos::main]` writes this.
#[cfg(firn_guest)]
#[doc(hidden)]
#[macro_export]
macro_rules! start {
    ($main:ident) => {
        #[unsafe(no_mangle)]
        extern "C" fn firn_main() -> ! {
            $crate::start_up::run($main())
        }
    };
}

/// The program's start. `#[libos::main]` writes this.
#[cfg(not(firn_guest))]
#[doc(hidden)]
#[macro_export]
macro_rules! start {
    ($main:ident) => {
        fn main() -> ::std::process::ExitCode {
            $crate::start_up::run($main())
        }
    };
}
