//! Vectors that leave their memory to the arena, and so need no `Drop`.

use std::{
    fmt,
    hash::{Hash, Hasher},
    mem::ManuallyDrop,
    ops::{Deref, DerefMut},
};

use nebula_memory_core::{
    MemoryError, Refused,
    allocator_api2::{
        alloc::Allocator as Api2,
        vec::{IntoIter, Vec},
    },
    last_refusal,
};

use crate::{
    Arena,
    making::{NoDrop, refused},
};

/// A vector in an arena that needs no `Drop`, neither do its values: so vectors of vectors, and
/// trees of them, can be put in the arena by value.
///
/// It is `allocator_api2`'s `Vec` in all other respects, and derefs to it. (Methods of that one's
/// own that grow it, such as `insert`, abort the process if the arena is refused, as those of std
/// do; [`try_reserve`](Self::try_reserve) before.) A vector at the end of
/// the arena's current chunk grows where it lies; others are copied, and leave their old place
/// unused until the arena is reset. Values that need `Drop` belong in a `Vec` of their own, in the
/// same arena: `Vec::new_in(&arena)`.
///
/// ```
/// use nebula_arena::{Arena, ArenaVec};
///
/// enum Tree<'a> {
///     Leaf(u32),
///     Node(ArenaVec<'a, Tree<'a>>),
/// }
///
/// let arena = Arena::new();
/// let mut children = arena.vec();
/// children.extend((1..4).map(Tree::Leaf));
/// let tree: &mut Tree<'_> = arena.alloc(Tree::Node(children)); // needs no drop: `alloc` takes it
/// assert!(matches!(tree, Tree::Node(children) if matches!(children[2], Tree::Leaf(3))));
/// ```
///
/// Values that need dropping do not compile:
/// ```compile_fail,E0080
/// let arena = nebula_arena::Arena::new();
/// arena.vec().push(String::new());
/// ```
pub struct ArenaVec<'a, T, S: ?Sized = Arena>(ManuallyDrop<Vec<T, &'a S>>)
where
    &'a S: Api2;

impl<'a, T, S: ?Sized> ArenaVec<'a, T, S>
where
    &'a S: Api2,
{
    /// Empty; takes no room.
    #[inline]
    pub(crate) const fn new_in(arena: &'a S) -> Self {
        const { NoDrop::<T>::REQUIRED };
        Self(ManuallyDrop::new(Vec::new_in(arena)))
    }

    /// Makes room for `additional` more values; more than that if it has to grow, so that pushing
    /// takes constant time on average.
    ///
    /// # Errors
    /// If the arena is refused a chunk; the vector has not changed then.
    pub fn try_reserve(&mut self, additional: usize) -> Result<(), MemoryError> {
        if additional <= self.0.capacity() - self.0.len() {
            return Ok(());
        }
        // What was refused before is not what is asked for here.
        drop(last_refusal());
        self.0.try_reserve(additional).map_err(|_| {
            let (size, align) = (size_of::<T>().saturating_mul(additional), align_of::<T>());
            last_refusal().unwrap_or(MemoryError::InvalidLayout { size, align })
        })
    }

    /// Makes room as [`try_reserve`](Self::try_reserve) does.
    ///
    /// # Panics
    /// If the arena is refused a chunk.
    #[track_caller]
    pub fn reserve(&mut self, additional: usize) {
        if let Err(error) = self.try_reserve(additional) {
            refused(error);
        }
    }

    /// Appends a value.
    ///
    /// # Panics
    /// If the arena is refused a chunk.
    #[inline]
    #[track_caller]
    pub fn push(&mut self, value: T) {
        if self.0.len() == self.0.capacity() {
            self.reserve(1);
        }
        self.0.push(value);
    }

    /// Appends clones of `values`.
    ///
    /// # Panics
    /// If the arena is refused a chunk, or a `clone` panics.
    #[inline]
    #[track_caller]
    pub fn extend_from_slice(&mut self, values: &[T])
    where
        T: Clone,
    {
        self.reserve(values.len());
        self.0.extend_from_slice(values);
    }

    /// Appends a value.
    ///
    /// # Errors
    /// The value is handed back if the arena is refused a chunk.
    ///
    /// ```
    /// let arena = nebula_arena::Arena::new();
    /// let mut numbers = arena.vec();
    /// numbers.try_push(1)?;
    /// assert_eq!(numbers[0], 1);
    /// # Ok::<(), nebula_memory_core::Refused<i32>>(())
    /// ```
    #[inline]
    pub fn try_push(&mut self, value: T) -> Result<(), Refused<T>> {
        if self.0.len() == self.0.capacity() {
            if let Err(error) = self.try_reserve(1) {
                return Err(Refused::new(value, error));
            }
        }
        self.0.push(value);
        Ok(())
    }

    /// The values, for as long as the arena is borrowed. Unused room goes back to the arena if the
    /// vector was allocated last.
    ///
    /// ```
    /// let arena = nebula_arena::Arena::new();
    /// let mut numbers = arena.vec();
    /// numbers.extend(0..100);
    /// let slice: &mut [i32] = numbers.into_slice();
    /// assert_eq!(slice.len(), 100);
    /// ```
    #[inline]
    pub fn into_slice(self) -> &'a mut [T] {
        let mut vec = ManuallyDrop::into_inner(self.0);
        // Never fails: an arena's block shrinks where it lies.
        vec.shrink_to_fit();
        vec.leak()
    }
}

impl<'a, T, S: ?Sized> Deref for ArenaVec<'a, T, S>
where
    &'a S: Api2,
{
    type Target = Vec<T, &'a S>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl<'a, T, S: ?Sized> DerefMut for ArenaVec<'a, T, S>
where
    &'a S: Api2,
{
    #[inline]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl<'a, T, S: ?Sized> AsRef<[T]> for ArenaVec<'a, T, S>
where
    &'a S: Api2,
{
    fn as_ref(&self) -> &[T] {
        self
    }
}

impl<'a, T, S: ?Sized> Extend<T> for ArenaVec<'a, T, S>
where
    &'a S: Api2,
{
    /// # Panics
    /// If the arena is refused a chunk, or the iterator panics.
    fn extend<I: IntoIterator<Item = T>>(&mut self, values: I) {
        let values = values.into_iter();
        self.reserve(values.size_hint().0);
        for value in values {
            self.push(value);
        }
    }
}

impl<'a, T, S: ?Sized> IntoIterator for ArenaVec<'a, T, S>
where
    &'a S: Api2,
{
    type Item = T;
    type IntoIter = IntoIter<T, &'a S>;

    fn into_iter(self) -> Self::IntoIter {
        ManuallyDrop::into_inner(self.0).into_iter()
    }
}

impl<'a, 'v, T, S: ?Sized> IntoIterator for &'v ArenaVec<'a, T, S>
where
    &'a S: Api2,
{
    type Item = &'v T;
    type IntoIter = std::slice::Iter<'v, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

impl<'a, 'v, T, S: ?Sized> IntoIterator for &'v mut ArenaVec<'a, T, S>
where
    &'a S: Api2,
{
    type Item = &'v mut T;
    type IntoIter = std::slice::IterMut<'v, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter_mut()
    }
}

impl<'a, T: Clone, S: ?Sized> Clone for ArenaVec<'a, T, S>
where
    &'a S: Api2,
{
    /// # Panics
    /// If the arena is refused a chunk, or a `clone` panics.
    fn clone(&self) -> Self {
        let mut clone = Self::new_in(self.0.allocator());
        clone.extend_from_slice(self);
        clone
    }
}

impl<'a, T: PartialEq, S: ?Sized> PartialEq for ArenaVec<'a, T, S>
where
    &'a S: Api2,
{
    fn eq(&self, other: &Self) -> bool {
        self.0[..] == other.0[..]
    }
}

impl<'a, T: Eq, S: ?Sized> Eq for ArenaVec<'a, T, S> where &'a S: Api2 {}

impl<'a, T: Hash, S: ?Sized> Hash for ArenaVec<'a, T, S>
where
    &'a S: Api2,
{
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0[..].hash(state);
    }
}

impl<'a, T: fmt::Debug, S: ?Sized> fmt::Debug for ArenaVec<'a, T, S>
where
    &'a S: Api2,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..].fmt(f)
    }
}
