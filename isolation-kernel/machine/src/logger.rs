//! The kernel's log, on the serial line: `[    1.234567] info  text`.

use crate::{serial, time};
use log::{Level, LevelFilter, Log, Metadata, Record};

struct Logger;

static LOGGER: Logger = Logger;

impl Log for Logger {
    fn enabled(&self, _metadata: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let us = time::uptime_ns() / 1000;
        let level = match record.level() {
            Level::Error => "error",
            Level::Warn => "warn ",
            Level::Info => "info ",
            Level::Debug => "debug",
            Level::Trace => "trace",
        };
        serial::print(format_args!("[{:5}.{:06}] {level} {}\n", us / 1_000_000, us % 1_000_000, record.args()));
    }

    fn flush(&self) {}
}

/// Starts logging, at level `info`. Who wants another sets it in the crate `log`.
pub fn start() {
    // Fails only if there is a logger already, which then goes on.
    let _ = log::set_logger(&LOGGER);
    log::set_max_level(LevelFilter::Info);
}
