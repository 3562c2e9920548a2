//! Room within the capacity: taken before an entry is placed.

use std::marker::PhantomData;

use nebula_memory_core::sync::atomic::{AtomicIsize, AtomicUsize, Ordering::Relaxed};

use crate::mode::Mode;

/// What everything in the cache takes of its capacity, and what is about to: in entries or in bytes.
///
/// Only this is shared by the shards, so that an entry fits wherever the total allows it. What is
/// left is one number, so that nobody takes room of a capacity that was lowered meanwhile. The
/// orderings are relaxed: the numbers themselves are all that is communicated.
#[derive(Debug)]
pub(crate) struct Total<M> {
    /// Below zero after the capacity was lowered, until enough has been evicted.
    free: AtomicIsize,
    capacity: AtomicUsize,
    mode: PhantomData<fn() -> M>,
}

/// A number of entries or bytes that are there, or a capacity of which no more than that can be
/// used.
#[inline]
#[allow(clippy::cast_possible_wrap, reason = "made small enough")]
const fn signed(number: usize) -> isize {
    if number > isize::MAX as usize { isize::MAX } else { number as isize }
}

#[inline]
#[allow(clippy::cast_sign_loss, reason = "made positive")]
const fn unsigned(number: isize) -> usize {
    if number < 0 { 0 } else { number as usize }
}

impl<M: Mode> Total<M> {
    /// Nothing but `fixed` is taken of `capacity`.
    pub(crate) fn new(capacity: usize, fixed: usize) -> Self {
        let free = AtomicIsize::new(signed(capacity) - signed(fixed));
        Self { free, capacity: AtomicUsize::new(capacity), mode: PhantomData }
    }

    #[inline]
    pub(crate) fn capacity(&self) -> usize {
        self.capacity.load(Relaxed)
    }

    /// Changes the capacity; what is taken may be more for a while.
    pub(crate) fn set_capacity(&self, capacity: usize) {
        let old = self.capacity.swap(capacity, Relaxed);
        self.free.fetch_add(signed(capacity) - signed(old), Relaxed);
    }

    /// Takes up to `most` out of the capacity, but leaves `kept` of what is free. Returns how much it
    /// was.
    pub(crate) fn lend(&self, most: usize, kept: usize) -> usize {
        let part = |free: isize| signed(most).min(free.saturating_sub(signed(kept)));
        let take = |free| (part(free) > 0).then(|| free - part(free));
        let lent = self.free.fetch_update(Relaxed, Relaxed, take).map_or(0, part);
        self.capacity.fetch_sub(unsigned(lent), Relaxed);
        unsigned(lent)
    }

    /// Adds to the capacity.
    pub(crate) fn grow(&self, more: usize) {
        self.capacity.fetch_add(more, Relaxed);
        self.free.fetch_add(signed(more), Relaxed);
    }

    /// How much is taken; approximately, while the capacity changes.
    #[inline]
    pub(crate) fn taken(&self) -> usize {
        let free = self.free.load(Relaxed);
        unsigned(signed(self.capacity()) - free)
    }

    /// What is left.
    #[inline]
    pub(crate) fn free(&self) -> usize {
        unsigned(self.free.load(Relaxed))
    }

    /// What is left; less than nothing where the capacity was lowered beneath what is taken.
    #[inline]
    pub(crate) fn left(&self) -> isize {
        self.free.load(Relaxed)
    }

    /// How much more is taken than the capacity allows, which was lowered.
    pub(crate) fn excess(&self) -> usize {
        unsigned(self.free.load(Relaxed).saturating_neg())
    }

    /// Takes `weight` if the capacity allows it.
    #[inline]
    pub(crate) fn try_take(&self, weight: usize) -> bool {
        let Ok(weight) = isize::try_from(weight) else { return false };
        let take = |free: isize| (free >= weight).then_some(free - weight);
        if M::SHARED {
            return self.free.fetch_update(Relaxed, Relaxed, take).is_ok();
        }
        let free = take(self.free.load(Relaxed));
        if let Some(free) = free {
            self.free.store(free, Relaxed);
        }
        free.is_some()
    }

    /// Takes up to `most` of what is left; returns how much it was.
    fn take_some(&self, most: usize) -> usize {
        let part = |free: isize| free.min(signed(most)).max(0);
        let take = |free| Some(free - part(free));
        unsigned(self.free.fetch_update(Relaxed, Relaxed, take).map_or(0, part))
    }

    /// Gives back `weight` that was taken.
    #[inline]
    pub(crate) fn give_back(&self, weight: usize) {
        if weight == 0 {
        } else if M::SHARED {
            self.free.fetch_add(signed(weight), Relaxed);
        } else {
            self.free.store(self.free.load(Relaxed) + signed(weight), Relaxed);
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

    /// Whether `weight` is held, after taking what was missing if that is to be had. (For nothing there
    /// is no room either where more is taken than there is.)
    #[inline]
    pub(crate) fn cover(&mut self, weight: usize) -> bool {
        let Some(missing) = weight.checked_sub(self.held) else { return true };
        if missing == 0 {
            return weight > 0 || self.total.left() >= 0;
        }
        if !self.total.try_take(missing) {
            return false;
        }
        self.held += missing;
        true
    }

    /// Has as much of `weight` held as is to be had.
    pub(crate) fn cover_some(&mut self, weight: usize) {
        self.held += self.total.take_some(weight.saturating_sub(self.held));
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

    #[inline]
    pub(crate) const fn held(&self) -> usize {
        self.held
    }

    /// Takes what is held, but no more than `most`, out of the capacity, and gives back the rest;
    /// returns how much was taken out.
    pub(crate) fn take_out(mut self, most: usize) -> usize {
        let out = self.held.min(most);
        self.held -= out;
        self.total.capacity.fetch_sub(out, Relaxed);
        out
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
