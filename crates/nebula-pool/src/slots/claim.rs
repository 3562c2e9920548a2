//! Slots on their way: owned slots that are put back when they are dropped, whoever holds them.

use std::{fmt, mem::forget, ops::Deref, ptr::NonNull};

use nebula_memory_core::Account;

use super::{Place, SlotPool, head::Tag, mode::Mode};
use crate::Poolable;

/// An owned slot that goes back to the pool, and there to the first in line, when it is dropped.
pub(crate) struct Claim<'p, T: Poolable, A: Account, M: Mode> {
    pool: &'p SlotPool<T, A, M>,
    slot: &'p Place<T, M>,
}

impl<'p, T: Poolable, A: Account, M: Mode> Claim<'p, T, A, M> {
    /// The caller owns `slot`, which is one of `pool`'s; from now on, the claim does.
    #[inline]
    pub(crate) const fn new(pool: &'p SlotPool<T, A, M>, slot: &'p Place<T, M>) -> Self {
        Self { pool, slot }
    }

    /// The slot, which is the caller's from now on.
    #[inline]
    pub(crate) fn into_slot(self) -> &'p Place<T, M> {
        let slot = self.slot;
        forget(self);
        slot
    }
}

impl<T: Poolable, A: Account, M: Mode> Deref for Claim<'_, T, A, M> {
    type Target = Place<T, M>;

    #[inline]
    fn deref(&self) -> &Place<T, M> {
        self.slot
    }
}

impl<T: Poolable, A: Account, M: Mode> Drop for Claim<'_, T, A, M> {
    fn drop(&mut self) {
        self.pool.release(self.slot, tag_of(self.slot));
    }
}

/// What an owned slot is when it is put back.
pub(super) fn tag_of<T, S>(slot: &crate::slot::Slot<T, super::head::Head<S>>) -> Tag {
    if slot.is_full() { Tag::Idle } else { Tag::Empty }
}

/// An owned slot that is handed through the line of those who wait.
///
/// The line belongs to the pool, so that it cannot hold anything that borrows from the pool;
/// pointers stand for the borrows. If nobody is left to take it, it is dropped and so put back.
pub(super) struct Handed<T: Poolable, A: Account, M: Mode> {
    pool: NonNull<SlotPool<T, A, M>>,
    slot: NonNull<Place<T, M>>,
}

// SAFETY: a `Handed` stands for a `Claim`, which consists of a `&SlotPool` (`Send` if the pool is
// `Sync`, which takes `T: Send`, `A: Sync` and `M: Sync`) and of an object that moves with it.
unsafe impl<T: Poolable + Send, A: Account + Sync, M: Mode + Sync> Send for Handed<T, A, M> {}

impl<T: Poolable, A: Account, M: Mode> Handed<T, A, M> {
    /// Packs `slot`, which is one of `pool`'s and the caller's. It must be unpacked or dropped while
    /// the pool is borrowed; only waiters, which borrow the pool's line, ever hold one (or leak it).
    pub(super) fn new(pool: &SlotPool<T, A, M>, slot: &Place<T, M>) -> Self {
        Self { pool: NonNull::from(pool), slot: NonNull::from(slot) }
    }

    /// Unpacks it for `pool`, which it came from.
    pub(super) fn into_slot(self, pool: &SlotPool<T, A, M>) -> &Place<T, M> {
        debug_assert_eq!(self.pool, NonNull::from(pool), "handed to a waiter of another pool");
        let slot = self.slot;
        forget(self);
        // SAFETY: it was made of one of the pool's slots, which live for as long as the pool; the
        // line is private to the pool, so that it is the same pool.
        unsafe { slot.as_ref() }
    }
}

impl<T: Poolable, A: Account, M: Mode> fmt::Debug for Handed<T, A, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handed").finish_non_exhaustive()
    }
}

impl<T: Poolable, A: Account, M: Mode> Drop for Handed<T, A, M> {
    fn drop(&mut self) {
        // SAFETY: the pool is alive and has not moved: whoever drops this is, or was called by, a
        // waiter, which borrows the pool's line of which it got this.
        let pool = unsafe { self.pool.as_ref() };
        // SAFETY: slots live for as long as the pool.
        let slot = unsafe { self.slot.as_ref() };
        slot.head.put_back(tag_of(slot));
        pool.serve();
    }
}
