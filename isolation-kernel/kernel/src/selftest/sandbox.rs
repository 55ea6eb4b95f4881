//! A guest of a few bytes: one space with a page of code, one of data, one to read.

use alloc::string::{String, ToString};
use hal::{Exit, Page, Pages, Ppn, Processor, Registers, Rights, Spaces, VectorState};
use machine::{Machine, Space};

/// Where the code is.
pub const CODE: u64 = 0x2_0000;
/// A page to write.
pub const DATA: u64 = 0x2_1000;
/// A page that can only be read.
pub const CONSTANT: u64 = 0x2_2000;
/// The stack, at the end of the data page.
pub const STACK: u64 = 0x2_2000;

/// The guest.
pub struct Sandbox {
    pub space: Space,
    pub code: Page,
    pub data: Page,
    pub constant: Page,
    pub vector: VectorState,
}

/// The page at an address.
pub fn page_at(address: u64) -> Ppn {
    Ppn(u32::try_from(address / 4096).unwrap_or(u32::MAX))
}

impl Sandbox {
    /// Makes a guest of that code, and switches to it.
    pub fn new(machine: &mut Machine, code: &[u8]) -> Result<Self, String> {
        let mut page = || machine.allocate().ok_or("no page".to_string());
        let (code_page, data, constant) = (page()?, page()?, page()?);
        let space = machine.create_space().map_err(|_| "no space".to_string())?;
        let mut sandbox = Self { space, code: code_page, data, constant, vector: VectorState::new() };
        for (at, page, rights) in [
            (CODE, sandbox.code.mpn(), Rights::ReadExecute),
            (DATA, sandbox.data.mpn(), Rights::ReadWrite),
            (CONSTANT, sandbox.constant.mpn(), Rights::Read),
        ] {
            machine.map(&mut sandbox.space, page_at(at), page, rights).map_err(|_| "no table".to_string())?;
        }
        sandbox.load(machine, code);
        machine.switch_to(&sandbox.space, &sandbox.vector);
        Ok(sandbox)
    }

    /// Replaces the code.
    pub fn load(&self, machine: &mut Machine, code: &[u8]) {
        machine.write(self.code.mpn(), 0, code);
    }

    /// Frees what it has.
    pub fn end(self, machine: &mut Machine) {
        machine.destroy_space(self.space);
        for page in [self.code, self.data, self.constant] {
            machine.release(page);
        }
    }
}

/// Runs the guest that was switched to, until it comes back for something other than an interrupt.
pub fn enter(machine: &mut Machine, registers: &mut Registers) -> Exit {
    loop {
        match machine.enter(registers) {
            Exit::Interrupt => {}
            exit => return exit,
        }
    }
}

/// Registers at the start of the code, each with a value of its own.
pub fn patterned() -> Registers {
    let mut registers = Registers::at(CODE, STACK);
    for (n, register) in each(&mut registers).into_iter().enumerate() {
        *register = 0x1111_0000_0000_0000 * (n as u64 % 15 + 1) + 0x1234_5600 + n as u64;
    }
    registers
}

/// The general registers.
pub fn each(r: &mut Registers) -> [&mut u64; 15] {
    [
        &mut r.rax, &mut r.rbx, &mut r.rcx, &mut r.rdx, &mut r.rsi, &mut r.rdi, &mut r.rbp, &mut r.r8, &mut r.r9,
        &mut r.r10, &mut r.r11, &mut r.r12, &mut r.r13, &mut r.r14, &mut r.r15,
    ]
}
