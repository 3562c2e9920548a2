//! Owned values in an arena, which are dropped.

use std::{
    fmt,
    hash::{Hash, Hasher},
    marker::PhantomData,
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

/// A value that lives in an arena and is dropped with its box; the memory stays with the arena.
///
/// As large as a reference. Made by [`Arena::alloc_boxed`](crate::Arena::alloc_boxed). If the box
/// is forgotten, the value is not dropped.
///
/// ```
/// use nebula_arena::{Arena, ArenaBox};
///
/// let arena = Arena::new();
/// let mut name: ArenaBox<'_, String> = arena.alloc_boxed("a heap string".to_owned());
/// name.push('!');
/// assert_eq!(name.len(), 14);
/// drop(name); // frees the string's heap memory
/// ```
///
/// It cannot outlive its arena:
/// ```compile_fail,E0597
/// let boxed = {
///     let arena = nebula_arena::Arena::new();
///     arena.alloc_boxed(String::new())
/// };
/// ```
pub struct ArenaBox<'a, T: ?Sized + 'a> {
    /// Valid for `'a`, and ours alone.
    value: NonNull<T>,
    owns: PhantomData<(&'a (), T)>,
}

// SAFETY: a box is the only way to its value, as `Box` is; the arena is not touched through it.
unsafe impl<T: ?Sized + Send> Send for ArenaBox<'_, T> {}
// SAFETY: as above.
unsafe impl<T: ?Sized + Sync> Sync for ArenaBox<'_, T> {}

impl<'a, T: ?Sized> ArenaBox<'a, T> {
    /// Owns, from now on, what `value` is the only reference to.
    #[inline(always)]
    pub(crate) fn owning(value: &'a mut T) -> Self {
        Self { value: NonNull::from(value), owns: PhantomData }
    }

    /// The value, which is not dropped any more.
    ///
    /// ```
    /// let arena = nebula_arena::Arena::new();
    /// let number: &mut i32 = nebula_arena::ArenaBox::leak(arena.alloc_boxed(7));
    /// assert_eq!(*number, 7);
    /// ```
    #[inline]
    pub fn leak(boxed: Self) -> &'a mut T {
        let mut value = ManuallyDrop::new(boxed).value;
        // SAFETY: the value is valid for `'a`, and the box, its only owner, is gone.
        unsafe { value.as_mut() }
    }
}

impl<T> ArenaBox<'_, T> {
    /// Takes the value out.
    ///
    /// ```
    /// use nebula_arena::{Arena, ArenaBox};
    ///
    /// let arena = Arena::new();
    /// let name: String = ArenaBox::into_inner(arena.alloc_boxed(String::from("outlives it")));
    /// drop(arena);
    /// assert_eq!(name, "outlives it");
    /// ```
    #[inline]
    pub fn into_inner(boxed: Self) -> T {
        let value = ManuallyDrop::new(boxed).value;
        // SAFETY: the box owned an initialised value; it is gone and does not drop it.
        unsafe { value.read() }
    }
}

impl<T: ?Sized> Drop for ArenaBox<'_, T> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the box is the value's only owner, and is not used again.
        unsafe { self.value.drop_in_place() };
    }
}

impl<T: ?Sized> Deref for ArenaBox<'_, T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        // SAFETY: the value is valid, and borrowed as the box is.
        unsafe { self.value.as_ref() }
    }
}

impl<T: ?Sized> DerefMut for ArenaBox<'_, T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        // SAFETY: the value is valid, and borrowed as the box is.
        unsafe { self.value.as_mut() }
    }
}

impl<T: ?Sized> AsRef<T> for ArenaBox<'_, T> {
    fn as_ref(&self) -> &T {
        self
    }
}

impl<T: ?Sized> AsMut<T> for ArenaBox<'_, T> {
    fn as_mut(&mut self) -> &mut T {
        self
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for ArenaBox<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + fmt::Display> fmt::Display for ArenaBox<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (**self).fmt(f)
    }
}

impl<T: ?Sized + PartialEq> PartialEq for ArenaBox<'_, T> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl<T: ?Sized + Eq> Eq for ArenaBox<'_, T> {}

impl<T: ?Sized + PartialOrd> PartialOrd for ArenaBox<'_, T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        (**self).partial_cmp(&**other)
    }
}

impl<T: ?Sized + Ord> Ord for ArenaBox<'_, T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (**self).cmp(&**other)
    }
}

impl<T: ?Sized + Hash> Hash for ArenaBox<'_, T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl<I: Iterator + ?Sized> Iterator for ArenaBox<'_, I> {
    type Item = I::Item;

    fn next(&mut self) -> Option<I::Item> {
        (**self).next()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (**self).size_hint()
    }
}

impl<F: Future + Unpin + ?Sized> Future for ArenaBox<'_, F> {
    type Output = F::Output;

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<F::Output> {
        std::pin::Pin::new(&mut **self).poll(context)
    }
}
