//! Looking up or computing by a future, once per key.

use std::{
    convert::{Infallible, identity},
    future::{Future, poll_fn},
    hash::{BuildHasher, Hash},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Instant,
};

use equivalent::Equivalent;
use nebula_memory_core::{MemoryError, Refused, sync::Arc};

use crate::{
    AsyncCache, ComputeError, ConcurrentComputeCache, EntryOptions, Kit,
    flight::{Asked, Joined, Lead, SharedError},
    stats::Timing,
};

impl<K, V, O: Kit> AsyncCache<K, V, O>
where
    K: Hash + Eq,
    O::Hasher: BuildHasher,
{
    /// The value of `key`, computed by `compute` if it is not cached.
    ///
    /// Of several callers for one key, one polls its future and the others wait for its value. If
    /// that one is dropped or panics, the first of the others polls its own. `compute` is polled and
    /// dropped with no lock held, and may use the cache, computing other keys included.
    ///
    /// A value that the cache or its account refuses is returned all the same, to all who waited;
    /// it is merely not cached, and counted as [`rejected`](crate::CacheStats::rejected). A
    /// computation that is dropped before it is ready is counted as failed.
    ///
    /// Nothing is done before the future that this returns is polled, and nothing is done by
    /// `compute` on a hit: let it begin with what is expensive, rather than be given it.
    ///
    /// # Errors
    /// [`MemoryError::Reentrant`] if the computation that is under way waits for this call, as far
    /// as [that can be told](Self#deadlocks).
    ///
    /// ```
    /// use nebula_cache::{AsyncCache, CacheConfig};
    /// # use std::{pin::pin, task::{Context, Poll, Waker}};
    /// # fn block_on<F: Future>(future: F) -> F::Output {
    /// #     let Poll::Ready(output) = pin!(future).poll(&mut Context::from_waker(Waker::noop())) else {
    /// #         unreachable!("nobody else is there")
    /// #     };
    /// #     output
    /// # }
    ///
    /// let cache = AsyncCache::<u64, u64>::new(CacheConfig::default())?;
    /// block_on(async {
    ///     // Computing a key may ask for another one, but not for itself.
    ///     let below = async { cache.get_or_compute(&41, async { 40 }).await.unwrap() + 2 };
    ///     assert_eq!(cache.get_or_compute(&42, below).await?, 42);
    ///     let own = async { cache.get_or_compute(&7, async { 0 }).await.map_or(0, |_| 1) };
    ///     assert_eq!(cache.get_or_compute(&7, own).await?, 0);
    ///     Ok::<(), nebula_memory_core::MemoryError>(())
    /// })?;
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    #[inline]
    pub fn get_or_compute<Q>(
        &self,
        key: &Q,
        compute: impl Future<Output = V>,
    ) -> impl Future<Output = Result<V, MemoryError>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        V: Clone,
    {
        self.blocking().computing(key, None, compute, Ok::<V, Infallible>, infallible)
    }

    /// As [`get_or_compute`](Self::get_or_compute), for a computation that may fail.
    ///
    /// Its error is shared by all who wait for it at the time, and nothing is cached: who asks next
    /// computes anew. (Callers for one key who expect errors of different types don't share them:
    /// each of them then computes, one after the other. So do threads.)
    ///
    /// # Errors
    /// [`ComputeError::Compute`] with the error of the computation, or [`ComputeError::Memory`] with
    /// [`MemoryError::Reentrant`].
    #[inline]
    pub fn try_get_or_compute<Q, E>(
        &self,
        key: &Q,
        compute: impl Future<Output = Result<V, E>>,
    ) -> impl Future<Output = Result<V, ComputeError<Arc<E>>>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        V: Clone,
        E: Send + Sync + 'static,
    {
        self.blocking().computing(key, None, compute, identity, identity)
    }

    /// As [`try_get_or_compute`](Self::try_get_or_compute), with options for the entry.
    ///
    /// # Errors
    /// As [`try_get_or_compute`](Self::try_get_or_compute). Options that entries of this cache do
    /// not keep have the value not cached.
    #[inline]
    pub fn try_get_or_compute_with<Q, E>(
        &self,
        key: &Q,
        options: EntryOptions,
        compute: impl Future<Output = Result<V, E>>,
    ) -> impl Future<Output = Result<V, ComputeError<Arc<E>>>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        V: Clone,
        E: Send + Sync + 'static,
    {
        self.blocking().computing(key, Some(options), compute, identity, identity)
    }

    /// As [`get_or_compute`](Self::get_or_compute), until `sleep` is over: a future of your runtime's
    /// that is ready when the time has passed (or for whatever other reason).
    ///
    /// A caller whose time is over leaves the line; if it was the one that computed, its `compute` is
    /// dropped and the first of the others computes. A value that is there in the same moment is
    /// returned.
    ///
    /// # Errors
    /// [`MemoryError::Timeout`], or as [`get_or_compute`](Self::get_or_compute).
    ///
    /// ```
    /// use nebula_cache::{AsyncCache, CacheConfig};
    /// # use std::{future::{pending, ready}, pin::pin, task::{Context, Poll, Waker}};
    /// # fn block_on<F: Future>(future: F) -> F::Output {
    /// #     let Poll::Ready(output) = pin!(future).poll(&mut Context::from_waker(Waker::noop())) else {
    /// #         unreachable!("nobody else is there")
    /// #     };
    /// #     output
    /// # }
    ///
    /// let cache = AsyncCache::<u64, u64>::new(CacheConfig::default())?;
    /// // tokio::time::sleep(..), async_io::Timer::after(..), ...
    /// let sleep = ready(());
    /// let timed_out = block_on(cache.get_or_compute_timeout(&1, sleep, pending()));
    /// assert_eq!(timed_out.unwrap_err().code(), "timeout");
    /// assert_eq!(block_on(cache.get_or_compute_timeout(&1, pending::<()>(), async { 7 }))?, 7);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn get_or_compute_timeout<Q>(
        &self,
        key: &Q,
        sleep: impl Future,
        compute: impl Future<Output = V>,
    ) -> impl Future<Output = Result<V, MemoryError>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        V: Clone,
    {
        until(sleep, self.get_or_compute(key, compute))
    }

    /// As [`try_get_or_compute`](Self::try_get_or_compute), until `sleep` is over; see
    /// [`get_or_compute_timeout`](Self::get_or_compute_timeout).
    ///
    /// # Errors
    /// [`ComputeError::Memory`] with [`MemoryError::Timeout`], or as
    /// [`try_get_or_compute`](Self::try_get_or_compute).
    pub fn try_get_or_compute_timeout<Q, E>(
        &self,
        key: &Q,
        sleep: impl Future,
        compute: impl Future<Output = Result<V, E>>,
    ) -> impl Future<Output = Result<V, ComputeError<Arc<E>>>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        V: Clone,
        E: Send + Sync + 'static,
    {
        until(sleep, self.try_get_or_compute(key, compute))
    }

    /// Changes the value of `key`: `change` is given a clone of what is cached, if anything is, and
    /// its future's output is to be cached instead, or `None` for nothing. Returns a clone of that.
    ///
    /// While it runs, no other `update` or computation of the key does: those wait (`insert` and
    /// `remove` do not). If it is dropped before it is ready, nothing is changed.
    ///
    /// # Errors
    /// What `change` returned is handed back if the cache or its account refuses it; an earlier
    /// value then stays, unless it was evicted on the way. [`MemoryError::Reentrant`], with nothing
    /// handed back, if it would wait for itself, as far as [that can be told](Self#deadlocks).
    ///
    /// ```
    /// use nebula_cache::{AsyncCache, CacheConfig};
    /// # use std::{pin::pin, task::{Context, Poll, Waker}};
    /// # fn block_on<F: Future>(future: F) -> F::Output {
    /// #     let Poll::Ready(output) = pin!(future).poll(&mut Context::from_waker(Waker::noop())) else {
    /// #         unreachable!("nobody else is there")
    /// #     };
    /// #     output
    /// # }
    ///
    /// let cache = AsyncCache::<String, u64>::new(CacheConfig::default())?;
    /// block_on(async {
    ///     for word in ["a", "b", "a"] {
    ///         cache.update(word, async |count| Some(count.unwrap_or(0) + 1)).await?;
    ///     }
    ///     assert_eq!(cache.get("a"), Some(2));
    ///     Ok::<(), nebula_memory_core::MemoryError>(())
    /// })?;
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn update<Q, F>(
        &self,
        key: &Q,
        change: impl FnOnce(Option<V>) -> F,
    ) -> impl Future<Output = Result<Option<V>, Refused<Option<V>>>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        V: Clone,
        F: Future<Output = Option<V>>,
    {
        let cache = self.blocking();
        async move {
            let hash = cache.engine.hash(key);
            loop {
                match cache.ask(hash, key).await {
                    Joined::Lead(lead) => {
                        let before = cache.engine.peek(hash, key, |entry| entry.value.clone());
                        let changed;
                        {
                            // Dropped before the flight is handed on.
                            let mut changing = pin!(change(before));
                            changed = poll_fn(|cx| lead.poll(changing.as_mut(), cx)).await;
                        }
                        return cache.finish_update(hash, key, lead, changed);
                    }
                    Joined::Landed(_) | Joined::Failed(_) | Joined::Again => {}
                    Joined::Circle => {
                        let error = MemoryError::Reentrant { what: "an update of a cached value" };
                        return Err(Refused::new(None, error));
                    }
                }
            }
        }
    }
}

impl<K, V, O: Kit> ConcurrentComputeCache<K, V, O>
where
    K: Hash + Eq,
    O::Hasher: BuildHasher,
{
    /// Looks `key` up or computes it: `result` says whether what `compute` found is a value, and
    /// `out` what is to be returned.
    #[inline]
    #[allow(clippy::manual_async_fn, reason = "that would have room for one `compute` more")]
    fn computing<Q, F, E, T>(
        &self,
        key: &Q,
        options: Option<EntryOptions>,
        compute: F,
        result: impl FnOnce(F::Output) -> Result<V, E>,
        out: impl FnOnce(Result<V, ComputeError<Arc<E>>>) -> T,
    ) -> impl Future<Output = T>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        V: Clone,
        F: Future,
        E: Send + Sync + 'static,
    {
        async move {
            let hash = self.engine.hash(key);
            let date =
                match self.engine.look_up_or(hash, key, |entry, _| Ok(entry.value.clone()), Err) {
                    Ok(value) => {
                        // Not on return, when the value would be lost to a panic.
                        drop(compute);
                        return out(Ok(value));
                    }
                    Err(date) => date,
                };
            let mut compute = pin!(Some(compute));
            let found =
                self.compute_awaited(hash, key, date, options, compute.as_mut(), result).await;
            compute.set(None);
            out(found)
        }
    }

    /// Computes what was not there at `date`, by `compute`, which is there.
    // Apart from the above to keep hits short; by reference, for one copy of `compute` less.
    async fn compute_awaited<Q, F, E>(
        &self,
        hash: u64,
        key: &Q,
        date: u64,
        options: Option<EntryOptions>,
        compute: Pin<&mut Option<F>>,
        result: impl FnOnce(F::Output) -> Result<V, E>,
    ) -> Result<V, ComputeError<Arc<E>>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
        V: Clone,
        F: Future,
        E: Send + Sync + 'static,
    {
        loop {
            match self.ask(hash, key).await {
                Joined::Lead(lead) => {
                    // It may have been placed after the last look and before this flight began.
                    let peek = || self.engine.peek(hash, key, |entry| entry.value.clone());
                    let placed = if self.engine.date(hash) == date { None } else { peek() };
                    if let Some(value) = placed {
                        lead.land(|| value.clone());
                        return Ok(value);
                    }
                    let timing = Timing::start(&self.engine.counters, &self.engine.hooks);
                    // Dropped before the flight is handed on or ended, so that no two are there.
                    let mut computing = Emptied(compute);
                    let computed = result(poll_fn(|cx| computing.poll(&lead, cx)).await);
                    if computed.is_ok() {
                        timing.succeed();
                    } else {
                        drop(timing);
                    }
                    drop(computing);
                    return self.end(hash, lead, options.as_ref(), computed);
                }
                Joined::Landed(value) => {
                    let value = Arc::try_unwrap(value);
                    return Ok(value.unwrap_or_else(|value| V::clone(&value)));
                }
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

    /// Caches what was computed, and tells those who wait.
    fn end<E: Send + Sync + 'static>(
        &self,
        hash: u64,
        lead: Lead<'_, K, V>,
        options: Option<&EntryOptions>,
        computed: Result<V, E>,
    ) -> Result<V, ComputeError<Arc<E>>>
    where
        V: Clone,
    {
        match computed {
            Ok(value) => {
                self.cache_computed(hash, &lead, options, &value);
                lead.land(|| value.clone());
                Ok(value)
            }
            Err(error) => {
                let error = Arc::new(error);
                let shared: SharedError = Arc::<E>::clone(&error);
                lead.fail(&shared);
                Err(ComputeError::Compute(error))
            }
        }
    }

    /// Joins the flight for `key`, waiting for its end, or starts one.
    #[inline]
    async fn ask<Q>(&self, hash: u64, key: &Q) -> Joined<'_, K, V>
    where
        Q: Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        match self.flights.ask(hash, key) {
            Asked::Lead(lead) => Joined::Lead(lead),
            Asked::Circle => Joined::Circle,
            Asked::Wait(waiting) => {
                self.count_wait();
                waiting.await
            }
        }
    }
}

/// A computation that is dropped in its place with this.
struct Emptied<'f, F>(Pin<&'f mut Option<F>>);

impl<F: Future> Emptied<'_, F> {
    fn poll<K, V>(&mut self, lead: &Lead<'_, K, V>, cx: &mut Context<'_>) -> Poll<F::Output> {
        match self.0.as_mut().as_pin_mut() {
            Some(compute) => lead.poll(compute, cx),
            None => unreachable!("it is there until this is dropped"),
        }
    }
}

impl<F> Drop for Emptied<'_, F> {
    fn drop(&mut self) {
        self.0.set(None);
    }
}

fn infallible<V>(computed: Result<V, ComputeError<Arc<Infallible>>>) -> Result<V, MemoryError> {
    match computed {
        Ok(value) => Ok(value),
        Err(ComputeError::Memory(error)) => Err(error),
        Err(ComputeError::Compute(never)) => match *never {},
    }
}

/// Polls `work` until it is ready, or `sleep` is.
async fn until<V, E: From<MemoryError>>(
    sleep: impl Future,
    work: impl Future<Output = Result<V, E>>,
) -> Result<V, E> {
    let (mut sleep, mut work) = (pin!(sleep), pin!(work));
    let mut began = None;
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(done);
        }
        let began = began.get_or_insert_with(Instant::now);
        let timed_out = |_| Err(MemoryError::Timeout { waited: began.elapsed() }.into());
        sleep.as_mut().poll(cx).map(timed_out)
    })
    .await
}
