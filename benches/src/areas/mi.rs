//! mimalloc as an allocator of `allocator_api2`, for the areas that put it beside ours.

use std::{
    alloc::{GlobalAlloc, Layout},
    ptr::NonNull,
};

use nebula_memory_core::allocator_api2::alloc::{AllocError, Allocator};

/// mimalloc as an allocator; of layouts with a size.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Mi;

// SAFETY: blocks are those of mimalloc.
unsafe impl Allocator for Mi {
    #[inline(always)]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the layouts here have a size.
        let block = unsafe { mimalloc::MiMalloc.alloc(layout) };
        let block = NonNull::new(block).ok_or(AllocError)?;
        Ok(NonNull::slice_from_raw_parts(block, layout.size()))
    }

    #[inline(always)]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller's promises are the callee's.
        unsafe { mimalloc::MiMalloc.dealloc(ptr.as_ptr(), layout) };
    }

    #[inline(always)]
    unsafe fn grow(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller promises that the block is mimalloc's and has the old layout; the
        // new size is larger, and so not zero. Alignments don't change here.
        let block = unsafe { mimalloc::MiMalloc.realloc(ptr.as_ptr(), old, new.size()) };
        let block = NonNull::new(block).ok_or(AllocError)?;
        Ok(NonNull::slice_from_raw_parts(block, new.size()))
    }
}
