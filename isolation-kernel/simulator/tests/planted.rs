//! Defects that are planted in the kernel: the random runs must find each within a thousand seeds.

use simulator::trial;
use std::panic::catch_unwind;
use vm::Defect;

/// Seeds within which a defect must be found.
const SEEDS: u64 = 1000;

fn is_found(defect: Defect) {
    for seed in 0..SEEDS {
        if let Err(panic) = catch_unwind(|| trial::run(seed, Some(defect))) {
            // The kernel without it must pass the same seed, or the defect is not what was found.
            let _ = trial::run(seed, None);
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("?");
            println!("{defect:?} is found by seed {seed}: {text}");
            return;
        }
    }
    panic!("{defect:?} is not found in {SEEDS} seeds");
}

#[test]
fn a_reference_that_is_not_counted_is_found() {
    is_found(Defect::UncountedPage);
}

#[test]
fn a_page_that_is_not_unmapped_is_found() {
    is_found(Defect::KeptMapping);
}

#[test]
fn a_checksum_that_is_not_compared_is_found() {
    is_found(Defect::UncheckedRead);
}
