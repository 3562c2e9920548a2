//! The pools for many threads and tasks with slots that stay: what they have in common, which is all
//! but what a [`Mode`] says.
//!
//! How a slot travels: a get takes it with one compare-and-swap and makes a guard of it; the guard's
//! drop resets the object and frees the slot with one store. Nobody takes a slot past somebody who
//! waits: then a freed slot is handed to the first in line, as a claim that nobody can take away.
//! Every place that frees a slot asks for waiters after that, and every waiter looks at the slots
//! after it has joined the line, so that one of them sees the other. For that, both need a fence in
//! between; that of the returns is free, because who begins to wait runs it on their behalf (see
//! [`SlotPool::stand_in_line`]).
//!
//! A reclaim is the exception. It runs inside a stranger's allocation, so that it takes no lock and
//! wakes nobody (a waker is the code of a runtime, which may be who is allocating). It need not,
//! either: it never makes a slot unavailable that was available, since who looks for a slot waits
//! out the moment in which an object is moved out.

mod affinity;
mod claim;
mod getting;
mod head;
pub(crate) mod mode;

use std::{fmt, ops::ControlFlow, ptr::NonNull};

use nebula_memory_core::{
    Account, MemoryError, PressureLevel, Reclaim, Unlimited, WaitQueue, fence,
    sync::{
        Arc,
        atomic::{self, AtomicBool, AtomicUsize, Ordering},
        thread::yield_now,
    },
};

use self::{
    affinity::Affinity,
    claim::{Claim, Handed, tag_of},
    head::{Head, Tag},
    mode::{Affine, Mode},
};
use crate::{
    Holder, Maintained, PoolConfig, PoolStats, Poolable,
    alike::told_in_bytes,
    books::{Books, Cause},
    config::Abilities,
    factory::{self, SharedFactory},
    home::Home,
    keeping::{Keeping, Quota},
    slot::Slot,
    table::Table,
    workshop::Workshop,
};

/// A slot of these pools.
type Place<T, M> = Slot<T, Head<<M as Mode>::Stamp>>;

/// A pool of objects for many threads and tasks, with slots that stay, of one of three kinds:
/// [`ThreadSafePool`](crate::ThreadSafePool), [`TtlPool`](crate::TtlPool) and
/// [`PriorityPool`](crate::PriorityPool), where the documentation is. It is named by those names.
pub struct SlotPool<T: Poolable, A: Account = Unlimited, M: Mode = Affine> {
    /// How many stand in line, or are about to, or have been served and not yet gone on; that is, if
    /// returns have to look around. One more, for ever, if they need a fence of their own, because
    /// the system has none that waiters could run for them; and one more if the pool is closed.
    waiting: AtomicUsize,
    closed: AtomicBool,
    affinity: Affinity,
    line: WaitQueue<Handed<T, A, M>>,
    keeping: Keeping,
    pub(crate) mode: M,
    // In the order in which they are dropped: what is charged is freed before it is credited.
    table: Table<Place<T, M>>,
    workshop: Workshop<A, SharedFactory<T>>,
}

impl<T: Poolable, A: Account, M: Mode> SlotPool<T, A, M> {
    /// A pool of the kind `mode`.
    pub(crate) fn make_pool<F>(
        config: &PoolConfig,
        account: A,
        abilities: Abilities,
        mode: M,
        factory: F,
    ) -> Result<Self, MemoryError>
    where
        F: Fn() -> Result<T, MemoryError> + Send + Sync + 'static,
    {
        config.validate_for(abilities)?;
        let own = Table::<Place<T, M>>::bytes(config.capacity, config.growth)?;
        let books = Books::open(account, own.saturating_add(size_of::<F>()))?;
        let table = Table::new(config.capacity, config.growth)?;
        let factory: SharedFactory<T> = factory::boxed(factory)?;
        let pool = Self {
            waiting: AtomicUsize::new(usize::from(!fence::is_available())),
            closed: AtomicBool::new(false),
            affinity: Affinity::new(),
            line: mode.line(),
            keeping: Keeping::new(config),
            mode,
            table,
            workshop: Workshop::new(config, books, factory),
        };
        pool.grow()?;
        pool.fill(config.warm_up)?;
        Ok(pool)
    }

    /// Drops all idle objects and returns the bytes credited for them. The table of slots stays.
    ///
    /// O(n) in the capacity.
    pub fn trim(&self) -> usize {
        self.discard(Quota::ALL, Cause::Reclaimed, |_| true)
    }

    /// Drops the idle objects that are more than the configuration allows or needs, or too old, and
    /// makes up for those that are missing from [`min_idle`](PoolConfig::min_idle). To be called
    /// from time to time. O(n) in the capacity, for every 32 values that the objects which go have.
    ///
    /// # Errors
    /// The error of the factory or the account's refusal, explained, if an object had to be made.
    ///
    /// # Panics
    /// If the factory does.
    pub fn maintain(&self) -> Result<Maintained, MemoryError> {
        let before = self.workshop.books.stats(0);
        let now = self.mode.read();
        self.discard(Quota::ALL, Cause::Expired, |slot| self.mode.is_stale(&slot.head.stamp, now));
        let idle = self.idle().count();
        let (stale, rest) =
            self.keeping.surplus(idle, self.idle().filter(|s| s.is_unused()).count());
        self.discard(Quota::objects(stale), Cause::Surplus, Slot::is_unused);
        self.discard(Quota::objects(rest), Cause::Surplus, |_| true);
        self.table.iter().for_each(Slot::look);
        self.fill(self.keeping.min_idle.saturating_sub(self.idle().count()))?;
        Ok(Maintained::between(&before, &self.workshop.books.stats(0)))
    }

    /// Ends the lending. From now on gets are refused with [`MemoryError::Closed`], and so are all who
    /// stand in line; idle objects are dropped, and those that are lent are dropped when they come
    /// back. They can be used until then, and detached.
    ///
    /// (A get that runs while this does, or while an object is on its way back, may still be served.)
    ///
    /// ```
    /// use nebula_pool::{PoolConfig, ThreadSafePool};
    ///
    /// let pool = ThreadSafePool::new(&PoolConfig::default(), String::new)?;
    /// let name = pool.try_get()?;
    /// pool.close();
    /// assert_eq!(pool.get().unwrap_err().code(), "closed");
    /// drop(name);
    /// assert_eq!((pool.stats().idle, pool.stats().destroyed), (0, 1));
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn close(&self) {
        if !self.closed.swap(true, Ordering::SeqCst) {
            // As those who wait do: a return that does not see this has freed its slot by the fence.
            self.waiting.fetch_add(1, Ordering::SeqCst);
            let _ = fence::heavy();
        }
        self.line.close("the pool");
        self.empty();
    }

    /// Whether the pool has been [closed](Self::close).
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Drops what is idle in a closed pool.
    fn empty(&self) {
        self.discard(Quota::ALL, Cause::Surplus, |_| true);
    }

    /// How many stand in line.
    pub fn waiting(&self) -> usize {
        self.line.len()
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
        let count = |wanted| self.table.iter().filter(|slot| slot.head.look().0 == wanted).count();
        let gets = self.table.iter().fold(0_u64, |sum, slot| sum.wrapping_add(slot.lends()));
        PoolStats {
            capacity: self.table.capacity(),
            places: self.table.len(),
            lent: count(Tag::Busy),
            idle: count(Tag::Idle),
            ..self.workshop.stats(gets)
        }
    }

    /// Who holds which object since when, if [`track_holders`](PoolConfig::track_holders) is on;
    /// those who have held theirs for longest first.
    pub fn holders(&self) -> Vec<Holder> {
        self.workshop.holders()
    }

    /// Slots with idle objects, at a glance.
    fn idle(&self) -> impl Iterator<Item = &Place<T, M>> + Clone {
        self.table.iter().filter(|slot| slot.head.is_idle())
    }

    /// Takes the idle object that this thread had last, if it is there.
    #[inline]
    fn claim_own(&self) -> Option<&Place<T, M>> {
        let slot = self.affinity.last::<Place<T, M>>()?;
        // SAFETY: whatever is remembered under this pool's own number was remembered by
        // `claim_any` below, as a slot of this table, which lives as long as the pool.
        let slot = unsafe { slot.as_ref() };
        if slot.head.claim(Tag::Idle) { Some(slot) } else { None }
    }

    /// Takes a slot with an idle object, or else an empty one; the nearest one after this thread's
    /// own. `None` only if there was a moment at which all slots were busy.
    ///
    /// O(n) in the number of slots. It begins anew only when another thread got something.
    fn claim_any(&self) -> Option<&Place<T, M>> {
        // All slots were seen busy once, when they had been claimed this often in sum. Since these
        // counts only grow, seeing the same sum again proves that none of the slots was free in
        // between: without that, objects that others return and take while we walk past could make
        // a pool look exhausted that never was.
        let mut seen_busy = None;
        loop {
            match self.look_around() {
                Ok(slot) => return Some(slot),
                Err(None) => seen_busy = None,
                Err(busy) if seen_busy == busy => return None,
                Err(busy) => seen_busy = busy,
            }
        }
    }

    /// Looks at each slot once, and takes one as [`claim_any`](Self::claim_any) does. If there is
    /// none: how many were seen busy, and how often those had been claimed in sum; or `None` if a
    /// slot that was free was taken by somebody else in the meantime.
    fn look_around(&self) -> Result<&Place<T, M>, Option<(usize, usize)>> {
        loop {
            let (mut empty, mut missed, mut leaving) = (None, false, false);
            let mut claims = 0_usize;
            let slots = self.table.len();
            let start = affinity::home(slots);
            let mut all = self.table.iter().skip(start).chain(self.table.iter().take(start));
            // (Parts within parts: walked from inside, they are plain loops.)
            let idle = all.try_for_each(|slot| {
                match slot.head.look() {
                    (Tag::Idle, _) if slot.head.claim(Tag::Idle) => {
                        return ControlFlow::Break(slot);
                    }
                    (Tag::Idle, _) => missed = true,
                    (Tag::Empty, _) => empty = empty.or(Some(slot)),
                    (Tag::Busy, count) => claims = claims.wrapping_add(count),
                    (Tag::Leaving, _) => leaving = true,
                }
                ControlFlow::Continue(())
            });
            if let ControlFlow::Break(slot) = idle {
                self.affinity.remember(slot);
                return Ok(slot);
            }
            match empty {
                Some(slot) if slot.head.claim(Tag::Empty) => {
                    self.affinity.remember(slot);
                    return Ok(slot);
                }
                Some(_) => missed = true,
                None => {}
            }
            if !leaving {
                return Err((!missed).then_some((slots, claims)));
            }
            // Somebody is between two instructions of `take_idle`.
            yield_now();
        }
    }

    /// Takes an empty slot, if there is one.
    fn claim_empty(&self) -> Option<&Place<T, M>> {
        self.table.iter().find(|slot| slot.head.claim(Tag::Empty))
    }

    /// Adds slots, if there can be more and nobody else does so at the same time.
    fn grow(&self) -> Result<(), MemoryError> {
        let Some(_growing) = self.table.begin() else {
            yield_now();
            return Ok(());
        };
        let Some(bytes) = self.table.next_segment() else { return Ok(()) };
        self.workshop.books.expand(bytes)?;
        let grown = self.table.grow(bytes, |_| Slot::new(Head::new()));
        if !matches!(grown, Ok(Some(_))) {
            self.workshop.books.contract(bytes);
        }
        grown.map(|_| ())
    }

    /// Makes idle objects, as far as there are places.
    fn fill(&self, objects: usize) -> Result<(), MemoryError> {
        for _ in 0..objects {
            if self.is_closed() {
                break;
            }
            let slot = loop {
                let complete = self.table.next_segment().is_none();
                match self.claim_empty() {
                    Some(slot) => break slot,
                    None if complete => return Ok(()),
                    None => self.grow()?,
                }
            };
            self.make(&Claim::new(self, slot))?;
        }
        Ok(())
    }

    /// Puts a new object into a claimed slot that is empty.
    fn make(&self, claim: &Claim<'_, T, A, M>) -> Result<(), MemoryError> {
        // SAFETY: the slot is the claim's, and empty.
        unsafe { self.workshop.make(claim)? };
        self.mode.born(&claim.head.stamp);
        Ok(())
    }

    /// Moves the object out of a slot if it is idle and, by then, still `wanted`.
    fn take_idle(
        slot: &Place<T, M>,
        wanted: impl FnOnce(&Place<T, M>) -> bool,
    ) -> Option<(T, usize)> {
        if !slot.head.leave() {
            return None;
        }
        if !wanted(slot) {
            slot.head.put_back(Tag::Idle);
            return None;
        }
        // SAFETY: the slot was idle, so that there is an object; it is ours until it is put back.
        let taken = unsafe { slot.take() };
        slot.head.put_back(Tag::Empty);
        Some(taken)
    }

    /// Drops idle objects that are `wanted` (a look at the slot that runs nobody else's code): those of
    /// the least value. Returns the bytes credited.
    fn discard(&self, quota: Quota, cause: Cause, wanted: impl Fn(&Place<T, M>) -> bool) -> usize {
        let mut quota = quota;
        let mut floor = None;
        while !quota.is_met() {
            let idle = self.idle().filter(|slot| wanted(slot));
            let values = idle.map(|slot| (slot.value(), slot.charged()));
            let Some(ceiling) = quota.ceiling(floor, values) else { break };
            let fits = |slot: &Place<T, M>| {
                Some(slot.value()) > floor && slot.value() <= ceiling && wanted(slot)
            };
            for slot in self.idle().filter(|slot| fits(slot)) {
                if let Some((object, bytes)) = Self::take_idle(slot, fits) {
                    quota.give(bytes);
                    self.workshop.destroy(object, bytes, cause);
                } else {
                    self.look_back(slot);
                }
                if quota.is_met() {
                    break;
                }
            }
            floor = Some(ceiling);
        }
        quota.bytes_given()
    }

    /// Sees to it that a slot that was put back as it was does not stay so in a pool that was closed in
    /// the meantime: who closed it has passed the slot by, because it was somebody's.
    fn look_back(&self, slot: &Place<T, M>) {
        atomic::fence(Ordering::SeqCst);
        if self.closed.load(Ordering::Relaxed) {
            if let Some((object, bytes)) = Self::take_idle(slot, |_| true) {
                self.workshop.destroy(object, bytes, Cause::Surplus);
            }
        }
    }

    /// Frees an owned slot, which is `tag` from now on, or gives it to the first in line.
    #[inline]
    fn release(&self, slot: &Place<T, M>, tag: Tag) {
        if self.line.is_empty() {
            slot.head.put_back(tag);
            fence::light();
            if self.waiting.load(Ordering::Relaxed) != 0 {
                self.serve();
            }
        } else {
            self.pass_on(slot);
        }
    }

    /// Gives an owned slot to the first in line, or else frees it.
    #[cold]
    fn pass_on(&self, slot: &Place<T, M>) {
        if let Err(slot) = self.hand(slot) {
            slot.head.put_back(tag_of(slot));
            self.serve();
        }
    }

    /// Hands an owned slot to the first in line. It comes back if nobody waits.
    fn hand<'p>(&'p self, slot: &'p Place<T, M>) -> Result<(), &'p Place<T, M>> {
        self.line.hand(Handed::new(self, slot)).map_err(|handed| handed.into_slot(self))
    }

    /// Hands free slots to those who wait. To be called after a slot was freed, and after the line
    /// was joined.
    #[cold]
    fn serve(&self) {
        while self.line.has_waiters() {
            // Each slot that is seen busy now is freed later, by somebody who sees those who wait. One
            // that has just been missed may be a reclaim's, who looks for nobody.
            let slot = loop {
                match self.look_around() {
                    Ok(slot) => break slot,
                    Err(None) => {}
                    Err(Some(_)) => return,
                }
            };
            if let Err(slot) = self.hand(slot) {
                // They have gone. Somebody may have come since, and not have seen this slot.
                slot.head.put_back(tag_of(slot));
            }
        }
        // There was a fence in the last question.
        if self.closed.load(Ordering::Relaxed) {
            self.empty();
        }
    }
}

// SAFETY: slots that guards get were claimed for them, and nobody else claims them until they come
// back; the table's slots stay where they are.
unsafe impl<T: Poolable, A: Account, M: Mode> Home for SlotPool<T, A, M> {
    type Object = T;
    type Head = Head<M::Stamp>;
    type Handle = Arc<Self>;

    // Always: as a function of its own it would save and restore all that its cold ends may use.
    #[inline(always)]
    unsafe fn take_back(&self, slot: NonNull<Place<T, M>>) {
        // SAFETY: slots live for as long as the table.
        let slot = unsafe { slot.as_ref() };
        // SAFETY: the slot was a guard's, and is ours now.
        let tag = if unsafe { self.workshop.take_back(slot) } {
            self.mode.come_back(&slot.head.stamp);
            Tag::Idle
        } else {
            Tag::Empty
        };
        self.release(slot, tag);
    }

    unsafe fn detach(&self, slot: NonNull<Place<T, M>>) -> T {
        // SAFETY: slots live for as long as the table.
        let slot = unsafe { slot.as_ref() };
        // SAFETY: the slot was a guard's, and is ours now.
        let object = unsafe { self.workshop.detach(slot) };
        self.release(slot, Tag::Empty);
        object
    }
}

impl<T: Poolable, A: Account, M: Mode> Drop for SlotPool<T, A, M> {
    /// Drops all objects, also those whose guards were leaked: nobody can reach them any more.
    fn drop(&mut self) {
        self.workshop.close(self.table.iter_mut());
    }
}

/// Idle objects that something is charged for are dropped, those of the least value first; whoever
/// asks has no use for the others. All but critical requests leave the least number of idle objects
/// there. Their slots can be used at once; the objects that are lent are not touched. O(n) in the
/// capacity, for every 32 values that the objects which go have.
impl<T: Poolable + Send, A: Account + Send + Sync, M: Mode + Send + Sync> Reclaim
    for SlotPool<T, A, M>
{
    fn reclaimable(&self) -> usize {
        self.keeping.reclaimable(self.idle().map(Slot::charged))
    }

    fn reclaim(&self, wanted: usize, urgency: PressureLevel) -> usize {
        let most = self.keeping.spare(self.idle().count(), urgency);
        self.discard(Quota::new(most, wanted), Cause::Reclaimed, |slot| slot.charged() > 0)
    }
}

told_in_bytes!([T: Poolable, A: Account, M: Mode] SlotPool<T, A, M>);

impl<T: Poolable, A: Account, M: Mode> fmt::Debug for SlotPool<T, A, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(M::NAME)
            .field("stats", &self.stats())
            .field("waiting", &self.line.len())
            .finish_non_exhaustive()
    }
}
