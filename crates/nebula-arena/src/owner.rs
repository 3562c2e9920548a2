//! Who owns the arena that a root borrows from.

use std::{alloc::Layout, fmt, mem::ManuallyDrop, ptr::NonNull};

use nebula_memory_core::{Allocator, MemoryError};

use crate::Arena;

mod sealed {
    pub trait Sealed {}

    impl<A: nebula_memory_core::Allocator> Sealed for super::BoxedArena<A> {}
}
pub(crate) use sealed::Sealed;

/// An owner of an arena whose address does not change as the owner moves: what a
/// [`CrossThreadArena`](crate::CrossThreadArena) holds. A [`BoxedArena`], or the
/// [`Batch`](crate::Batch) of a stream.
///
/// # Safety
/// Until the owner is dropped, the arena stays where it is and is neither reset nor dropped, and
/// nobody but who has the owner uses it. An owner that is [`Send`] may be dropped on any thread.
pub unsafe trait ArenaOwner<A: Allocator>: Sealed {
    /// The arena. May be called by several threads at once (what they may then do with an arena
    /// is for the caller to know).
    fn arena(&self) -> &Arena<A>;
}

/// An arena in a block from its own allocator.
pub struct BoxedArena<A: Allocator> {
    /// From the arena's own allocator; ours alone.
    arena: NonNull<Arena<A>>,
}

// SAFETY: it owns the arena as a `Box` would; an arena may be sent if its allocator may.
unsafe impl<A: Allocator + Send> Send for BoxedArena<A> {}

impl<A: Allocator> BoxedArena<A> {
    /// What the box itself takes from the allocator.
    pub(crate) const LAYOUT: Layout = Layout::new::<Arena<A>>();

    /// Boxes `arena`.
    pub(crate) fn try_new(arena: Arena<A>) -> Result<Self, MemoryError> {
        let block = arena.allocator().try_allocate(Self::LAYOUT)?.cast::<Arena<A>>();
        // SAFETY: the block has the layout of an arena, and is ours alone.
        unsafe { block.write(arena) };
        Ok(Self { arena: block })
    }

    /// Takes the arena out and frees the box.
    pub(crate) fn into_arena(self) -> Arena<A> {
        let block = ManuallyDrop::new(self).arena;
        // SAFETY: the block holds an arena, which is moved out once: the box is forgotten.
        let arena = unsafe { block.read() };
        // SAFETY: the block came from this allocator (which has only moved) with this layout, and
        // holds nothing any more.
        unsafe { arena.allocator().deallocate(block.cast(), Self::LAYOUT) };
        arena
    }
}

// SAFETY: the arena lives in the block until the owner is dropped.
unsafe impl<A: Allocator> ArenaOwner<A> for BoxedArena<A> {
    fn arena(&self) -> &Arena<A> {
        // SAFETY: the block holds an arena as long as `self` lives, which is only ever borrowed
        // shared.
        unsafe { self.arena.as_ref() }
    }
}

impl<A: Allocator> Drop for BoxedArena<A> {
    fn drop(&mut self) {
        drop(Self { arena: self.arena }.into_arena());
    }
}

impl<A: Allocator> fmt::Debug for BoxedArena<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BoxedArena").field(self.arena()).finish()
    }
}
