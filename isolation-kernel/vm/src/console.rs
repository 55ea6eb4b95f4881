//! Text: the kernel's own lines about VMs, and what guests print.

use core::fmt;
use hal::{Hardware, Nanos};
use policy::bucket::Rate;

/// What a VM may print: enough for a log, too little to drown one.
pub const CONSOLE_RATE: Rate = Rate { per_second: 4096, burst: 16 * 1024 };

/// What all VMs but the supervisor may print together: the serial line takes its bytes one at a time, and the
/// processor waits for each.
const MACHINE_CONSOLE_RATE: Rate = Rate { per_second: 64 * 1024, burst: 256 * 1024 };

/// One core's part of what all VMs but the supervisor may print together.
pub const fn machine_rate(nr_cores: u32) -> Rate {
    let Rate { per_second, burst } = MACHINE_CONSOLE_RATE;
    let nr_cores = if nr_cores == 0 { 1 } else { nr_cores };
    Rate { per_second: per_second / nr_cores, burst: burst / nr_cores }
}

/// What a line costs beside its bytes: stamp, number, line end.
const LINE_COST: u32 = 32;

/// How much a line of the kernel matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Error,
    Warn,
    Info,
}

/// A time as the log shows it: seconds and microseconds.
pub struct Stamp(pub Nanos);

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Nanos(ns) = self.0;
        write!(f, "[{:5}.{:06}]", ns / 1_000_000_000, ns % 1_000_000_000 / 1000)
    }
}

/// Prints a line of the kernel's log.
pub fn log<H: Hardware>(hw: &mut H, level: Level, text: fmt::Arguments<'_>) {
    let stamp = Stamp(hw.now());
    let level = match level {
        Level::Error => "error",
        Level::Warn => "warn ",
        Level::Info => "info ",
    };
    hw.print(format_args!("{stamp} {level} {text}\n"));
}

/// Prints what a guest wrote, line by line, so that it cannot look like anybody else's text. `may_print` is asked
/// for each line with what it costs. Returns how many bytes were not printed.
pub fn print_guest<H: Hardware>(hw: &mut H, vm: u32, bytes: &[u8], mut may_print: impl FnMut(u32) -> bool) -> u64 {
    let stamp = Stamp(hw.now());
    let mut dropped: u64 = 0;
    for line in bytes.strip_suffix(b"\n").unwrap_or(bytes).split(|&b| b == b'\n') {
        let length = u32::try_from(line.len()).unwrap_or(u32::MAX);
        if dropped == 0 && may_print(length.saturating_add(LINE_COST)) {
            hw.print(format_args!("{stamp} vm {vm}| {}\n", Tame(line)));
        } else {
            // And nothing after it: half a text is better without holes.
            dropped = dropped.saturating_add(u64::from(length)).saturating_add(1);
        }
    }
    dropped
}

/// A guest's bytes with nothing in them that a terminal would obey.
struct Tame<'a>(&'a [u8]);

impl fmt::Display for Tame<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            let mut plain = chunk.valid();
            while let Some(at) = plain.find(|c: char| c.is_control() && c != '\t') {
                let (before, rest) = plain.split_at(at);
                f.write_str(before)?;
                f.write_str("\u{fffd}")?;
                plain = rest.get(rest.chars().next().map_or(0, char::len_utf8)..).unwrap_or_default();
            }
            f.write_str(plain)?;
            if !chunk.invalid().is_empty() {
                f.write_str("\u{fffd}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use super::*;
    use std::string::ToString;

    #[test]
    fn a_guest_cannot_speak_to_the_terminal() {
        assert_eq!(Tame(b"plain \xc3\xa4 text\t.").to_string(), "plain ä text\t.");
        assert_eq!(Tame(b"\x1b[2Jx\r\x9b\xff").to_string(), "\u{fffd}[2Jx\u{fffd}\u{fffd}\u{fffd}");
        assert_eq!(Tame("\u{9b}A".as_bytes()).to_string(), "\u{fffd}A");
    }

    #[test]
    fn time_is_in_seconds_and_microseconds() {
        assert_eq!(Stamp(Nanos(12_345_678_901)).to_string(), "[   12.345678]");
    }
}
