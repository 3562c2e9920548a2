//! The values of one type that lie in a bump's chunks one behind the other.

use std::{marker::PhantomData, ptr::NonNull};

use nebula_memory_core::layout::padding_for;

use crate::{
    Up,
    bump::Bump,
    chunk::{CHUNK_ALIGN, Chunk},
};

/// The bump of an arena for values of one type: upwards, without gaps, nothing aside, so that the
/// order of addresses and chunks is that of allocation.
pub(crate) type Line = Bump<Up, 1>;

/// The values in the first `used` bytes of a chunk.
fn values_in<T>(chunk: Chunk, used: usize) -> NonNull<[T]> {
    let start = chunk.start();
    // Only the first value may need padding: a size is a multiple of its alignment.
    let padding = padding_for(start.addr(), align_of::<T>());
    if used <= padding {
        return NonNull::slice_from_raw_parts(NonNull::dangling(), 0);
    }
    let first = start.wrapping_add(padding).cast();
    // SAFETY: it lies in the used part of the chunk.
    let first = unsafe { NonNull::new_unchecked(first) };
    NonNull::slice_from_raw_parts(first, (used - padding) / size_of::<T>())
}

/// The slices of values in a line's chunks, from either end. The pointers are good for as long as
/// the line has its chunks; slices may be empty.
pub(crate) struct RawSlices<T> {
    /// The first and the last chunk of those that are left.
    left: Option<(Chunk, Chunk)>,
    current: Option<Chunk>,
    used_in_current: usize,
    /// Values without bytes, which lie nowhere, and are all that there is then.
    sizeless: usize,
    values: PhantomData<NonNull<T>>,
}

impl<T> Clone for RawSlices<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for RawSlices<T> {}

impl<T> RawSlices<T> {
    /// Those of `line`, which holds nothing but `T`, or of `sizeless` values without bytes.
    pub(crate) fn new(line: &Line, sizeless: usize) -> Self {
        let left = line.ends();
        Self {
            left,
            current: left.map(|(_, current)| current),
            used_in_current: line.used_in_current(),
            sizeless,
            values: PhantomData,
        }
    }

    fn values(&self, chunk: Chunk) -> NonNull<[T]> {
        let used = if Some(chunk) == self.current {
            self.used_in_current
        } else {
            chunk.header().used.get()
        };
        values_in(chunk, used)
    }

    fn take_sizeless(&mut self) -> Option<NonNull<[T]>> {
        match std::mem::take(&mut self.sizeless) {
            0 => None,
            len => Some(NonNull::slice_from_raw_parts(NonNull::dangling(), len)),
        }
    }
}

#[allow(clippy::copy_iterator, reason = "a view, which is `Copy`, keeps one as it began")]
impl<T> Iterator for RawSlices<T> {
    type Item = NonNull<[T]>;

    fn next(&mut self) -> Option<NonNull<[T]>> {
        if size_of::<T>() == 0 {
            return self.take_sizeless();
        }
        let (first, last) = self.left?;
        let next = if first == last { None } else { first.header().next.get() };
        self.left = next.map(|next| (next, last));
        Some(self.values(first))
    }
}

impl<T> DoubleEndedIterator for RawSlices<T> {
    fn next_back(&mut self) -> Option<NonNull<[T]>> {
        if size_of::<T>() == 0 {
            return self.take_sizeless();
        }
        let (first, last) = self.left?;
        let prev = if first == last { None } else { last.header().prev.get() };
        self.left = prev.map(|prev| (first, prev));
        Some(self.values(last))
    }
}

/// How many values a line holds. O(1), but for types aligned to more than chunks are: O(n) in the
/// number of chunks.
pub(crate) fn count<T>(line: &Line, sizeless: usize) -> usize {
    if size_of::<T>() == 0 {
        sizeless
    } else if align_of::<T>() <= CHUNK_ALIGN {
        line.used() / size_of::<T>()
    } else {
        RawSlices::<T>::new(line, 0).map(NonNull::len).sum()
    }
}

/// Drops what the pointers lead to, one after the other. If a `Drop` panics, the others' still run,
/// and then the panic goes on. If another one panics meanwhile, the process aborts, as it does
/// where a `Vec` is dropped.
///
/// # Safety
/// All are valid, and the caller's to drop.
pub(crate) unsafe fn drop_all<T: ?Sized>(pointers: impl Iterator<Item = NonNull<T>>) {
    struct Rest<T: ?Sized, I: Iterator<Item = NonNull<T>>>(I);

    impl<T: ?Sized, I: Iterator<Item = NonNull<T>>> Drop for Rest<T, I> {
        fn drop(&mut self) {
            for pointer in &mut self.0 {
                // SAFETY: as below.
                unsafe { pointer.drop_in_place() };
            }
        }
    }

    let mut rest = Rest(pointers);
    for pointer in rest.0.by_ref() {
        // SAFETY: the caller promises that it is valid and to be dropped; the iterator has gone on
        // by now, so that it is dropped once. A slice goes on with its next values itself.
        unsafe { pointer.drop_in_place() };
    }
}

/// The values in a line's chunks, from either end.
pub(crate) struct RawIter<T> {
    front: (NonNull<T>, usize),
    slices: RawSlices<T>,
    back: (NonNull<T>, usize),
    /// How many are left.
    len: usize,
}

impl<T> Clone for RawIter<T> {
    fn clone(&self) -> Self {
        let Self { front, slices, back, len } = *self;
        Self { front, slices, back, len }
    }
}

impl<T> RawIter<T> {
    pub(crate) fn new(slices: RawSlices<T>, len: usize) -> Self {
        let none = (NonNull::dangling(), 0);
        Self { front: none, slices, back: none, len }
    }

    pub(crate) const fn len(&self) -> usize {
        self.len
    }
}

/// The first of the `len` values from `first`.
fn pop_front<T>((first, len): &mut (NonNull<T>, usize)) -> Option<NonNull<T>> {
    *len = len.checked_sub(1)?;
    let value = *first;
    // SAFETY: `first` leads to values that lie behind each other, and there was one.
    *first = unsafe { value.add(1) };
    Some(value)
}

/// The last of the `len` values from `first`.
fn pop_back<T>((first, len): &mut (NonNull<T>, usize)) -> Option<NonNull<T>> {
    *len = len.checked_sub(1)?;
    // SAFETY: `first` leads to values that lie behind each other, and there were more than `len`.
    Some(unsafe { first.add(*len) })
}

impl<T> Iterator for RawIter<T> {
    type Item = NonNull<T>;

    #[inline]
    fn next(&mut self) -> Option<NonNull<T>> {
        loop {
            if let Some(value) = pop_front(&mut self.front) {
                self.len -= 1;
                return Some(value);
            }
            match self.slices.next() {
                Some(slice) => self.front = (slice.cast(), slice.len()),
                None => {
                    let value = pop_front(&mut self.back)?;
                    self.len -= 1;
                    return Some(value);
                }
            }
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len, Some(self.len))
    }
}

impl<T> DoubleEndedIterator for RawIter<T> {
    #[inline]
    fn next_back(&mut self) -> Option<NonNull<T>> {
        loop {
            if let Some(value) = pop_back(&mut self.back) {
                self.len -= 1;
                return Some(value);
            }
            match self.slices.next_back() {
                Some(slice) => self.back = (slice.cast(), slice.len()),
                None => {
                    let value = pop_back(&mut self.front)?;
                    self.len -= 1;
                    return Some(value);
                }
            }
        }
    }
}
