//! A machine's log: followed as it grows, filtered to a VM or a service, with the names of VMs before its lines and names
//! for the addresses in its reports.

use crate::error::{Error, Result};
use crate::lines::Lines;
use crate::machine::{Record, files};
use crate::serial::{Line, Splitter};
use crate::symbols::Symbols;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

mod printer;
pub use printer::Printer;

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
#[derive(Debug)]
pub struct Symbolizer {
    kernel: Names,
    guests: Vec<Guest>,
}

/// What addresses in one program are called.
#[derive(Debug)]
struct Names {
    symbols: Symbols,
    lines: Lines,
}

/// VMs of one image.
#[derive(Debug)]
struct Guest {
    first_vm: u32,
    count: u32,
    names: Names,
}

/// A service's program in the machine's folder, with another extension its symbols.
#[must_use]
pub fn service_program(index: usize) -> String {
    format!("service-{index}.elf")
}

/// The supervisor's.
pub const SUPERVISOR_PROGRAM: &str = "supervisor.elf";

impl Symbolizer {
    /// Reads the symbols kept in a machine's folder; what is not there stays without names.
    #[must_use]
    pub fn load(folder: &Path, record: &Record) -> Self {
        let kernel = folder.join(files::KERNEL);
        let symbols = std::fs::read(&kernel).map(|bytes| Symbols::of_elf(&bytes)).unwrap_or_default();
        let kernel = Names { symbols, lines: Lines::of(kernel) };
        let names = |program: &str| {
            let program = folder.join(program);
            let symbols = Symbols::load(&program.with_extension("sym")).unwrap_or_default();
            Names { symbols, lines: Lines::of(program) }
        };
        let mut guests = vec![Guest { first_vm: 0, count: 1, names: names(SUPERVISOR_PROGRAM) }];
        for (index, service) in record.services.iter().enumerate() {
            let names = names(&service_program(index));
            guests.push(Guest { first_vm: service.first_vm, count: service.count, names });
        }
        Self { kernel, guests }
    }

    /// Only a kernel's names, without lines.
    #[must_use]
    pub fn of_kernel(elf: &[u8]) -> Self {
        let kernel = Names { symbols: Symbols::of_elf(elf), lines: Lines::of(PathBuf::new()) };
        Self { kernel, guests: Vec::new() }
    }

    /// Names for nothing.
    #[must_use]
    pub fn without_names() -> Self {
        Self::of_kernel(&[])
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

    /// The program that an address is in.
    fn names(&self, vm: Option<u32>, address: u64) -> Option<&Names> {
        if address >= KERNEL_BASE {
            return Some(&self.kernel);
        }
        let vm = vm?;
        let guest = self.guests.iter().find(|guest| vm >= guest.first_vm && vm - guest.first_vm < guest.count);
        guest.map(|guest| &guest.names)
    }

    fn describe(&self, vm: Option<u32>, address: u64, state: Expect) -> Option<String> {
        let symbols = &self.names(vm, address)?.symbols;
        match state {
            Expect::Return => symbols.describe_return(address),
            _ => symbols.describe(address),
        }
    }

    /// A backtrace, one call a line, with files and lines: `None` if the line is none, or if nothing is known of its
    /// addresses but names.
    #[must_use]
    pub fn backtrace(&self, line: &str) -> Option<Vec<String>> {
        let vm = Line::parse(line).vm();
        let (_, addresses) = line.split_once("backtrace ")?;
        let mut calls = Vec::new();
        let mut has_lines = false;
        for (n, word) in addresses.split_ascii_whitespace().enumerate() {
            let address = u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()?;
            // The first is where it happened, the others are where calls return to.
            let state = if n == 0 { Expect::First } else { Expect::Return };
            let within = if n == 0 { address } else { address.checked_sub(1)? };
            let names = self.names(vm, address);
            let mut found = names.map(|names| names.lines.calls(within)).unwrap_or_default();
            has_lines |= !found.is_empty();
            // The last is the function itself, of which the symbols know the whole name.
            if let Some((call, name)) = found.last_mut().zip(names.and_then(|names| names.symbols.function(within))) {
                call.function = name;
            }
            if found.is_empty() {
                let name = self.describe(vm, address, state).map_or_else(String::new, |name| format!(" <{name}>"));
                calls.push(format!("{word}{name}"));
            }
            calls.extend(found.iter().map(|call| format!("{word} {call}")));
        }
        has_lines.then_some(calls)
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    pub fn symbolizer() -> Symbolizer {
        let text = "20000 32 _start\n20020 32 _ZN3web6handle17h0123456789abcdefE\n";
        let kernel = "ffffffff80200000 32 kernel_main\n";
        let names = |text| Names { symbols: Symbols::of_text(text), lines: Lines::of(PathBuf::new()) };
        Symbolizer { kernel: names(kernel), guests: vec![Guest { first_vm: 1, count: 5, names: names(text) }] }
    }

    #[test]
    fn backtraces_without_lines_stay_on_theirs() {
        assert_eq!(symbolizer().backtrace("[    1.0] vm 5| backtrace 0x20004"), None);
        assert_eq!(symbolizer().backtrace("[    1.0] vm 5| no backtrace here"), None);
    }

    #[test]
    fn backtraces_are_calls_with_their_lines() {
        // This program, as if it were a kernel that lies where its file says.
        let program = std::env::current_exe().unwrap();
        let symbols = Symbols::of_elf(&std::fs::read(&program).unwrap());
        let names = Names { symbols: symbols.clone(), lines: Lines::of(program) };
        let guest = Guest { first_vm: 7, count: 1, names };
        let s = Symbolizer { guests: vec![guest], ..symbolizer() };
        let address = symbols.address_of("backtraces_are_calls_with_their_lines").unwrap();
        let line = format!("[    1.0] vm 7| backtrace {address:#x} {:#x} 0x7fffffffffff", address + 1);
        let calls = s.backtrace(&line).unwrap();
        assert_eq!(calls.len(), 3, "{calls:?}");
        for call in &calls[..2] {
            assert!(call.contains("::backtraces_are_calls_with_their_lines") && call.contains("logs.rs:"), "{call}");
        }
        assert_eq!(calls[2], "0x7fffffffffff");
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
