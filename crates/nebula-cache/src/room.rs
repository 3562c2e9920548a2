//! Room within the capacity: taken before an entry is placed.

use std::marker::PhantomData;

use nebula_memory_core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use crate::mode::Mode;

/// What everything in the cache takes of its capacity, and what is about to: in entries or in bytes.
///
/// Only this number is shared by the shards, so that an entry fits wherever the total allows it.
/// The orderings are relaxed: the numbers themselves are all that is communicated.
#[derive(Debug)]
pub(crate) struct Total<M> {
    taken: AtomicUsize,
    capacity: AtomicUsize,
    mode: PhantomData<fn() -> M>,
}

impl<M: Mode> Total<M> {
    /// Nothing but `fixed` is taken of `capacity`.
    pub(crate) fn new(capacity: usize, fixed: usize) -> Self {
        let (taken, capacity) = (AtomicUsize::new(fixed), AtomicUsize::new(capacity));
        Self { taken, capacity, mode: PhantomData }
    }

    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        self.capacity.load(Relaxed)
    }

    /// Changes the capacity; what is taken may be more for a while.
    pub(crate) fn set_capacity(&self, capacity: usize) {
        self.capacity.store(capacity, Relaxed);
    }

    #[inline]
    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    /// What is left; approximately, while others are at work.
    #[inline]
    pub(crate) fn free(&self) -> usize {
        self.capacity().saturating_sub(self.taken())
    }

    /// Whether nothing is left.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.taken() >= self.capacity()
    }

    /// Takes `weight` if the capacity allows it.
    #[inline]
    fn try_take(&self, weight: usize) -> bool {
        let capacity = self.capacity();
        let take = |taken: usize| taken.checked_add(weight).filter(|&sum| sum <= capacity);
        if M::SHARED {
            return self.taken.fetch_update(Relaxed, Relaxed, take).is_ok();
        }
        let sum = take(self.taken());
        if let Some(sum) = sum {
            self.taken.store(sum, Relaxed);
        }
        sum.is_some()
    }

    /// Gives back `weight` that was taken.
    #[inline]
    pub(crate) fn give_back(&self, weight: usize) {
        if weight == 0 {
        } else if M::SHARED {
            self.taken.fetch_sub(weight, Relaxed);
        } else {
            self.taken.store(self.taken() - weight, Relaxed);
        }
    }
}

/// Room taken for something that is not placed yet; given back on drop.
///
/// What is evicted to make room hands its own over, so that in the steady state, one out, one in,
/// the total is not touched at all, and nobody else can take the room that was made.
#[derive(Debug)]
pub(crate) struct Room<'c, M: Mode> {
    total: &'c Total<M>,
    held: usize,
}

impl<'c, M: Mode> Room<'c, M> {
    #[inline]
    pub(crate) const fn none(total: &'c Total<M>) -> Self {
        Self { total, held: 0 }
    }

    /// Whether `weight` is held, after taking what was missing if that is to be had.
    #[inline]
    pub(crate) fn cover(&mut self, weight: usize) -> bool {
        let Some(missing) = weight.checked_sub(self.held) else { return true };
        if missing != 0 && !self.total.try_take(missing) {
            return false;
        }
        self.held += missing;
        true
    }

    /// Parts with `weight` of what is held.
    pub(crate) fn split(&mut self, weight: usize) -> Self {
        debug_assert!(self.held >= weight, "room is taken before it is given away");
        self.held -= weight;
        Self { total: self.total, held: weight }
    }

    /// Takes over what left the cache, or is about to.
    #[inline]
    pub(crate) const fn take_over(&mut self, weight: usize) {
        self.held += weight;
    }

    /// Hands `weight` of what is held to what is placed now; the rest is given back.
    #[inline]
    pub(crate) fn settle(&mut self, weight: usize) {
        debug_assert!(self.held >= weight, "room is taken before anything is placed");
        self.held -= weight;
        self.give_up();
    }

    /// Gives back what is held, for others to use.
    #[inline]
    pub(crate) fn give_up(&mut self) {
        self.total.give_back(std::mem::take(&mut self.held));
    }
}

impl<M: Mode> Drop for Room<'_, M> {
    #[inline]
    fn drop(&mut self) {
        self.give_up();
    }
}
