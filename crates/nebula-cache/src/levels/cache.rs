//! The face of several levels.

use std::{
    convert::Infallible,
    hash::{BuildHasher, Hash},
    sync::atomic::Ordering::Relaxed,
    thread::JoinHandle,
    time::Duration,
};

use equivalent::Equivalent;
use nebula_memory_core::{MemoryError, Refused, sync::Arc};

use super::{
    Demotion, Level, LevelError, MultiLevelStats,
    builder::MultiLevelBuilder,
    first::of_level_one,
    lower::{Found, Lower, spread},
};
use crate::{
    CacheBuilder, Capacity, ComputeError, ConcurrentComputeCache, EntryOptions, Kit, With,
    engine::high,
    flight::{Joined, Lead, SharedError},
    mode::Shared,
    stats::Timing,
};

/// A cache of several levels: level one is a [`ConcurrentComputeCache`], below it are larger and
/// slower ones, such as more memory, a file or a server.
///
/// - A hit in level one is what it is in a [`ConcurrentComputeCache`]: one lookup, and out.
/// - Otherwise the levels are asked in their order, by one caller for each key; others who ask for
///   the key wait for what it finds. What is found goes to the levels above ([`Promotion`]).
/// - What is inserted or computed goes to level one and to those below, at once or by a thread of the
///   cache's own ([`Writing`]); or what level one evicts goes to the next ([`Demotion`]).
/// - Whatever happens to one key happens in an order: a removal is not undone by a write that was
///   under way.
/// - A level that fails is never the caller's trouble: it counts as a miss. One that fails or is slow
///   again and again is bypassed for a while ([`Breaker`]). What could not be told to a level it is
///   not asked about, until it has been told.
///
/// [`Promotion`]: crate::Promotion
/// [`Writing`]: crate::Writing
/// [`Demotion`]: crate::Demotion
/// [`Breaker`]: crate::Breaker
///
/// ```
/// use nebula_cache::{CacheConfig, ConcurrentComputeCache, MultiLevelCache};
///
/// let few = CacheConfig::builder().entries(10).build()?;
/// let many = CacheConfig::builder().entries(1000).build()?;
/// let cache = MultiLevelCache::builder(ConcurrentComputeCache::builder(few))
///     .level(ConcurrentComputeCache::<u64, u64>::new(many)?)
///     .build()?;
/// for key in 0..100 {
///     cache.insert(key, key * key)?;
/// }
/// assert_eq!(cache.len(), 10);
/// // The others are below, and are found there.
/// let below = (0..100).find(|key| !cache.is_in_first(key)).unwrap();
/// assert_eq!(cache.get(&below), Some(below * below));
/// assert_eq!(cache.stats().levels[0].hits, 1);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub struct MultiLevelCache<K, V, O: Kit = With> {
    pub(crate) first: ConcurrentComputeCache<K, V, O>,
    pub(crate) lower: Arc<Lower<K, V>>,
    /// Ends the thread that writes behind, if there is one.
    pub(crate) _writer: Option<Writer<K, V>>,
}

/// The thread that writes behind. Dropping this waits for it to write what is queued, and to end.
pub(crate) struct Writer<K, V> {
    pub(crate) thread: Option<JoinHandle<()>>,
    pub(crate) stop: fn(&Lower<K, V>),
    pub(crate) lower: Arc<Lower<K, V>>,
}

impl<K, V> Drop for Writer<K, V> {
    fn drop(&mut self) {
        (self.stop)(&self.lower);
        if let Some(thread) = self.thread.take() {
            if thread.thread().id() != std::thread::current().id() {
                // It does not panic, and if it did, it would have been reported.
                let _ = thread.join();
            }
        }
    }
}

impl<K, V> MultiLevelCache<K, V> {
    /// Builds a cache on top of whose levels is the cache that `first` describes.
    pub fn builder<P, W, T, G, A, S>(
        first: CacheBuilder<K, V, Shared, P, W, T, G, A, S>,
    ) -> MultiLevelBuilder<K, V, P, W, T, G, A, S> {
        MultiLevelBuilder::new(first)
    }
}

impl<K, V, O> MultiLevelCache<K, V, O>
where
    K: Hash + Eq + Clone,
    V: Clone,
    O: Kit,
    O::Hasher: BuildHasher,
{
    /// A clone of the value of `key`, from the first level that holds it.
    ///
    /// Of several callers for one key that is not in level one, one looks below, and the others wait
    /// for what it finds, or that it finds nothing; or for its computation or insertion, if that is
    /// what it is at. `None` as
    /// well if the caller itself is computing the key.
    #[inline]
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let hash = self.first.engine.hash(key);
        match self.first.engine.look_up(hash, key, |entry, _| entry.value.clone()) {
            Some(value) => Some(value),
            None => self.get_below(hash, key),
        }
    }

    #[inline(never)]
    fn get_below<Q>(&self, hash: u64, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        loop {
            match self.join(hash, key) {
                Joined::Lead(lead) => {
                    let found = self.peek(hash, key).or_else(|| self.find(hash, &key.to_owned()));
                    match &found {
                        Some(value) => lead.land(|| value.clone()),
                        // Who waits for a lookup need not look again, one after the other.
                        None => lead.fail(&(Arc::new(Nowhere) as SharedError)),
                    }
                    return found;
                }
                Joined::Landed(value) => return Some(unshare(value)),
                Joined::Again => {
                    if let Some(value) = self.peek(hash, key) {
                        return Some(value);
                    }
                }
                Joined::Failed(_) | Joined::Circle => return self.peek(hash, key),
            }
        }
    }

    #[inline]
    fn join<Q>(&self, hash: u64, key: &Q) -> Joined<'_, K, V>
    where
        Q: Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let waiting = || {
            self.first.engine.counters.waits.fetch_add(1, Relaxed);
        };
        self.lower.flights.join(spread(high(hash)), key, waiting)
    }

    fn peek<Q>(&self, hash: u64, key: &Q) -> Option<V>
    where
        Q: Equivalent<K> + ?Sized,
    {
        self.first.engine.peek(hash, key, |entry| entry.value.clone())
    }

    /// Looks below level one, and promotes what is found. Within the key's flight.
    fn find(&self, hash: u64, key: &K) -> Option<V> {
        let clears = self.lower.clears();
        let Found { value, until, above } = self.lower.find(high(hash), key)?;
        if self.lower.promoter.promotes(high(hash)) {
            if above > 0 {
                self.lower.put(high(hash), key, &value, until, above, false);
            }
            self.first.place_until(hash, key.clone(), value.clone(), until);
            if !self.lower.is_as_it_was(clears) {
                // It may have been found before, and placed after.
                self.lower.remove(high(hash), key);
                drop(self.first.engine.remove(hash, key));
            }
        }
        Some(value)
    }

    /// The value of `key`, from the first level that holds it, or computed by `compute`.
    ///
    /// Of several callers for one key, one looks below level one and, if nothing is there, computes;
    /// the others wait for its value. Otherwise as
    /// [`ConcurrentComputeCache::get_or_compute`].
    ///
    /// # Errors
    /// [`MemoryError::Reentrant`] if the computation that is under way waits for this call.
    ///
    /// ```
    /// use nebula_cache::{CacheConfig, ConcurrentComputeCache, MultiLevelCache};
    ///
    /// let below = ConcurrentComputeCache::<String, usize>::new(CacheConfig::default())?;
    /// let cache = MultiLevelCache::builder(ConcurrentComputeCache::builder(CacheConfig::default()))
    ///     .level(below)
    ///     .build()?;
    /// assert_eq!(cache.get_or_compute("nebula", || 6)?, 6);
    /// cache.evict(usize::MAX);
    /// assert_eq!(cache.get_or_compute("nebula", || unreachable!())?, 6);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    #[inline]
    pub fn get_or_compute<Q>(&self, key: &Q, compute: impl FnOnce() -> V) -> Result<V, MemoryError>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        match self.try_get_or_compute(key, || Ok::<V, Infallible>(compute())) {
            Ok(value) => Ok(value),
            Err(ComputeError::Memory(error)) => Err(error),
            Err(ComputeError::Compute(never)) => match never {},
        }
    }

    /// As [`get_or_compute`](Self::get_or_compute), for a computation that may fail.
    ///
    /// # Errors
    /// [`ComputeError::Compute`] with the error of `compute`, which nobody else gets; or
    /// [`ComputeError::Memory`] with [`MemoryError::Reentrant`].
    #[inline]
    pub fn try_get_or_compute<Q, E>(
        &self,
        key: &Q,
        compute: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, ComputeError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let hash = self.first.engine.hash(key);
        match self.first.engine.look_up(hash, key, |entry, _| entry.value.clone()) {
            Some(value) => Ok(value),
            None => self.compute_missing(hash, key, None, compute),
        }
    }

    /// As [`try_get_or_compute`](Self::try_get_or_compute), with options for the entry. Its time to
    /// live holds in all levels, its tags and a pin in level one.
    ///
    /// # Errors
    /// As [`try_get_or_compute`](Self::try_get_or_compute). Options that entries of level one do not
    /// keep have the value not cached.
    #[inline]
    pub fn try_get_or_compute_with<Q, E>(
        &self,
        key: &Q,
        options: EntryOptions,
        compute: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, ComputeError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let hash = self.first.engine.hash(key);
        match self.first.engine.look_up(hash, key, |entry, _| entry.value.clone()) {
            Some(value) => Ok(value),
            None => self.compute_missing(hash, key, Some(&options), compute),
        }
    }

    #[inline(never)]
    fn compute_missing<Q, E>(
        &self,
        hash: u64,
        key: &Q,
        options: Option<&EntryOptions>,
        compute: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, ComputeError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        loop {
            match self.join(hash, key) {
                Joined::Lead(lead) => {
                    let found = self.peek(hash, key).or_else(|| self.find(hash, &key.to_owned()));
                    let value = match found {
                        Some(value) => value,
                        None => self.compute(hash, &key.to_owned(), &lead, options, compute)?,
                    };
                    lead.land(|| value.clone());
                    return Ok(value);
                }
                Joined::Landed(value) => return Ok(unshare(value)),
                Joined::Failed(_) | Joined::Again => {
                    if let Some(value) = self.peek(hash, key) {
                        return Ok(value);
                    }
                }
                Joined::Circle => {
                    return Err(MemoryError::Reentrant { what: "a cache computation" }.into());
                }
            }
        }
    }

    /// Computes, and tells the levels.
    fn compute<E>(
        &self,
        hash: u64,
        key: &K,
        lead: &Lead<'_, K, V>,
        options: Option<&EntryOptions>,
        compute: impl FnOnce() -> Result<V, E>,
    ) -> Result<V, ComputeError<E>> {
        let engine = &self.first.engine;
        let timing = Timing::start(&engine.counters, &engine.hooks);
        let value = compute().map_err(ComputeError::Compute)?;
        timing.succeed();
        let until = self.first.until(options);
        let copy = value.clone();
        let untold = Untold { lower: &self.lower, hash: high(hash), key };
        if let Some(key) = lead.take_key() {
            // What is refused has been counted, and may still fit below.
            drop(engine.place(hash, key, copy, options));
        }
        if options.is_none_or(|options| options.check::<O>().is_ok()) {
            self.tell(hash, key, &value, until);
        }
        untold.done();
        Ok(value)
    }

    /// Tells the lower levels of a new value in level one. Within the key's flight.
    fn tell(&self, hash: u64, key: &K, value: &V, until: Option<Duration>) {
        let lower = &*self.lower;
        lower.limbo.touch(high(hash));
        if lower.demotion == Demotion::Only {
            lower.remove(high(hash), key);
        } else {
            lower.put(high(hash), key, value, until, lower.tiers.len(), true);
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
    pub fn insert(&self, key: K, value: V) -> Result<Option<V>, Refused<(K, V)>> {
        self.insert_as(key, value, None)
    }

    /// As [`insert`](Self::insert), with options for this entry. Its time to live holds in all
    /// levels, its tags and a pin in level one.
    ///
    /// # Errors
    /// As [`insert`](Self::insert); [`MemoryError::InvalidConfig`] if the options name something that
    /// entries of level one do not keep.
    pub fn insert_with(
        &self,
        key: K,
        value: V,
        options: EntryOptions,
    ) -> Result<Option<V>, Refused<(K, V)>> {
        self.insert_as(key, value, Some(&options))
    }

    fn insert_as(
        &self,
        key: K,
        value: V,
        options: Option<&EntryOptions>,
    ) -> Result<Option<V>, Refused<(K, V)>> {
        let hash = self.first.engine.hash(&key);
        loop {
            match self.join(hash, &key) {
                Joined::Lead(lead) => {
                    let (name, copy, until) =
                        (key.clone(), value.clone(), self.first.until(options));
                    let untold = Untold { lower: &self.lower, hash: high(hash), key: &name };
                    let placed = self.first.engine.place(hash, key, value, options);
                    if placed.is_ok() {
                        self.tell(hash, &name, &copy, until);
                    }
                    untold.done();
                    let before = placed?;
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
    pub fn remove<Q>(&self, key: &Q) -> Result<Option<V>, MemoryError>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let hash = self.first.engine.hash(key);
        loop {
            match self.join(hash, key) {
                Joined::Lead(lead) => {
                    let name = key.to_owned();
                    let untold = Untold { lower: &self.lower, hash: high(hash), key: &name };
                    let removed = self.first.engine.remove(hash, key);
                    self.lower.limbo.touch(high(hash));
                    self.lower.remove(high(hash), &name);
                    untold.done();
                    drop(lead);
                    return Ok(removed.map(|(_, value)| value));
                }
                Joined::Landed(_) | Joined::Failed(_) | Joined::Again => {}
                Joined::Circle => {
                    return Err(MemoryError::Reentrant { what: "a removal from a cache" });
                }
            }
        }
    }

    /// Removes every entry from all levels. A level that can't be reached is not asked about
    /// anything until it has been cleared.
    ///
    /// Entries inserted or computed while it runs may stay.
    pub fn clear(&self) {
        self.first.clear();
        self.lower.clear();
        // What was promoted while the levels below still had it.
        self.first.clear();
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
    pub fn maintain(&self, work: usize) -> usize {
        let below = self.lower.tiers.iter().map(|tier| tier.maintain(work));
        below.fold(self.first.maintain(work), usize::saturating_add)
    }

    /// Waits until what was queued before this call has been written, and has each level make
    /// durable what it holds.
    ///
    /// # Errors
    /// [`LevelError::TimedOut`] if the queue is not done within `timeout` (making durable takes as
    /// long as it takes), or the first error of a level. Levels that are bypassed are not told to
    /// write, and that is no error.
    pub fn flush(&self, timeout: Duration) -> Result<(), LevelError> {
        if let Some(queue) = &self.lower.queue {
            if !queue.wait(timeout) {
                return Err(LevelError::TimedOut(timeout));
            }
        }
        let mut result = Ok(());
        for tier in &self.lower.tiers {
            result = result.and(tier.flush());
        }
        result
    }

    /// What all levels have done. Takes O(shards).
    pub fn stats(&self) -> MultiLevelStats {
        MultiLevelStats {
            first: self.first.stats(),
            levels: self.lower.tiers.iter().map(|tier| tier.stats(|level| level.name())).collect(),
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

/// What those are told who wait for a lookup that finds nothing.
pub(super) struct Nowhere;

/// Level one is about to change, and the lower levels have yet to be told. If a panic comes between
/// (of a listener, a `Clone`, a `Drop`), they are not believed about the key until they forget it.
pub(super) struct Untold<'c, K: Hash + Eq + Clone, V: Clone, L: ?Sized = dyn Level<K, V>> {
    pub(super) lower: &'c Lower<K, V, L>,
    pub(super) hash: u32,
    pub(super) key: &'c K,
}

impl<K: Hash + Eq + Clone, V: Clone, L: ?Sized> Untold<'_, K, V, L> {
    /// They have been told, or need not be.
    pub(super) fn done(self) {
        std::mem::forget(self);
    }
}

impl<K: Hash + Eq + Clone, V: Clone, L: ?Sized> Drop for Untold<'_, K, V, L> {
    fn drop(&mut self) {
        self.lower.limbo.touch(self.hash);
        self.lower.doubt(self.hash, self.key);
    }
}

pub(super) fn unshare<V: Clone>(value: Arc<V>) -> V {
    Arc::try_unwrap(value).unwrap_or_else(|value| V::clone(&value))
}

of_level_one!(MultiLevelCache);

/// Starts the thread that writes behind.
pub(crate) fn start_writer<K, V>(lower: &Arc<Lower<K, V>>) -> Result<Writer<K, V>, MemoryError>
where
    K: Hash + Eq + Clone + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    let mine = Arc::clone(lower);
    let serve = move || mine.serve();
    let thread = std::thread::Builder::new().name("nebula-cache-writer".to_owned()).spawn(serve);
    let thread =
        thread.map_err(|error| MemoryError::source_unavailable("a thread that writes", error))?;
    let stop = |lower: &Lower<K, V>| {
        if let Some(queue) = &lower.queue {
            queue.stop();
        }
    };
    Ok(Writer { thread: Some(thread), stop, lower: Arc::clone(lower) })
}
