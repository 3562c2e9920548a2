//! What can be said of one entry when it is inserted.

use std::{hash::Hash, time::Duration};

use nebula_memory_core::MemoryError;

use crate::{
    Kit,
    tags::{TagList, hash_of},
    times::sealed::Times,
};

/// What can be said of one entry when it is inserted: how long it lives, its tags, and whether it is
/// pinned.
///
/// ```
/// use std::time::Duration;
/// use nebula_cache::{CacheConfig, ConcurrentComputeCache, EntryOptions};
///
/// let cache = ConcurrentComputeCache::<u64, String>::builder(CacheConfig::default())
///     .with_expiry()
///     .with_tags()
///     .build()?;
/// let options = EntryOptions::new().ttl(Duration::from_secs(60)).tag("user:7");
/// cache.insert_with(1, "profile".to_owned(), options)?;
/// assert_eq!(cache.invalidate_tag("user:7"), 1);
/// assert_eq!(cache.get(&1), None);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[must_use = "options do nothing until an entry is inserted with them"]
pub struct EntryOptions {
    pub(crate) ttl: Option<Duration>,
    pub(crate) idle: Option<Duration>,
    pub(crate) tags: TagList,
    pub(crate) pinned: bool,
}

impl EntryOptions {
    /// Nothing in particular.
    pub fn new() -> Self {
        Self::default()
    }

    /// The entry lives so long at most, instead of [`CacheConfig::ttl`](crate::CacheConfig::ttl).
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }

    /// The entry lives so long without being used, instead of
    /// [`CacheConfig::idle`](crate::CacheConfig::idle).
    pub const fn idle(mut self, idle: Duration) -> Self {
        self.idle = Some(idle);
        self
    }

    /// Gives the entry one more tag, of four at most; see
    /// [`invalidate_tag`](crate::ConcurrentComputeCache::invalidate_tag). A tag is anything that can
    /// be hashed; four bytes of the hash are kept.
    pub fn tag(mut self, tag: impl Hash) -> Self {
        self.tags.push(hash_of(tag));
        self
    }

    /// The entry is [pinned](crate::ConcurrentComputeCache::pin) from the start.
    pub const fn pinned(mut self) -> Self {
        self.pinned = true;
        self
    }

    /// Checks that entries of a cache of this kind keep what is asked for.
    pub(crate) fn check<O: Kit>(&self) -> Result<(), MemoryError> {
        let times = self.ttl.is_some() && !O::Times::KEPT;
        if times || (self.idle.is_some() && !O::Times::IDLE) {
            return Err(MemoryError::invalid_config(
                "options",
                "a time to live or to lie idle",
                "entries of this cache keep no such time; build it `with_expiry()` or \
                 `with_idle_expiry()`",
            ));
        }
        Ok(())
    }
}
