//! What a level is whose calls are awaited.

use std::{
    future::{Future, ready},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use super::{Hit, Level, LevelError};

/// A call to an [`AsyncLevel`] that is under way.
pub type LevelFuture<'l, R> = Pin<Box<dyn Future<Output = Result<R, LevelError>> + Send + 'l>>;

/// A [`Level`] whose calls are awaited, below level one of an
/// [`AsyncMultiLevelCache`](crate::AsyncMultiLevelCache).
///
/// All that is said of a [`Level`] holds: it may forget, it invents nothing; an error leaves it open
/// what became of the key, and a panic counts as an error. Besides:
///
/// - A future does nothing before it is polled.
/// - **A future may be dropped at any time**, when a time-out is over or nobody waits any more. That
///   leaves it open what became of the key, as an error does; but once a later call for that key has
///   begun, nothing of the dropped one may happen any more. (What has been sent to a server goes
///   before what is sent later over the same connection. [`Blocking`](crate::Blocking) sees to it by
///   itself.)
///
/// A [`Level`] is used as one by [`InPlace`], or by [`Blocking`](crate::Blocking) if it is slow.
///
/// ```
/// use std::{collections::HashMap, future::ready, sync::Mutex, time::Duration};
/// use nebula_cache::{AsyncLevel, Hit, LevelFuture};
///
/// #[derive(Default)]
/// struct Shelf(Mutex<HashMap<u64, String>>);
///
/// impl AsyncLevel<u64, String> for Shelf {
///     fn name(&self) -> &str {
///         "shelf"
///     }
///     fn get<'l>(&'l self, key: &'l u64) -> LevelFuture<'l, Option<Hit<String>>> {
///         Box::pin(async { Ok(self.0.lock().unwrap().get(key).map(|v| Hit::new(v.clone(), None))) })
///     }
///     fn put<'l>(
///         &'l self, key: &'l u64, value: &'l String, _: Option<Duration>,
///     ) -> LevelFuture<'l, ()> {
///         Box::pin(async {
///             self.0.lock().unwrap().insert(*key, value.clone());
///             Ok(())
///         })
///     }
///     fn remove<'l>(&'l self, key: &'l u64) -> LevelFuture<'l, ()> {
///         Box::pin(async {
///             self.0.lock().unwrap().remove(key);
///             Ok(())
///         })
///     }
///     fn clear(&self) -> LevelFuture<'_, ()> {
///         Box::pin(async {
///             self.0.lock().unwrap().clear();
///             Ok(())
///         })
///     }
/// }
/// ```
pub trait AsyncLevel<K, V>: Send + Sync {
    /// What it is called in statistics.
    fn name(&self) -> &str;

    /// As [`Level::get`].
    fn get<'l>(&'l self, key: &'l K) -> LevelFuture<'l, Option<Hit<V>>>;

    /// As [`Level::put`].
    fn put<'l>(&'l self, key: &'l K, value: &'l V, ttl: Option<Duration>) -> LevelFuture<'l, ()>;

    /// As [`Level::remove`].
    fn remove<'l>(&'l self, key: &'l K) -> LevelFuture<'l, ()>;

    /// As [`Level::clear`].
    fn clear(&self) -> LevelFuture<'_, ()>;

    /// As [`Level::flush`].
    fn flush(&self) -> LevelFuture<'_, ()> {
        Box::pin(ready(Ok(())))
    }

    /// As [`Level::maintain`].
    fn maintain(&self, work: usize) -> LevelFuture<'_, usize> {
        let _ = work;
        Box::pin(ready(Ok(0)))
    }
}

impl<K, V, L: AsyncLevel<K, V> + ?Sized> AsyncLevel<K, V> for Arc<L> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn get<'l>(&'l self, key: &'l K) -> LevelFuture<'l, Option<Hit<V>>> {
        (**self).get(key)
    }

    fn put<'l>(&'l self, key: &'l K, value: &'l V, ttl: Option<Duration>) -> LevelFuture<'l, ()> {
        (**self).put(key, value, ttl)
    }

    fn remove<'l>(&'l self, key: &'l K) -> LevelFuture<'l, ()> {
        (**self).remove(key)
    }

    fn clear(&self) -> LevelFuture<'_, ()> {
        (**self).clear()
    }

    fn flush(&self) -> LevelFuture<'_, ()> {
        (**self).flush()
    }

    fn maintain(&self, work: usize) -> LevelFuture<'_, usize> {
        (**self).maintain(work)
    }
}

/// A quick [`Level`], more memory for example, as an [`AsyncLevel`]: it is called by the thread that
/// polls, and awaited by nobody.
///
/// ```
/// use nebula_cache::{AsyncMultiLevelCache, CacheConfig, ConcurrentComputeCache, InPlace};
///
/// let many = CacheConfig::builder().entries(1_000_000).build()?;
/// let below = ConcurrentComputeCache::<u64, u64>::new(many)?;
/// let first = ConcurrentComputeCache::builder(CacheConfig::default());
/// let cache = AsyncMultiLevelCache::builder(first).level(InPlace::new(below)).build()?;
/// # assert!(cache.is_empty());
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct InPlace<L>(L);

impl<L> InPlace<L> {
    /// That level.
    pub const fn new(level: L) -> Self {
        Self(level)
    }
}

impl<K, V, L> AsyncLevel<K, V> for InPlace<L>
where
    K: Sync,
    V: Send + Sync,
    L: Level<K, V>,
{
    fn name(&self) -> &str {
        self.0.name()
    }

    fn get<'l>(&'l self, key: &'l K) -> LevelFuture<'l, Option<Hit<V>>> {
        Box::pin(async { self.0.get(key) })
    }

    fn put<'l>(&'l self, key: &'l K, value: &'l V, ttl: Option<Duration>) -> LevelFuture<'l, ()> {
        Box::pin(async move { self.0.put(key, value, ttl) })
    }

    fn remove<'l>(&'l self, key: &'l K) -> LevelFuture<'l, ()> {
        Box::pin(async { self.0.remove(key) })
    }

    fn clear(&self) -> LevelFuture<'_, ()> {
        Box::pin(async { self.0.clear() })
    }

    fn flush(&self) -> LevelFuture<'_, ()> {
        Box::pin(async { self.0.flush() })
    }

    fn maintain(&self, work: usize) -> LevelFuture<'_, usize> {
        Box::pin(async move { self.0.maintain(work) })
    }
}
