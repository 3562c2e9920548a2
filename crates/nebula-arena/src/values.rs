//! Values, slices and strings in an arena. Each has a `try_` form, which the other one calls.

use std::{alloc::Layout, mem::needs_drop, ptr::NonNull};

use nebula_memory_core::{Allocator, MemoryError, Refused, layout::array_layout};

use crate::Arena;

/// The end of a call that cannot report an error.
#[cold]
#[inline(never)]
#[track_caller]
#[allow(clippy::needless_pass_by_value, reason = "the error ends here")]
fn refused(error: MemoryError) -> ! {
    panic!("arena allocation failed: {error}")
}

/// Refuses types that need dropping, when the program is compiled.
struct NoDrop<T>(T);

impl<T> NoDrop<T> {
    const REQUIRED: () = assert!(
        !needs_drop::<T>(),
        "an arena does not run Drop: put the value in a Box of the arena, or say alloc_without_drop"
    );
}

impl<A: Allocator> Arena<A> {
    /// Moves `value` into the arena.
    ///
    /// # Panics
    /// If the allocator refuses a chunk; [`try_alloc`](Self::try_alloc) reports it instead.
    #[inline(always)]
    #[track_caller]
    #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
    pub fn alloc<T>(&self, value: T) -> &mut T {
        match self.try_alloc(value) {
            Ok(place) => place,
            Err(refusal) => refused(refusal.into_error()),
        }
    }

    /// Moves `value` into the arena.
    ///
    /// # Errors
    /// `value` is handed back if the allocator refuses a chunk.
    ///
    /// ```
    /// use nebula_arena::{Arena, ArenaConfig};
    /// use nebula_memory_core::ByteSize;
    ///
    /// let small = ArenaConfig::builder().chunk_size(ByteSize::new(256)).capacity(ByteSize::new(256));
    /// let arena = Arena::with_config(small.build()?)?;
    /// let refused = arena.try_alloc([7_u8; 1000]).unwrap_err();
    /// assert_eq!(refused.error.code(), "capacity_exceeded");
    /// assert_eq!(refused.into_value()[999], 7);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
    pub fn try_alloc<T>(&self, value: T) -> Result<&mut T, Refused<T>> {
        const { NoDrop::<T>::REQUIRED };
        self.place(value)
    }

    /// Moves `value` into the arena; its `Drop` never runs, so that what it owns elsewhere leaks.
    ///
    /// # Panics
    /// If the allocator refuses a chunk.
    #[inline]
    #[track_caller]
    #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
    pub fn alloc_without_drop<T>(&self, value: T) -> &mut T {
        match self.try_alloc_without_drop(value) {
            Ok(place) => place,
            Err(refusal) => refused(refusal.into_error()),
        }
    }

    /// As [`alloc_without_drop`](Self::alloc_without_drop).
    ///
    /// # Errors
    /// `value` is handed back if the allocator refuses a chunk.
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
    pub fn try_alloc_without_drop<T>(&self, value: T) -> Result<&mut T, Refused<T>> {
        self.place(value)
    }

    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
    fn place<T>(&self, value: T) -> Result<&mut T, Refused<T>> {
        match self.block(Layout::new::<T>()) {
            Ok(block) => {
                let mut place = block.cast::<T>();
                // SAFETY: the block is aligned and sized for a `T`, and nobody else has it.
                unsafe { place.write(value) };
                // SAFETY: it now holds a `T`, stays valid while `self` is borrowed (only `&mut`
                // methods free chunks), and this is the one reference to it.
                Ok(unsafe { place.as_mut() })
            }
            Err(error) => Err(Refused::new(value, error)),
        }
    }

    /// Makes a value in the arena with `make`, which runs after room was found for it.
    ///
    /// If `make` panics, the room stays unused until the arena is reset.
    ///
    /// # Panics
    /// If the allocator refuses a chunk, or `make` panics.
    #[inline(always)]
    #[track_caller]
    #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
    pub fn alloc_with<T>(&self, make: impl FnOnce() -> T) -> &mut T {
        match self.try_alloc_with(make) {
            Ok(place) => place,
            Err(error) => refused(error),
        }
    }

    /// As [`alloc_with`](Self::alloc_with).
    ///
    /// # Errors
    /// If the allocator refuses a chunk; `make` is not called then.
    #[inline(always)]
    #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
    pub fn try_alloc_with<T>(&self, make: impl FnOnce() -> T) -> Result<&mut T, MemoryError> {
        const { NoDrop::<T>::REQUIRED };
        let mut place = self.block(Layout::new::<T>())?.cast::<T>();
        // SAFETY: the block is aligned and sized for a `T`, and nobody else has it, `make`
        // included.
        unsafe { place.write(make()) };
        // SAFETY: as in `place`.
        Ok(unsafe { place.as_mut() })
    }

    /// Copies `values` into the arena.
    ///
    /// # Panics
    /// If the allocator refuses a chunk.
    #[inline]
    #[track_caller]
    #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
    pub fn alloc_slice_copy<T: Copy>(&self, values: &[T]) -> &mut [T] {
        match self.try_alloc_slice_copy(values) {
            Ok(slice) => slice,
            Err(error) => refused(error),
        }
    }

    /// Copies `values` into the arena.
    ///
    /// # Errors
    /// If the allocator refuses a chunk.
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
    pub fn try_alloc_slice_copy<T: Copy>(&self, values: &[T]) -> Result<&mut [T], MemoryError> {
        let block = self.block(Layout::for_value(values))?.cast::<T>();
        // SAFETY: source and block are each valid for `values.len()` aligned values; the block is
        // fresh, so that they don't overlap.
        unsafe { values.as_ptr().copy_to_nonoverlapping(block.as_ptr(), values.len()) };
        // SAFETY: the block holds that many values, is ours alone, and lives as long as the borrow
        // of `self`.
        Ok(unsafe { NonNull::slice_from_raw_parts(block, values.len()).as_mut() })
    }

    /// A slice of `len` values, the i-th made by `make(i)`.
    ///
    /// If `make` panics, the room stays unused until the arena is reset.
    ///
    /// # Panics
    /// If the allocator refuses a chunk, or `make` panics.
    #[inline]
    #[track_caller]
    #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
    pub fn alloc_slice_with<T>(&self, len: usize, make: impl FnMut(usize) -> T) -> &mut [T] {
        match self.try_alloc_slice_with(len, make) {
            Ok(slice) => slice,
            Err(error) => refused(error),
        }
    }

    /// As [`alloc_slice_with`](Self::alloc_slice_with).
    ///
    /// # Errors
    /// If the slice is too large for any memory, or the allocator refuses a chunk; `make` is not
    /// called then.
    ///
    /// ```
    /// let arena = nebula_arena::Arena::new();
    /// assert_eq!(arena.try_alloc_slice_with(4, |i| i * i)?, &mut [0, 1, 4, 9]);
    /// assert!(arena.try_alloc_slice_with(usize::MAX, |i| i).is_err());
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
    pub fn try_alloc_slice_with<T>(
        &self,
        len: usize,
        mut make: impl FnMut(usize) -> T,
    ) -> Result<&mut [T], MemoryError> {
        const { NoDrop::<T>::REQUIRED };
        let block = self.block(array_layout::<T>(len)?)?.cast::<T>();
        for i in 0..len {
            // SAFETY: `i < len`, so that the place lies in the block.
            let place = unsafe { block.add(i) };
            // SAFETY: it is aligned and sized for a `T`, and nobody else has it, `make` included.
            // Nothing has to be dropped if `make` panics: `T` needs no dropping.
            unsafe { place.write(make(i)) };
        }
        // SAFETY: all `len` values are written; the block is ours alone and lives as long as the
        // borrow of `self`.
        Ok(unsafe { NonNull::slice_from_raw_parts(block, len).as_mut() })
    }

    /// Clones `values` into the arena.
    ///
    /// # Panics
    /// If the allocator refuses a chunk, or a `clone` panics.
    #[inline]
    #[track_caller]
    #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
    pub fn alloc_slice_clone<T: Clone>(&self, values: &[T]) -> &mut [T] {
        self.alloc_slice_with(values.len(), |i| values[i].clone())
    }

    /// Clones `values` into the arena.
    ///
    /// # Errors
    /// If the allocator refuses a chunk.
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
    pub fn try_alloc_slice_clone<T: Clone>(&self, values: &[T]) -> Result<&mut [T], MemoryError> {
        self.try_alloc_slice_with(values.len(), |i| values[i].clone())
    }

    /// Copies `text` into the arena.
    ///
    /// # Panics
    /// If the allocator refuses a chunk.
    #[inline]
    #[track_caller]
    #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
    pub fn alloc_str(&self, text: &str) -> &mut str {
        match self.try_alloc_str(text) {
            Ok(copy) => copy,
            Err(error) => refused(error),
        }
    }

    /// Copies `text` into the arena.
    ///
    /// # Errors
    /// If the allocator refuses a chunk.
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]
    pub fn try_alloc_str(&self, text: &str) -> Result<&mut str, MemoryError> {
        let bytes = self.try_alloc_slice_copy(text.as_bytes())?;
        // SAFETY: the bytes are a copy of a `str`.
        Ok(unsafe { std::str::from_utf8_unchecked_mut(bytes) })
    }
}
