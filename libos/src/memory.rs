//! How much memory there is. A program that uses all of it up ends; whoever takes on work for strangers asks first.
//!
//! ```
//! let (left, size) = (libos::memory::left(), libos::memory::size());
//! assert!(left <= size);
//! assert!(libos::memory::allows(1024));
//! ```

/// What is kept of the heap for what cannot be refused: an eighth.
const RESERVE_SHARE: usize = 8;

/// Bytes of the heap. On the host, as many as there are numbers.
#[must_use]
pub fn size() -> usize {
    #[cfg(firn_guest)]
    return crate::guest::heap().size();
    #[cfg(not(firn_guest))]
    return usize::MAX;
}

/// Bytes of the heap that nobody has. They need not be in one piece.
#[must_use]
pub fn left() -> usize {
    #[cfg(firn_guest)]
    return crate::guest::heap().left();
    #[cfg(not(firn_guest))]
    return usize::MAX;
}

/// Whether so many bytes more may be taken for a stranger: an eighth of the heap is left then.
#[must_use]
pub fn allows(bytes: usize) -> bool {
    left().saturating_sub(bytes) >= size() / RESERVE_SHARE
}
