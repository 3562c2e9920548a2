//! Arenas for values of one type, which are dropped with the arena.

use std::{cell::Cell, fmt, marker::PhantomData, ptr::from_ref};

use nebula_memory_core::{
    Account, Accounted, Allocator, Global, MemoryError, MemoryUsage, Refused, Resettable,
};

use crate::{
    ArenaConfig, ArenaUsage, Keep, TypedIter, TypedIterMut, TypedView,
    making::refused,
    typed_methods::typed_methods,
    typed_store::{Store, vec_of},
    typed_values::{RawSlices, count},
};

/// An arena for values of one type, which runs their `Drop`.
///
/// Values stay where they are until the arena is reset or dropped, and are numbered and iterated
/// in the order of their allocation. Chunks, settings, budgets and usage are those of
/// [`Arena`](crate::Arena), for which [`alloc_boxed`](crate::Arena::alloc_boxed) runs `Drop`, value
/// by value.
///
/// ```
/// use nebula_arena::TypedArena;
///
/// let mut arena = TypedArena::new();
/// let first = arena.alloc(String::from("one"));
/// let second = arena.alloc(String::from("two"));
/// first.push_str(second); // stable unique references
/// arena.alloc_extend(["three", "four"].map(String::from));
/// assert_eq!(arena.len(), 4);
/// for name in &mut arena {
///     name.make_ascii_uppercase();
/// }
/// assert_eq!(arena.view()[0], "ONETWO");
/// assert_eq!(arena.into_vec(), ["ONETWO", "TWO", "THREE", "FOUR"]);
/// ```
///
/// Values may refer to each other, in cycles too, as long as their type has no `Drop` of its own
/// (fields that do, are fine):
/// ```
/// use std::cell::Cell;
/// use nebula_arena::TypedArena;
///
/// struct Node<'a> {
///     name: String,
///     next: Cell<Option<&'a Node<'a>>>,
/// }
///
/// let arena = TypedArena::new();
/// let node = |name: &str| &*arena.alloc(Node { name: name.into(), next: Cell::new(None) });
/// let (a, b) = (node("a"), node("b"));
/// a.next.set(Some(b));
/// b.next.set(Some(a));
/// let round = a.next.get().and_then(|b| b.next.get()).unwrap();
/// assert_eq!(round.name, "a");
/// ```
///
/// # What does not compile
/// A value that outlives a reset:
/// ```compile_fail,E0502
/// let mut arena = nebula_arena::TypedArena::new();
/// let one = arena.alloc(1);
/// arena.reset();
/// *one += 1;
/// ```
///
/// Allocating while the values are viewed:
/// ```compile_fail,E0502
/// let mut arena = nebula_arena::TypedArena::new();
/// arena.alloc(1);
/// let view = arena.view();
/// arena.alloc(2);
/// assert_eq!(view[0], 1);
/// ```
///
/// A `Drop` that could look at neighbours that were dropped before:
/// ```compile_fail,E0597
/// struct Peeks<'a>(Option<&'a String>);
/// impl Drop for Peeks<'_> {
///     fn drop(&mut self) {
///         println!("{:?}", self.0);
///     }
/// }
/// let arena = nebula_arena::TypedArena::new();
/// let name = String::from("dropped before the arena");
/// arena.alloc(Peeks(Some(&name)));
/// ```
///
/// Values that live shorter than those that the arena says it holds:
/// ```compile_fail,E0597
/// use nebula_arena::TypedArena;
/// fn add<'a>(arena: &TypedArena<&'a str>, text: &'a str) {
///     arena.alloc(text);
/// }
/// let mut arena: TypedArena<&'static str> = TypedArena::new();
/// {
///     let text = String::from("gone soon");
///     add(&arena, &text);
/// }
/// println!("{}", arena.view()[0]);
/// ```
pub struct TypedArena<T, A: Allocator = Global> {
    /// Holds nothing but initialised values of `T`, and drops them. (It does so without naming
    /// `T`, and this type has no `Drop`: that, and the line below, let the compiler see that what
    /// the values' own `Drop`s look at must outlive the arena, and nothing else.)
    pub(crate) store: Store<A>,
    /// Invariant: values go in through a shared reference.
    values: PhantomData<Cell<T>>,
}

// SAFETY: the arena owns its values, which may go to another thread as `T: Send`, and its chunks;
// references to values borrow the arena, so that it cannot move while one is alive. The allocator
// moves along.
unsafe impl<T: Send, A: Allocator + Send> Send for TypedArena<T, A> {}

impl<T> TypedArena<T> {
    /// An arena on the heap with the default settings. Takes no memory until the first allocation.
    #[must_use]
    pub fn new() -> Self {
        Self::new_in(Global)
    }

    /// An arena on the heap with `config`.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`].
    pub fn with_config(config: ArenaConfig) -> Result<Self, MemoryError> {
        Self::with_config_in(config, Global)
    }
}

impl<T, A: Allocator + Default> Default for TypedArena<T, A> {
    fn default() -> Self {
        Self::new_in(A::default())
    }
}

impl<T, A: Allocator> TypedArena<T, A> {
    /// An arena with the default settings whose chunks come from `allocator`. Takes no memory until
    /// the first allocation.
    #[must_use]
    pub fn new_in(allocator: A) -> Self {
        Self { store: Store::new::<T>(ArenaConfig::default(), allocator), values: PhantomData }
    }

    /// An arena with `config` whose chunks come from `allocator`.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`].
    pub fn with_config_in(config: ArenaConfig, allocator: A) -> Result<Self, MemoryError> {
        config.validate()?;
        Ok(Self { store: Store::new::<T>(config, allocator), values: PhantomData })
    }

    /// The allocator that chunks come from.
    pub const fn allocator(&self) -> &A {
        &self.store.allocator
    }

    /// The arena's settings.
    pub const fn config(&self) -> &ArenaConfig {
        &self.store.config
    }

    /// How many values the arena holds. O(1), but for types aligned to more than 16 bytes: O(n) in
    /// the number of chunks.
    pub fn len(&self) -> usize {
        count::<T>(&self.store.line, self.store.sizeless.get())
    }

    /// Whether the arena holds nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Makes sure that `additional` more values fit, one behind the other, without asking the
    /// allocator again.
    ///
    /// # Panics
    /// If the arena is refused a chunk.
    #[track_caller]
    pub fn reserve(&self, additional: usize) {
        if let Err(error) = self.try_reserve(additional) {
            refused(error)
        }
    }

    /// As [`reserve`](Self::reserve).
    ///
    /// # Errors
    /// If the arena is refused a chunk.
    pub fn try_reserve(&self, additional: usize) -> Result<(), MemoryError> {
        self.store.try_reserve::<T>(additional)
    }

    /// The values in order of allocation. (It takes `&mut self` because [`alloc`](Self::alloc)
    /// lends values to be changed: this ends those borrows.)
    ///
    /// ```
    /// let mut arena = nebula_arena::TypedArena::new();
    /// arena.alloc(1);
    /// arena.alloc(2);
    /// assert!(arena.iter().eq(&[1, 2]));
    /// ```
    pub fn iter(&mut self) -> TypedIter<'_, T> {
        self.view().iter()
    }

    /// All values in the order of their allocation, from either end.
    pub fn iter_mut(&mut self) -> TypedIterMut<'_, T> {
        // SAFETY: `&mut self` ends every borrow of a value; all are initialised, and nothing else
        // is in the line.
        unsafe { TypedIterMut::new(&self.store.line, self.store.sizeless.get()) }
    }

    /// The values, to be read by position, chunk by chunk, or all. `&mut self`, because that ends
    /// the unique references that [`alloc`](Self::alloc) handed out.
    pub fn view(&mut self) -> TypedView<'_, T> {
        // SAFETY: as above; the values are shared as long as the view is there.
        unsafe { TypedView::new(&self.store.line, self.store.sizeless.get()) }
    }

    /// The position of a value in the order of allocation, by its address; `None` if it does not
    /// lie in this arena. (Values without bytes lie nowhere.) O(n) in the number of chunks.
    ///
    /// ```
    /// let mut arena = nebula_arena::TypedArena::new();
    /// arena.alloc('a');
    /// let b = arena.alloc('b');
    /// assert_eq!((arena.index_of(b), arena.index_of(&'b')), (Some(1), None));
    /// assert_eq!(arena.view()[1], 'b');
    /// ```
    pub fn index_of(&self, value: &T) -> Option<usize> {
        if size_of::<T>() == 0 {
            return None;
        }
        let address = from_ref(value).addr();
        let mut before = 0;
        RawSlices::<T>::new(&self.store.line, 0).find_map(|slice| {
            let offset = address.wrapping_sub(slice.cast::<T>().addr().get());
            let index = offset / size_of::<T>();
            let found = (index < slice.len()).then_some(before + index);
            before += slice.len();
            found
        })
    }

    /// All values as a vector, in the order of their allocation. O(n).
    ///
    /// # Panics
    /// If there is no memory for it.
    #[must_use]
    #[track_caller]
    pub fn into_vec(self) -> Vec<T> {
        match self.try_into_vec() {
            Ok(values) => values,
            Err(refusal) => refused(refusal.into_error()),
        }
    }

    /// As [`into_vec`](Self::into_vec).
    ///
    /// # Errors
    /// The arena is handed back if there is no memory for the vector.
    #[allow(clippy::result_large_err, reason = "the arena comes back as it came")]
    pub fn try_into_vec(self) -> Result<Vec<T>, Refused<Self>> {
        let mut values = match vec_of(self.len()) {
            Ok(values) => values,
            Err(error) => return Err(Refused::new(self, error)),
        };
        values.extend(self);
        Ok(values)
    }

    /// Bytes taken from the allocator: all chunks, headers and unused room included. This is what
    /// an account behind the allocator is charged.
    pub fn allocated_bytes(&self) -> usize {
        self.store.line.bytes()
    }

    /// How the arena's bytes are spent. O(n) in the number of chunks.
    pub fn usage(&self) -> ArenaUsage {
        ArenaUsage::of(&self.store.line)
    }

    /// Drops all values; what memory stays for the next use is for
    /// [`ArenaConfig::keep`](ArenaConfig::keep) to say.
    ///
    /// They are dropped in the order of their allocation. If a `Drop` panics, the others' still
    /// run, the memory is dealt with, and then the panic goes on.
    pub fn reset(&mut self) {
        self.reset_keeping(self.store.config.keep);
    }

    /// Drops all values, as [`reset`](Self::reset) does; `keep` says what memory stays.
    ///
    /// ```
    /// use nebula_arena::{Keep, TypedArena};
    ///
    /// let mut arena = TypedArena::new();
    /// arena.alloc(vec![1, 2, 3]);
    /// arena.reset_keeping(Keep::Nothing);
    /// assert_eq!((arena.len(), arena.allocated_bytes()), (0, 0));
    /// ```
    pub fn reset_keeping(&mut self, keep: Keep) {
        self.store.empty(keep);
    }

    /// Drops all values, as [`reset`](Self::reset) does, and keeps all memory, as `Vec::clear`
    /// does.
    pub fn clear(&mut self) {
        self.reset_keeping(Keep::All);
    }

    /// Gives spare chunks (that a reset left) back to the allocator until no more than `bytes` are
    /// held, as far as there are any.
    pub fn shrink_to(&self, bytes: usize) {
        // SAFETY: the allocator is the one of all chunks.
        unsafe { self.store.line.shrink_to(&self.store.allocator, bytes) };
    }
}

impl<T, B: Allocator, C: Account> TypedArena<T, Accounted<B, C>> {
    /// Moves all that the arena is charged for to another account, and charges it there from now
    /// on. Both accounts hold the bytes for a moment.
    ///
    /// # Errors
    /// The new account's refusal; nothing has changed then.
    pub fn try_move_to(&mut self, account: C) -> Result<C, MemoryError> {
        self.store.allocator.try_move_to(account, self.store.line.bytes())
    }
}

typed_methods! {
    impl [T, A: Allocator] TypedArena<T, A>
}

impl<T, A: Allocator> MemoryUsage for TypedArena<T, A> {
    /// Bytes of all values (and the padding before the first of a chunk, where they are aligned to
    /// more than 16 bytes).
    fn used(&self) -> usize {
        self.store.line.used()
    }

    /// The configured capacity. It counts chunks, not values: [`TypedArena::allocated_bytes`].
    fn capacity(&self) -> Option<usize> {
        self.store.config.capacity.map(usize::from)
    }

    /// What the arena may still take from its allocator, and what is free in the current chunk.
    fn available(&self) -> Option<usize> {
        let left = self.capacity()?.saturating_sub(self.store.line.bytes());
        Some(left + self.store.line.room())
    }
}

impl<T, A: Allocator> Resettable for TypedArena<T, A> {
    /// Drops all values, as [`TypedArena::reset`] does.
    fn reset(&mut self) {
        TypedArena::reset(self);
    }
}

impl<T, A: Allocator> fmt::Debug for TypedArena<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TypedArena")
            .field("len", &self.len())
            .field("allocated", &self.allocated_bytes())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}
