//! Filling a typed arena from an iterator, and emptying it as one.

use std::marker::PhantomData;

use nebula_memory_core::{Allocator, Global};

use crate::{
    TypedArena, TypedIterMut,
    typed_store::{Store, drop_nothing},
    typed_values::{RawIter, RawSlices, count, drop_all},
    typed_view::iterator,
};

impl<T, A: Allocator> Extend<T> for TypedArena<T, A> {
    /// Allocates one value after the other, not always one behind the other in memory.
    fn extend<I: IntoIterator<Item = T>>(&mut self, values: I) {
        for value in values {
            self.alloc(value);
        }
    }
}

impl<T> FromIterator<T> for TypedArena<T> {
    fn from_iter<I: IntoIterator<Item = T>>(values: I) -> Self {
        let mut arena = Self::new();
        arena.extend(values);
        arena
    }
}

impl<'a, T, A: Allocator> IntoIterator for &'a mut TypedArena<T, A> {
    type Item = &'a mut T;
    type IntoIter = TypedIterMut<'a, T>;

    fn into_iter(self) -> TypedIterMut<'a, T> {
        self.iter_mut()
    }
}

impl<T, A: Allocator> IntoIterator for TypedArena<T, A> {
    type Item = T;
    type IntoIter = TypedIntoIter<T, A>;

    /// The values in the order of their allocation, from either end. Those that are not taken are
    /// dropped with the iterator, which holds the arena's memory until then.
    fn into_iter(mut self) -> TypedIntoIter<T, A> {
        let sizeless = self.store.sizeless.get();
        let slices = RawSlices::new(&self.store.line, sizeless);
        // From here on the values are the iterator's.
        self.store.drop_values = drop_nothing;
        let raw = RawIter::new(slices, count::<T>(&self.store.line, sizeless));
        TypedIntoIter { raw, _chunks: self.store, values: PhantomData }
    }
}

/// The values of a [`TypedArena`], moved out one by one, from either end.
#[must_use = "an iterator does nothing until it is used"]
pub struct TypedIntoIter<T, A: Allocator = Global> {
    /// What is left, which is the iterator's.
    raw: RawIter<T>,
    /// Where the values lie. Dropped after them.
    _chunks: Store<A>,
    values: PhantomData<T>,
}

// SAFETY: as for the arena.
unsafe impl<T: Send, A: Allocator + Send> Send for TypedIntoIter<T, A> {}
// SAFETY: a shared reference to it says how many values are left, and no more.
unsafe impl<T: Sync, A: Allocator + Sync> Sync for TypedIntoIter<T, A> {}

iterator! {
    [T, A: Allocator] TypedIntoIter TypedIntoIter<T, A>, T,
    // SAFETY: the value is initialised and the iterator's; it is yielded, and so read, once.
    |value| unsafe { value.read() }
}

impl<T, A: Allocator> Drop for TypedIntoIter<T, A> {
    fn drop(&mut self) {
        // SAFETY: what was not yielded is valid, and the iterator's to drop.
        unsafe { drop_all(self.raw.clone()) };
    }
}
