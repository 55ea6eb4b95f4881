//! Random runs of memory, named by their seeds ([`simulator::trial`]).
//! [`simulator::seeds`] says how to run more of them, or one.

use simulator::seeds::{self, Seeds};
use simulator::trial::Guests;

/// Seeds that once failed.
const KEPT: &[u64] = &[];

const SEEDS: Seeds = Seeds { guests: Guests::Memory, test: "memory_seeds" };

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
    let range = seeds::part(part);
    let count = range.end - range.start;
    let mut sums = Sums::default();
    for seed in range {
        let outcome = SEEDS.run(seed);
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
    SEEDS.run_kept(KEPT);
}
