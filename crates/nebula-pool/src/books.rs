//! The books of a pool: what was made, lent and destroyed, and what is charged for it.
//!
//! Nothing here touches an object. The counters are no part of what the model checker looks at, so
//! that they are std's own atomics; none of them is written on the path of a get that finds an
//! object and a return that keeps it (those are counted in the slots), except for the peak, if it
//! is wanted.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

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
}

/// One set of books.
#[derive(Debug)]
pub(crate) struct Books<A: Account> {
    account: A,
    /// What the pool itself takes: its table and its factory. Charged from the making of the books
    /// to their drop.
    own: usize,
    /// What is charged: one allocation for the pool itself and one for each object.
    charges: AllocatorStats,
    created: AtomicU64,
    destroyed: [AtomicU64; 5],
    detached: AtomicU64,
    /// Gets for which an object had to be made.
    fresh: AtomicU64,
    waited: AtomicU64,
    lent: Option<Lent>,
}

/// How many objects are lent, for the peak.
#[derive(Debug, Default)]
struct Lent {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl<A: Account> Books<A> {
    /// Opens the books with `own` bytes charged for the pool itself.
    ///
    /// # Errors
    /// The account's refusal, explained.
    pub(crate) fn open(account: A, own: usize, track_peak: bool) -> Result<Self, MemoryError> {
        if let Err(error) = account.try_charge(own) {
            return Err(account.explain(error));
        }
        let charges = AllocatorStats::new();
        charges.record_allocation(own);
        Ok(Self {
            account,
            own,
            charges,
            created: AtomicU64::new(0),
            destroyed: Default::default(),
            detached: AtomicU64::new(0),
            fresh: AtomicU64::new(0),
            waited: AtomicU64::new(0),
            lent: track_peak.then(Lent::default),
        })
    }

    pub(crate) const fn account(&self) -> &A {
        &self.account
    }

    /// Charges a new object with `size` bytes on the heap. One without any is never refused.
    ///
    /// # Errors
    /// The account's refusal, explained. Then there is no such object in the books.
    pub(crate) fn create(&self, size: usize) -> Result<(), MemoryError> {
        if size > 0 {
            if let Err(error) = self.account.try_charge(size) {
                return Err(self.account.explain(error));
            }
        }
        self.charges.record_allocation(size);
        self.created.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Changes what an object is charged from `old` to `new`. `false` if the account refuses; then
    /// it is still `old`.
    pub(crate) fn resize(&self, old: usize, new: usize) -> bool {
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
        self.uncharge(size);
    }

    /// An object that was charged `size` has left the pool.
    pub(crate) fn detach(&self, size: usize) {
        self.detached.fetch_add(1, Relaxed);
        self.uncharge(size);
    }

    /// Credits an object. (Alone: for the end of the pool, when nobody can ask any more.)
    pub(crate) fn uncharge(&self, size: usize) {
        self.charges.record_deallocation(size);
        if size > 0 {
            self.account.credit(size);
        }
    }

    /// An object had to be made for a get.
    pub(crate) fn lend_fresh(&self) {
        self.fresh.fetch_add(1, Relaxed);
    }

    /// Somebody stands in line.
    pub(crate) fn wait(&self) {
        self.waited.fetch_add(1, Relaxed);
    }

    #[inline]
    pub(crate) fn lend(&self) {
        if let Some(lent) = &self.lent {
            let now = lent.now.fetch_add(1, Relaxed) + 1;
            if now > lent.peak.load(Relaxed) {
                lent.peak.fetch_max(now, Relaxed);
            }
        }
    }

    #[inline]
    pub(crate) fn come_back(&self) {
        if let Some(lent) = &self.lent {
            lent.now.fetch_sub(1, Relaxed);
        }
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
            invalidated: destroyed(Cause::Invalid),
            quarantined: destroyed(Cause::Quarantined),
            oversized: destroyed(Cause::Oversized),
            unaffordable: destroyed(Cause::Unaffordable),
            reclaimed: destroyed(Cause::Reclaimed),
            detached: self.detached.load(Relaxed),
            gets,
            reuses: gets.saturating_sub(self.fresh.load(Relaxed)),
            waited: self.waited.load(Relaxed),
            peak_lent: self.lent.as_ref().map(|lent| lent.peak.load(Relaxed)),
            ..PoolStats::default()
        };
        stats.destroyed = stats.invalidated
            + stats.quarantined
            + stats.oversized
            + stats.unaffordable
            + stats.reclaimed;
        stats.created = self.created.load(Relaxed);
        stats
    }
}

impl<A: Account> Drop for Books<A> {
    fn drop(&mut self) {
        self.account.credit(self.own);
    }
}
