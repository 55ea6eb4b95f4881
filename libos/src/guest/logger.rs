//! `log` lines on the console.

use super::instruction;
use core::fmt::{self, Write};
use virtual_isa::limits::MAX_CONSOLE_BYTES;

/// A line that is being written: printed when it is full or done, so that it takes one trap.
pub(crate) struct Line {
    bytes: [u8; MAX_CONSOLE_BYTES],
    used: usize,
}

impl Line {
    pub const fn new() -> Self {
        Self { bytes: [0; MAX_CONSOLE_BYTES], used: 0 }
    }

    fn print(&mut self) {
        instruction::console(&self.bytes[..self.used]);
        self.used = 0;
    }
}

impl Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for &byte in text.as_bytes() {
            if self.used == self.bytes.len() {
                self.print();
            }
            self.bytes[self.used] = byte;
            self.used += 1;
        }
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.used > 0 {
            self.print();
        }
    }
}

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            print(record);
        }
    }

    fn flush(&self) {}
}

/// The line's buffer is on the stack only while it is printed, and not in a caller's frame.
#[inline(never)]
fn print(record: &log::Record<'_>) {
    let level = match record.level() {
        log::Level::Error => "error",
        log::Level::Warn => "warn",
        log::Level::Info => "info",
        log::Level::Debug => "debug",
        log::Level::Trace => "trace",
    };
    let mut line = Line::new();
    let _ = writeln!(line, "{level} {}: {}", record.target(), record.args());
}

/// Sets the logger up, at the level of the argument `log=`, or `info`.
pub(crate) fn start() {
    let level = crate::arguments::get("log").and_then(|level| level.parse().ok()).unwrap_or(log::LevelFilter::Info);
    // It is the first: nobody ran before.
    let _ = log::set_logger(&Logger);
    log::set_max_level(level);
}
