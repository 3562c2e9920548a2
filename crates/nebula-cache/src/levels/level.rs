//! What a level is, to who looks into it.

use std::time::Duration;

use super::LevelError;

/// What a level found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Hit<V> {
    /// The value.
    pub value: V,
    /// How long it has still to live; `None` is without end.
    pub ttl: Option<Duration>,
}

impl<V> Hit<V> {
    /// A value that lives for `ttl` from now on.
    pub const fn new(value: V, ttl: Option<Duration>) -> Self {
        Self { value, ttl }
    }
}

/// A store of keys and values below level one of a [`MultiLevelCache`](crate::MultiLevelCache).
///
/// It may forget anything at any time, and must never invent anything: what [`get`](Self::get)
/// returns was [`put`](Self::put) under that key last, and has not been removed since. Calls for one
/// key come one after the other, but for removals that make up for earlier errors; calls for
/// different keys come at the same time. An error leaves it open what became of the key; the cache
/// asks nothing about it until it has been removed or written.
///
/// A panic counts as an error.
///
/// ```
/// use std::{collections::HashMap, sync::Mutex, time::Duration};
/// use nebula_cache::{CacheConfig, ConcurrentComputeCache, Hit, Level, LevelError, MultiLevelCache};
///
/// #[derive(Default)]
/// struct Shelf(Mutex<HashMap<u64, String>>);
///
/// impl Level<u64, String> for Shelf {
///     fn name(&self) -> &str {
///         "shelf"
///     }
///     fn get(&self, key: &u64) -> Result<Option<Hit<String>>, LevelError> {
///         Ok(self.0.lock().unwrap().get(key).map(|value| Hit::new(value.clone(), None)))
///     }
///     fn put(&self, key: &u64, value: &String, _: Option<Duration>) -> Result<(), LevelError> {
///         self.0.lock().unwrap().insert(*key, value.clone());
///         Ok(())
///     }
///     fn remove(&self, key: &u64) -> Result<(), LevelError> {
///         self.0.lock().unwrap().remove(key);
///         Ok(())
///     }
///     fn clear(&self) -> Result<(), LevelError> {
///         self.0.lock().unwrap().clear();
///         Ok(())
///     }
/// }
///
/// let first = ConcurrentComputeCache::builder(CacheConfig::default());
/// let cache = MultiLevelCache::builder(first).level(Shelf::default()).build()?;
/// cache.insert(1, "one".to_owned())?;
/// cache.evict(usize::MAX); // from level one
/// assert_eq!(cache.get(&1).as_deref(), Some("one"));
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub trait Level<K, V>: Send + Sync {
    /// What it is called in statistics.
    fn name(&self) -> &str;

    /// Looks `key` up.
    ///
    /// # Errors
    /// Whatever went wrong; [`LevelError::Corrupt`] for what is not what was written.
    fn get(&self, key: &K) -> Result<Option<Hit<V>>, LevelError>;

    /// Holds `value` under `key`, for `ttl` at most, instead of what it held there.
    ///
    /// # Errors
    /// Whatever went wrong; [`LevelError::Refused`] for a value that it does not take.
    fn put(&self, key: &K, value: &V, ttl: Option<Duration>) -> Result<(), LevelError>;

    /// Holds nothing under `key` any more.
    ///
    /// # Errors
    /// Whatever went wrong.
    fn remove(&self, key: &K) -> Result<(), LevelError>;

    /// Holds nothing at all any more.
    ///
    /// # Errors
    /// Whatever went wrong.
    fn clear(&self) -> Result<(), LevelError>;

    /// Makes what has been written durable, as far as it ever is. Does nothing by default.
    ///
    /// # Errors
    /// Whatever went wrong.
    fn flush(&self) -> Result<(), LevelError> {
        Ok(())
    }

    /// Does what is due (removing expired entries, for example), `work` entries of it at most, and
    /// returns how many entries went. Nothing by default.
    ///
    /// # Errors
    /// Whatever went wrong.
    fn maintain(&self, work: usize) -> Result<usize, LevelError> {
        let _ = work;
        Ok(0)
    }
}

impl<K, V, L: Level<K, V> + ?Sized> Level<K, V> for std::sync::Arc<L> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn get(&self, key: &K) -> Result<Option<Hit<V>>, LevelError> {
        (**self).get(key)
    }

    fn put(&self, key: &K, value: &V, ttl: Option<Duration>) -> Result<(), LevelError> {
        (**self).put(key, value, ttl)
    }

    fn remove(&self, key: &K) -> Result<(), LevelError> {
        (**self).remove(key)
    }

    fn clear(&self) -> Result<(), LevelError> {
        (**self).clear()
    }

    fn flush(&self) -> Result<(), LevelError> {
        (**self).flush()
    }

    fn maintain(&self, work: usize) -> Result<usize, LevelError> {
        (**self).maintain(work)
    }
}
