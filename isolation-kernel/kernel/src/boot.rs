//! From the loader's word to a running kernel.

use crate::options::Options;
use crate::{logger, selftest};
use core::panic::PanicInfo;
use hal::{Disk, Pages, Processor};
use log::{error, info, warn};
use machine::{BootInfo, Config, LoaderError, Machine};
use virtual_isa::bundle::{PANIC_VALUE, debug_exit_value};
use vm::{Core, Switches};

machine::entry!(kernel_main, debug_exit_value(1));

/// Status of a power-off because there is nothing to run, or nothing to run it on.
const FAILED: u8 = 1;

fn kernel_main(boot: Result<BootInfo, LoaderError>) -> ! {
    machine::start_serial();
    logger::start();
    let boot = match boot {
        Ok(boot) => boot,
        Err(e) => refuse(&e),
    };
    let options = Options::parse(boot.command_line());
    logger::set_level(options.level);
    for unknown in options.unknown() {
        error!("unknown option on the kernel's command line: {unknown}");
    }
    let config = Config { exit_value: debug_exit_value, predictor_barrier: !options.no_barrier };
    let mut machine = match Machine::start(boot, config) {
        Ok(machine) => machine,
        Err(e) => refuse(&e),
    };
    describe(&machine);
    if options.panic {
        panic!("asked for on the command line");
    }
    if options.overflow {
        info!("{} frames fit the kernel's stack", overflow(0));
    }
    if options.selftest {
        selftest::run(&mut machine);
    }
    run(machine, options.switches)
}

/// Calls itself until the stack ends: the page below it is not mapped, and the double fault has a stack of its own.
#[expect(unconditional_recursion, reason = "that is what it is for")]
fn overflow(depth: u64) -> u64 {
    let frame = core::hint::black_box([depth; 64]);
    overflow(depth + 1) + frame[63]
}

/// Runs what the bundle says, until the supervisor powers the machine off.
fn run(mut machine: Machine, switches: Switches) -> ! {
    let Some(bundle) = machine.bundle() else {
        error!("no boot bundle: start the machine with one (QEMU: -initrd BUNDLE)");
        power_off(&mut machine, FAILED);
    };
    match Core::new(machine, bundle) {
        Ok(mut core) => {
            core.set_switches(switches);
            if switches != Switches::default() {
                warn!("for measurements only: {switches:?}");
            }
            loop {
                core.turn();
            }
        }
        Err(e) => {
            error!("cannot boot: {e}");
            machine::refuse(debug_exit_value(FAILED))
        }
    }
}

/// Says what was found, in one line.
fn describe(machine: &Machine) {
    let (hz, source) = machine.tsc();
    info!(
        "firn: {} MiB of memory, {} processor(s), {} running, VMs on the first, tsc {}.{:03} MHz ({source}), {}, disk {} MiB, features {}",
        machine.total_pages() / 256,
        machine.nr_cpus(),
        machine.nr_running(),
        hz / 1_000_000,
        hz / 1000 % 1000,
        if machine.has_network() { "network" } else { "no network" },
        machine.nr_blocks() / 256,
        machine.features(),
    );
}

/// Ends a machine on which the kernel cannot run.
fn refuse(why: &dyn core::fmt::Display) -> ! {
    error!("cannot run on this machine: {why}");
    machine::refuse(debug_exit_value(FAILED))
}

/// Ends the machine.
pub fn power_off(machine: &mut Machine, status: u8) -> ! {
    machine.power_off(status);
    unreachable!("a machine that is off runs no code")
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    machine::die(info, PANIC_VALUE)
}
