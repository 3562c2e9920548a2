//! Allocators by reference, made allocators by value.

use std::{alloc::Layout, ptr::NonNull};

use nebula_memory_core::{
    Allocator, MemoryError,
    allocator_api2::alloc::{AllocError, Allocator as Api2},
};

/// Something whose shared reference is an allocator, such as an arena, as an allocator by value: for
/// suites that make a fresh one for every case.
///
/// ```
/// use nebula_testing::{CountingAllocator, OwnedAllocator, conformance::allocator_conformance};
/// allocator_conformance(|| OwnedAllocator::new(CountingAllocator::new()));
/// ```
#[derive(Debug)]
pub struct OwnedAllocator<S>(Box<S>);

impl<S> OwnedAllocator<S> {
    /// Owns `source`, and keeps it where it is.
    pub fn new(source: S) -> Self {
        Self(Box::new(source))
    }

    /// What is owned.
    pub fn source(&self) -> &S {
        &self.0
    }
}

// SAFETY: forwards to a reference, whose referent the box keeps in place; it is not `Clone`.
unsafe impl<S> Api2 for OwnedAllocator<S>
where
    for<'a> &'a S: Api2,
{
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        (&*self.0).allocate(layout)
    }

    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promises are the callee's.
        unsafe { (&*self.0).deallocate(ptr, layout) }
    }

    unsafe fn grow(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's promises are the callee's.
        unsafe { (&*self.0).grow(ptr, old, new) }
    }

    unsafe fn grow_zeroed(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's promises are the callee's.
        unsafe { (&*self.0).grow_zeroed(ptr, old, new) }
    }

    unsafe fn shrink(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller's promises are the callee's.
        unsafe { (&*self.0).shrink(ptr, old, new) }
    }
}

// SAFETY: as above.
unsafe impl<S> Allocator for OwnedAllocator<S>
where
    for<'a> &'a S: Allocator,
{
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        (&*self.0).try_allocate(layout)
    }
}
