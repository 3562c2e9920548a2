//! One region and a cursor.
//!
//! Where blocks go is decided in `bumping`; here are the pointers.

use std::{
    alloc::Layout,
    cell::Cell,
    fmt,
    num::NonZero,
    ptr::{self, NonNull},
};

use nebula_memory_core::{
    Align, Allocator, Global, MemoryError, MemoryUsage, Resettable,
    allocator_api2::alloc::{AllocError, Allocator as Api2},
    layout::{is_aligned, layout},
};

use crate::{bumping, poison::poison, poison::unpoison};

/// The alignment of a region: what the system's heap gives without asking for more.
const REGION_ALIGN: usize = 16;

/// A fixed region that is handed out from its beginning to its end by moving a cursor.
///
/// Allocating is a handful of instructions. Freeing the last block moves the cursor back to where
/// that block began; freeing any other does nothing, its bytes come back with
/// [`reset`](Resettable::reset) (or when the last blocks before the cursor are freed in reverse
/// order). The last block grows and shrinks in place. Blocks of no bytes cost nothing. What does
/// not fit is refused with [`MemoryError::CapacityExceeded`]; the region never grows.
///
/// It serves one thread at a time: it is `Send`, not `Sync`. Collections take it by reference, or
/// by value when they are all that lives in it.
///
/// ```
/// use nebula_alloc::BumpAllocator;
/// use nebula_memory_core::{MemoryUsage, Resettable, TypedAllocator, allocator_api2::vec::Vec};
///
/// let mut bump = BumpAllocator::try_new(4096)?;
/// {
///     let mut squares = Vec::with_capacity_in(10, &bump);
///     squares.extend((0..100_u64).map(|i| i * i)); // grows in place
///     let name = bump.try_new(*b"nebula")?;
///     assert_eq!((squares[9], &*name), (81, b"nebula"));
///     assert_eq!(bump.used(), squares.capacity() * 8 + 6);
/// }
/// bump.reset();
/// assert_eq!(bump.available(), Some(4096));
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
///
/// Nothing that lives in the region outlives a reset:
///
/// ```compile_fail,E0502
/// use nebula_alloc::BumpAllocator;
/// use nebula_memory_core::{Resettable, TypedAllocator};
///
/// let mut bump = BumpAllocator::try_new(4096)?;
/// let number = bump.try_new(1_u32)?;
/// bump.reset();
/// assert_eq!(*number, 1);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
///
/// nor the allocator itself:
///
/// ```compile_fail,E0505
/// use nebula_alloc::BumpAllocator;
/// use nebula_memory_core::allocator_api2::vec::Vec;
///
/// let bump = BumpAllocator::try_new(4096)?;
/// let mut numbers = Vec::new_in(&bump);
/// drop(bump);
/// numbers.push(1);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
///
/// and it is not shared between threads:
///
/// ```compile_fail,E0277
/// use nebula_alloc::BumpAllocator;
/// use nebula_memory_core::allocator_api2::alloc::Allocator;
///
/// let bump = BumpAllocator::try_new(4096)?;
/// std::thread::scope(|s| {
///     s.spawn(|| drop(bump.by_ref()));
/// });
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub struct BumpAllocator<A: Allocator = Global> {
    /// The region, allocated by `base` with the layout `region_layout()`; its provenance covers
    /// all of it.
    start: NonNull<u8>,
    /// The address of the first free byte: `start <= cursor <= end`.
    cursor: Cell<usize>,
    /// The address after the last byte.
    end: usize,
    base: A,
}

// SAFETY: the region belongs to this value alone and the cursor moves with it; freeing on another
// thread goes through `base`, which must be `Send` for that. Blocks that are borrowed from
// `&BumpAllocator` pin it to its thread, because it is not `Sync`.
unsafe impl<A: Allocator + Send> Send for BumpAllocator<A> {}

impl BumpAllocator {
    /// A region of `capacity` bytes from the global allocator.
    ///
    /// # Errors
    /// - [`MemoryError::InvalidConfig`] if `capacity` is zero,
    /// - [`MemoryError::InvalidLayout`] if it is more than any allocation can have,
    /// - [`MemoryError::OutOfMemory`] if the system does not have it.
    pub fn try_new(capacity: usize) -> Result<Self, MemoryError> {
        Self::try_new_in(capacity, Global)
    }
}

impl<A: Allocator> BumpAllocator<A> {
    /// A region of `capacity` bytes from `base`, which gets it back when this is dropped.
    ///
    /// # Errors
    /// As [`try_new`](BumpAllocator::try_new), and with whatever `base` refuses.
    ///
    /// ```
    /// use nebula_alloc::{BumpAllocator, SystemAllocator};
    /// use nebula_memory_core::MemoryUsage;
    ///
    /// let system = SystemAllocator::new();
    /// let bump = BumpAllocator::try_new_in(1000, system.clone())?;
    /// assert_eq!(system.used(), 1000);
    /// drop(bump);
    /// assert_eq!(system.used(), 0);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn try_new_in(capacity: usize, base: A) -> Result<Self, MemoryError> {
        if capacity == 0 {
            return Err(MemoryError::invalid_config("capacity", capacity, "must be above zero"));
        }
        let region = base.try_allocate(layout(capacity, REGION_ALIGN)?)?;
        let start = region.cast::<u8>();
        poison(start, capacity);
        let address = start.addr().get();
        Ok(Self { start, cursor: Cell::new(address), end: address + capacity, base })
    }

    /// The allocator that the region came from.
    pub const fn base(&self) -> &A {
        &self.base
    }

    fn size(&self) -> usize {
        self.end - self.start.addr().get()
    }

    /// The pointer to an address of the region.
    ///
    /// # Safety
    /// `start <= address <= end`.
    #[inline]
    unsafe fn at(&self, address: usize) -> NonNull<u8> {
        debug_assert!(self.start.addr().get() <= address && address <= self.end);
        let pointer = self.start.as_ptr().with_addr(address);
        // SAFETY: the address is not below that of `start`, which is not null.
        unsafe { NonNull::new_unchecked(pointer) }
    }

    /// The whole fast path.
    #[inline]
    fn bump(&self, layout: Layout) -> Option<NonNull<[u8]>> {
        if layout.size() == 0 {
            return Some(empty(layout));
        }
        let place = bumping::place(self.cursor.get(), self.end, layout)?;
        self.cursor.set(place.end);
        // SAFETY: a place lies between the cursor and the end.
        let block = unsafe { self.at(place.start) };
        unpoison(block, layout.size());
        Some(NonNull::slice_from_raw_parts(block, layout.size()))
    }

    #[cold]
    #[inline(never)]
    fn refusal(&self, layout: Layout) -> MemoryError {
        MemoryError::CapacityExceeded {
            requested: layout.size(),
            available: bumping::room(self.cursor.get(), self.end, layout.align()),
            align: Align::new(layout.align()),
        }
    }

    /// Whether the block is the last, so that the bytes from its start on are this call's to
    /// give. Empty blocks have no bytes.
    #[inline]
    fn is_last(&self, ptr: NonNull<u8>, layout: Layout) -> bool {
        layout.size() != 0 && bumping::is_last(ptr.addr().get(), layout.size(), self.cursor.get())
    }

    /// Frees the last block and places one of `new` there; the first `keep` bytes are kept. On
    /// `None` nothing has changed.
    ///
    /// # Safety
    /// `ptr` is the last block, `old` fits it, and `keep` is at most either size.
    #[inline]
    unsafe fn replace_last(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
        keep: usize,
    ) -> Option<NonNull<[u8]>> {
        let start = ptr.addr().get();
        if new.size() == 0 {
            self.cursor.set(start);
            poison(ptr, old.size());
            return Some(empty(new));
        }
        let place = bumping::place(start, self.end, new)?;
        self.cursor.set(place.end);
        // SAFETY: a place lies between the start of the last block and the end of the region.
        let block = unsafe { self.at(place.start) };
        unpoison(block, new.size());
        if place.start != start {
            // SAFETY: `keep` bytes are readable in the old block and writable in the new one, and
            // the two may overlap. Nobody else uses either: the caller gave up the old block.
            unsafe { ptr.copy_to(block, keep) };
            poison(ptr, place.start - start);
        }
        let old_end = start + old.size();
        if place.end < old_end {
            // SAFETY: the end of a place lies in the region.
            poison(unsafe { self.at(place.end) }, old_end - place.end);
        }
        Some(NonNull::slice_from_raw_parts(block, new.size()))
    }

    /// Places a block of `new` elsewhere and copies `keep` bytes to it; the old block is lost to
    /// the region until it is reset. On `None` nothing has changed.
    ///
    /// # Safety
    /// `old` fits the live block at `ptr`, and `keep` is at most either size.
    #[inline]
    unsafe fn relocate(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
        keep: usize,
    ) -> Option<NonNull<[u8]>> {
        let block = self.bump(new)?;
        // SAFETY: `keep` bytes are readable in the old block and writable in the new one; two live
        // blocks do not overlap.
        unsafe { ptr::copy_nonoverlapping(ptr.as_ptr(), block.cast().as_ptr(), keep) };
        poison(ptr, old.size());
        Some(block)
    }
}

/// A block of no bytes: an address with the right alignment, and nothing behind it.
#[inline]
fn empty(layout: Layout) -> NonNull<[u8]> {
    let align = NonZero::new(layout.align()).unwrap_or(NonZero::<usize>::MIN);
    NonNull::slice_from_raw_parts(NonNull::dangling().with_addr(align), 0)
}

// SAFETY: blocks lie in the region, which stays where it is until this value is dropped (moving it
// moves the pointers only, and it is not `Clone`); `reset` needs `&mut self`, so that no borrow is
// left. Live blocks do not overlap: a block is placed at or after the cursor, the cursor moves past
// it, and moves back only over a block that its owner gave up and that nothing follows.
unsafe impl<A: Allocator> Api2 for BumpAllocator<A> {
    #[inline]
    fn allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, AllocError> {
        self.bump(layout).ok_or_else(|| self.refusal(layout).into_alloc_error())
    }

    #[inline]
    unsafe fn deallocate(&self, ptr: NonNull<u8>, layout: Layout) {
        poison(ptr, layout.size());
        if self.is_last(ptr, layout) {
            self.cursor.set(ptr.addr().get());
        }
    }

    #[inline]
    unsafe fn grow(
        &self,
        ptr: NonNull<u8>,
        old: Layout,
        new: Layout,
    ) -> Result<NonNull<[u8]>, AllocError> {
        let block = if self.is_last(ptr, old) {
            // SAFETY: it is the last block, `old` fits it as the caller promises, and the old size
            // is at most the new one.
            unsafe { self.replace_last(ptr, old, new, old.size()) }
        } else {
            // SAFETY: `old` fits the live block, and its size is at most the new one.
            unsafe { self.relocate(ptr, old, new, old.size()) }
        };
        block.ok_or_else(|| self.refusal(new).into_alloc_error())
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
        let block = if self.is_last(ptr, old) {
            // SAFETY: it is the last block, `old` fits it as the caller promises, and the new size
            // is at most the old one.
            unsafe { self.replace_last(ptr, old, new, new.size()) }
        } else if is_aligned(ptr.addr().get(), new.align()) {
            // SAFETY: the new size is at most the old one, so that the sum lies in the block.
            poison(unsafe { ptr.add(new.size()) }, old.size() - new.size());
            Some(NonNull::slice_from_raw_parts(ptr, new.size()))
        } else {
            // SAFETY: `old` fits the live block, and the new size is at most its size.
            unsafe { self.relocate(ptr, old, new, new.size()) }
        };
        block.ok_or_else(|| self.refusal(new).into_alloc_error())
    }
}

// SAFETY: every slice that is returned is `layout.size()` bytes long.
unsafe impl<A: Allocator> Allocator for BumpAllocator<A> {
    #[inline]
    fn try_allocate(&self, layout: Layout) -> Result<NonNull<[u8]>, MemoryError> {
        self.bump(layout).ok_or_else(|| self.refusal(layout))
    }
}

/// Bytes before the cursor are in use: blocks, the padding between them, and what was freed out of
/// order.
impl<A: Allocator> MemoryUsage for BumpAllocator<A> {
    fn used(&self) -> usize {
        self.cursor.get() - self.start.addr().get()
    }

    fn capacity(&self) -> Option<usize> {
        Some(self.size())
    }
}

/// The cursor goes back to the start; the region is kept.
impl<A: Allocator> Resettable for BumpAllocator<A> {
    fn reset(&mut self) {
        self.cursor.set(self.start.addr().get());
        poison(self.start, self.size());
    }
}

impl<A: Allocator> Drop for BumpAllocator<A> {
    fn drop(&mut self) {
        let size = self.size();
        unpoison(self.start, size);
        // SAFETY: the layout is the one that the region was allocated with, whose validity was
        // checked then.
        let layout = unsafe { Layout::from_size_align_unchecked(size, REGION_ALIGN) };
        // SAFETY: the region was allocated by `base` with this layout, and nobody can use it after
        // this value.
        unsafe { self.base.deallocate(self.start, layout) };
    }
}

impl<A: Allocator> fmt::Debug for BumpAllocator<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BumpAllocator")
            .field("used", &self.used())
            .field("capacity", &self.size())
            .finish_non_exhaustive()
    }
}
