//! Random runs of VMs with address spaces of their own, named by their seeds ([`simulator::trial`]), while the outside
//! parks, pauses and destroys them and memory is short. Each access of a context is checked against a model of the
//! architected TLB ([`simulator::domains`]): whether it may be, and what bytes it finds.
//!
//! | command | runs |
//! |---|---|
//! | `cargo test -p simulator --test tlb_seeds` | a thousand seeds |
//! | `FIRN_SEEDS=1000000 cargo test -p simulator --release --test tlb_seeds` | so many |
//! | `FIRN_SEED=17 cargo test -p simulator --test tlb_seeds` | that one |

use simulator::model::Deeds;
use simulator::trial::{self, Guests, Outcome};
use std::panic::{catch_unwind, resume_unwind};

/// Seeds that once failed.
const KEPT: &[u64] = &[];

/// Parts into which the seeds are split, to run at the same time.
const PARTS: u64 = 4;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().unwrap_or_else(|_| panic!("{name} must be a number")))
}

fn run(seed: u64) -> Outcome {
    match catch_unwind(|| trial::run(seed, Guests::Spaces, None)) {
        Ok(outcome) => outcome,
        Err(panic) => {
            eprintln!("seed {seed} fails; alone: FIRN_SEED={seed} cargo test -p simulator --test tlb_seeds");
            resume_unwind(panic);
        }
    }
}

fn run_part(part: u64) {
    if number("FIRN_SEED").is_some() {
        return;
    }
    let seeds = number("FIRN_SEEDS").unwrap_or(1000);
    let range = seeds * part / PARTS..seeds * (part + 1) / PARTS;
    let count = range.end - range.start;
    let mut sum = Deeds::default();
    let (mut parks, mut packed, mut from_disk) = (0, 0, 0);
    for seed in range {
        let Outcome { deeds, machine, faults, .. } = run(seed);
        sum.contexts += deeds.contexts;
        sum.hits += deeds.hits;
        sum.misses += deeds.misses;
        sum.vanished += deeds.vanished;
        sum.protections += deeds.protections;
        sum.interrupts += deeds.interrupts;
        sum.discards += deeds.discards;
        sum.checks += deeds.checks;
        parks += machine.parks;
        packed += faults.0;
        from_disk += faults.1;
    }
    println!("seeds of part {part}: {count}; {sum:?}, {parks} parks, {packed} unpacked, {from_disk} from disk");
    if count >= 100 {
        let each = [sum.contexts, sum.hits, sum.misses, sum.protections, sum.interrupts, sum.discards, parks, packed];
        assert!(each.iter().all(|&n| n > count), "{sum:?}, {parks}, {packed}");
        assert!(sum.vanished > 0 && sum.hits > 2 * sum.vanished && from_disk > count / 10, "{sum:?}, {from_disk}");
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
fn seeds_on_two_cores() {
    for seed in 0..40 {
        let _ = trial::run_on(seed, 2, Guests::Spaces, None);
    }
}

#[test]
fn kept_seeds() {
    let alone = number("FIRN_SEED");
    for &seed in alone.as_slice().iter().chain(KEPT) {
        println!("seed {seed}: {:?}", run(seed));
    }
}
