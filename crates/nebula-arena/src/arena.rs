//! The arena itself: a cursor in the current chunk, and the slow path behind it.

use std::{alloc::Layout, cell::OnceCell, fmt, ptr::NonNull, sync::Arc};

use nebula_memory_core::{
    Account, Accounted, Allocator, Global, MemoryError, MemoryUsage, Resettable, TrimRequest,
};

use crate::{
    ArenaConfig, ArenaUsage, Direction, Keep, Up, bump::Bump, bumping::Request, making::Source,
    methods::allocation_methods,
};

/// A bump arena: values of all types, allocated by moving a cursor, freed all at once.
///
/// Chunks come from any [`Allocator`]: from the heap by default, or, through
/// [`new_in`](Self::new_in), from a budget's allocator, so that the arena is charged by the chunk
/// and its fast path does not know that budgets exist.
///
/// Values are not dropped. A type that needs dropping is refused at compile time: put it in an
/// [`ArenaBox`](crate::ArenaBox) with [`alloc_boxed`](Self::alloc_boxed), which drops it, or say
/// [`alloc_without_drop`](Self::alloc_without_drop).
///
/// `&Arena` is an allocator: `allocator_api2` vectors and `hashbrown` maps live in it.
///
/// ```
/// use nebula_arena::Arena;
/// use nebula_memory_core::allocator_api2::vec::Vec;
///
/// let arena = Arena::new();
/// let point = arena.alloc((1.5, 2.5));
/// point.0 += 1.0;
/// let name = arena.alloc_str("nebula");
/// let mut list = Vec::new_in(&arena);
/// list.extend([1, 2, 3]);
/// assert_eq!((point.0, &*name, list.len()), (2.5, "nebula", 3));
/// ```
///
/// # Type parameters
/// The cursor moves [`Up`] or [`Down`](crate::Down). Every block is aligned to at least `MIN_ALIGN`
/// (1, 2, 4, 8 or 16), which saves rounding where most blocks are: `Arena<Global, Up, 8>` takes two
/// instructions less for a `u64`, and wastes up to seven bytes behind a string.
///
/// # What does not compile
/// A type with a `Drop` of its own (a build finds it, `cargo check` does not):
/// ```compile_fail,E0080
/// nebula_arena::Arena::new().alloc(String::from("would leak"));
/// ```
///
/// What was allocated cannot outlive a reset:
/// ```compile_fail,E0502
/// let mut arena = nebula_arena::Arena::new();
/// let one = arena.alloc(1);
/// arena.reset();
/// *one += 1;
/// ```
pub struct Arena<A: Allocator = Global, D: Direction = Up, const MIN_ALIGN: usize = 1> {
    bump: Bump<D, MIN_ALIGN>,
    allocator: A,
    config: ArenaConfig,
    request: OnceCell<Arc<TrimRequest>>,
}

// SAFETY: the pointers lead to chunks that the arena owns; nothing is shared with another thread
// (blocks borrow the arena, so that it cannot move while one is alive), and the allocator moves
// along, which its own `Send` allows.
unsafe impl<A: Allocator + Send, D: Direction, const MIN_ALIGN: usize> Send
    for Arena<A, D, MIN_ALIGN>
{
}

impl Arena {
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

impl<A: Allocator + Default, D: Direction, const MIN_ALIGN: usize> Default
    for Arena<A, D, MIN_ALIGN>
{
    fn default() -> Self {
        Self::unchecked(ArenaConfig::default(), A::default())
    }
}

impl<A: Allocator> Arena<A> {
    /// An arena with the default settings whose chunks come from `allocator`. Takes no memory until
    /// the first allocation.
    #[must_use]
    pub fn new_in(allocator: A) -> Self {
        Self::unchecked(ArenaConfig::default(), allocator)
    }

    /// An arena with `config` whose chunks come from `allocator`.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`].
    pub fn with_config_in(config: ArenaConfig, allocator: A) -> Result<Self, MemoryError> {
        Self::with_parameters(config, allocator)
    }
}

impl<A: Allocator, D: Direction, const MIN_ALIGN: usize> Arena<A, D, MIN_ALIGN> {
    /// As [`with_config_in`](Self::with_config_in), for an arena whose direction and minimum
    /// alignment its type names. (With the default settings, `default()` does.)
    ///
    /// ```
    /// use nebula_arena::{Arena, ArenaConfig, Down};
    /// use nebula_memory_core::{Global, MemoryUsage};
    ///
    /// let config = ArenaConfig::default();
    /// let arena = Arena::<Global, Down, 8>::with_parameters(config, Global)?;
    /// arena.alloc(1_u8);
    /// assert_eq!(arena.used(), 8);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`].
    pub fn with_parameters(config: ArenaConfig, allocator: A) -> Result<Self, MemoryError> {
        config.validate()?;
        Ok(Self::unchecked(config, allocator))
    }

    /// With a `config` that is valid.
    pub(crate) fn unchecked(config: ArenaConfig, allocator: A) -> Self {
        Self { bump: Bump::new(), allocator, config, request: OnceCell::new() }
    }

    /// The allocator that chunks come from.
    pub const fn allocator(&self) -> &A {
        &self.allocator
    }

    /// The arena's settings.
    pub const fn config(&self) -> &ArenaConfig {
        &self.config
    }

    pub(crate) const fn bump(&self) -> &Bump<D, MIN_ALIGN> {
        &self.bump
    }

    /// The number of chunks.
    pub fn chunk_count(&self) -> usize {
        self.bump.count()
    }

    /// Bytes taken from the allocator: all chunks, headers and unused room included. This is what
    /// an account behind the allocator is charged.
    pub fn allocated_bytes(&self) -> usize {
        self.bump.bytes()
    }

    /// The most bytes that blocks took, as far as the arena has seen: it looks when a chunk is
    /// full, when blocks are given back together (a reset, the end of a scope), and now. A hint for
    /// the next arena that does the same work: [`ArenaConfig::sized_for`].
    pub fn high_water(&self) -> usize {
        self.bump.high_water()
    }

    /// How the arena's bytes are spent. O(n) in the number of chunks.
    ///
    /// ```
    /// let arena = nebula_arena::Arena::new();
    /// arena.alloc_str("four");
    /// let usage = arena.usage();
    /// assert_eq!((usage.used, usage.chunks, usage.allocated), (4, 1, 4096));
    /// println!("{usage}");
    /// ```
    pub fn usage(&self) -> ArenaUsage {
        ArenaUsage::of(&self.bump)
    }

    /// The used part of every chunk, in order of use: padding and all, as bytes that may not be
    /// initialised. Chunks that hold one large block come last. Where the cursor moves down, the
    /// latest block of a chunk is its first.
    ///
    /// ```
    /// let mut arena = nebula_arena::Arena::new();
    /// arena.alloc([1_u8, 2]);
    /// let lengths: Vec<usize> = arena.chunks().map(|bytes| bytes.len()).collect();
    /// assert_eq!(lengths, [2]);
    /// ```
    pub fn chunks(&mut self) -> impl Iterator<Item = &[std::mem::MaybeUninit<u8>]> {
        self.bump.chunks().map(|(chunk, used)| {
            let start = if D::UPWARDS { chunk.start() } else { chunk.end().wrapping_sub(used) };
            // SAFETY: the bytes lie in the chunk, which lives as long as the borrow of `self`; as
            // that is a unique one, nobody holds a block; `MaybeUninit` needs no initialisation.
            unsafe { std::slice::from_raw_parts(start.cast(), used) }
        })
    }

    /// Makes sure that `bytes` more fit without asking the allocator again, for blocks whose
    /// alignment needs no padding.
    ///
    /// # Errors
    /// If the allocator refuses a chunk.
    pub fn try_reserve(&self, bytes: usize) -> Result<(), MemoryError> {
        if bytes <= self.bump.room() {
            return Ok(());
        }
        let layout = nebula_memory_core::layout::layout(bytes, 1)?;
        let block = self.bump.place_elsewhere(&self.allocator, &self.config, layout, false)?;
        // The block was the latest, so that this leaves an empty chunk to go on with.
        // SAFETY: it came from this bump with this size, and nobody uses it.
        unsafe { self.bump.free(block, bytes) };
        Ok(())
    }

    /// Gives spare chunks (that a reset or the end of a scope left) back to the allocator until no
    /// more than `bytes` are held, as far as there are any.
    ///
    /// ```
    /// use nebula_arena::{Arena, Keep};
    ///
    /// let mut arena = Arena::new();
    /// arena.alloc_slice_with(100_000, |_| 0_u8);
    /// arena.reset_keeping(Keep::All);
    /// arena.shrink_to(10_000);
    /// assert!(arena.allocated_bytes() <= 10_000);
    /// ```
    pub fn shrink_to(&self, bytes: usize) {
        // SAFETY: the allocator is the one of all chunks.
        unsafe { self.bump.shrink_to(&self.allocator, bytes) };
        self.publish();
    }

    /// A letter box through which other threads may ask this arena for its spare chunks. Register
    /// it with a reclaim registry; the arena looks inside when it needs a chunk, at the end of
    /// every scope, and in a reset.
    ///
    /// ```
    /// use nebula_arena::{Arena, Keep};
    /// use nebula_memory_core::{PressureLevel, Reclaim};
    ///
    /// let mut arena = Arena::new();
    /// let request = arena.trim_request();
    /// arena.alloc_slice_with(100_000, |_| 0_u8);
    /// arena.reset_keeping(Keep::All);
    /// assert!(request.reclaimable() > 100_000);
    /// // Elsewhere, as memory runs short:
    /// request.reclaim(usize::MAX, PressureLevel::High);
    /// // Here, a little later:
    /// arena.scope(|_| ());
    /// assert_eq!((arena.allocated_bytes(), request.reclaimable()), (0, 0));
    /// ```
    pub fn trim_request(&self) -> Arc<TrimRequest> {
        let request = self.request.get_or_init(|| Arc::new(TrimRequest::new()));
        request.publish(self.bump.reclaimable_bytes());
        Arc::clone(request)
    }

    /// Gives back what others have asked for, as far as it is spare.
    #[inline]
    pub(crate) fn answer_request(&self) {
        if let Some(request) = self.request.get() {
            self.answer(request);
        }
    }

    #[cold]
    fn answer(&self, request: &TrimRequest) {
        if let Some(order) = request.take() {
            let keep = self.bump.bytes().saturating_sub(order.bytes);
            // SAFETY: the allocator is the one of all chunks.
            unsafe { self.bump.shrink_to(&self.allocator, keep) };
        }
        self.publish();
    }

    fn publish(&self) {
        if let Some(request) = self.request.get() {
            request.publish(self.bump.reclaimable_bytes());
        }
    }

    /// Frees everything at once; what stays for the next use is for
    /// [`ArenaConfig::keep`](ArenaConfig::keep) to say.
    ///
    /// O(n) in the number of chunks.
    pub fn reset(&mut self) {
        self.reset_keeping(self.config.keep);
    }

    /// Frees everything at once; `keep` says what stays for the next use.
    pub fn reset_keeping(&mut self, keep: Keep) {
        // SAFETY: `&mut self` ends every borrow of what was allocated; the allocator is the one of
        // all chunks.
        unsafe { self.bump.reset(&self.allocator, keep) };
        self.answer_request();
    }
}

impl<B: Allocator, C: Account, D: Direction, const MIN_ALIGN: usize>
    Arena<Accounted<B, C>, D, MIN_ALIGN>
{
    /// Moves all that the arena is charged for to another account, and charges it there from now
    /// on. Both accounts hold the bytes for a moment.
    ///
    /// # Errors
    /// The new account's refusal; nothing has changed then.
    ///
    /// ```
    /// use nebula_arena::Arena;
    /// use nebula_memory_core::{Accounted, Global, Unlimited};
    ///
    /// let mut arena: Arena<Accounted<Global, Unlimited>> = Arena::default();
    /// arena.alloc(1);
    /// arena.try_move_to(Unlimited)?;
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn try_move_to(&mut self, account: C) -> Result<C, MemoryError> {
        self.allocator.try_move_to(account, self.bump.bytes())
    }
}

impl<A: Allocator, D: Direction, const MIN_ALIGN: usize> Source for Arena<A, D, MIN_ALIGN> {
    #[inline(always)]
    fn place(&self, request: Request) -> Option<NonNull<u8>> {
        self.bump.place(request)
    }

    #[cold]
    #[inline(never)]
    fn place_elsewhere(&self, layout: Layout) -> Result<NonNull<u8>, MemoryError> {
        self.answer_request();
        let block = self.bump.place_elsewhere(&self.allocator, &self.config, layout, true);
        self.publish();
        block
    }

    #[inline(always)]
    unsafe fn free(&self, block: NonNull<u8>, size: usize) {
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.bump.free(block, size) };
    }

    #[inline(always)]
    unsafe fn resize(&self, block: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.bump.resize(block, old, new) }
    }
}

allocation_methods! {
    impl [A: Allocator, D: Direction, const MIN_ALIGN: usize] Arena<A, D, MIN_ALIGN>;
    lifetime 'x of self 'x;
    allocator Self;
    |arena| arena
}

impl<A: Allocator, D: Direction, const MIN_ALIGN: usize> Drop for Arena<A, D, MIN_ALIGN> {
    fn drop(&mut self) {
        // SAFETY: nothing borrows the arena any more; the allocator is the one of all chunks.
        unsafe { self.bump.release(&self.allocator) };
    }
}

impl<A: Allocator, D: Direction, const MIN_ALIGN: usize> MemoryUsage for Arena<A, D, MIN_ALIGN> {
    /// Bytes of all blocks, and the padding between them.
    fn used(&self) -> usize {
        self.bump.used()
    }

    /// The configured capacity. It counts chunks, not blocks: [`Arena::allocated_bytes`].
    fn capacity(&self) -> Option<usize> {
        self.config.capacity.map(usize::from)
    }

    /// What the arena may still take from its allocator, and what is free in the current chunk.
    fn available(&self) -> Option<usize> {
        let left = self.capacity()?.saturating_sub(self.bump.bytes());
        Some(left + self.bump.room())
    }
}

impl<A: Allocator, D: Direction, const MIN_ALIGN: usize> Resettable for Arena<A, D, MIN_ALIGN> {
    fn reset(&mut self) {
        Arena::reset(self);
    }
}

impl<A: Allocator, D: Direction, const MIN_ALIGN: usize> fmt::Debug for Arena<A, D, MIN_ALIGN> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arena")
            .field("used", &self.used())
            .field("allocated", &self.allocated_bytes())
            .field("chunks", &self.chunk_count())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}
