//! Names for addresses: the `.sym` file beside an image, one line "hexaddress size name" each, by address.

use crate::error::{Error, Result};
use object::Endianness;
use object::elf::{self, FileHeader64, PF_X};
use object::read::elf::{FileHeader, ProgramHeader, Sym};
use std::fmt::Write as _;
use std::path::Path;

/// A function.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Symbol {
    address: u64,
    bytes: u64,
    name: String,
}

/// The functions of one program, by address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Symbols(Vec<Symbol>);

impl Symbols {
    /// The functions in the text of an ELF file; none if it is stripped or cannot be read.
    #[must_use]
    pub fn of_elf(bytes: &[u8]) -> Self {
        Self(read_elf(bytes).unwrap_or_default()).sorted()
    }

    /// Reads a `.sym` file; lines that are none are passed over.
    ///
    /// # Errors
    /// `Io`.
    pub fn load(file: &Path) -> Result<Self> {
        Ok(Self::of_text(&std::fs::read_to_string(file).map_err(Error::io("read", file))?))
    }

    /// Reads the text of a `.sym` file.
    #[must_use]
    pub fn of_text(text: &str) -> Self {
        let symbol = |line: &str| {
            let mut words = line.splitn(3, ' ');
            let address = u64::from_str_radix(words.next()?, 16).ok()?;
            let bytes = words.next()?.parse().ok()?;
            Some(Symbol { address, bytes, name: words.next()?.to_owned() })
        };
        Self(text.lines().filter_map(symbol).collect()).sorted()
    }

    /// The text of a `.sym` file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        for s in &self.0 {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{:x} {} {}", s.address, s.bytes, s.name);
        }
        text
    }

    /// The function that holds an address, demangled, with the offset in it: `web::handle+0x1c`.
    #[must_use]
    pub fn describe(&self, address: u64) -> Option<String> {
        let (name, offset) = self.find(address)?;
        Some(format!("{name}+{offset:#x}"))
    }

    /// The same for a return address: the call lies before it, and may be the last instruction of its function.
    #[must_use]
    pub fn describe_return(&self, address: u64) -> Option<String> {
        let (name, offset) = self.find(address.checked_sub(1)?)?;
        Some(format!("{name}+{:#x}", offset + 1))
    }

    /// The name of the function that holds an address, demangled.
    #[must_use]
    pub fn function(&self, address: u64) -> Option<String> {
        self.find(address).map(|(name, _)| name)
    }

    /// The address of a function in whose name these words are.
    #[cfg(test)]
    pub(crate) fn address_of(&self, words: &str) -> Option<u64> {
        self.0.iter().find(|symbol| symbol.name.contains(words)).map(|symbol| symbol.address)
    }

    /// How many functions.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&self, address: u64) -> Option<(String, u64)> {
        let after = self.0.partition_point(|s| s.address <= address);
        let symbol = self.0.get(after.checked_sub(1)?)?;
        let offset = address - symbol.address;
        // A label of assembly has no size: it reaches to the next one, within reason.
        let reach = if symbol.bytes > 0 { symbol.bytes } else { 4096 };
        (offset < reach).then(|| (format!("{:#}", rustc_demangle::demangle(&symbol.name)), offset))
    }

    fn sorted(mut self) -> Self {
        self.0.sort_by(|a, b| (a.address, b.bytes, &a.name).cmp(&(b.address, a.bytes, &b.name)));
        self.0.dedup_by_key(|s| s.address);
        self
    }
}

fn read_elf(bytes: &[u8]) -> object::Result<Vec<Symbol>> {
    let header = FileHeader64::<Endianness>::parse(bytes)?;
    let endian = header.endian()?;
    let text: Vec<_> = header
        .program_headers(endian, bytes)?
        .iter()
        .filter(|p| p.p_type(endian) == elf::PT_LOAD && p.p_flags(endian) & PF_X != 0)
        .map(|p| p.p_vaddr(endian)..p.p_vaddr(endian).saturating_add(p.p_memsz(endian)))
        .collect();
    let sections = header.sections(endian, bytes)?;
    let table = sections.symbols(endian, bytes, elf::SHT_SYMTAB)?;
    let mut symbols = Vec::new();
    for symbol in table.iter() {
        let address = symbol.st_value(endian);
        let is_code = matches!(symbol.st_type(), elf::STT_FUNC | elf::STT_NOTYPE)
            && symbol.st_shndx(endian) != elf::SHN_UNDEF
            && text.iter().any(|range| range.contains(&address));
        let name = String::from_utf8_lossy(table.symbol_name(endian, symbol).unwrap_or_default());
        if is_code && !name.is_empty() && !name.starts_with(".L") {
            symbols.push(Symbol {
                address,
                bytes: symbol.st_size(endian),
                name: name.replace(char::is_whitespace, "_"),
            });
        }
    }
    Ok(symbols)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "20010 32 _ZN3web6handle17h0123456789abcdefE\nnonsense\n20000 0 _start\n20030 8 last\n";

    #[test]
    fn addresses_get_the_names_of_their_functions() {
        let symbols = Symbols::of_text(TEXT);
        assert_eq!(symbols.len(), 3);
        assert_eq!(symbols.describe(0x20_004).unwrap(), "_start+0x4");
        assert_eq!(symbols.describe(0x20_02c).unwrap(), "web::handle+0x1c");
        assert_eq!(symbols.describe(0x20_030).unwrap(), "last+0x0");
        assert_eq!(symbols.describe(0x20_038), None);
        assert_eq!(symbols.describe(0x1f_fff), None);
        assert_eq!(symbols.describe_return(0x20_030).unwrap(), "web::handle+0x20");
        assert_eq!(symbols.describe_return(0), None);
    }

    #[test]
    fn a_symbol_file_is_read_as_written() {
        let symbols = Symbols::of_text(TEXT);
        assert!(symbols.to_text().starts_with("20000 0 _start\n20010 32 "));
        assert_eq!(Symbols::of_text(&symbols.to_text()), symbols);
    }

    #[test]
    fn this_program_knows_its_own_functions() {
        let bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert!(Symbols::of_elf(&bytes).0.iter().any(|s| s.name.contains("this_program_knows_its_own")));
        assert!(Symbols::of_elf(&bytes[..100]).is_empty());
    }
}
