//! A machine with web VMs, booted, asked, loaded, parked and ended: what the demonstration and the benchmarks share.
//!
//! The load itself runs in this same program, started again inside the machine's network.

use crate::arena::report::ArenaReport;
use crate::fleet::{Boot, Fleet};
use crate::machine::{Failure, Firn, Machine, Running, Task, counter};
use crate::progress::Steps;
use crate::report::HttpReport;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Pause before VMs that could not be parked are tried again.
const PARK_POLL: Duration = Duration::from_millis(500);

/// How often they are tried again without success: a service may still wait for the end of a connection.
const PARK_ROUNDS: u32 = 24;

/// Starts machines and load.
pub struct Driver<'a> {
    /// The program that starts machines, and the machine's name.
    pub firn: Firn<'a>,
    /// This program.
    myself: PathBuf,
    /// TCP port of the VMs.
    port: u16,
    /// Shows what is being done.
    pub steps: Steps,
}

/// Some of a machine's VMs: every `stride`-th, from one of them on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// How many VMs come before the first of them.
    pub skip: u32,
    /// How many they are.
    pub count: u32,
    /// Distance from one to the next; 1 for neighbours.
    pub stride: u32,
}

impl Selection {
    /// All of so many VMs.
    #[must_use]
    pub const fn all(vms: u32) -> Self {
        Self { skip: 0, count: vms, stride: 1 }
    }

    /// `count` of `vms` VMs, spread evenly, or all if they are fewer.
    #[must_use]
    pub const fn spread(vms: u32, count: u32) -> Self {
        let count = if count < vms { count } else { vms };
        let stride = match vms.checked_div(count) {
            Some(stride) => stride,
            None => 1,
        };
        Self { skip: stride / 2, count, stride }
    }
}

/// A machine that is up.
pub struct Session<'a> {
    driver: &'a Driver<'a>,
    running: Running<'a>,
    /// What `firn` says of the machine.
    pub machine: Machine,
    /// What `firn up` said when all VMs had been started.
    pub up: Value,
    /// How many VMs it has.
    pub vms: u32,
}

impl<'a> Driver<'a> {
    /// To use `firn` for machines, and this program for load to that port. `steps` shows what is being done.
    ///
    /// # Errors
    /// If this program cannot find itself.
    pub fn new(firn: Firn<'a>, port: u16, steps: Steps) -> Result<Self, Failure> {
        let myself =
            std::env::current_exe().map_err(|error| Failure::failed(format!("cannot find this program: {error}")))?;
        Ok(Self { firn, myself, port, steps })
    }

    /// Says on stderr how far things are.
    pub fn say(&self, what: &str) {
        self.steps.say(what);
    }

    /// Starts this program with `kind` of load inside the machine's network.
    fn generate(
        &self,
        kind: &str,
        (first, count): (Ipv4Addr, u32),
        port: u16,
        arguments: &[&str],
    ) -> Result<Task, Failure> {
        let mut command = self.firn.command(&["exec", "--name", self.firn.name, "--"]);
        command.arg(&self.myself).args([kind, "--first", &first.to_string(), "--format", "json"]);
        command.args(["--count", &count.to_string(), "--port", &port.to_string()]);
        if self.steps.is_alone() {
            command.arg("--quiet");
        }
        Task::start("the load", command.args(arguments))
    }

    /// Starts HTTP load.
    fn load(&self, first: Ipv4Addr, count: u32, arguments: &[&str]) -> Result<Task, Failure> {
        self.generate("http", (first, count), self.port, arguments)
    }

    /// Waits for a load's end.
    fn finish<R: DeserializeOwned>(&self, task: Task) -> Result<R, Failure> {
        let ended = task.wait_with(&self.firn)?;
        // Exit status 1 means that something did not answer: the report says what.
        if !matches!(ended.status.code(), Some(0 | 1)) || ended.output.is_empty() {
            return Err(Failure::failed(format!("the load could not be driven ({})", ended.status)));
        }
        serde_json::from_slice(&ended.output)
            .map_err(|error| Failure::failed(format!("the load's report is not understood: {error}")))
    }
}

impl<'a> Session<'a> {
    /// Boots a machine, and waits until all its VMs have been started.
    ///
    /// # Errors
    /// If it does not come up; then nothing is left running.
    pub fn boot(driver: &'a Driver<'a>, fleet: &Fleet, file: &Path) -> Result<Self, Failure> {
        let mut session = Self::start(driver, fleet, file)?;
        session.up = session.running.wait_for_start()?;
        Ok(session)
    }

    /// Boots a machine, and asks every VM who it is from the machine's start on until it has answered: who answers
    /// is seen as it happens.
    ///
    /// # Errors
    /// As [`Self::boot`].
    pub fn boot_and_sweep(driver: &'a Driver<'a>, fleet: &Fleet, file: &Path) -> Result<(Self, HttpReport), Failure> {
        let mut session = Self::start(driver, fleet, file)?;
        let (first, first_vm) = session.first();
        let wait = (60.0 + f64::from(fleet.vms) * 0.02).to_string();
        let arguments = ["--sweep", "--path", "/id", "--first-vm", &first_vm.to_string(), "--wait", &wait];
        let sweep = driver.load(first, fleet.vms, &arguments)?;
        session.up = session.running.wait_for_start()?;
        let sweep = driver.finish(sweep)?;
        Ok((session, sweep))
    }

    fn start(driver: &'a Driver<'a>, fleet: &Fleet, file: &Path) -> Result<Self, Failure> {
        write(file, fleet.to_toml(&format!("loadgen {}", driver.firn.name)).as_bytes())?;
        let mut options = Vec::new();
        if fleet.icount {
            options.push(if fleet.is_asked_from_outside { "--icount=wait" } else { "--icount" });
        }
        if !fleet.kernel_options.is_empty() {
            options.extend(["--kernel-options", &fleet.kernel_options]);
        }
        let foreign = match &fleet.boot {
            Some(Boot::Foreign { kernel, initrd }) => Some([kernel.to_string_lossy(), initrd.to_string_lossy()]),
            Some(Boot::Bare) | None => None,
        };
        match &foreign {
            Some([kernel, initrd]) => options.extend(["--kernel", kernel, "--initrd", initrd]),
            None if fleet.boot.is_some() => options.push("--bare"),
            None => {}
        }
        let mut running = Running::start(driver.firn, file, &options)?;
        let machine = running.wait_for_emulator()?;
        Ok(Self { driver, running, machine, up: Value::Null, vms: fleet.vms })
    }

    /// Address and number of the first VM.
    fn first(&self) -> (Ipv4Addr, u32) {
        self.machine.services.first().map_or((Ipv4Addr::UNSPECIFIED, 0), |first| (first.first_ipv4, first.first_vm))
    }

    /// Asks each of some VMs once who it is, `connections` at a time.
    ///
    /// # Errors
    /// If the load cannot be driven. VMs that do not answer are in the report.
    pub fn sweep(&self, of: Selection, connections: u32) -> Result<HttpReport, Failure> {
        let (first, first_vm) = self.first();
        let first = Ipv4Addr::from(u32::from(first).saturating_add(of.skip));
        let [first_vm, stride, connections] = [first_vm + of.skip, of.stride, connections].map(|n| n.to_string());
        // A VM may have to be read from a slow disk, and so may those before it.
        let arguments = [
            &["--sweep", "--path", "/id", "--first-vm", &first_vm, "--stride", &stride][..],
            &["--connections", &connections, "--timeout", "60000"],
        ];
        self.driver.finish(self.driver.load(first, of.count, &arguments.concat())?)
    }

    /// Drives load over all VMs, with these further arguments of `loadgen http`.
    ///
    /// # Errors
    /// If the load cannot be driven. Requests that fail are in the report.
    pub fn load(&self, arguments: &[&str]) -> Result<HttpReport, Failure> {
        self.load_of(Selection::all(self.vms), arguments)
    }

    /// The same over some of the machine's VMs, which may be of any service.
    ///
    /// # Errors
    /// As [`Self::load`].
    pub fn load_of(&self, of: Selection, arguments: &[&str]) -> Result<HttpReport, Failure> {
        let first = Ipv4Addr::from(u32::from(self.first().0).saturating_add(of.skip));
        let stride = ["--stride", &of.stride.to_string()];
        self.driver.finish(self.driver.load(first, of.count, &[&stride[..], arguments].concat())?)
    }

    /// Lets bots play on all VMs, with these further arguments of `loadgen arena`.
    ///
    /// # Errors
    /// If the bots cannot be driven. Those that did not get in are in the report.
    pub fn play(&self, arguments: &[&str]) -> Result<ArenaReport, Failure> {
        let all = (self.first().0, self.vms);
        self.driver.finish(self.driver.generate("arena", all, arena_protocol::PORT, arguments)?)
    }

    /// Address of the n-th VM, from 0 on.
    #[must_use]
    pub fn address(&self, n: u32) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.first().0).saturating_add(n))
    }

    /// Starts somebody's program inside the machine's network.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn client(&self, words: &[&str]) -> Result<Task, Failure> {
        let firn = &self.driver.firn;
        Task::start(
            words.first().unwrap_or(&"a client"),
            &mut firn.command(&[&["exec", "--name", firn.name, "--"], words].concat()),
        )
    }

    /// Waits for the end of such a program. Returns what it printed.
    ///
    /// # Errors
    /// If it fails.
    pub fn finish_client(&self, task: Task) -> Result<String, Failure> {
        let ended = task.wait_with(&self.driver.firn)?;
        if ended.status.success() {
            return Ok(String::from_utf8_lossy(&ended.output).into_owned());
        }
        Err(Failure::failed(format!("a client failed ({})", ended.status)))
    }

    /// Gives the supervisor a command that goes on meanwhile. Waiting for the task's end gives its answer.
    ///
    /// # Errors
    /// If `firn` cannot be started.
    pub fn ask_meanwhile(&self, words: &[&str], seconds: u32) -> Result<Task, Failure> {
        let firn = &self.driver.firn;
        let timeout = seconds.max(1).to_string();
        let arguments = [&["ask", "--name", firn.name, "--timeout", &timeout], words].concat();
        Task::start("firn ask", &mut firn.command(&arguments))
    }

    /// State and counters of a VM.
    ///
    /// # Errors
    /// If the supervisor does not answer.
    pub fn inspect(&self, vm: u32) -> Result<Value, Failure> {
        let firn = &self.driver.firn;
        let output = firn.run(&["inspect", &vm.to_string(), "--name", firn.name, "--format", "json"])?;
        serde_json::from_slice(&output)
            .map_err(|error| Failure::failed(format!("firn inspect answers what is not understood: {error}")))
    }

    /// Gives the supervisor a command whose effort follows the number of VMs, and returns what it answers.
    ///
    /// # Errors
    /// If it refuses, or does not answer.
    pub fn ask(&self, words: &[&str]) -> Result<String, Failure> {
        self.driver.firn.ask(words, Duration::from_secs(60 + u64::from(self.vms) / 20))
    }

    /// Parks every VM, in `memory` or on `disk`, and returns the machine's state after it. VMs that do not sleep yet
    /// are tried again until no more of them come to rest.
    ///
    /// # Errors
    /// If the supervisor does not answer.
    pub fn park(&self, tier: &str) -> Result<Value, Failure> {
        let counted = if tier == "disk" { "parked_on_disk" } else { "parked" };
        let mut rest = Rest::default();
        loop {
            self.ask(&["park", "all", tier])?;
            let status = self.status()?;
            let parked = counter(&status, counted);
            if parked.is_none_or(|parked| parked >= f64::from(self.vms) || rest.is_over(parked)) {
                return Ok(status);
            }
            self.driver.firn.pause(PARK_POLL)?;
        }
    }

    /// The machine's state and counters.
    ///
    /// # Errors
    /// If the supervisor does not answer.
    pub fn status(&self) -> Result<Value, Failure> {
        self.driver.firn.status()
    }

    /// Ends the machine.
    ///
    /// # Errors
    /// If it does not power itself off cleanly.
    pub fn end(self) -> Result<(), Failure> {
        self.driver.say("ending the machine");
        self.running.end()
    }

    /// Leaves the machine up.
    pub fn keep(self) {
        self.running.keep();
    }
}

/// Looks whether a count still grows.
#[derive(Debug, Default)]
struct Rest {
    most: f64,
    rounds: u32,
}

impl Rest {
    /// Takes the count, and says whether it has not grown for long.
    fn is_over(&mut self, count: f64) -> bool {
        self.rounds = if count > self.most { 0 } else { self.rounds + 1 };
        self.most = self.most.max(count);
        self.rounds >= PARK_ROUNDS
    }
}

/// Writes a file, and makes its folder if there is none.
///
/// # Errors
/// [`Failure::BadInput`] if it cannot be written.
pub fn write(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    let made = folder.map_or(Ok(()), std::fs::create_dir_all);
    made.and_then(|()| std::fs::write(file, bytes)).map_err(|error| {
        Failure::BadInput(format!("cannot write {}: {error}; name a folder that can be written", file.display()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selection_is_spread_over_all_vms() {
        for (vms, count) in [(1, 300), (300, 300), (999, 300), (100_000, 300), (7, 0)] {
            let of = Selection::spread(vms, count);
            assert_eq!(of.count, count.min(vms));
            let last = of.skip + of.count.saturating_sub(1) * of.stride;
            assert!(of.stride >= 1 && last < vms, "{of:?} of {vms}");
        }
        assert_eq!(Selection::spread(100_000, 300), Selection { skip: 166, count: 300, stride: 333 });
        assert_eq!(Selection::all(5), Selection { skip: 0, count: 5, stride: 1 });
    }

    #[test]
    fn what_no_longer_grows_is_at_rest() {
        let mut rest = Rest::default();
        assert!(!rest.is_over(0.0) && !rest.is_over(5.0));
        for _ in 1..PARK_ROUNDS {
            assert!(!rest.is_over(5.0));
        }
        assert!(!rest.is_over(6.0));
        for _ in 1..PARK_ROUNDS {
            assert!(!rest.is_over(4.0));
        }
        assert!(rest.is_over(6.0));
    }
}
