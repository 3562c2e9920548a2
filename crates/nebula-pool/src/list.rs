//! Lists of slots that run through the slots themselves.

use std::{cell::Cell, ptr::NonNull};

use crate::slot::Slot;

/// The head of a slot that can be on a list.
pub(crate) trait Linked<T>: Sized {
    /// What comes after the slot in its list.
    fn next(&self) -> &Cell<Option<NonNull<Slot<T, Self>>>>;
}

/// A list of slots, all of one table, for one thread at a time.
pub(crate) struct List<T, H> {
    head: Cell<Option<NonNull<Slot<T, H>>>>,
    /// The last one, for who puts slots there; anything while the list is empty.
    tail: Cell<Option<NonNull<Slot<T, H>>>>,
}

impl<T, H: Linked<T>> List<T, H> {
    pub(crate) const fn new() -> Self {
        Self { head: Cell::new(None), tail: Cell::new(None) }
    }

    /// # Safety
    /// The table of the list's slots lives.
    #[inline]
    pub(crate) unsafe fn pop(&self) -> Option<NonNull<Slot<T, H>>> {
        let first = self.head.get()?;
        // SAFETY: slots live for as long as their table.
        let next = unsafe { first.as_ref() }.head.next().get();
        self.head.set(next);
        Some(first)
    }

    /// # Safety
    /// `slot` is of the list's table, which lives, and on no list.
    #[inline]
    pub(crate) unsafe fn push_front(&self, slot: NonNull<Slot<T, H>>) {
        // SAFETY: slots live for as long as their table.
        unsafe { slot.as_ref() }.head.next().set(self.head.get());
        self.head.set(Some(slot));
    }

    /// For lists of which every slot has been put there by this.
    ///
    /// # Safety
    /// `slot` is of the list's table, which lives, and on no list.
    pub(crate) unsafe fn push_back(&self, slot: NonNull<Slot<T, H>>) {
        // SAFETY: slots live for as long as their table.
        unsafe { slot.as_ref() }.head.next().set(None);
        match self.head.get().and(self.tail.replace(Some(slot))) {
            // SAFETY: as above.
            Some(last) => unsafe { last.as_ref() }.head.next().set(Some(slot)),
            None => {
                self.head.set(Some(slot));
                self.tail.set(Some(slot));
            }
        }
    }

    /// The same slots, in a list of its own; this one is empty then.
    pub(crate) fn take(&self) -> Self {
        Self { head: Cell::new(self.head.take()), tail: Cell::new(self.tail.take()) }
    }

    /// # Safety
    /// The table of the list's slots lives, and no slot changes lists in the meantime.
    pub(crate) unsafe fn iter<'t>(&self) -> impl Iterator<Item = &'t Slot<T, H>> + use<'t, T, H>
    where
        T: 't,
        H: 't,
    {
        let mut next = self.head.get();
        std::iter::from_fn(move || {
            // SAFETY: slots live for as long as their table.
            let slot = unsafe { next?.as_ref() };
            next = slot.head.next().get();
            Some(slot)
        })
    }
}
