//! Checks what the machine layer promises, on the machine it runs on, and powers off.
//!
//! Whoever starts a machine uses it to find out whether an accelerator really runs guests: it takes well under a
//! second, and ends by itself with status 0 if all holds.

mod cores;
mod disk;
mod exits;
mod memory;
mod network;
mod processors;
mod sandbox;
mod switches;
mod tables;
mod team;

use crate::boot::power_off;
use alloc::string::String;
use log::{debug, error, info};
use machine::Machine;
use spin::Mutex;

/// What did not hold.
type Outcome = Result<(), String>;

/// A check and its name.
type Check = (&'static str, fn(&mut Machine) -> Outcome);

/// Fails with a text unless a condition holds.
macro_rules! check {
    ($condition:expr, $($text:tt)*) => {
        if !$condition {
            return Err(alloc::format!($($text)*));
        }
    };
}
pub(crate) use check;

/// How the self-test is run.
#[derive(Clone, Copy)]
pub struct Terms {
    /// Races are run for longer.
    pub is_long: bool,
    /// All processors that there are must run.
    pub is_whole: bool,
}

static TERMS: Mutex<Terms> = Mutex::new(Terms { is_long: false, is_whole: true });

/// How this one is run.
fn terms() -> Terms {
    *TERMS.lock()
}

/// What is checked before all else.
const BEFORE: [Check; 1] = [("processors", processors::all)];

/// What holds on the first core, and on each other.
const EVERYWHERE: [Check; 15] = [
    ("pages", memory::pages),
    ("mappings", memory::mappings),
    ("accesses", memory::accesses),
    ("shared tables", tables::shared),
    ("virtual instructions", exits::instructions),
    ("page faults", exits::page_faults),
    ("exceptions", exits::exceptions),
    ("flags", exits::flags),
    ("bad state", exits::bad_state),
    ("alarm", exits::alarm),
    ("vector registers", switches::vector),
    ("segments", switches::segments),
    ("disk refusals", disk::refusals),
    ("disk transfers", disk::transfers),
    ("disk queue", disk::full_queue),
];

/// What only the first core can show.
const AFTER: [Check; 4] = [
    ("exhaustion", memory::exhaustion),
    ("disk interrupts", disk::interrupts),
    ("network", network::questions),
    // The last, as the other processors have a machine of their own from then on.
    ("cores", cores::all),
];

/// Runs all checks and powers off.
pub fn run(machine: &mut Machine, terms: Terms) -> ! {
    *TERMS.lock() = terms;
    let checks = BEFORE.iter().chain(&EVERYWHERE).chain(&AFTER);
    let nr_checks = checks.clone().count();
    for (name, check) in checks {
        debug!("selftest: {name}");
        if let Err(what) = check(machine) {
            error!("selftest failed: {name}: {what}");
            power_off(machine, 1);
        }
    }
    memory::measure(machine);
    exits::measure(machine);
    switches::measure(machine);
    info!("selftest passed: {nr_checks} checks");
    power_off(machine, 0)
}
