//! What is typed for a supervisor, which is not there: `firn` need not know the difference.

use hal::{Nanos, Pages, Processor, Serial};
use heapless::Vec;
use log::info;
use machine::Machine;

/// Most bytes of a line that is typed.
const MAX_LINE: usize = 64;

/// The answer to what only a supervisor could do.
const NO_SUPERVISOR: &str = "error: a program that runs alone has no supervisor: it knows status, memory and down";

/// The line that is being typed.
#[derive(Default)]
pub struct Console(Vec<u8, MAX_LINE>);

impl Console {
    /// Reads what has been typed, and does what it says. The processor has been idle for so long.
    pub fn listen(&mut self, hw: &mut Machine, idle_ns: u64) {
        while hw.has_typed() {
            match hw.read_byte() {
                Some(b'\n' | b'\r') => obey(hw, &core::mem::take(&mut self.0), idle_ns),
                // What is too long is no command, whatever its end.
                Some(byte) => drop(self.0.push(byte)),
                None => return,
            }
        }
    }
}

fn obey(hw: &mut Machine, line: &[u8], idle_ns: u64) {
    match line {
        b"" => {}
        b"status" => {
            let Nanos(uptime_ns) = hw.now();
            say(hw, format_args!("status {{\"vms\":1,\"uptime_ns\":{uptime_ns},\"idle_ns\":{idle_ns}}}"));
        }
        b"memory" => {
            let (total, free) = (hw.total_pages(), hw.free_pages());
            say(hw, format_args!("memory {{\"total_pages\":{total},\"free_pages\":{free}}}"));
        }
        b"down" => {
            info!("the program is ended");
            hw.power_off(0);
        }
        _ => say(hw, format_args!("{NO_SUPERVISOR}")),
    }
}

/// Says a line as a supervisor would.
pub fn say(hw: &mut Machine, line: core::fmt::Arguments<'_>) {
    vm::print_guest(hw, vm::SUPERVISOR, alloc::format!("{line}").as_bytes(), |_| true);
}
