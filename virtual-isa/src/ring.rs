//! The byte ring: records packed one after the other in a power-of-two number of bytes.
//!
//! Only the arithmetic lives here, so that kernel, guest, simulator and fuzzer run the same code whatever
//! their memory is. Two indices run freely modulo 2^32 and count bytes: the producer's `head`, the consumer's
//! `tail`. A record is an 8-byte header (length as little-endian `u32`, then four zero bytes) and its bytes,
//! rounded up to 8. A record never wraps: where it would, the header [`SKIP`] sends the consumer to the start.
//!
//! Producer: [`place`], write the skip mark if there is one, write header and bytes, then publish `next_head`.
//! Consumer: [`header_at`], read the length word, [`read`], use the bytes, then publish `next_tail`.

/// Bytes of a record's header. Every record starts at a multiple of this.
pub const RECORD_HEADER_BYTES: u32 = 8;

/// The length word that means "go on at the start of the ring".
pub const SKIP: u32 = u32::MAX;

/// The other side published indices that cannot be: more than the capacity apart, or not aligned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt {
    /// The producer's index.
    pub head: u32,
    /// The consumer's index.
    pub tail: u32,
}

/// Where a producer writes its next record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Offset at which to write the length word [`SKIP`] first, if the record goes to the start.
    pub skip_at: Option<u32>,
    /// Offset of the record's header.
    pub header_at: u32,
    /// Offset of the record's bytes.
    pub bytes_at: u32,
    /// The head to publish once the record is written.
    pub next_head: u32,
}

/// What a consumer finds at its tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing is published.
    Empty,
    /// A mark: go on at this tail.
    Skip {
        /// The tail to go on at.
        next_tail: u32,
    },
    /// A record.
    Record {
        /// Offset of its bytes.
        bytes_at: u32,
        /// Number of its bytes.
        length: u32,
        /// The tail to publish once it is used.
        next_tail: u32,
    },
    /// A length that what is published cannot hold. The consumer drops all that is published (`tail = head`).
    Malformed {
        /// The length word.
        length: u32,
    },
}

/// Bytes a record of `length` bytes takes in a ring, or `None` if no ring could hold it.
#[must_use]
pub const fn record_bytes(length: u32) -> Option<u32> {
    match length.checked_add(RECORD_HEADER_BYTES + 7) {
        Some(n) => Some(n & !7),
        None => None,
    }
}

/// Bytes published and not yet taken.
///
/// # Errors
/// [`Corrupt`] if the two indices cannot be: the fault of whoever wrote the untrusted one.
pub const fn published(capacity: u32, head: u32, tail: u32) -> Result<u32, Corrupt> {
    let used = head.wrapping_sub(tail);
    if used > capacity || !head.is_multiple_of(8) || !tail.is_multiple_of(8) {
        return Err(Corrupt { head, tail });
    }
    Ok(used)
}

/// Finds room for a record of `length` bytes, or `None` if the ring is too full for it now.
///
/// # Errors
/// [`Corrupt`] if the two indices cannot be.
pub const fn place(capacity: u32, head: u32, tail: u32, length: u32) -> Result<Option<Place>, Corrupt> {
    let free = match published(capacity, head, tail) {
        Ok(used) => capacity - used,
        Err(corrupt) => return Err(corrupt),
    };
    let Some(bytes) = record_bytes(length) else { return Ok(None) };
    let offset = head & (capacity - 1);
    let to_end = capacity - offset;
    if bytes <= to_end {
        if bytes > free {
            return Ok(None);
        }
        return Ok(Some(Place {
            skip_at: None,
            header_at: offset,
            bytes_at: offset + RECORD_HEADER_BYTES,
            next_head: head.wrapping_add(bytes),
        }));
    }
    if bytes > capacity || to_end > free || bytes > free - to_end {
        return Ok(None);
    }
    Ok(Some(Place {
        skip_at: Some(offset),
        header_at: 0,
        bytes_at: RECORD_HEADER_BYTES,
        next_head: head.wrapping_add(to_end).wrapping_add(bytes),
    }))
}

/// Offset of the header at `tail`.
#[must_use]
pub const fn header_at(capacity: u32, tail: u32) -> u32 {
    tail & (capacity - 1)
}

/// Says what stands at `tail`, given the length word found at [`header_at`]. The word may be anything.
///
/// # Errors
/// [`Corrupt`] if the two indices cannot be.
pub const fn read(capacity: u32, head: u32, tail: u32, length: u32) -> Result<Found, Corrupt> {
    let used = match published(capacity, head, tail) {
        Ok(0) => return Ok(Found::Empty),
        Ok(used) => used,
        Err(corrupt) => return Err(corrupt),
    };
    let offset = header_at(capacity, tail);
    let to_end = capacity - offset;
    if length == SKIP {
        return Ok(if to_end > used {
            Found::Malformed { length }
        } else {
            Found::Skip { next_tail: tail.wrapping_add(to_end) }
        });
    }
    match record_bytes(length) {
        Some(bytes) if bytes <= used && bytes <= to_end => {
            Ok(Found::Record { bytes_at: offset + RECORD_HEADER_BYTES, length, next_tail: tail.wrapping_add(bytes) })
        }
        _ => Ok(Found::Malformed { length }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::vec::Vec;

    const CAPACITY: u32 = 256;

    struct Ring {
        memory: [u8; CAPACITY as usize],
        head: u32,
        tail: u32,
    }

    impl Ring {
        fn word(&self, at: u32) -> u32 {
            u32::from_le_bytes(self.memory[at as usize..][..4].try_into().unwrap())
        }

        fn push(&mut self, record: &[u8]) -> bool {
            let length = u32::try_from(record.len()).unwrap();
            let Some(place) = place(CAPACITY, self.head, self.tail, length).unwrap() else { return false };
            if let Some(at) = place.skip_at {
                self.memory[at as usize..][..4].copy_from_slice(&SKIP.to_le_bytes());
            }
            self.memory[place.header_at as usize..][..4].copy_from_slice(&length.to_le_bytes());
            self.memory[place.bytes_at as usize..][..record.len()].copy_from_slice(record);
            self.head = place.next_head;
            true
        }

        fn pop(&mut self) -> Option<Vec<u8>> {
            loop {
                let word = self.word(header_at(CAPACITY, self.tail));
                match read(CAPACITY, self.head, self.tail, word).unwrap() {
                    Found::Empty => return None,
                    Found::Skip { next_tail } => self.tail = next_tail,
                    Found::Record { bytes_at, length, next_tail } => {
                        let record = self.memory[bytes_at as usize..][..length as usize].to_vec();
                        self.tail = next_tail;
                        return Some(record);
                    }
                    Found::Malformed { length } => panic!("own record of {length} bytes is malformed"),
                }
            }
        }
    }

    proptest! {
        #[test]
        fn records_come_out_as_they_went_in(
            start in any::<u32>(),
            steps in proptest::collection::vec((any::<bool>(), 0..120usize), 1..200),
        ) {
            let start = start & !7;
            let mut ring = Ring { memory: [0; CAPACITY as usize], head: start, tail: start };
            let mut model = VecDeque::new();
            for (n, (push, length)) in steps.into_iter().enumerate() {
                if push {
                    let record: Vec<u8> = (0..length).map(|i| (i * 7 + n).to_le_bytes()[0]).collect();
                    if ring.push(&record) {
                        model.push_back(record);
                    } else {
                        prop_assert!(!model.is_empty(), "an empty ring holds any record up to half its size");
                    }
                } else {
                    prop_assert_eq!(ring.pop(), model.pop_front());
                }
            }
        }

        #[test]
        fn untrusted_words_never_lead_outside(head: u32, tail: u32, length: u32) {
            match read(CAPACITY, head, tail, length) {
                Ok(Found::Record { bytes_at, length, next_tail }) => {
                    prop_assert!(bytes_at + length <= CAPACITY);
                    prop_assert!(head.wrapping_sub(next_tail) <= CAPACITY);
                }
                Ok(Found::Skip { next_tail }) => prop_assert!(head.wrapping_sub(next_tail) <= CAPACITY),
                _ => {}
            }
            if let Ok(Some(place)) = place(CAPACITY, head, tail, length) {
                prop_assert!(place.bytes_at + length <= CAPACITY);
                prop_assert!(place.next_head.wrapping_sub(tail) <= CAPACITY);
            }
        }
    }

    #[test]
    fn lengths_that_cannot_be_are_malformed() {
        assert_eq!(read(CAPACITY, 16, 0, 9), Ok(Found::Malformed { length: 9 }));
        assert_eq!(read(CAPACITY, 16, 0, 65_535), Ok(Found::Malformed { length: 65_535 }));
        assert_eq!(read(CAPACITY, 16, 0, SKIP), Ok(Found::Malformed { length: SKIP }));
        assert_eq!(read(CAPACITY, 300, 0, 1), Err(Corrupt { head: 300, tail: 0 }));
        assert_eq!(read(CAPACITY, 12, 0, 1), Err(Corrupt { head: 12, tail: 0 }));
        assert_eq!(place(CAPACITY, 0, 0, 300), Ok(None));
    }
}
