//! A ring of bytes that were typed and not yet read. Pure.

/// Holds up to `N` bytes, `N` a power of two.
#[derive(Debug)]
pub struct ByteRing<const N: usize> {
    bytes: [u8; N],
    head: usize,
    tail: usize,
}

impl<const N: usize> ByteRing<N> {
    const IS_POWER: () = assert!(N.is_power_of_two());

    /// An empty ring.
    #[must_use]
    pub const fn new() -> Self {
        let () = Self::IS_POWER;
        Self { bytes: [0; N], head: 0, tail: 0 }
    }

    /// Whether there is no byte.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.head == self.tail
    }

    /// Whether there is no room.
    #[must_use]
    pub const fn is_full(&self) -> bool {
        self.head.wrapping_sub(self.tail) == N
    }

    /// Adds a byte; false if there is no room.
    pub fn push(&mut self, byte: u8) -> bool {
        if self.is_full() {
            return false;
        }
        self.bytes[self.head % N] = byte;
        self.head = self.head.wrapping_add(1);
        true
    }

    /// Takes the oldest byte.
    pub fn pop(&mut self) -> Option<u8> {
        if self.is_empty() {
            return None;
        }
        let byte = self.bytes[self.tail % N];
        self.tail = self.tail.wrapping_add(1);
        Some(byte)
    }
}

impl<const N: usize> Default for ByteRing<N> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_in_order_and_none_is_overwritten() {
        let mut ring = ByteRing::<8>::new();
        for round in 0..5u8 {
            for n in 0..8 {
                assert!(ring.push(round * 8 + n));
            }
            assert!(ring.is_full() && !ring.push(99));
            for n in 0..8 {
                assert_eq!(ring.pop(), Some(round * 8 + n));
            }
            assert!(ring.is_empty());
            assert_eq!(ring.pop(), None);
        }
    }
}
