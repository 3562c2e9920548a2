//! Taking an object out of a tree of pools: at once, or after standing in line.

use std::{
    future::Future, panic::Location, ptr::NonNull, sync::atomic::Ordering::Relaxed, time::Duration,
};

use nebula_memory_core::{Account, MemoryError, sync::Arc};

use super::{HierarchicalPool, line::Begun, node::Place, tree::Taken};
use crate::{OwnedGuard, PoolGuard, Poolable, books::Cause, watch::Site, workshop};

impl<T: Poolable, A: Account> HierarchicalPool<T, A> {
    /// Lends an object if one is idle here or can be borrowed or made, without waiting.
    ///
    /// # Errors
    /// - [`MemoryError::PoolExhausted`] if this level, or one above it, has its limit's worth of
    ///   objects lent, or promised to those who wait.
    /// - [`MemoryError::Closed`] if the level was [closed](Self::close).
    /// - The error of the factory or the account's refusal, explained, if an object had to be made
    ///   or borrowed, or places for more; its room is free again.
    ///
    /// # Panics
    /// If the factory does; its room is free again.
    #[inline]
    #[track_caller]
    pub fn try_get(&self) -> Result<PoolGuard<'_, Self>, MemoryError> {
        let site = Location::caller();
        match self.own() {
            Some(place) => self.lend_own(place, site),
            None => self.get_other(site),
        }
    }

    /// Lends an object, and blocks until there is one.
    ///
    /// A thread that holds guards of this tree while it waits for another can wait for itself.
    ///
    /// # Errors
    /// - [`MemoryError::Closed`] if the level is [closed](Self::close).
    /// - The error of the factory or the account's refusal, explained, if an object had to be made
    ///   or borrowed, or places for more; its room is free again.
    ///
    /// # Panics
    /// If the factory does; its room is free again.
    #[inline]
    #[track_caller]
    pub fn get(&self) -> Result<PoolGuard<'_, Self>, MemoryError> {
        self.get_blocking(None, Location::caller())
    }

    /// Lends an object, and blocks until there is one, for `timeout` at most.
    ///
    /// # Errors
    /// [`MemoryError::Timeout`], and those of [`get`](Self::get).
    ///
    /// # Panics
    /// If the factory does; its room is free again.
    #[inline]
    #[track_caller]
    pub fn get_timeout(&self, timeout: Duration) -> Result<PoolGuard<'_, Self>, MemoryError> {
        self.get_blocking(Some(timeout), Location::caller())
    }

    /// Lends an object, and waits until there is one without blocking the thread.
    ///
    /// It needs no particular runtime, and has no time-out of its own; use your runtime's. Its place
    /// in line is taken when it is first polled. It can be dropped at any moment: what it may have
    /// been handed by then goes to the next in line.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    ///
    /// # Panics
    /// If the factory does; its room is free again.
    #[track_caller]
    pub fn get_async(&self) -> impl Future<Output = Result<PoolGuard<'_, Self>, MemoryError>> {
        self.get_waiting(Location::caller())
    }

    /// As [`try_get`](Self::try_get), with a guard that keeps the pool alive and borrows nothing.
    ///
    /// # Errors
    /// Those of [`try_get`](Self::try_get).
    ///
    /// # Panics
    /// If the factory does; its room is free again.
    #[inline]
    #[track_caller]
    pub fn try_get_owned(self: &Arc<Self>) -> Result<OwnedGuard<Self>, MemoryError> {
        let guard = self.try_get()?;
        Ok(OwnedGuard::new(Arc::clone(self), guard))
    }

    /// As [`get`](Self::get), with a guard that keeps the pool alive and borrows nothing.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    ///
    /// # Panics
    /// If the factory does; its room is free again.
    #[inline]
    #[track_caller]
    pub fn get_owned(self: &Arc<Self>) -> Result<OwnedGuard<Self>, MemoryError> {
        let guard = self.get()?;
        Ok(OwnedGuard::new(Arc::clone(self), guard))
    }

    /// As [`get_timeout`](Self::get_timeout), with a guard that keeps the pool alive and borrows
    /// nothing.
    ///
    /// # Errors
    /// Those of [`get_timeout`](Self::get_timeout).
    ///
    /// # Panics
    /// If the factory does; its room is free again.
    #[inline]
    #[track_caller]
    pub fn get_owned_timeout(
        self: &Arc<Self>,
        timeout: Duration,
    ) -> Result<OwnedGuard<Self>, MemoryError> {
        let guard = self.get_timeout(timeout)?;
        Ok(OwnedGuard::new(Arc::clone(self), guard))
    }

    /// As [`get_async`](Self::get_async), with a guard that keeps the pool alive and borrows
    /// nothing; neither does the future.
    ///
    /// # Errors
    /// Those of [`get_async`](Self::get_async).
    ///
    /// # Panics
    /// If the factory does; its room is free again.
    #[track_caller]
    pub fn get_owned_async(
        self: Arc<Self>,
    ) -> impl Future<Output = Result<OwnedGuard<Self>, MemoryError>> {
        let site = Location::caller();
        async move {
            let guard = self.get_waiting(site).await?;
            Ok(OwnedGuard::new(Arc::clone(&self), guard))
        }
    }

    /// Takes an idle object of the level's own.
    #[inline]
    fn own(&self) -> Option<NonNull<Place<T>>> {
        let mut state = self.tree.lock();
        let level = &mut state.levels[self.number];
        if level.closed { None } else { level.pop() }
    }

    /// What a get does for which there was nothing of the level's own.
    #[cold]
    #[inline(never)]
    fn get_other(&self, site: Site) -> Result<PoolGuard<'_, Self>, MemoryError> {
        match self.take()? {
            Some(taken) => self.lend(taken, site),
            None => Err(self.exhausted()),
        }
    }

    #[inline]
    fn get_blocking(
        &self,
        timeout: Option<Duration>,
        site: Site,
    ) -> Result<PoolGuard<'_, Self>, MemoryError> {
        match self.own() {
            Some(place) => self.lend_own(place, site),
            None => self.get_after_all(timeout, site),
        }
    }

    #[cold]
    #[inline(never)]
    fn get_after_all(
        &self,
        timeout: Option<Duration>,
        site: Site,
    ) -> Result<PoolGuard<'_, Self>, MemoryError> {
        let taken = match self.begin()? {
            Begun::Served(taken) => taken,
            Begun::Waiting(waiter) => {
                let began = self.workshop.books.wait();
                let taken = waiter.wait(timeout);
                drop(began);
                taken?
            }
        };
        self.lend(taken, site)
    }

    async fn get_waiting(&self, site: Site) -> Result<PoolGuard<'_, Self>, MemoryError> {
        if let Some(place) = self.own() {
            return self.lend_own(place, site);
        }
        let taken = match self.begin()? {
            Begun::Served(taken) => taken,
            Begun::Waiting(waiter) => {
                let began = self.workshop.books.wait();
                let taken = waiter.await;
                drop(began);
                taken?
            }
        };
        self.lend(taken, site)
    }

    /// Makes a guard of an idle object that was taken, if it is good; or of a new one.
    #[inline]
    fn lend_own(
        &self,
        place: NonNull<Place<T>>,
        site: Site,
    ) -> Result<PoolGuard<'_, Self>, MemoryError> {
        // SAFETY: slots live for as long as the tree's table.
        let slot = unsafe { place.as_ref() };
        // SAFETY: the slot is ours, and has an object.
        match unsafe { workshop::fault(slot) } {
            None => Ok(self.guard(place, site)),
            Some(cause) => self.lend_new(place, cause, site),
        }
    }

    /// Makes a guard with a new object in the place of one that is to be destroyed for `cause`.
    #[cold]
    #[inline(never)]
    fn lend_new(
        &self,
        place: NonNull<Place<T>>,
        cause: Cause,
        site: Site,
    ) -> Result<PoolGuard<'_, Self>, MemoryError> {
        let claim = Claim::new(self, Taken::Own(place));
        // SAFETY: slots live for as long as the tree's table.
        let slot = unsafe { place.as_ref() };
        // SAFETY: the slot is the claim's, and has an object.
        unsafe { self.workshop.discard(slot, cause) };
        self.make(&claim, place)?;
        self.workshop.books.lend_fresh();
        claim.forget();
        Ok(self.guard(place, site))
    }

    /// Makes a guard of whatever was taken.
    fn lend(&self, taken: Taken<T, A>, site: Site) -> Result<PoolGuard<'_, Self>, MemoryError> {
        let mut claim = Claim::new(self, taken);
        let place = self.settle(&mut claim)?;
        // SAFETY: slots live for as long as the tree's table.
        if unsafe { place.as_ref() }.is_full() {
            claim.forget();
            return self.lend_own(place, site);
        }
        self.make(&claim, place)?;
        self.workshop.books.lend_fresh();
        claim.forget();
        Ok(self.guard(place, site))
    }

    /// Makes a guard of a place with a good object.
    #[inline]
    fn guard(&self, place: NonNull<Place<T>>, site: Site) -> PoolGuard<'_, Self> {
        // SAFETY: slots live for as long as the tree's table.
        self.workshop.lend(unsafe { place.as_ref() }, site);
        // SAFETY: it is one of the tree's, is on no list, and has an object.
        unsafe { PoolGuard::new(self, place) }
    }

    /// Makes whatever is claimed a place of the level's own: brings the object into its books, or
    /// finds a place for a new one.
    fn settle(&self, claim: &mut Claim<'_, T, A>) -> Result<NonNull<Place<T>>, MemoryError> {
        let place = match &claim.taken {
            Taken::Own(place) => return Ok(*place),
            Taken::Borrowed(place, from) => {
                self.admit(*place, from)?;
                *place
            }
            Taken::Room => self.find_place()?,
        };
        // Perhaps the last handle of the level that it came from.
        claim.taken = Taken::Own(place);
        Ok(place)
    }

    /// Brings an object that counts as lent by this level from the books of another into its own.
    pub(super) fn admit(&self, place: NonNull<Place<T>>, from: &Self) -> Result<(), MemoryError> {
        // SAFETY: slots live for as long as the tree's table.
        let slot = unsafe { place.as_ref() };
        from.workshop.books.pass(&self.workshop.books, slot.charged())?;
        // Before the other level can end, which drops what it finds to be its own.
        slot.head.set_level(self.number);
        self.borrowed.fetch_add(1, Relaxed);
        from.passed.fetch_add(1, Relaxed);
        Ok(())
    }

    /// A vacant place. There is one for everybody who has room, or there can be.
    fn find_place(&self) -> Result<NonNull<Place<T>>, MemoryError> {
        loop {
            // SAFETY: the table lives as long as the tree.
            let place = unsafe { self.tree.lock().vacant.pop() };
            match place {
                Some(place) => return Ok(place),
                None => self.grow()?,
            }
        }
    }

    /// Puts a new object into a place that is claimed, and empty.
    fn make(&self, claim: &Claim<'_, T, A>, place: NonNull<Place<T>>) -> Result<(), MemoryError> {
        debug_assert!(matches!(claim.taken, Taken::Own(claimed) if claimed == place));
        // SAFETY: slots live for as long as the tree's table.
        let slot = unsafe { place.as_ref() };
        slot.head.set_level(self.number);
        // SAFETY: the slot is the claim's, and empty.
        unsafe { self.workshop.make(slot) }
    }

    /// Makes idle objects, as far as there is room; or borrows some that are idle above.
    pub(super) fn fill(&self, objects: usize) -> Result<(), MemoryError> {
        for _ in 0..objects {
            let taken = self.tree.lock().take_from_others(self.number, false)?;
            let Some(taken) = taken else { break };
            let mut claim = Claim::new(self, taken);
            let place = self.settle(&mut claim)?;
            // SAFETY: slots live for as long as the tree's table.
            if !unsafe { place.as_ref() }.is_full() {
                self.make(&claim, place)?;
            }
        }
        Ok(())
    }
}

impl<T: Poolable, A: Account> HierarchicalPool<T, A> {
    /// Gives a new level its first idle objects: takes what is idle above, and makes the others.
    ///
    /// # Errors
    /// [`MemoryError::PoolExhausted`] if there is no room for all of them; the refusal of an account;
    /// the error of the factory. Then none of them is there, and those above are where they were.
    pub(super) fn warm_up(&self, objects: usize) -> Result<(), MemoryError> {
        let mut first = WarmUp { pool: self, claims: Vec::new() };
        for _ in 0..objects {
            let taken = self.tree.lock().take_from_others(self.number, false)?;
            let Some(taken) = taken else { return Err(self.exhausted()) };
            first.claims.push(Claim::new(self, taken));
        }
        for claim in first.claims.iter_mut().filter(|claim| !claim.is_borrowed()) {
            let place = self.settle(claim)?;
            self.make(claim, place)?;
        }
        // Last, because it cannot be undone for certain.
        for claim in &first.claims {
            if let Taken::Borrowed(place, from) = &claim.taken {
                self.admit(*place, from)?;
            }
        }
        // All are in the level's books, and idle there when their claims are dropped.
        for mut claim in first.claims.drain(..).rev() {
            if let Taken::Borrowed(place, _) = &claim.taken {
                claim.taken = Taken::Own(*place);
            }
        }
        Ok(())
    }

    #[cold]
    fn exhausted(&self) -> MemoryError {
        let in_use = self.tree.lock().levels[self.number].lent;
        MemoryError::PoolExhausted { in_use, capacity: self.capacity }
    }
}

/// The first objects of a level. If this is dropped with any, they are not the level's: those that were
/// made are dropped, and those that were borrowed are given back.
struct WarmUp<'p, T: Poolable, A: Account> {
    pool: &'p HierarchicalPool<T, A>,
    claims: Vec<Claim<'p, T, A>>,
}

impl<T: Poolable, A: Account> Drop for WarmUp<'_, T, A> {
    fn drop(&mut self) {
        for claim in self.claims.drain(..).rev() {
            let (place, admitted_from) = match &claim.taken {
                Taken::Room => continue,
                Taken::Own(place) => (*place, None),
                Taken::Borrowed(place, from) => (*place, Some(Arc::clone(from))),
            };
            // SAFETY: slots live for as long as the tree's table.
            let slot = unsafe { place.as_ref() };
            if !slot.is_full() || slot.head.level() != self.pool.number {
                continue;
            }
            if admitted_from.is_none_or(|from| from.admit(place, self.pool).is_err()) {
                claim.forget();
                self.pool.drop_object(place, Cause::Reclaimed);
            }
        }
    }
}

/// What was taken for a level, and goes back when this is dropped.
struct Claim<'p, T: Poolable, A: Account> {
    pool: &'p HierarchicalPool<T, A>,
    taken: Taken<T, A>,
}

impl<'p, T: Poolable, A: Account> Claim<'p, T, A> {
    const fn new(pool: &'p HierarchicalPool<T, A>, taken: Taken<T, A>) -> Self {
        Self { pool, taken }
    }

    /// The place, whose object is in the level's books, is the caller's from now on.
    fn forget(mut self) {
        debug_assert!(!matches!(self.taken, Taken::Room));
        // (The handle of another level is dropped.)
        self.taken = Taken::Room;
        std::mem::forget(self);
    }

    const fn is_borrowed(&self) -> bool {
        matches!(self.taken, Taken::Borrowed(..))
    }
}

impl<T: Poolable, A: Account> Drop for Claim<'_, T, A> {
    fn drop(&mut self) {
        // What is left in its place needs no dropping.
        let taken = std::mem::replace(&mut self.taken, Taken::Room);
        self.pool.give_back(taken);
    }
}
