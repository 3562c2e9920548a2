//! Arenas that many threads allocate from at once.

use std::{alloc::Layout, fmt, ptr::NonNull};

use nebula_memory_core::{
    Account, Accounted, Allocator, Global, MemoryError, MemoryUsage, PressureLevel, Reclaim,
    Resettable, layout::layout,
};

use crate::{
    ArenaConfig, ArenaHandle, ArenaUsage, Keep,
    allocator::allocator_by_reference,
    bumping::Request,
    making::{Source, refused},
    methods::allocation_methods,
    pieces::Pieces,
    typed_values::Line,
};

/// An arena that any number of threads allocate from at once, through `&self`.
///
/// Every thread moves a cursor in chunks of its own: there are no locks and no shared counters
/// between an allocation and its memory, but when a chunk is full. Values stay until the whole
/// arena is reset or dropped, whatever becomes of the threads that made them; the piece of a thread
/// that has ended is used by one that came later. The hottest loops take a
/// [`handle`](Self::handle), which costs what a plain [`Arena`](crate::Arena) does.
///
/// Settings, methods and the treatment of `Drop` are those of [`Arena`](crate::Arena); capacity and
/// budget are for all threads together. `&ThreadSafeArena` is an allocator whose blocks may be
/// grown and freed on other threads than their own; in place, if it is their own and they are
/// the latest.
///
/// ```
/// use nebula_arena::ThreadSafeArena;
///
/// let arena = ThreadSafeArena::new();
/// let names: Vec<&str> = std::thread::scope(|scope| {
///     let thread = |i| {
///         let arena = &arena;
///         scope.spawn(move || &*arena.alloc_fmt(format_args!("made by {i}")))
///     };
///     let threads: Vec<_> = (0..4).map(thread).collect();
///     threads.into_iter().map(|thread| thread.join().unwrap()).collect()
/// });
/// assert_eq!(names[3], "made by 3"); // the thread is gone, its values are not
/// ```
///
/// # What it takes
/// A table that leads from threads to their pieces, 128 bytes for each, comes from the allocator as
/// well, and counts: half a kilobyte when the first thread comes, twice that when more than four
/// live, and so on. Each thread has a chunk in use; small [first
/// chunks](ArenaConfig::chunk_size) save memory where many threads allocate little.
///
/// Thread-local destructors that run after the thread has given its piece back, threads that are
/// refused their part of the table, and those beyond some 65 000 that live at once, borrow a piece
/// for each allocation, under a lock.
///
/// # What does not compile
/// What was allocated cannot outlive a reset:
/// ```compile_fail,E0502
/// let mut arena = nebula_arena::ThreadSafeArena::new();
/// let one = arena.alloc(1);
/// arena.reset();
/// *one += 1;
/// ```
///
/// A type with a `Drop` of its own (a build finds it, `cargo check` does not):
/// ```compile_fail,E0080
/// nebula_arena::ThreadSafeArena::new().alloc(String::from("would leak"));
/// ```
///
/// An allocator that is for one thread makes an arena that is for one thread:
/// ```compile_fail,E0277
/// use nebula_arena::{Arena, ThreadSafeArena};
///
/// let chunks = Arena::new();
/// let arena = ThreadSafeArena::new_in(&chunks);
/// std::thread::scope(|scope| {
///     scope.spawn(|| arena.alloc(1).clone());
/// });
/// ```
pub struct ThreadSafeArena<A: Allocator = Global> {
    pieces: Pieces<A>,
}

impl ThreadSafeArena {
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

impl<A: Allocator + Default> Default for ThreadSafeArena<A> {
    fn default() -> Self {
        Self::new_in(A::default())
    }
}

impl<A: Allocator> ThreadSafeArena<A> {
    /// An arena with the default settings whose chunks and tables come from `allocator`. Takes no
    /// memory until the first allocation.
    #[must_use]
    pub fn new_in(allocator: A) -> Self {
        Self { pieces: Pieces::new(ArenaConfig::default(), allocator, true) }
    }

    /// An arena with `config` whose chunks and tables come from `allocator`.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`].
    pub fn with_config_in(config: ArenaConfig, allocator: A) -> Result<Self, MemoryError> {
        config.validate()?;
        Ok(Self { pieces: Pieces::new(config, allocator, true) })
    }

    /// The allocator that chunks and tables come from.
    pub const fn allocator(&self) -> &A {
        self.pieces.allocator()
    }

    /// The arena's settings.
    pub const fn config(&self) -> &ArenaConfig {
        self.pieces.config()
    }

    /// A piece of the arena for the hottest loops: it allocates as fast as an
    /// [`Arena`](crate::Arena) of one's own, and what it allocated stays when it is dropped.
    ///
    /// ```
    /// use nebula_arena::ThreadSafeArena;
    ///
    /// let arena = ThreadSafeArena::new();
    /// let handle = arena.handle();
    /// let squares: Vec<&u64> = (0..1000).map(|i| &*handle.alloc(i * i)).collect();
    /// drop(handle);
    /// assert_eq!(*squares[30], 900);
    /// ```
    ///
    /// # Panics
    /// If the arena is refused the memory for a new piece (128 bytes). Pieces of handles that were
    /// dropped are used again.
    #[track_caller]
    pub fn handle(&self) -> ArenaHandle<'_, A> {
        match self.try_handle() {
            Ok(handle) => handle,
            Err(error) => refused(error),
        }
    }

    /// As [`handle`](Self::handle).
    ///
    /// # Errors
    /// If the arena is refused the memory for a new piece.
    pub fn try_handle(&self) -> Result<ArenaHandle<'_, A>, MemoryError> {
        ArenaHandle::new(&self.pieces)
    }

    /// Makes sure that this thread can allocate `bytes` more without asking the allocator, in
    /// blocks whose alignment needs no padding.
    ///
    /// # Errors
    /// If the arena is refused a chunk.
    pub fn try_reserve(&self, bytes: usize) -> Result<(), MemoryError> {
        self.pieces.reserve_own(layout(bytes, 1)?)
    }

    /// Bytes taken from the allocator: all chunks, headers, tables and unused room included. This
    /// is what an account behind the allocator is charged. Exact at any time, but for what other
    /// threads are taking or giving back just now.
    pub fn allocated_bytes(&self) -> usize {
        self.pieces.bytes()
    }

    /// How the arena's bytes are spent, exactly: `&mut self`, because the threads' cursors are
    /// their own. `overhead` counts tables, too, and `high_water` is the sum of the pieces', which
    /// need not have had theirs at the same time. O(n) in the number of chunks and pieces.
    ///
    /// ```
    /// let mut arena = nebula_arena::ThreadSafeArena::new();
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| arena.alloc_str("four").len());
    ///     scope.spawn(|| arena.alloc_str("nine bits").len());
    /// });
    /// let usage = arena.usage();
    /// assert_eq!(usage.used, 13);
    /// assert_eq!(usage.allocated, arena.allocated_bytes());
    /// ```
    pub fn usage(&mut self) -> ArenaUsage {
        self.pieces.usage()
    }

    /// Gives spare chunks (that a reset left) back to the allocator until no more than `bytes` are
    /// held, as far as there are any.
    pub fn shrink_to(&self, bytes: usize) {
        self.pieces.trim(self.allocated_bytes().saturating_sub(bytes));
    }

    /// Frees everything at once. What is kept for the next use, by whichever threads, is for
    /// [`ArenaConfig::keep`](ArenaConfig::keep) to say.
    ///
    /// O(n) in the number of chunks and pieces.
    pub fn reset(&mut self) {
        self.reset_keeping(self.config().keep);
    }

    /// Frees everything at once. `keep` says what is kept for the next use: the chunk that was
    /// filled last is one for each thread; tables stay but for [`Keep::Nothing`].
    ///
    /// ```
    /// use nebula_arena::{Keep, ThreadSafeArena};
    ///
    /// let mut arena = ThreadSafeArena::new();
    /// arena.alloc_slice_fill(10_000, 1);
    /// let before = arena.allocated_bytes();
    /// arena.reset_keeping(Keep::All);
    /// // Another thread uses what is there:
    /// std::thread::scope(|scope| {
    ///     scope.spawn(|| arena.alloc_slice_fill(10_000, 2).len());
    /// });
    /// assert_eq!(arena.allocated_bytes(), before);
    /// arena.reset_keeping(Keep::Nothing);
    /// assert_eq!(arena.allocated_bytes(), 0);
    /// ```
    pub fn reset_keeping(&mut self, keep: Keep) {
        // SAFETY: `&mut self` ends every borrow of what was allocated.
        unsafe { self.pieces.reset(keep) };
    }
}

impl<B: Allocator, C: Account> ThreadSafeArena<Accounted<B, C>> {
    /// Moves all that the arena is charged for to another account, and charges it there from now
    /// on. Both accounts hold the bytes for a moment.
    ///
    /// # Errors
    /// The new account's refusal; nothing has changed then.
    pub fn try_move_to(&mut self, account: C) -> Result<C, MemoryError> {
        let bytes = self.allocated_bytes();
        self.pieces.allocator_mut().try_move_to(account, bytes)
    }
}

impl<A: Allocator> Source for ThreadSafeArena<A> {
    #[inline(always)]
    fn place(&self, request: Request) -> Option<NonNull<u8>> {
        self.pieces.own()?.place(request)
    }

    #[cold]
    #[inline(never)]
    fn place_elsewhere(&self, layout: Layout) -> Result<NonNull<u8>, MemoryError> {
        self.pieces.block_slowly(layout)
    }

    #[inline(always)]
    unsafe fn free(&self, block: NonNull<u8>, size: usize) {
        // Only with this thread's cursor. A block of another thread's piece is not the latest of
        // this one's, nor of one without chunks.
        let none = Line::new();
        let line = self.pieces.own().unwrap_or(&none);
        // SAFETY: the caller's promises are the callee's.
        unsafe { line.free(block, size) };
    }

    #[inline(always)]
    unsafe fn resize(&self, block: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<u8>> {
        let none = Line::new();
        let line = self.pieces.own().unwrap_or(&none);
        // SAFETY: the caller's promises are the callee's.
        unsafe { line.resize(block, old, new) }
    }
}

allocation_methods! {
    impl [A: Allocator] ThreadSafeArena<A>;
    lifetime 'x of self 'x;
    allocator Self;
    |arena| arena
}

allocator_by_reference! {
    [A: Allocator] ThreadSafeArena<A>
}

impl<A: Allocator> MemoryUsage for ThreadSafeArena<A> {
    /// Bytes of the chunks that threads have, whether they are filled or not, and of tables: what
    /// is in use to the byte, only the threads themselves know (or [`ThreadSafeArena::usage`],
    /// while they are not there).
    fn used(&self) -> usize {
        self.allocated_bytes().saturating_sub(self.pieces.spare_bytes())
    }

    /// The configured capacity: of all threads' chunks and of tables.
    fn capacity(&self) -> Option<usize> {
        self.config().capacity.map(usize::from)
    }
}

impl<A: Allocator> Resettable for ThreadSafeArena<A> {
    fn reset(&mut self) {
        ThreadSafeArena::reset(self);
    }
}

/// Gives back chunks that a reset left and that no thread has taken since.
///
/// (While an `Arc` of the arena is registered, `Arc::get_mut` yields nothing: drop the registration
/// to reset the arena.)
impl<A: Allocator + Send + Sync> Reclaim for ThreadSafeArena<A> {
    fn reclaimable(&self) -> usize {
        self.pieces.spare_bytes()
    }

    fn reclaim(&self, wanted: usize, _urgency: PressureLevel) -> usize {
        self.pieces.try_trim(wanted)
    }
}

impl<A: Allocator> fmt::Debug for ThreadSafeArena<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadSafeArena")
            .field("allocated", &self.allocated_bytes())
            .field("spare", &self.pieces.spare_bytes())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}
