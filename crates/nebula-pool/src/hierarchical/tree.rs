//! The state of a whole tree of pools, under one lock: whose every object is, and who waits.
//!
//! Nothing here runs the code of others, charges, allocates or frees, except where it says so.
//!
//! An object is held by one level, idle or lent, and counts against the capacity of that level and of
//! all above it. A level that needs one takes, in this order: an idle one of its own; an idle one of
//! the nearest level above; where a level on the way up is full, an idle one from anywhere below
//! that; and otherwise the place for a new one.

use std::{
    cell::Cell,
    collections::VecDeque,
    fmt,
    ptr::NonNull,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
};

use nebula_memory_core::{
    Account, WaitSlot,
    sync::{Arc, Mutex, Weak},
};

use super::{HierarchicalPool, Taken};
use crate::{
    Poolable,
    list::{Linked, List},
    slot::Slot,
    table::Table,
};

/// What these pools keep in a slot.
pub struct Node<T> {
    /// What comes next in the list that the slot is on. Under the tree's lock.
    next: Cell<Option<NonNull<Place<T>>>>,
    /// The level that holds the object. Written by the slot's owner.
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

/// All levels of a tree.
pub(super) struct Tree<T: Poolable, A: Account> {
    pub(super) table: Table<Place<T>>,
    pub(super) state: Mutex<State<T, A>>,
    /// The length of the line, readable without the lock.
    pub(super) waiting: AtomicUsize,
}

/// What the lock is for.
pub(super) struct State<T: Poolable, A: Account> {
    /// By number. Numbers of levels that are gone are used anew.
    pub(super) levels: Vec<Level<T, A>>,
    /// Places without an object.
    vacant: List<T, Node<T>>,
    pub(super) line: VecDeque<InLine<T, A>>,
    pub(super) next_ticket: u64,
}

// SAFETY: it owns its lists, whose slots are of a table that lives as long; objects and accounts move
// with it.
unsafe impl<T: Poolable + Send, A: Account + Send + Sync> Send for State<T, A> {}

/// Who waits for an object for a level.
pub(super) struct InLine<T: Poolable, A: Account> {
    pub(super) ticket: u64,
    pub(super) level: usize,
    pub(super) slot: Arc<WaitSlot<Taken<T, A>>>,
}

/// One level.
pub(super) struct Level<T: Poolable, A: Account> {
    pub(super) pool: Weak<HierarchicalPool<T, A>>,
    parent: Option<usize>,
    capacity: usize,
    /// Whether the level is still there.
    pub(super) live: bool,
    /// Objects that this level and those below hold, and places that they have taken for some.
    held: usize,
    /// Of these: by this level itself, idle.
    pub(super) idle: usize,
    /// Of these: by this level itself, lent or on their way.
    pub(super) lent: usize,
    fifo: bool,
    list: List<T, Node<T>>,
}

impl<T: Poolable, A: Account> Level<T, A> {
    pub(super) fn new(
        pool: Weak<HierarchicalPool<T, A>>,
        parent: Option<usize>,
        capacity: usize,
        fifo: bool,
    ) -> Self {
        let list = List::new();
        Self { pool, parent, capacity, live: true, held: 0, idle: 0, lent: 0, fifo, list }
    }

    fn pop(&mut self) -> Option<NonNull<Place<T>>> {
        // SAFETY: the table lives as long as the state.
        let place = unsafe { self.list.pop() }?;
        self.idle -= 1;
        Some(place)
    }
}

/// What an attempt to take something came to.
pub(super) enum Attempt<T: Poolable, A: Account> {
    Taken(Taken<T, A>),
    /// There may be more places than there are.
    Grow,
    /// There is nothing to be had.
    Exhausted,
}

impl<T: Poolable, A: Account> State<T, A> {
    pub(super) const fn new() -> Self {
        Self { levels: Vec::new(), vacant: List::new(), line: VecDeque::new(), next_ticket: 0 }
    }

    /// `level` and all above it, but not `end`.
    fn path(
        &self,
        level: usize,
        end: Option<usize>,
    ) -> impl Iterator<Item = usize> + use<'_, T, A> {
        let up = move |level: &usize| self.levels[*level].parent;
        std::iter::successors(Some(level), up).take_while(move |level| Some(*level) != end)
    }

    /// The lowest level that is `one` or above it, and the same of the other.
    fn meeting(&self, one: usize, other: usize) -> Option<usize> {
        self.path(one, None).find(|level| self.path(other, None).any(|above| above == *level))
    }

    /// Moves the holding of one object between levels.
    pub(super) fn move_held(&mut self, from: usize, to: usize) {
        let meeting = self.meeting(from, to);
        let mut level = Some(from).filter(|_| Some(from) != meeting);
        while let Some(at) = level {
            self.levels[at].held -= 1;
            level = self.levels[at].parent.filter(|_| self.levels[at].parent != meeting);
        }
        let mut level = Some(to).filter(|_| Some(to) != meeting);
        while let Some(at) = level {
            self.levels[at].held += 1;
            level = self.levels[at].parent.filter(|_| self.levels[at].parent != meeting);
        }
    }

    /// Counts one object more or less for `level` and all above it.
    fn hold(&mut self, level: usize, more: bool) {
        let mut next = Some(level);
        while let Some(at) = next {
            let held = &mut self.levels[at].held;
            *held = if more { *held + 1 } else { *held - 1 };
            next = self.levels[at].parent;
        }
    }

    /// Takes an object, or the place for one, for `level`; it counts as lent.
    pub(super) fn take(&mut self, level: usize) -> Attempt<T, A> {
        if let Some(place) = self.levels[level].pop() {
            self.levels[level].lent += 1;
            return Attempt::Taken(Taken { place, from: None });
        }
        self.take_from_others(level, true)
    }

    /// As [`take`](Self::take), but nothing of the level's own, and of others' only if that is above
    /// it or, where a level is full, if it `may_strip` those beside it.
    pub(super) fn take_from_others(&mut self, level: usize, may_strip: bool) -> Attempt<T, A> {
        let mut at = level;
        loop {
            if at != level && self.levels[at].idle > 0 {
                if let Some(pool) = self.levels[at].pool.upgrade() {
                    return self.borrow(level, at, pool);
                }
            }
            if self.levels[at].held == self.levels[at].capacity {
                let below = |other: usize| self.path(other, None).any(|above| above == at);
                let rich = |other: &usize| *other != level && self.levels[*other].idle > 0;
                let mut others =
                    (0..self.levels.len()).filter(|o| may_strip && rich(o) && below(*o));
                // A level without a handle is just ending, and gives all of it away in a moment.
                let found =
                    others.find_map(|o| self.levels[o].pool.upgrade().map(|pool| (o, pool)));
                return match found {
                    Some((other, pool)) => self.borrow(level, other, pool),
                    None => Attempt::Exhausted,
                };
            }
            match self.levels[at].parent {
                Some(parent) => at = parent,
                None => break,
            }
        }
        // SAFETY: the table lives as long as the state.
        let Some(place) = (unsafe { self.vacant.pop() }) else { return Attempt::Grow };
        self.hold(level, true);
        self.levels[level].lent += 1;
        Attempt::Taken(Taken { place, from: None })
    }

    /// Takes an idle object of `from`, which has one, for `level`.
    fn borrow(
        &mut self,
        level: usize,
        from: usize,
        pool: Arc<HierarchicalPool<T, A>>,
    ) -> Attempt<T, A> {
        let Some(place) = self.levels[from].pop() else {
            unreachable!("a level that has idle objects has one on its list")
        };
        self.move_held(from, level);
        self.levels[level].lent += 1;
        Attempt::Taken(Taken { place, from: Some(pool) })
    }

    /// An object that `level` had lent is idle there.
    ///
    /// # Safety
    /// The place is of this tree, the caller's, who gives it up, and on no list.
    pub(super) unsafe fn put(&mut self, level: usize, place: NonNull<Place<T>>) {
        self.levels[level].lent -= 1;
        // SAFETY: the caller's promise.
        unsafe { self.put_idle(level, place) };
    }

    /// An object that `level` holds is idle there.
    ///
    /// # Safety
    /// The place is of this tree, the caller's, who gives it up, and on no list.
    pub(super) unsafe fn put_idle(&mut self, level: usize, place: NonNull<Place<T>>) {
        let level = &mut self.levels[level];
        level.idle += 1;
        if level.fifo {
            // SAFETY: the caller's promise.
            unsafe { level.list.push_back(place) };
        } else {
            // SAFETY: as above.
            unsafe { level.list.push_front(place) };
        }
    }

    /// A place that `level` had lent, or was about to, has no object any more.
    ///
    /// # Safety
    /// The place is of this tree, the caller's, who gives it up, and on no list.
    pub(super) unsafe fn vacate(&mut self, level: usize, place: NonNull<Place<T>>) {
        self.levels[level].lent -= 1;
        // SAFETY: the caller's promise.
        unsafe { self.vacate_idle(level, place) };
    }

    /// A place whose idle object `level` held has none any more.
    ///
    /// # Safety
    /// The place is of this tree, the caller's, who gives it up, and on no list.
    pub(super) unsafe fn vacate_idle(&mut self, level: usize, place: NonNull<Place<T>>) {
        self.hold(level, false);
        // SAFETY: the caller's promise.
        unsafe { self.add_place(place) };
    }

    /// There is one place more.
    ///
    /// # Safety
    /// The place is of this tree, the caller's, who gives it up, and on no list.
    pub(super) unsafe fn add_place(&mut self, place: NonNull<Place<T>>) {
        // SAFETY: the caller's promise.
        unsafe { self.vacant.push_front(place) };
    }

    /// Takes an idle object of `level` itself that is `wanted`: one of the least value, and among
    /// equals the one that has been idle for longest. It counts as idle no more, but as held.
    ///
    /// O(n) in the number of idle objects.
    pub(super) fn pick(
        &mut self,
        level: usize,
        wanted: impl Fn(&Place<T>) -> bool,
    ) -> Option<NonNull<Place<T>>> {
        let level = &mut self.levels[level];
        // SAFETY: the table lives as long as the state, and nothing changes lists here.
        let idle = unsafe { level.list.iter() }.filter(|slot| wanted(slot));
        let order = |(n, slot): (usize, &Place<T>)| {
            let age = if level.fifo { n } else { usize::MAX - n };
            (slot.value(), age, std::ptr::from_ref(slot).addr())
        };
        let (_, _, victim) = idle.enumerate().map(order).min()?;
        let rest = level.list.take();
        let kept = List::new();
        let mut found = None;
        // SAFETY: the table lives as long as the state.
        while let Some(place) = unsafe { rest.pop() } {
            if place.addr().get() == victim {
                found = Some(place);
            } else {
                // SAFETY: the place has just left the other list.
                unsafe { kept.push_back(place) };
            }
        }
        level.list = kept;
        level.idle -= 1;
        found
    }

    /// Looks at the idle objects of `level` itself.
    pub(super) fn idle(&self, level: usize) -> impl Iterator<Item = &Place<T>> {
        // SAFETY: the table lives as long as the state, and nothing changes lists while it is
        // borrowed.
        unsafe { self.levels[level].list.iter() }
    }
}
