//! Argument 0: starts itself with shared memory, and the two count in it in turns. Argument 1: the other one.
#![cfg_attr(firn_program, no_std, no_main)]

#[cfg(firn_program)]
mod counting {
    use core::sync::atomic::{AtomicU64, Ordering};
    use programs::abi::{Error, INHERITED};

    const TURNS: u64 = 20;

    /// Raises the counter whenever it is this one's turn: at even numbers or at odd ones.
    fn count(address: u64, parity: u64) {
        // SAFETY: the page is mapped for as long as the program is, and aligned; both use it through atomics only.
        let counter = unsafe { &*(address as *const AtomicU64) };
        loop {
            let n = counter.load(Ordering::Acquire);
            if n >= TURNS {
                return;
            }
            if n % 2 == parity {
                counter.store(n + 1, Ordering::Release);
            } else {
                programs::yield_now();
            }
        }
    }

    pub fn child() -> Result<u64, Error> {
        count(programs::attach(INHERITED)?, 1);
        Ok(3)
    }

    pub fn parent() -> Result<u64, Error> {
        let memory = programs::memory(2)?;
        let address = programs::attach(memory)?;
        let child = programs::spawn("shared", 1, Some(memory))?;
        count(address, 0);
        Ok(u64::from(programs::wait(child)? != 3))
    }
}

programs::program!(|argument: u64| {
    let result = if argument == 1 { counting::child() } else { counting::parent() };
    result.unwrap_or(9)
});
