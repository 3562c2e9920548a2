//! Allocators that say why they refuse.
//!
//! The ecosystem's trait is `allocator_api2::alloc::Allocator`; ours adds an error with reasons and
//! one promise (no excess), so that everything here works with `allocator_api2::vec::Vec`, `Box`,
//! `hashbrown` and whatever else speaks that trait.

use std::{alloc::Layout, ptr::NonNull};

use allocator_api2::{
    alloc::{AllocError, Allocator as Api2, Global},
    boxed::Box,
    vec::Vec,
};

use crate::{MemoryError, Refused, layout::array_layout};

/// A provider of memory that says why it refuses.
///
/// `deallocate`, `grow` and `shrink` come from the trait that this one extends.
///
/// ```
/// use std::alloc::Layout;
/// use nebula_memory_core::{Allocator, Global};
/// use allocator_api2::alloc::Allocator as _;
///
/// let layout = Layout::new::<[u64; 4]>();
/// let block = Global.try_allocate(layout)?;
/// assert_eq!(block.len(), 32);
/// // SAFETY: the block was allocated by `Global` with this layout and is not used again.
/// unsafe { Global.deallocate(block.cast(), layout) };
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
///
/// # Safety
/// On top of the conditions of `allocator_api2::alloc::Allocator`:
/// - Every slice that an allocation, growth or shrinking returns is exactly `layout.size()` bytes
///   long. Containers free with the layout they asked for, so that an allocator that gave more
///   could not know what it gets back, and accounts would drift.
/// - A block of zero size holds nothing: `deallocate` with a layout of zero size does nothing, and
///   `grow` from one allocates, whatever the pointer. Containers leave such blocks behind, and
///   `allocator_api2`'s `Box` frees empty slices that were never allocated.
/// - `deallocate`, `grow` and `shrink` do not unwind once they have touched the block: a caller that
///   sees a panic would go on with one that is gone.
pub unsafe trait Allocator: Api2 {
    /// Allocates a block of `layout`, exactly `layout.size()` bytes long.
    ///
    /// # Errors
    /// What was asked, what was left, and whose limit it was. Nothing is allocated or charged then.
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError>;
}

// SAFETY: `Global` returns slices of `layout.size()` bytes and ignores blocks of zero size.
unsafe impl Allocator for Global {
    #[inline]
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        self.allocate(layout).map_err(|AllocError| MemoryError::out_of_memory(layout))
    }
}

// SAFETY: forwards to `A`, which fulfils the conditions.
unsafe impl<A: Allocator + ?Sized> Allocator for &A {
    #[inline]
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        (**self).try_allocate(layout)
    }
}

/// Any allocator that speaks `allocator_api2`, made one of ours: what it returns beyond the
/// requested size is cut off, blocks of zero size are kept from it, and its refusals become
/// [`MemoryError::OutOfMemory`].
///
/// ```
/// use std::alloc::{Layout, System};
/// use nebula_memory_core::{Allocator, Foreign, TypedAllocator};
///
/// let system = Foreign::new(System);
/// let answer = system.try_new(42_u64)?;
/// assert_eq!(*answer, 42);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Foreign<A>(A);

impl<A> Foreign<A> {
    /// Wraps `allocator`.
    pub const fn new(allocator: A) -> Self {
        Self(allocator)
    }

    /// The wrapped allocator.
    pub const fn get_ref(&self) -> &A {
        &self.0
    }

    /// The wrapped allocator, by value.
    pub fn into_inner(self) -> A {
        self.0
    }
}

/// The first `layout.size()` bytes of `block`.
#[inline]
const fn trim(block: NonNull<[u8]>, layout: Layout) -> NonNull<[u8]> {
    debug_assert!(block.len() >= layout.size());
    NonNull::slice_from_raw_parts(block.cast(), layout.size())
}

/// The block of zero size at `layout`'s alignment: it is nowhere.
#[inline]
const fn empty(layout: Layout) -> NonNull<[u8]> {
    let nowhere = std::ptr::without_provenance_mut(layout.align());
    // SAFETY: an alignment is not zero.
    let nowhere = unsafe { NonNull::new_unchecked(nowhere) };
    NonNull::slice_from_raw_parts(nowhere, 0)
}

// SAFETY: blocks come from `A` and stay valid as long as `A` (and clones of it, which behave like
// clones of `A`) says; a slice shortened to `layout.size()` still fits its block, because a block
// may be freed with any size from the requested one up to the returned one. Blocks of zero size
// never reach `A`, so that what it gets back is what it gave.
unsafe impl<A: Api2> Api2 for Foreign<A> {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(empty(layout));
        }
        Ok(trim(self.0.allocate(layout)?, layout))
    }

    #[inline]
    fn allocate_zeroed(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        if layout.size() == 0 {
            return Ok(empty(layout));
        }
        Ok(trim(self.0.allocate_zeroed(layout)?, layout))
    }

    #[inline]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        if layout.size() != 0 {
            // SAFETY: the caller's promises are the callee's.
            unsafe { self.0.deallocate(ptr, layout) }
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
        // SAFETY: the caller's promises are the callee's, and the block is one of `A`'s.
        Ok(trim(unsafe { self.0.grow(ptr, old, new) }?, new))
    }

    #[inline]
    unsafe fn grow_zeroed(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if old.size() == 0 {
            return self.allocate_zeroed(new);
        }
        // SAFETY: the caller's promises are the callee's, and the block is one of `A`'s.
        Ok(trim(unsafe { self.0.grow_zeroed(ptr, old, new) }?, new))
    }

    #[inline]
    unsafe fn shrink(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        if new.size() == 0 {
            // SAFETY: the block is live, has this layout, and the caller gives it up.
            unsafe { self.deallocate(ptr, old) };
            return Ok(empty(new));
        }
        // SAFETY: the caller's promises are the callee's, and the block is one of `A`'s, because
        // it is not smaller than `new`.
        Ok(trim(unsafe { self.0.shrink(ptr, old, new) }?, new))
    }
}

// SAFETY: every returned slice is trimmed to `layout.size()`; blocks of zero size are ignored.
unsafe impl<A: Api2> Allocator for Foreign<A> {
    #[inline]
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        self.allocate(layout).map_err(|AllocError| MemoryError::out_of_memory(layout))
    }
}

/// Values in boxes from an allocator, without raw layouts.
///
/// Implemented for every [`Allocator`]. The boxes borrow the allocator, run `Drop`, and free.
///
/// ```
/// use nebula_memory_core::{Global, TypedAllocator};
///
/// let name = Global.try_new(String::from("nebula"))?;
/// let squares = Global.try_new_slice(4, |i| i * i)?;
/// assert_eq!((name.as_str(), &squares[..]), ("nebula", &[0, 1, 4, 9][..]));
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub trait TypedAllocator: Allocator {
    /// Moves `value` into a box.
    ///
    /// # Errors
    /// `value` is handed back if there is no room.
    fn try_new<T>(&self, value: T) -> Result<Box<T, &Self>, Refused<T>> {
        let block = match self.try_allocate(Layout::new::<T>()) {
            Ok(block) => block.cast::<T>(),
            Err(error) => return Err(Refused::new(value, error)),
        };
        // SAFETY: the block has the size and alignment of `T`, is valid for writes, and nobody else
        // knows it.
        unsafe { block.write(value) };
        // SAFETY: the block was allocated by `self` with the layout of `T` and holds a `T`; `&Self`
        // is the same allocator.
        Ok(unsafe { Box::from_raw_in(block.as_ptr(), self) })
    }

    /// A boxed slice of `len` values, the i-th made by `make(i)`.
    ///
    /// If `make` panics, the values made so far are dropped and the memory is freed.
    ///
    /// # Errors
    /// If there is no room for `len` values; `make` is not called then.
    fn try_new_slice<T>(
        &self,
        len: usize,
        make: impl FnMut(usize) -> T,
    ) -> Result<Box<[T], &Self>, MemoryError> {
        let layout = array_layout::<T>(len)?;
        let mut values = if layout.size() == 0 {
            Vec::new_in(self)
        } else {
            let block = self.try_allocate(layout)?.cast::<T>();
            // SAFETY: the block was allocated by `self` with the layout of `[T; len]`; of it,
            // zero elements are initialised.
            unsafe { Vec::from_raw_parts_in(block.as_ptr(), 0, len, self) }
        };
        // Pushed within capacity, so that the vector neither grows nor, when boxed, shrinks.
        values.extend((0..len).map(make));
        Ok(values.into_boxed_slice())
    }
}

impl<A: Allocator + ?Sized> TypedAllocator for A {}
