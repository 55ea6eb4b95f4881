//! Shares of the frame buffers: how many may wait for one VM.
//!
//! All queues draw on one pool. Each may grow to a fraction of what is still free (the dynamic thresholds of
//! Choudhury and Hahne, "Dynamic queue length thresholds for shared-memory packet switches", 1998): few busy queues
//! may be long, many must be short, and what is left over keeps the card and the senders going.

/// Buffers that no queue gets: the card must be able to receive, and VMs to send.
pub const RESERVE: usize = 512;

/// A queue may hold one in so many of the free buffers.
const FRACTION: usize = 8;

/// Whether one more frame may wait for a VM for which `queued` wait, when `free` buffers are free.
#[must_use]
pub const fn may_queue(queued: usize, free: usize) -> bool {
    queued < free.saturating_sub(RESERVE).div_ceil(FRACTION)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills that many queues as far as they go, and returns the length of one and the buffers left.
    fn fill(nr_queues: usize, pool: usize) -> (usize, usize) {
        let mut queues = std::vec![0usize; nr_queues];
        let mut free = pool;
        loop {
            let before = free;
            for queue in &mut queues {
                if may_queue(*queue, free) {
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
        assert!(may_queue(64, free), "{free} are free");
    }
}
