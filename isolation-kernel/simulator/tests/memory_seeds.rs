//! Random runs of memory, named by their seeds ([`simulator::trial`]).
//!
//! | command | runs |
//! |---|---|
//! | `cargo test -p simulator --test memory_seeds` | a thousand seeds |
//! | `FIRN_SEEDS=1000000 cargo test -p simulator --release --test memory_seeds` | so many |
//! | `FIRN_SEED=17 cargo test -p simulator --test memory_seeds` | that one |

use simulator::trial::{self, Guests, Outcome};
use std::ops::Range;
use std::panic::{catch_unwind, resume_unwind};

/// Seeds that once failed.
const KEPT: &[u64] = &[];

/// Parts into which the seeds are split, to run at the same time.
const PARTS: u64 = 4;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

fn run(seed: u64) -> Outcome {
    match catch_unwind(|| trial::run(seed, Guests::Memory, None)) {
        Ok(outcome) => outcome,
        Err(panic) => {
            eprintln!("seed {seed} fails; alone: FIRN_SEED={seed} cargo test -p simulator --test memory_seeds");
            resume_unwind(panic);
        }
    }
}

/// What a part of the seeds has done together.
#[derive(Debug, Default)]
struct Sums {
    checks: u64,
    frames: u64,
    discards: u64,
    parks: u64,
    wakes_memory: u64,
    wakes_disk: u64,
    packed: u64,
    from_disk: u64,
    pages_lost: u64,
    swap_failures: u64,
}

fn run_part(part: u64) {
    if number("FIRN_SEED").is_some() {
        return;
    }
    let seeds = number("FIRN_SEEDS").unwrap_or(1000);
    let range: Range<u64> = seeds * part / PARTS..seeds * (part + 1) / PARTS;
    let count = range.end - range.start;
    let mut sums = Sums::default();
    for seed in range {
        let outcome = run(seed);
        sums.checks += outcome.deeds.checks;
        sums.frames += outcome.deeds.frames;
        sums.discards += outcome.deeds.discards;
        sums.parks += outcome.machine.parks;
        sums.wakes_memory += outcome.machine.wakes_memory;
        sums.wakes_disk += outcome.machine.wakes_disk;
        sums.packed += outcome.faults.0;
        sums.from_disk += outcome.faults.1;
        sums.pages_lost += outcome.pages_lost;
        sums.swap_failures += outcome.swap_failures;
    }
    println!("seeds of part {part}: {count}; {sums:?}");
    if count >= 100 {
        assert!(sums.checks > 100 * count, "{sums:?}");
        let each = [sums.frames, sums.discards, sums.parks, sums.wakes_memory, sums.wakes_disk, sums.packed];
        assert!(each.iter().all(|&n| n > count), "{sums:?}");
        assert!(sums.from_disk > count / 10 && sums.pages_lost > count / 50 && sums.swap_failures > 0, "{sums:?}");
    }
}

#[test]
fn first_part_of_the_seeds() {
    run_part(0);
}

#[test]
fn second_part_of_the_seeds() {
    run_part(1);
}

#[test]
fn third_part_of_the_seeds() {
    run_part(2);
}

#[test]
fn fourth_part_of_the_seeds() {
    run_part(3);
}

#[test]
fn kept_seeds() {
    let alone = number("FIRN_SEED");
    for &seed in alone.as_slice().iter().chain(KEPT) {
        println!("seed {seed}: {:?}", run(seed));
    }
}
