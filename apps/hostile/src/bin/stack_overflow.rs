//! Calls itself until the stack is full.
#![cfg_attr(firn_guest, no_std, no_main)]

hostile::only_in_a_vm!();

#[cfg(firn_guest)]
mod attack {
    use core::hint::black_box;

    #[expect(unconditional_recursion, reason = "that is the attack")]
    #[inline(never)]
    fn descend(depth: u64) -> u64 {
        let frame = black_box([depth; 16]);
        // Not the last thing done: every call keeps its frame.
        descend(depth + 1) + black_box(frame[3])
    }

    #[libos::main]
    async fn main() {
        let sum = descend(black_box(0));
        hostile::failure(format_args!("lived, with {sum}"));
    }
}
