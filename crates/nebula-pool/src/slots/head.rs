//! Whose a slot is: one word, which a get takes with one compare-and-swap and a return frees with one
//! store.

use nebula_memory_core::sync::atomic::{AtomicUsize, Ordering};

use crate::slot::Slot;

/// What is in a slot, in the low bits of its word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Tag {
    /// No object: a place to make one in.
    Empty = 0,
    /// An object that may be lent.
    Idle = 1,
    /// Somebody's, with or without an object.
    Busy = 2,
    /// Its idle object is being moved out and it will be empty in a moment (or idle again). In this
    /// state no foreign code runs, so that others may spin on it.
    Leaving = 3,
}

const TAG_BITS: usize = 0b11;
/// One claim more, in the bits above the tag.
const CLAIM: usize = 0b100;

/// The head of a slot that threads share.
#[derive(Debug)]
pub struct Head<S> {
    /// The tag, and above it the number of claims so far (wrapping). Only the slot's owner changes
    /// it, except for the step that makes somebody the owner.
    word: AtomicUsize,
    /// What the kind of pool keeps beside it.
    pub(crate) stamp: S,
}

// SAFETY: a shared slot gives access to its object only to its owner, one thread at a time: whoever
// took it by the compare-and-swap of `claim` or `leave`. The hand-over synchronises: release on the
// store that frees the slot, acquire on the exchange that takes it. The object thus moves between
// threads, which `T: Send` allows; it is never used by two at once, so that `T: Sync` is not needed.
// Guards share it further only if it is `Sync`.
unsafe impl<T: Send, S: Sync> Sync for Slot<T, Head<S>> {}

impl<S: Default> Head<S> {
    pub(crate) fn new() -> Self {
        Self { word: AtomicUsize::new(Tag::Empty as usize), stamp: S::default() }
    }
}

impl<S> Head<S> {
    /// What is in the slot, and how often it was claimed so far. Later looks by this thread come
    /// after it.
    pub(crate) fn look(&self) -> (Tag, usize) {
        let word = self.word.load(Ordering::Acquire);
        let tag = match word & TAG_BITS {
            0 => Tag::Empty,
            1 => Tag::Idle,
            2 => Tag::Busy,
            _ => Tag::Leaving,
        };
        (tag, word / CLAIM)
    }

    /// Whether there is an idle object, at a glance.
    pub(crate) fn is_idle(&self) -> bool {
        self.word.load(Ordering::Relaxed) & TAG_BITS == Tag::Idle as usize
    }

    /// Makes the caller the owner if the slot is `wanted` (empty or idle).
    #[inline]
    pub(crate) fn claim(&self, wanted: Tag) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        if word & TAG_BITS != wanted as usize {
            return false;
        }
        let busy = (word & !TAG_BITS).wrapping_add(CLAIM) | Tag::Busy as usize;
        self.word.compare_exchange(word, busy, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    /// Ends the ownership: the slot is `tag` from now on, for others to take.
    #[inline]
    pub(crate) fn put_back(&self, tag: Tag) {
        let word = self.word.load(Ordering::Relaxed);
        self.word.store((word & !TAG_BITS) | tag as usize, Ordering::Release);
    }

    /// Makes the caller the owner of an idle object for the moment in which it is moved out: with
    /// [`put_back`](Self::put_back) after it, and nobody else's code in between.
    pub(crate) fn leave(&self) -> bool {
        let word = self.word.load(Ordering::Relaxed);
        if word & TAG_BITS != Tag::Idle as usize {
            return false;
        }
        let leaving = (word & !TAG_BITS) | Tag::Leaving as usize;
        self.word.compare_exchange(word, leaving, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }
}

#[cfg(all(test, not(nebula_loom)))]
mod tests {
    use super::{Head, Tag};

    #[test]
    fn a_slot_is_one_owners_until_it_is_put_back() {
        let head = Head::<()>::new();
        assert!(!head.claim(Tag::Idle) && head.claim(Tag::Empty));
        assert!(!head.claim(Tag::Empty) && !head.claim(Tag::Idle) && !head.leave());
        assert_eq!(head.look(), (Tag::Busy, 1));
        head.put_back(Tag::Idle);
        assert!(head.is_idle() && head.leave());
        assert_eq!(head.look(), (Tag::Leaving, 1));
        assert!(!head.claim(Tag::Idle) && !head.is_idle());
        head.put_back(Tag::Empty);
        assert_eq!(head.look(), (Tag::Empty, 1));
    }
}
