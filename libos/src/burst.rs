//! What a burst has made large goes when it is over: the one rule for queues and tables that grow with the load.
//!
//! Where it lies does not matter: the heap gives back whole pages wherever they are free.

use alloc::collections::VecDeque;

/// Entries that there is always room for, so that a light load does not allocate again and again.
const KEPT: usize = 8;

/// Whether something is to be made anew, that has nothing in it and room for so many.
pub(crate) const fn is_over(is_empty: bool, capacity: usize) -> bool {
    is_empty && capacity > KEPT
}

/// Gives back what a queue has grown by, if it is empty.
pub(crate) fn trim<T>(queue: &mut VecDeque<T>) {
    if is_over(queue.is_empty(), queue.capacity()) {
        *queue = VecDeque::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_queue_shrinks_and_one_in_use_does_not() {
        let mut queue: VecDeque<u64> = (0..100).collect();
        trim(&mut queue);
        assert!(queue.capacity() >= 100 && queue.len() == 100);
        queue.clear();
        trim(&mut queue);
        assert_eq!(queue.capacity(), 0);
        queue.push_back(1);
        let room = queue.capacity();
        queue.clear();
        trim(&mut queue);
        assert_eq!(queue.capacity(), room, "it is used again");
    }
}
