//! The attacks that the program `hostile` knows, by its argument. The kernel's list of what it runs names them too.

/// What a hostile program does. Each must be killed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum Attack {
    /// Reads what is at the kernel's address in the VM's physical memory.
    ReadKernel,
    /// Writes there.
    WriteKernel,
    /// Reads where the program `keeper` keeps a secret, in its own space.
    ReadNeighbour,
    /// Reads address 0.
    ReadNull,
    /// Reads where the VM has its register page.
    ReadRegisters,
    /// Writes where the VM has its control page.
    WriteControl,
    /// Reads the isolation kernel's half of the address space.
    ReadIsolationKernel,
    /// Reads an address that is not canonical.
    ReadNonCanonical,
    /// Writes to its own text.
    WriteText,
    /// Jumps into its data.
    JumpToData,
    /// Jumps to its stack.
    JumpToStack,
    /// Executes the virtual instruction `terminate`.
    Terminate,
    /// Executes the virtual instruction `tlb_write`.
    TlbWrite,
    /// Executes `hlt`.
    Halt,
    /// Executes an instruction that is none.
    Undefined,
    /// Divides by zero.
    Divide,
    /// Executes `int3`.
    Breakpoint,
    /// Sets the trap flag.
    SingleStep,
    /// Recurses until its stack is full.
    OverflowStack,
    /// Loops for ever.
    Spin,
    /// Uses all memory it can get.
    EatMemory,
    /// Waits for something that nobody can ever send.
    WaitForEver,
}

impl Attack {
    /// All of them with their names, each at the place of its number.
    pub const ALL: [(&'static str, Self); 22] = [
        ("read-kernel", Self::ReadKernel),
        ("write-kernel", Self::WriteKernel),
        ("read-neighbour", Self::ReadNeighbour),
        ("read-null", Self::ReadNull),
        ("read-registers", Self::ReadRegisters),
        ("write-control", Self::WriteControl),
        ("read-isolation-kernel", Self::ReadIsolationKernel),
        ("read-non-canonical", Self::ReadNonCanonical),
        ("write-text", Self::WriteText),
        ("jump-to-data", Self::JumpToData),
        ("jump-to-stack", Self::JumpToStack),
        ("terminate", Self::Terminate),
        ("tlb-write", Self::TlbWrite),
        ("halt", Self::Halt),
        ("undefined", Self::Undefined),
        ("divide", Self::Divide),
        ("breakpoint", Self::Breakpoint),
        ("single-step", Self::SingleStep),
        ("overflow-stack", Self::OverflowStack),
        ("spin", Self::Spin),
        ("eat-memory", Self::EatMemory),
        ("wait-for-ever", Self::WaitForEver),
    ];

    /// The attack with that number.
    #[must_use]
    pub fn from_word(word: u64) -> Option<Self> {
        Self::ALL.get(usize::try_from(word).ok()?).map(|&(_, attack)| attack)
    }
}

#[cfg(all(test, not(firn_program)))]
mod tests {
    use super::*;

    #[test]
    fn each_attack_is_at_the_place_of_its_number() {
        for (n, (name, attack)) in Attack::ALL.into_iter().enumerate() {
            assert_eq!(attack as usize, n, "{name}");
        }
        assert_eq!(Attack::from_word(Attack::ALL.len() as u64), None);
    }
}
