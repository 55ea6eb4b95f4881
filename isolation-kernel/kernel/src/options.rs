//! Options on the kernel's command line.

use log::LevelFilter;
use machine::StartFault;
use vm::Switches;

/// What was asked for.
pub struct Options {
    /// Check the machine layer and power off.
    pub selftest: bool,
    /// And take longer over it.
    pub long_selftest: bool,
    /// Panic on purpose.
    pub panic: bool,
    /// Run out of stack on purpose.
    pub overflow: bool,
    /// Panic on purpose on another processor.
    pub other_panic: bool,
    /// Use no more processors than that.
    pub most_cpus: u32,
    /// What is to go wrong when processors are started.
    pub start_fault: Option<StartFault>,
    /// Do without barriers between the VMs in the branch predictors.
    pub no_barrier: bool,
    /// Bytes that all VMs together may send in a second; 0 for no bound.
    pub wire_rate: u32,
    /// What is switched off to measure what it is worth.
    pub switches: Switches,
    /// How much to log.
    pub level: LevelFilter,
    line: &'static str,
}

fn level(name: &str) -> Option<LevelFilter> {
    Some(match name {
        "error" => LevelFilter::Error,
        "warn" => LevelFilter::Warn,
        "info" => LevelFilter::Info,
        "debug" => LevelFilter::Debug,
        _ => return None,
    })
}

/// The number of processors in `cpus=`: at least one.
fn cpus(word: &str) -> Option<u32> {
    word.strip_prefix("cpus=")?.parse().ok().filter(|n| *n > 0)
}

/// The rate in `wire-rate=`: at least one byte in a second.
fn wire_rate(word: &str) -> Option<u32> {
    word.strip_prefix("wire-rate=")?.parse().ok().filter(|n| *n > 0)
}

/// The blocks in `write-blocks=`: at least one.
fn write_blocks(word: &str) -> Option<usize> {
    word.strip_prefix("write-blocks=")?.parse().ok().filter(|n| *n > 0)
}

impl Options {
    /// Reads a command line. What it does not know it leaves to [`Options::unknown`].
    pub fn parse(line: &'static str) -> Self {
        let mut options = Self {
            selftest: false,
            long_selftest: false,
            panic: false,
            overflow: false,
            other_panic: false,
            most_cpus: u32::MAX,
            start_fault: None,
            no_barrier: false,
            wire_rate: 0,
            switches: Switches::default(),
            level: LevelFilter::Info,
            line,
        };
        for word in line.split_ascii_whitespace() {
            match word {
                "selftest" => options.selftest = true,
                "selftest=long" => (options.selftest, options.long_selftest) = (true, true),
                "panic" => options.panic = true,
                "barrier=off" => options.no_barrier = true,
                "batching=off" => options.switches.batching = false,
                "idle-timeout=off" => options.switches.idle_timeout = false,
                "panic=stack" => options.overflow = true,
                "panic=other" => options.other_panic = true,
                "cpu-fault=missing" => options.start_fault = Some(StartFault::MissingProcessor),
                "cpu-fault=page" => options.start_fault = Some(StartFault::NoLowPage),
                _ if cpus(word).is_some() => options.most_cpus = cpus(word).unwrap_or(u32::MAX),
                _ if write_blocks(word).is_some() => {
                    options.switches.write_blocks = write_blocks(word).unwrap_or(usize::MAX);
                }
                _ if wire_rate(word).is_some() => options.wire_rate = wire_rate(word).unwrap_or(0),
                _ => {
                    if let Some(level) = word.strip_prefix("log=").and_then(level) {
                        options.level = level;
                    }
                }
            }
        }
        options
    }

    /// Words that are no option.
    pub fn unknown(&self) -> impl Iterator<Item = &'static str> {
        let is_known = |word: &&str| {
            let fixed = [
                "selftest",
                "selftest=long",
                "panic",
                "panic=stack",
                "panic=other",
                "barrier=off",
                "batching=off",
                "idle-timeout=off",
                "cpu-fault=missing",
                "cpu-fault=page",
            ];
            fixed.contains(word)
                || cpus(word).is_some()
                || wire_rate(word).is_some()
                || write_blocks(word).is_some()
                || word.strip_prefix("log=").and_then(level).is_some()
        };
        self.line.split_ascii_whitespace().filter(move |word| !is_known(word))
    }
}
