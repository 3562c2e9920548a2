//! A part of a lock-free pool: so many places, whose storage comes and goes as a whole.
//!
//! Every place is in one of three lists, or somebody's: idle (with an object), spare (the same, while
//! a sweep goes over them), vacant (without). Who has a place is alone with its slot. The lists and
//! their links stay for as long as the pool; the slots are allocated by whoever has a place first,
//! and freed when all places are vacant.
//!
//! # How the storage goes
//! Who wants to free it reserves the part's one place for retired storage, and marks the full list of
//! vacant places as held. From then on everybody who comes by helps to finish, so that nobody waits
//! for anybody: the pointer to the storage is set to null, and the list let go. Helpers that come too
//! late change nothing, because the list's tag has moved on, and because the pointer that they
//! compare with cannot be a newer storage's: they are pinned, so that the address is not used anew.
//! That is one of two things that epochs (crossbeam-epoch) are for here. The other is those who walk
//! through slots that are not theirs (for figures and values): the storage is freed when all who
//! were pinned at that time have gone. The epochs only say when; it is freed by the pool.

use std::{
    fmt, iter,
    ops::{Deref, DerefMut},
    ptr::NonNull,
    slice,
    sync::atomic::{AtomicBool, AtomicU64},
};

use crossbeam_epoch::Guard;
use nebula_memory_core::{
    MemoryError,
    sync::atomic::{AtomicPtr, AtomicU32, AtomicUsize, Ordering},
};

use super::{
    epochs::Epochs,
    list::{Held, List, Popped, link},
};
use crate::{slot::Slot, table::new_segment};

/// Where a slot is: the part, and the place in it.
pub struct Address<T> {
    /// The part, which lives as long as the pool and does not move.
    part: NonNull<Part<T>>,
    pub(super) place: u32,
    /// Whether the object is lent: for those who look on. (No part of what the model checker looks
    /// at.)
    lent: AtomicBool,
}

impl<T> fmt::Debug for Address<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Address").field("place", &self.place).finish_non_exhaustive()
    }
}

impl<T> Address<T> {
    /// The part of a slot of `pool`.
    ///
    /// # Safety
    /// The slot is of a pool that is borrowed for `'p`.
    #[inline]
    pub(super) unsafe fn part<'p>(&self) -> &'p Part<T> {
        // SAFETY: parts live where they are for as long as their pool, and are only shared until the
        // pool is dropped.
        unsafe { self.part.as_ref() }
    }

    #[inline]
    pub(super) fn set_lent(&self, lent: bool) {
        self.lent.store(lent, Ordering::Relaxed);
    }
}

impl<T> Slot<T, Address<T>> {
    /// Whether there is an object that can be lent, at a glance.
    pub(super) fn is_idle(&self) -> bool {
        self.is_full() && !self.head.lent.load(Ordering::Relaxed)
    }
}

/// Somebody is about to allocate the storage of a part.
pub(super) struct Allocating<'p>(&'p AtomicUsize);

impl Allocating<'_> {
    /// Whether there are others.
    pub(super) fn is_shared(&self) -> bool {
        self.0.load(Ordering::Acquire) > 1
    }
}

impl Drop for Allocating<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A slot of a lock-free pool.
pub(super) type Place<T> = Slot<T, Address<T>>;

// SAFETY: a shared slot gives access to its object only to its owner, one thread at a time: whoever
// popped its place off a list. The hand-over synchronises: release on the push, acquire on the pop.
// The object thus moves between threads, which `T: Send` allows; it is never used by two at once, so
// that `T: Sync` is not needed. Guards share it further only if it is `Sync`.
unsafe impl<T: Send> Sync for Slot<T, Address<T>> {}

/// On cache lines of its own.
#[derive(Debug)]
#[repr(align(128))]
struct Alone<L>(L);

/// One part.
pub(super) struct Part<T> {
    /// Places with objects that can be lent.
    idle: Alone<List>,
    /// The same, for those who don't find any idle.
    spare: Alone<List>,
    /// Places without.
    vacant: List,
    /// What is read all the time and hardly ever written.
    fixed: Alone<Fixed<T>>,
}

struct Fixed<T> {
    /// The first of as many slots as there are links, in a box of the part's own; or null.
    slots: AtomicPtr<Place<T>>,
    /// Storage that is being retired, or was and is not free yet; or null.
    retired: AtomicPtr<Place<T>>,
    links: Box<[AtomicU32]>,
    number: u32,
    /// How many threads are about to allocate the storage.
    allocating: AtomicUsize,
    /// Gets that slots had counted which are gone.
    past_gets: AtomicU64,
}

// SAFETY: a part owns its slots, as a box does.
unsafe impl<T: Send> Send for Part<T> {}
// SAFETY: shared parts hand out slots to be shared, which `T: Send` is enough for.
unsafe impl<T: Send> Sync for Part<T> {}

/// The pointer as it is now. That is what a load would find, too, because of what happened before:
/// but much of that happened among the epochs, and the model checker does not see it.
fn newest<S>(pointer: &AtomicPtr<S>) -> *mut S {
    let null = std::ptr::null_mut();
    let seen = pointer.compare_exchange(null, null, Ordering::AcqRel, Ordering::Acquire);
    seen.unwrap_or_else(|other| other)
}

impl<T> Part<T> {
    /// Bytes that a part of that many places takes without its storage, and apart from itself.
    pub(super) const fn links_size(places: usize) -> usize {
        places * size_of::<AtomicU32>()
    }

    pub(super) fn new(number: usize, places: usize) -> Result<Self, MemoryError> {
        let fixed = Fixed {
            slots: AtomicPtr::new(std::ptr::null_mut()),
            retired: AtomicPtr::new(std::ptr::null_mut()),
            links: new_segment(places, |index| link(index, places))?,
            number: u32::try_from(number).unwrap_or(u32::MAX),
            allocating: AtomicUsize::new(0),
            past_gets: AtomicU64::new(0),
        };
        Ok(Self {
            idle: Alone(List::empty()),
            spare: Alone(List::empty()),
            vacant: List::full(places),
            fixed: Alone(fixed),
        })
    }

    #[inline]
    const fn fixed(&self) -> &Fixed<T> {
        let Alone(fixed) = &self.fixed;
        fixed
    }

    pub(super) fn places(&self) -> usize {
        self.fixed().links.len()
    }

    /// Bytes of the storage.
    pub(super) fn size(&self) -> usize {
        self.places() * size_of::<Place<T>>()
    }

    pub(super) fn has_storage(&self) -> bool {
        !self.fixed().slots.load(Ordering::Acquire).is_null()
    }

    pub(super) fn idle_count(&self) -> usize {
        self.idle.0.len() + self.spare.0.len()
    }

    pub(super) fn vacant_count(&self) -> usize {
        self.vacant.len()
    }

    /// How often anything has changed (wrapping); see [`List::version`].
    pub(super) fn version(&self) -> u32 {
        let lists = [self.idle.0.version(), self.spare.0.version(), self.vacant.version()];
        lists.into_iter().fold(0, u32::wrapping_add)
    }

    /// The slot of a place.
    ///
    /// # Safety
    /// The place is the caller's, and there is storage.
    #[inline]
    unsafe fn slot(&self, place: usize) -> NonNull<Place<T>> {
        // Relaxed: who owns a place has seen the storage, or got the place by a pop that happened
        // after a push by somebody who had.
        let first = self.fixed().slots.load(Ordering::Relaxed);
        // SAFETY: there is storage, as the caller promises.
        let first = unsafe { NonNull::new_unchecked(first) };
        // SAFETY: a place is less than the number of slots, all of which are in one box.
        unsafe { first.add(place) }
    }

    /// Takes a place with an object, which is the caller's from then on.
    #[inline]
    pub(super) fn pop_idle(&self) -> Option<NonNull<Place<T>>> {
        let place = self.idle.0.pop(&self.fixed().links)?;
        // SAFETY: it has just become ours, and has an object, so that there is storage.
        Some(unsafe { self.slot(place) })
    }

    /// Takes a place that a sweep has put aside.
    pub(super) fn pop_spare(&self) -> Option<NonNull<Place<T>>> {
        let place = self.spare.0.pop(&self.fixed().links)?;
        // SAFETY: it has just become ours, and has an object, so that there is storage.
        Some(unsafe { self.slot(place) })
    }

    /// Makes an object, in a place of the caller's, one that can be lent. Whether the part is
    /// [closed](Self::close), so that it should not be.
    ///
    /// # Safety
    /// The place is of this part, and the caller's, who gives it up.
    #[inline]
    #[must_use]
    pub(super) unsafe fn push_idle(&self, place: usize) -> bool {
        // SAFETY: the caller's promise; a place of this part has a link.
        unsafe { self.idle.0.push(&self.fixed().links, place) }
    }

    /// Says to all who put an object back from now on that there is no use for it.
    pub(super) fn close(&self) {
        self.idle.0.close();
    }

    /// Puts an object, in a place of the caller's, aside.
    ///
    /// # Safety
    /// The place is of this part, and the caller's, who gives it up.
    pub(super) unsafe fn push_spare(&self, place: usize) {
        // SAFETY: as in `push_idle`.
        unsafe { self.spare.0.push(&self.fixed().links, place) };
    }

    /// Gives a place without an object back.
    ///
    /// # Safety
    /// The place is of this part, and the caller's, who gives it up.
    pub(super) unsafe fn push_vacant(&self, place: usize) {
        // SAFETY: as in `push_idle`.
        unsafe { self.vacant.push(&self.fixed().links, place) };
    }

    /// Takes a place without an object, and perhaps without storage.
    pub(super) fn pop_vacant(&self, epochs: &Epochs) -> Option<usize> {
        loop {
            match self.vacant.pop_unless_held(&self.fixed().links) {
                Popped::Place(place) => return Some(place),
                Popped::Empty => return None,
                Popped::Held(held) => self.help(held, epochs, &epochs.pin()),
            }
        }
    }

    /// The slot of a place of the caller's, if there is storage.
    pub(super) fn stored(&self, place: usize) -> Option<NonNull<Place<T>>> {
        // Acquire: somebody else may have allocated it.
        if !self.has_storage() {
            return None;
        }
        // SAFETY: the place is the caller's, and the storage stays for as long as it is.
        Some(unsafe { self.slot(place) })
    }

    /// Counts the caller, until what this returns is dropped, among those who allocate.
    pub(super) fn begin(&self) -> Allocating<'_> {
        self.fixed().allocating.fetch_add(1, Ordering::AcqRel);
        Allocating(&self.fixed().allocating)
    }

    /// Allocates the storage, for a place of the caller's, unless somebody else does so at the same
    /// time: whether it was this call.
    ///
    /// # Errors
    /// If the system has no memory for it.
    pub(super) fn allocate(&self) -> Result<bool, MemoryError> {
        let part = NonNull::from(self);
        let address = |place| Address {
            part,
            place: u32::try_from(place).unwrap_or(u32::MAX),
            lent: AtomicBool::new(false),
        };
        let segment: Box<[Place<T>]> =
            new_segment(self.places(), |place| Slot::new(address(place)))?;
        let segment = NonNull::from(Box::leak(segment));
        let (null, first) = (std::ptr::null_mut(), segment.cast().as_ptr());
        let slots = &self.fixed().slots;
        if slots.compare_exchange(null, first, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return Ok(true);
        }
        // SAFETY: it is the box that was leaked above, and nobody has seen it.
        drop(unsafe { Box::from_raw(segment.as_ptr()) });
        Ok(false)
    }

    /// Begins to free the storage, if all places are vacant and none is being freed already.
    pub(super) fn retire(&self, epochs: &Epochs, pinned: &Guard) {
        let fixed = self.fixed();
        let null = std::ptr::null_mut();
        let slots = newest(&fixed.slots);
        if slots.is_null() || self.vacant.len() != self.places() {
            return;
        }
        // Acquire: who retired another before is done with it.
        if fixed.retired.compare_exchange(null, slots, Ordering::AcqRel, Ordering::Acquire).is_err()
        {
            return;
        }
        // Since this is reserved, nobody else retires what is there; and nobody had before, because
        // that could not be free again yet: this thread is pinned. So it is still the same.
        match self.vacant.hold(self.places()) {
            Some(held) => self.help(held, epochs, pinned),
            None => fixed.retired.store(null, Ordering::Release),
        }
    }

    /// Finishes what somebody has begun in `retire`. It does nothing if that is finished already.
    fn help(&self, held: Held, epochs: &Epochs, pinned: &Guard) {
        let fixed = self.fixed();
        let (slots, retired) = (newest(&fixed.slots), newest(&fixed.retired));
        // Whoever began has reserved before it held. If it is still held, both were read of this
        // retirement.
        if !self.vacant.is_held(held) {
            return;
        }
        let null = std::ptr::null_mut();
        if !slots.is_null()
            && slots == retired
            && fixed
                .slots
                .compare_exchange(slots, null, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
        {
            // Nobody has a slot of these.
            let slots = NonNull::new(slots)
                .map(|first| NonNull::slice_from_raw_parts(first, self.places()));
            // SAFETY: it is the start of a box of that many slots, which is not freed before what is
            // deferred below; slots are only shared.
            let slots = slots.map_or(&[][..], |slots| unsafe { slots.as_ref() });
            let gets = slots.iter().fold(0, |sum: u64, slot| sum.wrapping_add(slot.lends()));
            fixed.past_gets.fetch_add(gets, Ordering::Relaxed);
            epochs.when_over(fixed.number as usize, pinned);
        }
        self.vacant.let_go(held);
    }

    /// Whether there is storage that is retired and not free yet (or about to be retired).
    pub(super) fn is_retiring(&self) -> bool {
        !self.fixed().retired.load(Ordering::Relaxed).is_null()
    }

    /// Frees retired storage whose time has come; the bytes.
    pub(super) fn free(&self, epochs: &Epochs) -> usize {
        let fixed = self.fixed();
        if !epochs.is_over(fixed.number as usize) {
            return 0;
        }
        drop(self.take_segment(newest(&fixed.retired)));
        fixed.retired.store(std::ptr::null_mut(), Ordering::Release);
        self.size()
    }

    fn take_segment(&self, first: *mut Place<T>) -> Option<Box<[Place<T>]>> {
        let first = NonNull::new(first)?;
        let segment = NonNull::slice_from_raw_parts(first, self.places());
        // SAFETY: the pointer was made of a box of as many slots by `allocate`. Whoever calls this
        // has taken it out of where it was kept, and nobody looks at it any more: they were pinned,
        // and their epoch is over (or the pool is being dropped).
        Some(unsafe { Box::from_raw(segment.as_ptr()) })
    }

    /// The slots, if there is storage, for who wants to look at them: they are not the caller's.
    pub(super) fn slots<'g>(&'g self, _pinned: &'g Guard) -> slice::Iter<'g, Place<T>> {
        let Some(first) = NonNull::new(self.fixed().slots.load(Ordering::Acquire)) else {
            return [].iter();
        };
        // SAFETY: it is the start of a box of as many slots as there are places, which is freed after
        // the pointer was set to null and everybody who was pinned then is gone, or when the part is
        // dropped; slots are only shared.
        unsafe { slice::from_raw_parts(first.as_ptr(), self.places()) }.iter()
    }

    /// How many gets the part has served.
    pub(super) fn gets(&self, pinned: &Guard) -> u64 {
        let lends = |sum: u64, slot: &Place<T>| sum.wrapping_add(slot.lends());
        self.slots(pinned).fold(self.fixed().past_gets.load(Ordering::Relaxed), lends)
    }

    /// The slots, if there is storage, exclusively.
    pub(super) fn slots_mut(&mut self) -> impl Iterator<Item = &mut Place<T>> {
        let len = self.places();
        let first = NonNull::new(self.fixed().slots.load(Ordering::Acquire));
        first.into_iter().flat_map(move |first| {
            let mut slots = NonNull::slice_from_raw_parts(first, len);
            // SAFETY: it is the start of a box of that many slots, and the exclusive borrow of the
            // part is one of its slots.
            unsafe { slots.as_mut() }
        })
    }
}

impl<T> Drop for Part<T> {
    fn drop(&mut self) {
        let fixed = self.fixed();
        let (slots, retired) =
            (fixed.slots.load(Ordering::Acquire), fixed.retired.load(Ordering::Acquire));
        // The same, if somebody was about to retire it (and was forgotten on the way).
        let other = iter::once(retired).filter(|retired| *retired != slots);
        other.chain([slots]).for_each(|first| drop(self.take_segment(first)));
    }
}

/// All parts of a pool. They don't move, and slots point to them: which a box would not allow while it
/// is moved.
pub(super) struct Parts<T>(NonNull<[Part<T>]>);

// SAFETY: it owns the parts, as a box does.
unsafe impl<T: Send> Send for Parts<T> {}
// SAFETY: as above; shared parts are `Sync`.
unsafe impl<T: Send> Sync for Parts<T> {}

impl<T> Parts<T> {
    pub(super) fn new(parts: Vec<Part<T>>) -> Self {
        Self(NonNull::from(Box::leak(parts.into_boxed_slice())))
    }
}

impl<T> Deref for Parts<T> {
    type Target = [Part<T>];

    #[inline]
    fn deref(&self) -> &[Part<T>] {
        // SAFETY: the parts are ours, and only shared while we are.
        unsafe { self.0.as_ref() }
    }
}

impl<T> DerefMut for Parts<T> {
    fn deref_mut(&mut self) -> &mut [Part<T>] {
        // SAFETY: the parts are ours, and we are borrowed exclusively.
        unsafe { self.0.as_mut() }
    }
}

impl<T> Drop for Parts<T> {
    fn drop(&mut self) {
        // SAFETY: it was made of a box by `new`, and nobody borrows it any more.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}
