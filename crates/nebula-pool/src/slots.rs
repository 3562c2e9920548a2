//! The table of slots in which the objects live, and the right to use one of them.
//!
//! All unsafe access to objects is in this file. Whoever holds a [`Claimed`] is alone with its slot;
//! it is made by the one compare-and-swap that took the slot. Nothing here runs an object's code,
//! charges, or waits for another thread's code.

use std::{
    alloc::Layout,
    marker::PhantomData,
    sync::atomic::{AtomicU64, AtomicUsize as PlainAtomicUsize, Ordering::Relaxed},
};

use nebula_memory_core::{
    MemoryError,
    layout::array_layout,
    sync::{
        UnsafeCell,
        atomic::{AtomicUsize, Ordering},
        thread::yield_now,
    },
};

use crate::affinity::Lane;

/// What is in a slot, in the low bits of its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Tag {
    /// No object: a place to make one in.
    Empty = 0,
    /// An object that may be lent.
    Idle = 1,
    /// Somebody's, who holds a [`Claimed`] or what stands for it. With or without an object.
    Busy = 2,
    /// Its idle object is being moved out by a reclaim and it will be empty in a moment. In this
    /// state no foreign code runs, so that others may spin on it.
    Leaving = 3,
}

const TAG_BITS: usize = 0b11;
/// One claim more, in the bits above the tag.
const CLAIM: usize = 0b100;

fn tag(word: usize) -> Tag {
    match word & TAG_BITS {
        0 => Tag::Empty,
        1 => Tag::Idle,
        2 => Tag::Busy,
        _ => Tag::Leaving,
    }
}

/// One place for an object, on cache lines of its own.
#[repr(align(64))]
pub(crate) struct Slot<T> {
    /// The tag, and above it the number of claims so far (wrapping). Only the holder of a claim
    /// changes it, except for the step that makes somebody the holder.
    word: AtomicUsize,
    /// Bytes charged for the object. Written by the holder of the claim, read by anybody who wants
    /// an estimate. (This counter and the next are no part of what the model checker looks at.)
    charged: PlainAtomicUsize,
    /// How often an object was lent from here. Written by the holder of the claim.
    lends: AtomicU64,
    object: UnsafeCell<Option<T>>,
}

// SAFETY: a shared slot gives access to its object only through `Claimed` (and `take_idle`, which
// owns the slot in the meantime), to one thread at a time, and the hand-over synchronises: release
// on the store that frees the slot, acquire on the exchange that takes it. The object thus moves
// between threads, which `T: Send` allows; it is never used by two at once, so that `T: Sync` is not
// needed. `Claimed` shares it further only if it is `Sync`.
unsafe impl<T: Send> Sync for Slot<T> {}

impl<T> Slot<T> {
    fn new() -> Self {
        Self {
            word: AtomicUsize::new(Tag::Empty as usize),
            charged: PlainAtomicUsize::new(0),
            lends: AtomicU64::new(0),
            object: UnsafeCell::new(None),
        }
    }

    /// Takes the slot if it is `wanted` (empty or idle).
    #[inline]
    fn claim(&self, wanted: Tag) -> Option<Claimed<'_, T>> {
        let word = self.word.load(Ordering::Relaxed);
        if word & TAG_BITS != wanted as usize {
            return None;
        }
        let busy = (word & !TAG_BITS).wrapping_add(CLAIM) | Tag::Busy as usize;
        let taken = self.word.compare_exchange(word, busy, Ordering::Acquire, Ordering::Relaxed);
        taken.is_ok().then_some(Claimed { slot: self, object: PhantomData })
    }

    /// Takes the object out of an idle slot, with what is charged for it.
    fn take_idle(&self) -> Option<(T, usize)> {
        let word = self.word.load(Ordering::Relaxed);
        if tag(word) != Tag::Idle {
            return None;
        }
        let leaving = (word & !TAG_BITS) | Tag::Leaving as usize;
        let taken = self.word.compare_exchange(word, leaving, Ordering::Acquire, Ordering::Relaxed);
        taken.ok()?;
        let object = self.object.with_mut(|object| {
            // SAFETY: the exchange has made this thread the only one that uses the cell, until the
            // store below.
            unsafe { (*object).take() }
        });
        let charged = self.charged.load(Relaxed);
        self.charged.store(0, Relaxed);
        self.word.store((word & !TAG_BITS) | Tag::Empty as usize, Ordering::Release);
        object.map(|object| (object, charged))
    }

    /// Bytes charged for the object if it is idle.
    fn idle_bytes(&self) -> usize {
        let idle = tag(self.word.load(Ordering::Relaxed)) == Tag::Idle;
        if idle { self.charged.load(Relaxed) } else { 0 }
    }
}

/// The right to use one slot, exclusively. A slot whose right is dropped without
/// [`put_back`](Self::put_back) stays taken.
#[must_use = "a slot that is not put back stays taken"]
pub(crate) struct Claimed<'s, T> {
    slot: &'s Slot<T>,
    /// This is like an exclusive reference to the object, for `Send` and `Sync` too.
    object: PhantomData<&'s mut T>,
}

impl<T> Claimed<'_, T> {
    /// The object, if there is one.
    #[inline]
    pub(crate) fn object(&self) -> Option<&T> {
        self.slot.object.with(|object| {
            // SAFETY: this claim is the only way to the cell, and it is borrowed for as long as the
            // reference lives; exclusive references come from an exclusive borrow of the claim.
            unsafe { (*object).as_ref() }
        })
    }

    /// The object, if there is one, to be changed.
    #[inline]
    pub(crate) fn object_mut(&mut self) -> Option<&mut T> {
        self.slot.object.with_mut(|object| {
            // SAFETY: this claim is the only way to the cell, and it is borrowed exclusively for as
            // long as the reference lives.
            unsafe { (*object).as_mut() }
        })
    }

    /// Bytes charged for the object.
    #[inline]
    pub(crate) fn charged(&self) -> usize {
        self.slot.charged.load(Relaxed)
    }

    /// Notes that the object is charged `bytes` from now on.
    #[inline]
    pub(crate) fn set_charged(&mut self, bytes: usize) {
        self.slot.charged.store(bytes, Relaxed);
    }

    /// Puts an object, charged `bytes`, into a slot that has none.
    pub(crate) fn fill(&mut self, object: T, bytes: usize) {
        debug_assert!(self.object().is_none(), "the slot has an object");
        self.slot.object.with_mut(|cell| {
            // SAFETY: this claim, borrowed exclusively, is the only way to the cell.
            unsafe { *cell = Some(object) }
        });
        self.set_charged(bytes);
    }

    /// Takes the object out, with what is charged for it.
    pub(crate) fn take(&mut self) -> Option<(T, usize)> {
        let object = self.slot.object.with_mut(|object| {
            // SAFETY: this claim, borrowed exclusively, is the only way to the cell.
            unsafe { (*object).take() }
        })?;
        let bytes = self.charged();
        self.set_charged(0);
        Some((object, bytes))
    }

    /// Counts that the object is lent.
    #[inline]
    pub(crate) fn count_lend(&mut self) {
        // A plain addition: only the holder of the claim writes.
        self.slot.lends.store(self.slot.lends.load(Relaxed).wrapping_add(1), Relaxed);
    }

    /// Gives the slot up, for others to take.
    #[inline]
    pub(crate) fn put_back(self) {
        let tag = if self.object().is_some() { Tag::Idle } else { Tag::Empty };
        let word = self.slot.word.load(Ordering::Relaxed);
        debug_assert_eq!(word & TAG_BITS, Tag::Busy as usize, "a claimed slot is busy");
        self.slot.word.store((word & !TAG_BITS) | tag as usize, Ordering::Release);
    }
}

/// The slots of a pool.
pub(crate) struct Slots<T> {
    slots: Box<[Slot<T>]>,
    lane: Lane,
}

impl<T> Slots<T> {
    /// Bytes that a table of `capacity` slots takes.
    ///
    /// # Errors
    /// If no such table can be.
    pub(crate) fn bytes(capacity: usize) -> Result<usize, MemoryError> {
        Ok(array_layout::<Slot<T>>(capacity)?.size())
    }

    /// A table of `capacity` empty slots.
    ///
    /// # Errors
    /// If the system has no memory for it.
    pub(crate) fn new(capacity: usize) -> Result<Self, MemoryError> {
        let layout: Layout = array_layout::<Slot<T>>(capacity)?;
        let mut slots = Vec::new();
        slots.try_reserve_exact(capacity).map_err(|_| MemoryError::out_of_memory(layout))?;
        slots.extend((0..capacity).map(|_| Slot::new()));
        Ok(Self { slots: slots.into_boxed_slice(), lane: Lane::next() })
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// Takes the idle object that this thread had last, if it is there.
    #[inline]
    pub(crate) fn claim_own(&self) -> Option<Claimed<'_, T>> {
        self.slots.get(self.lane.last())?.claim(Tag::Idle)
    }

    /// Takes a particular slot if it is empty.
    pub(crate) fn claim_empty(&self, index: usize) -> Option<Claimed<'_, T>> {
        self.slots.get(index)?.claim(Tag::Empty)
    }

    /// Takes a slot with an idle object, or else an empty one; the nearest one after this thread's
    /// own. `None` only if there was a moment at which all slots were busy.
    ///
    /// O(n) in the number of slots. It begins anew only when another thread got something.
    pub(crate) fn claim_any(&self) -> Option<Claimed<'_, T>> {
        let start = self.lane.start(self.len());
        // All slots were seen busy once, when they had been claimed this often in sum. Since these
        // counts only grow, seeing the same sum again proves that none of the slots was free in
        // between: without that, objects that others return and take while we walk past could make
        // a pool look exhausted that never was.
        let mut seen_busy = None;
        loop {
            let mut empty = None;
            let mut missed = false;
            let mut leaving = false;
            let mut claims = 0_usize;
            let (before, after) = self.slots.split_at(start);
            for (i, slot) in after.iter().chain(before).enumerate() {
                // Acquire keeps the second look after the first.
                let word = slot.word.load(Ordering::Acquire);
                match tag(word) {
                    Tag::Idle => match slot.claim(Tag::Idle) {
                        Some(claimed) => return Some(self.remember(start, i, claimed)),
                        None => missed = true,
                    },
                    Tag::Empty if empty.is_none() => empty = Some((i, slot)),
                    Tag::Empty => {}
                    Tag::Busy => claims = claims.wrapping_add(word / CLAIM),
                    Tag::Leaving => leaving = true,
                }
            }
            if let Some((i, slot)) = empty {
                match slot.claim(Tag::Empty) {
                    Some(claimed) => return Some(self.remember(start, i, claimed)),
                    None => missed = true,
                }
            }
            if missed || leaving {
                seen_busy = None;
                if leaving {
                    // Somebody is between two instructions of `take_idle`.
                    yield_now();
                }
            } else if seen_busy.replace(claims) == Some(claims) {
                return None;
            }
        }
    }

    fn remember<'s>(&self, start: usize, steps: usize, claimed: Claimed<'s, T>) -> Claimed<'s, T> {
        let past_end = self.len() - start;
        self.lane.remember(if steps < past_end { start + steps } else { steps - past_end });
        claimed
    }

    /// Gives the right to a slot up as a value, to be kept as the slot's number: the slot stays
    /// taken, and [`claimed_again`](Self::claimed_again) brings the right back.
    #[allow(clippy::needless_pass_by_value, reason = "the claim ends here")]
    pub(crate) fn give_up(&self, claimed: Claimed<'_, T>) -> usize {
        let offset = std::ptr::from_ref(claimed.slot).addr() - self.slots.as_ptr().addr();
        offset / size_of::<Slot<T>>()
    }

    /// The right to the slot `index` once more, for one that was given up as a value and kept in
    /// some other form.
    ///
    /// # Safety
    /// The caller holds the right: a [`Claimed`] of this slot was made a number by
    /// [`give_up`](Self::give_up), and for as long as the returned one is used nobody else
    /// uses it.
    #[inline]
    pub(crate) unsafe fn claimed_again(&self, index: usize) -> Claimed<'_, T> {
        Claimed { slot: &self.slots[index], object: PhantomData }
    }

    /// The object in slot `index`, if there is one.
    ///
    /// # Safety
    /// The caller holds the right to the slot, as for [`claimed_again`](Self::claimed_again), and
    /// uses it for nothing else while the reference lives, except for further calls of this.
    #[inline]
    pub(crate) unsafe fn object(&self, index: usize) -> Option<&T> {
        self.slots[index].object.with(|object| {
            // SAFETY: the caller's right makes this the only way to the cell; no exclusive
            // reference is made while this one lives, as the caller promises.
            unsafe { (*object).as_ref() }
        })
    }

    /// The object in slot `index`, if there is one, to be changed.
    ///
    /// # Safety
    /// The caller holds the right to the slot, as for [`claimed_again`](Self::claimed_again), and
    /// uses it for nothing else while the reference lives.
    #[inline]
    #[allow(clippy::mut_from_ref, reason = "the caller's right to the slot is what is exclusive")]
    pub(crate) unsafe fn object_mut(&self, index: usize) -> Option<&mut T> {
        self.slots[index].object.with_mut(|object| {
            // SAFETY: the caller's right makes this the only way to the cell, and no other
            // reference is made while this one lives, as the caller promises.
            unsafe { (*object).as_mut() }
        })
    }

    /// Takes idle objects that something is charged for, until `wanted` bytes are together, and
    /// passes each, out of its slot, to `with`. Returns the sum of the bytes.
    pub(crate) fn drain_idle(&self, wanted: usize, mut with: impl FnMut(T, usize)) -> usize {
        let mut sum = 0_usize;
        for slot in &self.slots {
            if sum >= wanted {
                break;
            }
            // The estimate may be out of date; what is taken is what counts.
            if slot.idle_bytes() == 0 {
                continue;
            }
            if let Some((object, bytes)) = slot.take_idle() {
                sum = sum.saturating_add(bytes);
                with(object, bytes);
            }
        }
        sum
    }

    /// Takes all idle objects, and passes each, out of its slot, to `with`.
    pub(crate) fn drain_all_idle(&self, mut with: impl FnMut(T, usize)) {
        for (object, bytes) in self.slots.iter().filter_map(Slot::take_idle) {
            with(object, bytes);
        }
    }

    /// All objects that are there, whether lent or not: nobody can have them any more.
    pub(crate) fn drain(&mut self, mut with: impl FnMut(T, usize)) {
        for slot in &mut self.slots {
            let mut claimed = Claimed { slot, object: PhantomData };
            if let Some((object, bytes)) = claimed.take() {
                with(object, bytes);
            }
        }
    }

    /// Bytes charged for idle objects, more or less.
    pub(crate) fn idle_bytes(&self) -> usize {
        self.slots.iter().map(Slot::idle_bytes).fold(0, usize::saturating_add)
    }

    /// How many slots are in state `wanted`.
    pub(crate) fn count(&self, wanted: Tag) -> usize {
        let is_wanted = |slot: &&Slot<T>| tag(slot.word.load(Ordering::Acquire)) == wanted;
        self.slots.iter().filter(is_wanted).count()
    }

    /// How often objects were lent.
    pub(crate) fn lends(&self) -> u64 {
        self.slots.iter().fold(0, |sum, slot| sum.wrapping_add(slot.lends.load(Relaxed)))
    }
}

#[cfg(all(test, not(nebula_loom)))]
mod tests {
    use super::{Slots, Tag};

    #[test]
    fn a_slot_is_one_holders_until_it_is_put_back() {
        let slots = Slots::<u8>::new(1).unwrap();
        let mut claimed = slots.claim_any().unwrap();
        assert!(slots.claim_any().is_none());
        assert_eq!(slots.count(Tag::Busy), 1);
        claimed.fill(7, 100);
        assert!(slots.claim_any().is_none());
        claimed.put_back();
        assert_eq!((slots.count(Tag::Idle), slots.idle_bytes()), (1, 100));
        let mut claimed = slots.claim_own().unwrap();
        *claimed.object_mut().unwrap() += 1;
        assert_eq!((claimed.take(), claimed.charged()), (Some((8, 100)), 0));
        claimed.put_back();
        assert_eq!(slots.count(Tag::Empty), 1);
        assert!(slots.claim_own().is_none(), "an empty slot is nobody's own");
    }

    #[test]
    fn an_idle_object_anywhere_is_taken_before_an_empty_slot() {
        let slots = Slots::<u8>::new(4).unwrap();
        for index in [1, 3] {
            let mut claimed = slots.claim_empty(index).unwrap();
            claimed.fill(0, 0);
            claimed.put_back();
        }
        let taken = [(); 4].map(|()| slots.give_up(slots.claim_any().unwrap()));
        let mut idle = [taken[0], taken[1]];
        idle.sort_unstable();
        assert_eq!(idle, [1, 3]);
        assert!(slots.claim_any().is_none());
    }

    #[test]
    fn draining_stops_when_enough_is_together() {
        let slots = Slots::<u8>::new(4).unwrap();
        for index in 0..4 {
            let mut claimed = slots.claim_empty(index).unwrap();
            claimed.fill(0, 10);
            claimed.put_back();
        }
        let mut seen = Vec::new();
        assert_eq!(slots.drain_idle(11, |object, bytes| seen.push((object, bytes))), 20);
        assert_eq!(seen, [(0, 10); 2]);
        assert_eq!((slots.count(Tag::Idle), slots.count(Tag::Empty)), (2, 2));
    }
}
