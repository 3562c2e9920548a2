//! An allocator that many threads share, with the sum of what it gave out, up to a limit.

use std::{alloc::Layout, ptr::NonNull};

use nebula_memory_core::{
    Align, Allocator, MemoryError,
    allocator_api2::alloc::{AllocError, Allocator as Api2},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

/// Counts what `A` gives out, and refuses more than the capacity.
pub(crate) struct Counted<A> {
    allocator: A,
    /// Bytes given out, or about to be. Only counted, so that no order is needed.
    bytes: AtomicUsize,
    capacity: usize,
}

impl<A: Allocator> Counted<A> {
    pub(crate) fn new(allocator: A, capacity: Option<usize>) -> Self {
        let capacity = capacity.unwrap_or(usize::MAX);
        Self { allocator, bytes: AtomicUsize::new(0), capacity }
    }

    pub(crate) const fn allocator(&self) -> &A {
        &self.allocator
    }

    pub(crate) const fn allocator_mut(&mut self) -> &mut A {
        &mut self.allocator
    }

    /// Bytes given out.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
    }

    /// Makes `bytes` count, if that is within the capacity.
    fn reserve(&self, layout: Layout) -> Result<(), MemoryError> {
        let size = layout.size();
        self.bytes
            .fetch_update(Relaxed, Relaxed, |bytes| {
                bytes.checked_add(size).filter(|&sum| sum <= self.capacity)
            })
            .map(|_| ())
            .map_err(|bytes| MemoryError::CapacityExceeded {
                requested: size,
                available: self.capacity.saturating_sub(bytes),
                align: Align::new(layout.align()),
            })
    }
}

// SAFETY: blocks come from `A` and go back to it with the same pointers and layouts. It is not
// `Clone`.
unsafe impl<A: Allocator> Api2 for Counted<A> {
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.try_allocate(layout).map_err(MemoryError::into_alloc_error)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.allocator.deallocate(ptr, layout) };
        self.bytes.fetch_sub(layout.size(), Relaxed);
    }
}

// SAFETY: `A` returns slices of exactly `layout.size()` bytes and ignores blocks of zero size, for
// which nothing is counted. (Growth and shrinking are the trait's own, made of the two above; the
// arena does neither with its chunks.)
unsafe impl<A: Allocator> Allocator for Counted<A> {
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        /// Gives the room back unless it was filled: the allocator may refuse, or panic.
        struct Reserved<'a>(&'a AtomicUsize, usize);

        impl Drop for Reserved<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(self.1, Relaxed);
            }
        }

        self.reserve(layout)?;
        let reserved = Reserved(&self.bytes, layout.size());
        let block = self.allocator.try_allocate(layout)?;
        std::mem::forget(reserved);
        Ok(block)
    }
}
