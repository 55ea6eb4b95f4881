//! Executes virtual instructions that there are not.
#![cfg_attr(firn_guest, no_std, no_main)]

hostile::only_in_a_vm!();

#[cfg(firn_guest)]
mod attack {
    use libos::instruction::{InstructionError, raw};

    #[libos::main]
    async fn main() {
        let undefined = (12..=64).chain([0, 255, 256, 1 << 32, (1 << 32) + 1, u64::MAX >> 1, 1 << 63, u64::MAX]);
        for number in undefined {
            // SAFETY: no instruction has this number, so that nothing can happen.
            let result = InstructionError::read(unsafe { raw(number, 0x1_0000, 64) });
            if result != Err(InstructionError::UndefinedInstruction) {
                hostile::failure(format_args!("instruction {number} answered {result:?}"));
            }
        }
        hostile::ok()
    }
}
