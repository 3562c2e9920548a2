//! The pool for one thread.
//!
//! Every slot is in one of three places: on the list of idle objects, on the list of vacant places,
//! or with a guard. Both lists run through the slots. Whenever the code of others runs, the slot in
//! question is on neither, so that it may use the pool as it likes.

use std::{cell::Cell, fmt, panic::Location, ptr::NonNull, rc::Rc};

use nebula_memory_core::{Account, MemoryError, TrimRequest, Unlimited, sync::Arc};

use crate::{
    Holder, Maintained, Order, OwnedGuard, PoolConfig, PoolGuard, PoolStats, Poolable,
    alike::{constructors, told_in_bytes},
    books::{Books, Cause},
    config::Abilities,
    factory::{self, LocalFactory},
    home::Home,
    keeping::{Keeping, Quota},
    list::{Linked, List},
    slot::Slot,
    table::Table,
    workshop::{self, Renewed, Workshop},
};

/// What this pool keeps in a slot.
pub struct Link<T>(Cell<Option<Place<T>>>);

impl<T> fmt::Debug for Link<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").finish_non_exhaustive()
    }
}

impl<T> Linked<T> for Link<T> {
    #[inline]
    fn next(&self) -> &Cell<Option<Place<T>>> {
        &self.0
    }
}

/// A slot of the pool's table.
type Place<T> = NonNull<Slot<T, Link<T>>>;

/// A pool of objects for one thread: the fastest.
///
/// Objects stay where they are, in a table of slots; a guard points to one. It lends the object that
/// came back last (or the one that has been idle for longest, see [`Order`]), and never more than
/// its capacity. There is no waiting: who finds all of them lent gets an error.
///
/// Everything that the pool holds is charged to its account `A`: the table and the factory, and the
/// [`heap_size`](Poolable::heap_size) of every object from when it is made until it is destroyed or
/// [detached](PoolGuard::detach). What memory pressure asks of it is left in its
/// [`trim_request`](Self::trim_request), and given at the next return.
///
/// ```
/// use nebula_pool::{ObjectPool, PoolConfig};
///
/// let config = PoolConfig::builder().capacity(2).build()?;
/// let pool = ObjectPool::new(&config, || Vec::<u8>::with_capacity(4096))?;
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
/// It stays on its thread, and so do its guards:
/// ```compile_fail,E0277
/// use nebula_pool::{ObjectPool, PoolConfig};
///
/// let pool = ObjectPool::new(&PoolConfig::default(), String::new).unwrap();
/// std::thread::scope(|s| {
///     s.spawn(|| drop(pool.try_get()));
/// });
/// ```
/// ```compile_fail,E0277
/// use nebula_pool::{ObjectPool, PoolConfig};
///
/// let pool = ObjectPool::new(&PoolConfig::default(), String::new).unwrap();
/// let guard = pool.try_get().unwrap();
/// std::thread::scope(|s| {
///     s.spawn(move || drop(guard));
/// });
/// ```
pub struct ObjectPool<T: Poolable, A: Account = Unlimited> {
    /// Slots with objects that can be lent.
    idle: List<T, Link<T>>,
    /// Slots without.
    vacant: List<T, Link<T>>,
    /// Whether objects come back to the end of the list.
    fifo: bool,
    closed: Cell<bool>,
    request: Arc<TrimRequest>,
    keeping: Keeping,
    // In the order in which they are dropped: what is charged is freed before it is credited.
    table: Table<Slot<T, Link<T>>>,
    workshop: Workshop<A, LocalFactory<T>>,
}

constructors!(ObjectPool, ['static] -> Self);

impl<T: Poolable, A: Account> ObjectPool<T, A> {
    /// A pool whose objects are made by `factory`, which can fail, and charged to `account`.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] if `config` is not valid for this pool; the refusal of the
    /// account (or of the system) if there is no room for the table of slots, the factory, or the
    /// objects of the warm-up; the error of the factory. Then nothing stays charged.
    pub fn try_new_in<F>(config: &PoolConfig, account: A, factory: F) -> Result<Self, MemoryError>
    where
        F: Fn() -> Result<T, MemoryError> + 'static,
    {
        config.validate_for(Abilities { fifo: true, ttl: false })?;
        let own = Table::<Slot<T, Link<T>>>::bytes(config.capacity, config.growth)?;
        // An `Arc` has two counters before what it shares.
        let request = size_of::<TrimRequest>() + 2 * size_of::<usize>();
        let own = own.saturating_add(size_of::<F>()).saturating_add(request);
        let books = Books::open(account, own)?;
        let table = Table::new(config.capacity, config.growth)?;
        let factory: LocalFactory<T> = factory::boxed(factory)?;
        let pool = Self {
            idle: List::new(),
            vacant: List::new(),
            fifo: config.order == Order::Fifo,
            closed: Cell::new(false),
            request: Arc::new(TrimRequest::new()),
            keeping: Keeping::new(config),
            table,
            workshop: Workshop::new(config, books, factory),
        };
        pool.grow()?;
        pool.fill(config.warm_up)?;
        Ok(pool)
    }

    /// Lends an object if one is idle or can be made. O(1).
    ///
    /// # Errors
    /// - [`MemoryError::PoolExhausted`] if all objects are lent.
    /// - The error of the factory or the account's refusal, explained, if an object had to be made,
    ///   or places for more; the place is free again.
    /// - [`MemoryError::Closed`] if the pool is [closed](Self::close).
    ///
    /// # Panics
    /// If the factory does; the place is free again.
    #[inline]
    #[track_caller]
    pub fn try_get(&self) -> Result<PoolGuard<'_, Self>, MemoryError> {
        let site = Location::caller();
        // SAFETY: the table is this pool's.
        let slot = match unsafe { self.idle.pop() } {
            Some(place) => {
                // SAFETY: as above.
                let slot = unsafe { place.as_ref() };
                // SAFETY: it was on the list of idle objects, and is ours now.
                match unsafe { workshop::fault(slot) } {
                    None => place,
                    Some(cause) => self.replace(Some((place, cause)))?,
                }
            }
            None => self.replace(None)?,
        };
        // SAFETY: the table is this pool's.
        self.workshop.lend(unsafe { slot.as_ref() }, site);
        // SAFETY: it is one of ours, has an object and is on no list.
        Ok(unsafe { PoolGuard::new(self, slot) })
    }

    /// As [`try_get`](Self::try_get), with a guard that keeps the pool alive and borrows nothing.
    ///
    /// ```
    /// use std::rc::Rc;
    /// use nebula_pool::{ObjectPool, OwnedGuard, PoolConfig};
    ///
    /// let pool = Rc::new(ObjectPool::new(&PoolConfig::default(), String::new)?);
    /// let mut name: OwnedGuard<ObjectPool<String>> = pool.try_get_owned()?;
    /// drop(pool);
    /// name.push_str("nebula");
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`try_get`](Self::try_get).
    ///
    /// # Panics
    /// If the factory does; the place is free again.
    #[track_caller]
    pub fn try_get_owned(self: &Rc<Self>) -> Result<OwnedGuard<Self>, MemoryError> {
        let guard = self.try_get()?;
        Ok(OwnedGuard::new(Rc::clone(self), guard))
    }

    /// Drops all idle objects and returns the bytes credited for them. The table of slots stays.
    ///
    /// O(n) in the number of idle objects.
    pub fn trim(&self) -> usize {
        self.discard(Quota::ALL, Cause::Reclaimed, |_| true)
    }

    /// Ends the lending: gets are refused from now on, idle objects are dropped, and those that are
    /// lent are dropped when they come back. They can be used until then, and detached.
    ///
    /// ```
    /// use nebula_pool::{ObjectPool, PoolConfig};
    ///
    /// let pool = ObjectPool::new(&PoolConfig::default(), String::new)?;
    /// let name = pool.try_get()?;
    /// pool.close();
    /// assert_eq!(pool.try_get().unwrap_err().code(), "closed");
    /// drop(name);
    /// assert_eq!((pool.stats().idle, pool.stats().destroyed), (0, 1));
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn close(&self) {
        self.closed.set(true);
        self.discard(Quota::ALL, Cause::Surplus, |_| true);
    }

    /// Whether the pool has been [closed](Self::close).
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Drops the idle objects that are more than the configuration allows or needs, and makes up for
    /// those that are missing from [`min_idle`](PoolConfig::min_idle). To be called from time to
    /// time. O(n) in the capacity.
    ///
    /// ```
    /// use nebula_pool::{ObjectPool, PoolConfig, Shrink};
    ///
    /// let config = PoolConfig::builder().min_idle(1).shrink(Shrink::Unused).build()?;
    /// let pool = ObjectPool::new(&config, String::new)?;
    /// assert_eq!(pool.maintain()?.made, 1);
    /// let crowd = [pool.try_get()?, pool.try_get()?, pool.try_get()?];
    /// drop(crowd);
    /// assert_eq!(pool.maintain()?.dropped, 0); // they were all used
    /// assert_eq!(pool.maintain()?.dropped, 2); // since then, they were not
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    ///
    /// # Errors
    /// The error of the factory or the account's refusal, explained, if an object had to be made.
    ///
    /// # Panics
    /// If the factory does.
    pub fn maintain(&self) -> Result<Maintained, MemoryError> {
        self.poll();
        let before = self.workshop.books.stats(0);
        // SAFETY: the table is ours, and nothing here changes lists.
        let idle = unsafe { self.idle.iter() }.count();
        // SAFETY: as above.
        let unused = unsafe { self.idle.iter() }.filter(|slot| slot.is_unused()).count();
        let (stale, rest) = self.keeping.surplus(idle, unused);
        self.discard(Quota::objects(stale), Cause::Surplus, Slot::is_unused);
        self.discard(Quota::objects(rest), Cause::Surplus, |_| true);
        self.table.iter().for_each(Slot::look);
        // SAFETY: as above.
        let idle = unsafe { self.idle.iter() }.count();
        self.fill(self.keeping.min_idle.saturating_sub(idle))?;
        Ok(Maintained::between(&before, &self.workshop.books.stats(0)))
    }

    /// Where others, on any thread, can ask this pool to give memory back. The pool looks at it when
    /// an object comes back, and in [`maintain`](Self::maintain), and then drops idle objects, the
    /// least valuable first; unless the request is critical, it keeps
    /// [`min_idle`](PoolConfig::min_idle) of them.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use nebula_memory_core::{PressureLevel, ReclaimRegistry};
    /// use nebula_pool::{ObjectPool, PoolConfig};
    ///
    /// let config = PoolConfig::builder().warm_up(4).build()?;
    /// let pool = ObjectPool::new(&config, || Vec::<u8>::with_capacity(1000))?;
    /// let request = pool.trim_request();
    /// let registry = ReclaimRegistry::new();
    /// let registration = registry.register("parsers", 0, Arc::downgrade(&request) as _);
    ///
    /// // It gives nothing at once: its owner's thread has to.
    /// assert_eq!(registry.reclaim(1500, PressureLevel::High).given, 0);
    /// drop(pool.try_get()?);
    /// assert_eq!(pool.stats().idle, 2);
    /// # drop(registration);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn trim_request(&self) -> Arc<TrimRequest> {
        Arc::clone(&self.request)
    }

    /// The most objects that can be lent at once.
    pub fn capacity(&self) -> usize {
        self.table.capacity()
    }

    /// The account that is charged.
    pub fn account(&self) -> &A {
        self.workshop.books.account()
    }

    /// The figures as they are now. O(n) in the capacity.
    pub fn stats(&self) -> PoolStats {
        let gets = self.table.iter().fold(0_u64, |sum, slot| sum.wrapping_add(slot.lends()));
        // SAFETY: the table is ours, and nothing here changes lists.
        let idle = unsafe { self.idle.iter() }.count();
        // SAFETY: as above.
        let vacant = unsafe { self.vacant.iter() }.count();
        let places = self.table.len();
        PoolStats {
            capacity: self.table.capacity(),
            places,
            lent: places - vacant - idle,
            idle,
            ..self.workshop.stats(gets)
        }
    }

    /// Who holds which object since when, if [`track_holders`](PoolConfig::track_holders) is on;
    /// those who have held theirs for longest first.
    pub fn holders(&self) -> Vec<Holder> {
        self.workshop.holders()
    }

    /// A slot with a good object, in the place of one that is no good: an idle one, or a new one.
    #[cold]
    #[inline(never)]
    fn replace(&self, old: Option<(Place<T>, Cause)>) -> Result<Place<T>, MemoryError> {
        if let Some((place, cause)) = old {
            self.vacate(place, cause);
        }
        loop {
            // SAFETY: the table is this pool's.
            while let Some(place) = unsafe { self.idle.pop() } {
                // SAFETY: as above.
                let slot = unsafe { place.as_ref() };
                // SAFETY: it was on the list of idle objects, and is ours now.
                match unsafe { workshop::fault(slot) } {
                    None => return Ok(place),
                    Some(cause) => self.vacate(place, cause),
                };
            }
            if self.closed.get() {
                return Err(MemoryError::Closed { what: "the pool" });
            }
            if let Some(place) = self.make()? {
                self.workshop.books.lend_fresh();
                return Ok(place);
            }
            if !self.grow()? {
                let capacity = self.capacity();
                return Err(MemoryError::PoolExhausted { in_use: capacity, capacity });
            }
        }
    }

    /// Ends the object in a slot that is on no list.
    fn vacate(&self, place: Place<T>, cause: Cause) -> usize {
        // SAFETY: the table is this pool's.
        let slot = unsafe { place.as_ref() };
        // SAFETY: the slot is on no list, and has an object.
        let bytes = unsafe { self.workshop.discard(slot, cause) };
        // SAFETY: as above; it is empty now.
        unsafe { self.vacant.push_front(place) };
        self.publish();
        bytes
    }

    /// Makes an object in a vacant slot, which is on no list then; `None` if there is no such slot.
    fn make(&self) -> Result<Option<Place<T>>, MemoryError> {
        /// Gives the slot back if nothing comes of it.
        struct Vacant<'l, T>(&'l List<T, Link<T>>, Place<T>);
        impl<T> Drop for Vacant<'_, T> {
            fn drop(&mut self) {
                // SAFETY: the slot was popped off this list, and is on none.
                unsafe { self.0.push_front(self.1) };
            }
        }
        // SAFETY: the table is this pool's.
        let Some(place) = (unsafe { self.vacant.pop() }) else { return Ok(None) };
        let vacant = Vacant(&self.vacant, place);
        // SAFETY: the table is this pool's.
        let slot = unsafe { place.as_ref() };
        // SAFETY: the slot is on no list, and empty.
        unsafe { self.workshop.make(slot)? };
        std::mem::forget(vacant);
        self.publish();
        Ok(Some(place))
    }

    /// Adds places; `false` if there are all already. (The account's code may use the pool, and add
    /// them itself.)
    fn grow(&self) -> Result<bool, MemoryError> {
        let Some(bytes) = self.table.next_segment() else { return Ok(false) };
        self.workshop.books.expand(bytes)?;
        let grown = self.table.grow(bytes, |_| Slot::new(Link(Cell::new(None))));
        if let Ok(Some(slots)) = grown {
            // The first place is used first.
            for slot in slots.iter().rev() {
                // SAFETY: it is new, and on no list.
                unsafe { self.vacant.push_front(NonNull::from(slot)) };
            }
        } else {
            self.workshop.books.contract(bytes);
        }
        grown.map(|_| true)
    }

    /// Makes idle objects, as far as there are places.
    fn fill(&self, objects: usize) -> Result<(), MemoryError> {
        let mut left = objects;
        while left > 0 && !self.closed.get() {
            if let Some(place) = self.make()? {
                self.put(place);
                left -= 1;
                if self.closed.get() {
                    self.poll();
                }
            } else if !self.grow()? {
                break;
            }
        }
        Ok(())
    }

    /// Puts a slot with an object on the list of those that can be lent.
    #[inline]
    fn put(&self, place: Place<T>) {
        if self.fifo {
            // SAFETY: the slot is ours and on no list.
            unsafe { self.idle.push_back(place) };
        } else {
            // SAFETY: as above.
            unsafe { self.idle.push_front(place) };
        }
    }

    /// Drops idle objects that are `wanted`: those of the least value, and among equals those that have
    /// been idle for longest. Returns the bytes credited.
    fn discard(
        &self,
        quota: Quota,
        cause: Cause,
        wanted: impl Fn(&Slot<T, Link<T>>) -> bool,
    ) -> usize {
        let mut quota = quota;
        let mut floor = None;
        while !quota.is_met() {
            // SAFETY: the table is ours, and nothing here changes lists.
            let idle = unsafe { self.idle.iter() };
            let values = idle.filter(|slot| wanted(slot)).map(|s| (s.value(), s.charged()));
            let Some(ceiling) = quota.ceiling(floor, values) else { break };
            let fits = |slot: &Slot<T, Link<T>>| {
                Some(slot.value()) > floor && slot.value() <= ceiling && wanted(slot)
            };
            let victims = self.select(&mut quota, fits);
            floor = Some(ceiling);
            // SAFETY: the table is ours.
            while let Some(place) = unsafe { victims.pop() } {
                self.vacate(place, cause);
            }
        }
        quota.bytes_given()
    }

    /// Takes slots off the list of idle objects, those that have been idle for longest first. Runs
    /// nobody else's code.
    fn select(
        &self,
        quota: &mut Quota,
        wanted: impl Fn(&Slot<T, Link<T>>) -> bool,
    ) -> List<T, Link<T>> {
        let mut rest = self.idle.take();
        if !self.fifo {
            // Longest idle first.
            let reversed = List::new();
            // SAFETY: the table is ours; each slot leaves one list for the other.
            while let Some(place) = unsafe { rest.pop() } {
                // SAFETY: as above.
                unsafe { reversed.push_front(place) };
            }
            rest = reversed;
        }
        let victims = List::new();
        // SAFETY: as above.
        while let Some(place) = unsafe { rest.pop() } {
            // SAFETY: as above.
            let slot = unsafe { place.as_ref() };
            if !quota.is_met() && wanted(slot) {
                quota.give(slot.charged());
                // SAFETY: as above.
                unsafe { victims.push_front(place) };
            } else {
                self.put(place);
            }
        }
        victims
    }

    /// Gives what others asked for; all, if the pool is closed.
    #[cold]
    #[inline(never)]
    fn poll(&self) {
        if self.closed.get() {
            self.discard(Quota::ALL, Cause::Surplus, |_| true);
        }
        let Some(order) = self.request.take() else { return };
        // SAFETY: the table is ours, and nothing here changes lists.
        let idle = unsafe { self.idle.iter() }.count();
        let quota = Quota::new(self.keeping.spare(idle, order.urgency), order.bytes);
        self.discard(quota, Cause::Reclaimed, |slot| slot.charged() > 0);
    }

    /// Tells others how much there is to ask for, at most: part of it may be lent.
    fn publish(&self) {
        self.request.publish(self.workshop.books.used_by_objects());
    }
}

// SAFETY: slots that guards get were taken off their list, and no list gets them until they come
// back; the table's slots stay where they are.
unsafe impl<T: Poolable, A: Account> Home for ObjectPool<T, A> {
    type Object = T;
    type Head = Link<T>;
    type Handle = Rc<Self>;

    #[inline]
    unsafe fn take_back(&self, place: Place<T>) {
        // SAFETY: slots live for as long as the table.
        let slot = unsafe { place.as_ref() };
        // SAFETY: the slot was a guard's, and is ours now.
        let renewed = unsafe { self.workshop.renew(slot) };
        if renewed == Renewed::Gone {
            // SAFETY: the slot is on no list, and empty.
            unsafe { self.vacant.push_front(place) };
        } else {
            self.put(place);
        }
        if renewed != Renewed::Same {
            self.publish();
        }
        if self.request.is_waiting() || self.closed.get() {
            self.poll();
        }
    }

    unsafe fn detach(&self, place: Place<T>) -> T {
        // SAFETY: slots live for as long as the table.
        let slot = unsafe { place.as_ref() };
        // SAFETY: the slot was a guard's, and is ours now.
        let object = unsafe { self.workshop.detach(slot) };
        // SAFETY: the slot is on no list, and empty.
        unsafe { self.vacant.push_front(place) };
        self.publish();
        object
    }
}

impl<T: Poolable, A: Account> Drop for ObjectPool<T, A> {
    /// Drops all objects, also those whose guards were leaked: nobody can reach them any more.
    fn drop(&mut self) {
        self.request.publish(0);
        self.workshop.close(self.table.iter_mut());
    }
}

told_in_bytes!([T: Poolable, A: Account] ObjectPool<T, A>);

impl<T: Poolable, A: Account> fmt::Debug for ObjectPool<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ObjectPool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
