//! Reclaim: whose pages go when memory runs short, and who may still take some.
//!
//! Min-funding revocation with an idle-memory tax: a page goes from the VM that pays the fewest shares for each
//! page, and an idle page costs as much as four in use. Source: Waldspurger, "Memory Resource Management in VMware
//! ESX Server" (2002), sections 5.1 and 5.2. The pages themselves are moved by `vm`.

/// Levels of free pages. Below `low` background reclaim begins, it ends at `high`; below `minimum` only VMs within
/// their share get pages; the last `critical` pages are the kernel's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// Free pages that no VM gets: the packet path and page tables live on them.
    pub critical: u64,
    /// Free pages below which VMs over their share wait.
    pub minimum: u64,
    /// Free pages below which background reclaim begins.
    pub low: u64,
    /// Free pages at which background reclaim ends.
    pub high: u64,
}

/// The least distance between two levels, in pages.
const STEP: u64 = 4;

/// Pages that it takes to make a record or read one, whatever the machine's size.
const PACK_ROOM: u64 = 40;

impl Watermarks {
    /// The levels of a machine of this many pages: strictly ascending, however small it is.
    #[must_use]
    pub const fn of(total_pages: u64) -> Self {
        let critical = at_least(total_pages / 128, PACK_ROOM);
        let minimum = at_least(total_pages / 64, critical + STEP);
        let low = at_least(total_pages / 32, minimum + STEP);
        let high = at_least(total_pages / 24, low + STEP);
        Self { critical, minimum, low, high }
    }
}

const fn at_least(pages: u64, least: u64) -> u64 {
    if pages < least { least } else { pages }
}

/// What a VM has of memory and what it may claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its shares of memory.
    pub shares: u32,
    /// Machine pages it holds.
    pub pages: u32,
    /// Pages it keeps in any case.
    pub minimum: u32,
    /// Estimated part of its pages that is in use, of 255.
    pub active: u8,
    /// For how long it has not run, in nanoseconds.
    pub idle_ns: u64,
}

/// What an idle page costs, in pages in use: 1 / (1 - tax), with a tax of 75 %.
const IDLE_COST: u64 = 4;

/// Shares a VM pays for each page, idle pages taxed: S / (P (f + k (1 - f))), in units of 2^-32. `u64::MAX`, which
/// no VM with pages pays, if it has no page to give.
#[must_use]
pub fn price(claim: &Claim) -> u64 {
    const ALL: u64 = u8::MAX as u64;
    let active = u64::from(claim.active);
    let taxed = u64::from(claim.pages) * (active + IDLE_COST * (ALL - active));
    let paid = (u128::from(claim.shares) * u128::from(ALL)) << 32;
    match paid.checked_div(u128::from(taxed)) {
        // Shares are below 2^32 and each page costs at least 255 of 255, so the quotient fits.
        Some(price) => u64::try_from(price).unwrap_or(u64::MAX - 1),
        None => u64::MAX,
    }
}

/// Which of these VMs gives pages next: the one with the lowest price, of those that hold more than their minimum.
/// Of those that pay about the same (within a factor of two: small VMs differ by a page or so) it is the one that has
/// not run for longest, and the first of equals.
pub fn victim(claims: impl IntoIterator<Item = Claim>) -> Option<usize> {
    claims
        .into_iter()
        .enumerate()
        .filter(|(_, claim)| claim.pages > claim.minimum)
        .min_by_key(|(_, claim)| (price(claim).checked_ilog2(), core::cmp::Reverse(claim.idle_ns)))
        .map(|(index, _)| index)
}

/// Whether a VM may take a page while `free` are left: one over its share stops at `minimum`, others at `critical`.
#[must_use]
pub const fn may_take(free: u64, marks: &Watermarks, is_over_share: bool) -> bool {
    free > if is_over_share { marks.minimum } else { marks.critical }
}

/// Whether a VM holds more of the machine's pages than its part of all shares. A VM is never over its share as long
/// as it is within its minimum.
#[must_use]
pub fn is_over_share(claim: &Claim, total_shares: u64, total_pages: u64) -> bool {
    let held = u128::from(claim.pages) * u128::from(total_shares);
    let fair = u128::from(claim.shares) * u128::from(total_pages);
    claim.pages > claim.minimum && held > fair
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const fn claim(shares: u32, pages: u32, active: u8) -> Claim {
        Claim { shares, pages, minimum: 0, active, idle_ns: 0 }
    }

    #[test]
    fn the_levels_are_the_parts_they_are_meant_to_be() {
        let marks = Watermarks::of(128 * 24 * 100);
        assert_eq!(marks, Watermarks { critical: 2400, minimum: 4800, low: 9600, high: 12_800 });
    }

    #[test]
    fn an_idle_page_costs_four_in_use() {
        // The paper's figure: at a tax of 75 % an idle VM is the equal of a busy one with four times its pages.
        assert_eq!(price(&claim(100, 1000, 0)), price(&claim(100, 4000, 255)));
        assert_eq!(price(&claim(1, 1, 255)), 1 << 32);
        assert_eq!(price(&claim(7, 0, 255)), u64::MAX);
        assert!(price(&claim(u32::MAX, 1, 255)) < u64::MAX);
    }

    #[test]
    fn the_idle_and_the_greedy_give_first() {
        let busy = claim(100, 500, 255);
        assert_eq!(victim([busy, claim(100, 500, 10), busy]), Some(1));
        assert_eq!(victim([busy, busy, claim(100, 2000, 255)]), Some(2));
        // Twice the shares: may keep twice the pages.
        assert_eq!(victim([claim(200, 400, 255), busy]), Some(1));
        assert_eq!(victim([busy, busy]), Some(0));
    }

    #[test]
    fn of_equals_the_one_that_slept_longest_gives_first() {
        let idle = |pages, idle_ns| Claim { idle_ns, ..claim(100, pages, 0) };
        assert_eq!(victim([idle(11, 5), idle(10, 900), idle(11, 70)]), Some(1));
        assert_eq!(victim([idle(11, 5), idle(50, 1), idle(11, 70)]), Some(1), "one that has much more is not an equal");
    }

    #[test]
    fn nobody_gives_of_its_minimum() {
        let kept = Claim { minimum: 500, ..claim(1, 500, 0) };
        assert_eq!(victim([kept, claim(1000, 1, 255)]), Some(1));
        assert_eq!(victim([kept]), None);
        assert_eq!(victim([]), None);
    }

    #[test]
    fn a_vm_over_its_share_stops_earlier() {
        let marks = Watermarks::of(6400);
        assert_eq!((marks.critical, marks.minimum), (50, 100));
        assert!(may_take(101, &marks, true) && !may_take(100, &marks, true));
        assert!(may_take(51, &marks, false) && !may_take(50, &marks, false));
    }

    #[test]
    fn a_share_is_a_part_of_the_whole() {
        assert!(!is_over_share(&claim(100, 250, 0), 400, 1000));
        assert!(is_over_share(&claim(100, 251, 0), 400, 1000));
        assert!(!is_over_share(&Claim { minimum: 251, ..claim(100, 251, 0) }, 400, 1000));
        assert!(!is_over_share(&claim(0, u32::MAX, 0), 0, u64::MAX));
    }

    fn any_claim() -> impl Strategy<Value = Claim> {
        (any::<u32>(), any::<u32>(), any::<u32>(), any::<u8>(), any::<u64>())
            .prop_map(|(shares, pages, minimum, active, idle_ns)| Claim { shares, pages, minimum, active, idle_ns })
    }

    proptest! {
        #[test]
        fn the_levels_ascend_on_every_machine(total in 0u64..1 << 52) {
            let Watermarks { critical, minimum, low, high } = Watermarks::of(total);
            prop_assert!(STEP <= critical && critical < minimum && minimum < low && low < high);
            prop_assert!(total < 150 || high < total / 8, "{} of {}", high, total);
        }

        #[test]
        fn a_price_falls_with_pages_and_idleness_and_rises_with_shares(claim in any_claim()) {
            let here = price(&claim);
            prop_assert_eq!(here == u64::MAX, claim.pages == 0);
            let larger = Claim { pages: claim.pages.saturating_add(1), ..claim };
            let busier = Claim { active: claim.active.saturating_add(1), ..claim };
            let richer = Claim { shares: claim.shares.saturating_add(1), ..claim };
            prop_assert!(price(&larger) <= here && price(&busier) >= here && price(&richer) >= here);
        }

        #[test]
        fn the_victim_has_pages_to_give_and_nobody_pays_less(
            claims in proptest::collection::vec(any_claim(), 0..30),
        ) {
            let able: Vec<&Claim> = claims.iter().filter(|claim| claim.pages > claim.minimum).collect();
            match victim(claims.iter().copied()) {
                None => prop_assert!(able.is_empty()),
                Some(index) => {
                    prop_assert!(claims[index].pages > claims[index].minimum);
                    let half = price(&claims[index]) / 2;
                    prop_assert!(able.iter().all(|other| price(other) >= half));
                }
            }
        }

        #[test]
        fn not_everybody_is_over_its_share(
            parts in proptest::collection::vec((1u32..10_000, 0u32..10_000), 1..30),
        ) {
            let total_shares = parts.iter().map(|part| u64::from(part.0)).sum();
            let total_pages = parts.iter().map(|part| u64::from(part.1)).sum();
            let is_over = |part: &(u32, u32)| is_over_share(&claim(part.0, part.1, 0), total_shares, total_pages);
            prop_assert!(!parts.iter().all(is_over));
        }

        #[test]
        fn taking_one_at_a_time_always_leaves_the_kernels_own(total in 150u64..100_000, is_over in any::<bool>()) {
            let marks = Watermarks::of(total);
            let mut free = total;
            while may_take(free, &marks, is_over) {
                free -= 1;
            }
            prop_assert_eq!(free, if is_over { marks.minimum } else { marks.critical });
        }
    }
}
