//! Scopes: what is allocated in one is given back at its end.

use std::{alloc::Layout, fmt, ptr::NonNull};

use nebula_memory_core::{Allocator, Global, MemoryError};

use crate::{
    Arena, Direction, Up,
    bump::{Address, Mark},
    bumping::Request,
    making::Source,
    methods::allocation_methods,
};

/// The right to allocate in an arena for `'s`, and to open scopes inside.
///
/// What is allocated lives for `'s`, also while a scope inside is open: that one's values live
/// shorter, and are given back at its end. Get one from [`Arena::scope`], [`Arena::as_scope`] or
/// [`ScopeGuard::scope`].
///
/// `&Scope` is an allocator, as `&Arena` is; while a collection borrows it, no scope inside can be
/// opened (a collection that grew there would grow into memory that is given back before it).
///
/// ```
/// use nebula_arena::Arena;
///
/// let mut arena = Arena::new();
/// let mut outer = arena.as_scope();
/// let kept = outer.alloc(1);
/// let sum = outer.scope(|inner| {
///     let scratch = inner.alloc_slice_with(100, |i| i);
///     *kept += 1; // what is outside stays usable
///     scratch.iter().sum::<usize>()
/// });
/// let next = outer.alloc(3); // where the scratch was
/// assert_eq!((sum, *kept, *next), (4950, 2, 3));
/// ```
///
/// Nothing leaves its scope:
/// ```compile_fail
/// let mut arena = nebula_arena::Arena::new();
/// let escaped = arena.scope(|scope| scope.alloc(1));
/// ```
pub struct Scope<'s, A: Allocator = Global, D: Direction = Up, const MIN_ALIGN: usize = 1> {
    arena: &'s Arena<A, D, MIN_ALIGN>,
}

/// A scope as a value: what is allocated through it is given back when it is dropped.
///
/// ```
/// use nebula_memory_core::MemoryUsage;
///
/// let mut arena = nebula_arena::Arena::new();
/// let mut guard = arena.scope_guard();
/// for round in 0..3 {
///     guard.scope().alloc_slice_fill(100, round);
///     guard.rewind(); // back to where the guard was made
/// }
/// drop(guard);
/// assert_eq!(arena.used(), 0);
/// ```
///
/// What was allocated before a rewind is not there any more:
/// ```compile_fail,E0499
/// let mut arena = nebula_arena::Arena::new();
/// let mut guard = arena.scope_guard();
/// let one = guard.scope().alloc(1);
/// guard.rewind();
/// *one += 1;
/// ```
pub struct ScopeGuard<'a, A: Allocator = Global, D: Direction = Up, const MIN_ALIGN: usize = 1> {
    arena: &'a Arena<A, D, MIN_ALIGN>,
    mark: Mark,
}

/// A place in an arena, to go back to with [`Arena::rewind`].
#[derive(Clone, Copy, Debug)]
pub struct Checkpoint(Address);

impl<A: Allocator, D: Direction, const MIN_ALIGN: usize> Arena<A, D, MIN_ALIGN> {
    /// Runs `body` with a scope: what it allocates there is given back at its end, also if it
    /// panics. Chunks that it needed are kept for the next time.
    ///
    /// ```
    /// use nebula_memory_core::MemoryUsage;
    ///
    /// let mut arena = nebula_arena::Arena::new();
    /// let longest = arena.scope(|scope| {
    ///     let words = scope.alloc_slice_from_iter("to be or not".split(' ').map(str::len));
    ///     words.iter().max().copied()
    /// });
    /// assert_eq!((longest, arena.used()), (Some(3), 0));
    /// ```
    #[inline]
    pub fn scope<R>(&mut self, body: impl FnOnce(&mut Scope<'_, A, D, MIN_ALIGN>) -> R) -> R {
        let mut guard = self.scope_guard();
        body(&mut guard.scope())
    }

    /// The arena as a scope that ends with the borrow and gives nothing back: for values that are
    /// to live while scopes inside are opened.
    pub fn as_scope(&mut self) -> Scope<'_, A, D, MIN_ALIGN> {
        Scope { arena: self }
    }

    /// A scope that ends when the guard is dropped.
    #[inline]
    pub fn scope_guard(&mut self) -> ScopeGuard<'_, A, D, MIN_ALIGN> {
        ScopeGuard { mark: self.bump().mark(), arena: self }
    }

    /// The present place, to go back to with [`rewind`](Self::rewind).
    pub fn checkpoint(&self) -> Checkpoint {
        Checkpoint(self.bump().address())
    }

    /// Gives back all that was allocated since `checkpoint`. O(n) in the number of chunks used
    /// since.
    ///
    /// ```
    /// use nebula_memory_core::MemoryUsage;
    ///
    /// let mut arena = nebula_arena::Arena::new();
    /// arena.alloc(1_u64);
    /// let checkpoint = arena.checkpoint();
    /// arena.alloc([0_u8; 1000]);
    /// arena.rewind(checkpoint)?;
    /// assert_eq!(arena.used(), 8);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    ///
    /// # Errors
    /// [`MemoryError::NotTopOfStack`] if the checkpoint is not at or before the present place: more
    /// was given back already, or it is another arena's. Nothing has changed then.
    ///
    /// A checkpoint is a place. One that is used after more was given back, and then taken again,
    /// is not told from a new one, and leads to that place of what is there now. (No borrow can be
    /// alive in either case.)
    pub fn rewind(&mut self, checkpoint: Checkpoint) -> Result<(), MemoryError> {
        let Some(mark) = self.bump().find(checkpoint.0) else {
            return Err(MemoryError::NotTopOfStack { distance: self.bump().used() });
        };
        // SAFETY: the place was just found; `&mut self` ends every borrow; the allocator is the one
        // of all chunks.
        unsafe { self.bump().rewind(self.allocator(), mark) };
        self.answer_request();
        Ok(())
    }
}

impl<A: Allocator, D: Direction, const MIN_ALIGN: usize> ScopeGuard<'_, A, D, MIN_ALIGN> {
    /// The scope.
    #[inline]
    pub fn scope(&mut self) -> Scope<'_, A, D, MIN_ALIGN> {
        Scope { arena: self.arena }
    }

    /// Gives back all that was allocated since the guard was made.
    #[inline]
    pub fn rewind(&mut self) {
        // SAFETY: the guard holds the unique borrow of the arena since it was made, so that the
        // arena is at or behind the mark; `&mut self` ends the borrow of every scope that came from
        // the guard, and so of all that was allocated since; the allocator is that of all chunks.
        unsafe { self.arena.bump().rewind(self.arena.allocator(), self.mark) };
        self.arena.answer_request();
    }
}

impl<A: Allocator, D: Direction, const MIN_ALIGN: usize> Drop for ScopeGuard<'_, A, D, MIN_ALIGN> {
    #[inline]
    fn drop(&mut self) {
        self.rewind();
    }
}

impl<A: Allocator, D: Direction, const MIN_ALIGN: usize> Scope<'_, A, D, MIN_ALIGN> {
    /// Runs `body` with a scope inside this one.
    #[inline]
    pub fn scope<R>(&mut self, body: impl FnOnce(&mut Scope<'_, A, D, MIN_ALIGN>) -> R) -> R {
        let mut guard = self.scope_guard();
        body(&mut guard.scope())
    }

    /// A scope inside this one that ends when the guard is dropped.
    #[inline]
    pub fn scope_guard(&mut self) -> ScopeGuard<'_, A, D, MIN_ALIGN> {
        ScopeGuard { mark: self.arena.bump().mark(), arena: self.arena }
    }

    /// The arena's figures are the scope's.
    pub fn usage(&self) -> crate::ArenaUsage {
        self.arena.usage()
    }
}

allocation_methods! {
    impl ['s, A: Allocator, D: Direction, const MIN_ALIGN: usize] Scope<'s, A, D, MIN_ALIGN>;
    lifetime 's of self;
    allocator Self;
    |scope| scope.arena
}

impl<A: Allocator, D: Direction, const MIN_ALIGN: usize> Source for Scope<'_, A, D, MIN_ALIGN> {
    #[inline(always)]
    fn place(&self, request: Request) -> Option<NonNull<u8>> {
        self.arena.place(request)
    }

    fn place_elsewhere(&self, layout: Layout) -> Result<NonNull<u8>, MemoryError> {
        self.arena.place_elsewhere(layout)
    }

    #[inline(always)]
    unsafe fn free(&self, block: NonNull<u8>, size: usize) {
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.arena.free(block, size) };
    }

    #[inline(always)]
    unsafe fn resize(&self, block: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.arena.resize(block, old, new) }
    }
}

impl<A: Allocator, D: Direction, const MIN_ALIGN: usize> fmt::Debug for Scope<'_, A, D, MIN_ALIGN> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Scope").field(self.arena).finish()
    }
}

impl<A: Allocator, D: Direction, const MIN_ALIGN: usize> fmt::Debug
    for ScopeGuard<'_, A, D, MIN_ALIGN>
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ScopeGuard").field(self.arena).finish()
    }
}
