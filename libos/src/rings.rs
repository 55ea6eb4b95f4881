//! A guest's ends of the byte rings, over whatever memory they are in: the VM's own, or a test's.
//!
//! The arithmetic is [`virtual_isa::ring`]'s. Records are written and read in place.

use core::sync::atomic::{AtomicU32, Ordering};
use virtual_isa::ring::{self, Found};

/// The control page, as the words it is made of.
pub(crate) type Control = [AtomicU32; virtual_isa::PAGE_SIZE / 4];

/// One index of a ring.
pub(crate) fn index(control: &Control, at: usize) -> &AtomicU32 {
    &control[at / 4]
}

fn capacity(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(0)
}

/// The end of a ring that a guest writes to.
pub(crate) struct Producer<'a> {
    pub control: &'a Control,
    /// Offsets of the two indices in the control page.
    pub head_at: usize,
    pub tail_at: usize,
    /// The ring's memory.
    pub bytes: &'a mut [u8],
}

impl<'a> Producer<'a> {
    fn place(&self, length: usize) -> Option<ring::Place> {
        let head = index(self.control, self.head_at).load(Ordering::Relaxed);
        let tail = index(self.control, self.tail_at).load(Ordering::Acquire);
        // The kernel's index is never wrong; if it were, nothing could be written.
        ring::place(capacity(self.bytes), head, tail, u32::try_from(length).ok()?).ok().flatten()
    }

    /// Whether a record of `length` bytes fits now.
    pub fn has_room(&self, length: usize) -> bool {
        let head = index(self.control, self.head_at).load(Ordering::Relaxed);
        let tail = index(self.control, self.tail_at).load(Ordering::Acquire);
        let free = self.bytes.len().saturating_sub(head.wrapping_sub(tail) as usize);
        // Twice its size is enough wherever it comes to lie, and nearly always there.
        free >= 2 * (length + 2 * ring::RECORD_HEADER_BYTES as usize) || self.place(length).is_some()
    }

    /// Writes a record of `length` bytes and publishes it, or returns `write` unused if it does not fit now.
    pub fn write<R, F: FnOnce(&mut [u8]) -> R>(&mut self, length: usize, write: F) -> Result<R, F> {
        let Some(place) = self.place(length) else { return Err(write) };
        let Ok(word) = u32::try_from(length) else { return Err(write) };
        if let Some(at) = place.skip_at {
            self.bytes[at as usize..][..4].copy_from_slice(&ring::SKIP.to_le_bytes());
        }
        self.bytes[place.header_at as usize..][..8].copy_from_slice(&u64::from(word).to_le_bytes());
        let result = write(&mut self.bytes[place.bytes_at as usize..][..length]);
        index(self.control, self.head_at).store(place.next_head, Ordering::Release);
        Ok(result)
    }
}

/// The end of a ring that a guest reads from.
pub(crate) struct Consumer<'a> {
    pub control: &'a Control,
    /// Offsets of the two indices in the control page.
    pub head_at: usize,
    pub tail_at: usize,
    /// The ring's memory.
    pub bytes: &'a [u8],
}

impl<'a> Consumer<'a> {
    /// The next record and the tail after it, or `None` if there is none. The record stays until [`Self::take`].
    pub fn peek(&self) -> Option<(&'a [u8], u32)> {
        let capacity = capacity(self.bytes);
        loop {
            let head = index(self.control, self.head_at).load(Ordering::Acquire);
            let tail = index(self.control, self.tail_at).load(Ordering::Relaxed);
            ring::published(capacity, head, tail).ok()?;
            let at = ring::header_at(capacity, tail) as usize;
            let word = u32::from_le_bytes([self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]]);
            match ring::read(capacity, head, tail, word).ok()? {
                Found::Empty => return None,
                Found::Skip { next_tail } => self.take(next_tail),
                Found::Record { bytes_at, length, next_tail } => {
                    return Some((&self.bytes[bytes_at as usize..][..length as usize], next_tail));
                }
                Found::Malformed { .. } => self.take(head),
            }
        }
    }

    /// Gives back everything up to `next_tail`.
    pub fn take(&self, next_tail: u32) {
        index(self.control, self.tail_at).store(next_tail, Ordering::Release);
    }
}

/// Rings in a test's memory, with the kernel's part played by the test.
#[cfg(test)]
pub(crate) mod fake {
    use super::*;
    use alloc::boxed::Box;
    use alloc::vec::Vec;
    use virtual_isa::control::*;
    use virtual_isa::layout;

    pub fn control() -> Box<Control> {
        Box::new([const { AtomicU32::new(0) }; virtual_isa::PAGE_SIZE / 4])
    }

    /// The memory of a pair of rings and the control page.
    pub struct Memory {
        pub control: Box<Control>,
        pub out: Vec<u8>,
        pub inward: Vec<u8>,
        pub out_at: (usize, usize),
        pub inward_at: (usize, usize),
    }

    impl Memory {
        pub fn ethernet() -> Self {
            Self {
                control: control(),
                out: alloc::vec![0; layout::TRANSMIT_RING_BYTES as usize],
                inward: alloc::vec![0; layout::RECEIVE_RING_BYTES as usize],
                out_at: (TRANSMIT_HEAD, TRANSMIT_TAIL),
                inward_at: (RECEIVE_HEAD, RECEIVE_TAIL),
            }
        }

        pub fn gate() -> Self {
            Self {
                control: control(),
                out: alloc::vec![0; layout::REQUEST_RING_BYTES as usize],
                inward: alloc::vec![0; layout::COMPLETION_RING_BYTES as usize],
                out_at: (REQUEST_HEAD, REQUEST_TAIL),
                inward_at: (COMPLETION_HEAD, COMPLETION_TAIL),
            }
        }

        /// What the guest has written and nobody has taken: takes it, as the kernel does.
        pub fn kernel_take(&mut self) -> Option<Vec<u8>> {
            let end =
                Consumer { control: &self.control, head_at: self.out_at.0, tail_at: self.out_at.1, bytes: &self.out };
            let (record, next_tail) = end.peek().map(|(record, next)| (record.to_vec(), next))?;
            end.take(next_tail);
            Some(record)
        }

        /// Puts a record into the guest's inward ring, as the kernel does. False if it is full.
        pub fn kernel_put(&mut self, record: &[u8]) -> bool {
            let (head_at, tail_at) = self.inward_at;
            let mut end = Producer { control: &self.control, head_at, tail_at, bytes: &mut self.inward };
            end.write(record.len(), |bytes| bytes.copy_from_slice(record)).is_ok()
        }

        pub fn producer(&mut self) -> Producer<'_> {
            let (head_at, tail_at) = self.out_at;
            Producer { control: &self.control, head_at, tail_at, bytes: &mut self.out }
        }

        pub fn consumer(&self) -> Consumer<'_> {
            let (head_at, tail_at) = self.inward_at;
            Consumer { control: &self.control, head_at, tail_at, bytes: &self.inward }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::fake::Memory;
    use alloc::collections::VecDeque;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_pass_through_real_ring_bytes(steps in proptest::collection::vec((any::<bool>(), 0usize..1514), 1..100)) {
            let mut memory = Memory::ethernet();
            let mut model = VecDeque::new();
            for (n, (put, length)) in steps.into_iter().enumerate() {
                if put {
                    let record: Vec<u8> = (0..length).map(|i| (i + n).to_le_bytes()[0]).collect();
                    if memory.producer().write(length, |bytes| bytes.copy_from_slice(&record)).is_ok() {
                        model.push_back(record);
                    } else {
                        prop_assert!(!memory.producer().has_room(length));
                        prop_assert!(!model.is_empty());
                    }
                } else {
                    prop_assert_eq!(memory.kernel_take(), model.pop_front());
                }
            }
        }
    }

    #[test]
    fn what_the_kernel_puts_is_read_in_place_and_given_back() {
        let mut memory = Memory::ethernet();
        let mut puts = 0;
        while memory.kernel_put(&[7; 1000]) {
            puts += 1;
        }
        assert_eq!(puts, 8);
        for _ in 0..100 {
            let (record, next) = memory.consumer().peek().unwrap();
            assert_eq!(record, [7; 1000]);
            memory.consumer().take(next);
            assert!(memory.kernel_put(&[7; 1000]));
        }
    }

    #[test]
    fn a_malformed_record_drops_what_is_published_and_nothing_else() {
        let mut memory = Memory::ethernet();
        assert!(memory.kernel_put(&[1; 100]));
        memory.inward[0..4].copy_from_slice(&5000u32.to_le_bytes());
        assert!(memory.consumer().peek().is_none());
        assert!(memory.kernel_put(&[2; 100]));
        assert_eq!(memory.consumer().peek().unwrap().0, [2; 100]);
    }
}
