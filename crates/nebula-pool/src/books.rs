//! The books of a pool: what was made, lent and destroyed, and what is charged for it.
//!
//! Nothing here touches an object. The counters are no part of what the model checker looks at, so
//! that they are std's own atomics; none of them is written on the path of a get that finds an
//! object and a return that keeps it (those are counted in the slots).

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use nebula_memory_core::{Account, AllocatorStats, MemoryError, StatsSnapshot};

use crate::PoolStats;

/// Why a pool drops an object.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Cause {
    Invalid,
    Quarantined,
    Oversized,
    Unaffordable,
    Reclaimed,
    Surplus,
    Expired,
    Spoiled,
}

/// How many causes there are.
const CAUSES: usize = Cause::Spoiled as usize + 1;

/// One set of books.
#[derive(Debug)]
pub(crate) struct Books<A: Account> {
    account: A,
    /// What the pool itself takes: its table and its factory. Charged until the books are dropped.
    own: AtomicUsize,
    /// What is charged: one allocation for the pool itself, for each further segment of its table,
    /// and for each object.
    charges: AllocatorStats,
    created: AtomicU64,
    destroyed: [AtomicU64; CAUSES],
    detached: AtomicU64,
    /// Gets for which an object had to be made.
    fresh: AtomicU64,
    waits: Waits,
}

/// Those who stood in line.
#[derive(Debug, Default)]
struct Waits {
    count: AtomicU64,
    /// How long it took those that are over; an estimate, if not all of them were timed.
    nanos: AtomicU64,
}

/// The first so many waits are all timed.
const ALL_TIMED: u64 = 64;
/// Of the others, one of so many is, and stands for them.
const ONE_TIMED_OF: u64 = 8;

/// Somebody stands in line until this is dropped.
pub(crate) struct Wait<'b> {
    waits: &'b Waits,
    since: Option<Instant>,
    /// How many waits this one stands for.
    stands_for: u64,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let Some(since) = self.since {
            let nanos = u64::try_from(since.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.waits.nanos.fetch_add(nanos.saturating_mul(self.stands_for), Relaxed);
        }
    }
}

impl<A: Account> Books<A> {
    /// Opens the books with `own` bytes charged for the pool itself.
    ///
    /// # Errors
    /// The account's refusal, explained.
    pub(crate) fn open(account: A, own: usize) -> Result<Self, MemoryError> {
        let books = Self {
            account,
            own: AtomicUsize::new(0),
            charges: AllocatorStats::new(),
            created: AtomicU64::new(0),
            destroyed: Default::default(),
            detached: AtomicU64::new(0),
            fresh: AtomicU64::new(0),
            waits: Waits::default(),
        };
        books.expand(own)?;
        Ok(books)
    }

    pub(crate) const fn account(&self) -> &A {
        &self.account
    }

    fn charge(&self, bytes: usize) -> Result<(), MemoryError> {
        self.account.try_charge(bytes).map_err(|error| self.account.explain(error))
    }

    /// Charges `bytes` more for the pool itself.
    ///
    /// # Errors
    /// The account's refusal, explained.
    pub(crate) fn expand(&self, bytes: usize) -> Result<(), MemoryError> {
        self.charge(bytes)?;
        self.charges.record_allocation(bytes);
        self.own.fetch_add(bytes, Relaxed);
        Ok(())
    }

    /// Credits `bytes` of the pool's own, which have been freed.
    pub(crate) fn contract(&self, bytes: usize) {
        self.own.fetch_sub(bytes, Relaxed);
        self.charges.record_deallocation(bytes);
        self.account.credit(bytes);
    }

    /// Charges a new object with `size` bytes on the heap. One without any is never refused.
    ///
    /// # Errors
    /// The account's refusal, explained. Then there is no such object in the books.
    pub(crate) fn create(&self, size: usize) -> Result<(), MemoryError> {
        if size > 0 {
            self.charge(size)?;
        }
        self.charges.record_allocation(size);
        self.created.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Moves an object that is charged `size` here to the books `to`: it is charged there before it is
    /// credited here, and neither where both have one account.
    ///
    /// # Errors
    /// The other account's refusal, explained. Then the object is in these books as before.
    pub(crate) fn pass(&self, to: &Self, size: usize) -> Result<(), MemoryError> {
        let moves = size > 0 && !self.account.same_account(&to.account);
        if moves {
            to.charge(size)?;
        }
        to.charges.record_allocation(size);
        self.charges.record_deallocation(size);
        if moves {
            self.account.credit(size);
        }
        Ok(())
    }

    /// Changes what an object is charged from `old` to `new`. `false` if the account refuses; then
    /// it is still `old`.
    pub(crate) fn resize(&self, old: usize, new: usize) -> bool {
        if old == new {
            return true;
        }
        if let Some(more) = new.checked_sub(old) {
            if self.account.try_charge(more).is_err() {
                return false;
            }
            self.charges.record_grow(more);
        } else {
            self.charges.record_shrink(old - new);
            self.account.credit(old - new);
        }
        true
    }

    /// An object that was charged `size` has been dropped.
    pub(crate) fn destroy(&self, size: usize, cause: Cause) {
        self.destroyed[cause as usize].fetch_add(1, Relaxed);
        self.release(size);
    }

    /// An object that was charged `size` has left the pool.
    pub(crate) fn detach(&self, size: usize) {
        self.detached.fetch_add(1, Relaxed);
        self.release(size);
    }

    /// Credits an object. (Alone: for the end of the pool, when nobody can ask any more.)
    pub(crate) fn release(&self, size: usize) {
        self.charges.record_deallocation(size);
        if size > 0 {
            self.account.credit(size);
        }
    }

    /// An object had to be made for a get.
    pub(crate) fn lend_fresh(&self) {
        self.fresh.fetch_add(1, Relaxed);
    }

    /// Somebody stands in line, until what this returns is dropped.
    pub(crate) fn wait(&self) -> Wait<'_> {
        let before = self.waits.count.fetch_add(1, Relaxed);
        // Reading the clock takes as long as being handed something.
        let stands_for = if before < ALL_TIMED { 1 } else { ONE_TIMED_OF };
        let timed = before % stands_for == 0;
        Wait { waits: &self.waits, since: timed.then(Instant::now), stands_for }
    }

    /// Bytes that are charged now.
    pub(crate) fn used(&self) -> usize {
        usize::try_from(self.charges.current_usage()).unwrap_or(usize::MAX)
    }

    /// Of these, for objects.
    pub(crate) fn used_by_objects(&self) -> usize {
        self.used().saturating_sub(self.own.load(Relaxed))
    }

    /// What is charged.
    pub(crate) fn charges(&self) -> StatsSnapshot {
        self.charges.snapshot()
    }

    /// The figures that these books know; the slots know the others.
    pub(crate) fn stats(&self, gets: u64) -> PoolStats {
        // Ends are read before beginnings, so that an end is never seen without its beginning.
        let destroyed = |cause: Cause| self.destroyed[cause as usize].load(Relaxed);
        let mut stats = PoolStats {
            destroyed: self.destroyed.iter().map(|count| count.load(Relaxed)).sum(),
            invalidated: destroyed(Cause::Invalid),
            quarantined: destroyed(Cause::Quarantined),
            oversized: destroyed(Cause::Oversized),
            unaffordable: destroyed(Cause::Unaffordable),
            reclaimed: destroyed(Cause::Reclaimed),
            surplus: destroyed(Cause::Surplus),
            expired: destroyed(Cause::Expired),
            spoiled: destroyed(Cause::Spoiled),
            detached: self.detached.load(Relaxed),
            gets,
            reuses: gets.saturating_sub(self.fresh.load(Relaxed)),
            waited: self.waits.count.load(Relaxed),
            wait_time: Duration::from_nanos(self.waits.nanos.load(Relaxed)),
            ..PoolStats::default()
        };
        stats.created = self.created.load(Relaxed);
        stats
    }
}

impl<A: Account> Drop for Books<A> {
    fn drop(&mut self) {
        self.account.credit(*self.own.get_mut());
    }
}
