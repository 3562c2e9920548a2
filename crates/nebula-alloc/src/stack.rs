//! Last in, first out: a region, and frames in it.

use std::{alloc::Layout, fmt, ptr::NonNull};

use nebula_memory_core::{
    Allocator, Global, MemoryError, MemoryUsage, Resettable, layout::layout as checked_layout,
};

use crate::{
    lifo::Lifo,
    placing::allocator_over,
    poison::unpoison,
    stacking::{GRAIN, grains},
};

/// A fixed region whose blocks are freed in the reverse order of their allocation.
///
/// Allocating and freeing are a handful of instructions each. Freeing the top block gives back all
/// that it took, the padding before it included. A block that is freed while others lie above it is
/// not lost: its bytes come back as soon as everything above is gone, and
/// [`out_of_order`](Self::out_of_order) counts it; [`try_free`](Self::try_free) refuses to do it
/// and says how far from the top the block is. The top block grows and shrinks in place.
///
/// What is only needed for a while goes into a [`frame`](Self::frame), which takes everything back
/// at its end; borrows make sure that nothing outlives it.
///
/// Every block takes a multiple of 16 bytes, one at a larger alignment up to that alignment more.
/// Blocks of no bytes cost nothing. What does not fit is refused with
/// [`MemoryError::CapacityExceeded`]; the region never grows. It serves one thread at a time: it is
/// `Send`, not `Sync`.
///
/// ```
/// use nebula_alloc::StackAllocator;
/// use nebula_memory_core::{MemoryUsage, allocator_api2::vec::Vec};
///
/// let stack = StackAllocator::try_new(64 << 10)?;
/// let mut results = Vec::with_capacity_in(10, &stack);
/// for request in 0..10_u64 {
///     let frame = stack.frame();
///     let mut scratch = Vec::new_in(&frame);
///     scratch.extend((0..100).map(|i| i * request));
///     results.push(scratch.iter().sum::<u64>());
/// } // the frame ends, and with it what was allocated in it
/// assert_eq!(stack.used(), 80);
/// drop(results);
/// assert_eq!(stack.used(), 0);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
///
/// Nothing outlives the frame that it was allocated in:
///
/// ```compile_fail,E0597
/// use nebula_alloc::StackAllocator;
/// use nebula_memory_core::TypedAllocator;
///
/// let stack = StackAllocator::try_new(4096)?;
/// let number = {
///     let frame = stack.frame();
///     frame.try_new(1_u32)?
/// };
/// assert_eq!(*number, 1);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
///
/// nor a frame its stack:
///
/// ```compile_fail,E0505
/// use nebula_alloc::StackAllocator;
/// use nebula_memory_core::TypedAllocator;
///
/// let stack = StackAllocator::try_new(4096)?;
/// let frame = stack.frame();
/// drop(stack);
/// drop(frame);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub struct StackAllocator<A: Allocator = Global> {
    lifo: Lifo,
    /// Bytes of the region as it was allocated, of which the stretch may leave the last ones unused.
    size: usize,
    base: A,
}

// SAFETY: the region belongs to this value alone; freeing it on another thread goes through `base`,
// which must be `Send` for that. Blocks and frames that borrow from it pin it to its thread,
// because it is not `Sync`.
unsafe impl<A: Allocator + Send> Send for StackAllocator<A> {}

impl StackAllocator {
    /// A region of `capacity` bytes, rounded up to a multiple of 16, from the global allocator.
    ///
    /// # Errors
    /// - [`MemoryError::InvalidConfig`] if `capacity` is zero,
    /// - [`MemoryError::InvalidLayout`] if it is more than any allocation can have,
    /// - [`MemoryError::OutOfMemory`] if the system does not have it.
    pub fn try_new(capacity: usize) -> Result<Self, MemoryError> {
        Self::try_new_in(capacity, Global)
    }
}

impl<A: Allocator> StackAllocator<A> {
    /// A region of `capacity` bytes, rounded up to a multiple of 16, from `base`, which gets it
    /// back when this is dropped.
    ///
    /// # Errors
    /// As [`try_new`](StackAllocator::try_new), and with whatever `base` refuses.
    pub fn try_new_in(capacity: usize, base: A) -> Result<Self, MemoryError> {
        if capacity == 0 {
            return Err(MemoryError::invalid_config("capacity", capacity, "must be above zero"));
        }
        let size = grains(checked_layout(capacity, GRAIN)?.size());
        let layout = checked_layout(size, GRAIN)?;
        let start = base.try_allocate(layout)?.cast::<u8>();
        // SAFETY: the region was allocated with this size, at the grain's alignment, and belongs to
        // this value until it is dropped.
        let lifo = unsafe { Lifo::new(start, size) };
        let stack = Self { lifo, size, base };
        if stack.lifo.size() == 0 {
            // Not in the part of the address space that programs have; it goes back.
            return Err(MemoryError::out_of_memory(layout));
        }
        Ok(stack)
    }

    /// The allocator that the region came from.
    pub const fn base(&self) -> &A {
        &self.base
    }
}

allocator_over!([A: Allocator] StackAllocator<A>, lifo);

impl<A: Allocator> Drop for StackAllocator<A> {
    fn drop(&mut self) {
        let start = self.lifo.start();
        unpoison(start, self.size);
        // SAFETY: the layout is the one that the region was allocated with, whose validity was
        // checked then.
        let layout = unsafe { Layout::from_size_align_unchecked(self.size, GRAIN) };
        // SAFETY: the region was allocated by `base` with this layout, and nobody can use it after
        // this value.
        unsafe { self.base.deallocate(start, layout) };
    }
}

/// All that is above the top of a [`StackAllocator`] or of another frame, until it is dropped.
///
/// It is an allocator of its own, with the same properties. While it is open, the one below has
/// nothing left to give, but its blocks can be used and freed as before; when it is dropped, the
/// one below has everything back. Frames may be dropped in any order. A frame that is leaked
/// (`std::mem::forget`) keeps its bytes until the one below is reset.
///
/// ```
/// use nebula_alloc::StackAllocator;
/// use nebula_memory_core::{MemoryUsage, TypedAllocator};
///
/// /// The depth of a tree, with scratch space at every level.
/// fn depth(level: u32, frame: &nebula_alloc::StackFrame<'_>) -> u32 {
///     let inner = frame.frame();
///     match inner.try_new([level; 100]) {
///         Ok(scratch) if scratch[99] < 5 => depth(level + 1, &inner),
///         _ => level,
///     }
/// }
///
/// let stack = StackAllocator::try_new(4096)?;
/// assert_eq!(depth(0, &stack.frame()), 5);
/// assert_eq!(stack.used(), 0);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[must_use = "a frame ends when it is dropped"]
pub struct StackFrame<'a> {
    lifo: Lifo,
    below: &'a Lifo,
}

allocator_over!(['a] StackFrame<'a>, lifo);

impl Drop for StackFrame<'_> {
    fn drop(&mut self) {
        // SAFETY: it was lent by the one below when the frame was opened, and is returned here
        // only; blocks borrow the frame, so that none is left.
        unsafe { self.below.return_rest(&self.lifo) };
    }
}

/// How high a stack or a frame was at one moment: what to go back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackMarker {
    address: usize,
}

/// What a stack and a frame can both do.
macro_rules! stack_methods {
    ([$($generics:tt)*] $type:ty, $name:literal) => {
        impl<$($generics)*> $type {
            /// Opens a frame: everything above the top, until it is dropped. Takes O(1).
            pub fn frame(&self) -> StackFrame<'_> {
                StackFrame { lifo: self.lifo.lend_rest(), below: &self.lifo }
            }

            /// How high it is now, for [`release_to`](Self::release_to).
            pub fn marker(&self) -> StackMarker {
                StackMarker { address: self.lifo.top() }
            }

            /// Takes back everything that was allocated since `marker` was made, whoever has it;
            /// `&mut` proves that no borrow is left. Takes O(blocks freed out of order above it).
            ///
            /// A [`frame`](Self::frame) does the same while blocks from before are borrowed.
            ///
            /// ```
            /// use nebula_alloc::StackAllocator;
            /// use nebula_memory_core::{MemoryUsage, TypedAllocator};
            ///
            /// let mut stack = StackAllocator::try_new(4096)?;
            /// std::mem::forget(stack.try_new([1_u8; 32])?);
            /// let marker = stack.marker();
            /// std::mem::forget(stack.try_new([2_u8; 64])?);
            /// stack.release_to(marker)?;
            /// assert_eq!(stack.used(), 32);
            /// # Ok::<(), nebula_memory_core::MemoryError>(())
            /// ```
            ///
            /// # Errors
            /// [`MemoryError::NotTopOfStack`] if the marker is not at or below the top: more than
            /// what came after it was given back already, or it is another allocator's. Nothing
            /// has changed then.
            ///
            /// A marker is a place. One that is used after more than what came after it was given
            /// back, and then taken again, is not told from a new one; and a block from before it
            /// that has grown past it since loses what lies beyond. (No borrow can.)
            pub fn release_to(&mut self, marker: StackMarker) -> Result<(), MemoryError> {
                self.lifo.release_to(marker.address)
            }

            /// Frees the block at `ptr` if it is the top one.
            ///
            /// # Errors
            /// [`MemoryError::NotTopOfStack`] with its distance from the top if it is not; it is
            /// not freed then.
            ///
            /// # Safety
            /// As `deallocate`: `ptr` is a live block of this allocator, `layout` fits it, and if
            /// it is freed, it is not used again.
            ///
            /// ```
            /// use std::alloc::Layout;
            /// use nebula_alloc::StackAllocator;
            /// use nebula_memory_core::{Allocator, MemoryError};
            ///
            /// let stack = StackAllocator::try_new(4096)?;
            /// let layout = Layout::new::<[u64; 4]>();
            /// let (first, second) = (stack.try_allocate(layout)?, stack.try_allocate(layout)?);
            /// // SAFETY: both are live blocks of this layout, each is freed once.
            /// let early = unsafe { stack.try_free(first.cast(), layout) };
            /// assert_eq!(early.unwrap_err().code(), "not_top_of_stack");
            /// // SAFETY: as above.
            /// unsafe { stack.try_free(second.cast(), layout) }?;
            /// // SAFETY: as above.
            /// unsafe { stack.try_free(first.cast(), layout) }?;
            /// # Ok::<(), MemoryError>(())
            /// ```
            #[inline]
            pub unsafe fn try_free(
                &self,
                ptr: NonNull<u8>,
                layout: Layout,
            ) -> Result<(), MemoryError> {
                // SAFETY: the caller's promises are the callee's.
                unsafe { self.lifo.try_free(ptr, layout) }
            }

            /// How many blocks were given up (freed, or moved elsewhere to grow) while others lay
            /// above them, those of closed frames included.
            pub fn out_of_order(&self) -> u64 {
                self.lifo.out_of_order()
            }
        }

        /// Bytes below the top are in use: blocks in whole grains, padding, what was freed out of
        /// order and is still covered, and an open frame, which takes all the rest.
        impl<$($generics)*> MemoryUsage for $type {
            fn used(&self) -> usize {
                self.lifo.used()
            }

            fn capacity(&self) -> Option<usize> {
                Some(self.lifo.size())
            }
        }

        /// The top goes back to the start; the memory is kept.
        impl<$($generics)*> Resettable for $type {
            fn reset(&mut self) {
                self.lifo.reset();
            }
        }

        impl<$($generics)*> fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct($name)
                    .field("used", &self.lifo.used())
                    .field("capacity", &self.lifo.size())
                    .field("out_of_order", &self.lifo.out_of_order())
                    .finish_non_exhaustive()
            }
        }
    };
}

stack_methods!([A: Allocator] StackAllocator<A>, "StackAllocator");
stack_methods!(['a] StackFrame<'a>, "StackFrame");
