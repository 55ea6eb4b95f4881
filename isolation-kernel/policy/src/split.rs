//! Which core's frames go to the wire next, when it is short.
//!
//! Each core has a circle of senders of its own ([`crate::deficit`]), and the cores are served by turns in the same
//! manner, one level above: a turn adds a quantum in proportion to the shares of all who send from that core. What is
//! sent is known only afterwards, so a turn lasts until its credit is used up, and what was sent beyond it is owed:
//! surplus round robin (H. Adiseshu, G. Parulkar and G. Varghese, "A Reliable and Scalable Striping Protocol", SIGCOMM
//! 1996).

use alloc::vec::Vec;

/// The quantum of the core with the most shares that send, in bytes.
pub const MAX_QUANTUM: u32 = 16 * 1024;

/// The smallest quantum: it bounds the turns that a debt lasts.
pub const MIN_QUANTUM: u32 = MAX_QUANTUM / 32;

/// Most that is owed, in bytes.
const MAX_DEBT: u32 = 4 * MAX_QUANTUM;

/// Rounds after which nobody owes anything any more.
const MAX_ROUNDS: usize = 2 + (MAX_DEBT / MIN_QUANTUM) as usize;

/// The cores' credits.
#[derive(Debug, Default)]
pub struct Split {
    credits: Vec<i64>,
    /// Whose turn it is.
    at: usize,
}

impl Split {
    /// Credits of so many cores.
    #[must_use]
    pub fn new(nr_cores: usize) -> Self {
        Self { credits: alloc::vec![0; nr_cores], at: 0 }
    }

    /// Whose turn it is of those that have something to send: `shares` says for each core how many shares its senders
    /// have, and nothing for one without. `None` if nobody has anything.
    pub fn next(&mut self, shares: impl Fn(usize) -> Option<u64>) -> Option<usize> {
        let cores = 0..self.credits.len();
        let largest = cores.filter_map(&shares).max()?.max(1);
        // A round pays off one least quantum of anybody's debt at least.
        let most = self.credits.len().saturating_mul(MAX_ROUNDS);
        for _ in 0..most {
            let here = shares(self.at);
            if let Some(credit) = self.credits.get_mut(self.at) {
                if here.is_some() && *credit > 0 {
                    return Some(self.at);
                }
                if here.is_none() {
                    // Who has nothing to send saves nothing up.
                    *credit = (*credit).min(0);
                }
            }
            self.at = if self.at.saturating_add(1) < self.credits.len() { self.at.saturating_add(1) } else { 0 };
            if let (Some(shares), Some(credit)) = (shares(self.at), self.credits.get_mut(self.at)) {
                let quantum = u128::from(MAX_QUANTUM) * u128::from(shares) / u128::from(largest);
                let quantum = u32::try_from(quantum).unwrap_or(MAX_QUANTUM).clamp(MIN_QUANTUM, MAX_QUANTUM);
                *credit = credit.saturating_add(i64::from(quantum));
            }
        }
        None
    }

    /// A core has sent so many bytes.
    pub fn pay(&mut self, core: usize, bytes: u32) {
        if let Some(credit) = self.credits.get_mut(core) {
            *credit = credit.saturating_sub(i64::from(bytes)).max(-i64::from(MAX_DEBT));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nobody_is_next_of_none() {
        assert_eq!(Split::new(0).next(|_| Some(1)), None);
        assert_eq!(Split::new(3).next(|_| None), None);
    }

    #[test]
    fn one_that_is_alone_goes_on() {
        let mut split = Split::new(2);
        for _ in 0..1000 {
            assert_eq!(split.next(|core| (core == 1).then_some(0)), Some(1));
            split.pay(1, 100_000);
        }
    }

    #[test]
    fn who_had_nothing_to_send_has_nothing_saved_up() {
        let mut split = Split::new(2);
        for _ in 0..1000 {
            assert_eq!(split.next(|core| (core == 0).then_some(100)), Some(0));
            split.pay(0, 1000);
        }
        let mut sent = [0u32; 2];
        for _ in 0..1000 {
            let core = split.next(|_| Some(100)).unwrap();
            split.pay(core, 1000);
            sent[core] += 1;
        }
        assert!(sent[0].abs_diff(sent[1]) <= 40, "{sent:?}");
    }

    proptest! {
        #[test]
        fn bytes_are_split_by_shares(
            shares in proptest::collection::vec(1u64..30, 1..8),
            lengths in proptest::collection::vec(64u32..6000, 1..20),
        ) {
            let mut split = Split::new(shares.len());
            let mut sent = alloc::vec![0u64; shares.len()];
            for length in lengths.iter().cycle().take(20_000) {
                let core = split.next(|core| shares.get(core).copied()).unwrap();
                split.pay(core, *length);
                sent[core] += u64::from(*length);
            }
            let (total, all) = (sent.iter().sum::<u64>(), shares.iter().sum::<u64>());
            for (sent, shares) in sent.iter().zip(&shares) {
                let due = total * shares / all;
                // A round of the others, one's own quantum, and one piece more.
                let slack = u64::from(MAX_QUANTUM) * 8 + 2 * 6000 + due / 50;
                prop_assert!(sent.abs_diff(due) <= slack, "{} of {}", sent, due);
            }
        }
    }
}
