//! One region and a cursor.

use std::{alloc::Layout, fmt};

use nebula_memory_core::{
    Allocator, Global, MemoryError, MemoryUsage, Resettable, layout::layout as checked_layout,
};

use crate::{Exclusive, Mode, Shared, placing::allocator_over, poison::unpoison, region::Region};

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
/// What is only needed for a while goes into a [`scope`](Self::scope), which takes everything back
/// at its end; borrows make sure that nothing outlives it.
///
/// The mode is chosen by the constructor. [`try_new`](BumpAllocator::try_new) makes one for a
/// single thread at a time: it is `Send`, not `Sync`. [`try_shared`](BumpAllocator::try_shared)
/// makes one for any number of threads, without locks: an allocation is one atomic exchange of the
/// cursor, which is tried again when another thread was faster, and a request is refused only if
/// it does not fit at that moment. Collections take either by reference, or by value when they are
/// all that lives in it.
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
/// The form for one thread is not shared:
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
///
/// the form for many is:
///
/// ```
/// use nebula_alloc::BumpAllocator;
/// use nebula_memory_core::{MemoryUsage, TypedAllocator};
///
/// let bump = BumpAllocator::try_shared(4096)?;
/// let numbers = std::thread::scope(|s| {
///     let threads = [1_u64, 2, 3].map(|n| {
///         let bump = &bump;
///         s.spawn(move || bump.try_new(n))
///     });
///     threads.map(|thread| thread.join().unwrap().unwrap())
/// });
/// assert_eq!(numbers.iter().map(|number| **number).sum::<u64>(), 6);
/// assert_eq!(bump.used(), 24);
/// # drop(numbers);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub struct BumpAllocator<A: Allocator = Global, M: Mode = Exclusive> {
    /// The region, allocated by `base` with the alignment `REGION_ALIGN`.
    region: Region<M>,
    /// Bytes of the region as it was allocated.
    size: usize,
    base: A,
}

impl BumpAllocator {
    /// A region of `capacity` bytes from the global allocator, for one thread at a time.
    ///
    /// # Errors
    /// - [`MemoryError::InvalidConfig`] if `capacity` is zero,
    /// - [`MemoryError::InvalidLayout`] if it is more than any allocation can have,
    /// - [`MemoryError::OutOfMemory`] if the system does not have it.
    pub fn try_new(capacity: usize) -> Result<Self, MemoryError> {
        Self::try_new_in(capacity, Global)
    }
}

impl BumpAllocator<Global, Shared> {
    /// A region of `capacity` bytes from the global allocator, for any number of threads.
    ///
    /// # Errors
    /// As [`try_new`](BumpAllocator::try_new).
    pub fn try_shared(capacity: usize) -> Result<Self, MemoryError> {
        Self::try_shared_in(capacity, Global)
    }
}

impl<A: Allocator> BumpAllocator<A> {
    /// A region of `capacity` bytes from `base`, which gets it back when this is dropped, for one
    /// thread at a time.
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
        Self::with_mode(capacity, base)
    }
}

impl<A: Allocator> BumpAllocator<A, Shared> {
    /// A region of `capacity` bytes from `base`, which gets it back when this is dropped, for any
    /// number of threads.
    ///
    /// # Errors
    /// As [`try_new`](BumpAllocator::try_new), and with whatever `base` refuses.
    pub fn try_shared_in(capacity: usize, base: A) -> Result<Self, MemoryError> {
        Self::with_mode(capacity, base)
    }
}

impl<A: Allocator, M: Mode> BumpAllocator<A, M> {
    fn with_mode(capacity: usize, base: A) -> Result<Self, MemoryError> {
        if capacity == 0 {
            return Err(MemoryError::invalid_config("capacity", capacity, "must be above zero"));
        }
        let layout = checked_layout(capacity, REGION_ALIGN)?;
        let start = base.try_allocate(layout)?.cast::<u8>();
        // SAFETY: the region was allocated with this size, and belongs to this value until it is
        // dropped.
        let region = unsafe { Region::new(start, capacity) };
        let bump = Self { region, size: capacity, base };
        if bump.region.size() == 0 {
            // Not in the part of the address space that programs have; it goes back.
            return Err(MemoryError::out_of_memory(layout));
        }
        Ok(bump)
    }

    /// The allocator that the region came from.
    pub const fn base(&self) -> &A {
        &self.base
    }
}

allocator_over!([A: Allocator, M: Mode] BumpAllocator<A, M>, region);

impl<A: Allocator, M: Mode> Drop for BumpAllocator<A, M> {
    fn drop(&mut self) {
        let (start, size) = (self.region.start(), self.size);
        unpoison(start, size);
        // SAFETY: the layout is the one that the region was allocated with, whose validity was
        // checked then.
        let layout = unsafe { Layout::from_size_align_unchecked(size, REGION_ALIGN) };
        // SAFETY: the region was allocated by `base` with this layout, and nobody can use it after
        // this value.
        unsafe { self.base.deallocate(start, layout) };
    }
}

/// All that is left in a [`BumpAllocator`] or in another scope, until it is dropped.
///
/// It is an allocator of its own, with the same properties and for as many threads. While it is
/// open, the one around it has nothing left to give, but its blocks can be used as before; when it
/// is dropped, the one around it has everything back. A scope that is leaked (`std::mem::forget`)
/// keeps its bytes until the one around it is reset.
///
/// ```
/// use nebula_alloc::BumpAllocator;
/// use nebula_memory_core::{MemoryUsage, TypedAllocator, allocator_api2::vec::Vec};
///
/// let bump = BumpAllocator::try_new(64 << 10)?;
/// let mut sums = Vec::with_capacity_in(10, &bump);
/// for request in 0..10_u64 {
///     let scope = bump.scope();
///     let scratch = scope.try_new_slice(100, |i| i as u64 * request)?;
///     sums.push(scratch.iter().sum::<u64>());
/// }
/// assert_eq!((sums[9], bump.used()), (44_550, 80));
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
///
/// ```compile_fail,E0597
/// use nebula_alloc::BumpAllocator;
/// use nebula_memory_core::TypedAllocator;
///
/// let bump = BumpAllocator::try_new(4096)?;
/// let number = {
///     let scope = bump.scope();
///     scope.try_new(1_u32)?
/// };
/// assert_eq!(*number, 1);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[must_use = "a scope ends when it is dropped"]
pub struct BumpScope<'a, M: Mode = Exclusive> {
    region: Region<M>,
    around: &'a Region<M>,
}

allocator_over!(['a, M: Mode] BumpScope<'a, M>, region);

impl<M: Mode> Drop for BumpScope<'_, M> {
    fn drop(&mut self) {
        // SAFETY: it was lent by the one around when the scope was opened, and is returned here
        // only; blocks borrow the scope, so that none is left.
        unsafe { self.around.return_rest(&self.region) };
    }
}

/// How far a bump allocator or a scope was at one moment: what to go back to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BumpCheckpoint {
    address: usize,
}

/// What a bump allocator and a scope can both do.
macro_rules! bump_methods {
    ([$($generics:tt)*] $type:ty, $name:literal) => {
        impl<$($generics)*> $type {
            /// Opens a scope: everything that is left, until it is dropped. Takes O(1).
            pub fn scope(&self) -> BumpScope<'_, M> {
                BumpScope { region: self.region.lend_rest(), around: &self.region }
            }

            /// How far it is now, for [`restore`](Self::restore).
            pub fn checkpoint(&self) -> BumpCheckpoint {
                BumpCheckpoint { address: self.region.top() }
            }

            /// Takes back everything that was allocated since `checkpoint` was made, whoever has
            /// it; `&mut` proves that no borrow is left.
            ///
            /// A [`scope`](Self::scope) does the same while blocks from before are borrowed.
            ///
            /// ```
            /// use nebula_alloc::BumpAllocator;
            /// use nebula_memory_core::{MemoryUsage, TypedAllocator};
            ///
            /// let mut bump = BumpAllocator::try_new(4096)?;
            /// std::mem::forget(bump.try_new([1_u8; 30])?);
            /// let checkpoint = bump.checkpoint();
            /// std::mem::forget(bump.try_new([2_u8; 60])?);
            /// bump.restore(checkpoint)?;
            /// assert_eq!(bump.used(), 30);
            /// # Ok::<(), nebula_memory_core::MemoryError>(())
            /// ```
            ///
            /// # Errors
            /// [`MemoryError::NotTopOfStack`] if the checkpoint is not at or before the cursor:
            /// more than what came after it was given back already, or it is another allocator's.
            /// Nothing has changed then.
            ///
            /// A checkpoint is a place. One that is used after more than what came after it was
            /// given back, and then taken again, is not told from a new one; and a block from
            /// before it that has grown past it since loses what lies beyond. (No borrow can.)
            pub fn restore(&mut self, checkpoint: BumpCheckpoint) -> Result<(), MemoryError> {
                self.region.restore(checkpoint.address)
            }
        }

        /// Bytes before the cursor are in use: blocks, the padding between them, what was freed out
        /// of order, and an open scope, which takes all the rest.
        impl<$($generics)*> MemoryUsage for $type {
            fn used(&self) -> usize {
                self.region.used()
            }

            fn capacity(&self) -> Option<usize> {
                Some(self.region.size())
            }
        }

        /// The cursor goes back to the start; the memory is kept.
        impl<$($generics)*> Resettable for $type {
            fn reset(&mut self) {
                self.region.reset();
            }
        }

        impl<$($generics)*> fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct($name)
                    .field("used", &self.region.used())
                    .field("capacity", &self.region.size())
                    .finish_non_exhaustive()
            }
        }
    };
}

bump_methods!([A: Allocator, M: Mode] BumpAllocator<A, M>, "BumpAllocator");
bump_methods!(['a, M: Mode] BumpScope<'a, M>, "BumpScope");
