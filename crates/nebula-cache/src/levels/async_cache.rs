//! The face of several levels, for tasks.

use std::{
    any::Any,
    convert::{Infallible, identity},
    future::{Future, pending, poll_fn},
    hash::{BuildHasher, Hash},
    pin::pin,
    sync::atomic::Ordering::Relaxed,
    time::Duration,
};

use equivalent::Equivalent;
use nebula_memory_core::{MemoryError, Refused, panics::quietly, sync::Arc};

use super::{
    AsyncMultiLevelBuilder, Demotion, LevelError, MultiLevelStats,
    async_lower::AsyncLower,
    cache::{Nowhere, Untold, unshare},
    first::of_level_one,
    lower::{Found, spread},
};
use crate::{
    CacheBuilder, Capacity, ComputeError, ConcurrentComputeCache, EntryOptions, Kit, With,
    engine::high,
    flight::{Asked, Joined, Lead, SharedError},
    mode::Shared,
    stats::Timing,
};

/// A cache of several levels for tasks: a [`MultiLevelCache`](crate::MultiLevelCache) whose lower
/// levels are awaited ([`AsyncLevel`](crate::AsyncLevel)).
///
/// The rules are the same: one caller for each key looks below level one or computes, and the others
/// wait for what it finds; what is found goes up, what is written goes down; whatever happens to one
/// key happens in an order; a level that fails is a miss. What is different for tasks:
///
/// - A hit in level one is ready at once, and allocates nothing.
/// - A level that takes longer than the [time-out](AsyncMultiLevelBuilder::timeout) is passed over, and
///   that counts for its breaker.
/// - **Cancellation**: a future may be dropped at any time. If it was the one that looked or computed,
///   the first in line does so in its place. What it had begun to tell the levels, and may not have
///   told them, they are not asked about until they have been told; an insertion or a removal whose
///   future is dropped has either happened, or not.
/// - Errors of computations are shared by those who wait, and computations that wait for themselves are
///   errors, as in an [`AsyncCache`](crate::AsyncCache#deadlocks).
/// - It depends on no runtime and has no thread: what is written behind is written by
///   [`run`](Self::run), in a task of yours.
///
/// ```
/// use nebula_cache::{
///     AsyncMultiLevelCache, Blocking, CacheConfig, ConcurrentComputeCache, InPlace,
/// };
/// # use std::{pin::pin, task::{Context, Poll, Waker}};
/// # fn block_on<F: Future>(future: F) -> F::Output {
/// #     let mut future = pin!(future);
/// #     loop {
/// #         if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
/// #             return output;
/// #         }
/// #         std::thread::yield_now();
/// #     }
/// # }
///
/// let few = CacheConfig::builder().entries(10).build()?;
/// let many = CacheConfig::builder().entries(1000).build()?;
/// let memory = ConcurrentComputeCache::<u64, String>::new(many.clone())?;
/// # let file = ConcurrentComputeCache::<u64, String>::new(many)?;
/// let cache = AsyncMultiLevelCache::builder(ConcurrentComputeCache::builder(few))
///     .level(InPlace::new(memory))
///     // With tokio: `|job| drop(tokio::task::spawn_blocking(job))`.
///     .level(Blocking::new(file, |job| drop(std::thread::spawn(job))))
///     .build()?;
/// block_on(async {
///     for id in 0..100 {
///         cache.get_or_compute(&id, async { format!("page {id}") }).await?;
///     }
///     assert_eq!(cache.len(), 10);
///     cache.evict(usize::MAX); // from level one
///     assert_eq!(cache.get(&7).await.as_deref(), Some("page 7"));
///     cache.remove(&7).await?;
///     assert_eq!(cache.get(&7).await, None);
///     Ok::<(), nebula_memory_core::MemoryError>(())
/// })?;
/// assert_eq!(cache.stats().levels[0].hits, 1);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub struct AsyncMultiLevelCache<K, V, O: Kit = With> {
    first: ConcurrentComputeCache<K, V, O>,
    lower: Arc<AsyncLower<K, V>>,
    /// What those are told who wait for a lookup that finds nothing.
    nowhere: SharedError,
}

/// A find that goes up, and is taken back if all was cleared meanwhile.
struct Rising<'c, K, V, O>
where
    K: Hash + Eq + Clone,
    V: Clone,
    O: Kit,
    O::Hasher: BuildHasher,
{
    cache: &'c AsyncMultiLevelCache<K, V, O>,
    hash: u64,
    key: &'c K,
    clears: Option<u64>,
}

impl<K, V, O> Drop for Rising<'_, K, V, O>
where
    K: Hash + Eq + Clone,
    V: Clone,
    O: Kit,
    O::Hasher: BuildHasher,
{
    fn drop(&mut self) {
        let Self { cache, hash, key, clears } = *self;
        if !cache.lower.is_as_it_was(clears) {
            cache.lower.doubt(high(hash), key);
            quietly(|| drop(cache.first.engine.remove(hash, key)));
        }
    }
}

impl<K, V> AsyncMultiLevelCache<K, V> {
    /// Builds a cache on top of whose levels is the cache that `first` describes.
    pub fn builder<P, W, T, G, A, S>(
        first: CacheBuilder<K, V, Shared, P, W, T, G, A, S>,
    ) -> AsyncMultiLevelBuilder<K, V, P, W, T, G, A, S> {
        AsyncMultiLevelBuilder::new(first)
    }
}

impl<K, V, O> AsyncMultiLevelCache<K, V, O>
where
    K: Hash + Eq + Clone,
    V: Clone,
    O: Kit,
    O::Hasher: BuildHasher,
{
    /// A clone of the value of `key`, from the first level that holds it.
    ///
    /// Of several callers for one key that is not in level one, one looks below, and the others wait
    /// for what it finds; or for its computation or insertion, if that is what it is at. `None` as
    /// well if the caller itself is computing the key, or the computation fails.
    #[inline]
    pub async fn get<Q>(&self, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let hash = self.first.engine.hash(key);
        match self.first.engine.look_up(hash, key, |entry, _| entry.value.clone()) {
            Some(value) => Some(value),
            None => Box::pin(self.get_below(hash, key)).await,
        }
    }

    async fn get_below<Q>(&self, hash: u64, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        loop {
            match self.ask(hash, key).await {
                Joined::Lead(lead) => {
                    let key = key.to_owned();
                    let found = within(&lead, self.find(hash, &key)).await;
                    match &found {
                        Some(value) => lead.land(|| value.clone()),
                        None => lead.fail(&self.nowhere),
                    }
                    return found;
                }
                Joined::Landed(value) => return Some(unshare(value)),
                Joined::Again => {}
                Joined::Failed(_) | Joined::Circle => return self.peek(hash, key),
            }
        }
    }

    /// Joins the flight for `key`, waiting for its end, or starts one.
    #[inline]
    async fn ask<Q>(&self, hash: u64, key: &Q) -> Joined<'_, K, V>
    where
        Q: Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        match self.lower.flights.ask(spread(high(hash)), key) {
            Asked::Lead(lead) => Joined::Lead(lead),
            Asked::Circle => Joined::Circle,
            Asked::Wait(waiting) => {
                self.first.engine.counters.waits.fetch_add(1, Relaxed);
                waiting.await
            }
        }
    }

    fn peek<Q>(&self, hash: u64, key: &Q) -> Option<V>
    where
        Q: Equivalent<K> + ?Sized,
    {
        self.first.engine.peek(hash, key, |entry| entry.value.clone())
    }

    /// Looks into level one a last time and then below it, and promotes what is found. Within the
    /// key's flight.
    async fn find(&self, hash: u64, key: &K) -> Option<V> {
        if let Some(value) = self.peek(hash, key) {
            return Some(value);
        }
        let clears = self.lower.clears();
        let Found { value, until, above } = self.lower.find_awaited(high(hash), key).await?;
        if self.lower.promoter.promotes(high(hash)) {
            let _rising = Rising { cache: self, hash, key, clears };
            if above > 0 {
                self.lower.put_awaited(high(hash), key, &value, until, above, false).await;
            }
            self.first.place_until(hash, key.clone(), value.clone(), until);
        }
        Some(value)
    }

    /// The value of `key`, from the first level that holds it, or computed by `compute`.
    ///
    /// Of several callers for one key, one looks below level one and, if nothing is there, polls its
    /// future; the others wait for its value. If that one is dropped or panics, the first of the others
    /// looks and computes. `compute` is dropped before the levels are told of its value, and the value
    /// is returned after that. Otherwise as
    /// [`AsyncCache::get_or_compute`](crate::AsyncCache::get_or_compute).
    ///
    /// # Errors
    /// [`MemoryError::Reentrant`] if the computation that is under way waits for this call, as far
    /// as [that can be told](crate::AsyncCache#deadlocks).
    #[inline]
    pub async fn get_or_compute<Q>(
        &self,
        key: &Q,
        compute: impl Future<Output = V>,
    ) -> Result<V, MemoryError>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        match self.computing(key, None, compute, Ok::<V, Infallible>).await {
            Ok(value) => Ok(value),
            Err(ComputeError::Memory(error)) => Err(error),
            Err(ComputeError::Compute(never)) => match *never {},
        }
    }

    /// As [`get_or_compute`](Self::get_or_compute), for a computation that may fail.
    ///
    /// Its error is shared by all who wait for it at the time, and nothing is cached: who asks next
    /// computes anew.
    ///
    /// # Errors
    /// [`ComputeError::Compute`] with the error of the computation, or [`ComputeError::Memory`] with
    /// [`MemoryError::Reentrant`].
    #[inline]
    pub async fn try_get_or_compute<Q, E>(
        &self,
        key: &Q,
        compute: impl Future<Output = Result<V, E>>,
    ) -> Result<V, ComputeError<Arc<E>>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        E: Send + Sync + 'static,
    {
        self.computing(key, None, compute, identity).await
    }

    /// As [`try_get_or_compute`](Self::try_get_or_compute), with options for the entry. Its time to
    /// live holds in all levels, its tags and a pin in level one.
    ///
    /// # Errors
    /// As [`try_get_or_compute`](Self::try_get_or_compute). Options that entries of level one do not
    /// keep have the value not cached.
    #[inline]
    pub async fn try_get_or_compute_with<Q, E>(
        &self,
        key: &Q,
        options: EntryOptions,
        compute: impl Future<Output = Result<V, E>>,
    ) -> Result<V, ComputeError<Arc<E>>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        E: Send + Sync + 'static,
    {
        self.computing(key, Some(options), compute, identity).await
    }

    #[inline]
    async fn computing<Q, F, E>(
        &self,
        key: &Q,
        options: Option<EntryOptions>,
        compute: F,
        result: impl FnOnce(F::Output) -> Result<V, E>,
    ) -> Result<V, ComputeError<Arc<E>>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        F: Future,
        E: Send + Sync + 'static,
    {
        let hash = self.first.engine.hash(key);
        if let Some(value) = self.first.engine.look_up(hash, key, |entry, _| entry.value.clone()) {
            return Ok(value);
        }
        Box::pin(self.compute_missing(hash, key, options, compute, result)).await
    }

    async fn compute_missing<Q, F, E>(
        &self,
        hash: u64,
        key: &Q,
        options: Option<EntryOptions>,
        compute: F,
        result: impl FnOnce(F::Output) -> Result<V, E>,
    ) -> Result<V, ComputeError<Arc<E>>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        F: Future,
        E: Send + Sync + 'static,
    {
        loop {
            match self.ask(hash, key).await {
                Joined::Lead(lead) => {
                    let key = key.to_owned();
                    // Dropped before the flight is handed on, so that no two computations are there.
                    let work = self.find_or_compute(hash, &key, options.as_ref(), compute, result);
                    return match within(&lead, work).await {
                        Ok(value) => {
                            lead.land(|| value.clone());
                            Ok(value)
                        }
                        Err(error) => {
                            let error = Arc::new(error);
                            let shared: SharedError = Arc::<E>::clone(&error);
                            lead.fail(&shared);
                            Err(ComputeError::Compute(error))
                        }
                    };
                }
                Joined::Landed(value) => return Ok(unshare(value)),
                Joined::Failed(error) => {
                    if let Ok(error) = error.downcast() {
                        return Err(ComputeError::Compute(error));
                    }
                }
                Joined::Again => {}
                Joined::Circle => {
                    return Err(MemoryError::Reentrant { what: "a cache computation" }.into());
                }
            }
        }
    }

    /// Within the key's flight.
    async fn find_or_compute<F: Future, E>(
        &self,
        hash: u64,
        key: &K,
        options: Option<&EntryOptions>,
        compute: F,
        result: impl FnOnce(F::Output) -> Result<V, E>,
    ) -> Result<V, E> {
        if let Some(value) = self.find(hash, key).await {
            return Ok(value);
        }
        let engine = &self.first.engine;
        let timing = Timing::start(&engine.counters, &engine.hooks);
        let value = result(compute.await)?;
        timing.succeed();
        let until = self.first.until(options);
        let untold = Untold { lower: &self.lower, hash: high(hash), key };
        // What is refused has been counted, and may still fit below.
        drop(engine.place(hash, key.clone(), value.clone(), options));
        untold.done();
        if options.is_none_or(|options| options.check::<O>().is_ok()) {
            self.tell(hash, key, &value, until).await;
        }
        Ok(value)
    }

    /// Tells the lower levels of a new value in level one. Within the key's flight.
    async fn tell(&self, hash: u64, key: &K, value: &V, until: Option<Duration>) {
        let lower = &*self.lower;
        lower.limbo.touch(high(hash));
        if lower.demotion == Demotion::Only {
            lower.remove_awaited(high(hash), key).await;
        } else {
            lower.put_awaited(high(hash), key, value, until, lower.tiers.len(), true).await;
        }
    }

    /// Caches `value` under `key`, and returns the value that level one held.
    ///
    /// It waits for a lookup, computation, insertion or removal of the key that is under way.
    ///
    /// # Errors
    /// Key and value are handed back if level one does not take them, as
    /// [`ConcurrentComputeCache::insert`] says; the other levels are not told then. Likewise, with
    /// [`MemoryError::Reentrant`], if the caller itself is computing the key.
    pub async fn insert(&self, key: K, value: V) -> Result<Option<V>, Refused<(K, V)>> {
        self.insert_as(key, value, None).await
    }

    /// As [`insert`](Self::insert), with options for this entry. Its time to live holds in all
    /// levels, its tags and a pin in level one.
    ///
    /// # Errors
    /// As [`insert`](Self::insert); [`MemoryError::InvalidConfig`] if the options name something that
    /// entries of level one do not keep.
    pub async fn insert_with(
        &self,
        key: K,
        value: V,
        options: EntryOptions,
    ) -> Result<Option<V>, Refused<(K, V)>> {
        self.insert_as(key, value, Some(&options)).await
    }

    async fn insert_as(
        &self,
        key: K,
        value: V,
        options: Option<&EntryOptions>,
    ) -> Result<Option<V>, Refused<(K, V)>> {
        let hash = self.first.engine.hash(&key);
        loop {
            match self.ask(hash, &key).await {
                Joined::Lead(lead) => {
                    let (name, copy, until) =
                        (key.clone(), value.clone(), self.first.until(options));
                    let untold = Untold { lower: &self.lower, hash: high(hash), key: &name };
                    let placed = self.first.engine.place(hash, key, value, options);
                    untold.done();
                    let before = placed?;
                    within(&lead, self.tell(hash, &name, &copy, until)).await;
                    lead.land(|| copy);
                    return Ok(before);
                }
                // Another was at it with this key, and had its turn.
                Joined::Landed(_) | Joined::Failed(_) | Joined::Again => {}
                Joined::Circle => {
                    let error = MemoryError::Reentrant { what: "an insertion into a cache" };
                    return Err(Refused::new((key, value), error));
                }
            }
        }
    }

    /// Removes `key` from all levels, and returns the value that level one held.
    ///
    /// It waits for a lookup, computation or insertion of the key that is under way. A level that
    /// can't be reached is not asked about the key until it has been told.
    ///
    /// # Errors
    /// [`MemoryError::Reentrant`] if the caller itself is computing the key.
    pub async fn remove<Q>(&self, key: &Q) -> Result<Option<V>, MemoryError>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let hash = self.first.engine.hash(key);
        loop {
            match self.ask(hash, key).await {
                Joined::Lead(lead) => {
                    let name = key.to_owned();
                    let untold = Untold { lower: &self.lower, hash: high(hash), key: &name };
                    let removed = self.first.engine.remove(hash, key).map(|(_, value)| value);
                    untold.done();
                    self.lower.limbo.touch(high(hash));
                    within(&lead, self.lower.remove_awaited(high(hash), &name)).await;
                    drop(lead);
                    return Ok(removed);
                }
                Joined::Landed(_) | Joined::Failed(_) | Joined::Again => {}
                Joined::Circle => {
                    return Err(MemoryError::Reentrant { what: "a removal from a cache" });
                }
            }
        }
    }

    /// Removes every entry from all levels. Nothing of them is to be had from the first poll on: a
    /// level is not asked about anything until it has been cleared, be it later, if it can't be reached
    /// or the future is dropped.
    ///
    /// Entries inserted or computed while it runs may stay.
    pub async fn clear(&self) {
        self.lower.forget_all();
        self.first.clear();
        self.lower.clear_awaited().await;
    }

    /// Evicts entries from level one, coldest first, until `bytes` bytes have been given back, as
    /// [`ConcurrentComputeCache::evict`] does.
    pub fn evict(&self, bytes: usize) -> usize {
        self.first.evict(bytes)
    }

    /// Changes the capacity of level one.
    ///
    /// # Errors
    /// As [`ConcurrentComputeCache::set_capacity`].
    pub fn set_capacity(&self, capacity: Capacity) -> Result<(), MemoryError> {
        self.first.set_capacity(capacity)
    }

    /// Does what is due in all levels, `work` entries or slots of it in each at most: removes what is
    /// expired, gives back what was asked for under pressure, tells levels that can be reached again
    /// what they have missed. Returns how many entries went.
    pub async fn maintain(&self, work: usize) -> usize {
        let mut gone = self.first.maintain(work);
        for tier in &self.lower.tiers {
            gone = gone.saturating_add(tier.maintain(work).await);
        }
        gone
    }

    /// Writes what is queued, in a task of any runtime. Never returns; stops when it is dropped, and
    /// loses nothing: what it was at comes first when it is called again.
    ///
    /// Without it, what is [written behind](crate::Writing::Behind) waits until the queue is full, or for
    /// [`flush`](Self::flush).
    ///
    /// ```
    /// use nebula_cache::{
    ///     AsyncMultiLevelCache, CacheConfig, ConcurrentComputeCache, InPlace, WhenFull, Writing,
    /// };
    /// # use std::{pin::pin, task::{Context, Poll, Waker}};
    ///
    /// let below = ConcurrentComputeCache::<u64, u64>::new(CacheConfig::default())?;
    /// let first = ConcurrentComputeCache::builder(CacheConfig::default());
    /// let cache = AsyncMultiLevelCache::builder(first)
    ///     .level(InPlace::new(below))
    ///     .writing(Writing::Behind { queue: 1000, when_full: WhenFull::Write })
    ///     .build()?;
    /// // With tokio, and the cache in an `Arc`: `tokio::spawn(async move { cache.run().await })`.
    /// let mut task = pin!(cache.run());
    /// # let mut context = Context::from_waker(Waker::noop());
    /// # assert!(pin!(cache.insert(1, 10)).poll(&mut context).is_ready());
    /// # assert_eq!((cache.stats().queue.waiting, cache.stats().levels[0].writes), (1, 0));
    /// # assert!(task.as_mut().poll(&mut context).is_pending());
    /// # assert_eq!((cache.stats().queue.waiting, cache.stats().levels[0].writes), (0, 1));
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub async fn run(&self) {
        match &self.lower.queue {
            Some(queue) => self.lower.serve_awaited(queue, true).await,
            None => pending().await,
        }
    }

    /// Writes what was queued before this call, together with [`run`](Self::run) if that is at it (then
    /// it must be polled), and has each level make durable what it holds. Takes as long as it takes,
    /// and may be dropped at any time.
    ///
    /// What is queued when the cache is dropped is written nowhere.
    ///
    /// # Errors
    /// The first error of a level. Levels that are bypassed are not told to write, and that is no
    /// error.
    pub async fn flush(&self) -> Result<(), LevelError> {
        if let Some(queue) = &self.lower.queue {
            self.lower.serve_awaited(queue, false).await;
        }
        let mut result = Ok(());
        for tier in &self.lower.tiers {
            result = result.and(tier.flush().await);
        }
        result
    }

    /// What all levels have done. Takes O(shards).
    pub fn stats(&self) -> MultiLevelStats {
        MultiLevelStats {
            first: self.first.stats(),
            levels: self
                .lower
                .tiers
                .iter()
                .map(|tier| tier.stats(|remote| remote.level.name()))
                .collect(),
            queue: self.lower.queue.as_ref().map(super::queue::Queue::stats).unwrap_or_default(),
        }
    }

    /// Whether level one holds `key`. Nobody notices.
    pub fn is_in_first<Q>(&self, key: &Q) -> bool
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        self.first.contains(key)
    }
}

/// Awaits `work`, which is what `lead` is about, and drops it.
async fn within<K, V, F: Future>(lead: &Lead<'_, K, V>, work: F) -> F::Output {
    let mut work = pin!(work);
    poll_fn(|cx| lead.poll(work.as_mut(), cx)).await
}

impl<K, V, O: Kit> AsyncMultiLevelCache<K, V, O> {
    pub(super) fn from_parts(
        first: ConcurrentComputeCache<K, V, O>,
        lower: Arc<AsyncLower<K, V>>,
    ) -> Self {
        Self { first, lower, nowhere: Arc::new(Nowhere) as Arc<dyn Any + Send + Sync> }
    }
}

of_level_one!(AsyncMultiLevelCache);
