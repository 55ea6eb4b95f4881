//! The gatekeeper: a VM is created only while what it needs at least can be met.

/// Pages of the machine that the gatekeeper looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Pages that are free now.
    pub free: u64,
    /// Pages there are.
    pub total: u64,
}

impl Memory {
    /// Pages that are never promised to a new VM: one in 64, for page tables and the kernel's own needs.
    #[must_use]
    pub const fn reserve(self) -> u64 {
        self.total / 64
    }
}

/// Why a VM is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShortOfMemory {
    /// Pages that are missing.
    pub missing: u64,
}

/// Decides whether a VM that needs at least `minimum` pages is admitted.
///
/// # Errors
/// With what is missing, if the machine cannot meet it now.
pub const fn admit(memory: Memory, minimum: u64) -> Result<(), ShortOfMemory> {
    let needed = memory.reserve().saturating_add(minimum);
    match needed.checked_sub(memory.free) {
        None | Some(0) => Ok(()),
        Some(missing) => Err(ShortOfMemory { missing }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_is_never_promised() {
        let memory = |free| Memory { free, total: 6400 };
        assert_eq!(admit(memory(132), 32), Ok(()));
        assert_eq!(admit(memory(131), 32), Err(ShortOfMemory { missing: 1 }));
        assert_eq!(admit(memory(0), u64::MAX), Err(ShortOfMemory { missing: u64::MAX }));
    }
}
