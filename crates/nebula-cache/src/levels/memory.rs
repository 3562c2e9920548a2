//! A cache in memory as a level: a larger one below a small one, or one with another policy.

use std::{
    hash::{BuildHasher, Hash},
    time::Duration,
};

use nebula_memory_core::MemoryError;

use super::{Hit, Level, LevelError};
use crate::{
    ConcurrentComputeCache, EntryOptions, Kit,
    times::{NEVER, nanos, sealed::Times},
};

/// Values with a time to live are taken if the cache was built
/// [`with_expiry`](crate::CacheBuilder::with_expiry), and refused otherwise. A cache that is to be
/// looked at from outside goes in as an `Arc`.
impl<K, V, O> Level<K, V> for ConcurrentComputeCache<K, V, O>
where
    K: Hash + Eq + Clone,
    V: Clone,
    O: Kit,
    O::Hasher: BuildHasher,
    Self: Send + Sync,
{
    fn name(&self) -> &'static str {
        "memory"
    }

    fn get(&self, key: &K) -> Result<Option<Hit<V>>, LevelError> {
        let hash = self.engine.hash(key);
        let read = |entry: &crate::store::Entry<K, V, O>, _| {
            (entry.value.clone(), entry.kept.times.deadline())
        };
        let Some((value, deadline)) = self.engine.look_up(hash, key, read) else { return Ok(None) };
        let left =
            || Duration::from_nanos(deadline.saturating_sub(nanos(self.engine.hooks.clock.now())));
        Ok(Some(Hit::new(value, (deadline != NEVER).then(left))))
    }

    fn put(&self, key: &K, value: &V, ttl: Option<Duration>) -> Result<(), LevelError> {
        let mut options = EntryOptions::new();
        if let Some(ttl) = ttl {
            options = options.ttl(ttl);
        }
        match self.insert_with(key.clone(), value.clone(), options) {
            Ok(_) => Ok(()),
            Err(refused) => {
                Self::remove(self, key);
                Err(LevelError::Refused(MemoryError::from(refused)))
            }
        }
    }

    fn remove(&self, key: &K) -> Result<(), LevelError> {
        Self::remove(self, key);
        Ok(())
    }

    fn clear(&self) -> Result<(), LevelError> {
        Self::clear(self);
        Ok(())
    }

    /// Looks at `work` slots.
    fn maintain(&self, work: usize) -> Result<usize, LevelError> {
        Ok(Self::maintain(self, work))
    }
}
