//! The face with a sense of time: entries leave when they expire, and values are renewed before.

use std::{
    collections::VecDeque,
    fmt,
    future::Future,
    hash::{BuildHasher, Hash},
    ops::Deref,
    time::Duration,
};

use equivalent::Equivalent;
use nebula_memory_core::{
    Account, ConfigFaults, MemoryError, MemoryUsage, PressureLevel, Reclaim,
    panics::quietly,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    AnyPolicy, CacheBuilder, CacheConfig, ComputeError, ConcurrentComputeCache, Counted,
    EntryOptions, Kit, Scheduled, Timed, TimedAndIdle, With,
    mode::Shared,
    policy::Policy,
    tags::Tags,
    times::{NEVER, nanos, sealed::Times},
    weight::Weight,
    worker::{Wishes, Worker},
};

/// Refreshes that wait for their turn, at most; of those beyond, each is asked for again later.
const MOST_WAITING: usize = 1024;

/// Something to be done in the background.
pub type Job = Box<dyn FnOnce() + Send>;

/// Finds the new value of a key.
type Loader<K, V> = Box<dyn Fn(&K) -> Option<V> + Send + Sync>;

/// Takes what is to be done.
type Executor = Box<dyn Fn(Job) + Send + Sync>;

/// A [`ConcurrentComputeCache`] whose entries leave when they expire, without anybody touching them,
/// and whose values can be renewed in the background before they do.
///
/// - Each expiring entry is on a timing wheel. A thread of the cache's own comes by every
///   [`interval`](ScheduledBuilder::interval), removes what is due, and tells the listener; lookups
///   never return what is expired, to the nanosecond, whether it has come by or not. Instead of a
///   thread there can be a [task](Self::run) on any runtime, or [calls](Self::run_due) of yours.
/// - [Refresh ahead](ScheduledBuilder::refresh_ahead): who gets a value that expires soon has a new
///   one loaded in the background, by one loader for each key however many ask, and goes on with
///   what there is.
/// - [Stale while revalidate](ScheduledBuilder::stale_for): an expired value can still be had for a
///   while, and getting it has a new one loaded.
///
/// It dereferences to the [`ConcurrentComputeCache`] that it is, for all that it does not do in a way
/// of its own. Dropping it stops its threads and waits for what they are at.
///
/// ```
/// use std::time::Duration;
/// use nebula_cache::{CacheConfig, ConcurrentComputeCache};
///
/// let config = CacheConfig::builder().entries(1000).ttl(Duration::from_secs(60)).build()?;
/// let prices = ConcurrentComputeCache::<String, f64>::builder(config)
///     .with_expiry()
///     .scheduled()
///     // From 50 seconds on, whoever gets a price has a new one loaded.
///     .refresh_ahead(Duration::from_secs(10), |name: &String| name.parse())
///     // For five minutes more an old price is better than none.
///     .stale_for(Duration::from_secs(300))
///     .build()?;
/// let price = prices.get_or_compute("12.50", || 12.5)?;
/// assert_eq!(price, 12.5);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub struct ScheduledCache<K, V, O: Kit = With<AnyPolicy, Counted, Scheduled<Timed>>> {
    // (Threads are stopped first.)
    workers: [Option<Worker>; 2],
    inner: Arc<Inner<K, V, O>>,
}

struct Inner<K, V, O: Kit> {
    cache: ConcurrentComputeCache<K, V, O>,
    plan: Plan,
    /// How long before the end of an entry, the time that it is stale included, a new value is asked
    /// for, in nanoseconds.
    lead: u64,
    loader: Option<Loader<K, V>>,
    executor: Option<Executor>,
    counters: Counters,
}

/// When what is done.
#[derive(Clone, Copy, Debug)]
struct Plan {
    interval: Duration,
    slice: usize,
    ahead: Duration,
    stale: Duration,
    retry: Duration,
}

#[derive(Debug, Default)]
struct Counters {
    turns: AtomicU64,
    expired: AtomicU64,
    refreshed: AtomicU64,
    failed: AtomicU64,
    skipped: AtomicU64,
    panicked: AtomicU64,
}

/// What a [`ScheduledCache`] has done on its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct ScheduleStats {
    /// How often it looked for what was due.
    pub turns: u64,
    /// Entries that were removed because they were due.
    pub expired: u64,
    /// Values that were renewed.
    pub refreshed: u64,
    /// Loaders that found nothing or panicked, and values that the cache would not take, or that came
    /// too late: their entries had been removed or replaced.
    pub failed: u64,
    /// Refreshes put off because too many were waiting.
    pub skipped: u64,
    /// Turns that ended in a panic of a listener or in `Drop`.
    pub panicked: u64,
}

impl<K, V> ScheduledCache<K, V>
where
    K: Send + Sync + 'static,
    V: Send + Sync + 'static,
{
    /// An empty cache with a thread that removes what expires.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] for a configuration that breaks its rules;
    /// [`MemoryError::SourceUnavailable`] if there is no thread to be had.
    pub fn new(config: CacheConfig) -> Result<Self, MemoryError> {
        ConcurrentComputeCache::builder(config).with_expiry().scheduled().build()
    }
}

impl<K, V, O: Kit> ScheduledCache<K, V, O> {
    /// What the cache has done on its own; [`stats`](ConcurrentComputeCache::stats) has the rest.
    #[must_use]
    pub fn schedule_stats(&self) -> ScheduleStats {
        let counters = &self.inner.counters;
        ScheduleStats {
            turns: counters.turns.load(Relaxed),
            expired: counters.expired.load(Relaxed),
            refreshed: counters.refreshed.load(Relaxed),
            failed: counters.failed.load(Relaxed),
            skipped: counters.skipped.load(Relaxed),
            panicked: counters.panicked.load(Relaxed),
        }
    }

    /// Removes what is due, in a bounded slice: after a look at
    /// [`slice`](ScheduledBuilder::slice) entries it returns `true`, as there may be more. For a
    /// cache [without a thread](ScheduledBuilder::build_without_thread); with one it does no harm.
    ///
    /// Also gives back what was asked for under pressure, if there is a listener to be told.
    pub fn run_due(&self) -> bool {
        self.inner.turn()
    }

    /// Removes what is due, whenever it is, in a task of any runtime: `sleep` is that runtime's.
    /// Never returns; stops when it is dropped.
    ///
    /// ```
    /// # use std::{future::Future, pin::pin, task::{Context, Waker}};
    /// use nebula_cache::{CacheConfig, ConcurrentComputeCache};
    ///
    /// let cache = ConcurrentComputeCache::<u64, u64>::builder(CacheConfig::default())
    ///     .with_expiry()
    ///     .scheduled()
    ///     .build_without_thread()?;
    /// let mut task = pin!(cache.run(|_interval| std::future::pending()));
    /// // With tokio: `cache.run(tokio::time::sleep)`, in a task.
    /// # assert!(task.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    /// # assert_eq!(cache.schedule_stats().turns, 1);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub async fn run<S>(&self, mut sleep: impl FnMut(Duration) -> S)
    where
        S: Future<Output = ()>,
    {
        loop {
            let pause = if self.inner.quiet_turn() { Duration::ZERO } else { self.interval() };
            sleep(pause).await;
        }
    }

    /// How often it is looked for what is due.
    #[must_use]
    pub fn interval(&self) -> Duration {
        self.inner.plan.interval
    }
}

impl<K, V, O> ScheduledCache<K, V, O>
where
    O: Kit,
    K: Hash + Eq + Clone + Send + 'static,
    V: Clone,
    O::Hasher: BuildHasher,
    ConcurrentComputeCache<K, V, O>: Send + Sync + 'static,
{
    /// A clone of the value of `key`, if it is cached, or expired for no longer than
    /// [`stale_for`](ScheduledBuilder::stale_for); and has a new one loaded if it is time for that.
    #[inline]
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let inner = &*self.inner;
        let hash = inner.cache.engine.hash(key);
        let (value, refresh) = inner.cache.engine.look_up(hash, key, |entry, now| {
            // (First: a panic must not leave a claim behind that nobody follows.)
            let value = entry.value.clone();
            let claimed = entry.kept.times.claim_refresh(now, inner.lead);
            // (Not `then_some`: the clone is for the few.)
            let refresh = if claimed { Some(entry.key.clone()) } else { None };
            (value, refresh)
        })?;
        if let Some(key) = refresh {
            self.ask(hash, key);
        }
        Some(value)
    }

    /// The value of `key`, which is got as by [`get`](Self::get), or else computed as by
    /// [`ConcurrentComputeCache::get_or_compute`].
    ///
    /// # Errors
    /// As [`ConcurrentComputeCache::get_or_compute`].
    pub fn get_or_compute<Q>(&self, key: &Q, compute: impl FnOnce() -> V) -> Result<V, MemoryError>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        match self.try_get_or_compute(key, || Ok::<V, std::convert::Infallible>(compute())) {
            Ok(value) => Ok(value),
            Err(ComputeError::Memory(error)) => Err(error),
            Err(ComputeError::Compute(never)) => match never {},
        }
    }

    /// As [`get_or_compute`](Self::get_or_compute), for a computation that may fail.
    ///
    /// # Errors
    /// As [`ConcurrentComputeCache::try_get_or_compute`].
    pub fn try_get_or_compute<Q, E>(
        &self,
        key: &Q,
        compute: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, ComputeError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        match self.get(key) {
            Some(value) => Ok(value),
            None => self.compute(key, None, compute),
        }
    }

    /// As [`try_get_or_compute`](Self::try_get_or_compute), with options for the entry.
    ///
    /// # Errors
    /// As [`ConcurrentComputeCache::try_get_or_compute_with`].
    pub fn try_get_or_compute_with<Q, E>(
        &self,
        key: &Q,
        options: EntryOptions,
        compute: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, ComputeError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        match self.get(key) {
            Some(value) => Ok(value),
            None => self.compute(key, Some(&options), compute),
        }
    }

    fn compute<Q, E>(
        &self,
        key: &Q,
        options: Option<&EntryOptions>,
        compute: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, ComputeError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let cache = &self.inner.cache;
        // It may have been placed since the look, for all that is known here.
        let date = u64::MAX;
        cache.compute_missing(cache.engine.hash(key), key, date, options, compute)
    }

    /// Has somebody load a new value.
    #[cold]
    fn ask(&self, hash: u64, key: K) {
        let Some(executor) = &self.inner.executor else { return };
        let mut refresh = Refresh { inner: Arc::downgrade(&self.inner), hash, key, done: false };
        executor(Box::new(move || refresh.run()));
    }
}

/// The duty to renew a value; ends also if it is dropped without having been run.
struct Refresh<K, V, O>
where
    O: Kit,
    K: Hash + Eq + Clone,
    V: Clone,
    O::Hasher: BuildHasher,
{
    inner: Weak<Inner<K, V, O>>,
    hash: u64,
    key: K,
    done: bool,
}

impl<K, V, O> Refresh<K, V, O>
where
    O: Kit,
    K: Hash + Eq + Clone,
    V: Clone,
    O::Hasher: BuildHasher,
{
    fn run(&mut self) {
        let Some(inner) = self.inner.upgrade() else { return };
        let Some(loader) = &inner.loader else { return };
        let (hash, key) = (self.hash, &self.key);
        let refreshed = quietly(|| inner.cache.refresh(hash, key, loader)) == Some(true);
        let count = if refreshed { &inner.counters.refreshed } else { &inner.counters.failed };
        count.fetch_add(1, Relaxed);
        if !refreshed {
            inner.put_off(hash, key);
        }
        self.done = true;
    }
}

impl<K, V, O> Drop for Refresh<K, V, O>
where
    O: Kit,
    K: Hash + Eq + Clone,
    V: Clone,
    O::Hasher: BuildHasher,
{
    fn drop(&mut self) {
        if self.done {
            return;
        }
        if let Some(inner) = self.inner.upgrade() {
            inner.counters.skipped.fetch_add(1, Relaxed);
            inner.put_off(self.hash, &self.key);
        }
    }
}

impl<K, V, O: Kit> Inner<K, V, O> {
    /// Removes what is due; whether there may be more.
    fn turn(&self) -> bool {
        self.counters.turns.fetch_add(1, Relaxed);
        self.cache.engine.serve_request();
        let (expired, left) = self.cache.engine.expire_due(self.plan.slice);
        self.counters.expired.fetch_add(expired as u64, Relaxed);
        left == 0
    }

    /// A turn whose panics are counted, and end there.
    fn quiet_turn(&self) -> bool {
        quietly(|| self.turn()).unwrap_or_else(|| {
            self.counters.panicked.fetch_add(1, Relaxed);
            true
        })
    }

    /// Has nobody ask for a new value of `key` for a while.
    fn put_off(&self, hash: u64, key: &K)
    where
        K: Hash + Eq,
        O::Hasher: BuildHasher,
    {
        let engine = &self.cache.engine;
        let again = engine.now().saturating_add(nanos(self.plan.retry));
        engine.peek(hash, key, |entry| entry.kept.times.end_refresh(again));
    }
}

impl<K, V, O: Kit> Deref for ScheduledCache<K, V, O> {
    type Target = ConcurrentComputeCache<K, V, O>;

    #[inline]
    fn deref(&self) -> &Self::Target {
        &self.inner.cache
    }
}

impl<K, V, O> Reclaim for ScheduledCache<K, V, O>
where
    O: Kit,
    Self: Send + Sync,
    ConcurrentComputeCache<K, V, O>: Reclaim,
{
    fn reclaimable(&self) -> usize {
        self.inner.cache.reclaimable()
    }

    /// As [`ConcurrentComputeCache`] does.
    fn reclaim(&self, wanted: usize, urgency: PressureLevel) -> usize {
        self.inner.cache.reclaim(wanted, urgency)
    }
}

impl<K, V, O: Kit> MemoryUsage for ScheduledCache<K, V, O> {
    fn used(&self) -> usize {
        self.inner.cache.used()
    }

    fn capacity(&self) -> Option<usize> {
        MemoryUsage::capacity(&self.inner.cache)
    }
}

impl<K, V, O: Kit> fmt::Debug for ScheduledCache<K, V, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScheduledCache")
            .field("cache", &self.inner.cache)
            .field("plan", &self.inner.plan)
            .field("threads", &self.workers.iter().flatten().count())
            .finish_non_exhaustive()
    }
}

/// Builds a [`ScheduledCache`]; made by [`CacheBuilder::scheduled`].
#[must_use = "a builder does nothing until it is built"]
pub struct ScheduledBuilder<K, V, P, W, T, G, A, S> {
    cache: CacheBuilder<K, V, Shared, P, W, Scheduled<T>, G, A, S>,
    plan: Plan,
    loader: Option<Loader<K, V>>,
    executor: Option<Executor>,
}

impl<K, V, P, W, G, A, S> CacheBuilder<K, V, Shared, P, W, Timed, G, A, S> {
    /// Goes on to build a [`ScheduledCache`]. Takes 16 bytes an entry more, and 2 KiB a shard.
    pub fn scheduled(self) -> ScheduledBuilder<K, V, P, W, Timed, G, A, S> {
        ScheduledBuilder::new(self.cast())
    }
}

impl<K, V, P, W, G, A, S> CacheBuilder<K, V, Shared, P, W, TimedAndIdle, G, A, S> {
    /// Goes on to build a [`ScheduledCache`]. Takes 16 bytes an entry more, and 2 KiB a shard.
    pub fn scheduled(self) -> ScheduledBuilder<K, V, P, W, TimedAndIdle, G, A, S> {
        ScheduledBuilder::new(self.cast())
    }
}

impl<K, V, P, W, T, G, A, S> ScheduledBuilder<K, V, P, W, T, G, A, S> {
    const fn new(cache: CacheBuilder<K, V, Shared, P, W, Scheduled<T>, G, A, S>) -> Self {
        let plan = Plan {
            interval: Duration::from_millis(50),
            slice: 10_000,
            ahead: Duration::ZERO,
            stale: Duration::ZERO,
            retry: Duration::from_secs(1),
        };
        Self { cache, plan, loader: None, executor: None }
    }

    /// How often it is looked for what is due; above zero, 50 milliseconds by default. Entries leave
    /// that much, and a millisecond, after they expired, at most, if nothing else keeps the thread.
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.plan.interval = interval;
        self
    }

    /// How many entries are looked at in a turn, at most; above zero, 10,000 by default. If more are
    /// due, the next turn follows at once.
    pub const fn slice(mut self, entries: usize) -> Self {
        self.plan.slice = entries;
        self
    }

    /// Whoever gets a value that expires within `ahead` (above zero) has `loader` find a new one, in
    /// the background: on a thread of the cache's own, or by an [executor](Self::refresh_by). An error
    /// or a panic of it is counted, and is no more: there is the old value until its end.
    ///
    /// The new entry has the default time to live, and no tags. A key that was removed while its
    /// value was loaded stays removed, and one that got another value keeps that.
    pub fn refresh_ahead<E>(
        mut self,
        ahead: Duration,
        loader: impl Fn(&K) -> Result<V, E> + Send + Sync + 'static,
    ) -> Self {
        self.plan.ahead = ahead;
        self.loader = Some(Box::new(move |key| loader(key).ok()));
        self
    }

    /// Expired values can still be had for so long, while new ones are loaded. Needs
    /// [`refresh_ahead`](Self::refresh_ahead). Counted from the end of the time to live; an idle time
    /// is not prolonged.
    pub const fn stale_for(mut self, stale: Duration) -> Self {
        self.plan.stale = stale;
        self
    }

    /// How long after a refresh that failed the next is tried; a second by default.
    pub const fn retry_after(mut self, pause: Duration) -> Self {
        self.plan.retry = pause;
        self
    }

    /// Has `executor` run refreshes, on other threads than the caller's: a thread pool's `spawn`, for
    /// example. It runs within [`get`](ScheduledCache::get). A job that it drops is asked for again
    /// later.
    pub fn refresh_by(mut self, executor: impl Fn(Job) + Send + Sync + 'static) -> Self {
        self.executor = Some(Box::new(executor));
        self
    }

    fn validate(&self, config: &CacheConfig) -> Result<(), MemoryError> {
        let plan = &self.plan;
        let text = |duration: Duration| format!("{duration:?}");
        let mut faults = ConfigFaults::new();
        let interval = plan.interval > Duration::ZERO;
        faults.check(interval, "interval", text(plan.interval), "must be above zero");
        faults.check(plan.slice > 0, "slice", plan.slice, "must be above zero");
        if self.loader.is_some() {
            let fits = config.ttl.is_none_or(|ttl| plan.ahead < ttl) && plan.ahead > Duration::ZERO;
            let rule = "must be above zero and shorter than the time to live";
            faults.check(fits, "refresh_ahead", text(plan.ahead), rule);
        } else {
            let fits = plan.stale == Duration::ZERO;
            let rule = "needs a loader; see refresh_ahead";
            faults.check(fits, "stale_for", text(plan.stale), rule);
            let fits = self.executor.is_none();
            faults.check(fits, "refresh_by", "an executor", rule);
        }
        faults.into_result()
    }
}

impl<K, V, P, W, T, G, A, S> ScheduledBuilder<K, V, P, W, T, G, A, S>
where
    P: Policy,
    W: Weight,
    Scheduled<T>: Times,
    G: Tags,
    A: Account,
    ConcurrentComputeCache<K, V, With<P, W, Scheduled<T>, G, A, S>>: Send + Sync + 'static,
{
    /// The cache, empty, with a thread that removes what is due, and another that renews values if
    /// there is a loader and no executor.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] for a configuration that breaks its rules;
    /// [`MemoryError::SourceUnavailable`] if there is no thread to be had; the account's refusal.
    #[allow(clippy::type_complexity, reason = "an alias would hide what it is")]
    pub fn build(
        self,
    ) -> Result<ScheduledCache<K, V, With<P, W, Scheduled<T>, G, A, S>>, MemoryError> {
        let mut cache = self.build_without_thread()?;
        let (inner, interval) = (Arc::clone(&cache.inner), cache.interval());
        let turn = move || Some(if inner.quiet_turn() { Duration::ZERO } else { interval });
        cache.workers[0] = Some(Worker::spawn("nebula-cache timer", Arc::default(), turn)?);
        Ok(cache)
    }

    /// As [`build`](Self::build), without the thread that removes what is due: for who
    /// [runs](ScheduledCache::run) a task for it, or [calls](ScheduledCache::run_due).
    ///
    /// # Errors
    /// As [`build`](Self::build).
    #[allow(clippy::type_complexity, reason = "an alias would hide what it is")]
    pub fn build_without_thread(
        mut self,
    ) -> Result<ScheduledCache<K, V, With<P, W, Scheduled<T>, G, A, S>>, MemoryError> {
        self.validate(self.cache.config())?;
        let (config, mut hooks, account, hasher) = self.cache.into_parts();
        // (So much that no entry sees the end of it, but not so much that it has none, and would never
        // be renewed.)
        let stale = nanos(self.plan.stale).min(NEVER / 4);
        hooks.stale = stale;
        let cache = ConcurrentComputeCache::from_parts(&config, hooks, account, hasher, None)?;
        let mut crew = None;
        if self.loader.is_some() && self.executor.is_none() {
            let (executor, worker) = own_executor()?;
            (self.executor, crew) = (Some(executor), Some(worker));
        }
        let lead =
            if self.loader.is_some() { nanos(self.plan.ahead).saturating_add(stale) } else { 0 };
        let inner = Inner {
            cache,
            plan: self.plan,
            lead,
            loader: self.loader,
            executor: self.executor,
            counters: Counters::default(),
        };
        Ok(ScheduledCache { workers: [None, crew], inner: Arc::new(inner) })
    }
}

/// A thread that does one job after the other.
fn own_executor() -> Result<(Executor, Worker), MemoryError> {
    let jobs: Arc<Mutex<VecDeque<Job>>> = Arc::default();
    let wishes: Arc<Wishes> = Arc::default();
    let turn = {
        let jobs = Arc::clone(&jobs);
        move || {
            // One at a time: if the cache is dropped, the others are not waited for.
            let job = jobs.lock().pop_front()?;
            // (It sees to its panics itself; this is for those of `Drop`.)
            let _ = quietly(job);
            Some(Duration::ZERO)
        }
    };
    let worker = Worker::spawn("nebula-cache refresher", Arc::clone(&wishes), turn)?;
    let executor = move |job: Job| {
        let mut jobs = jobs.lock();
        if jobs.len() >= MOST_WAITING {
            drop(jobs);
            drop(job);
            return;
        }
        jobs.push_back(job);
        drop(jobs);
        wishes.wake();
    };
    Ok((Box::new(executor), worker))
}

impl<K, V, P, W, T, G, A: fmt::Debug, S> fmt::Debug for ScheduledBuilder<K, V, P, W, T, G, A, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScheduledBuilder")
            .field("cache", &self.cache)
            .field("plan", &self.plan)
            .finish_non_exhaustive()
    }
}
