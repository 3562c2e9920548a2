//! Room within the capacity: weight that is taken before an entry is placed.

use nebula_memory_core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// The weight of everything in the cache, and of what is about to be: never above the capacity.
///
/// Only this number is shared by the shards, so that an entry fits wherever the total allows it.
/// The orderings are relaxed: the number itself is all that is communicated.
#[derive(Debug)]
pub(crate) struct Total {
    taken: AtomicUsize,
    capacity: usize,
}

impl Total {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { taken: AtomicUsize::new(0), capacity }
    }

    pub(crate) const fn capacity(&self) -> usize {
        self.capacity
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    /// Takes `weight` if the capacity allows it.
    fn try_take(&self, weight: usize) -> bool {
        let take = |taken: usize| taken.checked_add(weight).filter(|&sum| sum <= self.capacity);
        self.taken.fetch_update(Relaxed, Relaxed, take).is_ok()
    }

    /// Gives back `weight` that was taken.
    pub(crate) fn give_back(&self, weight: usize) {
        if weight != 0 {
            self.taken.fetch_sub(weight, Relaxed);
        }
    }
}

/// Weight taken for an entry that is not placed yet; given back on drop.
///
/// What is evicted to make room hands its weight over, so that in the steady state, one out, one
/// in, the total is not touched at all, and nobody else can take the room that was made.
#[derive(Debug)]
pub(crate) struct Room<'c> {
    total: &'c Total,
    held: usize,
}

impl<'c> Room<'c> {
    pub(crate) const fn none(total: &'c Total) -> Self {
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

    /// Takes over the weight of an entry that left the cache, or is about to.
    #[inline]
    pub(crate) const fn take_over(&mut self, weight: usize) {
        self.held += weight;
    }

    /// Hands `weight` of what is held to an entry that is placed now; the rest is given back.
    #[inline]
    pub(crate) fn settle(&mut self, weight: usize) {
        debug_assert!(self.held >= weight, "room is taken before an entry is placed");
        self.held -= weight;
        self.give_up();
    }

    /// Gives back what is held, for others to use.
    pub(crate) fn give_up(&mut self) {
        self.total.give_back(std::mem::take(&mut self.held));
    }
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.give_up();
    }
}
