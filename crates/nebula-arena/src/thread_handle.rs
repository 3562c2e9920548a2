//! A piece of a shared arena for one thread.

use std::{alloc::Layout, fmt, ptr::NonNull};

use nebula_memory_core::{Allocator, Global, MemoryError, layout::layout};

use crate::{
    allocator::allocator_by_reference, bumping::Request, lent::Lent, making::Source,
    methods::allocation_methods, pieces::Pieces,
};

/// A piece of a [`ThreadSafeArena`](crate::ThreadSafeArena) that is one's own: made by
/// [`ThreadSafeArena::handle`](crate::ThreadSafeArena::handle).
///
/// What is allocated through it lives as long as the arena's borrow, longer than the handle. It may
/// be sent to another thread, but not shared; `&ArenaHandle` is an allocator.
///
/// ```
/// use nebula_arena::ThreadSafeArena;
///
/// let arena = ThreadSafeArena::new();
/// std::thread::scope(|scope| {
///     for i in 0..2 {
///         let handle = arena.handle();
///         scope.spawn(move || {
///             let list = handle.alloc_slice_with(100, |n| n * i);
///             assert_eq!(list[99], 99 * i);
///         });
///     }
/// });
/// ```
///
/// It is for one thread at a time:
/// ```compile_fail,E0277
/// let arena = nebula_arena::ThreadSafeArena::new();
/// let handle = arena.handle();
/// std::thread::scope(|scope| {
///     scope.spawn(|| *handle.alloc(1));
/// });
/// ```
///
/// It ends before the arena is reset:
/// ```compile_fail,E0502
/// let mut arena = nebula_arena::ThreadSafeArena::new();
/// let handle = arena.handle();
/// arena.reset();
/// handle.alloc(1);
/// ```
pub struct ArenaHandle<'a, A: Allocator = Global> {
    lent: Lent<'a, A>,
}

// SAFETY: the piece is the handle's alone, and blocks from it borrow the arena, not the handle (or
// the handle, as an allocator does, so that it cannot move); the arena goes along as a shared
// reference, which its `Sync` allows, and that is the allocator's.
unsafe impl<A: Allocator + Sync> Send for ArenaHandle<'_, A> {}

impl<'a, A: Allocator> ArenaHandle<'a, A> {
    pub(crate) fn new(pieces: &'a Pieces<A>) -> Result<Self, MemoryError> {
        pieces.lend().map(|lent| Self { lent })
    }

    /// Makes sure that `bytes` more fit without asking the allocator, for blocks whose alignment
    /// needs no padding.
    ///
    /// # Errors
    /// If the arena is refused a chunk.
    pub fn try_reserve(&self, bytes: usize) -> Result<(), MemoryError> {
        let piece = self.lent.piece();
        piece.pieces().reserve(piece.line(), layout(bytes, 1)?)
    }
}

impl<A: Allocator> Source for ArenaHandle<'_, A> {
    #[inline(always)]
    fn place(&self, request: Request) -> Option<NonNull<u8>> {
        self.lent.piece().place(request)
    }

    fn place_elsewhere(&self, layout: Layout) -> Result<NonNull<u8>, MemoryError> {
        self.lent.piece().place_elsewhere(layout)
    }

    #[inline(always)]
    unsafe fn free(&self, block: NonNull<u8>, size: usize) {
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.lent.piece().free(block, size) };
    }

    #[inline(always)]
    unsafe fn resize(&self, block: NonNull<u8>, old: Layout, new: Layout) -> Option<NonNull<u8>> {
        // SAFETY: the caller's promises are the callee's.
        unsafe { self.lent.piece().resize(block, old, new) }
    }
}

allocation_methods! {
    impl ['a, A: Allocator] ArenaHandle<'a, A>;
    lifetime 'a of self;
    allocator Self;
    |handle| handle.lent.piece()
}

allocator_by_reference! {
    ['a, A: Allocator] ArenaHandle<'a, A>
}

impl<A: Allocator> fmt::Debug for ArenaHandle<'_, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArenaHandle")
            .field("used", &self.lent.piece().line().used())
            .field("allocated", &self.lent.piece().line().bytes())
            .finish_non_exhaustive()
    }
}
