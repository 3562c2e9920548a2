//! A finished arena with its root, shared by many.

use std::{fmt, marker::PhantomData, mem::ManuallyDrop, ptr::NonNull};

use nebula_memory_core::{Allocator, Global};

use crate::{
    CovariantFamily, CrossThreadArena, Family,
    owner::{ArenaOwner, BoxedArena},
    seat::Seat,
};

/// A [`CrossThreadArena`] that nobody changes any more: a cheap handle, whose clones share it.
/// Reading takes no lock and touches no counter.
///
/// It is [`Send`] and [`Sync`] if the root (with any lifetime) is both, because it is seen from all
/// threads that have a handle, and dropped on the last, and if the arena's owner is `Send`.
///
/// ```
/// use nebula_arena::{CrossThreadArena, Family};
///
/// struct Words;
/// impl Family for Words {
///     type Of<'a> = &'a [&'a str];
/// }
/// let words = CrossThreadArena::<Words>::build(|arena| {
///     arena.alloc_slice_from_iter("to be or not".split(' ').map(|word| &*arena.alloc_str(word)))
/// });
/// let words = words.freeze();
/// std::thread::scope(|s| {
///     for i in 0..4 {
///         let words = words.clone();
///         s.spawn(move || words.with(|words| assert!(words[i].len() >= 2)));
///     }
/// });
/// let words = words.try_unfreeze().unwrap(); // all others are gone
/// assert_eq!(words.with(|words| words.len()), 4);
/// ```
///
/// A root that cannot be shared is not:
/// ```compile_fail,E0277
/// # use nebula_arena::{CrossThreadArena, Family};
/// struct Counter;
/// impl Family for Counter { type Of<'a> = &'a mut std::cell::Cell<u32>; }
/// let counter = CrossThreadArena::<Counter>::build(|arena| arena.alloc(std::cell::Cell::new(1)));
/// let (one, two) = (counter.freeze(), ());
/// std::thread::spawn(move || drop((one, two)));
/// ```
/// One that cannot be sent is not, either, for any handle may be the last:
/// ```compile_fail,E0277
/// # use nebula_arena::{CrossThreadArena, Family};
/// struct Locked;
/// impl Family for Locked { type Of<'a> = std::sync::MutexGuard<'static, u8>; }
/// static MUTEX: std::sync::Mutex<u8> = std::sync::Mutex::new(1);
/// let locked = CrossThreadArena::<Locked>::build(|_| MUTEX.lock().unwrap()).freeze();
/// std::thread::spawn(move || drop(locked));
/// ```
pub struct FrozenArena<F, A = Global, O = BoxedArena<A>>
where
    F: Family,
    A: Allocator,
    O: ArenaOwner<A>,
{
    /// Taken; ours and those of our clones.
    seat: NonNull<Seat<F, O>>,
    /// What the arena held when it was frozen. (It is not asked again: a root may use it, on a
    /// thread of its own.)
    allocated: usize,
    /// Invariant: `build` may put into the root whatever lives as long as `A` says.
    owns: PhantomData<*mut (O, A)>,
}

// SAFETY: the root is seen from several threads (`Sync`), and it and the owner are dropped, or come
// back by `try_unfreeze`, on any of them (`Send`). The arena is not used before that.
unsafe impl<F, A, O> Send for FrozenArena<F, A, O>
where
    F: Family,
    for<'a> F::Of<'a>: Send + Sync,
    A: Allocator,
    O: ArenaOwner<A> + Send,
{
}

// SAFETY: as above: who has a shared reference to a handle can clone it.
unsafe impl<F, A, O> Sync for FrozenArena<F, A, O>
where
    F: Family,
    for<'a> F::Of<'a>: Send + Sync,
    A: Allocator,
    O: ArenaOwner<A> + Send,
{
}

impl<F, A, O> FrozenArena<F, A, O>
where
    F: Family,
    A: Allocator,
    O: ArenaOwner<A>,
{
    /// A handle on a seat.
    ///
    /// # Safety
    /// The seat is taken, and counts this handle.
    pub(crate) unsafe fn on(seat: NonNull<Seat<F, O>>, allocated: usize) -> Self {
        Self { seat, allocated, owns: PhantomData }
    }

    /// Looks at the root.
    pub fn with<R>(&self, look: impl for<'a> FnOnce(&F::Of<'a>) -> R) -> R {
        // SAFETY: the seat is taken as long as `self` lives.
        let root = unsafe { Seat::root(self.seat) };
        // SAFETY: it is initialised, and only ever borrowed shared while there are handles. Its
        // lifetime is one that `look`, which is made for all of them, knows nothing of.
        look(unsafe { root.as_ref() })
    }

    /// The root, without a closure.
    pub fn root(&self) -> &F::Of<'_>
    where
        F: CovariantFamily,
    {
        // SAFETY: the seat is taken as long as `self` lives.
        let root = unsafe { Seat::root(self.seat) };
        // SAFETY: as in `with`, and for `shorten`.
        F::shorten(unsafe { root.as_ref() })
    }

    /// The value that was frozen, if this is its only handle: to be changed, moved to another
    /// account, or frozen again.
    ///
    /// # Errors
    /// The handle, if there are others. Where several threads give up their handles in this way at
    /// once, each may find the others; [`into_inner`](Self::into_inner) is for that.
    pub fn try_unfreeze(self) -> Result<CrossThreadArena<F, A, O>, Self> {
        // SAFETY: `self` is a handle that nobody borrows.
        if unsafe { Seat::is_alone(self.seat) } {
            let seat = ManuallyDrop::new(self).seat;
            // SAFETY: the seat is taken, and its only handle is passed on.
            Ok(unsafe { CrossThreadArena::on(seat) })
        } else {
            Err(self)
        }
    }

    /// Gives the handle up. Of all handles that are given up in this way or dropped, the last one
    /// gets the value (unless it is dropped).
    pub fn into_inner(self) -> Option<CrossThreadArena<F, A, O>> {
        let seat = ManuallyDrop::new(self).seat;
        // SAFETY: the handle is given up here.
        if !unsafe { Seat::leave(seat) } {
            return None;
        }
        // SAFETY: it was the last.
        unsafe { Seat::stay(seat) };
        // SAFETY: the seat is taken, and has this one handle.
        Some(unsafe { CrossThreadArena::on(seat) })
    }

    /// Whether both are handles of one value.
    pub fn is_same(&self, other: &Self) -> bool {
        self.seat == other.seat
    }

    /// Bytes taken from the allocator for the arena, all of its chunks, when it was frozen.
    pub const fn allocated_bytes(&self) -> usize {
        self.allocated
    }
}

impl<F, A, O> Clone for FrozenArena<F, A, O>
where
    F: Family,
    A: Allocator,
    O: ArenaOwner<A>,
{
    /// Another handle.
    ///
    /// # Panics
    /// If there are `isize::MAX` already.
    fn clone(&self) -> Self {
        // SAFETY: `self` is a handle.
        unsafe { Seat::share(self.seat) };
        Self { seat: self.seat, allocated: self.allocated, owns: PhantomData }
    }
}

impl<F, A, O> Drop for FrozenArena<F, A, O>
where
    F: Family,
    A: Allocator,
    O: ArenaOwner<A>,
{
    fn drop(&mut self) {
        // SAFETY: the handle is given up here.
        if unsafe { Seat::leave(self.seat) } {
            // SAFETY: it was the last, and is not used again.
            drop(unsafe { Seat::end(self.seat) });
        }
    }
}

impl<F, A, O> fmt::Debug for FrozenArena<F, A, O>
where
    F: Family,
    A: Allocator,
    O: ArenaOwner<A>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrozenArena").field("allocated", &self.allocated).finish_non_exhaustive()
    }
}
