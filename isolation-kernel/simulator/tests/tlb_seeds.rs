//! Random runs of VMs with address spaces of their own, named by their seeds ([`simulator::trial`]), while the outside
//! parks, pauses and destroys them and memory is short. Each access of a context is checked against a model of the
//! architected TLB ([`simulator::domains`]): whether it may be, and what bytes it finds.
//! [`simulator::seeds`] says how to run more of them, or one.

use simulator::model::Deeds;
use simulator::seeds::{self, Seeds};
use simulator::trial::{self, Guests, Outcome};

/// Seeds that once failed.
const KEPT: &[u64] = &[];

const SEEDS: Seeds = Seeds { guests: Guests::Spaces, test: "tlb_seeds" };

fn run_part(part: u64) {
    let range = seeds::part(part);
    let count = range.end - range.start;
    let mut sum = Deeds::default();
    let (mut parks, mut packed, mut from_disk) = (0, 0, 0);
    for seed in range {
        let Outcome { deeds, machine, faults, .. } = SEEDS.run(seed);
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
    SEEDS.run_kept(KEPT);
}
