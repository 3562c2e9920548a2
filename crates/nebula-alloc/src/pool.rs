//! Blocks of one size, in pages.
//!
//! How blocks lie in a page is decided in `geometry`. The two forms, for one thread and for many,
//! differ in how they keep free blocks and pages; what they have in common is here.

mod exclusive;
mod geometry;
mod page;
mod shared;
mod store;
mod tagged;

use std::{alloc::Layout, fmt, num::NonZero, ptr::NonNull};

use nebula_memory_core::{
    Align, Allocator, Global, MemoryError, MemoryUsage, Resettable,
    allocator_api2::alloc::{AllocError, Allocator as Api2},
};

pub(crate) use self::store::Pooling;
use self::{
    geometry::Geometry,
    store::{Source, Store},
};
use crate::{Exclusive, Mode, Shared, poison::poison, poison::unpoison};

/// Blocks of one size and alignment, taken from pages that come from any allocator.
///
/// A request of up to the block's size and alignment gets a block, in a handful of instructions,
/// whatever was freed before and in which order; a larger one is refused. Free blocks are kept page
/// by page: blocks that are allocated one after the other lie close together, and a block that is
/// freed goes back to its own page, which is found from its address. Pages are added as they are
/// needed, up to the maximum number of blocks, if there is one.
///
/// The form is chosen by the constructor and is part of the type:
/// - [`try_new`](Self::try_new) makes one for one thread at a time (`Send`, not `Sync`). A page
///   that becomes empty goes back to the allocator underneath, except for the page that blocks are
///   being taken from, that of the block that was freed last, and one spare page
///   ([`spare_pages`](Self::spare_pages)).
/// - [`try_shared`](PoolAllocator::try_shared) makes one for any number of threads at once. Taking
///   and freeing a block is lock-free: one compare-and-swap on the page, a different page for
///   different threads while there are enough. A thread that finds no free block among a few pages
///   adds one, which is as free of locks as the allocator underneath. Where that is not to be had,
///   it looks at every page, and waits for another thread that is adding the last one. Empty pages
///   go back in [`trim`](PoolAllocator::trim), which takes `&mut self`, because another thread may
///   be looking at any page at any time.
///
/// Sizes and alignments are rounded up to those of a pointer. Blocks of no bytes cost nothing. A
/// block grows and shrinks in place, up to the pool's block size. For statistics, put it into a
/// [`Tracked`](crate::Tracked).
///
/// ```
/// use std::alloc::Layout;
///
/// use nebula_alloc::PoolAllocator;
/// use nebula_memory_core::{MemoryUsage, TypedAllocator};
///
/// let pool = PoolAllocator::try_new(Layout::new::<[u64; 4]>(), Some(1000))?;
/// let first = pool.try_new([1_u64, 2, 3, 4])?;
/// let second = pool.try_new(5_u32)?; // smaller ones fit, too
/// assert_eq!((first[3], *second), (4, 5));
/// assert_eq!((pool.used(), pool.capacity()), (64, Some(32_000)));
/// drop(first);
/// assert_eq!(pool.blocks_in_use(), 1);
///
/// assert!(pool.try_new([0_u64; 5]).is_err(), "larger than a block");
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
///
/// Many threads take the shared form:
///
/// ```
/// use std::alloc::Layout;
///
/// use nebula_alloc::PoolAllocator;
/// use nebula_memory_core::TypedAllocator;
///
/// let pool = PoolAllocator::try_shared(Layout::new::<u64>(), None)?;
/// std::thread::scope(|scope| {
///     let here = pool.try_new(1_u64);
///     // Blocks may be freed by another thread than the one that took them.
///     scope.spawn(move || drop(here));
///     scope.spawn(|| pool.try_new(2_u64).map(drop));
/// });
/// assert_eq!(pool.blocks_in_use(), 0);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
///
/// and the other form stays on one:
///
/// ```compile_fail,E0277
/// use std::alloc::Layout;
///
/// use nebula_alloc::PoolAllocator;
///
/// let pool = PoolAllocator::try_new(Layout::new::<u64>(), None)?;
/// std::thread::scope(|scope| {
///     scope.spawn(|| pool.blocks_in_use());
/// });
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
///
/// Built with debug assertions, a pool panics when it is given a pointer that it has not handed
/// out, or a block that is free already.
pub struct PoolAllocator<A: Allocator = Global, M: Mode = Exclusive> {
    store: M::Store,
    source: Source<A>,
}

impl Pooling for Exclusive {
    type Store = exclusive::Pages;
}

impl Pooling for Shared {
    type Store = shared::Pages;
}

// SAFETY: pages belong to this value alone; giving them back on another thread goes through the
// base, which must be `Send` for that. Blocks that are borrowed from a pool for one thread pin it
// to that thread, because it is not `Sync`.
unsafe impl<A: Allocator + Send, M: Mode> Send for PoolAllocator<A, M> {}

// SAFETY: what threads change through `&self` in the shared form are atomics, on pages that stay
// where they are while there is such a reference; each block is taken by one thread at a time (see
// `shared`). Pages are allocated through `&A`, which must be `Sync` for that.
unsafe impl<A: Allocator + Sync> Sync for PoolAllocator<A, Shared> {}

impl PoolAllocator {
    /// Blocks of `block` for one thread at a time, at most `max_blocks` of them if that is given, in
    /// pages from the global allocator. Nothing is allocated yet.
    ///
    /// # Errors
    /// - [`MemoryError::InvalidConfig`] if the block has no bytes, or there may be none of them,
    /// - [`MemoryError::InvalidLayout`] if a page of such blocks would be larger than any allocation
    ///   can be.
    pub fn try_new(block: Layout, max_blocks: Option<usize>) -> Result<Self, MemoryError> {
        Self::try_new_in(block, max_blocks, Global)
    }
}

impl PoolAllocator<Global, Shared> {
    /// As [`try_new`](PoolAllocator::try_new), for any number of threads at once.
    ///
    /// # Errors
    /// As [`try_new`](PoolAllocator::try_new).
    pub fn try_shared(block: Layout, max_blocks: Option<usize>) -> Result<Self, MemoryError> {
        Self::try_shared_in(block, max_blocks, Global)
    }
}

impl<A: Allocator> PoolAllocator<A> {
    /// As [`try_new`](PoolAllocator::try_new), with pages from `base`, which gets back each one that
    /// is no longer needed, and all of them when the pool is dropped.
    ///
    /// # Errors
    /// As [`try_new`](PoolAllocator::try_new).
    ///
    /// ```
    /// use std::alloc::Layout;
    ///
    /// use nebula_alloc::{PoolAllocator, SystemAllocator};
    /// use nebula_memory_core::{MemoryUsage, TypedAllocator};
    ///
    /// let system = SystemAllocator::new();
    /// let pool = PoolAllocator::try_new_in(Layout::new::<u64>(), None, system.clone())?;
    /// assert_eq!(system.used(), 0);
    /// let number = pool.try_new(7_u64)?;
    /// assert_eq!((pool.pages(), system.used()), (1, pool.page_layout().size()));
    /// drop(number);
    /// pool.trim();
    /// assert_eq!(system.used(), 0);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn try_new_in(
        block: Layout,
        max_blocks: Option<usize>,
        base: A,
    ) -> Result<Self, MemoryError> {
        Self::with_mode(block, max_blocks, base)
    }

    /// Keeps up to `pages` empty pages (one, unless told otherwise) for the next blocks. A pool
    /// that is filled and emptied again and again saves the way to the allocator underneath.
    #[must_use]
    pub fn spare_pages(self, pages: usize) -> Self {
        self.store.keep(pages);
        self
    }

    /// Gives all empty pages back, the spare ones too, and returns how many bytes that were.
    pub fn trim(&self) -> usize {
        self.store.trim(&self.source)
    }
}

impl<A: Allocator> PoolAllocator<A, Shared> {
    /// As [`try_shared`](PoolAllocator::try_shared), with pages from `base`, which gets them back
    /// when the pool is trimmed or dropped.
    ///
    /// # Errors
    /// As [`try_new`](PoolAllocator::try_new).
    pub fn try_shared_in(
        block: Layout,
        max_blocks: Option<usize>,
        base: A,
    ) -> Result<Self, MemoryError> {
        Self::with_mode(block, max_blocks, base)
    }

    /// Gives all empty pages back and returns how many bytes that were.
    ///
    /// ```
    /// use std::alloc::Layout;
    ///
    /// use nebula_alloc::PoolAllocator;
    /// use nebula_memory_core::TypedAllocator;
    ///
    /// let mut pool = PoolAllocator::try_shared(Layout::new::<u64>(), None)?;
    /// drop(pool.try_new(7_u64)?);
    /// assert_eq!(pool.pages(), 1);
    /// assert_eq!(pool.trim(), pool.page_layout().size());
    /// assert_eq!(pool.pages(), 0);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn trim(&mut self) -> usize {
        self.store.trim(&self.source)
    }
}

impl<A: Allocator, M: Mode> PoolAllocator<A, M> {
    fn with_mode(block: Layout, max_blocks: Option<usize>, base: A) -> Result<Self, MemoryError> {
        if block.size() == 0 {
            return Err(MemoryError::invalid_config("block", "0 bytes", "must have bytes"));
        }
        if max_blocks == Some(0) {
            return Err(MemoryError::invalid_config("max_blocks", 0, "must be above zero"));
        }
        let most = max_blocks.unwrap_or(usize::MAX);
        let geometry = Geometry::new(block, M::Store::header(), M::Store::side(), most)?;
        Ok(Self { store: M::Store::new(), source: Source { geometry, most, base } })
    }

    /// The allocator that pages come from.
    pub const fn base(&self) -> &A {
        &self.source.base
    }

    /// The size and alignment of a block: what a request may have at most.
    pub const fn block_layout(&self) -> Layout {
        let Geometry { size, align, .. } = self.source.geometry;
        // SAFETY: a page of several such blocks has a valid layout, so that one has, too.
        unsafe { Layout::from_size_align_unchecked(size, align) }
    }

    /// The size and alignment of a page: what the allocator underneath is asked for.
    pub fn page_layout(&self) -> Layout {
        self.source.geometry.page()
    }

    /// How many blocks a page has; the last page has fewer if the maximum says so.
    pub const fn blocks_per_page(&self) -> usize {
        self.source.geometry.blocks
    }

    /// The most blocks that may be out at one time.
    pub fn max_blocks(&self) -> Option<usize> {
        Some(self.source.most).filter(|most| *most != usize::MAX)
    }

    /// Blocks that are out. Takes time in proportion to the number of pages; while other threads
    /// take and free blocks, the figures of the pages are from different moments.
    pub fn blocks_in_use(&self) -> usize {
        self.store.in_use()
    }

    /// Pages that are held, empty ones included; each is [`page_layout`](Self::page_layout) in
    /// size. A shared pool has to count them.
    pub fn pages(&self) -> usize {
        self.store.pages()
    }

    /// Whether `ptr` points into a block of this pool, out or free. Takes time in proportion to
    /// the number of pages.
    ///
    /// ```
    /// use std::{alloc::Layout, ptr::NonNull};
    ///
    /// use nebula_alloc::PoolAllocator;
    /// use nebula_memory_core::TypedAllocator;
    ///
    /// let pool = PoolAllocator::try_new(Layout::new::<[u8; 64]>(), None)?;
    /// let block = pool.try_new([0_u8; 64])?;
    /// assert!(pool.owns(NonNull::from(&block[63])));
    /// assert!(!pool.owns(NonNull::from(&pool).cast()));
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn owns(&self, ptr: NonNull<u8>) -> bool {
        let (page, offset) = self.source.geometry.split(ptr.addr().get());
        let blocks = self.store.blocks_of(page);
        blocks.is_some_and(|blocks| self.source.geometry.contains(offset, blocks))
    }

    #[inline]
    fn get(&self, layout: Layout) -> Option<NonNull<[u8]>> {
        if layout.size() == 0 {
            return Some(empty(layout));
        }
        if !self.source.geometry.serves(layout) {
            return None;
        }
        let block = self.store.take(&self.source.geometry)?;
        unpoison(block, layout.size());
        Some(NonNull::slice_from_raw_parts(block, layout.size()))
    }

    /// Where `get` does not help.
    #[cold]
    #[inline(never)]
    fn search(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        if !self.source.geometry.serves(layout) {
            return Err(self.too_large(layout));
        }
        let block = self.store.find(&self.source, layout)?;
        unpoison(block, layout.size());
        Ok(NonNull::slice_from_raw_parts(block, layout.size()))
    }

    #[cold]
    #[inline(never)]
    fn search_plainly(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.search(layout).map_err(MemoryError::into_alloc_error)
    }

    #[cold]
    #[inline(never)]
    fn too_large(&self, layout: Layout) -> MemoryError {
        MemoryError::CapacityExceeded {
            requested: layout.size(),
            available: self.source.geometry.size,
            align: Align::new(layout.align()),
        }
    }

    /// Makes the block of `old` one of `new`, where it is.
    ///
    /// # Safety
    /// `old` has bytes and fits the live block at `ptr`.
    #[inline]
    unsafe fn resize(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if new.size() == 0 {
            // SAFETY: the block is live, and the caller gives it up.
            unsafe { self.deallocate(ptr, old) };
            return Ok(empty(new));
        }
        if !self.source.geometry.serves(new) {
            return Err(self.too_large(new).into_alloc_error());
        }
        if new.size() < old.size() {
            // SAFETY: the new size is less than the old one, so that the sum lies in the block.
            poison(unsafe { ptr.add(new.size()) }, old.size() - new.size());
        } else {
            unpoison(ptr, new.size());
        }
        // The caller's pointer may reach no further than the old size; the block does.
        let ptr = store::exposed(ptr.addr().get());
        Ok(NonNull::slice_from_raw_parts(ptr, new.size()))
    }
}

/// A block of no bytes: an address with the right alignment, and nothing behind it.
#[inline]
fn empty(layout: Layout) -> NonNull<[u8]> {
    let align = NonZero::new(layout.align()).unwrap_or(NonZero::<usize>::MIN);
    NonNull::slice_from_raw_parts(NonNull::dangling().with_addr(align), 0)
}

// SAFETY: blocks lie in pages, which stay where they are until the pool is dropped, or until no
// block of theirs is out (moving the pool moves pointers to them only, and it is not `Clone`);
// `reset` needs `&mut self`, so that no borrow is left. Live blocks do not overlap: blocks of a page
// lie side by side, and each is either out, once, or free.
unsafe impl<A: Allocator, M: Mode> Api2 for PoolAllocator<A, M> {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        match self.get(layout) {
            Some(block) => Ok(block),
            None => self.search_plainly(layout),
        }
    }

    #[inline]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        if layout.size() != 0 {
            // SAFETY: the block has bytes, so that it is one of the store's; the caller gives it up.
            unsafe { self.store.give(&self.source, ptr) };
        }
    }

    #[inline]
    unsafe fn grow(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if old.size() == 0 {
            return self.allocate(new);
        }
        // SAFETY: the old layout has bytes and fits the block, as the caller promises.
        unsafe { self.resize(ptr, old, new) }
    }

    #[inline]
    unsafe fn grow_zeroed(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's promises are the callee's.
        let block = unsafe { self.grow(ptr, old, new) }?;
        // SAFETY: the old size is at most the new one, so that the sum lies in the block.
        let added = unsafe { block.cast::<u8>().add(old.size()) };
        // SAFETY: the block is `new.size()` bytes long, writable, and nobody else's.
        unsafe { added.write_bytes(0, new.size() - old.size()) };
        Ok(block)
    }

    #[inline]
    unsafe fn shrink(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if old.size() == 0 {
            return Ok(empty(new));
        }
        // SAFETY: the old layout has bytes and fits the block, as the caller promises.
        unsafe { self.resize(ptr, old, new) }
    }
}

// SAFETY: every slice that is returned is `layout.size()` bytes long; blocks of zero size are
// ignored.
unsafe impl<A: Allocator, M: Mode> Allocator for PoolAllocator<A, M> {
    #[inline]
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        match self.get(layout) {
            Some(block) => Ok(block),
            None => self.search(layout),
        }
    }
}

/// Blocks count with their full size, pages that are not filled do not count. Takes time in
/// proportion to the number of pages.
impl<A: Allocator, M: Mode> MemoryUsage for PoolAllocator<A, M> {
    fn used(&self) -> usize {
        self.blocks_in_use() * self.source.geometry.size
    }

    fn capacity(&self) -> Option<usize> {
        Some(self.max_blocks()?.saturating_mul(self.source.geometry.size))
    }
}

/// All blocks are free again, to be taken in the order of their addresses. A pool for one thread
/// keeps its current page and its spare ones, a shared one keeps all pages.
impl<A: Allocator, M: Mode> Resettable for PoolAllocator<A, M> {
    fn reset(&mut self) {
        self.store.reset(&self.source);
    }
}

impl<A: Allocator, M: Mode> Drop for PoolAllocator<A, M> {
    fn drop(&mut self) {
        self.store.release_all(&self.source);
    }
}

impl<A: Allocator, M: Mode> fmt::Debug for PoolAllocator<A, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolAllocator")
            .field("thread_safe", &M::THREAD_SAFE)
            .field("block", &self.block_layout())
            .field("blocks_in_use", &self.blocks_in_use())
            .field("max_blocks", &self.max_blocks())
            .field("pages", &self.pages())
            .finish_non_exhaustive()
    }
}
