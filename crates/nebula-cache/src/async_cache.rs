//! The face for tasks. Computing is in `async_compute.rs`; everything else is that of the face for
//! threads, which is inside.

use std::{fmt, ops::Deref};

use nebula_memory_core::{MemoryError, MemoryUsage, PressureLevel, Reclaim};

use crate::{
    CacheConfig, ConcurrentComputeCache, Iter, Kit, SharedBuilder, With, builder::CacheBuilder,
};

/// A cache for many tasks, whose values are computed once, by futures.
///
/// It is a [`ConcurrentComputeCache`] whose computations are awaited: what waits for nobody (`get`,
/// `insert`, `remove`, tags, pins, iteration, statistics and so on) is used through `Deref`, and costs
/// what it costs there. What would block a thread there is awaited here:
/// [`get_or_compute`](Self::get_or_compute) and its kin, and [`update`](Self::update). Threads may use
/// the same cache at the same time by [`blocking`](Self::blocking), and share computations with tasks.
///
/// - Of all who ask for a key, one computes; the others wait in line, woken when there is a value.
/// - **Cancellation**: a future may be dropped at any time. If it was the one that computes, the first
///   in line computes in its place, with its own future; nobody else is woken.
/// - **Errors** are shared by those who wait at the time; the next to ask computes anew.
/// - **Panics** go to the caller whose future it was; the first in line computes.
/// - No lock is held where a future is polled or dropped, or a task is woken; a hit allocates
///   nothing, and neither does who computes while nothing else is under way near it.
/// - It depends on no runtime. The futures are `Send` if keys, values and what is passed are.
///
/// ```
/// use nebula_cache::{AsyncCache, CacheConfig};
/// # use std::{pin::pin, task::{Context, Poll, Waker}};
/// # /// No runtime is needed where nothing waits.
/// # fn block_on<F: Future>(future: F) -> F::Output {
/// #     let Poll::Ready(output) = pin!(future).poll(&mut Context::from_waker(Waker::noop())) else {
/// #         unreachable!("nobody else is there")
/// #     };
/// #     output
/// # }
///
/// async fn fetch(path: &str) -> Result<String, std::num::ParseIntError> {
///     // ... somewhere far away.
///     path.parse::<u64>().map(|number| format!("page {number}"))
/// }
///
/// let pages = AsyncCache::<String, String>::new(CacheConfig::default())?;
/// block_on(async {
///     let page = pages.try_get_or_compute("17", fetch("17")).await;
///     assert_eq!(page.unwrap(), "page 17");
///     // Nothing is cached of a failure.
///     assert!(pages.try_get_or_compute("x", fetch("x")).await.is_err());
/// });
/// assert_eq!(pages.get("17").as_deref(), Some("page 17"));
/// assert_eq!(pages.len(), 1);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
///
/// # Deadlocks
/// A computation may compute other keys, but one that waits for itself never ends. That is an error,
/// [`MemoryError::Reentrant`], where it can be told: when a computation's future asks, in its own
/// `poll`, for a key whose computation waits for it, be it itself or another one, of another task,
/// that waits for it in turn. It can't be told
/// - of a computation that waits for another task, by a handle or a channel, which asks for its key;
/// - of a task that keeps a future which is computing, does not poll it, and asks for its key by
///   another one: poll the futures of a task together, or one after the other to its end;
/// - of circles through several caches, other than within one `poll`, and of more than sixteen
///   computations polled within each other.
///
/// A future that is leaked (`mem::forget`) while it computes is waited for for ever: a time-out
/// ([`get_or_compute_timeout`](Self::get_or_compute_timeout), or your runtime's) ends the waiting,
/// but the key can't be computed again.
pub struct AsyncCache<K, V, O: Kit = With>(ConcurrentComputeCache<K, V, O>);

impl<K, V> AsyncCache<K, V> {
    /// An empty cache that charges nobody, for entries that own nothing outside themselves.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] for a configuration that breaks its rules.
    pub fn new(config: CacheConfig) -> Result<Self, MemoryError> {
        ConcurrentComputeCache::new(config).map(Self)
    }

    /// Builds a cache with a policy, an account, a weigher and so on of its own; to be ended with
    /// [`build_async`](CacheBuilder::build_async).
    pub fn builder(config: CacheConfig) -> SharedBuilder<K, V> {
        CacheBuilder::new(config)
    }
}

impl<K, V, O: Kit> AsyncCache<K, V, O> {
    /// The same cache for threads, whose computations block, and are shared with tasks.
    ///
    /// A thread that runs tasks should not use it: it may block for a task that only it could run.
    ///
    /// ```
    /// use nebula_cache::{AsyncCache, CacheConfig};
    ///
    /// let cache = AsyncCache::<u64, u64>::new(CacheConfig::default())?;
    /// std::thread::scope(|s| {
    ///     s.spawn(|| cache.blocking().get_or_compute(&1, || 7));
    /// });
    /// assert_eq!(cache.get(&1), Some(7));
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    #[inline]
    pub const fn blocking(&self) -> &ConcurrentComputeCache<K, V, O> {
        &self.0
    }

    /// The same cache for threads alone.
    pub fn into_blocking(self) -> ConcurrentComputeCache<K, V, O> {
        self.0
    }
}

impl<K, V, O: Kit> From<ConcurrentComputeCache<K, V, O>> for AsyncCache<K, V, O> {
    fn from(cache: ConcurrentComputeCache<K, V, O>) -> Self {
        Self(cache)
    }
}

/// All that waits for nobody.
impl<K, V, O: Kit> Deref for AsyncCache<K, V, O> {
    type Target = ConcurrentComputeCache<K, V, O>;

    #[inline]
    fn deref(&self) -> &ConcurrentComputeCache<K, V, O> {
        &self.0
    }
}

impl<'c, K: Clone, V: Clone, O: Kit> IntoIterator for &'c AsyncCache<K, V, O> {
    type Item = (K, V);
    type IntoIter = Iter<'c, K, V, O>;

    fn into_iter(self) -> Iter<'c, K, V, O> {
        self.0.iter()
    }
}

/// As of the [cache for threads](ConcurrentComputeCache#impl-Reclaim-for-ConcurrentComputeCache<K,+V,+O>).
impl<K, V, O> Reclaim for AsyncCache<K, V, O>
where
    O: Kit,
    ConcurrentComputeCache<K, V, O>: Send + Sync,
{
    fn reclaimable(&self) -> usize {
        self.0.reclaimable()
    }

    fn reclaim(&self, wanted: usize, urgency: PressureLevel) -> usize {
        self.0.reclaim(wanted, urgency)
    }
}

/// Of bytes: what is [`charged`](ConcurrentComputeCache::charged), and the capacity if it is in
/// bytes.
impl<K, V, O: Kit> MemoryUsage for AsyncCache<K, V, O> {
    fn used(&self) -> usize {
        self.0.used()
    }

    fn capacity(&self) -> Option<usize> {
        MemoryUsage::capacity(&self.0)
    }
}

impl<K, V, O: Kit> fmt::Debug for AsyncCache<K, V, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("AsyncCache").field(&self.0).finish()
    }
}
