//! Maps by numbers: pages, tickets. The hash depends on a key of the kernel's own random numbers where guests choose the
//! numbers, and on nothing else: so a run of the simulator is the same each time, as what is done with all that is in a
//! map is done in the same order.

use core::hash::{BuildHasher, Hasher};

/// A map by a number.
pub type Map<K, V> = hashbrown::HashMap<K, V, Key>;

/// What a map's hash depends on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Key(pub u64);

impl BuildHasher for Key {
    type Hasher = Mix;

    fn build_hasher(&self) -> Mix {
        Mix(self.0)
    }
}

/// Mixes the bits of numbers (the finalizer of D. Stafford's variant 13 of MurmurHash3).
#[derive(Clone, Copy, Debug, Default)]
pub struct Mix(u64);

impl Mix {
    const fn take(&mut self, number: u64) {
        let mut x = self.0.wrapping_add(number).wrapping_add(0xd1b5_4a32_d192_ed03);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        self.0 = x ^ (x >> 31);
    }
}

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.take(u64::from(byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.take(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        self.take(number);
    }
}
