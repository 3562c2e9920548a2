//! The pool for many threads and tasks.
//!
//! How a slot travels: a get takes it with one compare-and-swap and makes a guard of it; the guard's
//! drop resets the object and releases the slot with one store. Nobody takes a slot past somebody
//! who waits: then a released slot is handed to the first in line, as a claim that nobody can take
//! away. Every place that frees a slot asks for waiters after that, and every waiter looks at the
//! slots after it has joined the line, so that one of them sees the other.
//!
//! A reclaim is the exception. It runs inside a stranger's allocation, so that it takes no lock and
//! wakes nobody (a waker is the code of a runtime, which may be who is allocating). It need not,
//! either: it never makes a slot unavailable that was available, since who looks for a slot waits
//! out the moment in which an object is moved out.

use std::{fmt, time::Duration};

use nebula_memory_core::{
    Account, MemoryError, MemoryUsage, PressureLevel, Reclaim, StatisticsProvider, StatsSnapshot,
    Unlimited, WaitQueue, panics::quietly, sync::Arc,
};

use crate::{
    OwnedGuard, PoolConfig, PoolGuard, PoolStats, Poolable,
    books::{Books, Cause},
    claim::{Claim, Handed},
    factory::{self, BoxedFactory},
    slots::{Claimed, Slots, Tag},
};

/// A pool of objects for many threads and tasks, with a hard maximum, which callers can wait for.
///
/// Objects stay where they are, in a table of slots; a guard points to one. Each thread tries the
/// slot first that it had last, so that threads stay out of each other's way. Who finds everything
/// lent can go away ([`try_get`](Self::try_get)), block ([`get`](Self::get),
/// [`get_timeout`](Self::get_timeout)) or await ([`get_async`](Self::get_async)); all who wait stand
/// in one line, first come first served, and no newcomer overtakes them.
///
/// Everything that the pool holds is charged to its account `A`: the table and the factory when the
/// pool is made, and the [`heap_size`](Poolable::heap_size) of every object from when it is made
/// until it is destroyed or [detached](PoolGuard::detach).
///
/// ```
/// use nebula_pool::{PoolConfig, ThreadSafePool};
///
/// let config = PoolConfig::builder().capacity(2).build()?;
/// let pool = ThreadSafePool::new(&config, || Vec::<u8>::with_capacity(4096))?;
///
/// let mut buffer = pool.try_get()?;
/// buffer.extend_from_slice(b"hello");
/// drop(buffer); // Cleared, and kept with its capacity.
///
/// let (a, b) = (pool.try_get()?, pool.try_get()?);
/// assert!(a.is_empty() && a.capacity() >= 4096);
/// assert_eq!(pool.try_get().unwrap_err().code(), "pool_exhausted");
/// # drop(b);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
///
/// A pool of objects that must stay on their thread cannot be shared:
/// ```compile_fail,E0277
/// use std::rc::Rc;
/// use nebula_pool::{Poolable, PoolConfig, ThreadSafePool};
///
/// struct Local(Rc<()>);
/// impl Poolable for Local {
///     fn reset(&mut self) {}
///     fn heap_size(&self) -> usize { 0 }
/// }
/// let pool = ThreadSafePool::new(&PoolConfig::default(), || Local(Rc::new(()))).unwrap();
/// std::thread::scope(|s| {
///     s.spawn(|| drop(pool.try_get()));
/// });
/// ```
pub struct ThreadSafePool<T: Poolable, A: Account = Unlimited> {
    // In the order in which they are dropped: what is charged is freed before it is credited.
    pub(crate) slots: Slots<T>,
    factory: BoxedFactory<T>,
    queue: WaitQueue<Handed<T, A>>,
    /// `usize::MAX` if every object is kept.
    retained_size: usize,
    books: Books<A>,
}

impl<T: Poolable> ThreadSafePool<T> {
    /// A pool whose objects are made by `factory`.
    ///
    /// # Errors
    /// As [`try_new_in`](Self::try_new_in).
    pub fn new<F>(config: &PoolConfig, factory: F) -> Result<Self, MemoryError>
    where
        F: Fn() -> T + Send + Sync + 'static,
    {
        Self::new_in(config, Unlimited, factory)
    }

    /// A pool whose objects are made by `factory`, which can fail.
    ///
    /// # Errors
    /// As [`try_new_in`](Self::try_new_in).
    pub fn try_new<F>(config: &PoolConfig, factory: F) -> Result<Self, MemoryError>
    where
        F: Fn() -> Result<T, MemoryError> + Send + Sync + 'static,
    {
        Self::try_new_in(config, Unlimited, factory)
    }
}

impl<T: Poolable, A: Account> ThreadSafePool<T, A> {
    /// A pool whose objects are made by `factory` and charged to `account`.
    ///
    /// # Errors
    /// As [`try_new_in`](Self::try_new_in).
    pub fn new_in<F>(config: &PoolConfig, account: A, factory: F) -> Result<Self, MemoryError>
    where
        F: Fn() -> T + Send + Sync + 'static,
    {
        Self::try_new_in(config, account, move || Ok(factory()))
    }

    /// A pool whose objects are made by `factory`, which can fail, and charged to `account`.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] if `config` is not valid; the refusal of the account (or of
    /// the system) if there is no room for the table of slots, the factory, or the objects of the
    /// warm-up; the error of the factory. Then nothing stays charged.
    pub fn try_new_in<F>(config: &PoolConfig, account: A, factory: F) -> Result<Self, MemoryError>
    where
        F: Fn() -> Result<T, MemoryError> + Send + Sync + 'static,
    {
        config.validate()?;
        let own = Slots::<T>::bytes(config.capacity)?.saturating_add(size_of::<F>());
        let books = Books::open(account, own, config.track_peak)?;
        let pool = Self {
            slots: Slots::new(config.capacity)?,
            factory: factory::boxed(factory)?,
            queue: WaitQueue::new(),
            retained_size: config.retained_size.map_or(usize::MAX, Into::into),
            books,
        };
        for index in 0..config.warm_up {
            // Nobody else knows the pool yet, so that the slot is there.
            let Some(slot) = pool.slots.claim_empty(index) else { break };
            pool.make(&mut Claim::new(&pool, slot))?;
        }
        Ok(pool)
    }

    /// Lends an object if one is idle or can be made, without waiting.
    ///
    /// O(1) if the object that this thread had last is there, else O(n) in the capacity.
    ///
    /// # Errors
    /// - [`MemoryError::PoolExhausted`] if all objects are lent, or promised to those who wait.
    /// - The error of the factory or the account's refusal, explained, if an object had to be made;
    ///   its place is free again.
    ///
    /// # Panics
    /// If the factory does; its place is free again.
    #[inline]
    pub fn try_get(&self) -> Result<PoolGuard<'_, T, A>, MemoryError> {
        match self.claim_now() {
            Some(slot) => self.lend(slot),
            None => Err(self.exhausted()),
        }
    }

    /// Lends an object, and blocks until there is one.
    ///
    /// A thread that holds guards of this pool while it waits for another can wait for itself.
    ///
    /// # Errors
    /// The error of the factory or the account's refusal, explained, if an object had to be made;
    /// its place is free again.
    ///
    /// # Panics
    /// If the factory does; its place is free again.
    pub fn get(&self) -> Result<PoolGuard<'_, T, A>, MemoryError> {
        match self.claim_now() {
            Some(slot) => self.lend(slot),
            None => self.get_in_line(None),
        }
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
    pub fn get_timeout(&self, timeout: Duration) -> Result<PoolGuard<'_, T, A>, MemoryError> {
        match self.claim_now() {
            Some(slot) => self.lend(slot),
            None => self.get_in_line(Some(timeout)),
        }
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
    pub async fn get_async(&self) -> Result<PoolGuard<'_, T, A>, MemoryError> {
        if let Some(slot) = self.claim_now() {
            return self.lend(slot);
        }
        let mut waiter = self.queue.join(0);
        self.serve();
        let handed = match waiter.try_take() {
            Some(outcome) => outcome?,
            None => {
                self.books.wait();
                waiter.await?
            }
        };
        self.lend(handed.into_slot(self))
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
    pub fn try_get_owned(self: &Arc<Self>) -> Result<OwnedGuard<T, A>, MemoryError> {
        Ok(OwnedGuard::new(self, self.try_get()?))
    }

    /// As [`get`](Self::get), with a guard that keeps the pool alive and borrows nothing.
    ///
    /// # Errors
    /// Those of [`get`](Self::get).
    ///
    /// # Panics
    /// If the factory does; its place is free again.
    pub fn get_owned(self: &Arc<Self>) -> Result<OwnedGuard<T, A>, MemoryError> {
        Ok(OwnedGuard::new(self, self.get()?))
    }

    /// As [`get_async`](Self::get_async), with a guard that keeps the pool alive and borrows
    /// nothing; neither does the future.
    ///
    /// # Errors
    /// Those of [`get_async`](Self::get_async).
    ///
    /// # Panics
    /// If the factory does; its place is free again.
    pub async fn get_owned_async(self: Arc<Self>) -> Result<OwnedGuard<T, A>, MemoryError> {
        Ok(OwnedGuard::new(&self, self.get_async().await?))
    }

    /// Drops all idle objects and returns the bytes credited for them. The table of slots stays.
    ///
    /// O(n) in the capacity.
    pub fn trim(&self) -> usize {
        let mut credited = 0_usize;
        self.slots.drain_all_idle(|object, bytes| {
            credited = credited.saturating_add(bytes);
            self.destroy(object, bytes, Cause::Reclaimed);
        });
        credited
    }

    /// The most objects that can be lent at once.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// The account that is charged.
    pub fn account(&self) -> &A {
        self.books.account()
    }

    /// The figures as they are now. O(n) in the capacity.
    pub fn stats(&self) -> PoolStats {
        PoolStats {
            capacity: self.slots.len(),
            lent: self.slots.count(Tag::Busy),
            idle: self.slots.count(Tag::Idle),
            ..self.books.stats(self.slots.lends())
        }
    }

    /// A slot that may be taken now: not if somebody waits.
    #[inline]
    fn claim_now(&self) -> Option<Claimed<'_, T>> {
        if !self.queue.is_empty() {
            return None;
        }
        self.slots.claim_own().or_else(|| self.slots.claim_any())
    }

    #[cold]
    fn exhausted(&self) -> MemoryError {
        let capacity = self.slots.len();
        MemoryError::PoolExhausted { in_use: capacity, capacity }
    }

    #[cold]
    fn get_in_line(&self, timeout: Option<Duration>) -> Result<PoolGuard<'_, T, A>, MemoryError> {
        let mut waiter = self.queue.join(0);
        // The last look, for all who stand in line.
        self.serve();
        let handed = match (waiter.try_take(), timeout) {
            (Some(outcome), _) => outcome?,
            (None, timeout) => {
                self.books.wait();
                match timeout {
                    None => waiter.wait()?,
                    Some(timeout) => waiter.wait_timeout(timeout)?,
                }
            }
        };
        self.lend(handed.into_slot(self))
    }

    /// Makes a guard of a slot: with its object, if that is still good, or with a new one.
    #[inline]
    fn lend<'p>(&'p self, slot: Claimed<'p, T>) -> Result<PoolGuard<'p, T, A>, MemoryError> {
        let mut claim = Claim::new(self, slot);
        let cause = match claim.object().map(|object| quietly(|| object.is_valid())) {
            Some(Some(true)) => None,
            Some(Some(false)) => Some(Some(Cause::Invalid)),
            Some(None) => Some(Some(Cause::Quarantined)),
            None => Some(None),
        };
        if let Some(cause) = cause {
            self.replace(&mut claim, cause)?;
        }
        claim.count_lend();
        self.books.lend();
        Ok(PoolGuard::new(self, claim.into_slot()))
    }

    /// Puts a new object into a claimed slot, in the place of one that is to be destroyed for
    /// `cause`, if there is one.
    #[cold]
    fn replace(
        &self,
        claim: &mut Claim<'_, T, A>,
        cause: Option<Cause>,
    ) -> Result<(), MemoryError> {
        if let Some(cause) = cause {
            self.discard(claim, cause);
        }
        self.make(claim)?;
        self.books.lend_fresh();
        Ok(())
    }

    /// Puts a new object into a claimed slot that is empty.
    fn make(&self, slot: &mut Claimed<'_, T>) -> Result<(), MemoryError> {
        let object = self.factory.create()?;
        let size = object.heap_size();
        self.books.create(size)?;
        slot.fill(object, size);
        Ok(())
    }

    /// Destroys the object in a claimed slot.
    #[cold]
    fn discard(&self, slot: &mut Claimed<'_, T>, cause: Cause) {
        if let Some((object, bytes)) = slot.take() {
            self.destroy(object, bytes, cause);
        }
    }

    /// Drops an object that is out of its slot, and credits it after that.
    fn destroy(&self, object: T, bytes: usize, cause: Cause) {
        quietly(move || drop(object));
        self.books.destroy(bytes, cause);
    }

    /// Takes an object back from a guard.
    #[inline]
    pub(crate) fn take_back(&self, slot: Claimed<'_, T>) {
        let mut claim = Claim::new(self, slot);
        self.books.come_back();
        let charged = claim.charged();
        let size = claim.object_mut().map(|object| {
            quietly(|| {
                object.reset();
                object.heap_size()
            })
        });
        match size {
            Some(Some(size)) if size == charged && size <= self.retained_size => {}
            Some(Some(size)) => self.settle(&mut claim, size),
            Some(None) => self.discard(&mut claim, Cause::Quarantined),
            None => {}
        }
    }

    /// Keeps an object that came back with another size, or destroys it.
    #[cold]
    fn settle(&self, slot: &mut Claimed<'_, T>, size: usize) {
        if size > self.retained_size {
            self.discard(slot, Cause::Oversized);
        } else if self.books.resize(slot.charged(), size) {
            slot.set_charged(size);
        } else {
            self.discard(slot, Cause::Unaffordable);
        }
    }

    /// Takes an object out for good.
    pub(crate) fn detach(&self, slot: Claimed<'_, T>) -> Option<T> {
        let mut claim = Claim::new(self, slot);
        self.books.come_back();
        let (object, bytes) = claim.take()?;
        self.books.detach(bytes);
        Some(object)
    }

    /// Gives a slot to the first in line, or else frees it.
    #[inline]
    pub(crate) fn release(&self, slot: Claimed<'_, T>) {
        let slot = if self.queue.is_empty() { Some(slot) } else { self.hand(slot) };
        if let Some(slot) = slot {
            slot.put_back();
            self.serve();
        }
    }

    /// Hands a slot to the first in line. It comes back if nobody waits.
    #[cold]
    fn hand<'p>(&'p self, slot: Claimed<'p, T>) -> Option<Claimed<'p, T>> {
        match self.queue.hand(Handed::new(self, slot)) {
            Ok(()) => None,
            Err(handed) => Some(handed.into_slot(self)),
        }
    }

    /// Hands free slots to those who wait. To be called after a slot was freed, and after the line
    /// was joined.
    #[inline]
    pub(crate) fn serve(&self) {
        while self.queue.has_waiters() {
            let Some(slot) = self.slots.claim_any() else { return };
            if let Some(slot) = self.hand(slot) {
                // They have gone. Somebody may have come since, and not have seen this slot.
                slot.put_back();
            }
        }
    }
}

impl<T: Poolable, A: Account> Drop for ThreadSafePool<T, A> {
    /// Drops all objects, also those whose guards were leaked: nobody can reach them any more.
    fn drop(&mut self) {
        let books = &self.books;
        self.slots.drain(|object, bytes| {
            quietly(move || drop(object));
            books.uncharge(bytes);
        });
    }
}

/// Idle objects that something is charged for are dropped, at every urgency: whoever asks has no use
/// for the others. Their slots can be used at once; the objects that are lent are not touched.
impl<T: Poolable + Send, A: Account + Send + Sync> Reclaim for ThreadSafePool<T, A> {
    fn reclaimable(&self) -> usize {
        self.slots.idle_bytes()
    }

    fn reclaim(&self, wanted: usize, _urgency: PressureLevel) -> usize {
        self.slots.drain_idle(wanted, |object, bytes| {
            self.destroy(object, bytes, Cause::Reclaimed);
        })
    }
}

/// In bytes; the number of objects is in [`stats`](ThreadSafePool::stats).
impl<T: Poolable, A: Account> MemoryUsage for ThreadSafePool<T, A> {
    /// Bytes charged to the account, for the objects and for the pool itself.
    fn used(&self) -> usize {
        usize::try_from(self.books.charges().current_usage()).unwrap_or(usize::MAX)
    }

    /// `None`: a pool limits objects, not bytes; that is for its account to do.
    fn capacity(&self) -> Option<usize> {
        None
    }
}

/// The pool as an allocator: each object is an allocation, and so is the pool itself.
impl<T: Poolable, A: Account> StatisticsProvider for ThreadSafePool<T, A> {
    fn statistics(&self) -> Option<StatsSnapshot> {
        Some(self.books.charges())
    }
}

impl<T: Poolable, A: Account> fmt::Debug for ThreadSafePool<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadSafePool")
            .field("stats", &self.stats())
            .field("waiting", &self.queue.len())
            .finish_non_exhaustive()
    }
}
