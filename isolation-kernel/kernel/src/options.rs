//! Options on the kernel's command line.

use log::LevelFilter;
use vm::Switches;

/// What was asked for.
pub struct Options {
    /// Check the machine layer and power off.
    pub selftest: bool,
    /// Panic on purpose.
    pub panic: bool,
    /// Run out of stack on purpose.
    pub overflow: bool,
    /// Do without barriers between the VMs in the branch predictors.
    pub no_barrier: bool,
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

impl Options {
    /// Reads a command line. What it does not know it leaves to [`Options::unknown`].
    pub fn parse(line: &'static str) -> Self {
        let mut options = Self {
            selftest: false,
            panic: false,
            overflow: false,
            no_barrier: false,
            switches: Switches::default(),
            level: LevelFilter::Info,
            line,
        };
        for word in line.split_ascii_whitespace() {
            match word {
                "selftest" => options.selftest = true,
                "panic" => options.panic = true,
                "barrier=off" => options.no_barrier = true,
                "batching=off" => options.switches.batching = false,
                "idle-timeout=off" => options.switches.idle_timeout = false,
                "panic=stack" => options.overflow = true,
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
            matches!(*word, "selftest" | "panic" | "panic=stack" | "barrier=off" | "batching=off" | "idle-timeout=off")
                || word.strip_prefix("log=").and_then(level).is_some()
        };
        self.line.split_ascii_whitespace().filter(move |word| !is_known(word))
    }
}
