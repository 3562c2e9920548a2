//! What becomes of objects of a tree of pools that are not lent: where they go when they come back,
//! when there are too many, when their memory is wanted, and when their level ends.

use std::ptr::NonNull;

use nebula_memory_core::{
    Account, MemoryError, PressureLevel, Reclaim,
    sync::{Arc, Weak},
};

use super::{
    HierarchicalPool,
    node::{Node, Place},
    tree::{State, Taken},
};
use crate::{
    Maintained, PoolStats, Poolable, books::Cause, home::Home, keeping::Quota, slot::Slot,
};

impl<T: Poolable, A: Account> HierarchicalPool<T, A> {
    /// Drops all idle objects of this level and returns the bytes credited for them. The table of
    /// slots stays.
    pub fn trim(&self) -> usize {
        let next =
            |pool: &Self| pool.unhold(&mut pool.tree.lock(), |s| s.levels[pool.number].pop());
        self.discard(Quota::ALL, next)
    }

    /// Gives the idle objects of this level that are more than its configuration allows or needs to
    /// the level above (the root drops them), and makes up for those that are missing from
    /// [`min_idle`](crate::PoolConfig::min_idle). To be called from time to time.
    ///
    /// O(n²) in the number of idle objects that go.
    ///
    /// # Errors
    /// The error of the factory or the account's refusal, explained, if an object had to be made.
    ///
    /// # Panics
    /// If the factory does.
    pub fn maintain(&self) -> Result<Maintained, MemoryError> {
        let before = self.workshop.books.stats(0);
        let (idle, unused) = {
            let state = self.tree.lock();
            let unused = state.idle(self.number).filter(|slot| slot.is_unused()).count();
            (state.levels[self.number].idle, unused)
        };
        let (stale, rest) = self.keeping.surplus(idle, unused);
        for number in 0..stale + rest {
            let wanted = |slot: &Place<T>| number >= stale || slot.is_unused();
            let place = self.tree.lock().pick(self.number, wanted);
            if let Some(place) = place.filter(|place| !self.pass_up(*place)) {
                self.keep(place);
            }
        }
        let missing = {
            let state = self.tree.lock();
            state.idle(self.number).for_each(Slot::look);
            let level = &state.levels[self.number];
            if level.closed { 0 } else { self.keeping.min_idle.saturating_sub(level.idle) }
        };
        self.fill(missing)?;
        Ok(Maintained::between(&before, &self.workshop.books.stats(0)))
    }

    /// Closes this level and all below it: from now on, nothing is lent there. Those who wait get
    /// [`MemoryError::Closed`], and so do those who come. What is idle goes to the nearest level
    /// above that is open, and so does what is still lent when it comes back; if there is none, it
    /// is dropped.
    ///
    /// ```
    /// use nebula_memory_core::Unlimited;
    /// use nebula_pool::{HierarchicalPool, PoolConfig};
    ///
    /// let root = HierarchicalPool::new(&PoolConfig::default(), String::new)?;
    /// let tenant = root.child(&PoolConfig::default(), Unlimited)?;
    /// let name = tenant.try_get()?;
    /// tenant.close();
    /// assert_eq!(tenant.try_get().unwrap_err().code(), "closed");
    /// drop(name);
    /// assert_eq!((tenant.stats().idle, root.stats().idle), (0, 1));
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn close(&self) {
        self.tree.close(self.number);
        let mut number = 0;
        loop {
            let pool = {
                let state = self.tree.lock();
                let over =
                    |n: &usize| state.levels[*n].is_over() && state.is_below(*n, self.number);
                let Some(found) = (number..state.levels.len()).find(over) else { return };
                number = found + 1;
                // One without a handle is just ending, and gives away what it has itself.
                state.levels[found].pool.upgrade()
            };
            if let Some(pool) = pool {
                pool.shed();
            }
        }
    }

    /// Whether the level lends nothing any more, because it or one above it was
    /// [closed](Self::close).
    pub fn is_closed(&self) -> bool {
        self.tree.lock().levels[self.number].closed
    }

    /// Takes back what was taken for this level.
    pub(super) fn give_back(&self, taken: Taken<T, A>) {
        match taken {
            Taken::Room => self.tree.change(|state| state.release(self.number)),
            Taken::Own(place) => {
                // SAFETY: slots live for as long as the tree's table.
                if unsafe { place.as_ref() }.is_full() {
                    self.put(place);
                } else {
                    self.put_empty(place);
                }
            }
            Taken::Borrowed(place, from) => {
                let back = self.tree.change(|state| {
                    // SAFETY: the place is this tree's, and ours until now.
                    unsafe { state.put_back(self.number, from.number, place) }
                });
                match back {
                    Some(true) => from.shed(),
                    Some(false) => {}
                    // It has got others since. The object is still in its books.
                    None => {
                        let (object, bytes) = self.vacate(place);
                        from.workshop.destroy(object, bytes, Cause::Surplus);
                    }
                }
            }
        }
    }

    /// An object of this level, which counts as lent, is idle.
    fn put(&self, place: NonNull<Place<T>>) {
        // SAFETY: the place is this tree's, and ours until now.
        let over = self.tree.change(|state| unsafe { state.levels[self.number].put(place) });
        if over {
            self.shed();
        }
    }

    /// A place comes back from a user, without its object.
    #[cold]
    fn come_back_empty(&self, place: NonNull<Place<T>>) {
        self.tree.change(|state| {
            state.levels[self.number].returned += 1;
            // SAFETY: the place is this tree's, and ours until now.
            unsafe { state.vacate(self.number, place) };
        });
    }

    /// A place of this level, which counts as lent, is empty.
    fn put_empty(&self, place: NonNull<Place<T>>) {
        // SAFETY: the place is this tree's, and ours until now.
        self.tree.change(|state| unsafe { state.vacate(self.number, place) });
    }

    /// Keeps an object that counts as lent by this level, and that nobody above could afford, even if
    /// it is one too many; but not if the level is closed.
    fn keep(&self, place: NonNull<Place<T>>) {
        let kept = self.tree.change(|state| {
            let level = &mut state.levels[self.number];
            if !level.closed {
                // SAFETY: the place is this tree's, and ours until now.
                unsafe { level.put(place) };
            }
            !level.closed
        });
        if !kept {
            self.drop_object(place, Cause::Surplus);
        }
    }

    /// Gives away what is idle here and too much.
    #[cold]
    #[inline(never)]
    fn shed(&self) {
        loop {
            let place = {
                let mut state = self.tree.lock();
                let level = &mut state.levels[self.number];
                if level.is_over() { level.pop() } else { None }
            };
            let Some(place) = place else { return };
            if !self.pass_up(place) {
                self.keep(place);
                if !self.is_closed() {
                    return;
                }
            }
        }
    }

    /// Gives an object, which counts as lent by this level, to the nearest level above that wants one,
    /// or drops it if there is none. `false` if that level could not afford it: then it is this
    /// level's as before.
    fn pass_up(&self, place: NonNull<Place<T>>) -> bool {
        let heir = self.tree.lock().heir(self.number);
        let mut above = std::iter::successors(self.parent(), |level| level.parent());
        let Some(heir) = above.find(|level| Some(level.number) == heir) else {
            self.drop_object(place, Cause::Surplus);
            return true;
        };
        if heir.admit(place, self).is_err() {
            return false;
        }
        let over = self.tree.change(|state| {
            state.move_lent(self.number, heir.number);
            // SAFETY: the place is this tree's, and ours until now.
            unsafe { state.levels[heir.number].put(place) }
        });
        // It has got others since, or was closed.
        if over {
            heir.shed();
        }
        true
    }

    /// Takes the object out of a place that counts as lent by this level, and the place back.
    fn vacate(&self, place: NonNull<Place<T>>) -> (T, usize) {
        // SAFETY: slots live for as long as the tree's table.
        let slot = unsafe { place.as_ref() };
        // SAFETY: the slot is ours, and has an object.
        let taken = unsafe { slot.take() };
        self.put_empty(place);
        taken
    }

    /// Ends an object of this level, which counts as lent.
    pub(super) fn drop_object(&self, place: NonNull<Place<T>>, cause: Cause) {
        let (object, bytes) = self.vacate(place);
        self.workshop.destroy(object, bytes, cause);
    }

    /// Takes the idle object that `pick` chooses out of its place. That serves nobody: an idle object
    /// that is of use to somebody who waits there is none, and neither is its room.
    fn unhold(
        &self,
        state: &mut State<T, A>,
        pick: impl FnOnce(&mut State<T, A>) -> Option<NonNull<Place<T>>>,
    ) -> Option<(T, usize)> {
        let place = pick(state)?;
        // SAFETY: slots live for as long as the tree's table.
        let slot = unsafe { place.as_ref() };
        // SAFETY: the slot was idle and is ours now, and has an object.
        let taken = unsafe { slot.take() };
        // SAFETY: the place is this tree's, and ours until now.
        unsafe { state.vacate(self.number, place) };
        Some(taken)
    }

    /// Drops what `next` takes out of its place. Returns the bytes credited.
    fn discard(&self, quota: Quota, next: impl Fn(&Self) -> Option<(T, usize)>) -> usize {
        let mut quota = quota;
        while !quota.is_met() {
            let Some((object, bytes)) = next(self) else { break };
            quota.give(bytes);
            self.workshop.destroy(object, bytes, Cause::Reclaimed);
        }
        quota.bytes_given()
    }
}

// SAFETY: places that guards get were taken off their list, and no list gets them until they come
// back; the table's slots stay where they are, and every level keeps the table alive.
unsafe impl<T: Poolable, A: Account> Home for HierarchicalPool<T, A> {
    type Object = T;
    type Head = Node<T>;
    type Handle = Arc<Self>;

    #[inline]
    unsafe fn take_back(&self, place: NonNull<Place<T>>) {
        // SAFETY: slots live for as long as the tree's table.
        let slot = unsafe { place.as_ref() };
        // SAFETY: the slot was a guard's, and is ours now.
        let kept = unsafe { self.workshop.take_back(slot) };
        if !kept {
            self.come_back_empty(place);
            return;
        }
        let over = self.tree.change(|state| {
            let level = &mut state.levels[self.number];
            level.returned += 1;
            // SAFETY: the place is this tree's, and ours until now.
            unsafe { level.put(place) }
        });
        if over {
            self.shed();
        }
    }

    unsafe fn detach(&self, place: NonNull<Place<T>>) -> T {
        // SAFETY: slots live for as long as the tree's table.
        let slot = unsafe { place.as_ref() };
        // SAFETY: the slot was a guard's, and is ours now.
        let object = unsafe { self.workshop.detach(slot) };
        self.come_back_empty(place);
        object
    }
}

impl<T: Poolable, A: Account> Drop for HierarchicalPool<T, A> {
    /// Gives what is idle to a level above, or drops it; and drops all objects whose guards were
    /// leaked: nobody can reach them any more.
    fn drop(&mut self) {
        // Nobody has a handle, and so nobody waits, but for futures that were leaked; and nothing is
        // below it.
        self.tree.close(self.number);
        self.shed();
        let before = self.stats();
        if before.lent > 0 {
            for slot in self.tree.table.iter() {
                if slot.is_full() && slot.head.level() == self.number {
                    self.drop_object(NonNull::from(slot), Cause::Reclaimed);
                }
            }
        }
        let (capacity, places, lent, idle) = (0, 0, 0, 0);
        let stats = PoolStats { capacity, places, lent, idle, gets: before.gets, ..self.stats() };
        let handle = {
            let mut state = self.tree.lock();
            // Levels come and go without end, and their peaks don't add up.
            let peak_lent = state.ended.peak_lent.max(stats.peak_lent);
            state.ended = PoolStats { peak_lent, ..state.ended.plus(&stats) };
            let level = &mut state.levels[self.number];
            level.live = false;
            std::mem::replace(&mut level.pool, Weak::new())
        };
        drop(handle);
    }
}

/// Idle objects of this level that something is charged for are dropped, those of the least value
/// first. All but critical requests leave the least number of idle objects there. It stops where it
/// would have to wait for the tree's lock.
///
/// What other levels have idle is not touched, nor is what levels below have: each level is to be
/// registered by itself, with the budget that its account belongs to. O(n) in the number of the level's
/// idle objects for each that goes, under the tree's lock.
impl<T: Poolable + Send, A: Account + Send + Sync> Reclaim for HierarchicalPool<T, A> {
    fn reclaimable(&self) -> usize {
        let Some(state) = self.tree.try_lock() else { return 0 };
        self.keeping.reclaimable(state.idle(self.number).map(Slot::charged))
    }

    fn reclaim(&self, wanted: usize, urgency: PressureLevel) -> usize {
        let most = match self.tree.try_lock() {
            Some(state) => self.keeping.spare(state.levels[self.number].idle, urgency),
            None => return 0,
        };
        let pick = |state: &mut State<T, A>| state.pick(self.number, |slot| slot.charged() > 0);
        self.discard(Quota::new(most, wanted), |pool| {
            let mut state = pool.tree.try_lock()?;
            pool.unhold(&mut state, pick)
        })
    }
}
