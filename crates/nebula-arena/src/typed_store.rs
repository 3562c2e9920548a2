//! What a typed arena is made of, without the name of its type: so the compiler's drop check looks
//! at the type that the arena says it holds, and at nothing else.

use std::{alloc::Layout, cell::Cell, mem::needs_drop, ptr::NonNull};

use nebula_memory_core::{
    Allocator, MemoryError, allocator_api2::vec::Vec, last_refusal, layout::array_layout,
};

use crate::{
    ArenaConfig, Keep,
    bumping::Request,
    typed_values::{Line, RawSlices, drop_all},
};

/// A line of chunks full of values of one type, its allocator, and how to drop the values.
pub(crate) struct Store<A: Allocator> {
    pub(crate) line: Line,
    /// How many values there are, if they have no bytes.
    pub(crate) sizeless: Cell<usize>,
    /// Drops all values in a line, or as many without bytes.
    pub(crate) drop_values: unsafe fn(&Line, usize),
    pub(crate) allocator: A,
    pub(crate) config: ArenaConfig,
}

/// # Safety
/// The line holds nothing but initialised `T`s, which are the caller's to drop.
unsafe fn drop_values<T>(line: &Line, sizeless: usize) {
    if needs_drop::<T>() {
        // SAFETY: the caller's promises are the callee's.
        unsafe { drop_all(RawSlices::<T>::new(line, sizeless)) };
    }
}

/// For a line whose values are somebody else's. Safe.
pub(crate) unsafe fn drop_nothing(_: &Line, _: usize) {}

#[cold]
pub(crate) fn too_many<T>() -> MemoryError {
    MemoryError::InvalidLayout { size: usize::MAX, align: align_of::<T>() }
}

impl<A: Allocator> Store<A> {
    /// For values of `T`, and no others. The configuration is valid.
    pub(crate) const fn new<T>(config: ArenaConfig, allocator: A) -> Self {
        let (line, sizeless) = (Line::new(), Cell::new(0));
        Self { line, sizeless, drop_values: drop_values::<T>, allocator, config }
    }

    /// Room for one value, which the caller fills before it does anything else.
    #[inline(always)]
    pub(crate) fn room_for_one<T>(&self) -> Result<NonNull<T>, MemoryError> {
        if size_of::<T>() == 0 {
            return self.count_sizeless(1);
        }
        self.room(Request::value::<T>()).map(NonNull::cast)
    }

    /// Room for `len` values in a row, which the caller fills before it does anything else.
    pub(crate) fn room_for<T>(&self, len: usize) -> Result<NonNull<T>, MemoryError> {
        if size_of::<T>() == 0 {
            return self.count_sizeless(len);
        }
        if len == 0 {
            return Ok(NonNull::dangling());
        }
        self.room(Request::array::<T>(array_layout::<T>(len)?)).map(NonNull::cast)
    }

    fn count_sizeless<T>(&self, len: usize) -> Result<NonNull<T>, MemoryError> {
        let count = self.sizeless.get().checked_add(len).ok_or_else(too_many::<T>)?;
        self.sizeless.set(count);
        Ok(NonNull::dangling())
    }

    #[inline(always)]
    fn room(&self, request: Request) -> Result<NonNull<u8>, MemoryError> {
        match self.line.place(request) {
            Some(block) => Ok(block),
            None => self.room_elsewhere(request.layout()),
        }
    }

    /// The slow path: the rest of the current chunk is too small. Nothing goes aside, so that the
    /// order of chunks is that of allocation.
    #[cold]
    #[inline(never)]
    fn room_elsewhere(&self, layout: Layout) -> Result<NonNull<u8>, MemoryError> {
        self.line.place_elsewhere(&self.allocator, &self.config, layout, false)
    }

    pub(crate) fn try_reserve<T>(&self, additional: usize) -> Result<(), MemoryError> {
        let layout = array_layout::<T>(additional)?;
        if layout.size() == 0 {
            return Ok(());
        }
        let block = self.room(Request::array::<T>(layout))?;
        // SAFETY: the block was given out just now with this size, and nobody uses it. As it is the
        // latest, the room is free again.
        unsafe { self.line.free(block, layout.size()) };
        Ok(())
    }

    /// Drops all values and deals with the memory, in this order; but the store is empty before the
    /// first `Drop` runs.
    pub(crate) fn empty(&mut self, keep: Keep) {
        /// Puts the line back when the values are gone, also if a `Drop` panicked.
        struct Emptying<'a, A: Allocator> {
            store: &'a mut Store<A>,
            line: Line,
            keep: Keep,
        }

        impl<A: Allocator> Drop for Emptying<'_, A> {
            fn drop(&mut self) {
                // SAFETY: the values are dropped, and nobody borrows them any more; the allocator
                // is the one of all chunks.
                unsafe { self.line.reset(&self.store.allocator, self.keep) };
                std::mem::swap(&mut self.line, &mut self.store.line);
            }
        }

        let line = std::mem::replace(&mut self.line, Line::new());
        let sizeless = self.sizeless.replace(0);
        let emptying = Emptying { store: self, line, keep };
        // SAFETY: nobody borrows the values, as `&mut self` shows, and the line was emptied of them
        // above, so that nobody drops them again.
        unsafe { (emptying.store.drop_values)(&emptying.line, sizeless) };
    }
}

impl<A: Allocator> Drop for Store<A> {
    fn drop(&mut self) {
        self.empty(Keep::Nothing);
    }
}

/// A vector on the heap with room for `len` values.
pub(crate) fn vec_of<T>(len: usize) -> Result<std::vec::Vec<T>, MemoryError> {
    let mut values = std::vec::Vec::new();
    match values.try_reserve_exact(len) {
        Ok(()) => Ok(values),
        Err(_) => Err(MemoryError::out_of_memory(array_layout::<T>(len)?)),
    }
}

/// All of `values`, in a buffer from `allocator`.
pub(crate) fn collect<T, A: Allocator>(
    allocator: A,
    values: impl IntoIterator<Item = T>,
) -> Result<Vec<T, A>, MemoryError> {
    let values = values.into_iter();
    let mut buffer = Vec::new_in(allocator);
    reserve(&mut buffer, values.size_hint().0)?;
    for value in values {
        if buffer.len() == buffer.capacity() {
            reserve(&mut buffer, 1)?;
        }
        buffer.push(value);
    }
    Ok(buffer)
}

fn reserve<T, A: Allocator>(buffer: &mut Vec<T, A>, additional: usize) -> Result<(), MemoryError> {
    let (size, align) = (size_of::<T>().saturating_mul(additional), align_of::<T>());
    buffer
        .try_reserve(additional)
        .map_err(|_| last_refusal().unwrap_or(MemoryError::InvalidLayout { size, align }))
}
