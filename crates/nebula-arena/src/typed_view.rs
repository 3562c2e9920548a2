//! What a typed arena holds, to be read: positions, slices, iteration.

use std::{fmt, marker::PhantomData, ops::Index};

use crate::typed_values::{Line, RawIter, RawSlices, count};

/// The values of a [`TypedArena`](crate::TypedArena), shared: in the order of their allocation.
///
/// As cheap to copy as a few pointers. While one lives, the arena cannot be allocated from, because
/// [`TypedArena::alloc`](crate::TypedArena::alloc) hands out unique references, which have to be
/// gone before anything may be read.
///
/// ```
/// use nebula_arena::TypedArena;
///
/// let mut arena = TypedArena::new();
/// arena.alloc_extend(["to", "be", "or", "not"]);
/// let view = arena.view();
/// assert_eq!((view.len(), view[1], view.get(4)), (4, "be", None));
/// let longest = view.iter().max_by_key(|word| word.len());
/// assert_eq!(longest, Some(&"not"));
/// assert!(std::thread::scope(|scope| scope.spawn(|| view.iter().any(|&w| w == "or")).join()).unwrap());
/// ```
pub struct TypedView<'a, T> {
    slices: RawSlices<T>,
    len: usize,
    values: PhantomData<&'a [T]>,
}

// SAFETY: a view is a shared borrow of values, which may be used by other threads if `T: Sync`. The
// chunks' headers that it reads are written by nobody while it lives: the arena is borrowed
// uniquely for as long.
unsafe impl<T: Sync> Send for TypedView<'_, T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for TypedView<'_, T> {}

impl<T> Clone for TypedView<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for TypedView<'_, T> {}

impl<'a, T> TypedView<'a, T> {
    /// # Safety
    /// `line` holds nothing but initialised `T`s, and is not used, nor are they but shared, as long
    /// as `'a`.
    pub(crate) unsafe fn new(line: &Line, sizeless: usize) -> Self {
        let slices = RawSlices::new(line, sizeless);
        Self { slices, len: count::<T>(line, sizeless), values: PhantomData }
    }

    /// How many values there are.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The value that was allocated as the `index`-th, from 0. O(n) in the number of chunks, which
    /// is the logarithm of that of values where chunks double.
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&'a T> {
        let mut before = 0;
        self.slices().find_map(|slice| {
            let found = slice.get(index - before);
            before += slice.len();
            found
        })
    }

    /// All values, from either end.
    pub fn iter(&self) -> TypedIter<'a, T> {
        TypedIter { raw: RawIter::new(self.slices, self.len), values: PhantomData }
    }

    /// The values of one chunk after the other, from either end: runs that lie behind each other
    /// in memory. Not empty.
    ///
    /// ```
    /// let mut arena = nebula_arena::TypedArena::new();
    /// arena.alloc_extend(0..10_000_u64);
    /// let sum: u64 = arena.view().slices().flatten().sum();
    /// assert_eq!(sum, 49_995_000);
    /// ```
    pub fn slices(&self) -> impl DoubleEndedIterator<Item = &'a [T]> + use<'a, T> {
        // SAFETY: the values are initialised and shared for `'a`, as `new`'s caller promised.
        self.slices.map(|slice| unsafe { slice.as_ref() }).filter(|slice| !slice.is_empty())
    }
}

impl<T> Index<usize> for TypedView<'_, T> {
    type Output = T;

    #[track_caller]
    fn index(&self, index: usize) -> &T {
        match self.get(index) {
            Some(value) => value,
            None => panic!("the index is {index} but the arena holds {} values", self.len),
        }
    }
}

impl<'a, T> IntoIterator for TypedView<'a, T> {
    type Item = &'a T;
    type IntoIter = TypedIter<'a, T>;

    fn into_iter(self) -> TypedIter<'a, T> {
        self.iter()
    }
}

impl<'a, T> IntoIterator for &TypedView<'a, T> {
    type Item = &'a T;
    type IntoIter = TypedIter<'a, T>;

    fn into_iter(self) -> TypedIter<'a, T> {
        self.iter()
    }
}

impl<T: fmt::Debug> fmt::Debug for TypedView<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(*self).finish()
    }
}

/// Defines an iterator over a [`RawIter`], which is `self.raw`.
macro_rules! iterator {
    ([$($generics:tt)*] $name:ident $type:ty, $item:ty, |$pointer:ident| $value:expr) => {
        impl<$($generics)*> Iterator for $type {
            type Item = $item;

            #[inline]
            fn next(&mut self) -> Option<$item> {
                self.raw.next().map(|$pointer| $value)
            }

            fn size_hint(&self) -> (usize, Option<usize>) {
                self.raw.size_hint()
            }
        }

        impl<$($generics)*> DoubleEndedIterator for $type {
            #[inline]
            fn next_back(&mut self) -> Option<$item> {
                self.raw.next_back().map(|$pointer| $value)
            }
        }

        impl<$($generics)*> ExactSizeIterator for $type {}
        impl<$($generics)*> ::std::iter::FusedIterator for $type {}

        impl<$($generics)*> ::std::fmt::Debug for $type {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.debug_struct(stringify!($name)).field("left", &self.raw.len()).finish()
            }
        }
    };
}

pub(crate) use iterator;

/// The values of a typed arena, shared, from either end: [`TypedView::iter`].
#[must_use = "an iterator does nothing until it is used"]
pub struct TypedIter<'a, T> {
    raw: RawIter<T>,
    values: PhantomData<&'a [T]>,
}

// SAFETY: as for the view.
unsafe impl<T: Sync> Send for TypedIter<'_, T> {}
// SAFETY: as for the view.
unsafe impl<T: Sync> Sync for TypedIter<'_, T> {}

impl<T> Clone for TypedIter<'_, T> {
    fn clone(&self) -> Self {
        Self { raw: self.raw.clone(), values: PhantomData }
    }
}

iterator! {
    ['a, T] TypedIter TypedIter<'a, T>, &'a T,
    // SAFETY: the value is initialised and shared for `'a`, as the view's maker promised.
    |value| unsafe { value.as_ref() }
}

/// The values of a typed arena, unique, from either end:
/// [`TypedArena::iter_mut`](crate::TypedArena::iter_mut).
#[must_use = "an iterator does nothing until it is used"]
pub struct TypedIterMut<'a, T> {
    raw: RawIter<T>,
    values: PhantomData<&'a mut [T]>,
}

// SAFETY: a unique borrow of values, which may go to other threads if `T: Send`. The chunks'
// headers are written by nobody while it lives: the arena is borrowed uniquely for as long.
unsafe impl<T: Send> Send for TypedIterMut<'_, T> {}
// SAFETY: a shared reference to it says how many are left, and no more.
unsafe impl<T: Sync> Sync for TypedIterMut<'_, T> {}

impl<T> TypedIterMut<'_, T> {
    /// # Safety
    /// `line` holds nothing but initialised `T`s, and neither is used by others as long as the
    /// lifetime.
    pub(crate) unsafe fn new(line: &Line, sizeless: usize) -> Self {
        let raw = RawIter::new(RawSlices::new(line, sizeless), count::<T>(line, sizeless));
        Self { raw, values: PhantomData }
    }
}

iterator! {
    ['a, T] TypedIterMut TypedIterMut<'a, T>, &'a mut T,
    // SAFETY: the value is initialised and nobody else's for `'a`, as `new`'s caller promised; the
    // iterator yields it once.
    |value| unsafe { { value }.as_mut() }
}
