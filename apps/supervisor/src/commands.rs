//! What the console asks: `status`, `vm N`, `down`.

use crate::fleet::Usage;
use crate::{Machine, Office, STATUS_CLEAN, power_off};
use alloc::format;
use alloc::rc::Rc;
use alloc::string::String;
use libos::gate::{Answer, Error, Operation};

/// A command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// How the machine and its fleet are.
    Status,
    /// How one VM is.
    Vm(u32),
    /// To power the machine off.
    Down,
}

impl Command {
    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_ascii_whitespace();
        let command = match (words.next(), words.next(), words.next()) {
            (Some("status"), None, _) => Self::Status,
            (Some("down"), None, _) => Self::Down,
            (Some("vm"), Some(number), None) => {
                Self::Vm(number.parse().map_err(|_| format!("{number:?} is not the number of a VM"))?)
            }
            _ => return Err(format!("unknown command {line:?}: there are status, vm N, down")),
        };
        Ok(command)
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
        match answer {
            Ok(text) => office.machine.say(&text),
            Err(problem) => office.machine.say(&format!("error: {problem}")),
        }
    }
}

/// Does what a command says. Returns what to print.
///
/// # Errors
/// What to print instead, after `error: `.
pub async fn execute<M: Machine>(office: &Office<M>, command: Command) -> Result<String, String> {
    let refused = |e: Error| format!("{e}");
    match command {
        Command::Status => {
            let Answer::Machine(machine) = office.machine.call(Operation::Machine).await.map_err(refused)? else {
                return Err("unexpected answer".into());
            };
            let usage = usage(office).await;
            Ok(format!("status {}", office.fleet.borrow().status(&machine, usage)))
        }
        Command::Vm(vm) => match office.machine.call(Operation::Inspect { vm }).await {
            Ok(Answer::Vm(status)) => Ok(format!("vm {}", office.fleet.borrow().vm(vm, &status))),
            Ok(_) => Err("unexpected answer".into()),
            Err(e) => Err(format!("vm {vm}: {e}")),
        },
        Command::Down => {
            power_off(&office.machine, STATUS_CLEAN).await.map_err(refused)?;
            Ok("going down".into())
        }
    }
}

/// Adds up what the plan's VMs use. Those that were never created count for nothing.
async fn usage<M: Machine>(office: &Office<M>) -> Usage {
    let mut usage = Usage::default();
    let nr_services = office.fleet.borrow().plan.services.len();
    for index in 0..nr_services {
        let vms = office.fleet.borrow().plan.services[index].vms.clone();
        for vm in vms {
            if let Ok(Answer::Vm(status)) = office.machine.call(Operation::Inspect { vm }).await {
                usage.vms += 1;
                usage.private_pages += u64::from(status.private_pages);
                usage.table_pages += u64::from(status.table_pages);
            }
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_and_mistakes_named() {
        assert_eq!(Command::parse("status"), Ok(Command::Status));
        assert_eq!(Command::parse("  vm   7 "), Ok(Command::Vm(7)));
        assert_eq!(Command::parse("down"), Ok(Command::Down));
        for line in ["", "vm", "vm 7 8", "status now", "up", "vm 7x", "vm -1", "vm 99999999999"] {
            assert!(Command::parse(line).is_err(), "{line}");
        }
    }
}
