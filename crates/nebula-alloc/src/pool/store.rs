//! What the two forms of the block pool have in common below the surface, and how they are told
//! apart.

use std::{
    alloc::Layout,
    ptr::{self, NonNull},
};

use nebula_memory_core::{Align, Allocator, MemoryError};

use super::geometry::Geometry;
use crate::{poison::poison, poison::unpoison};

/// Whether frees are checked: that the pointer is a block of this pool, and that it is out.
pub(crate) const CHECKED: bool = cfg!(debug_assertions);

/// Which store a mode's pool has.
pub trait Pooling {
    /// Its free blocks and pages.
    type Store: Store;
}

/// Free blocks and pages. Dropping a store leaks its pages: `release_all` comes first.
pub trait Store: Sized {
    /// No pages.
    fn new() -> Self;

    /// The layout of the header of a page.
    fn header() -> Layout;

    /// Bytes for each block that follow the header.
    fn side() -> usize;

    /// A block, if that takes no search.
    fn take(&self, geometry: &Geometry) -> Option<NonNull<u8>>;

    /// A block, from wherever it takes, to serve `layout`.
    fn find<A: Allocator>(
        &self,
        source: &Source<A>,
        layout: Layout,
    ) -> Result<NonNull<u8>, MemoryError>;

    /// Takes a block back.
    ///
    /// # Safety
    /// It was taken from this store, with this `source`, and nobody uses it any more.
    unsafe fn give<A: Allocator>(&self, source: &Source<A>, block: NonNull<u8>);

    /// Blocks that are out.
    fn in_use(&self) -> usize;

    /// Pages that there are.
    fn pages(&self) -> usize;

    /// How many blocks the page at this address has; `None` if it is not one of this store's.
    fn blocks_of(&self, page: usize) -> Option<usize>;

    /// Takes every block back.
    fn reset<A: Allocator>(&mut self, source: &Source<A>);

    /// Gives every page back, whatever is out.
    fn release_all<A: Allocator>(&mut self, source: &Source<A>);
}

/// What both forms need to make pages.
#[derive(Debug)]
pub struct Source<A> {
    pub(crate) geometry: Geometry,
    /// The most blocks that there may be; `usize::MAX` where nothing limits them.
    pub(crate) most: usize,
    pub(crate) base: A,
}

impl<A: Allocator> Source<A> {
    /// Memory for a page, all of its blocks poisoned. Its address is exposed: pages are found from
    /// the addresses of their blocks.
    pub(crate) fn allocate(&self) -> Result<NonNull<u8>, MemoryError> {
        let page = self.base.try_allocate(self.geometry.page())?.cast::<u8>();
        let _ = page.as_ptr().expose_provenance();
        Ok(page)
    }

    /// Gives a page back.
    ///
    /// # Safety
    /// It was allocated by `self`, and nobody uses it any more.
    pub(crate) unsafe fn release(&self, page: NonNull<u8>) {
        let layout = self.geometry.page();
        unpoison(page, layout.size());
        // SAFETY: the page was allocated by this base with this layout, and is not used again.
        unsafe { self.base.deallocate(page, layout) };
    }

    /// Poisons the blocks of a page that has `blocks` of them.
    ///
    /// # Safety
    /// The page is one of `self`, and none of its blocks is in use.
    pub(crate) unsafe fn poison_blocks(&self, page: NonNull<u8>, blocks: usize) {
        // SAFETY: the first block lies in the page.
        let first = unsafe { page.add(self.geometry.first) };
        poison(first, blocks * self.geometry.size);
    }
}

/// There is no block left to serve `layout`, and there may not be more.
pub(super) const fn exhausted(layout: Layout) -> MemoryError {
    let align = Align::new(layout.align());
    MemoryError::CapacityExceeded { requested: layout.size(), available: 0, align }
}

/// A pointer to an address of a page, with the provenance of the page.
#[inline]
pub(super) fn exposed<T>(address: usize) -> NonNull<T> {
    let pointer = ptr::with_exposed_provenance_mut(address);
    // SAFETY: pages are not at address zero, and what is in them lies above.
    unsafe { NonNull::new_unchecked(pointer) }
}

/// What a free is told that was none, where frees are checked.
#[cold]
#[inline(never)]
#[track_caller]
pub(super) fn misuse(block: NonNull<u8>, what: &str) -> ! {
    panic!("the pool was told to free {block:p}, {what}");
}
