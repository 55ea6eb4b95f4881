//! What the console asks: `status`, `memory`, `vm N`, `vm-memory N`, `vm-time N`, `park VMS [TIER]`, `pause N`,
//! `start N`, `churn FIRST COUNT`, `storm FIRST COUNT SECONDS`, `race FIRST-LAST SECONDS`, `down`.
//!
//! Answers are single lines. What takes long is done in the background, one command at a time, and says when it is
//! done; other questions are answered meanwhile.

use crate::churn::{churn, spare_vms};
use crate::crowd;
use crate::{Machine, Office, STATUS_CLEAN, power_off, race, show, storm};
use alloc::boxed::Box;
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use alloc::vec::Vec;
use core::ops::Range;
use libos::gate::{Answer, Error, MachineStatus, Operation, Tier, VmStatus};
use libos::time::{Duration, Instant, sleep};

/// How often it is looked whether VMs are on the disk.
const LOOK: Duration = Duration::from_millis(20);

/// When nothing has got to the disk for so long, nothing will: it is full, or fails.
const STUCK: Duration = Duration::from_secs(2);

/// Which VMs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Vms {
    /// This one.
    One(u32),
    /// Those of these numbers.
    Range(Range<u32>),
    /// Those of the plan.
    All,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// How the machine and its fleet are.
    Status,
    /// Where memory is.
    Memory,
    /// How one VM is.
    Vm(u32),
    /// Where a VM's memory is.
    VmMemory(u32),
    /// What a VM has had of the processor.
    VmTime(u32),
    /// To park VMs that sleep.
    Park(Vms, Tier),
    /// To let a VM run no more.
    Pause(u32),
    /// To let it run again.
    Start(u32),
    /// To create, start, park, wake, stop and destroy so many VMs from a number on, and say what that cost.
    Churn(u32, u32),
    /// To do the same again and again, so many seconds long.
    Storm(u32, u32, u32),
    /// How evenly these come forward, so many seconds long.
    Race(Range<u32>, u32),
    /// To power the machine off.
    Down,
}

/// All commands, for who mistypes.
const USAGE: &str = "there are status, memory, vm N, vm-memory N, vm-time N, park N|N-M|all [memory|disk], pause N, start N, \
                     churn FIRST COUNT, storm FIRST COUNT SECONDS, race FIRST-LAST SECONDS, down";

fn number(word: &str) -> Result<u32, String> {
    word.parse().map_err(|_| format!("{word:?} is not the number of a VM"))
}

fn read_seconds(word: &str, most: u32) -> Result<u32, String> {
    let seconds = word.parse().ok().filter(|seconds| (1..=most).contains(seconds));
    seconds.ok_or_else(|| format!("{word:?}: give 1 to {most} seconds"))
}

impl Vms {
    fn parse(word: &str) -> Result<Self, String> {
        if word == "all" {
            return Ok(Self::All);
        }
        let Some((first, last)) = word.split_once('-') else { return number(word).map(Self::One) };
        match (number(first)?, number(last)?) {
            (first, last) if first <= last && last < u32::MAX => Ok(Self::Range(first..last + 1)),
            _ => Err(format!("{word:?}: the first number is above the last")),
        }
    }
}

impl Command {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &str) -> Result<Self, String> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        Ok(match *words {
            ["status"] => Self::Status,
            ["memory"] => Self::Memory,
            ["down"] => Self::Down,
            ["vm", vm] => Self::Vm(number(vm)?),
            ["vm-memory", vm] => Self::VmMemory(number(vm)?),
            ["vm-time", vm] => Self::VmTime(number(vm)?),
            ["park", vms] | ["park", vms, "memory"] => Self::Park(Vms::parse(vms)?, Tier::Memory),
            ["park", vms, "disk"] => Self::Park(Vms::parse(vms)?, Tier::Disk),
            ["pause", vm] => Self::Pause(number(vm)?),
            ["start", vm] => Self::Start(number(vm)?),
            ["churn", first, count] => {
                let count = count.parse().map_err(|_| format!("{count:?} is not a number of VMs"))?;
                Self::Churn(number(first)?, count)
            }
            ["storm", first, count, seconds] => {
                let count = count.parse().map_err(|_| format!("{count:?} is not a number of VMs"))?;
                Self::Storm(number(first)?, count, read_seconds(seconds, storm::MAX_SECONDS)?)
            }
            ["race", vms, seconds] => {
                let vms = match Vms::parse(vms)? {
                    Vms::Range(vms) if vms.end - vms.start <= race::MAX_RUNNERS => vms,
                    _ => return Err(format!("{vms:?}: give FIRST-LAST, at most {} VMs", race::MAX_RUNNERS)),
                };
                Self::Race(vms, read_seconds(seconds, race::MAX_SECONDS)?)
            }
            _ => return Err(format!("unknown command {line:?}: {USAGE}")),
        })
    }
}

/// Answers commands, for ever.
pub async fn serve<M: Machine>(office: Rc<Office<M>>) {
    loop {
        let line = office.machine.read_line().await;
        if line.trim().is_empty() {
            continue;
        }
        let answer = match Command::parse(&line) {
            Ok(command) => execute(&office, command).await,
            Err(problem) => Err(problem),
        };
        say(&office, answer.transpose());
    }
}

/// Says a command's answer, if there is one yet.
fn say<M: Machine>(office: &Office<M>, answer: Option<Result<String, String>>) {
    match answer {
        Some(Ok(text)) => office.machine.say(&text),
        Some(Err(problem)) => office.machine.say(&format!("error: {problem}")),
        None => {}
    }
}

/// Does what a command says. Returns what to print; nothing if it goes on in the background.
///
/// # Errors
/// What to print instead, after `error: `.
pub async fn execute<M: Machine>(office: &Rc<Office<M>>, command: Command) -> Result<Option<String>, String> {
    let text = match command {
        Command::Status => {
            let machine = machine(office).await?;
            format!("status {}", show::status(&office.fleet.borrow(), &machine))
        }
        Command::Memory => format!("memory {}", show::memory(&*machine(office).await?)),
        Command::Vm(vm) => {
            let status = inspect(office, vm).await?;
            format!("vm {}", show::vm(&office.fleet.borrow(), vm, &status))
        }
        Command::VmMemory(vm) => {
            let status = inspect(office, vm).await?;
            format!("vm-memory {}", show::vm_memory(&office.fleet.borrow(), vm, &status))
        }
        Command::VmTime(vm) => {
            let status = inspect(office, vm).await?;
            format!("vm-time {}", show::vm_time(&office.fleet.borrow(), vm, &status))
        }
        Command::Park(Vms::One(vm), tier) => {
            let parked = office.machine.call(Operation::Park { vm, tier }).await;
            parked.map_err(|e| format!("vm {vm}: cannot park it: {e}"))?;
            format!("parked vm {vm}")
        }
        Command::Park(vms, tier) => {
            let vms: Vec<_> = match vms {
                Vms::One(vm) => core::iter::once(vm..vm.saturating_add(1)).collect(),
                Vms::Range(range) => [range].into(),
                Vms::All => office.fleet.borrow().plan.services.iter().map(|service| service.vms.clone()).collect(),
            };
            let work = async move |office: &Rc<Office<M>>| park(office, vms, tier).await;
            return in_background(office, work).map(|()| None);
        }
        Command::Pause(vm) => {
            let paused = office.machine.call(Operation::Pause { vm }).await;
            paused.map_err(|e| format!("vm {vm}: cannot pause it: {e}"))?;
            format!("paused vm {vm}")
        }
        Command::Start(vm) => {
            let started = office.machine.call(Operation::Start { vm }).await;
            started.map_err(|e| format!("vm {vm}: cannot start it: {e}"))?;
            format!("started vm {vm}")
        }
        Command::Churn(first, count) => {
            let vms = spare_vms(office, first, count)?;
            let work = async move |office: &Rc<Office<M>>| churn(office, vms).await;
            return in_background(office, work).map(|()| None);
        }
        Command::Storm(first, count, seconds) => {
            let vms = spare_vms(office, first, count)?;
            let work = async move |office: &Rc<Office<M>>| storm::storm(office, vms, seconds).await;
            return in_background(office, work).map(|()| None);
        }
        Command::Race(vms, seconds) => {
            let work = async move |office: &Rc<Office<M>>| race::race(office, vms, seconds).await;
            return in_background(office, work).map(|()| None);
        }
        Command::Down => {
            power_off(&office.machine, STATUS_CLEAN).await.map_err(|e| format!("{e}"))?;
            "going down".into()
        }
    };
    Ok(Some(text))
}

/// Starts a task that says in the end what became of it.
fn in_background<M: Machine>(
    office: &Rc<Office<M>>,
    work: impl AsyncFnOnce(&Rc<Office<M>>) -> Result<String, String> + 'static,
) -> Result<(), String> {
    if office.is_busy.replace(true) {
        return Err("another command is not done yet: wait for what it says in the end".into());
    }
    let office = office.clone();
    libos::task::spawn(async move {
        let answer = work(&office).await;
        office.is_busy.set(false);
        say(&office, Some(answer));
    })
    .detach();
    Ok(())
}

/// Parks those of these VMs that sleep. To the disk means that they are there when it is said.
async fn park<M: Machine>(office: &Rc<Office<M>>, vms: Vec<Range<u32>>, tier: Tier) -> Result<String, String> {
    let tally = crowd::each(office, vms, move |vm| Operation::Park { vm, tier }).await;
    if tier == Tier::Disk {
        written(office).await.map_err(|problem| format!("park: {problem}"))?;
    }
    Ok(format!("parked {} VMs", tally.done))
}

/// Waits until what is parked is on the disk, or no more of it gets there.
async fn written<M: Machine>(office: &Office<M>) -> Result<(), String> {
    let mut most = 0;
    let mut since = Instant::now();
    loop {
        let machine = machine(office).await?;
        if machine.swap_blocks == 0 || machine.parked_on_disk >= machine.parked {
            return Ok(());
        }
        if machine.parked_on_disk > most {
            most = machine.parked_on_disk;
            since = Instant::now();
        } else if Instant::now() >= since + STUCK {
            return Ok(());
        }
        sleep(LOOK).await;
    }
}

async fn machine<M: Machine>(office: &Office<M>) -> Result<Box<MachineStatus>, String> {
    match office.machine.call(Operation::Machine).await {
        Ok(Answer::Machine(machine)) => Ok(machine),
        Ok(_) => Err("unexpected answer".into()),
        Err(e) => Err(format!("{e}")),
    }
}

async fn inspect<M: Machine>(office: &Office<M>, vm: u32) -> Result<Box<VmStatus>, String> {
    let told = |e: Error| format!("vm {vm}: {e}");
    match office.machine.call(Operation::Inspect { vm }).await.map_err(told)? {
        Answer::Vm(status) => Ok(status),
        _ => Err("unexpected answer".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_and_mistakes_named() {
        use Command::*;
        for (line, command) in [
            ("status", Status),
            (" memory ", Memory),
            ("  vm   7 ", Vm(7)),
            ("vm-memory 0", VmMemory(0)),
            ("vm-time 7", VmTime(7)),
            ("park 7", Park(Vms::One(7), Tier::Memory)),
            ("park 7-9 disk", Park(Vms::Range(7..10), Tier::Disk)),
            ("park 7-7 memory", Park(Vms::Range(7..8), Tier::Memory)),
            ("park all disk", Park(Vms::All, Tier::Disk)),
            ("pause 7", Pause(7)),
            ("start 7", Start(7)),
            ("churn 1001 50", Churn(1001, 50)),
            ("storm 1001 50 5", Storm(1001, 50, 5)),
            ("race 2-1001 8", Race(2..1002, 8)),
            ("down", Down),
        ] {
            assert_eq!(Command::parse(line), Ok(command), "{line}");
        }
        for line in [
            "",
            "vm",
            "vm 7 8",
            "status now",
            "up",
            "vm 7x",
            "vm -1",
            "vm 99999999999",
            "vm-memory",
            "memory 7",
            "park",
            "park 7 tape",
            "park 9-7",
            "park 7-",
            "park -",
            "park 1-4294967295",
            "park all disk now",
            "pause",
            "pause all",
            "start x",
            "churn 5",
            "churn 5 x",
            "churn all 5",
            "storm 5 5",
            "storm 5 5 0",
            "storm 5 5 3601",
            "race 5 5",
            "race all 5",
            "race 1-100001 5",
            "race 1-5 0",
            "race 1-5 9",
            "race 1-5",
        ] {
            assert!(Command::parse(line).is_err(), "{line}");
        }
    }
}
