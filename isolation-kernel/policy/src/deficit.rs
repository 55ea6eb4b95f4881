//! Deficit round robin: who sends next when the wire is short.
//!
//! M. Shreedhar and G. Varghese, "Efficient Fair Queuing using Deficit Round Robin", SIGCOMM 1995. Senders with
//! something to send stand in a circle; whose turn it is may send as many bytes as a quantum in proportion to its
//! shares, and keeps what it could not use because its next frame was too long. A frame costs a bounded number of
//! visits, however many senders there are.
//!
//! Two things are not as in the paper. The quantum is scaled by the largest shares in the circle: a transmit ring is
//! one page, so a quantum that it could not hold would give nobody its share. And a sender that has sent all it had
//! stays for one more visit with what is left of its credit, as its ring is refilled only when it runs.

use alloc::collections::VecDeque;

/// The quantum of a sender with the largest shares in the circle, in bytes: half a transmit ring, so that the other
/// half can be filled meanwhile.
pub const MAX_QUANTUM: u32 = 2048;

/// The smallest quantum: shares are told apart up to 32 to 1. It bounds the visits that a frame can take.
pub const MIN_QUANTUM: u32 = MAX_QUANTUM / 32;

/// Bytes that a sender may still send in its visit, and takes along to the next one. Kept by the caller for each
/// sender; a sender that is not in the circle has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credit {
    bytes: u32,
}

impl Credit {
    /// Whether it is enough for a frame.
    #[must_use]
    pub const fn covers(self, bytes: u32) -> bool {
        bytes <= self.bytes
    }

    /// Pays for a frame.
    pub const fn pay(&mut self, bytes: u32) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

/// The circle of senders.
///
/// It knows them by number and holds each at most once, so it never grows beyond the numbers there are: one that
/// has gone away without a word is found out at its next turn.
#[derive(Debug, Default)]
pub struct Circle {
    queue: VecDeque<u32>,
    /// Which numbers are in the queue, one bit each.
    held: alloc::vec::Vec<u64>,
    /// Whether the first one has had the quantum of this visit.
    is_visiting: bool,
    /// Visits until everybody who was there at the start of the round has had one.
    left_in_round: usize,
    /// The largest shares in the round before this one, and in this one so far.
    largest: u32,
    largest_so_far: u32,
    /// The same of the sum of all shares.
    sum: u64,
    sum_so_far: u64,
}

impl Circle {
    /// An empty circle.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            held: alloc::vec::Vec::new(),
            is_visiting: false,
            left_in_round: 0,
            largest: 0,
            largest_so_far: 0,
            sum: 0,
            sum_so_far: 0,
        }
    }

    /// Makes room for so many senders with numbers below `end`, so that no later call allocates for them.
    pub fn reserve(&mut self, nr_senders: usize, end: u32) {
        self.queue.reserve(nr_senders.saturating_sub(self.queue.len()));
        let words = (end as usize).div_ceil(64);
        if words > self.held.len() {
            self.held.resize(words, 0);
        }
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Shares of all who wait, as of the last round.
    #[must_use]
    pub fn shares(&self) -> u64 {
        self.sum.max(self.sum_so_far)
    }

    /// Whose turn it is.
    #[must_use]
    pub fn front(&self) -> Option<u32> {
        self.queue.front().copied()
    }

    /// A sender has something to send and goes to the end, if it is not in the circle already.
    pub fn join(&mut self, sender: u32) {
        let word = sender as usize / 64;
        if word >= self.held.len() {
            self.held.resize(word.saturating_add(1), 0);
        }
        if let Some(word) = self.held.get_mut(word) {
            let bit = 1u64 << (sender % 64);
            if *word & bit == 0 {
                *word |= bit;
                self.queue.push_back(sender);
            }
        }
    }

    /// The first one's visit begins, or goes on if the wire was full in the middle of it.
    pub fn visit(&mut self, credit: &mut Credit, shares: u32) {
        if self.is_visiting {
            return;
        }
        self.is_visiting = true;
        if self.left_in_round == 0 {
            self.left_in_round = self.queue.len();
            self.largest = core::mem::take(&mut self.largest_so_far);
            self.sum = core::mem::take(&mut self.sum_so_far);
        }
        self.left_in_round = self.left_in_round.saturating_sub(1);
        self.largest_so_far = self.largest_so_far.max(shares);
        self.sum_so_far = self.sum_so_far.saturating_add(u64::from(shares));
        let largest = u64::from(self.largest.max(shares).max(1));
        let quantum = u64::from(MAX_QUANTUM) * u64::from(shares) / largest;
        let quantum = u32::try_from(quantum).unwrap_or(MAX_QUANTUM).clamp(MIN_QUANTUM, MAX_QUANTUM);
        // What is left over is less than a frame, or else there was nothing more to send it on.
        credit.bytes = credit.bytes.min(MAX_QUANTUM).saturating_add(quantum);
    }

    /// The first one's visit is over; its turn comes again.
    pub fn rotate(&mut self) {
        self.is_visiting = false;
        if let Some(sender) = self.queue.pop_front() {
            self.queue.push_back(sender);
        }
    }

    /// The first one has nothing to send any more, or is not there any more.
    pub fn remove_front(&mut self) {
        self.is_visiting = false;
        let Some(sender) = self.queue.pop_front() else { return };
        if let Some(word) = self.held.get_mut(sender as usize / 64) {
            *word &= !(1u64 << (sender % 64));
        }
        if self.queue.is_empty() {
            (self.left_in_round, self.sum, self.sum_so_far) = (0, 0, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const FRAME: u32 = 1514;

    struct Sender {
        shares: u32,
        credit: Credit,
        frames: VecDeque<u32>,
        sent: u64,
    }

    impl Sender {
        fn new(shares: u32, frames: impl IntoIterator<Item = u32>) -> Self {
            Self { shares, credit: Credit::default(), frames: frames.into_iter().collect(), sent: 0 }
        }
    }

    /// Sends until `room` frames are on the wire. Returns who sent what, and the number of visits.
    fn pump(circle: &mut Circle, senders: &mut [Sender], mut room: usize) -> (Vec<(u32, u32)>, usize) {
        let (mut sent, mut visits) = (Vec::new(), 0);
        while let Some(number) = circle.front() {
            let sender = &mut senders[number as usize];
            circle.visit(&mut sender.credit, sender.shares);
            visits += 1;
            let mut any = false;
            while let Some(&bytes) = sender.frames.front().filter(|&&bytes| sender.credit.covers(bytes)) {
                if room == 0 {
                    return (sent, visits);
                }
                room -= 1;
                sender.frames.pop_front();
                sender.credit.pay(bytes);
                sender.sent += u64::from(bytes);
                sent.push((number, bytes));
                any = true;
            }
            if sender.frames.is_empty() && !any {
                sender.credit = Credit::default();
                circle.remove_front();
            } else {
                circle.rotate();
            }
        }
        (sent, visits)
    }

    #[test]
    fn bytes_follow_shares() {
        let mut senders: Vec<Sender> =
            (0..30u32).map(|n| Sender::new(100 << (n % 3), core::iter::repeat_n(200 + 40 * n, 20_000))).collect();
        let mut circle = Circle::new();
        (0..30).for_each(|n| circle.join(n));
        pump(&mut circle, &mut senders, 50_000);
        for n in 0..30 {
            let (one, other) = (&senders[n], &senders[(n + 1) % 30]);
            let ratio = (one.sent * u64::from(other.shares)) as f64 / (other.sent * u64::from(one.shares)) as f64;
            assert!((0.98..1.02).contains(&ratio), "{n}: {ratio}");
        }
    }

    #[test]
    fn a_number_is_in_the_circle_once_and_leaves_when_its_turn_comes() {
        let mut circle = Circle::new();
        circle.reserve(2, 65);
        for _ in 0..3 {
            circle.join(64);
            circle.join(1_000_000);
        }
        assert_eq!((circle.len(), circle.front()), (2, Some(64)));
        circle.remove_front();
        circle.join(64);
        assert_eq!((circle.len(), circle.front()), (2, Some(1_000_000)));
        circle.rotate();
        circle.remove_front();
        circle.remove_front();
        assert!(circle.is_empty());
        circle.remove_front();
        circle.rotate();
    }

    #[test]
    fn large_shares_that_have_gone_make_nobody_slow_for_long() {
        let mut circle = Circle::new();
        let mut senders = Vec::from([Sender::new(u32::MAX, [FRAME]), Sender::new(1, [FRAME; 100])]);
        (0..2).for_each(|n| circle.join(n));
        let (_, visits) = pump(&mut circle, &mut senders, usize::MAX);
        assert!(visits < 24 + 200, "{visits}");
    }

    proptest! {
        /// Who always has something to send gets its quantum in each round, but for less than a frame.
        #[test]
        fn nobody_is_ahead_by_more_than_a_frame(
            shares in proptest::collection::vec(50u32..1600, 2..20),
            lengths in proptest::collection::vec(14u32..=FRAME, 1..50),
            room in 100usize..3000,
        ) {
            let mut senders: Vec<Sender> = shares
                .iter()
                .map(|&shares| Sender::new(shares, lengths.iter().copied().cycle().take(4000)))
                .collect();
            let mut circle = Circle::new();
            // All have the largest shares in sight before the first visit counts.
            circle.largest_so_far = *shares.iter().max().unwrap();
            (0u32..).zip(&shares).for_each(|(n, _)| circle.join(n));
            pump(&mut circle, &mut senders, room);
            let rounds = |s: &Sender| {
                let quantum = u64::from(MAX_QUANTUM) * u64::from(s.shares) / u64::from(*shares.iter().max().unwrap());
                let quantum = quantum.max(u64::from(MIN_QUANTUM)) as f64;
                (s.sent as f64 / quantum, f64::from(FRAME) / quantum)
            };
            for (one, other) in senders.iter().zip(senders.iter().skip(1)) {
                let ((a, frame_a), (b, frame_b)) = (rounds(one), rounds(other));
                prop_assert!((a - b).abs() <= 1.0 + frame_a + frame_b, "{a} and {b} rounds");
            }
        }

        /// A wire that fills up in the middle of a visit changes nothing about the order.
        #[test]
        fn a_full_wire_only_interrupts(
            plan in proptest::collection::vec((1u32..1000, proptest::collection::vec(14u32..=FRAME, 0..30)), 1..12),
            rooms in proptest::collection::vec(0usize..9, 1..20),
        ) {
            let new = || plan.iter().map(|(shares, frames)| Sender::new(*shares, frames.iter().copied()));
            let mut circles = [Circle::new(), Circle::new()];
            for circle in &mut circles {
                (0u32..).zip(&plan).for_each(|(n, _)| circle.join(n));
            }
            let [whole, pieces] = &mut circles;
            let (expected, visits) = pump(whole, &mut new().collect::<Vec<_>>(), usize::MAX);
            let mut senders: Vec<Sender> = new().collect();
            let mut sent = Vec::new();
            for room in rooms.iter().copied().chain([usize::MAX]) {
                sent.extend(pump(pieces, &mut senders, room).0);
            }
            prop_assert_eq!(&sent, &expected);
            prop_assert!(whole.is_empty() && pieces.is_empty());
            // Whatever the shares: the longest frame at the smallest quantum, and the visits that find nothing.
            let most = FRAME.div_ceil(MIN_QUANTUM) as usize;
            prop_assert!(visits <= most * sent.len() + plan.len(), "{visits} visits for {} frames", sent.len());
        }

        /// Against a list of numbers, searched from end to end.
        #[test]
        fn the_circle_is_a_queue_without_doubles(
            steps in proptest::collection::vec((0u8..4, 0u32..200), 1..300),
        ) {
            let (mut circle, mut model) = (Circle::new(), Vec::new());
            for (step, sender) in steps {
                match step {
                    0 | 1 => {
                        circle.join(sender);
                        if !model.contains(&sender) {
                            model.push(sender);
                        }
                    }
                    2 if !model.is_empty() => {
                        circle.rotate();
                        model.rotate_left(1);
                    }
                    3 if !model.is_empty() => {
                        circle.remove_front();
                        model.remove(0);
                    }
                    _ => {}
                }
                prop_assert_eq!(circle.front(), model.first().copied());
                prop_assert_eq!(circle.len(), model.len());
            }
        }
    }
}
