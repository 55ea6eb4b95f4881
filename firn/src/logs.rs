//! A machine's log: followed as it grows, filtered to a VM, with names for the addresses in its reports.

use crate::error::{Error, Result};
use crate::machine::{Record, files};
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
