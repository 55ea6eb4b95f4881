//! A machine's log: followed as it grows, filtered to a VM or a service, with the names of VMs before its lines and names
//! for the addresses in its reports.

use crate::builder::SUPERVISOR;
use crate::error::{Error, Result};
use crate::machine::{Machine, Record, files};
use crate::serial::{Line, Splitter};
use crate::symbols::Symbols;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Lowest address of the kernel.
const KERNEL_BASE: u64 = 0xffff_8000_0000_0000;

/// A file that grows, line by line.
#[derive(Debug)]
pub struct Tail {
    file: File,
    path: PathBuf,
    splitter: Splitter,
}

impl Tail {
    /// Starts at the beginning of a file.
    ///
    /// # Errors
    /// `Io`.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io("read", path))?;
        Ok(Self { file, path: path.to_path_buf(), splitter: Splitter::default() })
    }

    /// Starts at the end of a file.
    ///
    /// # Errors
    /// `Io`.
    pub fn open_at_end(path: &Path) -> Result<Self> {
        let mut tail = Self::open(path)?;
        tail.file.seek(SeekFrom::End(0)).map_err(Error::io("read", path))?;
        Ok(tail)
    }

    /// The lines that have become whole since the last call.
    ///
    /// # Errors
    /// `Io`.
    pub fn lines(&mut self) -> Result<Vec<String>> {
        let mut piece = Vec::new();
        self.file.read_to_end(&mut piece).map_err(Error::io("read", &self.path))?;
        Ok(self.splitter.push(&piece))
    }
}

/// Names for the addresses in a machine's log.
#[derive(Debug, Default)]
pub struct Symbolizer {
    kernel: Symbols,
    /// First VM, how many, and the names of their image.
    guests: Vec<(u32, u32, Symbols)>,
}

/// File of a service's symbols in the machine's folder.
#[must_use]
pub fn service_symbols(index: usize) -> String {
    format!("service-{index}.sym")
}

/// File of the supervisor's symbols in the machine's folder.
pub const SUPERVISOR_SYMBOLS: &str = "supervisor.sym";

impl Symbolizer {
    /// Reads the symbols kept in a machine's folder; what is not there stays without names.
    #[must_use]
    pub fn load(folder: &Path, record: &Record) -> Self {
        let kernel = std::fs::read(folder.join(files::KERNEL)).map(|bytes| Symbols::of_elf(&bytes)).unwrap_or_default();
        let read = |name: &str| Symbols::load(&folder.join(name)).unwrap_or_default();
        let mut guests = vec![(0, 1, read(SUPERVISOR_SYMBOLS))];
        for (index, service) in record.services.iter().enumerate() {
            guests.push((service.first_vm, service.count, read(&service_symbols(index))));
        }
        Self { kernel, guests }
    }

    /// Only a kernel's names.
    #[must_use]
    pub fn of_kernel(elf: &[u8]) -> Self {
        Self { kernel: Symbols::of_elf(elf), guests: Vec::new() }
    }

    /// The line with names behind the addresses of instructions: after `rip`, and all after `backtrace`.
    #[must_use]
    pub fn name(&self, line: &str) -> String {
        let vm = Line::parse(line).vm();
        let mut named = String::with_capacity(line.len());
        let mut state = Expect::Nothing;
        for word in line.split_inclusive(' ') {
            named.push_str(word);
            let word = word.trim_end_matches([' ', ':', ',']);
            let hex = word.strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
            match (hex, state) {
                (Some(address), Expect::Instruction | Expect::First | Expect::Return) => {
                    if let Some(name) = self.describe(vm, address, state) {
                        let has_space = named.ends_with(' ');
                        named.truncate(named.trim_end().len());
                        named.push_str(&format!(" <{name}>{}", if has_space { " " } else { "" }));
                    }
                    state = if matches!(state, Expect::Instruction) { Expect::Nothing } else { Expect::Return };
                }
                (None, _) if word == "rip" => state = Expect::Instruction,
                (None, _) if word == "backtrace" => state = Expect::First,
                (_, Expect::Instruction) => state = Expect::Nothing,
                _ => {}
            }
        }
        named
    }

    fn describe(&self, vm: Option<u32>, address: u64, state: Expect) -> Option<String> {
        let symbols = if address >= KERNEL_BASE {
            &self.kernel
        } else {
            let vm = vm?;
            &self.guests.iter().find(|(first, count, _)| vm >= *first && vm - first < *count)?.2
        };
        match state {
            Expect::Return => symbols.describe_return(address),
            _ => symbols.describe(address),
        }
    }
}

/// What kind of address the next word may be.
#[derive(Clone, Copy)]
enum Expect {
    Nothing,
    Instruction,
    /// The first of a backtrace: where it happened.
    First,
    /// The others: where calls return to.
    Return,
}

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
        Self::of(Symbolizer::default(), Vec::new())
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

    /// How a line is printed, if it is wanted.
    #[must_use]
    pub fn line(&self, line: &str) -> Option<String> {
        let parsed = Line::parse(line);
        let vm = parsed.vm();
        if let Wanted::Vms(first, end) = self.wanted
            && !vm.is_some_and(|vm| (first..end).contains(&vm))
        {
            return None;
        }
        let named = self.symbolizer.name(line);
        // What a VM says is behind its number, which the name says too.
        let rest = match (&parsed, named.split_once("] ")) {
            (Line::Vm { .. }, Some((stamp, rest))) => {
                let text = rest.split_once('|').map_or(rest, |(_, text)| text);
                format!("{stamp}]{text}")
            }
            _ => named,
        };
        let who = vm.map_or_else(|| "kernel".to_owned(), |vm| self.vm_name(vm));
        Some(format!("{who:width$} | {rest}", width = self.width))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn symbolizer() -> Symbolizer {
        let text = "20000 32 _start\n20020 32 _ZN3web6handle17h0123456789abcdefE\n";
        let kernel = "ffffffff80200000 32 kernel_main\n";
        Symbolizer { kernel: Symbols::of_text(kernel), guests: vec![(1, 5, Symbols::of_text(text))] }
    }

    #[test]
    fn reports_get_names() {
        let s = symbolizer();
        assert_eq!(
            s.name("[    1.0] warn  vm 3   rip 0x20024 rsp 0x20024 rflags 0x202"),
            "[    1.0] warn  vm 3   rip 0x20024 <web::handle+0x4> rsp 0x20024 rflags 0x202"
        );
        assert_eq!(
            s.name("[    1.0] warn  vm 3   backtrace 0x20020 0x20020 0x99"),
            "[    1.0] warn  vm 3   backtrace 0x20020 <web::handle+0x0> 0x20020 <_start+0x20> 0x99"
        );
        assert_eq!(s.name("[    1.0] vm 5| backtrace 0x20004"), "[    1.0] vm 5| backtrace 0x20004 <_start+0x4>");
        assert_eq!(
            s.name("[    1.0] error   backtrace 0xffffffff80200001"),
            "[    1.0] error   backtrace 0xffffffff80200001 <kernel_main+0x1>"
        );
    }

    #[test]
    fn other_lines_stay_as_they_are() {
        let s = symbolizer();
        for line in [
            "[    1.0] vm 3| read 0x20024",
            "[    1.0] warn  vm 9   rip 0x20024",
            "[    1.0] warn  vm 3   rip  0x20024",
            "rip 0x20024",
            "",
        ] {
            assert_eq!(s.name(line), line);
        }
    }

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

    #[test]
    fn a_growing_file_is_followed() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut tail = Tail::open(file.path()).unwrap();
        assert!(tail.lines().unwrap().is_empty());
        file.as_file().write_all(b"one\ntw").unwrap();
        assert_eq!(tail.lines().unwrap(), ["one"]);
        file.as_file().write_all(b"o\n").unwrap();
        assert_eq!(tail.lines().unwrap(), ["two"]);
    }
}
