//! References to arenas as allocators for collections.

use std::{alloc::Layout, ptr::NonNull};

use nebula_memory_core::{Allocator, allocator_api2::alloc::AllocError};

use crate::{Arena, Direction, Scope, bumping::Request, making::Source};

#[inline(always)]
pub(crate) fn sized(block: NonNull<u8>, layout: Layout) -> NonNull<[u8]> {
    NonNull::slice_from_raw_parts(block, layout.size())
}

/// A block of `layout`, with the error that collections understand. (One that says more would
/// burden the loops that this is inlined in.)
#[inline(always)]
pub(crate) fn allocate(source: &impl Source, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
    match source.place(Request::any(layout)) {
        Some(block) => Ok(sized(block, layout)),
        None => allocate_elsewhere(source, layout),
    }
}

#[cold]
#[inline(never)]
fn allocate_elsewhere(source: &impl Source, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
    match source.place_elsewhere(layout) {
        Ok(block) => Ok(sized(block, layout)),
        Err(error) => Err(error.into_alloc_error()),
    }
}

/// Gives a block of `old` the layout `new`, where it lies if it can be, or else as a fresh block.
///
/// # Safety
/// The block is the source's and fits `old`; on success the caller uses it no more.
#[inline(always)]
pub(crate) unsafe fn resize(
    source: &impl Source,
    ptr: NonNull<u8>,
    old: Layout,
    new: Layout,
) -> Result<NonNull<[u8]>, AllocError> {
    // SAFETY: the caller promises that the block is this source's and fits `old`.
    if let Some(block) = unsafe { source.resize(ptr, old, new) } {
        return Ok(sized(block, new));
    }
    // SAFETY: the caller's promises are the callee's.
    unsafe { relocate(source, ptr, old, new) }
}

/// Copies what fits of a block of `old` to a fresh block of `new`.
///
/// # Safety
/// As [`resize`].
#[inline(always)]
unsafe fn relocate(
    source: &impl Source,
    ptr: NonNull<u8>,
    old: Layout,
    new: Layout,
) -> Result<NonNull<[u8]>, AllocError> {
    let block = allocate(source, new)?.cast::<u8>();
    // SAFETY: both are valid for that many bytes, and the fresh block overlaps nothing.
    unsafe { ptr.copy_to_nonoverlapping(block, old.size().min(new.size())) };
    if new.size() == 0 {
        // SAFETY: the old block is this source's, and the caller gave it up.
        unsafe { source.free(ptr, old.size()) };
    } else {
        // It is not the latest any more, and of no use to anybody.
        crate::asan::forbid(ptr.as_ptr(), old.size());
    }
    Ok(sized(block, new))
}

/// Makes `&$type` an allocator. The invoker says why that is safe.
macro_rules! allocator_by_reference {
    ([$($generics:tt)*] $type:ty) => {
        // SAFETY: blocks lie in chunks that stay where they are until the arena gives them back,
        // which takes `&mut` or ownership of what is borrowed here, and so needs every copy of this
        // reference to be gone. Copies of the reference are the same allocator.
        unsafe impl<$($generics)*> ::nebula_memory_core::allocator_api2::alloc::Allocator for &$type {
            #[inline(always)]
            fn allocate(
                &self,
                layout: ::std::alloc::Layout,
            ) -> Result<
                ::std::ptr::NonNull<[u8]>,
                ::nebula_memory_core::allocator_api2::alloc::AllocError,
            > {
                $crate::allocator::allocate(*self, layout)
            }

            /// Takes the block back if it was the latest; otherwise it stays.
            #[inline(always)]
            unsafe fn deallocate(
                &self,
                ptr: ::std::ptr::NonNull<u8>,
                layout: ::std::alloc::Layout,
            ) {
                // SAFETY: the caller promises that the block is this arena's, fits the layout, and
                // is not used any more.
                unsafe { $crate::making::Source::free(*self, ptr, layout.size()) };
            }

            /// The latest block grows where it lies, if its chunk has room; others are copied.
            //
            // Collections grow seldom. Inlined, this takes the registers of the loops that fill more
            // than one of them.
            #[inline(never)]
            unsafe fn grow(
                &self,
                ptr: ::std::ptr::NonNull<u8>,
                old: ::std::alloc::Layout,
                new: ::std::alloc::Layout,
            ) -> Result<
                ::std::ptr::NonNull<[u8]>,
                ::nebula_memory_core::allocator_api2::alloc::AllocError,
            > {
                // SAFETY: the caller's promises are the callee's.
                unsafe { $crate::allocator::resize(*self, ptr, old, new) }
            }

            #[inline]
            unsafe fn grow_zeroed(
                &self,
                ptr: ::std::ptr::NonNull<u8>,
                old: ::std::alloc::Layout,
                new: ::std::alloc::Layout,
            ) -> Result<
                ::std::ptr::NonNull<[u8]>,
                ::nebula_memory_core::allocator_api2::alloc::AllocError,
            > {
                // SAFETY: the caller's promises are the callee's.
                let block = unsafe { self.grow(ptr, old, new) }?;
                // SAFETY: `old.size()` is at most the new size.
                let tail = unsafe { block.cast::<u8>().add(old.size()) };
                // SAFETY: the bytes behind the old ones belong to the block, which is the
                // caller's alone.
                unsafe { tail.write_bytes(0, new.size() - old.size()) };
                Ok(block)
            }

            /// Stays where it is (unless the new alignment wants otherwise); the latest block
            /// gives its tail back.
            #[inline]
            unsafe fn shrink(
                &self,
                ptr: ::std::ptr::NonNull<u8>,
                old: ::std::alloc::Layout,
                new: ::std::alloc::Layout,
            ) -> Result<
                ::std::ptr::NonNull<[u8]>,
                ::nebula_memory_core::allocator_api2::alloc::AllocError,
            > {
                // SAFETY: the caller's promises are the callee's.
                unsafe { $crate::allocator::resize(*self, ptr, old, new) }
            }
        }

        // SAFETY: every returned slice is `layout.size()` bytes long; blocks of zero size are
        // ignored when they are freed, and grown to fresh ones.
        unsafe impl<$($generics)*> ::nebula_memory_core::Allocator for &$type {
            #[inline]
            fn try_allocate(
                &self,
                layout: ::std::alloc::Layout,
            ) -> Result<::std::ptr::NonNull<[u8]>, ::nebula_memory_core::MemoryError> {
                let block = $crate::making::Source::block(*self, $crate::bumping::Request::any(layout))?;
                Ok($crate::allocator::sized(block, layout))
            }
        }
    };
}

pub(crate) use allocator_by_reference;

allocator_by_reference! {
    [A: Allocator, D: Direction, const MIN_ALIGN: usize] Arena<A, D, MIN_ALIGN>
}
allocator_by_reference! {
    ['s, A: Allocator, D: Direction, const MIN_ALIGN: usize] Scope<'s, A, D, MIN_ALIGN>
}
