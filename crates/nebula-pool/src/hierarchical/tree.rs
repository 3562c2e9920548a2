//! The state of a whole tree of pools, under one lock: whose every object is, and who waits.
//!
//! Nothing here runs the code of others, charges, allocates or frees, except where it says so.
//!
//! An object is held by one level, idle or lent, and counts against the capacity of that level and of
//! all above it; so does the room for an object that is about to be made. A level that needs one
//! takes, in this order: an idle one of its own; an idle one of the nearest level above; where a level
//! on the way up is full, an idle one from anywhere below that; and otherwise the room for a new one.
//!
//! # Who may be served
//! While nobody holds the lock, none of those who wait could take anything: they joined the line under
//! the lock under which they found nothing, and whoever frees something serves who can take it before
//! he lets go of the lock (see [`Tree::change`]). Nobody waits for anything but that: who got the room
//! for an object sees for himself to its place, its charge and its making, and hears himself if that
//! is refused. So
//! - a newcomer takes what he finds, and passes nobody who could have had it;
//! - what a newcomer takes, and what is dropped while it is idle, can be of no use to those who wait:
//!   an idle object that somebody in line could have taken would not be idle.

use std::{collections::VecDeque, ptr::NonNull};

use nebula_memory_core::{
    Account, MemoryError,
    sync::{Arc, Mutex, MutexGuard, Weak},
};

use super::{
    HierarchicalPool,
    line::{InLine, Slot as WaitSlot},
    node::{Node, Place},
};
use crate::{PoolStats, Poolable, list::List, table::Table};

/// What was taken for a level, and counts as lent by it. Whoever has it must use it up or give it back.
pub(super) enum Taken<T: Poolable, A: Account> {
    /// A place of the level's own. If there is an object, it is in the level's books.
    Own(NonNull<Place<T>>),
    /// An object that is still in the books of another level.
    Borrowed(NonNull<Place<T>>, Arc<HierarchicalPool<T, A>>),
    /// The room for an object, without a place so far.
    Room,
}

// SAFETY: it stands for an object that is its holder's alone, and a shared level.
unsafe impl<T: Poolable + Send, A: Account + Send + Sync> Send for Taken<T, A> {}

/// All levels of a tree.
pub(super) struct Tree<T: Poolable, A: Account> {
    pub(super) table: Table<Place<T>>,
    state: Mutex<State<T, A>>,
}

impl<T: Poolable, A: Account> Tree<T, A> {
    pub(super) fn new(table: Table<Place<T>>) -> Self {
        let state = State {
            levels: Vec::new(),
            vacant: List::new(),
            line: VecDeque::new(),
            next_ticket: 0,
            round: 0,
            ended: PoolStats::default(),
        };
        Self { table, state: Mutex::new(state) }
    }

    /// The state, for who frees nothing.
    #[inline]
    pub(super) fn lock(&self) -> MutexGuard<'_, State<T, A>> {
        self.state.lock()
    }

    /// As [`lock`](Self::lock), if nobody else has it.
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, State<T, A>>> {
        self.state.try_lock()
    }

    /// Makes a change that may be what somebody waits for, and serves who can be served after it.
    ///
    /// What frees one object, or the room for one, serves one at most, before anybody else has the
    /// lock. (Whoever is served leaves the level that he waited for as full as it was, so that nobody
    /// else comes by more room there, and below it nothing has changed.)
    #[inline(always)]
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut State<T, A>) -> R) -> R {
        let mut state = self.lock();
        let result = change(&mut state);
        if !state.line.is_empty() {
            self.serve(state);
        }
        result
    }

    /// Closes `top` and all levels below it. All who wait there get to know at once, so that nobody
    /// stands between those who still can be served and what comes free.
    pub(super) fn close(&self, top: usize) {
        // Room for those who wait there; no level frees anything by being closed.
        let mut refused = Vec::new();
        loop {
            let mut state = self.lock();
            if refused.capacity() >= state.line.len() {
                state.close(top, &mut refused);
                break;
            }
            let needed = state.line.len();
            drop(state);
            refused = Vec::with_capacity(needed);
        }
        for slot in refused {
            slot.wake();
        }
    }

    /// Adds a level; its number.
    ///
    /// # Errors
    /// [`MemoryError::Closed`] if the level above is closed.
    pub(super) fn register(&self, level: Level<T, A>) -> Result<usize, MemoryError> {
        // Room for more levels; what it replaces is freed at the end, without the lock.
        let mut room = Vec::new();
        loop {
            let mut state = self.lock();
            if level.parent.is_some_and(|parent| state.levels[parent].closed) {
                return Err(MemoryError::Closed { what: "the pool" });
            }
            if let Some(over) = state.levels.iter().position(|level| !level.live) {
                // What was there owns nothing any more.
                state.levels[over] = level;
                return Ok(over);
            }
            let len = state.levels.len();
            if len < state.levels.capacity() || len < room.capacity() {
                if len == state.levels.capacity() {
                    room.append(&mut state.levels);
                    std::mem::swap(&mut room, &mut state.levels);
                }
                state.levels.push(level);
                return Ok(len);
            }
            drop(state);
            room = Vec::with_capacity((2 * len).max(4));
        }
    }

    #[cold]
    fn serve<'t>(&'t self, mut state: MutexGuard<'t, State<T, A>>) {
        while let Some(slot) = state.serve() {
            drop(state);
            slot.wake();
            drop(slot);
            state = self.lock();
        }
    }
}

/// What the lock is for.
pub(super) struct State<T: Poolable, A: Account> {
    /// By number. Numbers of levels that are gone are used anew.
    pub(super) levels: Vec<Level<T, A>>,
    /// Places without an object that are nobody's.
    pub(super) vacant: List<T, Node<T>>,
    /// In the order in which they came.
    pub(super) line: VecDeque<InLine<T, A>>,
    pub(super) next_ticket: u64,
    /// How often the line was served.
    round: u64,
    /// The figures of levels that are gone.
    pub(super) ended: PoolStats,
}

// SAFETY: it owns its lists, whose slots are of a table that lives as long; objects and accounts move
// with it.
unsafe impl<T: Poolable + Send, A: Account + Send + Sync> Send for State<T, A> {}

/// One level.
pub(super) struct Level<T: Poolable, A: Account> {
    pub(super) pool: Weak<HierarchicalPool<T, A>>,
    parent: Option<usize>,
    capacity: usize,
    /// Idle objects beyond this go to a level above.
    surplus: usize,
    fifo: bool,
    /// Whether the level is still there.
    pub(super) live: bool,
    /// Whether it lends nothing any more.
    pub(super) closed: bool,
    /// Objects that this level and those below hold, and the room that they have taken for some.
    held: usize,
    /// Of these: by this level itself, idle.
    pub(super) idle: usize,
    /// Of these: by this level itself, lent or on their way.
    pub(super) lent: usize,
    /// The last round of serving in which there was nothing for this level.
    asked: u64,
    /// How often an object came back to this level, or was detached.
    pub(super) returned: u64,
    list: List<T, Node<T>>,
}

impl<T: Poolable, A: Account> Level<T, A> {
    pub(super) const fn new(
        parent: Option<usize>,
        capacity: usize,
        surplus: usize,
        fifo: bool,
    ) -> Self {
        Self {
            pool: Weak::new(),
            parent,
            capacity,
            surplus,
            fifo,
            live: true,
            closed: false,
            held: 0,
            idle: 0,
            lent: 0,
            asked: 0,
            returned: 0,
            list: List::new(),
        }
    }

    /// Takes an idle object; it counts as lent.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<NonNull<Place<T>>> {
        // SAFETY: the table lives as long as the state.
        let place = unsafe { self.list.pop() }?;
        self.idle -= 1;
        self.lent += 1;
        Some(place)
    }

    /// An object that the level had lent is idle there. Whether these are too many then.
    ///
    /// # Safety
    /// The place is of this tree, the caller's, who gives it up, and on no list.
    #[inline]
    pub(super) unsafe fn put(&mut self, place: NonNull<Place<T>>) -> bool {
        self.lent -= 1;
        self.idle += 1;
        if self.fifo {
            // SAFETY: the caller's promise.
            unsafe { self.list.push_back(place) };
        } else {
            // SAFETY: as above.
            unsafe { self.list.push_front(place) };
        }
        self.is_over()
    }

    /// Lends and keeps nothing from now on.
    const fn close(&mut self) {
        self.closed = true;
        self.surplus = 0;
    }

    /// Whether more objects are idle than should be.
    #[inline]
    pub(super) const fn is_over(&self) -> bool {
        self.idle > self.surplus
    }

    const fn is_full(&self) -> bool {
        self.held >= self.capacity
    }
}

impl<T: Poolable, A: Account> State<T, A> {
    /// `level` and all above it, but not `end` and those above that.
    fn path(
        &self,
        level: usize,
        end: Option<usize>,
    ) -> impl Iterator<Item = usize> + use<'_, T, A> {
        let up = move |level: &usize| self.levels[*level].parent;
        std::iter::successors(Some(level), up).take_while(move |level| Some(*level) != end)
    }

    /// Whether `level` is `top` or below it.
    pub(super) fn is_below(&self, level: usize, top: usize) -> bool {
        self.path(level, None).any(|above| above == top)
    }

    /// The lowest level that is `one` or above it, and the same of the other.
    fn meeting(&self, one: usize, other: usize) -> Option<usize> {
        self.path(one, None).find(|level| self.is_below(other, *level))
    }

    /// Counts one object more or less for `level` and all above it, but not for `end` and those above
    /// that.
    fn hold(&mut self, level: usize, end: Option<usize>, more: bool) {
        let mut next = Some(level);
        while let Some(at) = next.filter(|_| next != end) {
            let held = &mut self.levels[at].held;
            *held = if more { *held + 1 } else { *held - 1 };
            next = self.levels[at].parent;
        }
    }

    /// An object that `from` had lent counts as lent by `to`, which has room for it.
    pub(super) fn move_lent(&mut self, from: usize, to: usize) {
        let meeting = self.meeting(from, to);
        self.hold(from, meeting, false);
        self.hold(to, meeting, true);
        self.levels[from].lent -= 1;
        self.levels[to].lent += 1;
    }

    /// Whether an object that `from` holds could be `to`'s.
    fn has_room(&self, from: usize, to: usize) -> bool {
        let meeting = self.meeting(from, to);
        self.path(to, meeting).all(|level| !self.levels[level].is_full())
    }

    /// Takes an object, or the room for one, for `level`; it counts as lent. `None` if there is
    /// nothing to be had.
    ///
    /// # Errors
    /// [`MemoryError::Closed`] if the level is closed.
    pub(super) fn take(&mut self, level: usize) -> Result<Option<Taken<T, A>>, MemoryError> {
        if !self.levels[level].closed {
            if let Some(place) = self.levels[level].pop() {
                return Ok(Some(Taken::Own(place)));
            }
        }
        self.take_from_others(level, true)
    }

    /// As [`take`](Self::take), but nothing of the level's own, and of others' only if that is above
    /// it or, where a level is full, if it `may_strip` those beside it.
    ///
    /// # Errors
    /// Those of [`take`](Self::take).
    pub(super) fn take_from_others(
        &mut self,
        level: usize,
        may_strip: bool,
    ) -> Result<Option<Taken<T, A>>, MemoryError> {
        if self.levels[level].closed {
            return Err(MemoryError::Closed { what: "the pool" });
        }
        let mut next = Some(level);
        while let Some(at) = next {
            if at != level && self.levels[at].idle > 0 {
                if let Some(pool) = self.levels[at].pool.upgrade() {
                    return Ok(Some(self.borrow(level, at, pool)));
                }
            }
            if self.levels[at].is_full() {
                let rich = |other: &usize| *other != level && self.levels[*other].idle > 0;
                let others = 0..if may_strip { self.levels.len() } else { 0 };
                let mut others = others.filter(|other| rich(other) && self.is_below(*other, at));
                // A level without a handle is just ending, and gives all of it away in a moment.
                let found =
                    others.find_map(|o| self.levels[o].pool.upgrade().map(|pool| (o, pool)));
                return Ok(found.map(|(other, pool)| self.borrow(level, other, pool)));
            }
            next = self.levels[at].parent;
        }
        self.hold(level, None, true);
        self.levels[level].lent += 1;
        Ok(Some(Taken::Room))
    }

    /// Takes an idle object of `from`, which has one, for `level`, which has room for it.
    fn borrow(
        &mut self,
        level: usize,
        from: usize,
        pool: Arc<HierarchicalPool<T, A>>,
    ) -> Taken<T, A> {
        let Some(place) = self.levels[from].pop() else {
            unreachable!("a level that has idle objects has one on its list")
        };
        self.move_lent(from, level);
        Taken::Borrowed(place, pool)
    }

    /// An object that `level` had borrowed `from` another is idle there again, if there is room for it
    /// still: `None` if not. Whether these are too many then.
    ///
    /// # Safety
    /// If there is room: the place is of this tree, the caller's, who gives it up, and on no list.
    pub(super) unsafe fn put_back(
        &mut self,
        level: usize,
        from: usize,
        place: NonNull<Place<T>>,
    ) -> Option<bool> {
        if !self.has_room(level, from) {
            return None;
        }
        self.move_lent(level, from);
        // SAFETY: the caller's promise.
        Some(unsafe { self.levels[from].put(place) })
    }

    /// The room for an object that `level` had lent, or was about to, is free.
    pub(super) fn release(&mut self, level: usize) {
        self.levels[level].lent -= 1;
        self.hold(level, None, false);
    }

    /// A place that `level` had lent, or was about to, has no object any more.
    ///
    /// # Safety
    /// The place is of this tree, the caller's, who gives it up, and on no list.
    pub(super) unsafe fn vacate(&mut self, level: usize, place: NonNull<Place<T>>) {
        self.release(level);
        // SAFETY: the caller's promise.
        unsafe { self.vacant.push_front(place) };
    }

    /// The nearest level above that wants one more idle object, if there is one.
    pub(super) fn heir(&self, level: usize) -> Option<usize> {
        let wants = |at: &usize| self.levels[*at].idle < self.levels[*at].surplus;
        self.path(level, None).skip(1).find(wants)
    }

    /// Closes `top` and all levels below it. Who waits there is out of the line, refused, and to be
    /// woken: `refused` has room for all.
    fn close(&mut self, top: usize, refused: &mut Vec<Arc<WaitSlot<T, A>>>) {
        for level in 0..self.levels.len() {
            if self.levels[level].live && self.is_below(level, top) {
                self.levels[level].close();
            }
        }
        let levels = &self.levels;
        self.line.retain(|place| {
            let closed = levels[place.level].closed;
            if closed {
                // Still under the lock: who leaves the line finds itself either in it or served.
                place.slot.put(Err(MemoryError::Closed { what: "the pool" }));
                refused.push(Arc::clone(&place.slot));
            }
            !closed
        });
    }

    /// Gives what there is to the first in line who can have it; he is to be woken.
    ///
    /// O(n) in the number of those who wait; but each level is asked only once.
    fn serve(&mut self) -> Option<Arc<WaitSlot<T, A>>> {
        self.round += 1;
        for at in 0..self.line.len() {
            let level = self.line[at].level;
            if self.levels[level].asked == self.round {
                continue;
            }
            self.levels[level].asked = self.round;
            // (Nobody waits for a closed level.)
            let Ok(Some(taken)) = self.take(level) else { continue };
            if let Some(first) = self.line.remove(at) {
                // Still under the lock: who leaves the line finds itself either in it or served.
                first.slot.put(Ok(taken));
                return Some(first.slot);
            }
        }
        None
    }

    /// Takes an idle object of `level` itself that is `wanted`: one of the least value, and among
    /// equals the one that has been idle for longest. It counts as lent.
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
        level.lent += 1;
        found
    }

    /// Looks at the idle objects of `level` itself.
    pub(super) fn idle(&self, level: usize) -> impl Iterator<Item = &Place<T>> {
        // SAFETY: the table lives as long as the state, and nothing changes lists while it is
        // borrowed.
        unsafe { self.levels[level].list.iter() }
    }
}
