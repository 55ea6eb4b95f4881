//! Which address space has which asid. Spaces may be more than asids: one that has none gets one when it is entered,
//! of another that has not been entered for a while.

use virtual_isa::limits::MAX_ASIDS;

/// Owner of an asid that nobody has.
const NOBODY: u64 = 0;

/// The asids of a VM.
#[derive(Debug)]
pub(super) struct Asids {
    /// The owner of each, from asid 1 on.
    owners: [u64; MAX_ASIDS as usize],
    /// Where the search for a free one, or for a victim, begins.
    hand: u16,
    /// The last owner's number.
    last_owner: u64,
}

/// An asid that a space has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Assigned {
    /// The asid.
    pub asid: u16,
    /// Whether there may be entries of another space's under it.
    pub is_robbed: bool,
}

impl Asids {
    pub const fn new() -> Self {
        Self { owners: [NOBODY; MAX_ASIDS as usize], hand: 0, last_owner: NOBODY }
    }

    /// A number for a new space, which none has had before.
    pub fn new_owner(&mut self) -> u64 {
        self.last_owner += 1;
        self.last_owner
    }

    /// Whether the asid is this owner's.
    pub fn has(&self, owner: u64, asid: u16) -> bool {
        slot(asid).and_then(|slot| self.owners.get(slot)) == Some(&owner)
    }

    /// Gives an owner that has none an asid: a free one, or else that of the owner that got its own the longest ago.
    pub fn assign(&mut self, owner: u64) -> Assigned {
        let from = usize::from(self.hand);
        let in_order = (from..self.owners.len()).chain(0..from);
        let free = in_order.clone().find(|&slot| self.owners[slot] == NOBODY);
        let slot = free.unwrap_or(from);
        self.owners[slot] = owner;
        let asid = u16::try_from(slot + 1).unwrap_or(MAX_ASIDS);
        self.hand = asid % MAX_ASIDS;
        Assigned { asid, is_robbed: free.is_none() }
    }

    /// Takes an asid back from its owner. Says whether it was the owner's: then its entries must be dropped.
    pub fn release(&mut self, owner: u64, asid: u16) -> bool {
        let is_owner = self.has(owner, asid);
        if is_owner && let Some(slot) = slot(asid) {
            self.owners[slot] = NOBODY;
        }
        is_owner
    }
}

fn slot(asid: u16) -> Option<usize> {
    asid.checked_sub(1).map(usize::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;
    use std::vec::Vec;

    #[test]
    fn free_ones_go_first_and_then_the_one_that_was_assigned_first() {
        let mut asids = Asids::new();
        let owners: Vec<u64> = (0..=MAX_ASIDS).map(|_| asids.new_owner()).collect();
        for (n, &owner) in owners.iter().enumerate().take(usize::from(MAX_ASIDS)) {
            assert_eq!(asids.assign(owner), Assigned { asid: u16::try_from(n + 1).unwrap(), is_robbed: false });
        }
        assert!(asids.release(owners[99], 100));
        assert!(!asids.release(owners[99], 100), "only once");
        let late = owners[usize::from(MAX_ASIDS)];
        assert_eq!(asids.assign(late), Assigned { asid: 100, is_robbed: false });
        assert_eq!(asids.assign(owners[99]), Assigned { asid: 101, is_robbed: true });
        assert!(!asids.has(owners[100], 101) && asids.has(owners[99], 101));
        assert!(!asids.release(owners[100], 101), "it is another's now");
        assert!(!asids.has(owners[0], 0) && !asids.has(0, 0));
    }

    proptest! {
        /// `true` enters the space of that number, `false` drops it.
        #[test]
        fn no_two_spaces_have_the_same_asid(steps in proptest::collection::vec((any::<bool>(), 0usize..300), 1..800)) {
            let mut asids = Asids::new();
            let mut owners: Vec<(u64, u16)> = (0..300).map(|_| (asids.new_owner(), 0)).collect();
            let mut model: HashMap<u16, u64> = HashMap::new();
            for (is_entered, n) in steps {
                let (owner, asid) = owners[n];
                prop_assert_eq!(asids.has(owner, asid), model.get(&asid) == Some(&owner));
                if !is_entered {
                    prop_assert_eq!(asids.release(owner, asid), model.get(&asid) == Some(&owner));
                    model.retain(|_, o| *o != owner);
                } else if !asids.has(owner, asid) {
                    let assigned = asids.assign(owner);
                    prop_assert_eq!(model.insert(assigned.asid, owner).is_some(), assigned.is_robbed);
                    prop_assert_eq!(assigned.is_robbed, model.len() == usize::from(MAX_ASIDS) && assigned.is_robbed);
                    owners[n].1 = assigned.asid;
                }
            }
        }
    }
}
