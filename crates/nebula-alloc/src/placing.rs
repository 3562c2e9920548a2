//! What the allocators over one stretch of memory have in common: pointers of their own, and
//! behind them the same two traits.

use std::{alloc::Layout, num::NonZero, ptr::NonNull};

use nebula_memory_core::MemoryError;

/// A stretch of memory that places blocks in itself.
///
/// # Safety
/// Blocks are of exactly the size and at least the alignment of their layouts, lie in the stretch,
/// and no two that are live overlap. `free` of a block of no bytes does nothing, whatever the
/// pointer.
pub(crate) unsafe trait Placing {
    /// A block of `layout`, or `None` if there is no room.
    fn place(&self, layout: Layout) -> Option<NonNull<[u8]>>;

    /// Why there is no room for `layout`.
    fn refusal(&self, layout: Layout) -> MemoryError;

    /// Takes a block back.
    ///
    /// # Safety
    /// As `Allocator::deallocate`.
    unsafe fn free(&self, ptr: NonNull<u8>, layout: Layout);

    /// Makes a block larger, here or elsewhere. On `None` nothing has changed.
    ///
    /// # Safety
    /// As `Allocator::grow`.
    unsafe fn grow(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>>;

    /// Makes a block smaller, here or elsewhere. On `None` nothing has changed.
    ///
    /// # Safety
    /// As `Allocator::shrink`.
    unsafe fn shrink(&self, ptr: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<[u8]>>;
}

/// A block of no bytes: an address with the right alignment, and nothing behind it.
#[inline]
pub(crate) fn empty(layout: Layout) -> NonNull<[u8]> {
    let align = NonZero::new(layout.align()).unwrap_or(NonZero::<usize>::MIN);
    NonNull::slice_from_raw_parts(NonNull::dangling().with_addr(align), 0)
}

/// Implements the allocator traits for `$type`, whose `$stretch` is the `Placing` that does it.
///
/// Whoever writes the invocation answers for this: the blocks stay where they are when `$type` is
/// moved, stay valid until it is dropped or borrowed mutably, and it is not `Clone`.
macro_rules! allocator_over {
    ([$($generics:tt)*] $type:ty, $stretch:ident) => {
        // SAFETY: blocks are those of the stretch, whose promises are the ones asked for here;
        // that they stay valid is what the invocation answers for.
        unsafe impl<$($generics)*> nebula_memory_core::allocator_api2::alloc::Allocator for $type {
            #[inline]
            fn allocate(
                &self,
                layout: std::alloc::Layout,
            ) -> Result<
                std::ptr::NonNull<[u8]>,
                nebula_memory_core::allocator_api2::alloc::AllocError,
            > {
                use crate::placing::Placing;
                let stretch = &self.$stretch;
                stretch.place(layout).ok_or_else(|| stretch.refusal(layout).into_alloc_error())
            }

            #[inline]
            unsafe fn deallocate(&self, ptr: std::ptr::NonNull<u8>, layout: std::alloc::Layout) {
                use crate::placing::Placing;
                // SAFETY: the caller's promises are the callee's.
                unsafe { self.$stretch.free(ptr, layout) }
            }

            #[inline]
            unsafe fn grow(
                &self,
                ptr: std::ptr::NonNull<u8>,
                old: std::alloc::Layout,
                new: std::alloc::Layout,
            ) -> Result<
                std::ptr::NonNull<[u8]>,
                nebula_memory_core::allocator_api2::alloc::AllocError,
            > {
                use crate::placing::Placing;
                let stretch = &self.$stretch;
                // SAFETY: the caller's promises are the callee's.
                let block = unsafe { stretch.grow(ptr, old, new) };
                block.ok_or_else(|| stretch.refusal(new).into_alloc_error())
            }

            #[inline]
            unsafe fn grow_zeroed(
                &self,
                ptr: std::ptr::NonNull<u8>,
                old: std::alloc::Layout,
                new: std::alloc::Layout,
            ) -> Result<
                std::ptr::NonNull<[u8]>,
                nebula_memory_core::allocator_api2::alloc::AllocError,
            > {
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
                ptr: std::ptr::NonNull<u8>,
                old: std::alloc::Layout,
                new: std::alloc::Layout,
            ) -> Result<
                std::ptr::NonNull<[u8]>,
                nebula_memory_core::allocator_api2::alloc::AllocError,
            > {
                use crate::placing::Placing;
                let stretch = &self.$stretch;
                // SAFETY: the caller's promises are the callee's.
                let block = unsafe { stretch.shrink(ptr, old, new) };
                block.ok_or_else(|| stretch.refusal(new).into_alloc_error())
            }
        }

        // SAFETY: every slice that is returned is `layout.size()` bytes long, and blocks of no
        // bytes are ignored.
        unsafe impl<$($generics)*> nebula_memory_core::Allocator for $type {
            #[inline]
            fn try_allocate(
                &self,
                layout: std::alloc::Layout,
            ) -> Result<std::ptr::NonNull<[u8]>, nebula_memory_core::MemoryError> {
                use crate::placing::Placing;
                let stretch = &self.$stretch;
                stretch.place(layout).ok_or_else(|| stretch.refusal(layout))
            }
        }
    };
}

pub(crate) use allocator_over;
