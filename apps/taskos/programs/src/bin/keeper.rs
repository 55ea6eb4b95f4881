//! Keeps a secret at the first address of its heap for a while, and looks whether it is still there.
#![cfg_attr(firn_program, no_std, no_main)]

#[cfg(firn_program)]
const SECRET: u64 = 0x5ec2_e75e_c2e7_5ec2;

programs::program!(|_| {
    let Ok(address) = programs::grow(1) else { return 1 };
    let place = address as *mut u64;
    // SAFETY: the page is this program's own, and nobody else's.
    unsafe { place.write_volatile(SECRET) };
    for _ in 0..4 {
        programs::sleep(5_000_000);
        // SAFETY: as above.
        if unsafe { place.read_volatile() } != SECRET {
            return 2;
        }
    }
    0
});
