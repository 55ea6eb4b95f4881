//! Random bytes: a ChaCha generator, seeded by the machine, and again whenever this VM becomes another one.
//!
//! ```
//! let key: [u8; 16] = libos::rand::bytes();
//! assert_ne!(key, libos::rand::bytes());
//! let dice = 1 + libos::rand::below(6);
//! assert!((1..=6).contains(&dice));
//! let mut page = [0; 4096];
//! libos::rand::fill(&mut page);
//! assert!(page.iter().any(|&byte| byte != 0));
//! ```
//!
//! [`Random`] is the same for crates that want a generator of `rand_core`.

#[cfg(firn_guest)]
use crate::guest::entropy as platform;
#[cfg(not(firn_guest))]
use crate::host::entropy as platform;
use rand_chacha::ChaCha12Rng;
pub use rand_chacha::rand_core;
use rand_core::{Rng, SeedableRng};

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

/// A random number below `limit`, each as likely as the others; 0 if `limit` is 0.
#[must_use]
pub fn below(limit: u64) -> u64 {
    if limit < 2 {
        return 0;
    }
    // Numbers of the last, incomplete run of `limit` would make small results likelier.
    let biased = (u64::MAX % limit + 1) % limit;
    loop {
        let number = u64::from_le_bytes(bytes());
        if number <= u64::MAX - biased {
            return number % limit;
        }
    }
}

/// The generator, as crates want it that draw from one of `rand_core`'s.
///
/// ```
/// use libos::rand::{Random, rand_core::Rng};
///
/// assert_ne!(Random.next_u64(), Random.next_u64());
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Random;

impl rand_core::TryRng for Random {
    type Error = core::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(u32::from_le_bytes(bytes()))
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(u64::from_le_bytes(bytes()))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        fill(bytes);
        Ok(())
    }
}

// Nobody can guess what comes next.
impl rand_core::TryCryptoRng for Random {}

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
    fn numbers_below_a_limit_are_below_it_and_reach_it() {
        assert_eq!((below(0), below(1)), (0, 0));
        let mut seen = [false; 7];
        for _ in 0..1000 {
            seen[usize::try_from(below(7)).unwrap()] = true;
        }
        assert_eq!(seen, [true; 7]);
        assert!(below(u64::MAX) < u64::MAX);
    }

    #[test]
    fn the_host_has_randomness_too() {
        assert_ne!(bytes::<16>(), bytes::<16>());
    }
}
