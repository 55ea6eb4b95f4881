//! Defects that are planted in the kernel: the random runs must find each within a thousand seeds.

use simulator::trial::{self, Guests};
use std::panic::catch_unwind;
use vm::Defect;

/// Seeds within which a defect must be found.
const SEEDS: u64 = 1000;

fn is_found(guests: Guests, defect: Defect) {
    for seed in 0..SEEDS {
        if let Err(panic) = catch_unwind(|| trial::run(seed, guests, Some(defect))) {
            // The kernel without it must pass the same seed, or the defect is not what was found.
            let _ = trial::run(seed, guests, None);
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
    is_found(Guests::Memory, Defect::UncountedPage);
}

#[test]
fn a_page_that_is_not_unmapped_is_found() {
    is_found(Guests::Memory, Defect::KeptMapping);
}

#[test]
fn a_checksum_that_is_not_compared_is_found() {
    is_found(Guests::Memory, Defect::UncheckedRead);
}

#[test]
fn a_page_that_stays_in_an_address_space_is_found() {
    is_found(Guests::Spaces, Defect::KeptInSpace);
}

#[test]
fn a_copy_that_an_address_space_does_not_get_is_found() {
    is_found(Guests::Spaces, Defect::StaleCopy);
}

#[test]
fn an_entry_that_is_dropped_and_stays_mapped_is_found() {
    is_found(Guests::Spaces, Defect::KeptEntry);
}
