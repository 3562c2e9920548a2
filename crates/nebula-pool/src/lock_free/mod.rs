//! The pool without locks.
//!
//! Whoever pops a place off one of the lists of its part is alone with it, and with the object in its
//! slot; the lists are in `list.rs`, the coming and going of storage in `part.rs`. Gets and returns
//! that find things as usual are one compare-and-swap each, and touch nothing of the epochs.

mod epochs;
mod list;
mod part;
mod sweeping;

use std::{
    alloc::Layout, fmt, marker::PhantomData, panic::Location, ptr::NonNull,
    sync::atomic::AtomicUsize,
};

use nebula_memory_core::{
    Account, MemoryError, Unlimited,
    layout::array_layout,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        thread::yield_now,
    },
};

use self::{
    epochs::{A_FEW, Epochs},
    list::MOST,
    part::{Address, Part, Parts, Place},
};
use crate::{
    Holder, OwnedGuard, PoolConfig, PoolGuard, PoolStats, Poolable,
    alike::{constructors, told_in_bytes},
    books::{Books, Cause},
    config::Abilities,
    factory::{self, SharedFactory},
    home::Home,
    keeping::Keeping,
    watch::Site,
    workshop::{self, Workshop},
};

/// A pool of objects for many threads in which nobody ever waits for anybody: no locks and no
/// parking, neither in gets nor in returns nor while it grows and shrinks. A thread that is stopped
/// anywhere keeps the object that it has. (In `stats`, `maintain`, `trim` or a reclaim, or in a get that
/// meets one of these at work, it also holds up the freeing of storage.)
///
/// There is no waiting for objects, either: who finds all of them lent gets an error. Where many
/// threads get and return at the same time,
/// [`ThreadSafePool`](crate::ThreadSafePool) is faster, because its threads stay out of each other's
/// way; here, they share the head of one list. What this pool is for: callers that must not block
/// (real-time threads, signal-driven code), pools of which each thread takes many objects, and pools
/// that give back even the memory of their places: storage that holds no object any more is freed by
/// [`trim`](Self::trim), by [`maintain`](Self::maintain) and by reclaims, while others use the pool.
///
/// Everything that the pool holds is charged to its account `A`: links and the factory when it is
/// made, the storage of places when it comes, and the [`heap_size`](Poolable::heap_size) of every
/// object from when it is made until it is destroyed or [detached](PoolGuard::detach).
///
/// ```
/// use nebula_pool::{LockFreePool, PoolConfig};
///
/// let config = PoolConfig::builder().capacity(2).build()?;
/// let pool = LockFreePool::new(&config, || Vec::<u8>::with_capacity(4096))?;
///
/// let mut buffer = pool.try_get()?;
/// buffer.extend_from_slice(b"hello");
/// std::thread::scope(|s| {
///     s.spawn(move || drop(buffer)); // Cleared, and kept with its capacity.
/// });
/// let (a, b) = (pool.try_get()?, pool.try_get()?);
/// assert!(a.is_empty() && a.capacity() >= 4096);
/// assert_eq!(pool.try_get().unwrap_err().code(), "pool_exhausted");
/// # drop(b);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
///
/// A sweep (`trim`, `maintain`, a reclaim) has one idle object in hand at a time, for a few
/// instructions: in that moment, a pool all of whose others are lent looks exhausted.
pub struct LockFreePool<T: Poolable, A: Account = Unlimited> {
    capacity: usize,
    closed: AtomicBool,
    keeping: Keeping,
    epochs: Epochs,
    // In the order in which they are dropped: what is charged is freed before it is credited.
    parts: Parts<T>,
    workshop: Workshop<A, SharedFactory<T>>,
}

/// How often somebody who is refused the storage of places looks if somebody else has got it, at most.
const LOOKS: usize = 1000;

/// Bytes of the `Arc` of the epochs' flags: two counters before them.
fn epochs_size(parts: usize) -> usize {
    let counters = Layout::new::<[AtomicUsize; 2]>();
    let flags = array_layout::<u8>(parts).unwrap_or(Layout::new::<()>());
    counters.extend(flags).map_or(0, |(layout, _)| layout.pad_to_align().size())
}

constructors!(LockFreePool, [Send + Sync + 'static] -> Self);

impl<T: Poolable, A: Account> LockFreePool<T, A> {
    /// A pool whose objects are made by `factory`, which can fail, and charged to `account`.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] if `config` is not valid for this pool; the refusal of the
    /// account (or of the system) if there is no room for the links, the first places, the factory,
    /// or the objects of the warm-up; the error of the factory. Then nothing stays charged.
    pub fn try_new_in<F>(config: &PoolConfig, account: A, factory: F) -> Result<Self, MemoryError>
    where
        F: Fn() -> Result<T, MemoryError> + Send + Sync + 'static,
    {
        config.validate_for(Abilities::default())?;
        let capacity = config.capacity;
        // A pool whose slots could not all be is refused at once, not when it is full.
        array_layout::<Place<T>>(capacity)?;
        let count = config.growth.count(capacity, MOST);
        let own = array_layout::<Part<T>>(count)?
            .size()
            .saturating_add(Part::<T>::links_size(capacity))
            .saturating_add(epochs_size(count))
            .saturating_add(size_of::<F>());
        let books = Books::open(account, own)?;
        let refused = |_| MemoryError::OutOfMemory {
            requested: own,
            align: nebula_memory_core::Align::new(align_of::<Part<T>>()),
        };
        // In one piece, which a system refuses that would give many small ones until it breaks down.
        Vec::<u8>::new().try_reserve_exact(own).map_err(refused)?;
        let mut parts = Vec::new();
        parts.try_reserve_exact(count).map_err(refused)?;
        for (number, places) in config.growth.segments(capacity, MOST).enumerate() {
            parts.push(Part::new(number, places)?);
        }
        let factory: SharedFactory<T> = factory::boxed(factory)?;
        let pool = Self {
            capacity,
            closed: AtomicBool::new(false),
            keeping: Keeping::new(config),
            epochs: Epochs::new(count),
            parts: Parts::new(parts),
            workshop: Workshop::new(config, books, factory),
        };
        pool.allocate(&pool.parts[0])?;
        pool.fill(config.warm_up)?;
        Ok(pool)
    }

    /// Lends an object if one is idle or can be made.
    ///
    /// O(1) in the number of objects; O(n) in the number of segments that [`Growth`](crate::Growth)
    /// makes of them.
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
        // SAFETY: a capacity above zero makes one part at least.
        let first = unsafe { self.parts.get_unchecked(0) };
        if let Some(place) = first.pop_idle() {
            return self.lend_full(place, site);
        }
        self.get_other(site)
    }

    /// As [`try_get`](Self::try_get), with a guard that keeps the pool alive and borrows nothing.
    ///
    /// # Errors
    /// Those of [`try_get`](Self::try_get).
    ///
    /// # Panics
    /// If the factory does; the place is free again.
    #[inline]
    #[track_caller]
    pub fn try_get_owned(self: &Arc<Self>) -> Result<OwnedGuard<Self>, MemoryError> {
        let guard = self.try_get()?;
        Ok(OwnedGuard::new(Arc::clone(self), guard))
    }

    /// Ends the lending: gets are refused from now on, idle objects are dropped, and those that are
    /// lent are dropped when they come back. They can be used until then, and detached. The storage
    /// of places goes by [`trim`](Self::trim), or with the pool.
    ///
    /// (A get that runs while this does, or while an object is on its way back, may still be served.)
    ///
    /// ```
    /// use nebula_pool::{LockFreePool, PoolConfig};
    ///
    /// let pool = LockFreePool::new(&PoolConfig::default(), String::new)?;
    /// let name = pool.try_get()?;
    /// pool.close();
    /// assert_eq!(pool.try_get().unwrap_err().code(), "closed");
    /// drop(name);
    /// assert_eq!((pool.stats().idle, pool.stats().destroyed), (0, 1));
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.parts.iter().for_each(Part::close);
        self.empty();
    }

    /// Whether the pool has been [closed](Self::close).
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// The most objects that can be lent at once.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The account that is charged.
    pub fn account(&self) -> &A {
        self.workshop.books.account()
    }

    /// The figures as they are now. O(n) in the capacity.
    pub fn stats(&self) -> PoolStats {
        let idle = self.idle();
        let vacant: usize = self.parts.iter().map(Part::vacant_count).sum();
        let stored = self.parts.iter().filter(|part| part.has_storage());
        PoolStats {
            capacity: self.capacity,
            places: stored.map(Part::places).sum(),
            lent: self.capacity.saturating_sub(idle + vacant),
            idle,
            ..self.workshop.stats(self.gets())
        }
    }

    /// Who holds which object since when, if [`track_holders`](PoolConfig::track_holders) is on;
    /// those who have held theirs for longest first.
    pub fn holders(&self) -> Vec<Holder> {
        self.workshop.holders()
    }

    fn idle(&self) -> usize {
        self.parts.iter().map(Part::idle_count).sum()
    }

    fn gets(&self) -> u64 {
        let guard = self.epochs.pin();
        self.parts.iter().fold(0, |sum, part| sum.wrapping_add(part.gets(&guard)))
    }

    /// Any object, if there is one or one can be made.
    #[cold]
    #[inline(never)]
    fn get_other(&self, site: Site) -> Result<PoolGuard<'_, Self>, MemoryError> {
        // If nothing at all changes while we look, everything was lent at the same time.
        let mut version = None;
        loop {
            if self.is_closed() {
                return Err(MemoryError::Closed { what: "the pool" });
            }
            let idle = self.parts.iter().find_map(Part::pop_idle);
            if let Some(place) = idle.or_else(|| self.parts.iter().find_map(Part::pop_spare)) {
                return self.lend_full(place, site);
            }
            if let Some(claim) = self.claim_vacant()? {
                return self.lend_new(claim, site);
            }
            let now = self.version();
            if version.replace(now) == Some(now) {
                let capacity = self.capacity;
                return Err(MemoryError::PoolExhausted { in_use: capacity, capacity });
            }
        }
    }

    fn version(&self) -> u32 {
        self.parts.iter().fold(0, |sum, part| sum.wrapping_add(part.version()))
    }

    /// Takes a place without an object: in storage that is there, or else in new storage.
    fn claim_vacant(&self) -> Result<Option<Claim<'_, T>>, MemoryError> {
        // Whoever is about to be charged for more gives back first what nobody needs.
        if self.parts.iter().any(Part::is_retiring) {
            self.free(A_FEW);
        }
        // Storage may come while we look, so that the second round asks all.
        for anywhere in [false, true] {
            for part in self.parts.iter().filter(|part| anywhere || part.has_storage()) {
                let Some(place) = part.pop_vacant(&self.epochs) else { continue };
                let vacant = Vacant { part, place };
                loop {
                    if let Some(slot) = part.stored(place) {
                        std::mem::forget(vacant);
                        // SAFETY: the place is this pool's, and ours.
                        return Ok(Some(unsafe { Claim::new(slot) }));
                    }
                    self.allocate(part)?;
                }
            }
        }
        Ok(None)
    }

    /// Sees to it that a part has storage, of which the caller has a place (or nobody has any).
    ///
    /// Threads that do so at the same time don't wait for each other, and all are charged for a moment.
    /// Only one that is refused that looks, [`LOOKS`] times at most, what comes of the others.
    fn allocate(&self, part: &Part<T>) -> Result<(), MemoryError> {
        let bytes = part.size();
        let allocating = part.begin();
        let mut looks = 0..LOOKS;
        while let Err(refusal) = self.workshop.books.expand(bytes) {
            let mut others = false;
            while allocating.is_shared() && looks.next().is_some() {
                others = true;
                if part.has_storage() {
                    return Ok(());
                }
                yield_now();
            }
            // Asked after that: others have been there before they went.
            if part.has_storage() {
                return Ok(());
            }
            if !others {
                return Err(refusal);
            }
        }
        let done = part.allocate();
        if !matches!(done, Ok(true)) {
            self.workshop.books.contract(bytes);
        }
        done.map(|_| ())
    }

    /// Makes idle objects, as far as there are places.
    fn fill(&self, objects: usize) -> Result<(), MemoryError> {
        for _ in 0..objects {
            if self.is_closed() {
                break;
            }
            let Some(claim) = self.claim_vacant()? else { break };
            // SAFETY: the slot is the claim's, and empty.
            unsafe { self.workshop.make(claim.slot())? };
            drop(claim);
            if self.is_closed() {
                self.empty();
            }
        }
        Ok(())
    }

    /// Makes a guard of an owned place with an object: that, or a new one if it is no good.
    #[inline]
    fn lend_full(
        &self,
        place: NonNull<Place<T>>,
        site: Site,
    ) -> Result<PoolGuard<'_, Self>, MemoryError> {
        // SAFETY: the place is ours, so that its storage stays.
        let slot = unsafe { place.as_ref() };
        // SAFETY: the place is ours, and has an object.
        match unsafe { workshop::fault(slot) } {
            None => Ok(self.lend(place, site)),
            // SAFETY: the place is this pool's, and ours.
            Some(cause) => self.lend_instead(unsafe { Claim::new(place) }, cause, site),
        }
    }

    /// Makes a guard of an owned place whose object is no good.
    #[cold]
    #[inline(never)]
    fn lend_instead<'p>(
        &'p self,
        claim: Claim<'p, T>,
        cause: Cause,
        site: Site,
    ) -> Result<PoolGuard<'p, Self>, MemoryError> {
        // SAFETY: the slot is the claim's, and has an object.
        unsafe { self.workshop.discard(claim.slot(), cause) };
        self.lend_new(claim, site)
    }

    /// Makes a guard of an owned place without an object.
    fn lend_new<'p>(
        &'p self,
        claim: Claim<'p, T>,
        site: Site,
    ) -> Result<PoolGuard<'p, Self>, MemoryError> {
        // SAFETY: the slot is the claim's, and empty.
        unsafe { self.workshop.make(claim.slot())? };
        self.workshop.books.lend_fresh();
        Ok(self.lend(claim.into_place(), site))
    }

    /// Makes a guard of an owned place with a good object.
    #[inline]
    fn lend(&self, place: NonNull<Place<T>>, site: Site) -> PoolGuard<'_, Self> {
        // SAFETY: the place is ours, so that its storage stays.
        let slot = unsafe { place.as_ref() };
        slot.head.set_lent(true);
        self.workshop.lend(slot, site);
        // SAFETY: it is one of ours, was popped, and has an object.
        unsafe { PoolGuard::new(self, place) }
    }
}

/// An owned place that goes back to its pool when it is dropped.
struct Claim<'p, T: Poolable> {
    slot: NonNull<Place<T>>,
    pool: PhantomData<&'p Part<T>>,
}

impl<T: Poolable> Claim<'_, T> {
    /// # Safety
    /// `slot` is of a pool that is borrowed for as long as the claim, and the caller's; from now on,
    /// the claim's.
    const unsafe fn new(slot: NonNull<Place<T>>) -> Self {
        Self { slot, pool: PhantomData }
    }

    fn slot(&self) -> &Place<T> {
        // SAFETY: the place is the claim's, so that its storage stays.
        unsafe { self.slot.as_ref() }
    }

    /// The place, which is the caller's from now on.
    fn into_place(self) -> NonNull<Place<T>> {
        std::mem::ManuallyDrop::new(self).slot
    }
}

impl<T: Poolable> Drop for Claim<'_, T> {
    fn drop(&mut self) {
        let slot = self.slot();
        // SAFETY: the slot is of the pool that the claim borrows.
        let part = unsafe { slot.head.part() };
        let place = slot.head.place as usize;
        if slot.is_full() {
            // SAFETY: the place is of that part, and ours until now. If the part is closed, `fill` sees
            // to that.
            let _ = unsafe { part.push_idle(place) };
        } else {
            // SAFETY: the place is of that part, and ours until now.
            unsafe { part.push_vacant(place) };
        }
    }
}

/// An owned place without an object, and perhaps without storage, that goes back when it is dropped.
struct Vacant<'p, T> {
    part: &'p Part<T>,
    place: usize,
}

impl<T> Drop for Vacant<'_, T> {
    fn drop(&mut self) {
        // SAFETY: the place is of that part, and ours until now.
        unsafe { self.part.push_vacant(self.place) };
    }
}

// SAFETY: places that guards get were popped off their list, and are on none until they come back;
// storage is freed only when all of its places are on the list of vacant ones.
unsafe impl<T: Poolable, A: Account> Home for LockFreePool<T, A> {
    type Object = T;
    type Head = Address<T>;
    type Handle = Arc<Self>;

    #[inline]
    unsafe fn take_back(&self, place: NonNull<Place<T>>) {
        // SAFETY: the place was a guard's, and is ours now, so that its storage stays.
        let slot = unsafe { place.as_ref() };
        // SAFETY: the slot is of this pool.
        let part = unsafe { slot.head.part() };
        let number = slot.head.place as usize;
        // SAFETY: as above.
        let kept = unsafe { self.workshop.take_back(slot) };
        slot.head.set_lent(false);
        if kept {
            // SAFETY: the place is of that part, and ours until now.
            let closed = unsafe { part.push_idle(number) };
            if closed {
                self.empty();
            }
        } else {
            // SAFETY: the place is of that part, and ours until now.
            unsafe { part.push_vacant(number) };
        }
    }

    unsafe fn detach(&self, place: NonNull<Place<T>>) -> T {
        // SAFETY: the place was a guard's, and is ours now, so that its storage stays.
        let slot = unsafe { place.as_ref() };
        slot.head.set_lent(false);
        // SAFETY: as above.
        let object = unsafe { self.workshop.detach(slot) };
        // SAFETY: the slot is of this pool.
        let part = unsafe { slot.head.part() };
        // SAFETY: the place is of that part, and ours until now.
        unsafe { part.push_vacant(slot.head.place as usize) };
        object
    }
}

impl<T: Poolable, A: Account> Drop for LockFreePool<T, A> {
    /// Drops all objects, also those whose guards were leaked: nobody can reach them any more.
    fn drop(&mut self) {
        self.workshop.close(self.parts.iter_mut().flat_map(Part::slots_mut));
    }
}

told_in_bytes!([T: Poolable, A: Account] LockFreePool<T, A>);

impl<T: Poolable, A: Account> fmt::Debug for LockFreePool<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LockFreePool").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
