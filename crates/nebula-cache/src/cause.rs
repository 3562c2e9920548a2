//! Why an entry left.

/// Why an entry left a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum RemovalCause {
    /// It made room for others: the cache was full.
    Capacity,
    /// Its memory was asked back, by `evict` or under pressure.
    Reclaimed,
    /// Its time was over.
    Expired,
    /// Another value took its place under the same key.
    Replaced,
    /// It was removed: by `remove`, `retain`, `invalidate_tag` or `clear`.
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
