//! Pieces: how a page, or any run of bytes, is written into a pack.
//!
//! Most pages of small VMs are zeros with a few words among them. Those words are taken out first, with one bit for
//! each word of the page that says whether it is there; what is left goes through LZ4 if it is long enough to be worth
//! that. A first byte says which of the two was done.

use alloc::boxed::Box;
use alloc::vec;
use lz4_flex::block::{CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size};

/// Bytes of the largest piece: a record with a full map.
pub const MAX_PIECE_BYTES: usize = 48 * 1024;

/// Longest run from which zeros are taken out: a page.
const MAX_SPARSE_BYTES: usize = 4096;

/// Shorter runs are not compressed: setting LZ4 up takes longer than it saves.
const LEAST_COMPRESSED: usize = 512;

const WORD: usize = 8;
/// Bits in a group of the map of words.
const GROUP: usize = 64;

/// The first byte of a piece.
mod form {
    /// The bytes went through LZ4.
    pub const COMPRESSED: u8 = 1;
    /// The zeros were taken out before that.
    pub const SPARSE: u8 = 2;
}

/// Encodes and decodes, in working memory that is kept from one time to the next.
pub struct Coder {
    table: CompressTable,
    sparse: Box<[u8]>,
    piece: Box<[u8]>,
}

impl Coder {
    pub fn new() -> Self {
        Self {
            table: CompressTable::small(),
            sparse: vec![0; MAX_SPARSE_BYTES + MAX_SPARSE_BYTES / GROUP].into_boxed_slice(),
            piece: vec![0; get_maximum_output_size(MAX_PIECE_BYTES).saturating_add(1)].into_boxed_slice(),
        }
    }

    /// The piece for some bytes, at most [`MAX_PIECE_BYTES`].
    pub fn encode(&mut self, plain: &[u8]) -> Option<&[u8]> {
        let sparse = take_zeros_out(plain, &mut self.sparse);
        let (mut kind, source) = sparse.map_or((0, plain), |sparse| (form::SPARSE, sparse));
        let (first, rest) = self.piece.split_first_mut()?;
        let compressed = if source.len() >= LEAST_COMPRESSED {
            compress_into_with_table(source, rest, &mut self.table).ok().filter(|&length| length < source.len())
        } else {
            None
        };
        let length = if let Some(length) = compressed {
            kind |= form::COMPRESSED;
            length
        } else {
            rest.get_mut(..source.len())?.copy_from_slice(source);
            source.len()
        };
        *first = kind;
        self.piece.get(..length.saturating_add(1))
    }

    /// Room for a piece that is to be decoded.
    pub fn room(&mut self, length: usize) -> Option<&mut [u8]> {
        self.piece.get_mut(..length)
    }

    /// Decodes the piece of that length that lies in [`room`](Self::room). False if it is not one for so
    /// many bytes: then they are anything.
    pub fn decode(&mut self, length: usize, into: &mut [u8]) -> bool {
        let Some((&kind, packed)) = self.piece.get(..length).and_then(<[u8]>::split_first) else { return false };
        let is_compressed = kind & form::COMPRESSED != 0;
        match kind & !form::COMPRESSED {
            0 if is_compressed => decompress_into(packed, into).is_ok_and(|length| length == into.len()),
            0 if packed.len() == into.len() => {
                into.copy_from_slice(packed);
                true
            }
            form::SPARSE if is_compressed => {
                let Ok(length) = decompress_into(packed, &mut self.sparse) else { return false };
                self.sparse.get(..length).is_some_and(|sparse| put_zeros_in(sparse, into))
            }
            form::SPARSE => put_zeros_in(packed, into),
            _ => false,
        }
    }
}

/// Writes the map of a run's words and those that are not zero. `None` if that saves too little, or cannot be done.
fn take_zeros_out<'a>(plain: &[u8], sparse: &'a mut [u8]) -> Option<&'a [u8]> {
    let (words, []) = plain.as_chunks::<WORD>() else { return None };
    if plain.len() > MAX_SPARSE_BYTES {
        return None;
    }
    let map_bytes = words.len().div_ceil(GROUP).checked_mul(WORD)?;
    let most = words.len() / 4 * 3;
    let (map, kept) = sparse.split_at_mut_checked(map_bytes)?;
    let (map, _) = map.as_chunks_mut::<WORD>();
    let (kept, _) = kept.as_chunks_mut::<WORD>();
    let mut nr_kept = 0usize;
    for (group, bits) in words.chunks(GROUP).zip(map) {
        let mut found = 0u64;
        for (at, word) in group.iter().enumerate() {
            if *word != [0; WORD] {
                found |= 1 << at;
                *kept.get_mut(nr_kept)? = *word;
                nr_kept = nr_kept.saturating_add(1);
            }
        }
        if nr_kept > most {
            return None;
        }
        *bits = found.to_le_bytes();
    }
    sparse.get(..map_bytes.saturating_add(nr_kept.checked_mul(WORD)?))
}

/// Undoes [`take_zeros_out`]. False if that was not done to so many bytes.
fn put_zeros_in(sparse: &[u8], into: &mut [u8]) -> bool {
    let (words, []) = into.as_chunks_mut::<WORD>() else { return false };
    let map_bytes = words.len().div_ceil(GROUP).saturating_mul(WORD);
    let Some((map, kept)) = sparse.split_at_checked(map_bytes) else { return false };
    let (map, _) = map.as_chunks::<WORD>();
    let (kept, []) = kept.as_chunks::<WORD>() else { return false };
    let mut kept = kept.iter();
    words.as_flattened_mut().fill(0);
    for (group, bits) in words.chunks_mut(GROUP).zip(map) {
        let mut left = u64::from_le_bytes(*bits);
        while left != 0 {
            let (Some(word), Some(from)) = (group.get_mut(left.trailing_zeros() as usize), kept.next()) else {
                return false;
            };
            *word = *from;
            left &= left.wrapping_sub(1);
        }
    }
    kept.next().is_none()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    fn round(plain: &[u8]) -> usize {
        let mut coder = Coder::new();
        let piece = coder.encode(plain).unwrap().to_vec();
        let mut back = vec![0xaa; plain.len()];
        coder.room(piece.len()).unwrap().copy_from_slice(&piece);
        assert!(coder.decode(piece.len(), &mut back), "{} bytes", plain.len());
        assert!(back == plain, "{} bytes", plain.len());
        piece.len()
    }

    /// Bytes of which about one word in `every` is not zero.
    fn some(seed: u64, length: usize, every: u64) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let word = |_| if next() % every == 0 { next() } else { 0 };
        let words: Vec<u64> = (0..length.div_ceil(8)).map(word).collect();
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes[..length].to_vec()
    }

    #[test]
    fn what_is_encoded_comes_back() {
        for seed in 0..200 {
            for length in [8, 64, 512, 832, 1000, 4088, 4096, 5000] {
                round(&some(seed, length, 1 + seed % 40));
            }
        }
        round(&vec![7; MAX_PIECE_BYTES]);
        round(&[1]);
    }

    #[test]
    fn pages_of_a_few_words_become_small() {
        let mut page = vec![0; 4096];
        page[2000..2008].copy_from_slice(&[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(round(&page), 1 + 64 + 8);
        assert!(round(&some(7, 4096, 20)) < 400, "one word in twenty");
        assert!(round(&some(7, 4096, 1)) <= 4097, "what cannot be made smaller takes a byte more");
        assert!(round(&b"text of the same kind, ".repeat(179)[..4096]) < 300, "LZ4 sees what repeats");
    }

    #[test]
    fn what_is_no_piece_is_refused_and_never_leads_outside() {
        let mut coder = Coder::new();
        let mut into = vec![0; 4096];
        for seed in 0..2000u64 {
            let mut piece = coder.encode(&some(seed, 4096, 1 + seed % 30)).unwrap().to_vec();
            let at = usize::try_from(seed).unwrap() * 31 % piece.len();
            piece[at] ^= 1 << (seed % 8);
            piece.truncate(piece.len() - usize::try_from(seed % 5).unwrap());
            coder.room(piece.len()).unwrap().copy_from_slice(&piece);
            let _ = coder.decode(piece.len(), &mut into);
        }
        for kind in 0..=255u8 {
            coder.room(3).unwrap().copy_from_slice(&[kind, 0, 0]);
            assert!(!coder.decode(3, &mut into), "{kind}");
        }
        assert!(!coder.decode(0, &mut into));
        assert!(coder.room(usize::MAX).is_none());
    }
}
