//! What a cache has done.

use std::{
    fmt,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use crate::{hooks::Hooks, mode::Mode};

/// What a cache has done since it was made, and what it holds, as plain numbers.
///
/// While other threads work, the figures may be from slightly different moments.
///
/// ```
/// use nebula_cache::{CacheConfig, ConcurrentComputeCache};
///
/// let cache = ConcurrentComputeCache::<u64, u64>::new(CacheConfig::default())?;
/// cache.insert(1, 10)?;
/// assert_eq!((cache.get(&1), cache.get(&2)), (Some(10), None));
/// let stats = cache.stats();
/// assert_eq!((stats.hits, stats.misses, stats.inserts), (1, 1, 1));
/// assert_eq!(stats.hit_rate(), Some(0.5));
/// println!("{stats}");
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct CacheStats {
    /// Lookups that found their key (`get`, and the first look of `get_or_compute`).
    pub hits: u64,
    /// Lookups that did not, expired entries included.
    pub misses: u64,
    /// Values placed in the cache, replacements included.
    pub inserts: u64,
    /// Entries taken out to make room ([`Capacity`](crate::RemovalCause::Capacity)).
    pub evicted: u64,
    /// Entries taken out to give memory back ([`Reclaimed`](crate::RemovalCause::Reclaimed)).
    pub reclaimed: u64,
    /// Entries taken out because their time was over.
    pub expired: u64,
    /// Values whose place another took.
    pub replaced: u64,
    /// Entries removed by request.
    pub removed: u64,
    /// Values that the cache or its account refused: handed back by `insert`, not cached by
    /// `get_or_compute`.
    pub rejected: u64,
    /// Computations that `get_or_compute` started.
    pub computes: u64,
    /// Those of them that returned an error or panicked.
    pub failures: u64,
    /// Times that a caller waited for another's computation.
    pub waits: u64,
    /// Nanoseconds that computations took, if
    /// [`time_computations`](crate::CacheConfig::time_computations) is set.
    pub compute_nanos: u64,
    /// Entries that are there now.
    pub entries: u64,
    /// What they take of the capacity: entries or bytes.
    pub weight: u64,
}

impl CacheStats {
    /// Lookups, found or not.
    #[must_use]
    pub const fn lookups(&self) -> u64 {
        self.hits.saturating_add(self.misses)
    }

    /// The share of lookups that found their key, from 0 to 1; `None` if there were none.
    #[must_use]
    pub fn hit_rate(&self) -> Option<f64> {
        (self.lookups() != 0).then(|| self.hits as f64 / self.lookups() as f64)
    }

    /// Entries that the cache took out for lack of room or memory.
    #[must_use]
    pub const fn evictions(&self) -> u64 {
        self.evicted.saturating_add(self.reclaimed)
    }

    /// What a computation takes on average; `None` if none was measured.
    #[must_use]
    pub const fn mean_compute_time(&self) -> Option<Duration> {
        if self.computes == 0 || self.compute_nanos == 0 {
            return None;
        }
        Some(Duration::from_nanos(self.compute_nanos / self.computes))
    }
}

impl fmt::Display for CacheStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hit_rate() {
            Some(rate) => write!(f, "{:.1} % of {} lookups hit", rate * 100.0, self.lookups())?,
            None => f.write_str("no lookups")?,
        }
        write!(
            f,
            "; {} entries; {} inserts, {} evicted, {} reclaimed, {} expired, {} replaced, {} \
             removed, {} rejected; {} computes ({} failed), {} waits",
            self.entries,
            self.inserts,
            self.evicted,
            self.reclaimed,
            self.expired,
            self.replaced,
            self.removed,
            self.rejected,
            self.computes,
            self.failures,
            self.waits
        )?;
        match self.mean_compute_time() {
            Some(time) => write!(f, ", {time:?} a compute"),
            None => Ok(()),
        }
    }
}

/// The counters that belong to no shard. Those of the hit path are striped where threads share.
pub(crate) struct Counters<M: Mode> {
    pub(crate) hits: M::Counter,
    pub(crate) misses: M::Counter,
    pub(crate) rejected: AtomicU64,
    pub(crate) computes: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) waits: AtomicU64,
    pub(crate) compute_nanos: AtomicU64,
}

impl<M: Mode> Default for Counters<M> {
    fn default() -> Self {
        Self {
            hits: M::Counter::default(),
            misses: M::Counter::default(),
            rejected: AtomicU64::new(0),
            computes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            waits: AtomicU64::new(0),
            compute_nanos: AtomicU64::new(0),
        }
    }
}

/// A computation that is counted, timed if that is wished, and has failed unless it is said to have
/// succeeded.
pub(crate) struct Timing<'c, K, V, M: Mode> {
    counters: &'c Counters<M>,
    hooks: &'c Hooks<K, V, M>,
    start: u64,
    succeeded: bool,
}

impl<M: Mode> Counters<M> {
    /// Counts a computation; returns when it began, if that is of interest.
    pub(crate) fn begin<K, V>(&self, hooks: &Hooks<K, V, M>) -> u64 {
        self.computes.fetch_add(1, Relaxed);
        if hooks.time_computations { hooks.now() } else { 0 }
    }

    /// Counts its end.
    pub(crate) fn end<K, V>(&self, hooks: &Hooks<K, V, M>, start: u64, succeeded: bool) {
        if !succeeded {
            self.failures.fetch_add(1, Relaxed);
        }
        if hooks.time_computations {
            let took = hooks.now().saturating_sub(start);
            self.compute_nanos.fetch_add(took, Relaxed);
        }
    }
}

impl<'c, K, V, M: Mode> Timing<'c, K, V, M> {
    pub(crate) fn start(counters: &'c Counters<M>, hooks: &'c Hooks<K, V, M>) -> Self {
        Self { counters, hooks, start: counters.begin(hooks), succeeded: false }
    }

    pub(crate) fn succeed(mut self) {
        self.succeeded = true;
    }
}

impl<K, V, M: Mode> Drop for Timing<'_, K, V, M> {
    fn drop(&mut self) {
        self.counters.end(self.hooks, self.start, self.succeeded);
    }
}
