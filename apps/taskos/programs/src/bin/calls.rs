//! Makes system calls with arguments that cannot be, and checks that each is refused as it must be.
#![cfg_attr(firn_program, no_std, no_main)]

#[cfg(firn_program)]
mod cases {
    use programs::abi::{CONSOLE, Error, HEAP_BASE, NO_HANDLE, Number, PROGRAM_BASE, STACK_TOP};
    use programs::raw;

    fn check(number: Number, arguments: [u64; 4], wanted: Error) -> bool {
        // SAFETY: the kernel must refuse them.
        Error::read(unsafe { raw(number as u64, arguments) }) == Err(wanted)
    }

    pub fn run() -> Result<u64, Error> {
        let (reader, writer) = programs::pipe()?;
        let memory = programs::memory(1)?;
        let (bad_address, bad_handle) = (Error::BadAddress, Error::BadHandle);
        let name = "hello".as_ptr().addr() as u64;
        programs::write(writer, b"x")?;
        let cases = [
            // A kernel's address, a null one, the last ones there are, and a piece of which only a part is there.
            check(Number::Write, [CONSOLE, 0x2_0000, 10, 0], bad_address),
            check(Number::Write, [CONSOLE, 0, 10, 0], bad_address),
            check(Number::Write, [CONSOLE, u64::MAX, 10, 0], bad_address),
            check(Number::Write, [CONSOLE, STACK_TOP - 4, 10, 0], bad_address),
            check(Number::Write, [writer, HEAP_BASE, 10, 0], bad_address),
            check(Number::Read, [reader, PROGRAM_BASE, 1, 0], bad_address),
            check(Number::Read, [reader, 0x2_0000, 1, 0], bad_address),
            check(Number::Spawn, [0x2_0000, 5, 0, NO_HANDLE], bad_address),
            check(Number::Write, [7, name, 1, 0], bad_handle),
            check(Number::Write, [reader, name, 1, 0], bad_handle),
            check(Number::Write, [memory, name, 1, 0], bad_handle),
            check(Number::Write, [u64::MAX, name, 1, 0], bad_handle),
            check(Number::Read, [writer, STACK_TOP - 64, 1, 0], bad_handle),
            check(Number::Read, [CONSOLE, STACK_TOP - 64, 1, 0], bad_handle),
            check(Number::Close, [CONSOLE, 0, 0, 0], bad_handle),
            check(Number::Close, [99, 0, 0, 0], bad_handle),
            check(Number::Attach, [reader, 0, 0, 0], bad_handle),
            check(Number::Spawn, [name, 5, 0, 99], bad_handle),
            check(Number::Spawn, [name, 4, 0, NO_HANDLE], Error::NoProgram),
            check(Number::Spawn, [name, u64::MAX, 0, NO_HANDLE], Error::BadArgument),
            check(Number::Exit, [256, 0, 0, 0], Error::BadArgument),
            check(Number::Memory, [0, 0, 0, 0], Error::BadArgument),
            check(Number::Memory, [u64::MAX, 0, 0, 0], Error::Limit),
            check(Number::Grow, [0, 0, 0, 0], Error::BadArgument),
            check(Number::Grow, [u64::MAX, 0, 0, 0], Error::Limit),
            check(Number::Wait, [1, 0, 0, 0], Error::NoChild),
        ];
        if let Some(wrong) = cases.iter().position(|is_right| !is_right) {
            return Ok(wrong as u64 + 10);
        }
        let mut byte = [0];
        if programs::read(reader, &mut byte)? != 1 || byte != *b"x" {
            return Ok(1);
        }
        programs::close(reader)?;
        if programs::write(writer, b"y") != Err(Error::Broken) {
            return Ok(2);
        }
        while programs::pipe().is_ok() {}
        Ok(u64::from(programs::pipe() != Err(Error::Limit)))
    }
}

programs::program!(|_| cases::run().unwrap_or(9));
