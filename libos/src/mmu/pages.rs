//! Pages of the VM's memory that address spaces map, and the pool they come from and go back to.

use super::hardware;
use alloc::alloc::{alloc, dealloc};
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::alloc::Layout;
use core::cell::RefCell;
use core::fmt;
use core::ptr::NonNull;
use virtual_isa::PAGE_SIZE;

/// Pages that are taken from the heap together. With the allocator's own words beside them a block takes 32.
const BLOCK_PAGES: usize = 31;

/// Mask of a block whose pages are all free.
const ALL_FREE: u32 = (1 << BLOCK_PAGES) - 1;

const fn layout() -> Layout {
    match Layout::from_size_align(BLOCK_PAGES * PAGE_SIZE, PAGE_SIZE) {
        Ok(layout) => layout,
        Err(_) => panic!("a block is no layout"),
    }
}

/// Pages that lie together.
struct Block {
    first: NonNull<u8>,
    /// Bit n is set if page n is free.
    free: u32,
}

struct Inner {
    blocks: Vec<Block>,
    /// The block in which a page was free last.
    hint: usize,
    used: usize,
    limit: usize,
}

/// A bounded number of pages of this VM's memory. Clones of it are the same pool.
///
/// Pages come from the heap, in blocks, when they are needed, and go back to it when all of a block are free.
///
/// ```
/// use libos::mmu::Pool;
///
/// let pool = Pool::new(2);
/// let one = pool.try_page().unwrap();
/// let two = pool.try_page().unwrap();
/// assert!(pool.try_page().is_none());
/// drop(one);
/// assert_eq!((pool.used(), pool.limit()), (1, 2));
/// # drop(two);
/// ```
#[derive(Clone)]
pub struct Pool(Rc<RefCell<Inner>>);

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("used", &self.used()).field("limit", &self.limit()).finish()
    }
}

impl Pool {
    /// A pool of at most so many pages.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self(Rc::new(RefCell::new(Inner { blocks: Vec::new(), hint: 0, used: 0, limit })))
    }

    /// A page of zeros; `None` if all are in use, or the heap has none.
    #[must_use]
    pub fn try_page(&self) -> Option<Page> {
        let at = self.0.borrow_mut().take()?;
        // SAFETY: the page was free, and is now this caller's alone.
        unsafe { at.as_ptr().write_bytes(0, PAGE_SIZE) };
        Some(Page { at, pool: self.clone() })
    }

    /// Pages in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.borrow().used
    }

    /// Pages there can be.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.0.borrow().limit
    }
}

impl Inner {
    fn take(&mut self) -> Option<NonNull<u8>> {
        if self.used >= self.limit {
            return None;
        }
        let has_free = |blocks: &[Block], n: usize| blocks.get(n).is_some_and(|block| block.free != 0);
        if !has_free(&self.blocks, self.hint) {
            self.hint = match self.blocks.iter().position(|block| block.free != 0) {
                Some(n) => n,
                None => self.grow()?,
            };
        }
        let block = self.blocks.get_mut(self.hint)?;
        let n = block.free.trailing_zeros();
        block.free &= !(1 << n);
        self.used += 1;
        // SAFETY: a block has a page for each bit of the mask, and the bit was set.
        Some(unsafe { block.first.add(n as usize * PAGE_SIZE) })
    }

    /// Takes another block from the heap.
    fn grow(&mut self) -> Option<usize> {
        self.blocks.try_reserve(1).ok()?;
        // SAFETY: the layout has a size.
        let first = NonNull::new(unsafe { alloc(layout()) })?;
        self.blocks.push(Block { first, free: ALL_FREE });
        Some(self.blocks.len() - 1)
    }

    fn give_back(&mut self, page: NonNull<u8>) {
        let offset = |block: &Block| page.addr().get().wrapping_sub(block.first.addr().get()) / PAGE_SIZE;
        let found = self.blocks.iter().position(|block| offset(block) < BLOCK_PAGES);
        let Some(n) = found else { return };
        let Some(block) = self.blocks.get_mut(n) else { return };
        block.free |= 1 << offset(block);
        self.used -= 1;
        self.hint = n;
        if block.free == ALL_FREE {
            let block = self.blocks.swap_remove(n);
            // SAFETY: the block came from the heap with this layout, and none of its pages is in use.
            unsafe { dealloc(block.first.as_ptr(), layout()) };
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Pages hold their pool: there are none left, and each block went with its last page.
        debug_assert!(self.blocks.is_empty());
    }
}

/// A page of this VM's memory, which is nobody else's. Dropped, it is its pool's again.
///
/// ```
/// use libos::mmu::{Page, Pool};
///
/// let mut page: Page = Pool::new(1).try_page().unwrap();
/// assert!(page.bytes().iter().all(|&byte| byte == 0));
/// ```
pub struct Page {
    at: NonNull<u8>,
    pool: Pool,
}

impl fmt::Debug for Page {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Page").field(&self.at).finish()
    }
}

impl Page {
    /// Its bytes. Contexts do not run while the reference lives, since it borrows the page's owner.
    pub fn bytes(&mut self) -> &mut [u8; PAGE_SIZE] {
        // SAFETY: the page is valid for as long as this value, which is borrowed for as long as the reference lives.
        unsafe { self.at.cast().as_mut() }
    }

    /// Where it is.
    pub(super) fn at(&self) -> NonNull<u8> {
        self.at
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        hardware::forget(self.at);
        self.pool.0.borrow_mut().give_back(self.at);
    }
}

/// Memory that several address spaces can map: see [`Backing::Shared`](super::Backing::Shared).
///
/// ```
/// use libos::mmu::{AddressSpace, Backing, Mmu, Pool, Rights, SharedMemory};
///
/// let (mmu, pool) = (Mmu::new().unwrap(), Pool::new(8));
/// let memory = SharedMemory::try_new(&pool, 2).unwrap();
/// assert_eq!((memory.nr_pages(), pool.used()), (2, 2));
/// let mut space = || {
///     let mut space = AddressSpace::new(&mmu, &pool, 8);
///     space.map(5..7, Rights::READ | Rights::WRITE | Rights::USER, Backing::Shared(memory.clone())).unwrap();
///     space
/// };
/// let (mut one, mut other) = (space(), space());
/// one.write(0x5000, b"seen").unwrap();
/// let mut seen = [0; 4];
/// other.read(0x5000, &mut seen).unwrap();
/// assert_eq!(&seen, b"seen");
/// ```
#[derive(Debug)]
pub struct SharedMemory {
    pages: Vec<Page>,
}

impl SharedMemory {
    /// So many pages of zeros, all of them there from the start; `None` if the pool has not that many.
    #[must_use]
    pub fn try_new(pool: &Pool, nr_pages: usize) -> Option<Rc<Self>> {
        let mut pages = Vec::new();
        pages.try_reserve_exact(nr_pages).ok()?;
        for _ in 0..nr_pages {
            pages.push(pool.try_page()?);
        }
        Some(Rc::new(Self { pages }))
    }

    /// How many pages it has.
    #[must_use]
    pub fn nr_pages(&self) -> usize {
        self.pages.len()
    }

    /// Where one of its pages is.
    pub(super) fn at(&self, n: u64) -> Option<NonNull<u8>> {
        self.pages.get(usize::try_from(n).ok()?).map(Page::at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_page_is_zero_again_when_it_is_given_out_again() {
        let pool = Pool::new(1);
        for _ in 0..3 {
            let mut page = pool.try_page().unwrap();
            assert!(page.bytes().iter().all(|&byte| byte == 0));
            assert!(pool.try_page().is_none(), "there is only one");
            page.bytes().fill(0xa5);
        }
        assert_eq!(pool.used(), 0);
    }

    #[test]
    fn shared_memory_is_all_or_nothing() {
        let pool = Pool::new(40);
        let shared = SharedMemory::try_new(&pool, 33).unwrap();
        assert_eq!((shared.nr_pages(), pool.used()), (33, 33));
        assert!(SharedMemory::try_new(&pool, 8).is_none());
        assert_eq!(pool.used(), 33, "what was taken went back");
        assert!(shared.at(32).is_some() && shared.at(33).is_none());
        drop(shared);
        assert_eq!(pool.used(), 0);
    }

    proptest! {
        /// `true` takes a page, `false` drops one.
        #[test]
        fn no_page_is_given_out_twice(steps in proptest::collection::vec((any::<bool>(), any::<u8>()), 1..400)) {
            let pool = Pool::new(100);
            let mut held: Vec<(Page, u8)> = Vec::new();
            for (takes, mark) in steps {
                if takes {
                    match pool.try_page() {
                        Some(mut page) => {
                            prop_assert!(held.iter().all(|(other, _)| other.at() != page.at()));
                            prop_assert!(page.at().addr().get().is_multiple_of(PAGE_SIZE));
                            page.bytes().fill(mark);
                            held.push((page, mark));
                        }
                        None => prop_assert_eq!(held.len(), 100),
                    }
                } else if !held.is_empty() {
                    let (mut page, mark) = held.swap_remove(usize::from(mark) % held.len());
                    prop_assert!(page.bytes().iter().all(|&byte| byte == mark));
                }
                prop_assert_eq!(pool.used(), held.len());
            }
        }
    }
}
