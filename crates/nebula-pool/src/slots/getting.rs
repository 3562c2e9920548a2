//! Taking an object out of a pool with slots: at once, or after standing in line.

use std::{future::Future, panic::Location, ptr::NonNull, time::Duration};

use nebula_memory_core::{
    Account, MemoryError, Waiter, fence,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{
    Place, SlotPool,
    claim::{Claim, Handed},
    mode::Mode,
};
use crate::{OwnedGuard, PoolGuard, Poolable, books::Cause, watch::Site, workshop};

/// Counted among those who wait, until dropped.
pub(crate) struct Waiting<'p>(&'p AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A place in the line of pool `P`, and who stands there.
type InLine<'p, T, A, M> = (Waiting<'p>, Waiter<'p, Handed<T, A, M>>);

impl<T: Poolable, A: Account, M: Mode> SlotPool<T, A, M> {
    /// Lends an object if one is idle or can be made, without waiting.
    ///
    /// O(1) if the object that this thread had last is there, else O(n) in the capacity.
    ///
    /// # Errors
    /// - [`MemoryError::PoolExhausted`] if all objects are lent, or promised to those who wait.
    /// - The error of the factory or the account's refusal, explained, if an object had to be made,
    ///   or places for more; its place is free again.
    /// - [`MemoryError::Closed`] if the pool is [closed](Self::close).
    ///
    /// # Panics
    /// If the factory does; its place is free again.
    #[inline(always)]
    #[track_caller]
    pub fn try_get(&self) -> Result<PoolGuard<'_, Self>, MemoryError> {
        let site = Location::caller();
        match self.own() {
            Some(slot) => self.lend_full(slot, site),
            None => self.get_other(site)?.ok_or_else(|| self.exhausted()),
        }
    }

    /// Lends an object, and blocks until there is one.
    ///
    /// A thread that holds guards of this pool while it waits for another can wait for itself.
    ///
    /// # Errors
    /// - The error of the factory or the account's refusal, explained, if an object had to be made,
    ///   or places for more; its place is free again.
    /// - [`MemoryError::Closed`] if the pool is [closed](Self::close), now or while this waits.
    ///
    /// # Panics
    /// If the factory does; its place is free again.
    #[inline]
    #[track_caller]
    pub fn get(&self) -> Result<PoolGuard<'_, Self>, MemoryError> {
        self.get_as(0, None, Location::caller())
    }

    /// Lends an object, and blocks until there is one, for `timeout` at most.
    ///
    /// ```
    /// use std::time::Duration;
    /// use nebula_pool::{PoolConfig, ThreadSafePool};
    ///
    /// let config = PoolConfig::builder().capacity(1).build()?;
    /// let pool = ThreadSafePool::new(&config, String::new)?;
    /// let name = pool.get_timeout(Duration::from_millis(1))?;
    /// let error = pool.get_timeout(Duration::from_millis(1)).unwrap_err();
    /// assert_eq!(error.code(), "timeout");
    /// # drop(name);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    ///
    /// # Errors
    /// [`MemoryError::Timeout`], and those of [`get`](Self::get).
    ///
    /// # Panics
    /// If the factory does; its place is free again.
    #[inline]
    #[track_caller]
    pub fn get_timeout(&self, timeout: Duration) -> Result<PoolGuard<'_, Self>, MemoryError> {
        self.get_as(0, Some(timeout), Location::caller())
    }

    /// Lends an object, and waits until there is one without blocking the thread.
    ///
    /// It needs no particular runtime, and has no time-out of its own; use your runtime's. Its place
    /// in line is taken when it is first polled. It can be dropped at any moment: what it may have
    /// been handed by then goes to the next in line. (One that is forgotten, as by `mem::forget`,
    /// keeps its place in line, and what it is handed, for ever.)
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    ///
    /// # Panics
    /// If the factory does; its place is free again.
    #[track_caller]
    pub fn get_async(&self) -> impl Future<Output = Result<PoolGuard<'_, Self>, MemoryError>> {
        self.get_as_async(0, Location::caller())
    }

    /// As [`try_get`](Self::try_get), with a guard that keeps the pool alive and borrows nothing.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use nebula_pool::{PoolConfig, ThreadSafePool};
    ///
    /// let pool = Arc::new(ThreadSafePool::new(&PoolConfig::default(), String::new)?);
    /// let mut name = pool.try_get_owned()?;
    /// drop(pool);
    /// std::thread::spawn(move || name.push_str("nebula")).join().unwrap();
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`try_get`](Self::try_get).
    ///
    /// # Panics
    /// If the factory does; its place is free again.
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
    /// If the factory does; its place is free again.
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
    /// If the factory does; its place is free again.
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
    /// If the factory does; its place is free again.
    #[track_caller]
    pub fn get_owned_async(
        self: Arc<Self>,
    ) -> impl Future<Output = Result<OwnedGuard<Self>, MemoryError>> {
        let site = Location::caller();
        async move {
            let guard = self.get_as_async(0, site).await?;
            Ok(OwnedGuard::new(Arc::clone(&self), guard))
        }
    }

    /// The thread's own slot, if it may be taken now: not if somebody waits.
    #[inline]
    fn own(&self) -> Option<&Place<T, M>> {
        if self.line.is_empty() { self.claim_own() } else { None }
    }

    /// Any object, if one may be taken or made now.
    #[cold]
    #[inline(never)]
    fn get_other(&self, site: Site) -> Result<Option<PoolGuard<'_, Self>>, MemoryError> {
        while self.line.is_empty() {
            if self.is_closed() {
                return Err(MemoryError::Closed { what: "the pool" });
            }
            // Asked before we look: others may add slots while we do.
            let complete = self.table.next_segment().is_none();
            if let Some(slot) = self.claim_any() {
                return self.lend_any(slot, site).map(Some);
            }
            if complete {
                break;
            }
            self.grow()?;
        }
        Ok(None)
    }

    #[inline]
    pub(crate) fn get_as(
        &self,
        priority: u8,
        timeout: Option<Duration>,
        site: Site,
    ) -> Result<PoolGuard<'_, Self>, MemoryError> {
        match self.own() {
            Some(slot) => self.lend_full(slot, site),
            None => self.get_waiting(priority, timeout, site),
        }
    }

    #[cold]
    #[inline(never)]
    fn get_waiting(
        &self,
        priority: u8,
        timeout: Option<Duration>,
        site: Site,
    ) -> Result<PoolGuard<'_, Self>, MemoryError> {
        if let Some(guard) = self.get_other(site)? {
            return Ok(guard);
        }
        let (waiting, waiter) = self.stand_in_line(priority);
        let watch = self.workshop.books.wait();
        let outcome = match timeout {
            None => waiter.wait(),
            Some(timeout) => waiter.wait_timeout(timeout),
        };
        drop((watch, waiting));
        self.lend_any(outcome?.into_slot(self), site)
    }

    pub(crate) async fn get_as_async(
        &self,
        priority: u8,
        site: Site,
    ) -> Result<PoolGuard<'_, Self>, MemoryError> {
        if let Some(slot) = self.own() {
            return self.lend_full(slot, site);
        }
        if let Some(guard) = self.get_other(site)? {
            return Ok(guard);
        }
        let (waiting, waiter) = self.stand_in_line(priority);
        let watch = self.workshop.books.wait();
        let outcome = waiter.await;
        drop((watch, waiting));
        self.lend_any(outcome?.into_slot(self), site)
    }

    /// Takes a place in line, and looks at the slots a last time, for all who stand there.
    ///
    /// # No lost wake-up
    /// A return frees its slot, then looks at the number of those who wait, without a fence of its
    /// own in between. So the first of those who wait, whoever makes that number other than zero,
    /// runs the fence for everybody after it has joined the line, and looks at the slots after that:
    /// a return that had not seen the number by then has freed its slot by then; a later one sees
    /// the number, for as long as it does not go back to zero. Whoever joins in the meantime either
    /// is in line when the first one looks for all who are, or comes after the fence.
    fn stand_in_line(&self, priority: u8) -> InLine<'_, T, A, M> {
        let first = self.waiting.fetch_add(1, Ordering::SeqCst) == 0;
        let waiting = Waiting(&self.waiting);
        let waiter = self.line.join(priority);
        if first && !fence::heavy() {
            // The system refuses what it has promised (some sandboxes come late). Nobody can wait for
            // such returns any more, and nobody does.
            self.line.close("waiting, because the system refuses its fence,");
        }
        self.serve();
        (waiting, waiter)
    }

    #[cold]
    fn exhausted(&self) -> MemoryError {
        let capacity = self.table.capacity();
        MemoryError::PoolExhausted { in_use: capacity, capacity }
    }

    /// Why the object in an owned slot should not be lent, if so.
    #[inline]
    fn fault(&self, slot: &Place<T, M>) -> Option<Cause> {
        if self.mode.is_stale(&slot.head.stamp, self.mode.now()) {
            return Some(Cause::Expired);
        }
        // SAFETY: the slot is ours, and has an object.
        unsafe { workshop::fault(slot) }
    }

    /// Makes a guard of an owned slot, which has an object: that, or a new one if it is no good.
    #[inline]
    fn lend_full<'p>(
        &'p self,
        slot: &'p Place<T, M>,
        site: Site,
    ) -> Result<PoolGuard<'p, Self>, MemoryError> {
        match self.fault(slot) {
            None => Ok(self.lend(slot, site)),
            Some(cause) => self.lend_new(slot, Some(cause), site),
        }
    }

    /// Makes a guard of an owned slot: with its object, if there is one that is good, or with a new
    /// one.
    fn lend_any<'p>(
        &'p self,
        slot: &'p Place<T, M>,
        site: Site,
    ) -> Result<PoolGuard<'p, Self>, MemoryError> {
        if slot.is_full() { self.lend_full(slot, site) } else { self.lend_new(slot, None, site) }
    }

    /// Makes a guard of an owned slot with a new object, in the place of one that is to be destroyed
    /// for `cause`, if there is one.
    #[cold]
    #[inline(never)]
    fn lend_new<'p>(
        &'p self,
        slot: &'p Place<T, M>,
        cause: Option<Cause>,
        site: Site,
    ) -> Result<PoolGuard<'p, Self>, MemoryError> {
        let claim = Claim::new(self, slot);
        if let Some(cause) = cause {
            // SAFETY: the slot is the claim's, and has an object.
            unsafe { self.workshop.discard(&claim, cause) };
        }
        self.make(&claim)?;
        self.workshop.books.lend_fresh();
        Ok(self.lend(claim.into_slot(), site))
    }

    /// Makes a guard of an owned slot with a good object.
    #[inline]
    fn lend<'p>(&'p self, slot: &'p Place<T, M>, site: Site) -> PoolGuard<'p, Self> {
        self.workshop.lend(slot, site);
        // SAFETY: it is one of ours, was claimed, and has an object.
        unsafe { PoolGuard::new(self, NonNull::from(slot)) }
    }
}
