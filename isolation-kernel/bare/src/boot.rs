//! From the loader's word to the program's first instruction.

use crate::console;
use crate::instructions::Bare;
use crate::plan::Only;
use crate::program::Memory;
use core::fmt::Display;
use core::panic::PanicInfo;
use hal::Processor;
use log::{error, info};
use machine::{Alone, BootInfo, Config, LoaderError, Machine};
use virtual_isa::bundle::{PANIC_VALUE, debug_exit_value};
use virtual_isa::layout::STACK_TOP;

machine::entry!(bare_main, debug_exit_value(1));

/// Status of a power-off because there is nothing to run, or nothing to run it on.
const FAILED: u8 = 1;

fn bare_main(boot: Result<BootInfo, LoaderError>) -> ! {
    machine::start_serial();
    machine::start_logger();
    let boot = match boot {
        Ok(boot) => boot,
        Err(e) => refuse(&e),
    };
    let config = Config { exit_value: debug_exit_value, predictor_barrier: false, most_cpus: 1, start_fault: None };
    let mut machine = match Machine::start(boot, config) {
        Ok(machine) => machine,
        Err(e) => refuse(&e),
    };
    if !machine.hardware_entropy(&mut [0; 32]) {
        refuse(&"the processor has no random numbers, and nobody else here has");
    }
    let Some(bundle) = machine.bundle() else { refuse(&"no boot bundle: start the machine with one (QEMU: -initrd)") };
    match Only::read(bundle) {
        Ok(only) => run(machine, &only),
        Err(e) => refuse(&e),
    }
}

/// Runs the VM of a plan.
fn run(mut machine: Machine, only: &Only<'_>) -> ! {
    let loaded = Alone::new(&mut machine).and_then(|mut alone| {
        let memory = Memory::load(&mut machine, &mut alone, only)?;
        Ok((alone, memory))
    });
    let Ok((alone, memory)) = loaded else { refuse(&"the machine has too little memory for the VM") };
    let start = only.image.entry();
    info!("vm {} runs alone in ring 0, without isolation: {} pages", only.vm, only.memory_pages);
    console::say(&mut machine, format_args!("fleet {}: 1 VM started", only.fleet));
    let Some(bare) = Bare::new(machine, only, memory) else { refuse(&"the VM has too little memory for its rings") };
    // SAFETY: the first processor, once. The program is one of Firn's images, which keep to the virtual ISA: that it
    // could do otherwise is what is measured.
    unsafe { alone.run(bare, start, STACK_TOP) }
}

/// Ends a machine on which nothing can run.
fn refuse(why: &dyn Display) -> ! {
    error!("cannot run: {why}");
    machine::refuse(debug_exit_value(FAILED))
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    machine::die(info, PANIC_VALUE)
}
