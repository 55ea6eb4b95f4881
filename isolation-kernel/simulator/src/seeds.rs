//! Running many seeds of [`trial`](crate::trial)s in a test program: how many, which, and what to say of one that fails.
//!
//! | variable | runs |
//! |---|---|
//! | none | a thousand seeds |
//! | `FIRN_SEEDS=1000000` | so many |
//! | `FIRN_SEED=17` | that one |

use crate::trial::{self, Guests, Outcome};
use std::ops::Range;
use std::panic::{catch_unwind, resume_unwind};

/// Parts into which the seeds are split, to run at the same time.
pub const PARTS: u64 = 4;

/// Seeds for guests of a kind, in a test program of this name.
#[derive(Clone, Copy, Debug)]
pub struct Seeds {
    /// The guests.
    pub guests: Guests,
    /// The test program.
    pub test: &'static str,
}

impl Seeds {
    /// Runs a seed. One that fails is named, with what repeats it.
    ///
    /// # Panics
    /// If anything is wrong.
    #[must_use]
    pub fn run(&self, seed: u64) -> Outcome {
        match catch_unwind(|| trial::run(seed, self.guests, None)) {
            Ok(outcome) => outcome,
            Err(panic) => {
                eprintln!("seed {seed} fails; alone: FIRN_SEED={seed} cargo test -p simulator --test {}", self.test);
                resume_unwind(panic);
            }
        }
    }

    /// Runs seeds that once failed, and the one that was asked for.
    ///
    /// # Panics
    /// If anything is wrong.
    pub fn run_kept(&self, kept: &[u64]) {
        let alone = number("FIRN_SEED");
        for &seed in alone.as_slice().iter().chain(kept) {
            println!("seed {seed}: {:?}", self.run(seed));
        }
    }
}

/// The seeds of a part; none if one alone was asked for.
#[must_use]
pub fn part(part: u64) -> Range<u64> {
    let seeds = if number("FIRN_SEED").is_some() { 0 } else { number("FIRN_SEEDS").unwrap_or(1000) };
    seeds * part / PARTS..seeds * (part + 1) / PARTS
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}
