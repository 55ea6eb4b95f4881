//! Argument 0: starts itself with the writing end of a pipe, reads all that comes, and checks it. Argument 1: writes.
#![cfg_attr(firn_program, no_std, no_main)]

#[cfg(firn_program)]
mod ends {
    use programs::abi::{Error, INHERITED};

    /// More than a pipe holds, and not a multiple of anything.
    const BYTES: usize = 3001;

    fn byte(n: usize) -> u8 {
        (n * 7 % 251).to_le_bytes()[0]
    }

    pub fn write() -> Result<u64, Error> {
        let mut n = 0;
        while n < BYTES {
            let mut piece = [0; 200];
            let length = piece.len().min(BYTES - n);
            for (i, place) in piece.iter_mut().enumerate() {
                *place = byte(n + i);
            }
            n += programs::write(INHERITED, &piece[..length])?;
        }
        Ok(7)
    }

    pub fn read() -> Result<u64, Error> {
        let (reader, writer) = programs::pipe()?;
        let child = programs::spawn("pipe", 1, Some(writer))?;
        programs::close(writer)?;
        let (mut n, mut piece) = (0, [0; 333]);
        loop {
            let length = programs::read(reader, &mut piece)?;
            if length == 0 {
                break;
            }
            if (0..length).any(|i| piece[i] != byte(n + i)) {
                return Ok(1);
            }
            n += length;
        }
        let is_right = n == BYTES && programs::wait(child)? == 7 && programs::wait(child) == Err(Error::NoChild);
        Ok(u64::from(!is_right))
    }
}

programs::program!(|argument: u64| {
    let result = if argument == 1 { ends::write() } else { ends::read() };
    result.unwrap_or(9)
});
