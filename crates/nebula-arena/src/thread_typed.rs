//! Arenas for values of one type from many threads, which are dropped with the arena.

use std::{alloc::Layout, cell::Cell, fmt, marker::PhantomData, mem::needs_drop, ptr::NonNull};

use nebula_memory_core::{
    Allocator, Global, MemoryError, MemoryUsage, Refused, Resettable,
    layout::array_layout,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use crate::{
    ArenaConfig, ArenaUsage, Keep,
    bumping::Request,
    making::refused,
    pieces::Pieces,
    typed_methods::typed_methods,
    typed_store::{too_many, vec_of},
    typed_values::{RawSlices, count, drop_all},
};

/// An arena for values of one type that any number of threads allocate from at once, through
/// `&self`; it runs their `Drop`.
///
/// A [`ThreadSafeArena`](crate::ThreadSafeArena) in all that regards threads and memory, a
/// [`TypedArena`](crate::TypedArena) in what it does with values. Each thread's values are kept in
/// the order of their allocation; between threads there is none. They are dropped by whatever
/// thread drops or resets the arena.
///
/// ```
/// use nebula_arena::ThreadSafeTypedArena;
///
/// let mut arena = ThreadSafeTypedArena::new();
/// std::thread::scope(|scope| {
///     for i in 0..4 {
///         let arena = &arena;
///         scope.spawn(move || arena.alloc(format!("thread {i}")).push('!'));
///     }
/// });
/// let mut names = arena.into_vec();
/// names.sort();
/// assert_eq!(names[3], "thread 3!");
/// ```
///
/// # What does not compile
/// Values that may not be dropped on another thread:
/// ```compile_fail,E0277
/// let arena = nebula_arena::ThreadSafeTypedArena::new();
/// arena.alloc(std::rc::Rc::new(1));
/// ```
///
/// A value that outlives a reset:
/// ```compile_fail,E0502
/// let mut arena = nebula_arena::ThreadSafeTypedArena::new();
/// let one = arena.alloc(1);
/// arena.reset();
/// *one += 1;
/// ```
pub struct ThreadSafeTypedArena<T: Send, A: Allocator = Global> {
    /// Holds nothing but initialised values of `T`, and drops them; without naming `T`, as in
    /// [`TypedArena`](crate::TypedArena).
    store: SharedStore<A>,
    /// Invariant: values go in through a shared reference.
    values: PhantomData<Cell<T>>,
}

// SAFETY: the arena owns its values, which may go to another thread as `T: Send`; its pieces are
// `Send` as the allocator is.
unsafe impl<T: Send, A: Allocator + Send> Send for ThreadSafeTypedArena<T, A> {}
// SAFETY: through a shared reference values go in, from any thread, which `T: Send` allows, and
// come out as unique references to him who put them in; the pieces are `Sync` as the allocator is.
unsafe impl<T: Send, A: Allocator + Sync> Sync for ThreadSafeTypedArena<T, A> {}

/// Pieces full of values of one type, and how to drop them.
struct SharedStore<A: Allocator> {
    pieces: Pieces<A>,
    /// How many values there are, if they have no bytes.
    sizeless: AtomicUsize,
    /// Drops all values in the pieces, or as many without bytes.
    drop_values: unsafe fn(&Pieces<A>, usize),
}

/// All values, in slices (some may be empty).
///
/// # Safety
/// The pieces hold nothing but initialised `T`s, or `sizeless` ones without bytes, and nobody uses
/// them.
unsafe fn slices<T, A: Allocator>(
    pieces: &Pieces<A>,
    sizeless: usize,
) -> impl Iterator<Item = NonNull<[T]>> {
    let has_bytes = size_of::<T>() != 0;
    let nowhere = NonNull::slice_from_raw_parts(NonNull::dangling(), sizeless);
    // SAFETY: nobody uses the pieces, as the caller promises.
    let lines = has_bytes.then(|| unsafe { pieces.lines() });
    let of_lines = lines.into_iter().flatten().flat_map(|line| RawSlices::new(line, 0));
    (!has_bytes).then_some(nowhere).into_iter().chain(of_lines)
}

/// # Safety
/// As for `slices`, and the values are the caller's to drop.
unsafe fn drop_values<T, A: Allocator>(pieces: &Pieces<A>, sizeless: usize) {
    if needs_drop::<T>() {
        // SAFETY: the caller's promises are the callee's.
        let slices = unsafe { slices::<T, A>(pieces, sizeless) };
        // SAFETY: the caller's promises are the callee's.
        unsafe { drop_all(slices) };
    }
}

/// For pieces whose values are somebody else's. Safe.
unsafe fn drop_nothing<A: Allocator>(_: &Pieces<A>, _: usize) {}

impl<A: Allocator> SharedStore<A> {
    /// Room that its asker fills before it does anything else.
    #[inline(always)]
    fn room(&self, request: Request) -> Result<NonNull<u8>, MemoryError> {
        match self.pieces.own().and_then(|line| line.place(request)) {
            Some(block) => Ok(block),
            None => self.room_elsewhere(request.layout()),
        }
    }

    #[cold]
    #[inline(never)]
    fn room_elsewhere(&self, layout: Layout) -> Result<NonNull<u8>, MemoryError> {
        self.pieces.block_slowly(layout)
    }

    fn count_sizeless<T>(&self, len: usize) -> Result<NonNull<T>, MemoryError> {
        // Only counted: no order is needed.
        self.sizeless
            .fetch_update(Relaxed, Relaxed, |count| count.checked_add(len))
            .map(|_| NonNull::dangling())
            .map_err(|_| too_many::<T>())
    }

    /// All values.
    ///
    /// # Safety
    /// They are `T`s, and nobody uses the pieces.
    unsafe fn slices<T>(&self) -> impl Iterator<Item = NonNull<[T]>> {
        // SAFETY: the caller's promises are the callee's.
        unsafe { slices(&self.pieces, self.sizeless.load(Relaxed)) }
    }

    #[inline(always)]
    fn room_for_one<T>(&self) -> Result<NonNull<T>, MemoryError> {
        if size_of::<T>() == 0 {
            return self.count_sizeless(1);
        }
        self.room(Request::value::<T>()).map(NonNull::cast)
    }

    fn room_for<T>(&self, len: usize) -> Result<NonNull<T>, MemoryError> {
        if size_of::<T>() == 0 {
            return self.count_sizeless(len);
        }
        if len == 0 {
            return Ok(NonNull::dangling());
        }
        self.room(Request::array::<T>(array_layout::<T>(len)?)).map(NonNull::cast)
    }

    /// Drops all values, then deals with the memory, also if a `Drop` panics. (What is half done
    /// meanwhile, nobody sees: `&mut self` keeps everybody away.)
    fn empty(&mut self, keep: Keep) {
        struct Emptying<'a, A: Allocator>(&'a mut SharedStore<A>, Keep);

        impl<A: Allocator> Drop for Emptying<'_, A> {
            fn drop(&mut self) {
                // SAFETY: the values are dropped, and nobody borrows them any more.
                unsafe { self.0.pieces.reset(self.1) };
            }
        }

        let sizeless = self.sizeless.swap(0, Relaxed);
        let emptying = Emptying(self, keep);
        // SAFETY: nobody borrows the values, as `&mut self` shows. They are dropped once: the
        // pieces are reset before anybody else comes here.
        unsafe { (emptying.0.drop_values)(&emptying.0.pieces, sizeless) };
    }
}

impl<A: Allocator> Drop for SharedStore<A> {
    fn drop(&mut self) {
        self.empty(Keep::Nothing);
    }
}

impl<T: Send> ThreadSafeTypedArena<T> {
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

impl<T: Send, A: Allocator + Default> Default for ThreadSafeTypedArena<T, A> {
    fn default() -> Self {
        Self::new_in(A::default())
    }
}

impl<T: Send, A: Allocator> ThreadSafeTypedArena<T, A> {
    /// An arena with the default settings whose chunks and tables come from `allocator`. Takes no
    /// memory until the first allocation.
    #[must_use]
    pub fn new_in(allocator: A) -> Self {
        Self::unchecked(ArenaConfig::default(), allocator)
    }

    /// An arena with `config` whose chunks and tables come from `allocator`.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`].
    pub fn with_config_in(config: ArenaConfig, allocator: A) -> Result<Self, MemoryError> {
        config.validate()?;
        Ok(Self::unchecked(config, allocator))
    }

    fn unchecked(config: ArenaConfig, allocator: A) -> Self {
        let store = SharedStore {
            pieces: Pieces::new(config, allocator, false),
            sizeless: AtomicUsize::new(0),
            drop_values: drop_values::<T, A>,
        };
        Self { store, values: PhantomData }
    }

    /// The allocator that chunks and tables come from.
    pub const fn allocator(&self) -> &A {
        self.store.pieces.allocator()
    }

    /// The arena's settings.
    pub const fn config(&self) -> &ArenaConfig {
        self.store.pieces.config()
    }

    /// How many values the arena holds. O(n) in the number of pieces (and of chunks, for types
    /// aligned to more than 16 bytes).
    pub fn len(&mut self) -> usize {
        if size_of::<T>() == 0 {
            return self.store.sizeless.load(Relaxed);
        }
        // SAFETY: `&mut self` shows that nobody else is here.
        let lines = unsafe { self.store.pieces.lines() };
        lines.map(|line| count::<T>(line, 0)).sum()
    }

    /// Whether the arena holds nothing.
    pub fn is_empty(&mut self) -> bool {
        self.len() == 0
    }

    /// All values: those of each thread in the order of their allocation.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        // SAFETY: `&mut self` shows that nobody else is here.
        let slices = unsafe { self.store.slices::<T>() };
        // SAFETY: the values are initialised, and borrowed by nobody, as `&mut self` shows; the
        // slices do not overlap.
        slices.flat_map(|mut slice| unsafe { slice.as_mut() })
    }

    /// All values as a vector: those of each thread in the order of their allocation. O(n).
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
    pub fn try_into_vec(mut self) -> Result<Vec<T>, Refused<Self>> {
        let mut values = match vec_of(self.len()) {
            Ok(values) => values,
            Err(error) => return Err(Refused::new(self, error)),
        };
        // From here on the values are the vector's: nothing below panics.
        self.store.drop_values = drop_nothing;
        // SAFETY: `self` is ours, so that nobody else is here.
        for slice in unsafe { self.store.slices::<T>() } {
            let end = values.spare_capacity_mut().as_mut_ptr().cast::<T>();
            // SAFETY: there is room for all values of the arena; they move once, because the arena
            // does not drop them any more.
            unsafe { end.copy_from_nonoverlapping(slice.as_ptr().cast(), slice.len()) };
            // SAFETY: that many more are initialised now.
            unsafe { values.set_len(values.len() + slice.len()) };
        }
        Ok(values)
    }

    /// Bytes taken from the allocator: all chunks, headers, tables and unused room included. This
    /// is what an account behind the allocator is charged. Exact at any time, but for what other
    /// threads are taking or giving back just now.
    pub fn allocated_bytes(&self) -> usize {
        self.store.pieces.bytes()
    }

    /// How the arena's bytes are spent, exactly; as
    /// [`ThreadSafeArena::usage`](crate::ThreadSafeArena::usage).
    pub fn usage(&mut self) -> ArenaUsage {
        self.store.pieces.usage()
    }

    /// Drops all values; what memory stays for the next use is for
    /// [`ArenaConfig::keep`](ArenaConfig::keep) to say.
    ///
    /// If a `Drop` panics, the others' still run, the memory is dealt with, and then the panic goes
    /// on.
    pub fn reset(&mut self) {
        self.reset_keeping(self.config().keep);
    }

    /// Drops all values, as [`reset`](Self::reset) does; `keep` says what memory stays, as for
    /// [`ThreadSafeArena`](crate::ThreadSafeArena::reset_keeping).
    pub fn reset_keeping(&mut self, keep: Keep) {
        self.store.empty(keep);
    }
}

typed_methods! {
    impl [T: Send, A: Allocator] ThreadSafeTypedArena<T, A>
}

impl<T: Send, A: Allocator> MemoryUsage for ThreadSafeTypedArena<T, A> {
    /// Bytes of the chunks that threads have, whether they are filled or not, and of tables.
    fn used(&self) -> usize {
        self.allocated_bytes().saturating_sub(self.store.pieces.spare_bytes())
    }

    /// The configured capacity: of all threads' chunks and of tables.
    fn capacity(&self) -> Option<usize> {
        self.config().capacity.map(usize::from)
    }
}

impl<T: Send, A: Allocator> Resettable for ThreadSafeTypedArena<T, A> {
    /// Drops all values, as [`ThreadSafeTypedArena::reset`] does.
    fn reset(&mut self) {
        ThreadSafeTypedArena::reset(self);
    }
}

impl<T: Send, A: Allocator> fmt::Debug for ThreadSafeTypedArena<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadSafeTypedArena")
            .field("allocated", &self.allocated_bytes())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}
