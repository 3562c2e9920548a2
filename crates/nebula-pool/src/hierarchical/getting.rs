//! Taking an object out of a tree of pools: at once, or after standing in line.

use std::{
    collections::VecDeque,
    future::Future,
    panic::Location,
    pin::Pin,
    ptr::NonNull,
    sync::atomic::Ordering::Relaxed,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use nebula_memory_core::{Account, MemoryError, WaitSlot, panics::quietly, sync::Arc};

use super::{
    HierarchicalPool, Place, Taken,
    tree::{Attempt, InLine, State},
};
use crate::{OwnedGuard, PoolGuard, Poolable, books::Cause, watch::Site, workshop};

impl<T: Poolable, A: Account> HierarchicalPool<T, A> {
    /// Lends an object if one is idle here or can be borrowed or made, without waiting.
    ///
    /// # Errors
    /// - [`MemoryError::PoolExhausted`] if this level, or one above it, has its limit's worth of
    ///   objects lent; or if others wait for objects of this tree.
    /// - The error of the factory or the account's refusal, explained, if an object had to be made
    ///   or borrowed, or places for more; its place is free again.
    ///
    /// # Panics
    /// If the factory does; its place is free again.
    #[track_caller]
    pub fn try_get(&self) -> Result<PoolGuard<'_, Self>, MemoryError> {
        let site = Location::caller();
        match self.get_now(site)? {
            Some(guard) => Ok(guard),
            None => {
                let in_use = self.tree.state.lock().levels[self.number].lent;
                Err(MemoryError::PoolExhausted { in_use, capacity: self.capacity })
            }
        }
    }

    /// Lends an object, and blocks until there is one.
    ///
    /// # Errors
    /// The error of the factory or the account's refusal, explained, if an object had to be made
    /// or borrowed, or places for more; its place is free again.
    ///
    /// # Panics
    /// If the factory does; its place is free again.
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
    /// If the factory does; its place is free again.
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
    /// If the factory does; its place is free again.
    #[track_caller]
    pub fn get_async(&self) -> impl Future<Output = Result<PoolGuard<'_, Self>, MemoryError>> {
        let site = Location::caller();
        async move {
            if let Some(guard) = self.get_now(site)? {
                return Ok(guard);
            }
            let waiter = self.join();
            self.serve();
            let began = self.workshop.books.wait();
            let taken = waiter.await;
            drop(began);
            self.lend(taken?, site)
        }
    }

    /// As [`try_get`](Self::try_get), with a guard that keeps the pool alive and borrows nothing.
    ///
    /// # Errors
    /// Those of [`try_get`](Self::try_get).
    ///
    /// # Panics
    /// If the factory does; its place is free again.
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
    /// If the factory does; its place is free again.
    #[track_caller]
    pub fn get_owned(self: &Arc<Self>) -> Result<OwnedGuard<Self>, MemoryError> {
        let guard = self.get()?;
        Ok(OwnedGuard::new(Arc::clone(self), guard))
    }

    fn get_now(&self, site: Site) -> Result<Option<PoolGuard<'_, Self>>, MemoryError> {
        // Not past those who wait.
        if self.waiting() > 0 {
            return Ok(None);
        }
        match self.take()? {
            Some(taken) => self.lend(taken, site).map(Some),
            None => Ok(None),
        }
    }

    fn get_blocking(
        &self,
        timeout: Option<Duration>,
        site: Site,
    ) -> Result<PoolGuard<'_, Self>, MemoryError> {
        if let Some(guard) = self.get_now(site)? {
            return Ok(guard);
        }
        let waiter = self.join();
        self.serve();
        let began = self.workshop.books.wait();
        let taken = waiter.wait(timeout);
        drop(began);
        self.lend(taken?, site)
    }

    /// Takes an object, or the place for one, if there is any.
    fn take(&self) -> Result<Option<Taken<T, A>>, MemoryError> {
        self.take_by(|state| state.take(self.number))
    }

    /// As [`take`](Self::take), in that way.
    pub(super) fn take_by(
        &self,
        take: impl Fn(&mut State<T, A>) -> Attempt<T, A>,
    ) -> Result<Option<Taken<T, A>>, MemoryError> {
        loop {
            let attempt = take(&mut self.tree.state.lock());
            match attempt {
                Attempt::Taken(taken) => return Ok(Some(taken)),
                Attempt::Grow => self.grow()?,
                Attempt::Exhausted => return Ok(None),
            }
        }
    }

    /// Makes what was taken this level's: brings it into its books, and sees to it that there is a
    /// good object; whether that is a new one.
    pub(super) fn accept(
        &self,
        taken: Taken<T, A>,
    ) -> Result<(Claim<'_, T, A>, bool), MemoryError> {
        let Taken { place, from } = taken;
        // SAFETY: slots live for as long as the tree's table.
        let slot = unsafe { place.as_ref() };
        match from {
            Some(from) => self.move_in(&from, place)?,
            None => slot.head.set_level(self.number),
        }
        let claim = Claim { pool: self, place };
        if slot.is_full() {
            // SAFETY: the slot is the claim's, and has an object.
            if let Some(cause) = unsafe { workshop::fault(slot) } {
                // SAFETY: as above.
                unsafe { self.workshop.discard(slot, cause) };
            }
        }
        let fresh = !slot.is_full();
        if fresh {
            // SAFETY: the slot is the claim's, and empty.
            unsafe { self.workshop.make(slot)? };
        }
        Ok((claim, fresh))
    }

    /// Brings an object that was taken from another level into this one's books.
    fn move_in(&self, from: &Self, place: NonNull<Place<T>>) -> Result<(), MemoryError> {
        // SAFETY: slots live for as long as the tree's table.
        let slot = unsafe { place.as_ref() };
        let bytes = slot.charged();
        from.workshop.books.release(bytes);
        let refused = match self.workshop.books.admit(bytes) {
            Ok(()) => {
                // Before the other level can end, which drops what it finds to be its own.
                slot.head.set_level(self.number);
                self.borrowed.fetch_add(1, Relaxed);
                from.passed.fetch_add(1, Relaxed);
                return Ok(());
            }
            Err(error) => error,
        };
        let back = from.workshop.books.admit(bytes).is_ok();
        if !back {
            // SAFETY: the slot is ours, and has an object, which is in nobody's books.
            let (object, _) = unsafe { slot.take() };
            quietly(move || object.destroy());
            from.workshop.books.destroy_uncharged(Cause::Unaffordable);
        }
        {
            let mut state = self.tree.state.lock();
            state.levels[self.number].lent -= 1;
            state.move_held(self.number, from.number);
            if back {
                // SAFETY: the place is this tree's, and ours until now.
                unsafe { state.put_idle(from.number, place) };
            } else {
                // SAFETY: the place is this tree's, and ours until now.
                unsafe { state.vacate_idle(from.number, place) };
            }
        }
        self.serve();
        Err(refused)
    }

    fn lend(&self, taken: Taken<T, A>, site: Site) -> Result<PoolGuard<'_, Self>, MemoryError> {
        let (claim, fresh) = self.accept(taken)?;
        if fresh {
            self.workshop.books.lend_fresh();
        }
        let place = claim.into_place();
        // SAFETY: slots live for as long as the tree's table.
        let slot = unsafe { place.as_ref() };
        self.gets.fetch_add(1, Relaxed);
        self.workshop.lend(slot, site);
        // SAFETY: it is one of the tree's, is on no list, and has an object.
        Ok(unsafe { PoolGuard::new(self, place) })
    }

    /// Gives what was taken for this level back to where it was.
    fn untake(&self, taken: Taken<T, A>) {
        {
            let mut state = self.tree.state.lock();
            // SAFETY: slots live for as long as the tree's table.
            let full = unsafe { taken.place.as_ref() }.is_full();
            match &taken.from {
                Some(from) => {
                    state.levels[self.number].lent -= 1;
                    state.move_held(self.number, from.number);
                    // SAFETY: the place is this tree's, and ours until now.
                    unsafe { state.put_idle(from.number, taken.place) };
                }
                // SAFETY: the place is this tree's, and ours until now.
                None if full => unsafe { state.put(self.number, taken.place) },
                // SAFETY: the place is this tree's, and ours until now.
                None => unsafe { state.vacate(self.number, taken.place) },
            }
        }
        // Perhaps the last handle of that level; it may have been waiting for this.
        drop(taken);
        self.serve();
    }

    fn join(&self) -> Waiter<'_, T, A> {
        let slot = Arc::new(WaitSlot::new());
        // Room for a longer line; what it replaces is freed at the end, without the lock.
        let mut room = VecDeque::new();
        let ticket = loop {
            let mut state = self.tree.state.lock();
            let len = state.line.len();
            if len == state.line.capacity() {
                if room.capacity() <= len {
                    drop(state);
                    room = VecDeque::with_capacity((2 * len).max(4));
                    continue;
                }
                room.append(&mut state.line);
                std::mem::swap(&mut room, &mut state.line);
            }
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            let slot = Arc::clone(&slot);
            state.line.push_back(InLine { ticket, level: self.number, slot });
            self.tree.waiting.store(len + 1, Relaxed);
            break ticket;
        };
        Waiter { pool: self, slot, ticket, done: false }
    }

    /// Hands what there is to those who wait: each time to the first who can be served. To be called
    /// after anything came free, and after the line was joined.
    pub(super) fn serve(&self) {
        while self.waiting() > 0 {
            let (served, grow) = {
                let mut state = self.tree.state.lock();
                let mut served = None;
                let mut grow = false;
                for at in 0..state.line.len() {
                    let level = state.line[at].level;
                    match state.take(level) {
                        Attempt::Taken(taken) => {
                            if let Some(first) = state.line.remove(at) {
                                self.tree.waiting.store(state.line.len(), Relaxed);
                                // Still under the lock: who leaves the line finds itself either in
                                // it or served.
                                first.slot.put(Ok(taken));
                                served = Some(first.slot);
                            }
                            break;
                        }
                        Attempt::Grow => {
                            grow = true;
                            break;
                        }
                        Attempt::Exhausted => {}
                    }
                }
                (served, grow)
            };
            if let Some(slot) = served {
                slot.wake();
            } else if !grow || self.grow().is_err() {
                return;
            }
        }
    }
}

/// An object of a level, or a place for one, that goes back when it is dropped.
pub(super) struct Claim<'p, T: Poolable, A: Account> {
    pool: &'p HierarchicalPool<T, A>,
    place: NonNull<Place<T>>,
}

impl<T: Poolable, A: Account> Claim<'_, T, A> {
    /// The place, which is the caller's from now on.
    fn into_place(self) -> NonNull<Place<T>> {
        std::mem::ManuallyDrop::new(self).place
    }
}

impl<T: Poolable, A: Account> Drop for Claim<'_, T, A> {
    fn drop(&mut self) {
        self.pool.untake(Taken { place: self.place, from: None });
    }
}

/// A place in the line of a tree; dropping it gives the place up.
struct Waiter<'p, T: Poolable, A: Account> {
    pool: &'p HierarchicalPool<T, A>,
    slot: Arc<WaitSlot<Taken<T, A>>>,
    ticket: u64,
    /// The outcome has been taken, or the line was left.
    done: bool,
}

impl<T: Poolable, A: Account> Waiter<'_, T, A> {
    fn wait(mut self, timeout: Option<Duration>) -> Result<Taken<T, A>, MemoryError> {
        // A time-out too long for the clock is no time-out.
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        if let Some(outcome) = self.slot.wait(deadline) {
            self.done = true;
            return outcome;
        }
        let over = Err(MemoryError::Timeout { waited: timeout.unwrap_or(Duration::MAX) });
        self.done = true;
        // Served at the last moment, if it is not there any more.
        if self.leave() { over } else { self.slot.try_take().unwrap_or(over) }
    }

    /// Leaves the line. `false` if it was served before.
    fn leave(&self) -> bool {
        let left = {
            let tree = &self.pool.tree;
            let mut state = tree.state.lock();
            let at = state.line.iter().position(|place| place.ticket == self.ticket);
            let left = at.and_then(|at| state.line.remove(at));
            tree.waiting.store(state.line.len(), Relaxed);
            left
        };
        left.is_some()
    }
}

impl<T: Poolable, A: Account> Future for Waiter<'_, T, A> {
    type Output = Result<Taken<T, A>, MemoryError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = self.slot.poll_take(cx);
        self.done |= outcome.is_ready();
        outcome
    }
}

impl<T: Poolable, A: Account> Drop for Waiter<'_, T, A> {
    fn drop(&mut self) {
        if self.done || self.leave() {
            return;
        }
        if let Some(Ok(taken)) = self.slot.try_take() {
            self.pool.untake(taken);
        }
    }
}
