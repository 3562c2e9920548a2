//! A place for an object in a tree of pools.

use std::{
    cell::Cell,
    fmt,
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use crate::{list::Linked, slot::Slot};

/// What these pools keep in a slot.
pub struct Node<T> {
    /// What comes next in the list that the slot is on. Under the tree's lock.
    next: Cell<Option<NonNull<Place<T>>>>,
    /// The level in whose books the object is. Written by the slot's owner.
    level: AtomicUsize,
}

impl<T> Node<T> {
    pub(super) const fn new() -> Self {
        Self { next: Cell::new(None), level: AtomicUsize::new(usize::MAX) }
    }

    pub(super) fn level(&self) -> usize {
        self.level.load(Relaxed)
    }

    pub(super) fn set_level(&self, level: usize) {
        self.level.store(level, Relaxed);
    }
}

impl<T> Linked<T> for Node<T> {
    fn next(&self) -> &Cell<Option<NonNull<Place<T>>>> {
        &self.next
    }
}

impl<T> fmt::Debug for Node<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node").field("level", &self.level()).finish_non_exhaustive()
    }
}

pub(super) type Place<T> = Slot<T, Node<T>>;

// SAFETY: a shared slot gives access to its object only to its owner, one thread at a time: whoever
// took it off a list, or got it from who did; the lists are under the tree's lock, which synchronises.
// So is the link. The object thus moves between threads, which `T: Send` allows; it is never used by
// two at once, so that `T: Sync` is not needed. Guards share it further only if it is `Sync`.
unsafe impl<T: Send> Sync for Slot<T, Node<T>> {}
// SAFETY: the link points to a slot of the same table, which is shared anyway.
unsafe impl<T: Send> Send for Node<T> {}
