//! Exact statistics for any allocator.

use std::{alloc::Layout, fmt, marker::PhantomData, ptr::NonNull};

use nebula_memory_core::{
    Allocator, AllocatorKind, AllocatorStats, MemoryError, MemoryUsage, Resettable,
    StatisticsProvider, StatsSnapshot, UsageCell,
    allocator_api2::alloc::{AllocError, Allocator as Api2},
    sync::Arc,
};

use crate::{AllocatorManager, Exclusive, Mode, Shared};

/// The allocator `A` with every block counted: how many, how many bytes, and the most at one time.
///
/// Bytes are those of the layouts that were asked for; growing and shrinking a block moves them by
/// the difference and is no allocation. A block of no bytes is no block: containers free such ones
/// without having allocated them. What `A` refuses is not counted. [`used`] is what is out by these
/// counts, whatever `A` spends on it.
///
/// The figures are in a [`UsageCell`], which an [`AllocatorManager`] can list. The mode is chosen
/// by the constructor: [`Tracked::new`] counts for any number of threads, [`Tracked::exclusive`]
/// for one at a time, with plain stores.
///
/// ```
/// use nebula_alloc::Tracked;
/// use nebula_memory_core::{
///     AllocatorKind, Global, StatisticsProvider, TypedAllocator, allocator_api2::vec::Vec,
/// };
///
/// let heap = Tracked::new(Global, "numbers", AllocatorKind::System);
/// let mut numbers = Vec::with_capacity_in(10, &heap);
/// numbers.extend(0..20_u64); // grows once
/// drop(numbers);
///
/// let stats = heap.statistics().unwrap();
/// assert_eq!((stats.allocations, stats.deallocations), (1, 1));
/// assert_eq!((stats.bytes_allocated, stats.peak_usage), (160, 160));
/// ```
///
/// Counts for many threads around an allocator for one would say something untrue, so that
/// `Tracked::new` asks for a `Sync` one:
///
/// ```compile_fail,E0277
/// use nebula_alloc::{BumpAllocator, Tracked};
/// use nebula_memory_core::AllocatorKind;
///
/// let bump = BumpAllocator::try_new(4096)?;
/// let tracked = Tracked::new(bump, "scratch", AllocatorKind::Bump);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
///
/// [`used`]: MemoryUsage::used
#[must_use]
pub struct Tracked<A, M: Mode = Shared> {
    allocator: A,
    cell: Arc<UsageCell>,
    mode: PhantomData<M>,
}

impl<A: Allocator + Sync> Tracked<A> {
    /// Counts what `allocator` does on any number of threads, under the name `name`.
    ///
    /// A few atomic additions per call: threads that allocate all the time get in each other's way.
    pub fn new(allocator: A, name: impl Into<Box<str>>, kind: AllocatorKind) -> Self {
        Self::with_mode(allocator, name, kind)
    }
}

impl<A: Allocator> Tracked<A, Exclusive> {
    /// Counts what `allocator` does on one thread at a time, under the name `name`.
    pub fn exclusive(allocator: A, name: impl Into<Box<str>>, kind: AllocatorKind) -> Self {
        Self::with_mode(allocator, name, kind)
    }
}

impl<A: Allocator, M: Mode> Tracked<A, M> {
    fn with_mode(allocator: A, name: impl Into<Box<str>>, kind: AllocatorKind) -> Self {
        let cell = UsageCell::new(name, kind, M::THREAD_SAFE).with_statistics();
        Self { allocator, cell: Arc::new(cell), mode: PhantomData }
    }

    /// Lists it in `manager` for as long as it lives.
    ///
    /// ```
    /// use nebula_alloc::{AllocatorManager, Tracked};
    /// use nebula_memory_core::{AllocatorKind, Global};
    ///
    /// let manager = AllocatorManager::new();
    /// let heap = Tracked::new(Global, "heap", AllocatorKind::System).registered_in(&manager);
    /// assert_eq!(manager.list()[0].name, "heap");
    /// drop(heap);
    /// assert!(manager.list().is_empty());
    /// ```
    pub fn registered_in(self, manager: &AllocatorManager) -> Self {
        manager.register(&self.cell);
        self
    }

    /// Publishes the allocator's capacity with the counts.
    ///
    /// ```
    /// use nebula_alloc::{BumpAllocator, Tracked};
    /// use nebula_memory_core::{AllocatorKind, MemoryUsage};
    ///
    /// let bump = BumpAllocator::try_new(4096)?;
    /// let tracked = Tracked::exclusive(bump, "scratch", AllocatorKind::Bump).publish_capacity();
    /// assert_eq!(tracked.capacity(), Some(4096));
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn publish_capacity(self) -> Self
    where
        A: MemoryUsage,
    {
        self.cell.set_capacity(self.allocator.capacity());
        self
    }

    /// Where the figures are, for a registry.
    pub const fn cell(&self) -> &Arc<UsageCell> {
        &self.cell
    }

    /// The allocator underneath. What is allocated from it directly is not counted.
    pub const fn allocator(&self) -> &A {
        &self.allocator
    }

    /// The allocator underneath, by value; counting ends.
    pub fn into_inner(self) -> A {
        self.allocator
    }

    /// The statistics, which every constructor provides.
    #[inline(always)]
    fn count(&self, count: impl FnOnce(&AllocatorStats)) {
        if let Some(stats) = self.cell.stats() {
            count(stats);
        }
    }

    #[inline]
    fn allocated<E>(&self, block: Result<NonNull<[u8]>, E>) -> Result<NonNull<[u8]>, E> {
        if let Ok(block) = &block {
            self.resized(0, block.len());
        }
        block
    }

    /// Counts that a block of `old` bytes became one of `new`, where no bytes are no block.
    #[inline(always)]
    fn resized(&self, old: usize, new: usize) {
        self.count(|stats| match (old, new) {
            (0, 0) => {}
            (0, _) => M::allocation(stats, new),
            (_, 0) => M::deallocation(stats, old),
            _ if new >= old => M::grow(stats, new - old),
            _ => M::shrink(stats, old - new),
        });
    }
}

/// Clones count in the same cell.
impl<A: Clone> Clone for Tracked<A> {
    fn clone(&self) -> Self {
        let (allocator, cell) = (self.allocator.clone(), Arc::clone(&self.cell));
        Self { allocator, cell, mode: PhantomData }
    }
}

// SAFETY: blocks come from `A` and go back to it with the same pointers and layouts; counting does
// not touch memory. Clones behave alike because clones of `A` do.
unsafe impl<A: Allocator, M: Mode> Api2 for Tracked<A, M> {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.allocated(self.allocator.allocate(layout))
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.allocated(self.allocator.allocate_zeroed(layout))
    }

    #[inline]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // Counted first: once the block is free another thread may have it, and counting it twice
        // would show a peak that never was.
        self.resized(layout.size(), 0);
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.allocator.deallocate(ptr, layout) };
    }

    #[inline]
    unsafe fn grow(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's promises are the callee's.
        let block = unsafe { self.allocator.grow(ptr, old, new) }?;
        self.resized(old.size(), new.size());
        Ok(block)
    }

    #[inline]
    unsafe fn grow_zeroed(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's promises are the callee's.
        let block = unsafe { self.allocator.grow_zeroed(ptr, old, new) }?;
        self.resized(old.size(), new.size());
        Ok(block)
    }

    #[inline]
    unsafe fn shrink(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's promises are the callee's.
        let block = unsafe { self.allocator.shrink(ptr, old, new) }?;
        self.resized(old.size(), new.size());
        Ok(block)
    }
}

// SAFETY: `A` returns slices of exactly `layout.size()` bytes, and they are passed on as they are.
unsafe impl<A: Allocator, M: Mode> Allocator for Tracked<A, M> {
    #[inline]
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        self.allocated(self.allocator.try_allocate(layout))
    }
}

impl<A, M: Mode> StatisticsProvider for Tracked<A, M> {
    fn statistics(&self) -> Option<StatsSnapshot> {
        self.cell.statistics()
    }
}

/// Used is what is out by the counts; the capacity is the published one, if any. What the allocator
/// underneath can still place may be less than the difference.
impl<A, M: Mode> MemoryUsage for Tracked<A, M> {
    fn used(&self) -> usize {
        self.cell.used()
    }

    fn capacity(&self) -> Option<usize> {
        self.cell.capacity()
    }
}

/// Takes O(blocks): every block that was still out is counted as deallocated.
impl<A: Allocator + Resettable, M: Mode> Resettable for Tracked<A, M> {
    fn reset(&mut self) {
        self.allocator.reset();
        self.count(|stats| {
            let out = stats.snapshot();
            let mut bytes = usize::try_from(out.current_usage()).unwrap_or(usize::MAX);
            for _ in 0..out.live_blocks() {
                M::deallocation(stats, std::mem::take(&mut bytes));
            }
        });
    }
}

impl<A: fmt::Debug, M: Mode> fmt::Debug for Tracked<A, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracked")
            .field("name", &self.cell.name())
            .field("allocator", &self.allocator)
            .field("statistics", &self.cell.statistics())
            .finish_non_exhaustive()
    }
}
