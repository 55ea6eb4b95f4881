//! From the loader's word to a running kernel.

use crate::options::Options;
use crate::selftest;
use core::panic::PanicInfo;
use hal::{Cores, Disk, Pages, Processor};
use log::{error, info, warn};
use machine::{BootInfo, Config, LoaderError, Machine};
use virtual_isa::bundle::{PANIC_VALUE, debug_exit_value};
use vm::{Core, Seat, Switches};

machine::entry!(kernel_main, debug_exit_value(1));

/// Status of a power-off because there is nothing to run, or nothing to run it on.
const FAILED: u8 = 1;

fn kernel_main(boot: Result<BootInfo, LoaderError>) -> ! {
    machine::start_serial();
    machine::start_logger();
    let boot = match boot {
        Ok(boot) => boot,
        Err(e) => refuse(&e),
    };
    let options = Options::parse(boot.command_line());
    log::set_max_level(options.level);
    for unknown in options.unknown() {
        error!("unknown option on the kernel's command line: {unknown}");
    }
    let config = Config {
        exit_value: debug_exit_value,
        predictor_barrier: !options.no_barrier,
        most_cpus: options.most_cpus,
        start_fault: options.start_fault,
    };
    let mut machine = match Machine::start(boot, config) {
        Ok(machine) => machine,
        Err(e) => refuse(&e),
    };
    describe(&machine);
    if options.panic {
        panic!("asked for on the command line");
    }
    if options.other_panic {
        panic_elsewhere(&mut machine);
    }
    if options.overflow {
        info!("{} frames fit the kernel's stack", overflow(0));
    }
    if options.selftest {
        let is_whole = options.start_fault.is_none() && options.most_cpus == u32::MAX;
        selftest::run(&mut machine, selftest::Terms { is_long: options.long_selftest, is_whole });
    }
    run(machine, &options)
}

/// Has the last processor panic while this one prints.
fn panic_elsewhere(machine: &mut Machine) -> ! {
    let last = machine.nr_cores() - 1;
    if machine.start_core(last, "asked for on the command line", |_, why| panic!("{why}")).is_err() {
        error!("there is no other processor to panic");
        power_off(machine, FAILED);
    }
    loop {
        info!("this processor goes on");
    }
}

/// Calls itself until the stack ends: the page below it is not mapped, and the double fault has a stack of its own.
#[expect(unconditional_recursion, reason = "that is what it is for")]
fn overflow(depth: u64) -> u64 {
    let frame = core::hint::black_box([depth; 64]);
    overflow(depth + 1) + frame[63]
}

/// Runs what the bundle says, until the supervisor powers the machine off.
fn run(mut machine: Machine, options: &Options) -> ! {
    let switches = options.switches;
    let Some(bundle) = machine.bundle() else {
        error!("no boot bundle: start the machine with one (QEMU: -initrd BUNDLE)");
        power_off(&mut machine, FAILED);
    };
    if switches != Switches::default() {
        warn!("for measurements only: {switches:?}");
    }
    let mut seats = vm::seats(machine.nr_cores()).into_iter();
    let first = seats.next().expect("there is a seat for each core");
    for (core, seat) in (1..).zip(seats) {
        if machine.start_core(core, (bundle, seat, switches), run_other).is_err() {
            error!("core {core} does not start: the machine goes on without it");
        }
    }
    match Core::boot(machine, bundle, first) {
        Ok(mut core) => {
            core.set_wire_rate(options.wire_rate);
            run_core(core, switches)
        }
        Err(e) => {
            error!("cannot boot: {e}");
            machine::refuse(debug_exit_value(FAILED))
        }
    }
}

/// Runs what the first core gives to this one.
fn run_other(machine: Machine, (bundle, seat, switches): (&'static [u8], Seat<Machine>, Switches)) -> ! {
    let number = machine.core();
    match Core::boot(machine, bundle, seat) {
        Ok(core) => run_core(core, switches),
        // It has said nothing to the first, which gives it nothing.
        Err(e) => error!("core {number} cannot boot, the machine goes on without it: {e}"),
    }
    machine::halt_for_ever()
}

fn run_core(mut core: Core<'static, Machine>, switches: Switches) -> ! {
    core.set_switches(switches);
    loop {
        core.turn();
    }
}

/// Says what was found, in one line.
fn describe(machine: &Machine) {
    let (hz, source) = machine.tsc();
    info!(
        "firn: {} MiB of memory, {} processor(s), {} running, tsc {}.{:03} MHz ({source}), {}, disk {} MiB, features {}",
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
