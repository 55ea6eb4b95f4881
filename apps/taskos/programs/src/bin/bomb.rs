//! Starts itself as often as it may, in all generations that it may, and waits for all of them.
#![cfg_attr(firn_program, no_std, no_main)]

/// Most children of one: more than it may have.
#[cfg(firn_program)]
const MOST: usize = 32;

programs::program!(|generation: u64| {
    let mut children = [0; MOST];
    let mut nr_children = 0;
    while nr_children < MOST {
        match programs::spawn("bomb", generation + 1, None) {
            Ok(child) => children[nr_children] = child,
            Err(programs::abi::Error::Limit | programs::abi::Error::NoMemory) => break,
            Err(_) => return 1,
        }
        nr_children += 1;
    }
    if generation > 0 {
        // So that there are many at a time.
        programs::sleep(2_000_000);
    }
    for &child in &children[..nr_children] {
        if programs::wait(child) != Ok(0) {
            return 2;
        }
    }
    0
});
