//! `firn down`: ends a machine, kindly if it can be, and clears it away.

use crate::error::Result;
use crate::machine::{self, Machine, Meaning};
use crate::project::Project;
use crate::{qmp, serial};
use nix::sys::signal::Signal;
use std::time::{Duration, Instant};

/// How long a machine gets to power itself off.
const KINDLY: Duration = Duration::from_secs(10);

/// How long the emulator gets to quit.
const SOON: Duration = Duration::from_secs(3);

/// How a machine was ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It had ended before.
    HadEnded,
    /// It powered itself off when asked.
    Asked,
    /// The emulator was told to quit: the machine did not answer.
    Quit,
    /// The emulator was killed.
    Killed,
}

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// How it was ended.
    pub way: Way,
    /// What the emulator's status says.
    pub meaning: Meaning,
}

impl Report {
    /// Whether the machine powered itself off with status 0.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        matches!(self, Self { way: Way::HadEnded | Way::Asked, meaning: Meaning::PoweredOff(0) })
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.way {
            Way::HadEnded => write!(f, "had ended before: {}", self.meaning),
            Way::Asked => self.meaning.fmt(f),
            Way::Quit => f.write_str("did not power off when asked: the emulator was told to quit"),
            Way::Killed => f.write_str("did not power off when asked: the emulator was killed"),
        }
    }
}

/// Ends the machine of that name and clears its folder away, but for its log.
///
/// # Errors
/// `NoMachine`, `Failed` if another command is at it, `Io`.
pub fn down(project: &Project, name: &str) -> Result<Report> {
    // Before anything is created: a name without a machine may not even be one.
    Machine::open(project, name)?;
    let _lock = machine::lock(project, name)?;
    let machine = Machine::open(project, name)?;
    let way = end(&machine);
    let report = Report { way, meaning: machine.meaning() };
    machine::clear_away(project, name)?;
    Ok(report)
}

fn end(machine: &Machine) -> Way {
    if !machine.is_alive() {
        wait(machine, SOON);
        return Way::HadEnded;
    }
    // If it does not listen, it will not end either.
    let _ = serial::tell(machine, "down", KINDLY);
    if wait(machine, SOON) {
        return Way::Asked;
    }
    force(machine)
}

/// Ends the emulator of a machine that need not, or does not, power itself off.
pub fn force(machine: &Machine) -> Way {
    if qmp::quit(&machine.folder).is_ok() && wait(machine, SOON) {
        return Way::Quit;
    }
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        machine.record.qemu.signal(signal);
        if wait(machine, SOON) {
            break;
        }
    }
    // The holder ends with the emulator, but for a defect; the namespace must go.
    machine.record.holder.signal(Signal::SIGKILL);
    Way::Killed
}

/// Waits until emulator and holder, and with them the namespace, are gone.
pub(crate) fn wait(machine: &Machine, time: Duration) -> bool {
    let end = Instant::now() + time;
    loop {
        if !machine.is_alive() && !machine.record.holder.is_alive() {
            return true;
        }
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_power_off_with_status_0_is_clean() {
        let clean = Report { way: Way::Asked, meaning: Meaning::PoweredOff(0) };
        assert!(clean.is_clean());
        assert!(!Report { way: Way::Quit, ..clean }.is_clean());
        assert!(!Report { meaning: Meaning::Panicked, ..clean }.is_clean());
        assert!(!Report { meaning: Meaning::PoweredOff(1), ..clean }.is_clean());
    }
}
