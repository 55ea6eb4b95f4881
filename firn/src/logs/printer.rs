//! A machine's log as people read it.

use super::Symbolizer;
use crate::builder::SUPERVISOR;
use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::serial::Line;

/// Which lines are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    All,
    /// Those from or about VMs from the first of these to before the second.
    Vms(u32, u32),
}

/// Lays out a machine's log: each line after the name of the VM that it is from or about, with names for addresses.
#[derive(Debug)]
pub struct Printer {
    symbolizer: Symbolizer,
    /// First VM, how many, and the name of their service.
    services: Vec<(u32, u32, String)>,
    wanted: Wanted,
    width: usize,
}

impl Printer {
    /// For the log of a machine.
    #[must_use]
    pub fn new(machine: &Machine) -> Self {
        let services = machine.record.services.iter().map(|s| (s.first_vm, s.count, s.name.clone())).collect();
        Self::of(Symbolizer::load(&machine.folder, &machine.record), services)
    }

    /// For a log of which the machine is not known any more: VMs have numbers only.
    #[must_use]
    pub fn without_names() -> Self {
        Self::of(Symbolizer::without_names(), Vec::new())
    }

    fn of(symbolizer: Symbolizer, services: Vec<(u32, u32, String)>) -> Self {
        let last = |&(first, count, _): &(u32, u32, String)| first.saturating_add(count).saturating_sub(1);
        let mut printer = Self { symbolizer, services, wanted: Wanted::All, width: 0 };
        let names = printer.services.iter().map(|service| printer.vm_name(last(service)).len());
        printer.width = names.max().unwrap_or(0).max(SUPERVISOR.len());
        printer
    }

    /// Leaves out all lines but those of a VM or a service: `7`, `web`, `web-7`, `supervisor`.
    ///
    /// # Errors
    /// `Argument` if there is none of that name.
    pub fn only(mut self, who: &str) -> Result<Self> {
        let is_there = |vm: u32| vm == 0 || self.services.is_empty() || self.service_of(vm).is_some();
        let numbered = |text: &str| text.parse::<u32>().ok().filter(|&vm| is_there(vm));
        let service = self.services.iter().find(|(_, _, name)| name == who);
        let named = || who.rsplit_once('-').and_then(|(_, vm)| numbered(vm)).filter(|&vm| self.vm_name(vm) == who);
        self.wanted = match (service, numbered(who).or_else(named)) {
            (Some(&(first, count, _)), _) => Wanted::Vms(first, first.saturating_add(count)),
            (None, Some(vm)) => Wanted::Vms(vm, vm.saturating_add(1)),
            (None, None) if who == SUPERVISOR => Wanted::Vms(0, 1),
            (None, None) => return Err(self.no_such(who)),
        };
        Ok(self)
    }

    fn no_such(&self, who: &str) -> Error {
        let services: Vec<String> = self
            .services
            .iter()
            .map(|(first, count, name)| match count {
                1 => format!("{name} (VM {first})"),
                _ => format!("{name} (VMs {first} to {})", first.saturating_add(*count).saturating_sub(1)),
            })
            .collect();
        Error::Argument {
            argument: "VM",
            problem: format!("there is no VM or service {who:?}"),
            remedy: format!("there are: supervisor (VM 0), {}", services.join(", ")),
        }
    }

    fn service_of(&self, vm: u32) -> Option<&str> {
        let service = self.services.iter().find(|(first, count, _)| vm >= *first && vm - first < *count);
        service.map(|(_, _, name)| name.as_str())
    }

    /// What a VM is called: its service and its number.
    fn vm_name(&self, vm: u32) -> String {
        match (vm, self.service_of(vm)) {
            (0, _) => SUPERVISOR.to_owned(),
            (_, Some(service)) => format!("{service}-{vm}"),
            (_, None) => format!("vm-{vm}"),
        }
    }

    /// How a line is printed, if it is wanted: as one, or as several with a backtrace.
    #[must_use]
    pub fn line(&self, line: &str) -> Option<String> {
        let parsed = Line::parse(line);
        let vm = parsed.vm();
        if let Wanted::Vms(first, end) = self.wanted
            && !vm.is_some_and(|vm| (first..end).contains(&vm))
        {
            return None;
        }
        let calls = self.symbolizer.backtrace(line);
        let named = match calls {
            Some(_) => line.split_inclusive("backtrace").next().unwrap_or(line).to_owned(),
            None => self.symbolizer.name(line),
        };
        // What a VM says is behind its number, which the name says too.
        let rest = match (&parsed, named.split_once("] ")) {
            (Line::Vm { .. }, Some((stamp, rest))) => {
                let text = rest.split_once('|').map_or(rest, |(_, text)| text);
                format!("{stamp}]{text}")
            }
            _ => named,
        };
        let who = vm.map_or_else(|| "kernel".to_owned(), |vm| self.vm_name(vm));
        let width = self.width;
        let mut printed = format!("{who:width$} | {rest}");
        for call in calls.into_iter().flatten() {
            printed.push_str(&format!("\n{who:width$} |     {call}"));
        }
        Some(printed)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::symbolizer;
    use super::*;

    fn printer() -> Printer {
        Printer::of(symbolizer(), vec![(1, 1, "web".into()), (2, 11, "a-1".into())])
    }

    #[test]
    fn lines_begin_with_the_name_of_their_vm() {
        let p = printer();
        for (line, printed) in [
            ("[    1.0] vm 1| here", "web-1      | [    1.0] here"),
            ("[    1.0] vm 12|", "a-1-12     | [    1.0]"),
            ("[    1.0] vm 0| up", "supervisor | [    1.0] up"),
            ("[    1.0] vm 99| who", "vm-99      | [    1.0] who"),
            ("[    1.0] warn  vm 1 ended: x", "web-1      | [    1.0] warn  vm 1 ended: x"),
            ("[    1.0] vm 1| backtrace 0x20004", "web-1      | [    1.0] backtrace 0x20004 <_start+0x4>"),
            ("[    1.0] info  firn", "kernel     | [    1.0] info  firn"),
            ("noise", "kernel     | noise"),
        ] {
            assert_eq!(p.line(line).unwrap(), printed);
        }
    }

    #[test]
    fn only_lines_of_whom_is_asked_for_are_printed() {
        let lines = ["vm 0| s", "vm 1| w", "vm 2| a", "warn  vm 2 ended: x", "vm 12| b", "info  firn"];
        let printed = |printer: Printer| {
            let lines = lines.iter().filter_map(|line| printer.line(&format!("[    1.0] {line}")));
            lines.map(|line| line.split_once(" [").unwrap().0.replace(' ', "")).collect::<Vec<_>>().join("")
        };
        for (who, whose) in [
            ("1", "web-1|"),
            ("web", "web-1|"),
            ("web-1", "web-1|"),
            ("a-1", "a-1-2|a-1-2|a-1-12|"),
            ("a-1-2", "a-1-2|a-1-2|"),
            ("0", "supervisor|"),
            ("supervisor", "supervisor|"),
        ] {
            assert_eq!(printed(printer().only(who).unwrap()), whose, "{who}");
        }
        for who in ["", "13", "99", "web-2", "wbe", "a-1-1", "kernel"] {
            let error = printer().only(who).unwrap_err().to_string();
            assert!(error.contains("web (VM 1), a-1 (VMs 2 to 12)"), "{error}");
        }
        assert_eq!(printed(Printer::without_names().only("12").unwrap()), "vm-12|");
    }
}
