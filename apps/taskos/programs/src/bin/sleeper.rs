//! Sleeps three times, and looks at the clock whether it did.
#![cfg_attr(firn_program, no_std, no_main)]

#[cfg(firn_program)]
const SLEEP_NS: u64 = 3_000_000;

programs::program!(|_| {
    for _ in 0..3 {
        let before = programs::clock();
        programs::sleep(SLEEP_NS);
        if programs::clock() < before + SLEEP_NS {
            return 1;
        }
    }
    0
});
