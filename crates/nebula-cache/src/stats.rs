//! What a cache has done.

use std::{fmt, sync::atomic::AtomicU64};

use nebula_memory_core::StripedCounter;

/// What a cache has done since it was made, as plain numbers.
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
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct CacheStats {
    /// Lookups that found their key (`get`, and the first look of `get_or_compute`).
    pub hits: u64,
    /// Lookups that did not.
    pub misses: u64,
    /// Values placed in the cache, replacements included.
    pub inserts: u64,
    /// Entries taken out to make room, or to give memory back.
    pub evictions: u64,
    /// Values that the cache or its account refused: handed back by `insert`, not cached by
    /// `get_or_compute`.
    pub rejected: u64,
    /// Computations that `get_or_compute` started.
    pub computes: u64,
    /// Times that a caller waited for another's computation.
    pub waits: u64,
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
}

impl fmt::Display for CacheStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.hit_rate() {
            Some(rate) => write!(f, "{:.1} % of {} lookups hit", rate * 100.0, self.lookups())?,
            None => f.write_str("no lookups")?,
        }
        write!(
            f,
            "; {} inserts, {} evictions, {} rejected, {} computes, {} waits",
            self.inserts, self.evictions, self.rejected, self.computes, self.waits
        )
    }
}

/// The counters that belong to no shard. Those of the hit path are striped.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) hits: StripedCounter,
    pub(crate) misses: StripedCounter,
    pub(crate) rejected: AtomicU64,
    pub(crate) computes: AtomicU64,
    pub(crate) waits: AtomicU64,
}
