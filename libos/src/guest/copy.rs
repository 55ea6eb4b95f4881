//! Copying, filling and comparing memory, for the compiler's own use.
//!
//! Emulators are slow at `rep movs` and fast at vector moves: 64 bytes at a time by SSE.

use core::arch::global_asm;

global_asm!(include_str!("copy.s"));

// In a VM these are the functions the compiler calls; the host's tests call them by their own names beside its.
#[cfg(firn_guest)]
global_asm!(
    ".globl memcpy",
    ".set memcpy, firn_move",
    ".globl memmove",
    ".set memmove, firn_move",
    ".globl memset",
    ".set memset, firn_fill",
    ".globl memcmp",
    ".set memcmp, firn_compare",
    ".globl bcmp",
    ".set bcmp, firn_compare",
);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use std::vec;
    use std::vec::Vec;

    unsafe extern "C" {
        fn firn_move(to: *mut u8, from: *const u8, length: usize) -> *mut u8;
        fn firn_fill(to: *mut u8, byte: i32, length: usize) -> *mut u8;
        fn firn_compare(left: *const u8, right: *const u8, length: usize) -> i32;
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|i| (i * 31 % 251).to_le_bytes()[0]).collect()
    }

    #[test]
    fn every_length_and_overlap_is_moved_right() {
        for length in (0..300).chain([511, 512, 513, 1000, 4096, 5000]) {
            for (to, from) in
                [(0, 0), (0, 6000), (6000, 0), (1, 0), (0, 1), (16, 0), (0, 16), (63, 0), (0, 63), (200, 7)]
            {
                let mut memory = pattern(12_000);
                let mut model = memory.clone();
                model.copy_within(from..from + length, to);
                // SAFETY: both ranges lie in `memory`.
                let result = unsafe {
                    let base = memory.as_mut_ptr();
                    firn_move(base.add(to), base.add(from), length).offset_from(base)
                };
                assert_eq!(result, isize::try_from(to).unwrap());
                assert!(memory == model, "{length} bytes from {from} to {to}");
            }
        }
    }

    #[test]
    fn every_length_is_filled_and_nothing_beside_it() {
        for length in (0..300).chain([511, 512, 513, 4096]) {
            let mut memory = vec![1u8; length + 64];
            // SAFETY: the range lies in `memory`.
            let result = unsafe { firn_fill(memory.as_mut_ptr().add(17), 0x1_a5, length) };
            assert_eq!(result, memory[17..].as_mut_ptr());
            for (i, &byte) in memory.iter().enumerate() {
                assert_eq!(byte, if (17..17 + length).contains(&i) { 0xa5 } else { 1 }, "{i} of {length}");
            }
        }
    }

    proptest! {
        #[test]
        fn comparison_is_that_of_bytes(
            mut left in proptest::collection::vec(any::<u8>(), 0..200),
            change in proptest::option::of((any::<usize>(), any::<u8>())),
        ) {
            let right = left.clone();
            if let Some((at, value)) = change && !left.is_empty() {
                let at = at % left.len();
                left[at] = value;
            }
            // SAFETY: both have this length.
            let result = unsafe { firn_compare(left.as_ptr(), right.as_ptr(), left.len()) };
            prop_assert_eq!(result.cmp(&0), left.cmp(&right));
        }
    }
}
