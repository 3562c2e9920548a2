//! How values, slices and strings are made in whatever has room for them. One body for every
//! method, with and without `try_`, of every arena.
#![allow(clippy::mut_from_ref, reason = "every call returns memory of its own")]

use std::{alloc::Layout, mem::MaybeUninit, mem::needs_drop, ptr::NonNull};

use nebula_memory_core::{MemoryError, Refused, layout::array_layout};

use crate::{ArenaBox, bumping::Request};

/// What gives out room: an arena, a piece of one, a scope.
///
/// Blocks stay valid as long as a shared borrow of the source lives, and overlap nothing.
pub(crate) trait Source {
    /// Room for `request` at the cursor, if it is there. Blocks without bytes are aligned, too.
    fn place(&self, request: Request) -> Option<NonNull<u8>>;

    /// Room that was not at the cursor. Cold.
    fn place_elsewhere(&self, layout: Layout) -> Result<NonNull<u8>, MemoryError>;

    /// Room for `request`.
    #[inline(always)]
    fn block(&self, request: Request) -> Result<NonNull<u8>, MemoryError> {
        match self.place(request) {
            Some(block) => Ok(block),
            None => self.place_elsewhere(request.layout()),
        }
    }

    /// Takes back a block of `size` bytes if it was the latest.
    ///
    /// # Safety
    /// The block came from here, has this size, and is not used any more. Or the size is zero.
    unsafe fn free(&self, block: NonNull<u8>, size: usize);

    /// Gives a block of `old` the layout `new` without a fresh block, with the first bytes of its
    /// contents; `None` if that cannot be, and then nothing has changed.
    ///
    /// # Safety
    /// The block came from here with the layout `old`, and the caller is its only user. Or the old
    /// size is zero.
    unsafe fn resize(&self, block: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<u8>>;
}

/// The end of a call that cannot report an error.
#[cold]
#[inline(never)]
#[track_caller]
#[allow(clippy::needless_pass_by_value, reason = "the error ends here")]
pub(crate) fn refused(error: MemoryError) -> ! {
    panic!("arena allocation failed: {error}")
}

/// Refuses types that need dropping, when the program is compiled.
pub(crate) struct NoDrop<T>(T);

impl<T> NoDrop<T> {
    pub(crate) const REQUIRED: () = assert!(
        !needs_drop::<T>(),
        "an arena does not run Drop: take alloc_boxed, or say alloc_without_drop"
    );
}

#[inline(always)]
pub(crate) fn uninit<T>(source: &impl Source) -> Result<&mut MaybeUninit<T>, MemoryError> {
    let block = source.block(Request::value::<T>())?;
    // SAFETY: the block is aligned and sized for a `T`, nobody else has it, it stays valid while
    // the source is borrowed, and `MaybeUninit` needs no initialisation.
    Ok(unsafe { block.cast().as_mut() })
}

#[inline(always)]
pub(crate) fn value<T>(source: &impl Source, value: T) -> Result<&mut T, Refused<T>> {
    match uninit(source) {
        Ok(place) => Ok(place.write(value)),
        Err(error) => Err(Refused::new(value, error)),
    }
}

#[inline(always)]
pub(crate) fn value_with<T>(
    source: &impl Source,
    make: impl FnOnce() -> T,
) -> Result<&mut T, MemoryError> {
    // If `make` panics, the room stays unused.
    uninit(source).map(|place| place.write(make()))
}

#[inline(always)]
pub(crate) fn value_try_with<T, E>(
    source: &impl Source,
    make: impl FnOnce() -> Result<T, E>,
) -> Result<Result<&mut T, E>, MemoryError> {
    let place = uninit(source)?;
    match make() {
        Ok(value) => Ok(Ok(place.write(value))),
        Err(error) => {
            // SAFETY: the block came from this source with this size, and `place` ends here.
            unsafe { source.free(NonNull::from(place).cast(), size_of::<T>()) };
            Ok(Err(error))
        }
    }
}

#[inline(always)]
pub(crate) fn boxed<T>(source: &impl Source, new: T) -> Result<ArenaBox<'_, T>, Refused<T>> {
    value(source, new).map(ArenaBox::owning)
}

#[inline(always)]
pub(crate) fn uninit_slice<T>(
    source: &impl Source,
    len: usize,
) -> Result<&mut [MaybeUninit<T>], MemoryError> {
    let block = source.block(Request::array::<T>(array_layout::<T>(len)?))?;
    // SAFETY: the block is aligned and sized for `len` values of `T`, nobody else has it, it stays
    // valid while the source is borrowed, and `MaybeUninit` needs no initialisation.
    Ok(unsafe { NonNull::slice_from_raw_parts(block.cast(), len).as_mut() })
}

/// The slice as one of initialised values.
///
/// # Safety
/// All of them are.
#[inline(always)]
unsafe fn assume_init<T>(slice: &mut [MaybeUninit<T>]) -> &mut [T] {
    let slice: *mut [MaybeUninit<T>] = slice;
    // SAFETY: `MaybeUninit<T>` has the layout of `T`; the values are initialised, as the caller
    // promises; the pointer comes from a unique borrow, which ends here.
    unsafe { &mut *(slice as *mut [T]) }
}

#[inline(always)]
pub(crate) fn slice_copy<'a, T: Copy>(
    source: &'a impl Source,
    values: &[T],
) -> Result<&'a mut [T], MemoryError> {
    let block = source.block(Request::array::<T>(Layout::for_value(values)))?.cast::<T>();
    // SAFETY: the block has room for `values.len()` aligned values, and is fresh, so that it does
    // not overlap them.
    unsafe { block.as_ptr().copy_from_nonoverlapping(values.as_ptr(), values.len()) };
    // SAFETY: the values are initialised now; nobody else has the block, which stays valid while
    // the source is borrowed.
    Ok(unsafe { NonNull::slice_from_raw_parts(block, values.len()).as_mut() })
}

#[inline(always)]
pub(crate) fn str_copy<'a>(
    source: &'a impl Source,
    text: &str,
) -> Result<&'a mut str, MemoryError> {
    let bytes = slice_copy(source, text.as_bytes())?;
    // SAFETY: the bytes are a copy of a `str`.
    Ok(unsafe { std::str::from_utf8_unchecked_mut(bytes) })
}

#[inline]
pub(crate) fn slice_with<T>(
    source: &impl Source,
    len: usize,
    mut make: impl FnMut(usize) -> T,
) -> Result<&mut [T], MemoryError> {
    let slice = uninit_slice(source, len)?;
    for (i, place) in slice.iter_mut().enumerate() {
        // Nothing has to be dropped if `make` panics: `T` needs no dropping, or the caller's guard
        // does it.
        place.write(make(i));
    }
    // SAFETY: all `len` values are written.
    Ok(unsafe { assume_init(slice) })
}

/// Drops what has been made of a slice when the next value panics.
struct Made<T> {
    first: NonNull<T>,
    len: usize,
}

impl<T> Drop for Made<T> {
    fn drop(&mut self) {
        let made = NonNull::slice_from_raw_parts(self.first, self.len);
        // SAFETY: the first `len` values are initialised, and nobody will see them again.
        unsafe { made.drop_in_place() };
    }
}

#[inline]
pub(crate) fn boxed_slice_with<T>(
    source: &impl Source,
    len: usize,
    mut make: impl FnMut(usize) -> T,
) -> Result<ArenaBox<'_, [T]>, MemoryError> {
    let first = NonNull::from(uninit_slice::<T>(source, len)?).cast::<T>();
    let mut made = Made { first, len: 0 };
    while made.len < len {
        let value = make(made.len);
        // SAFETY: the place lies in the slice, which is ours.
        let place = unsafe { first.add(made.len) };
        // SAFETY: it is aligned, has room for a `T`, and holds none yet.
        unsafe { place.write(value) };
        made.len += 1;
    }
    std::mem::forget(made);
    let mut slice = NonNull::slice_from_raw_parts(first, len);
    // SAFETY: all `len` values are written; the pointer comes from a unique borrow that lives as
    // long as the source's.
    Ok(ArenaBox::owning(unsafe { slice.as_mut() }))
}
