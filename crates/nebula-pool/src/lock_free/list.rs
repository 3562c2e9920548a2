//! A lock-free list of places, by their numbers: one word for the head, and links that stay.
//!
//! This is Treiber's stack over indices (R. K. Treiber, "Systems Programming: Coping with
//! Parallelism", 1986). A place's link is an element of an array that lives as long as the pool, so
//! that a pop may read the link of a place that another thread takes at the same time; and the head
//! carries a tag that every change counts up, so that the swap fails if anything has changed since
//! (the "ABA problem"), unless a thread sleeps between two instructions while exactly a multiple of
//! 2^32 changes are made.

use nebula_memory_core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The parts of a head: the place on top, the number of places, the mark (held, or closed), and the
/// tag.
const INDEX: u64 = 0xFFFF;
const ONE: u64 = 1 << 16;
const COUNT: u64 = 0x7FFF << 16;
const HELD: u64 = 1 << 31;
const TAG: u64 = 1 << 32;

/// No place.
const NONE: u64 = INDEX;

/// Places that one set of links can be for.
pub(super) const MOST: usize = 0x7FFF;

/// What a pop found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Popped {
    Place(usize),
    Empty,
    /// All places are there, and held: see [`List::hold`].
    Held(Held),
}

/// A list that is held, as it was when it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held(u64);

/// The head of a list. All lists of one part of a pool share links, because a place is in one list
/// at most.
#[derive(Debug)]
pub(super) struct List(AtomicU64);

impl List {
    /// An empty list.
    pub(super) fn empty() -> Self {
        Self(AtomicU64::new(NONE))
    }

    /// A list of all places, in the order of [`links`].
    pub(super) fn full(places: usize) -> Self {
        debug_assert!(0 < places && places <= MOST, "too many places for a list");
        Self(AtomicU64::new(places as u64 * ONE))
    }

    /// Takes the place on top of a list that is never held.
    #[inline]
    pub(super) fn pop(&self, links: &[AtomicU32]) -> Option<usize> {
        match self.pop_marked::<false>(links) {
            Popped::Place(index) => Some(index),
            _ => None,
        }
    }

    /// Takes the place on top.
    pub(super) fn pop_unless_held(&self, links: &[AtomicU32]) -> Popped {
        self.pop_marked::<true>(links)
    }

    #[inline]
    fn pop_marked<const MARKED: bool>(&self, links: &[AtomicU32]) -> Popped {
        // Acquire: the place's link, and whatever its last owner wrote.
        let mut head = self.0.load(Ordering::Acquire);
        loop {
            if MARKED && head & HELD != 0 {
                return Popped::Held(Held(head));
            }
            let index = index(head);
            if index as u64 == NONE {
                return Popped::Empty;
            }
            debug_assert!(index < links.len(), "a place of another list");
            // SAFETY: a head has nothing else but what `push` put there, or was there from the
            // beginning, all of which have links.
            let link = unsafe { links.get_unchecked(index) };
            let next = u64::from(link.load(Ordering::Relaxed));
            let rest = (head & !INDEX).wrapping_add(TAG - ONE) | next;
            // Release: for `version`.
            match self.0.compare_exchange_weak(head, rest, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Popped::Place(index),
                Err(other) => head = other,
            }
        }
    }

    /// Puts a place on top. Whether the list is [closed](Self::close).
    ///
    /// # Safety
    /// `index` is that of one of `links`, which are this list's, and the place is the caller's.
    #[inline]
    pub(super) unsafe fn push(&self, links: &[AtomicU32], index: usize) -> bool {
        debug_assert!(index < links.len(), "a place of another list");
        // SAFETY: the caller promises that there is one.
        let link = unsafe { links.get_unchecked(index) };
        let mut head = self.0.load(Ordering::Relaxed);
        loop {
            link.store(low(head & INDEX), Ordering::Relaxed);
            let more = (head & !INDEX).wrapping_add(TAG + ONE) | index as u64;
            // Release: the link, and whatever the caller wrote. Pops and other pushes are
            // read-modify-writes, so that they don't break the chain to a later pop of this place.
            match self.0.compare_exchange_weak(head, more, Ordering::AcqRel, Ordering::Relaxed) {
                Ok(_) => return head & HELD != 0,
                Err(other) => head = other,
            }
        }
    }

    /// Marks a list that is never held: whoever puts a place on it after that gets to know, and what
    /// was put there before is seen by the caller.
    pub(super) fn close(&self) {
        self.0.fetch_or(HELD, Ordering::AcqRel);
    }

    /// How many places are in the list.
    pub(super) fn len(&self) -> usize {
        usize::from(u16::try_from((self.0.load(Ordering::Relaxed) & COUNT) / ONE).unwrap_or(0))
    }

    /// How often the list has changed (wrapping).
    ///
    /// Whoever asks this of several lists, twice, and gets the same answers, knows that there was a
    /// moment in between at which all of them were as he saw them between the two. That is why it
    /// is a read-modify-write: each change of a list is either before the first or after the second
    /// in the order of that list, and synchronises with it, and so the changes before and those after
    /// are the same for all lists.
    pub(super) fn version(&self) -> u32 {
        low(self.0.fetch_or(0, Ordering::AcqRel) / TAG)
    }

    /// Marks a list of all `places` as held: none can be taken before [`let_go`](Self::let_go). None
    /// if one is missing, or the list is held already.
    pub(super) fn hold(&self, places: usize) -> Option<Held> {
        let head = self.0.load(Ordering::Acquire);
        if head & HELD != 0 || head & COUNT != places as u64 * ONE {
            return None;
        }
        let held = head.wrapping_add(TAG) | HELD;
        let done = self.0.compare_exchange(head, held, Ordering::AcqRel, Ordering::Relaxed);
        done.ok().map(|_| Held(held))
    }

    /// Whether it is still held by the same.
    pub(super) fn is_held(&self, held: Held) -> bool {
        self.0.load(Ordering::Acquire) == held.0
    }

    /// Ends the holding, if nobody else has.
    pub(super) fn let_go(&self, held: Held) {
        let free = (held.0 & !HELD).wrapping_add(TAG);
        let _ = self.0.compare_exchange(held.0, free, Ordering::AcqRel, Ordering::Relaxed);
    }
}

/// A new place's link: places follow each other.
pub(super) fn link(index: usize, places: usize) -> AtomicU32 {
    let next = if index + 1 < places { index as u64 + 1 } else { NONE };
    AtomicU32::new(low(next))
}

#[inline]
#[allow(clippy::cast_possible_truncation, reason = "16 bits")]
const fn index(head: u64) -> usize {
    (head & INDEX) as usize
}

#[inline]
#[allow(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
const fn low(word: u64) -> u32 {
    word as u32
}

#[cfg(all(test, not(nebula_loom)))]
mod tests {
    use super::{List, Popped, link};

    #[test]
    fn the_last_is_first() {
        let links = [0, 1, 2].map(|index| link(index, 3));
        let (list, other) = (List::full(3), List::empty());
        assert_eq!((list.len(), other.len()), (3, 0));
        let order: Vec<_> = std::iter::from_fn(|| list.pop(&links)).collect();
        assert_eq!(order, [0, 1, 2]);
        for index in order {
            // SAFETY: it was popped off the other list, which has the same links.
            let closed = unsafe { other.push(&links, index) };
            assert!(!closed);
        }
        assert_eq!((list.len(), other.len()), (0, 3));
        assert_eq!(other.pop(&links), Some(2));
        // SAFETY: as above.
        unsafe { list.push(&links, 2) };
        assert_eq!(
            (other.pop(&links), list.pop(&links), list.pop(&links)),
            (Some(1), Some(2), None)
        );
    }

    #[test]
    fn a_closed_list_says_so_and_works() {
        let links = [0, 1].map(|index| link(index, 2));
        let list = List::full(2);
        list.close();
        assert_eq!((list.len(), list.pop(&links), list.pop(&links)), (2, Some(0), Some(1)));
        assert_eq!((list.len(), list.pop(&links)), (0, None));
        // SAFETY: it has just been popped.
        assert!(unsafe { list.push(&links, 1) });
        assert_eq!((list.len(), list.pop(&links)), (1, Some(1)));
    }

    #[test]
    fn every_change_is_counted() {
        let links = [link(0, 1)];
        let list = List::full(1);
        let before = list.version();
        list.pop(&links);
        // SAFETY: it has just been popped.
        unsafe { list.push(&links, 0) };
        assert_eq!(list.version(), before.wrapping_add(2));
    }

    #[test]
    fn a_full_list_can_be_held_and_nothing_is_lost_by_that() {
        let links = [0, 1].map(|index| link(index, 2));
        let list = List::full(2);
        let held = list.hold(2).unwrap();
        assert!(list.hold(2).is_none() && list.is_held(held));
        assert_eq!(list.pop_unless_held(&links), Popped::Held(held));
        list.let_go(held);
        list.let_go(held);
        assert!(!list.is_held(held));
        assert_eq!(list.pop_unless_held(&links), Popped::Place(0));
        assert!(list.hold(2).is_none(), "a place is missing");
        assert_eq!(list.pop_unless_held(&links), Popped::Place(1));
        assert_eq!(list.pop_unless_held(&links), Popped::Empty);
    }
}
