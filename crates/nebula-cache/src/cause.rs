//! Why an entry left.

/// Why an entry left a cache, as a [listener](crate::CacheBuilder::with_listener) is told and the
/// [statistics](crate::CacheStats) count it. Entries that are dropped with their cache have no cause: they
/// are neither shown nor counted.
///
/// ```
/// use std::sync::mpsc;
/// use nebula_cache::{CacheConfig, ConcurrentComputeCache, RemovalCause};
///
/// let (sender, left) = mpsc::channel();
/// let cache = ConcurrentComputeCache::<u32, u32>::builder(CacheConfig::default())
///     .with_listener(move |key, value, cause| sender.send((*key, *value, cause)).unwrap())
///     .build()?;
/// cache.insert(1, 10)?;
/// cache.insert(1, 20)?;
/// cache.remove(&1);
/// let left: Vec<_> = left.try_iter().collect();
/// assert_eq!(left, [(1, 10, RemovalCause::Replaced), (1, 20, RemovalCause::Removed)]);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum RemovalCause {
    /// It made room for others: the cache was full, or its capacity was made smaller.
    Capacity,
    /// Its memory was asked back: by `evict`, under pressure, or because the account refused to be
    /// charged for another entry.
    Reclaimed,
    /// Its time was over, whoever came across it: a look-up, an insertion, `remove`, an eviction,
    /// `maintain`.
    Expired,
    /// Another value took its place under the same key.
    Replaced,
    /// It was removed: by `remove`, an `update` to nothing, `retain`, `invalidate_tag` or `clear` (of
    /// these the last two do not ask whether its time was over).
    Removed,
}

impl RemovalCause {
    /// How many there are.
    pub(crate) const COUNT: usize = 5;

    /// Whether the cache decided it, for lack of room or memory.
    #[must_use]
    pub const fn is_eviction(self) -> bool {
        matches!(self, Self::Capacity | Self::Reclaimed)
    }
}
