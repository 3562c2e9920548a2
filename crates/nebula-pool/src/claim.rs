//! Slots on their way: claims that are put back when they are dropped, whoever holds them.

use std::{
    mem::{ManuallyDrop, forget},
    ops::{Deref, DerefMut},
    ptr::NonNull,
};

use nebula_memory_core::Account;

use crate::{Poolable, ThreadSafePool, slots::Claimed};

/// A claimed slot that goes back to the pool, and there to the first in line, when it is dropped.
pub(crate) struct Claim<'p, T: Poolable, A: Account> {
    pool: &'p ThreadSafePool<T, A>,
    slot: ManuallyDrop<Claimed<'p, T>>,
}

impl<'p, T: Poolable, A: Account> Claim<'p, T, A> {
    #[inline]
    pub(crate) fn new(pool: &'p ThreadSafePool<T, A>, slot: Claimed<'p, T>) -> Self {
        Self { pool, slot: ManuallyDrop::new(slot) }
    }

    /// The slot without this guard.
    #[inline]
    pub(crate) fn into_slot(self) -> Claimed<'p, T> {
        let mut this = ManuallyDrop::new(self);
        // SAFETY: `this` is neither used nor dropped again, so that the slot is taken once.
        unsafe { ManuallyDrop::take(&mut this.slot) }
    }
}

impl<'p, T: Poolable, A: Account> Deref for Claim<'p, T, A> {
    type Target = Claimed<'p, T>;

    #[inline]
    fn deref(&self) -> &Claimed<'p, T> {
        &self.slot
    }
}

impl<T: Poolable, A: Account> DerefMut for Claim<'_, T, A> {
    #[inline]
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.slot
    }
}

impl<T: Poolable, A: Account> Drop for Claim<'_, T, A> {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: the slot is not used after this: `self` is being dropped, and `into_slot` forgets.
        let slot = unsafe { ManuallyDrop::take(&mut self.slot) };
        self.pool.release(slot);
    }
}

/// A claimed slot that is handed through the line of those who wait.
///
/// The line belongs to the pool, so that it cannot hold anything that borrows from the pool; a
/// pointer stands for the borrow. If nobody is left to take it, it is dropped and so put back.
pub(crate) struct Handed<T: Poolable, A: Account> {
    pool: NonNull<ThreadSafePool<T, A>>,
    index: usize,
}

// SAFETY: a `Handed` stands for a `Claim`, which consists of a `&ThreadSafePool` (`Send` if the pool
// is `Sync`, which takes `T: Send` and `A: Sync`) and an exclusive reference to a `T`.
unsafe impl<T: Poolable + Send, A: Account + Sync> Send for Handed<T, A> {}

impl<T: Poolable, A: Account> Handed<T, A> {
    /// Packs `slot`, which is one of `pool`'s. It must be unpacked or dropped while the pool is
    /// borrowed; only `Waiter`s, which borrow the pool's line, ever hold one (or leak it).
    pub(crate) fn new(pool: &ThreadSafePool<T, A>, slot: Claimed<'_, T>) -> Self {
        Self { pool: NonNull::from(pool), index: pool.slots.give_up(slot) }
    }

    /// Unpacks it for `pool`, which it came from.
    pub(crate) fn into_slot(self, pool: &ThreadSafePool<T, A>) -> Claimed<'_, T> {
        debug_assert_eq!(self.pool, NonNull::from(pool), "handed to a waiter of another pool");
        let index = self.index;
        forget(self);
        // SAFETY: `new` gave the claim of this slot up in favour of `self`, which is forgotten in
        // favour of the new one; the line is private to the pool, so that it is the same pool.
        unsafe { pool.slots.claimed_again(index) }
    }
}

impl<T: Poolable, A: Account> Drop for Handed<T, A> {
    fn drop(&mut self) {
        // SAFETY: the pool is alive and has not moved: whoever drops this is, or was called by, a
        // `Waiter`, which borrows the pool's line of which it got this.
        let pool = unsafe { self.pool.as_ref() };
        // SAFETY: `new` gave the claim of this slot up in favour of `self`, which ends here.
        let slot = unsafe { pool.slots.claimed_again(self.index) };
        slot.put_back();
        pool.serve();
    }
}
