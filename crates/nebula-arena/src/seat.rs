//! Where a root sits: in the arena that it borrows from, beside whoever owns that arena.

use std::{
    mem::MaybeUninit,
    ptr::{self, NonNull},
};

use nebula_memory_core::{
    Allocator, MemoryError,
    sync::atomic::{AtomicUsize, Ordering},
};

use crate::{Family, owner::ArenaOwner};

/// A root, the owner of the arena, and how many handles share both. It lies in the arena itself, so
/// that a root costs no allocation of its own, and freezing costs none at all.
pub(crate) struct Seat<F: Family, O> {
    owner: O,
    handles: AtomicUsize,
    /// Of an unknown lifetime: as long as the arena lives. In `MaybeUninit`, so that no reference to
    /// the seat claims anything about references inside the root.
    root: MaybeUninit<F::Of<'static>>,
}

/// A seat that nobody sits on yet: room in the owner's arena.
pub(crate) struct Vacant<F: Family, O>(NonNull<Seat<F, O>>);

impl<F: Family, O> Seat<F, O> {
    /// Finds room for a seat.
    pub(crate) fn vacant<A: Allocator>(owner: &O) -> Result<Vacant<F, O>, MemoryError>
    where
        O: ArenaOwner<A>,
    {
        let room = owner.arena().try_alloc_uninit::<Self>()?;
        Ok(Vacant(NonNull::from(room).cast()))
    }

    /// The root, for as long as a lifetime that the caller picks.
    ///
    /// # Safety
    /// The seat is taken.
    pub(crate) unsafe fn root<'a>(seat: NonNull<Self>) -> NonNull<F::Of<'a>> {
        // SAFETY: the seat is live, as the caller promises; no reference is made.
        let root = unsafe { &raw mut (*seat.as_ptr()).root };
        // SAFETY: a field of a live value is not at null.
        unsafe { NonNull::new_unchecked(root.cast()) }
    }

    /// The owner.
    ///
    /// # Safety
    /// The seat is taken, for longer than `'s`.
    pub(crate) unsafe fn owner<'s>(seat: NonNull<Self>) -> &'s O {
        // SAFETY: the caller's promise; owners are only ever borrowed shared.
        unsafe { &(*seat.as_ptr()).owner }
    }

    /// # Safety
    /// As [`owner`](Self::owner).
    unsafe fn handles<'s>(seat: NonNull<Self>) -> &'s AtomicUsize {
        // SAFETY: the caller's promise; the counter is only ever borrowed shared.
        unsafe { &(*seat.as_ptr()).handles }
    }

    /// Counts another handle.
    ///
    /// # Safety
    /// The caller has a handle.
    pub(crate) unsafe fn share(seat: NonNull<Self>) {
        // SAFETY: the caller's handle keeps the seat.
        let handles = unsafe { Self::handles(seat) };
        if handles.fetch_add(1, Ordering::Relaxed) >= isize::MAX as usize {
            handles.fetch_sub(1, Ordering::Relaxed);
            panic!("more handles of one frozen arena than there are addresses");
        }
    }

    /// Whether the caller's handle is the only one.
    ///
    /// # Safety
    /// The caller has a handle, and lends it to nobody meanwhile.
    pub(crate) unsafe fn is_alone(seat: NonNull<Self>) -> bool {
        // SAFETY: the caller's handle keeps the seat. What others did with theirs happened before.
        unsafe { Self::handles(seat) }.load(Ordering::Acquire) == 1
    }

    /// Gives a handle up; `true` if it was the last, and the seat is the caller's to [`end`].
    ///
    /// # Safety
    /// The caller has a handle, and does not use it again if this is `false`.
    ///
    /// [`end`]: Self::end
    pub(crate) unsafe fn leave(seat: NonNull<Self>) -> bool {
        // SAFETY: the caller's handle keeps the seat. What was done with a handle happens before
        // what the last one does.
        unsafe { Self::handles(seat) }.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// After [`leave`](Self::leave): it is a handle again.
    ///
    /// # Safety
    /// It was the last.
    pub(crate) unsafe fn stay(seat: NonNull<Self>) {
        // SAFETY: nobody else has a handle, and the seat was not ended.
        unsafe { Self::handles(seat) }.store(1, Ordering::Relaxed);
    }

    /// Takes root and owner out of the seat.
    ///
    /// # Safety
    /// The caller has the only handle, and uses it no more. The root is dropped before the owner.
    pub(crate) unsafe fn vacate<'a>(seat: NonNull<Self>) -> (O, F::Of<'a>) {
        // SAFETY: the seat is taken.
        let owner = unsafe { Self::owner(seat) };
        // SAFETY: it is read once, as the caller promises.
        let owner = unsafe { ptr::read(owner) };
        // SAFETY: the seat is taken.
        let root = unsafe { Self::root(seat) };
        // SAFETY: as with the owner.
        (owner, unsafe { root.read() })
    }

    /// Drops the root where it lies, then the owner, and with it the seat's memory. Returns the
    /// owner instead to who wants it.
    ///
    /// # Safety
    /// The caller has the only handle, and uses it no more.
    pub(crate) unsafe fn end(seat: NonNull<Self>) -> O {
        // SAFETY: the seat is taken.
        let owner = unsafe { Self::owner(seat) };
        // SAFETY: it is read once, as the caller promises. It is dropped after the root, also if
        // that panics.
        let owner = unsafe { ptr::read(owner) };
        // SAFETY: the seat is taken.
        let root = unsafe { Self::root(seat) };
        // SAFETY: the root is initialised, nobody else sees it, and nobody will again. What it
        // borrows from, the arena, is still there.
        unsafe { root.drop_in_place() };
        owner
    }
}

impl<F: Family, O> Vacant<F, O> {
    /// Seats a root, with one handle, which is returned.
    ///
    /// # Safety
    /// The seat is in the owner's arena, and the root borrows from nothing that may end before the
    /// owner, the family and the allocator do.
    pub(crate) unsafe fn take(self, owner: O, root: F::Of<'_>) -> NonNull<Seat<F, O>> {
        let seat = Seat { owner, handles: AtomicUsize::new(1), root: MaybeUninit::uninit() };
        // SAFETY: the room is in the owner's arena, aligned and sized for a seat, and nobody else's.
        unsafe { self.0.write(seat) };
        // SAFETY: the seat is as good as taken.
        let place = unsafe { Seat::root(self.0) };
        // SAFETY: as above; types that differ in a lifetime have one layout.
        unsafe { place.write(root) };
        self.0
    }
}
