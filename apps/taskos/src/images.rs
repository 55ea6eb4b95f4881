//! The programs, as `firn build` has linked them.

use crate::Image;

/// Bytes at the start of a page, so that pages of a program's file are pages of this guest's memory.
#[cfg(firn_guest)]
#[repr(align(4096))]
struct Aligned<T: ?Sized>(T);

#[cfg(firn_guest)]
macro_rules! programs {
    ($($name:literal),* $(,)?) => {
        [$(Image {
            name: $name,
            bytes: {
                static FILE: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("FIRN_PROGRAMS"), "/", $name)));
                &FILE.0
            },
        }),*]
    };
}

/// The programs in this guest's image.
#[cfg(firn_guest)]
pub static PROGRAMS: &[Image] =
    &programs!["hello", "vectors", "sleeper", "keeper", "pipe", "shared", "bomb", "calls", "hostile"];

/// The programs: none on the host.
#[cfg(not(firn_guest))]
pub static PROGRAMS: &[Image] = &[];
