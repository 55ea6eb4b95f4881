//! Gives every virtual instruction memory that is not this VM's, or not for that use.
#![cfg_attr(firn_guest, no_std, no_main)]

hostile::only_in_a_vm!();

#[cfg(firn_guest)]
mod attack {
    use libos::instruction::{Instruction, InstructionError, raw};
    use virtual_isa::PAGE_SIZE;
    use virtual_isa::layout::{CONTROL_PAGE, IMAGE_BASE, REGISTER_PAGE};

    const BAD: Result<u64, InstructionError> = Err(InstructionError::BadAddress);

    fn expect(case: &str, instruction: Instruction, address: u64, bytes: u64, wanted: Result<u64, InstructionError>) {
        // SAFETY: the kernel must refuse all that is not this VM's; the rest is memory that nobody here uses.
        let got = InstructionError::read(unsafe { raw(instruction as u64, address, bytes) });
        if got != wanted {
            hostile::failure(format_args!("{instruction:?} of {case}: {got:?} and not {wanted:?}"));
        }
    }

    #[libos::main]
    async fn main() {
        let page = PAGE_SIZE as u64;
        let end = u64::from(libos::registers().memory_pages) * page;
        let nobodys = [
            ("the null page", 0, 64),
            ("the end of the null page", page - 8, 16),
            ("the kernel's text", 0xffff_ffff_8000_0000, 64),
            ("the lowest kernel address", 0xffff_8000_0000_0000, 64),
            ("a non-canonical address", 0x8000_0000_0000_0000, 64),
            ("the first address that is not canonical", 0x0000_8000_0000_0000, 64),
            ("the first page behind the end", end, 64),
            ("the end", end - 8, 16),
            ("a page number of 33 bits", 1 << 44, 64),
            ("the last bytes there are", u64::MAX - 7, 8),
            ("a range that wraps around", u64::MAX - 7, 64),
        ];
        for (case, address, bytes) in nobodys {
            expect(case, Instruction::Entropy, address, bytes, BAD);
            expect(case, Instruction::Console, address, bytes, BAD);
            expect(case, Instruction::Discard, address, bytes.max(2 * page), BAD);
        }
        expect("everything", Instruction::Discard, page, u64::MAX - page, BAD);
        expect("everything and more", Instruction::Discard, page, u64::MAX, BAD);
        expect("the fixed pages", Instruction::Discard, REGISTER_PAGE, page, BAD);
        expect("the control page among others", Instruction::Discard, CONTROL_PAGE - 8 * page, 16 * page, BAD);
        expect("text", Instruction::Entropy, IMAGE_BASE, 64, BAD);
        expect("the register page", Instruction::Entropy, REGISTER_PAGE, 64, BAD);

        // A page of zeros, then text: nothing may be written if not all can be.
        let before = (IMAGE_BASE - 8) as *const u64;
        expect("data that ends in text", Instruction::Entropy, IMAGE_BASE - 8, 16, BAD);
        // SAFETY: a page of this VM's, which nobody uses.
        if unsafe { core::ptr::read_volatile(before) } != 0 {
            hostile::failure(format_args!("a refused entropy has written"));
        }
        expect("good memory", Instruction::Entropy, IMAGE_BASE - 8, 8, Ok(8));
        expect("nothing", Instruction::Console, IMAGE_BASE, 0, Ok(0));

        let undefined = InstructionError::BadArgument;
        expect("undefined devices", Instruction::Notify, 1 << 63, 0, Err(undefined));
        expect("all devices there could be", Instruction::Notify, u64::MAX, 0, Err(undefined));
        expect("no privilege", Instruction::Gate, 0, 0, Err(InstructionError::NotPermitted));
        hostile::ok()
    }
}
