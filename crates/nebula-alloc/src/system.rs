//! The system's heap, with a figure of what it holds.

use std::{
    alloc::{Layout, System},
    ptr::NonNull,
};

use nebula_memory_core::{
    Allocator, MemoryError, MemoryUsage,
    allocator_api2::alloc::{AllocError, Allocator as Api2},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

/// The system's heap, whatever the global allocator of the program is, and a count of the bytes
/// that are out.
///
/// It is a cheap handle: clones share the count, so that all parts of a program (or of a tenant)
/// that allocate through one handle are seen together. Any thread may use it.
///
/// ```
/// use nebula_alloc::SystemAllocator;
/// use nebula_memory_core::{MemoryUsage, allocator_api2::vec::Vec};
///
/// let system = SystemAllocator::new();
/// let mut bytes = Vec::new_in(system.clone());
/// bytes.resize(1000, 0_u8);
/// assert_eq!(system.used(), bytes.capacity());
/// drop(bytes);
/// assert_eq!(system.used(), 0);
/// ```
#[derive(Clone, Debug)]
pub struct SystemAllocator {
    used: Arc<AtomicUsize>,
}

impl SystemAllocator {
    /// A handle that holds nothing so far.
    #[must_use]
    pub fn new() -> Self {
        Self { used: Arc::new(AtomicUsize::new(0)) }
    }

    /// Counts `bytes` if the block was had.
    #[inline]
    fn count(
        &self,
        block: Result<NonNull<[u8]>, AllocError>,
        bytes: usize,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if block.is_ok() {
            self.used.fetch_add(bytes, Relaxed);
        }
        block
    }
}

impl Default for SystemAllocator {
    fn default() -> Self {
        Self::new()
    }
}

// SAFETY: blocks come from `System` and go back to it with the same pointers and layouts; they stay
// valid until they are freed, whatever happens to the handles, which all speak for the same heap.
unsafe impl Api2 for SystemAllocator {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.count(System.allocate(layout), layout.size())
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.count(System.allocate_zeroed(layout), layout.size())
    }

    #[inline]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        self.used.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's promises are the callee's.
        unsafe { System.deallocate(ptr, layout) };
    }

    #[inline]
    unsafe fn grow(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's promises are the callee's.
        let block = unsafe { System.grow(ptr, old, new) };
        self.count(block, new.size() - old.size())
    }

    #[inline]
    unsafe fn grow_zeroed(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's promises are the callee's.
        let block = unsafe { System.grow_zeroed(ptr, old, new) };
        self.count(block, new.size() - old.size())
    }

    #[inline]
    unsafe fn shrink(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's promises are the callee's.
        let block = unsafe { System.shrink(ptr, old, new) }?;
        self.used.fetch_sub(old.size() - new.size(), Relaxed);
        Ok(block)
    }
}

// SAFETY: `System` returns slices of exactly `layout.size()` bytes, and they are passed on as they
// are.
unsafe impl Allocator for SystemAllocator {
    #[inline]
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        self.allocate(layout).map_err(|AllocError| MemoryError::out_of_memory(layout))
    }
}

/// The bytes of the blocks that are out, over all clones; the system alone limits them.
impl MemoryUsage for SystemAllocator {
    fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    fn capacity(&self) -> Option<usize> {
        None
    }
}
