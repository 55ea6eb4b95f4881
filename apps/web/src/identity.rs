//! What tells this VM from all others, and proves that its memory is its own: a page of random bytes.
//!
//! The page is filled before the first `/id` is answered, in a VM long after `ready()`, so that no two clones have
//! the same. It never changes again; its checksum is computed over all of it at each request, so that a byte that was
//! lost on the way to the disk and back shows.

use core::hint::spin_loop;
use core::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use libos::virtual_isa::PAGE_SIZE;
use libos::virtual_isa::image::Checksum;

/// Words of the page.
const WORDS: usize = PAGE_SIZE / 8;

/// Bytes that are drawn at a time: the stack is not to grow by a page for this.
const PIECE: usize = 64;

/// Nobody has asked yet.
const EMPTY: u8 = 0;
/// Somebody fills it.
const FILLING: u8 = 1;
/// It is as it stays.
const FILLED: u8 = 2;

/// One page of memory, aligned to one, so that it is one private page of the VM and nothing else is on it.
#[repr(C, align(4096))]
struct Page([AtomicU64; WORDS]);

const _: () = assert!(size_of::<Page>() == PAGE_SIZE && align_of::<Page>() == PAGE_SIZE);

/// In a section of its own: see the libOS's link script.
#[cfg_attr(firn_guest, unsafe(link_section = ".pages"))]
static PAGE: Page = Page([const { AtomicU64::new(0) }; WORDS]);
static STATE: AtomicU8 = AtomicU8::new(EMPTY);

/// What `/id` says besides the VM's number and generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The page's first bytes.
    pub random: [u8; 16],
    /// CRC-32 of the whole page, as it is now.
    pub page: u32,
}

/// The page's first bytes and its checksum. The first call fills the page.
#[must_use]
pub fn identity() -> Identity {
    match STATE.compare_exchange(EMPTY, FILLING, Ordering::Acquire, Ordering::Acquire) {
        Ok(_) => {
            fill(&PAGE);
            STATE.store(FILLED, Ordering::Release);
        }
        // On the host another thread may be at it.
        Err(_) => {
            while STATE.load(Ordering::Acquire) != FILLED {
                spin_loop();
            }
        }
    }
    read(&PAGE)
}

fn fill(page: &Page) {
    for words in page.0.chunks(PIECE / 8) {
        let bytes: [u8; PIECE] = libos::rand::bytes();
        for (word, piece) in words.iter().zip(bytes.as_chunks().0) {
            word.store(u64::from_le_bytes(*piece), Ordering::Relaxed);
        }
    }
}

fn read(page: &Page) -> Identity {
    let mut sum = Checksum::new();
    let mut random = [0; 16];
    for (n, word) in page.0.iter().enumerate() {
        let bytes = word.load(Ordering::Relaxed).to_le_bytes();
        sum.update(&bytes);
        if let Some(place) = random.get_mut(n * 8..n * 8 + 8) {
            place.copy_from_slice(&bytes);
        }
    }
    Identity { random, page: sum.finish() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(word: impl Fn(u64) -> u64) -> Page {
        let words: Vec<AtomicU64> = (0..WORDS as u64).map(|n| AtomicU64::new(word(n))).collect();
        Page(words.try_into().unwrap())
    }

    #[test]
    fn the_checksum_is_of_every_byte() {
        let zeros = page(|_| 0);
        assert_eq!(read(&zeros).page, libos::virtual_isa::image::checksum(&[0; PAGE_SIZE]));
        let counted = page(|n| n + 1);
        let identity = read(&counted);
        assert_eq!(identity.random[..9], [1, 0, 0, 0, 0, 0, 0, 0, 2]);
        for at in [0, 1, 17, WORDS - 1] {
            let word = &counted.0[at];
            word.fetch_xor(1 << 40, Ordering::Relaxed);
            assert_ne!(read(&counted).page, identity.page, "word {at}");
            word.fetch_xor(1 << 40, Ordering::Relaxed);
        }
        assert_eq!(read(&counted), identity);
    }

    #[test]
    fn a_page_is_filled_to_its_end_and_each_differently() {
        let (one, other) = (page(|_| 0), page(|_| 0));
        fill(&one);
        fill(&other);
        assert!(one.0.iter().all(|word| word.load(Ordering::Relaxed) != 0));
        assert_ne!(read(&one).random, read(&other).random);
        assert_ne!(read(&one).page, read(&other).page);
    }

    #[test]
    fn the_programs_own_page_stays_as_it_is_whoever_asks() {
        let first = identity();
        let others: Vec<_> = (0..4).map(|_| std::thread::spawn(identity)).collect();
        assert!(others.into_iter().all(|other| other.join().unwrap() == first));
        assert_ne!(first.random, [0; 16]);
    }
}
