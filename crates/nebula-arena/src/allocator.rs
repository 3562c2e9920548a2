//! `&Arena` as an allocator for collections.

use std::{alloc::Layout, ptr::NonNull};

use nebula_memory_core::{
    Allocator, MemoryError,
    allocator_api2::alloc::{AllocError, Allocator as Api2},
};

use crate::Arena;

fn sized(block: NonNull<u8>, layout: Layout) -> NonNull<[u8]> {
    NonNull::slice_from_raw_parts(block, layout.size())
}

// SAFETY: blocks lie in chunks that stay where they are until the arena is reset or dropped, which
// takes `&mut Arena` or ownership, and so needs every copy of the `&Arena` that is the allocator to
// be gone. Copies of the reference are the same allocator.
unsafe impl<A: Allocator> Api2 for &Arena<A> {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        match self.block(layout) {
            Ok(block) => Ok(sized(block, layout)),
            Err(error) => Err(error.into_alloc_error()),
        }
    }

    /// Takes the block back if it was the latest; otherwise it stays until the arena is reset.
    #[inline]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        // SAFETY: the caller promises that the block is this arena's, fits the layout, and is not
        // used any more.
        unsafe { self.free(ptr, layout.size()) };
    }

    /// The latest block grows where it lies, if its chunk has room; others are copied.
    #[inline]
    unsafe fn grow(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller promises that the block is this arena's and fits `old`.
        if unsafe { self.resize(ptr, old.size(), new) } {
            return Ok(sized(ptr, new));
        }
        // SAFETY: the caller's promises are the callee's; `new` is at least as large as `old`.
        unsafe { self.relocate(ptr, old, new, old.size()) }
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
        // SAFETY: `old.size()` is at most the new size.
        let tail = unsafe { block.cast::<u8>().add(old.size()) };
        // SAFETY: the bytes behind the old ones belong to the block, which is the caller's alone.
        unsafe { tail.write_bytes(0, new.size() - old.size()) };
        Ok(block)
    }

    /// Stays where it is (unless the new alignment wants otherwise); the latest block gives its
    /// tail back.
    #[inline]
    unsafe fn shrink(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        // SAFETY: the caller promises that the block is this arena's and fits `old`.
        if unsafe { self.resize(ptr, old.size(), new) } {
            return Ok(sized(ptr, new));
        }
        // SAFETY: the caller's promises are the callee's; `old` is at least as large as `new`.
        unsafe { self.relocate(ptr, old, new, new.size()) }
    }
}

impl<A: Allocator> Arena<A> {
    /// Copies the first `keep` bytes of a block of `old` to a fresh block of `new`.
    ///
    /// # Safety
    /// The block is this arena's, fits `old`, is not used any more on success, and `keep` is at
    /// most the size of either.
    unsafe fn relocate(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
        keep: usize,
    ) -> Result<NonNull<[u8]>, AllocError> {
        let block = self.block(new).map_err(MemoryError::into_alloc_error)?;
        // SAFETY: both are valid for `keep` bytes, and the fresh block overlaps nothing.
        unsafe { ptr.copy_to_nonoverlapping(block, keep) };
        // SAFETY: the old block is this arena's, and the caller gave it up. It is not the latest
        // any more (unless the new one has no bytes), but it is of no use to anybody.
        unsafe { self.free(ptr, old.size()) };
        Ok(sized(block, new))
    }
}

// SAFETY: every returned slice is `layout.size()` bytes long.
unsafe impl<A: Allocator> Allocator for &Arena<A> {
    #[inline]
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        self.block(layout).map(|block| sized(block, layout))
    }
}
