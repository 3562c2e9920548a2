//! Counting what allocators do.

use std::{
    cell::Cell,
    fmt,
    sync::atomic::{
        AtomicU64, AtomicUsize, Ordering,
        Ordering::{Acquire, Relaxed, Release},
    },
};

use crossbeam_utils::CachePadded;

use crate::ByteSize;

/// What an allocator has done, in atomics: exact once no allocation is in flight.
///
/// The `record_*` methods may be called from any thread; an owner that is alone uses the
/// `record_*_exclusive` twins, which store plainly and cost a fraction.
///
/// ```
/// use nebula_memory_core::AllocatorStats;
///
/// let stats = AllocatorStats::new();
/// stats.record_allocation(100);
/// stats.record_allocation(50);
/// stats.record_deallocation(100);
/// let snapshot = stats.snapshot();
/// assert_eq!((snapshot.allocations, snapshot.deallocations), (2, 1));
/// assert_eq!((snapshot.current_usage(), snapshot.peak_usage), (50, 150));
/// ```
#[derive(Debug, Default)]
pub struct AllocatorStats {
    allocations: AtomicU64,
    deallocations: AtomicU64,
    bytes_allocated: AtomicU64,
    bytes_deallocated: AtomicU64,
    peak_usage: AtomicU64,
    /// Bytes in use. Kept beside the two sums because a peak taken from their difference would be
    /// wrong while several threads count.
    usage: AtomicU64,
}

/// Adds to a counter that only the caller writes.
#[inline]
fn add_exclusive(counter: &AtomicU64, by: u64, order: Ordering) -> u64 {
    let value = counter.load(Relaxed).wrapping_add(by);
    counter.store(value, order);
    value
}

impl AllocatorStats {
    /// All zero.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            allocations: AtomicU64::new(0),
            deallocations: AtomicU64::new(0),
            bytes_allocated: AtomicU64::new(0),
            bytes_deallocated: AtomicU64::new(0),
            peak_usage: AtomicU64::new(0),
            usage: AtomicU64::new(0),
        }
    }

    /// Counts a block of `bytes` bytes.
    #[inline]
    pub fn record_allocation(&self, bytes: usize) {
        self.allocations.fetch_add(1, Relaxed);
        self.record_grow(bytes);
    }

    /// Counts the end of a block of `bytes` bytes.
    #[inline]
    pub fn record_deallocation(&self, bytes: usize) {
        self.deallocations.fetch_add(1, Release);
        self.record_shrink(bytes);
    }

    /// Counts that a block became `by` bytes larger, wherever it now is.
    #[inline]
    pub fn record_grow(&self, by: usize) {
        self.bytes_allocated.fetch_add(by as u64, Relaxed);
        let usage = self.usage.fetch_add(by as u64, Relaxed).wrapping_add(by as u64);
        if usage > self.peak_usage.load(Relaxed) {
            self.peak_usage.fetch_max(usage, Relaxed);
        }
    }

    /// Counts that a block became `by` bytes smaller.
    #[inline]
    pub fn record_shrink(&self, by: usize) {
        self.bytes_deallocated.fetch_add(by as u64, Release);
        self.usage.fetch_sub(by as u64, Relaxed);
    }

    /// As [`record_allocation`](Self::record_allocation), for the only thread that counts here.
    #[inline]
    pub fn record_allocation_exclusive(&self, bytes: usize) {
        add_exclusive(&self.allocations, 1, Relaxed);
        self.record_grow_exclusive(bytes);
    }

    /// As [`record_deallocation`](Self::record_deallocation), for the only thread that counts here.
    #[inline]
    pub fn record_deallocation_exclusive(&self, bytes: usize) {
        add_exclusive(&self.deallocations, 1, Release);
        self.record_shrink_exclusive(bytes);
    }

    /// As [`record_grow`](Self::record_grow), for the only thread that counts here.
    #[inline]
    pub fn record_grow_exclusive(&self, by: usize) {
        add_exclusive(&self.bytes_allocated, by as u64, Relaxed);
        let usage = add_exclusive(&self.usage, by as u64, Relaxed);
        if usage > self.peak_usage.load(Relaxed) {
            self.peak_usage.store(usage, Relaxed);
        }
    }

    /// As [`record_shrink`](Self::record_shrink), for the only thread that counts here.
    #[inline]
    pub fn record_shrink_exclusive(&self, by: usize) {
        add_exclusive(&self.bytes_deallocated, by as u64, Release);
        add_exclusive(&self.usage, (by as u64).wrapping_neg(), Relaxed);
    }

    /// Bytes that are out now.
    #[must_use]
    pub fn current_usage(&self) -> u64 {
        self.usage.load(Relaxed)
    }

    /// The figures as they are now. While others count, they may be from slightly different
    /// moments.
    #[must_use]
    pub fn snapshot(&self) -> StatsSnapshot {
        // What ended is read before what began, so that an end is never seen without its beginning;
        // the releasing additions and these acquiring loads hold compilers and processors to it.
        let deallocations = self.deallocations.load(Acquire);
        let bytes_deallocated = self.bytes_deallocated.load(Acquire);
        StatsSnapshot {
            allocations: self.allocations.load(Relaxed),
            deallocations,
            bytes_allocated: self.bytes_allocated.load(Relaxed),
            bytes_deallocated,
            peak_usage: self.peak_usage.load(Relaxed),
        }
    }
}

/// The figures of [`AllocatorStats`] at one moment, as plain numbers. All are totals since the
/// allocator was made; bytes are those of the requested layouts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct StatsSnapshot {
    /// Blocks given out.
    pub allocations: u64,
    /// Blocks taken back.
    pub deallocations: u64,
    /// Bytes given out, growth of blocks included.
    pub bytes_allocated: u64,
    /// Bytes taken back, shrinking of blocks included.
    pub bytes_deallocated: u64,
    /// The most bytes that were out at one time.
    pub peak_usage: u64,
}

impl StatsSnapshot {
    /// Bytes that are out now.
    #[must_use]
    pub const fn current_usage(&self) -> u64 {
        self.bytes_allocated.saturating_sub(self.bytes_deallocated)
    }

    /// Blocks that are out now.
    #[must_use]
    pub const fn live_blocks(&self) -> u64 {
        self.allocations.saturating_sub(self.deallocations)
    }

    /// The sums of both; the peak becomes the sum of the peaks, an upper bound.
    #[must_use]
    pub const fn plus(&self, other: &Self) -> Self {
        Self {
            allocations: self.allocations.wrapping_add(other.allocations),
            deallocations: self.deallocations.wrapping_add(other.deallocations),
            bytes_allocated: self.bytes_allocated.wrapping_add(other.bytes_allocated),
            bytes_deallocated: self.bytes_deallocated.wrapping_add(other.bytes_deallocated),
            peak_usage: self.peak_usage.wrapping_add(other.peak_usage),
        }
    }
}

impl fmt::Display for StatsSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let size = |bytes: u64| ByteSize::new(usize::try_from(bytes).unwrap_or(usize::MAX));
        write!(
            f,
            "{} in {} blocks (peak {}; {} allocations of {}, {} freed)",
            size(self.current_usage()),
            self.live_blocks(),
            size(self.peak_usage),
            self.allocations,
            size(self.bytes_allocated),
            self.deallocations,
        )
    }
}

/// Something that may keep [`AllocatorStats`].
pub trait StatisticsProvider {
    /// The figures as they are now, or `None` if tracking is off.
    fn statistics(&self) -> Option<StatsSnapshot>;
}

impl StatisticsProvider for AllocatorStats {
    fn statistics(&self) -> Option<StatsSnapshot> {
        Some(self.snapshot())
    }
}

impl<S: StatisticsProvider + ?Sized> StatisticsProvider for &S {
    fn statistics(&self) -> Option<StatsSnapshot> {
        (**self).statistics()
    }
}

/// Stripes of a [`StripedCounter`] that belong to one thread each.
const OWN: usize = 8;

/// Stripes that all other threads share. With those above, sixteen cache lines, 2 KiB a counter on
/// most machines.
const SHARED: usize = 8;

/// A counter for hot paths that many threads run through: a thread adds in a cache line of its own,
/// as long as there are not many, and reading sums the lines up.
///
/// ```
/// use nebula_memory_core::StripedCounter;
/// let hits = StripedCounter::new();
/// hits.add(2);
/// assert_eq!(hits.sum(), 2);
/// ```
#[derive(Debug, Default)]
pub struct StripedCounter {
    /// Written by one thread each, with plain loads and stores.
    own: [CachePadded<AtomicU64>; OWN],
    shared: [CachePadded<AtomicU64>; SHARED],
}

// (Statistics are no part of the models that loom checks, so that these are std's own atomics and
// thread-locals.)

/// The stripe of a thread that has none yet.
const NONE: usize = usize::MAX;

/// Which own stripes have a thread.
static TAKEN: AtomicUsize = AtomicUsize::new(0);

std::thread_local! {
    /// The stripe of this thread: below [`OWN`] its own, above a shared one. Needs no `Drop`, so that
    /// it is always there.
    static STRIPE: Cell<usize> = const { Cell::new(NONE) };
    /// Gives an own stripe back when the thread ends.
    static OWNED: Owned = const { Owned(Cell::new(None)) };
}

struct Owned(Cell<Option<usize>>);

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(stripe) = self.0.take() {
            // What this thread counts from here on, it counts in a shared one.
            let _ = STRIPE.try_with(|own| own.set(OWN));
            // Release: the next owner goes on from what this one has counted.
            TAKEN.fetch_and(!(1 << stripe), Release);
        }
    }
}

/// The stripe of this thread, or [`NONE`].
#[inline]
fn stripe() -> usize {
    STRIPE.try_with(Cell::get).unwrap_or(OWN)
}

/// Finds a stripe for this thread.
#[cold]
fn assign() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let own = OWNED.try_with(|owned| {
        let take = |taken: usize| {
            let free = taken.trailing_ones() as usize;
            (free < OWN).then_some(taken | 1 << free)
        };
        let taken = TAKEN.fetch_update(Acquire, Relaxed, take).ok()?;
        let stripe = taken.trailing_ones() as usize;
        owned.0.set(Some(stripe));
        Some(stripe)
    });
    let shared = || OWN + NEXT.fetch_add(1, Relaxed) % SHARED;
    // (A thread that is about to end may have lost what would give a stripe back.)
    let stripe = own.ok().flatten().unwrap_or_else(shared);
    let _ = STRIPE.try_with(|own| own.set(stripe));
    stripe
}

impl StripedCounter {
    /// A counter at zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `by`.
    #[inline]
    pub fn add(&self, by: u64) {
        match self.own.get(stripe()) {
            Some(own) => {
                add_exclusive(own, by, Relaxed);
            }
            None => self.add_elsewhere(by),
        }
    }

    #[cold]
    fn add_elsewhere(&self, by: u64) {
        let stripe = match stripe() {
            NONE => assign(),
            stripe => stripe,
        };
        match self.own.get(stripe) {
            Some(own) => {
                add_exclusive(own, by, Relaxed);
            }
            None => {
                self.shared[stripe % SHARED].fetch_add(by, Relaxed);
            }
        }
    }

    /// All that was added, wrapping on overflow. Takes a load for each of 16 stripes.
    #[must_use]
    pub fn sum(&self) -> u64 {
        self.own
            .iter()
            .chain(&self.shared)
            .fold(0, |sum, stripe| sum.wrapping_add(stripe.load(Relaxed)))
    }
}
