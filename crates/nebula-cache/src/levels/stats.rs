//! What the levels have done.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::BreakerState;
use crate::CacheStats;

/// What a [`MultiLevelCache`](crate::MultiLevelCache) has done, level by level.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct MultiLevelStats {
    /// Level one.
    pub first: CacheStats,
    /// The levels below, in their order.
    pub levels: Vec<LevelStats>,
    /// Writes that are left to a thread; all zero if there is none.
    pub queue: QueueStats,
}

/// What one level below level one has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct LevelStats {
    /// The level's name.
    pub name: String,
    /// Lookups that found their key here.
    pub hits: u64,
    /// Lookups that did not, corrupt entries included.
    pub misses: u64,
    /// Calls that failed, panics included.
    pub errors: u64,
    /// Calls that took as long as [`Breaker::slow`](crate::Breaker::slow) or longer.
    pub slow: u64,
    /// Operations that did without this level: its breaker is open, or its word about the key is not
    /// to be taken.
    pub bypassed: u64,
    /// Values written.
    pub writes: u64,
    /// Keys removed.
    pub removals: u64,
    /// Values that were not written because the level does not take them, or the queue was full.
    pub dropped: u64,
    /// Entries that were not what was written.
    pub corrupt: u64,
    /// How often the breaker has opened.
    pub opened: u64,
    /// How the breaker stands.
    pub breaker: BreakerState,
    /// Keys about which the level's word is not to be taken now; `u64::MAX` if it is to be cleared
    /// before it is asked about any.
    pub doubts: u64,
}

/// What the queue of a cache that [writes behind](crate::Writing::Behind) has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct QueueStats {
    /// Writes and removals that were queued.
    pub queued: u64,
    /// Those that took the place of an earlier one of their key that had not been done.
    pub merged: u64,
    /// Those that found the queue full and were done by the caller.
    pub written: u64,
    /// Those that found the queue full and were dropped.
    pub dropped: u64,
    /// Lookups that were answered by what is queued.
    pub hits: u64,
    /// Keys that wait in the queue now, or are being written.
    pub waiting: u64,
}

/// The counters of a level.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) hits: AtomicU64,
    pub(crate) misses: AtomicU64,
    pub(crate) errors: AtomicU64,
    pub(crate) slow: AtomicU64,
    pub(crate) bypassed: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) removals: AtomicU64,
    pub(crate) dropped: AtomicU64,
    pub(crate) corrupt: AtomicU64,
}

impl Counts {
    pub(crate) fn stats(&self, name: &str) -> LevelStats {
        let get = |counter: &AtomicU64| counter.load(Relaxed);
        LevelStats {
            name: name.to_owned(),
            hits: get(&self.hits),
            misses: get(&self.misses),
            errors: get(&self.errors),
            slow: get(&self.slow),
            bypassed: get(&self.bypassed),
            writes: get(&self.writes),
            removals: get(&self.removals),
            dropped: get(&self.dropped),
            corrupt: get(&self.corrupt),
            ..LevelStats::default()
        }
    }
}

#[inline]
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
