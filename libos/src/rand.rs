//! Random bytes: a ChaCha generator, seeded by the machine, and again whenever this VM becomes another one.

#[cfg(firn_guest)]
use crate::guest::entropy as platform;
#[cfg(not(firn_guest))]
use crate::host::entropy as platform;
use rand_chacha::ChaCha12Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

/// A generator and the generation it was seeded in.
pub(crate) struct Generator {
    seeded: Option<(u64, ChaCha12Rng)>,
}

impl Generator {
    pub const fn new() -> Self {
        Self { seeded: None }
    }

    /// Fills `bytes`, after seeding if that was not done yet in this generation: two clones of one VM must not draw
    /// the same numbers.
    pub fn fill(&mut self, bytes: &mut [u8], generation: u64, seed: impl FnOnce(&mut [u8; 32])) {
        if self.seeded.as_ref().is_none_or(|&(known, _)| known != generation) {
            let mut fresh = [0; 32];
            seed(&mut fresh);
            self.seeded = Some((generation, ChaCha12Rng::from_seed(fresh)));
        }
        if let Some((_, generator)) = &mut self.seeded {
            generator.fill_bytes(bytes);
        }
    }
}

/// Fills `bytes` with random bytes that nobody can guess.
pub fn fill(bytes: &mut [u8]) {
    platform::with_generator(|generator| {
        generator.fill(bytes, crate::registers().generation, platform::seed);
    });
}

/// An array of random bytes.
#[must_use]
pub fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_generation_seeds_again_and_the_same_does_not() {
        let mut generator = Generator::new();
        let mut seeds = 0u8;
        let mut draw = |generator: &mut Generator, generation| {
            let mut bytes = [0; 16];
            generator.fill(&mut bytes, generation, |seed| {
                seeds += 1;
                seed[0] = seeds;
            });
            (bytes, seeds)
        };
        let (first, _) = draw(&mut generator, 1);
        let (second, seeds) = draw(&mut generator, 1);
        assert_ne!(first, second);
        assert_eq!(seeds, 1);
        let (third, seeds) = draw(&mut generator, 2);
        assert_eq!(seeds, 2);
        assert!(third != first && third != second);
    }

    #[test]
    fn the_host_has_randomness_too() {
        assert_ne!(bytes::<16>(), bytes::<16>());
    }
}
