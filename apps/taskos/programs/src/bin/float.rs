//! Computes with vector registers for so long that others have their turns between: a register that is not its own
//! any more changes the result.
#![cfg_attr(firn_program, no_std, no_main)]

#[cfg(firn_program)]
fn sum(seed: f64) -> f64 {
    let mut parts = [seed, seed + 1.0, seed + 2.0, seed + 3.0];
    for n in 0..10_000u32 {
        for part in &mut parts {
            *part = *part * 0.999 + f64::from(n % 7);
        }
    }
    parts.iter().sum()
}

programs::program!(|argument: u64| {
    #[expect(clippy::cast_precision_loss, reason = "any seed will do")]
    let seed = core::hint::black_box(argument as f64);
    let first = sum(seed).to_bits();
    programs::yield_now();
    u64::from(sum(seed).to_bits() != first)
});
