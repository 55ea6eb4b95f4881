//! Machine pages and address spaces.

/// Number of a machine page: real memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mpn(pub u32);

/// Number of a physical page as a guest sees it; also the number of the virtual page at the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ppn(pub u32);

/// Ownership of one machine page. Whoever holds it decides what the page holds and who may map it; it is given
/// back with [`Pages::release`], and cannot be copied. Dropping it instead loses the page until the next boot.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a page that is dropped is lost: release it"]
pub struct Page(Mpn);

impl Page {
    /// Makes the token for a page. Only an implementation of [`Pages`] has reason to: once for each page.
    pub const fn new(mpn: Mpn) -> Self {
        Self(mpn)
    }

    /// The page's number.
    #[must_use]
    pub const fn mpn(&self) -> Mpn {
        self.0
    }
}

/// The machine has no page left for this.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMemory;

/// What a mapping allows. Writable and executable at once cannot be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Loads.
    Read,
    /// Loads and stores.
    ReadWrite,
    /// Loads and instruction fetches.
    ReadExecute,
}

/// Machine pages and their bytes. Offsets and lengths stay within one page: a call that would leave it is a
/// defect of the kernel and panics.
pub trait Pages {
    /// Takes a page, all zero.
    fn allocate(&mut self) -> Option<Page>;

    /// Gives a page back. It must not be mapped anywhere any more.
    fn release(&mut self, page: Page);

    /// Pages that can be allocated.
    fn free_pages(&self) -> u64;

    /// Pages there are, free or not.
    fn total_pages(&self) -> u64;

    /// Bytes in use on the kernel's own heap.
    fn heap_bytes(&self) -> u64;

    /// Pages that the kernel's heap has taken from memory, those that it is going to grow by included.
    fn heap_pages(&self) -> u64 {
        self.heap_bytes().div_ceil(crate::PAGE_SIZE as u64)
    }

    /// Pages that nobody has and only the kernel's heap can take: they are not among the free ones.
    fn kept_pages(&self) -> u64 {
        0
    }

    /// Bytes that the kernel's heap can grow by; more than there is memory if it has no bound.
    fn heap_room(&self) -> u64 {
        u64::MAX
    }

    /// Lets the kernel's heap grow by a page, for good.
    fn give_to_heap(&mut self, page: Page) {
        self.release(page);
    }

    /// Copies bytes out of a page.
    fn read(&self, page: Mpn, offset: usize, into: &mut [u8]);

    /// Copies bytes into a page.
    fn write(&mut self, page: Mpn, offset: usize, from: &[u8]);

    /// Copies a whole page.
    fn copy(&mut self, from: Mpn, to: Mpn);

    /// Loads an aligned word that a guest may be writing (acquire).
    fn load(&self, page: Mpn, offset: usize) -> u32;

    /// Stores an aligned word that a guest may be reading (release).
    fn store(&mut self, page: Mpn, offset: usize, value: u32);

    /// Sets bits of an aligned word that a guest may be swapping, and returns what it held (atomic).
    fn set_bits(&mut self, page: Mpn, offset: usize, bits: u32) -> u32;
}

/// Pages whose mappings are in one table of the lowest level.
pub const LEAF_PAGES: u32 = 512;

/// A table of the lowest level that spaces share.
#[derive(Debug)]
pub struct Leaf {
    /// The first page that it is for: a multiple of [`LEAF_PAGES`].
    pub first: Ppn,
    /// The page that it takes.
    pub table: Page,
}

/// Cached page tables. A space is a cache: it may be destroyed at any time, and be built again by faults.
/// The kernel's own mappings are part of every space and invisible here.
pub trait Spaces {
    /// The tables of one address space on this core.
    type Space;

    /// Makes an empty one.
    ///
    /// # Errors
    /// If there is no page for its tables.
    fn create_space(&mut self) -> Result<Self::Space, NoMemory>;

    /// Makes an empty one for the same VM: a page that one of both can write may be in the other too.
    ///
    /// # Errors
    /// If there is no page for its tables.
    fn create_space_beside(&mut self, _other: &Self::Space) -> Result<Self::Space, NoMemory> {
        self.create_space()
    }

    /// Makes an empty table for the mappings of a page and its neighbours, to be shared by spaces.
    ///
    /// # Errors
    /// If there is no page for it.
    fn create_leaf(&mut self, at: Ppn) -> Result<Leaf, NoMemory>;

    /// Maps a page in a table that no space shares yet. It must be one of those that the table is for.
    fn fill_leaf(&mut self, leaf: &mut Leaf, at: Ppn, to: Mpn, rights: Rights);

    /// Lets a space have all mappings of a table. False, and nothing has changed, if it has a table there already.
    /// A mapping that is changed later is changed for this space alone.
    ///
    /// # Errors
    /// If there is no page for the tables above; then nothing has changed.
    fn share_leaf(&mut self, space: &mut Self::Space, leaf: &Leaf) -> Result<bool, NoMemory>;

    /// Maps a guest page, replacing what was mapped there, and makes it true at once if the space is in use.
    ///
    /// # Errors
    /// If there is no page for a table; then nothing has changed.
    fn map(&mut self, space: &mut Self::Space, at: Ppn, to: Mpn, rights: Rights) -> Result<(), NoMemory>;

    /// Removes a mapping, at once. Nothing happens if there is none. Others may go with it if there is no page to copy
    /// a shared table to.
    fn unmap(&mut self, space: &mut Self::Space, at: Ppn);

    /// Says whether the guest has used a page since this was last asked, or since it was mapped, and forgets it.
    /// False if it is not mapped.
    fn take_accessed(&mut self, space: &mut Self::Space, at: Ppn) -> bool;

    /// Frees the tables. If the space is in use the processor first leaves it.
    fn destroy_space(&mut self, space: Self::Space);

    /// Pages its tables take.
    fn table_pages(&self, space: &Self::Space) -> u32;
}
