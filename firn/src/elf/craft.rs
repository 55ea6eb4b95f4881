//! Builds small ELF files for tests, right or wrong in one chosen way.

/// One program header and what it loads.
#[derive(Clone, Debug)]
pub struct Program {
    /// `p_type`.
    pub kind: u32,
    /// `p_flags`.
    pub flags: u32,
    /// `p_vaddr`.
    pub address: u64,
    /// Contents in the file.
    pub content: Vec<u8>,
    /// `p_memsz`.
    pub memory_bytes: u64,
}

/// A file to be.
#[derive(Clone, Debug)]
pub struct Elf {
    /// Byte 4 of the file.
    pub class: u8,
    /// Byte 5 of the file.
    pub order: u8,
    /// `e_type`.
    pub kind: u16,
    /// `e_machine`.
    pub machine: u16,
    /// `e_entry`.
    pub entry: u64,
    /// Program headers.
    pub programs: Vec<Program>,
    /// Sections: name, type, contents.
    pub sections: Vec<(&'static str, u32, Vec<u8>)>,
}

/// A loaded segment.
pub fn load(flags: u32, address: u64, content: &[u8], memory_bytes: u64) -> Program {
    Program { kind: 1, flags, address, content: content.to_vec(), memory_bytes }
}

/// A guest with text at 0x20000, constants at 0x21000 and data with zeros behind it at 0x22000.
pub fn good() -> Elf {
    Elf {
        class: 2,
        order: 1,
        kind: 2,
        machine: 62,
        entry: 0x20_010,
        programs: vec![
            load(5, 0x20_000, &[0x90; 0x800], 0x800),
            load(4, 0x21_000, b"constants", 9),
            load(6, 0x22_000, &[1; 0x1004], 0x5000),
        ],
        sections: Vec::new(),
    }
}

impl Elf {
    /// The file's bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let programs_at = 64;
        let mut offset = programs_at + 56 * self.programs.len();
        let mut table = Vec::new();
        let mut contents: Vec<u8> = Vec::new();
        for p in &self.programs {
            table.extend(p.kind.to_le_bytes());
            table.extend(p.flags.to_le_bytes());
            for word in [offset as u64, p.address, p.address, p.content.len() as u64, p.memory_bytes, 4096] {
                table.extend(word.to_le_bytes());
            }
            contents.extend(&p.content);
            offset += p.content.len();
        }
        let mut names = vec![0];
        let mut headers = vec![0; 64];
        let all = self.sections.iter().cloned();
        let nr_sections = self.sections.len() + 2;
        for (name, kind, content) in all.chain([(".shstrtab", 3, Vec::new())]) {
            let name_at = u32::try_from(names.len()).unwrap();
            names.extend(name.as_bytes());
            names.push(0);
            let content = if kind == 3 && content.is_empty() { names.clone() } else { content };
            headers.extend(name_at.to_le_bytes());
            headers.extend(kind.to_le_bytes());
            // Flags, address, offset, size, link and information, alignment, entry size.
            for word in [0, 0, offset as u64, content.len() as u64, 0, 1, 0] {
                headers.extend(word.to_le_bytes());
            }
            contents.extend(&content);
            offset += content.len();
        }
        let mut file = vec![0x7f, b'E', b'L', b'F', self.class, self.order, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        file.extend(self.kind.to_le_bytes());
        file.extend(self.machine.to_le_bytes());
        file.extend(1u32.to_le_bytes());
        file.extend(self.entry.to_le_bytes());
        file.extend((programs_at as u64).to_le_bytes());
        file.extend((offset as u64).to_le_bytes());
        file.extend(0u32.to_le_bytes());
        let counts = [64, 56, self.programs.len(), 64, nr_sections, nr_sections - 1];
        for count in counts {
            file.extend(u16::try_from(count).unwrap().to_le_bytes());
        }
        file.extend(table);
        file.extend(contents);
        file.extend(headers);
        file
    }
}
