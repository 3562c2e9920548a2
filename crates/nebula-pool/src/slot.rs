//! A place for an object, and what the pool keeps beside it.
//!
//! All pools keep their objects in such slots, which stay where they are; a pool adds a head of its
//! own, by which it knows whose a slot is. This file reads and writes objects on the word of whoever
//! owns the slot; who that is, is the pools' matter.

use std::{
    fmt,
    mem::MaybeUninit,
    sync::atomic::{
        AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use nebula_memory_core::sync::UnsafeCell;

/// One place for an object, on cache lines of its own, what the pool looks at first before the
/// object. (The counters are no part of what the model checker looks at.)
#[repr(C, align(64))]
pub struct Slot<T, H> {
    /// The pool's own.
    pub(crate) head: H,
    /// Bytes charged for the object. Written by the slot's owner, read by anybody who wants an
    /// estimate, as is all that follows.
    charged: AtomicUsize,
    /// How much the object is worth, as it said when it came back last.
    value: AtomicU64,
    /// How often an object was lent from here.
    lends: AtomicU64,
    /// The lowest bits of that when the pool was maintained last.
    seen: AtomicU32,
    /// Whether there is an object. The pools know that by other means, too; this is for the end,
    /// when all that remain are dropped.
    full: AtomicBool,
    object: UnsafeCell<MaybeUninit<T>>,
}

impl<T, H> Slot<T, H> {
    pub(crate) fn new(head: H) -> Self {
        Self {
            head,
            charged: AtomicUsize::new(0),
            value: AtomicU64::new(0),
            lends: AtomicU64::new(0),
            seen: AtomicU32::new(0),
            full: AtomicBool::new(false),
            object: UnsafeCell::new(MaybeUninit::uninit()),
        }
    }

    /// Whether there is an object. What its owner wrote before he put it in is seen as well.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Acquire)
    }

    #[inline]
    pub(crate) fn charged(&self) -> usize {
        self.charged.load(Relaxed)
    }

    #[inline]
    pub(crate) fn set_charged(&self, bytes: usize) {
        self.charged.store(bytes, Relaxed);
    }

    #[inline]
    pub(crate) fn value(&self) -> u64 {
        self.value.load(Relaxed)
    }

    #[inline]
    pub(crate) fn set_value(&self, value: u64) {
        self.value.store(value, Relaxed);
    }

    /// Counts that the object is lent. For the slot's owner: it is no atomic addition.
    #[inline]
    pub(crate) fn count_lend(&self) {
        self.lends.store(self.lends.load(Relaxed).wrapping_add(1), Relaxed);
    }

    pub(crate) fn lends(&self) -> u64 {
        self.lends.load(Relaxed)
    }

    /// Whether the object was not lent since [`look`](Self::look) was called last.
    pub(crate) fn is_unused(&self) -> bool {
        self.seen.load(Relaxed) == low_bits(self.lends())
    }

    /// Notes that the pool is being maintained.
    pub(crate) fn look(&self) {
        self.seen.store(low_bits(self.lends()), Relaxed);
    }

    /// The object.
    ///
    /// # Safety
    /// There is one; the caller owns the slot, and makes no exclusive reference of it while this one
    /// lives.
    #[inline]
    pub(crate) unsafe fn object<'s>(&self) -> &'s T {
        self.object.with(|object| {
            // SAFETY: the caller's promises are the callee's; there is an object, so that it is
            // initialised.
            unsafe { &*object.cast::<T>() }
        })
    }

    /// The object, to be changed.
    ///
    /// # Safety
    /// There is one; the caller owns the slot, and makes no other reference of it while this one
    /// lives.
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "the caller's right to the slot is what is exclusive")]
    pub(crate) unsafe fn object_mut<'s>(&self) -> &'s mut T {
        self.object.with_mut(|object| {
            // SAFETY: the caller's promises are the callee's; there is an object, so that it is
            // initialised.
            unsafe { &mut *object.cast::<T>() }
        })
    }

    /// Puts an object in.
    ///
    /// # Safety
    /// There is none; the caller owns the slot.
    pub(crate) unsafe fn fill(&self, object: T, bytes: usize, value: u64) {
        debug_assert!(!self.is_full(), "the slot has an object");
        self.object.with_mut(|place| {
            // SAFETY: the caller owns the slot, so that nobody else uses the place; it is valid for
            // writes, being a cell's.
            unsafe { place.write(MaybeUninit::new(object)) }
        });
        self.set_charged(bytes);
        self.set_value(value);
        // Nobody could have used it before it was there.
        self.seen.store(low_bits(self.lends()).wrapping_sub(1), Relaxed);
        self.full.store(true, Release);
    }

    /// Takes the object out, with what is charged for it.
    ///
    /// # Safety
    /// There is one; the caller owns the slot, and has no reference of the object any more.
    pub(crate) unsafe fn take(&self) -> (T, usize) {
        debug_assert!(self.is_full(), "the slot has no object");
        self.full.store(false, Relaxed);
        let bytes = self.charged();
        self.set_charged(0);
        let object = self.object.with_mut(|place| {
            // SAFETY: the caller owns the slot, so that nobody else uses the place; there is an
            // object, which is the caller's from now on: the slot counts as empty.
            unsafe { place.cast::<T>().read() }
        });
        (object, bytes)
    }

    /// Takes the object out if there is one: nobody else has the slot.
    pub(crate) fn empty(&mut self) -> Option<(T, usize)> {
        if !self.is_full() {
            return None;
        }
        // SAFETY: there is an object, and the exclusive borrow of the slot is ownership.
        Some(unsafe { self.take() })
    }
}

impl<T, H> fmt::Debug for Slot<T, H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("full", &self.is_full()).finish_non_exhaustive()
    }
}

#[allow(clippy::cast_possible_truncation, reason = "the lowest bits are what is wanted")]
const fn low_bits(lends: u64) -> u32 {
    lends as u32
}

#[cfg(all(test, not(nebula_loom)))]
mod tests {
    use super::Slot;

    #[test]
    fn what_is_put_in_comes_out_once() {
        let mut slot = Slot::new(());
        assert!(slot.empty().is_none());
        // SAFETY: it is empty, and ours.
        unsafe { slot.fill(String::from("x"), 100, 7) };
        assert_eq!((slot.charged(), slot.value(), slot.is_full()), (100, 7, true));
        assert_eq!(slot.empty(), Some((String::from("x"), 100)));
        assert!(slot.empty().is_none() && slot.charged() == 0);
    }

    #[test]
    fn an_object_is_unused_until_it_is_lent() {
        let slot = Slot::<u8, ()>::new(());
        // SAFETY: it is empty, and ours.
        unsafe { slot.fill(0, 0, 0) };
        assert!(!slot.is_unused(), "it is new");
        slot.look();
        assert!(slot.is_unused());
        slot.count_lend();
        assert!(!slot.is_unused());
        slot.look();
        assert!(slot.is_unused());
        slot.count_lend();
        assert!(!slot.is_unused());
        assert_eq!(slot.lends(), 2);
    }

    #[test]
    fn a_header_leaves_room_in_a_cache_line() {
        assert_eq!(size_of::<Slot<Vec<u8>, usize>>(), 64);
        assert_eq!(size_of::<Slot<[u64; 8], usize>>(), 128);
    }
}
