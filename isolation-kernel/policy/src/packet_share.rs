//! Shares of the frame buffers: how many may wait for one VM.
//!
//! All queues draw on one pool. Each may grow to a fraction of what is still free (the dynamic thresholds of
//! Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998): few busy queues
//! may be long, many must be short, and what is left over keeps the card and the senders going.

/// Buffers that no queue gets: the card must be able to receive, and VMs to send.
pub const RESERVE: usize = 512;

/// A queue may hold one in so many of the free buffers.
const FRACTION: usize = 8;

/// A VM's part of all shares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weight {
    /// Its own.
    pub shares: u32,
    /// Those of all VMs.
    pub total_shares: u64,
    /// How many VMs there are.
    pub nr_vms: u32,
}

/// A queue is at most so many times shorter or longer than that of a VM with average shares.
const SPREAD: u64 = 4;

/// Whether one more frame may wait for a VM for which `queued` wait, when `free` buffers are free: what it may have
/// goes by its shares.
#[must_use]
pub const fn may_queue(queued: usize, free: usize, weight: Weight) -> bool {
    let allowed = free.saturating_sub(RESERVE).div_ceil(FRACTION) as u64;
    let queued = queued as u64;
    // Without a division: this is asked for every frame.
    let is_within = queued.saturating_mul(weight.total_shares)
        < allowed.saturating_mul(weight.shares as u64).saturating_mul(weight.nr_vms as u64);
    queued.saturating_mul(SPREAD) < allowed || (is_within && queued < allowed.saturating_mul(SPREAD))
}

#[cfg(test)]
mod tests {
    use super::*;

    const EQUAL: Weight = Weight { shares: 100, total_shares: 100 * 50, nr_vms: 50 };

    #[test]
    fn queues_go_by_shares_within_bounds() {
        let longest = |shares, total_shares| {
            let weight = Weight { shares, total_shares, nr_vms: 10 };
            (0..).find(|&queued| !may_queue(queued, RESERVE + 800, weight)).unwrap()
        };
        assert_eq!(longest(100, 1000), 100);
        assert_eq!(longest(200, 1000), 200);
        assert_eq!(longest(50, 1000), 50);
        assert_eq!(longest(1, 1_000_000), 25);
        assert_eq!(longest(u32::MAX, u64::from(u32::MAX) + 9), 400);
        assert_eq!(longest(1, 0), 400);
        for shares in [1, u32::MAX] {
            let weight = Weight { shares, total_shares: u64::MAX, nr_vms: u32::MAX };
            assert!(may_queue(0, RESERVE + 1, weight) && !may_queue(0, RESERVE, weight));
        }
    }

    /// Fills that many queues as far as they go, and returns the length of one and the buffers left.
    fn fill(nr_queues: usize, pool: usize) -> (usize, usize) {
        let mut queues = std::vec![0usize; nr_queues];
        let mut free = pool;
        loop {
            let before = free;
            for queue in &mut queues {
                if may_queue(*queue, free, EQUAL) {
                    *queue += 1;
                    free -= 1;
                }
            }
            if free == before {
                return (queues[0], free);
            }
        }
    }

    #[test]
    fn however_many_queues_are_full_the_reserve_stays() {
        for nr_queues in [1, 10, 100, 1000, 10_000] {
            let (length, free) = fill(nr_queues, 16_384);
            assert!(free >= RESERVE, "{nr_queues} queues leave {free}");
            assert!(length >= 1, "{nr_queues} queues");
        }
    }

    #[test]
    fn a_quiet_vm_finds_room_beside_a_hundred_flooded_ones() {
        let (_, free) = fill(100, 16_384);
        assert!(may_queue(64, free, EQUAL), "{free} are free");
    }
}
