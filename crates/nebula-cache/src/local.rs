//! The face for one thread.

use std::{
    convert::Infallible,
    fmt,
    hash::{BuildHasher, Hash},
    ops::{Deref, DerefMut},
};

use equivalent::Equivalent;
use nebula_memory_core::{MemoryError, MemoryUsage, Refused, TrimRequest, sync::Arc};

use crate::{
    CacheConfig, CacheStats, Capacity, ComputeError, EntryOptions, Kit, LocalBuilder, PolicyKind,
    With,
    builder::CacheBuilder,
    engine::{Engine, high},
    hooks::Hooks,
    methods::figures,
    mode::{Counter, Local},
    stats::Timing,
    store::Store,
    tags::hash_of,
    times::sealed::Times,
};

/// A cache for one thread: no locks, and lookups that return references.
///
/// It is the same store as [`ConcurrentComputeCache`](crate::ConcurrentComputeCache) with the same
/// policies, capacity, expiry and accounting; `Send` if its parts are (functions given to its
/// builder are not).
///
/// Others can't reclaim its memory, because nobody else may touch it. They leave a request
/// ([`trim_request`](Self::trim_request)), which it serves at its next insertion or [`maintain`](Self::maintain).
///
/// ```
/// use nebula_cache::{CacheConfig, ComputeCache};
///
/// let config = CacheConfig::builder().entries(1000).build()?;
/// let mut cache = ComputeCache::<u64, u128>::new(config)?;
///
/// fn factorial(n: u64, cache: &mut ComputeCache<u64, u128>) -> u128 {
///     let compute = |cache: &mut ComputeCache<u64, u128>| match n {
///         0 => 1,
///         n => u128::from(n) * factorial(n - 1, cache),
///     };
///     *cache.get_or_compute_within(&n, compute).unwrap()
/// }
/// assert_eq!(factorial(20, &mut cache), 2_432_902_008_176_640_000);
/// assert_eq!(cache.get(&5), Some(&120));
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub struct ComputeCache<K, V, O: Kit = With> {
    pub(crate) engine: Engine<K, V, O, Local>,
    /// Hashes and keys of the computations under way, the innermost last.
    computing: Vec<(u64, K)>,
}

impl<K, V> ComputeCache<K, V> {
    /// An empty cache that charges nobody, for entries that own nothing outside themselves.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] for a configuration that breaks its rules.
    pub fn new(config: CacheConfig) -> Result<Self, MemoryError> {
        Self::builder(config).build()
    }

    /// Builds a cache with a policy, an account, a weigher and so on of its own.
    /// [`CacheConfig::shards`] does not apply: there is one.
    pub fn builder(config: CacheConfig) -> LocalBuilder<K, V> {
        CacheBuilder::new(config)
    }
}

impl<K, V, O: Kit> ComputeCache<K, V, O> {
    pub(crate) fn from_parts(
        config: &CacheConfig,
        hooks: Hooks<K, V, Local>,
        account: O::Account,
        hasher: O::Hasher,
    ) -> Result<Self, MemoryError> {
        let engine = Engine::new(config, |_| 0, hooks, account, hasher, None)?;
        Ok(Self { engine, computing: Vec::new() })
    }

    figures!();

    /// Checks the structure inside against itself.
    #[doc(hidden)]
    pub fn validate(&self) -> Result<(), String> {
        self.engine.validate()
    }

    #[inline]
    fn store(&mut self) -> &mut Store<K, V, O> {
        self.engine.shards[0].get_mut()
    }

    /// Where others leave requests for memory; register it with a
    /// [`ReclaimRegistry`](nebula_memory_core::ReclaimRegistry). The cache looks at each insertion,
    /// and publishes there what it could give.
    #[must_use]
    pub fn trim_request(&self) -> Arc<TrimRequest> {
        Arc::clone(&self.engine.request)
    }

    fn publish(&self) {
        self.engine.request.publish(self.engine.reclaimable());
    }

    /// Changes the capacity, in the unit in which it is counted. What is too much is evicted before
    /// this returns (pinned entries stay).
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] for zero, or for bytes where entries are counted and the
    /// other way round.
    pub fn set_capacity(&mut self, capacity: Capacity) -> Result<(), MemoryError> {
        self.engine.set_capacity(capacity)?;
        self.publish();
        Ok(())
    }

    /// Removes every entry, and frees the memory that held them. The statistics stay.
    pub fn clear(&mut self) {
        self.engine.clear();
        self.publish();
    }

    /// Evicts entries, coldest first, until `bytes` bytes have been given back or nothing is left,
    /// and returns how many it was. No more entries leave than there are when it begins, though a
    /// listener put some back.
    ///
    /// Counted is what is really given back: what the evicted entries owned (as far as weigher or
    /// charger told), and the cache's own memory as far as it is freed, which happens in chunks of
    /// some kilobytes.
    pub fn evict(&mut self, bytes: usize) -> usize {
        let given = self.engine.give_back(bytes, true);
        self.publish();
        given
    }

    /// Does what is due, in a bounded slice: looks at `slots` slots at most, where the last call
    /// ended, and removes what is expired; and gives back what was [requested](Self::trim_request).
    /// Returns how many entries were expired.
    pub fn maintain(&mut self, slots: usize) -> usize {
        let expired = self.engine.maintain(slots);
        self.publish();
        expired
    }

    /// Removes the entries with this [tag](EntryOptions::tag), and returns how many there were.
    /// Takes O(slots).
    ///
    /// Tags are told apart by four bytes of their hash: once in four billion times, an entry with
    /// another tag goes as well.
    pub fn invalidate_tag(&mut self, tag: impl Hash) -> usize {
        self.engine.invalidate_tag(hash_of(tag))
    }

    /// All entries, in no particular order.
    pub fn iter(&mut self) -> impl Iterator<Item = (&K, &V)> {
        let now = self.engine.now();
        let store = &*self.store();
        let mut from = 0;
        std::iter::from_fn(move || {
            loop {
                let slot = store.next_from(from)?;
                from = slot + 1;
                let entry = store.entry(slot);
                if !entry.kept.times.is_expired(now) {
                    return Some((&entry.key, &entry.value));
                }
            }
        })
    }

    /// Removes the entries for which `keep` does not hold (those that are expired are not shown to
    /// it). Takes O(slots).
    pub fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        let now = self.engine.now();
        let mut from = 0;
        while let Some(slot) = self.store().next_from(from) {
            let entry = self.store().entry(slot);
            if !entry.kept.times.is_expired(now) && !keep(&entry.key, &entry.value) {
                self.engine.take_slot(slot);
            }
            from = slot + 1;
        }
        self.publish();
    }
}

impl<K, V, O: Kit> ComputeCache<K, V, O>
where
    K: Hash + Eq,
    O::Hasher: BuildHasher,
{
    /// The value of `key`, if it is cached; a hit for the policy and the statistics.
    #[inline]
    pub fn get<Q>(&mut self, key: &Q) -> Option<&V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let hash = self.engine.hash(key);
        if O::Times::KEPT || !self.engine.shares_hits() {
            let token = self.look_up(hash, key)?;
            return Some(&self.store().entry(token).value);
        }
        let store = &*self.engine.shards[0].get_mut();
        let found = store.get(high(hash), |other| key.equivalent(other));
        let Some((_, entry)) = found else {
            self.engine.counters.misses.add(1);
            return None;
        };
        if !entry.node.hit() {
            store.note(entry);
        }
        self.engine.counters.hits.add(1);
        Some(&entry.value)
    }

    #[inline]
    fn look_up<Q>(&mut self, hash: u64, key: &Q) -> Option<u32>
    where
        Q: Equivalent<K> + ?Sized,
    {
        let now = self.engine.now();
        let shares_hits = self.engine.shares_hits();
        let store = self.store();
        let mut expired = false;
        if let Some((token, entry)) = store.get(high(hash), |other| key.equivalent(other)) {
            expired = entry.kept.times.is_expired(now);
            if !expired {
                entry.kept.times.touch(now);
                if shares_hits {
                    if !entry.node.hit() {
                        store.note(entry);
                    }
                } else {
                    store.touch(token);
                }
                self.engine.counters.hits.add(1);
                return Some(token);
            }
        }
        if expired {
            self.engine.expire(hash, key);
        }
        self.engine.missed();
        None
    }

    /// As [`get`](Self::get), but neither the policy nor the statistics notice.
    pub fn peek<Q>(&mut self, key: &Q) -> Option<&V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let (hash, now) = (self.engine.hash(key), self.engine.now());
        let (_, entry) = self.store().get(high(hash), |other| key.equivalent(other))?;
        (!entry.kept.times.is_expired(now)).then_some(&entry.value)
    }

    /// Whether `key` is cached. Neither the policy nor the statistics notice.
    pub fn contains<Q>(&self, key: &Q) -> bool
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        self.engine.peek(self.engine.hash(key), key, |_| ()).is_some()
    }

    /// Caches `value` under `key`, and returns the value that was cached there before. Other entries
    /// are evicted as far as that is needed.
    ///
    /// # Errors
    /// Key and value are handed back if they weigh more than the capacity, or than what pinned
    /// entries leave of it; if the account refuses the charge (after the cache has evicted as many
    /// bytes as were asked for, and asked again); or if the system has no memory. An earlier value
    /// of `key` then stays, unless it was evicted on the way.
    #[inline]
    pub fn insert(&mut self, key: K, value: V) -> Result<Option<V>, Refused<(K, V)>> {
        let hash = self.engine.hash(&key);
        let placed = self.engine.place(hash, key, value, None);
        self.publish();
        placed
    }

    /// As [`insert`](Self::insert), with options for this entry.
    ///
    /// # Errors
    /// As [`insert`](Self::insert); [`MemoryError::InvalidConfig`] if the options name something
    /// that entries of this cache do not keep.
    pub fn insert_with(
        &mut self,
        key: K,
        value: V,
        options: EntryOptions,
    ) -> Result<Option<V>, Refused<(K, V)>> {
        let hash = self.engine.hash(&key);
        let placed = self.engine.place(hash, key, value, Some(&options));
        self.publish();
        placed
    }

    /// Takes the value of `key` out of the cache.
    pub fn remove<Q>(&mut self, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let removed = self.engine.remove(self.engine.hash(key), key);
        self.publish();
        let (key, value) = removed?;
        // Not on return, when the value would be lost to a panic.
        drop(key);
        Some(value)
    }

    /// Changes the value of `key`: `change` is given what is cached, if anything is, and returns
    /// what is to be cached instead, or `None` for nothing.
    ///
    /// # Errors
    /// Key and value are handed back as by [`insert`](Self::insert).
    ///
    /// ```
    /// use nebula_cache::{CacheConfig, ComputeCache};
    ///
    /// let mut cache = ComputeCache::<&str, u64>::new(CacheConfig::default())?;
    /// for word in ["a", "b", "a"] {
    ///     cache.update(word, |count| Some(count.unwrap_or(&0) + 1))?;
    /// }
    /// assert_eq!(cache.get("a"), Some(&2));
    /// cache.update("a", |_| None)?;
    /// assert!(!cache.contains("a"));
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn update(
        &mut self,
        key: K,
        change: impl FnOnce(Option<&V>) -> Option<V>,
    ) -> Result<(), Refused<(K, V)>> {
        match change(self.peek(&key)) {
            Some(value) => self.insert(key, value).map(drop),
            None => {
                drop(self.remove(&key));
                Ok(())
            }
        }
    }

    /// Keeps the entry of `key` from being evicted, until it is [unpinned](Self::unpin), replaced
    /// entries included; whether there is one. A pinned entry still expires, and can be removed.
    pub fn pin<Q>(&mut self, key: &Q) -> bool
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        self.engine.pin(self.engine.hash(key), key, true).is_some()
    }

    /// Lets the entry of `key` be evicted again; whether it was pinned. If the capacity has been made
    /// smaller than what is in the cache, something is evicted at once.
    pub fn unpin<Q>(&mut self, key: &Q) -> bool
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let unpinned = self.engine.pin(self.engine.hash(key), key, false) == Some(true);
        self.publish();
        unpinned
    }

    /// The value of `key`, computed by `compute` if it is not cached.
    ///
    /// # Errors
    /// Key and value are handed back if the cache or its account refuses them; see
    /// [`insert`](Self::insert).
    ///
    /// ```
    /// use nebula_cache::{CacheConfig, ComputeCache};
    ///
    /// let mut cache = ComputeCache::<String, usize>::new(CacheConfig::default())?;
    /// assert_eq!(*cache.get_or_compute("nebula", || "nebula".len())?, 6);
    /// assert_eq!(*cache.get_or_compute("nebula", || unreachable!("it is cached"))?, 6);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    #[inline]
    pub fn get_or_compute<Q>(
        &mut self,
        key: &Q,
        compute: impl FnOnce() -> V,
    ) -> Result<&V, Refused<(K, V)>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let hash = self.engine.hash(key);
        if let Some(token) = self.look_up(hash, key) {
            return Ok(&self.store().entry(token).value);
        }
        let timing = Timing::start(&self.engine.counters, &self.engine.hooks);
        let value = compute();
        timing.succeed();
        self.place_computed(hash, key.to_owned(), value, None)
    }

    /// As [`get_or_compute`](Self::get_or_compute), for a computation that may fail. Nothing is
    /// cached if it does.
    ///
    /// # Errors
    /// [`ComputeError::Compute`] with the error of `compute`, or [`ComputeError::Memory`] if the
    /// cache or its account refuses the value, which is then lost: use
    /// [`get`](Self::get) and [`insert`](Self::insert) where it must not be.
    pub fn try_get_or_compute<Q, E>(
        &mut self,
        key: &Q,
        compute: impl FnOnce() -> Result<V, E>,
    ) -> Result<&V, ComputeError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        self.try_compute(key, None, compute)
    }

    /// As [`try_get_or_compute`](Self::try_get_or_compute), with options for the entry. They change
    /// nothing of one that is cached already.
    ///
    /// # Errors
    /// As [`try_get_or_compute`](Self::try_get_or_compute); options that entries of this cache do not
    /// keep have the value refused.
    ///
    /// ```
    /// use std::time::Duration;
    /// use nebula_cache::{CacheConfig, ComputeCache, EntryOptions};
    ///
    /// let mut answers = ComputeCache::<String, u32>::builder(CacheConfig::default())
    ///     .with_expiry()
    ///     .build()?;
    /// let soon_over = EntryOptions::new().ttl(Duration::from_secs(5));
    /// let answer = answers.try_get_or_compute_with("42", soon_over, || "42".parse());
    /// assert_eq!(answer.ok(), Some(&42));
    /// assert!(answers.try_get_or_compute_with("?", soon_over, || "?".parse()).is_err());
    /// assert_eq!(answers.len(), 1);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn try_get_or_compute_with<Q, E>(
        &mut self,
        key: &Q,
        options: EntryOptions,
        compute: impl FnOnce() -> Result<V, E>,
    ) -> Result<&V, ComputeError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        self.try_compute(key, Some(&options), compute)
    }

    fn try_compute<Q, E>(
        &mut self,
        key: &Q,
        options: Option<&EntryOptions>,
        compute: impl FnOnce() -> Result<V, E>,
    ) -> Result<&V, ComputeError<E>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let hash = self.engine.hash(key);
        if let Some(token) = self.look_up(hash, key) {
            return Ok(&self.store().entry(token).value);
        }
        let timing = Timing::start(&self.engine.counters, &self.engine.hooks);
        let value = compute().map_err(ComputeError::Compute)?;
        timing.succeed();
        let placed = self.place_computed(hash, key.to_owned(), value, options);
        placed.map_err(|refused| ComputeError::Memory(refused.error))
    }

    /// As [`get_or_compute`](Self::get_or_compute), for a computation that itself uses the cache,
    /// which it is given.
    ///
    /// # Errors
    /// [`ComputeError::Memory`]: [`MemoryError::Reentrant`] if the key is being computed already,
    /// further out; or why the value was refused.
    pub fn get_or_compute_within<Q>(
        &mut self,
        key: &Q,
        compute: impl FnOnce(&mut Self) -> V,
    ) -> Result<&V, ComputeError<Infallible>>
    where
        Q: Hash + Equivalent<K> + ToOwned<Owned = K> + ?Sized,
    {
        let hash = self.engine.hash(key);
        if let Some(token) = self.look_up(hash, key) {
            return Ok(&self.store().entry(token).value);
        }
        let same = |(other, of): &(u64, K)| *other == hash && key.equivalent(of);
        if self.computing.iter().any(same) {
            return Err(MemoryError::Reentrant { what: "a cache computation" }.into());
        }
        let mut computing = Computing::begin(self, hash, key.to_owned());
        let value = compute(&mut computing);
        let owned = computing.end();
        match owned {
            Some(owned) => {
                let placed = self.place_computed(hash, owned, value, None);
                placed.map_err(|refused| ComputeError::Memory(refused.error))
            }
            None => unreachable!("computations end in the opposite order of their beginning"),
        }
    }

    fn place_computed(
        &mut self,
        hash: u64,
        key: K,
        value: V,
        options: Option<&EntryOptions>,
    ) -> Result<&V, Refused<(K, V)>> {
        let (token, _) = self.engine.place_at(hash, key, value, options)?;
        self.publish();
        Ok(&self.store().entry(token).value)
    }
}

/// A computation under way, which is over when this is dropped, by a panic too.
struct Computing<'c, K, V, O: Kit> {
    cache: &'c mut ComputeCache<K, V, O>,
    depth: usize,
    start: u64,
    succeeded: bool,
}

impl<'c, K, V, O: Kit> Computing<'c, K, V, O> {
    fn begin(cache: &'c mut ComputeCache<K, V, O>, hash: u64, key: K) -> Self {
        let depth = cache.computing.len();
        cache.computing.push((hash, key));
        let start = cache.engine.counters.begin(&cache.engine.hooks);
        Self { cache, depth, start, succeeded: false }
    }

    fn end(mut self) -> Option<K> {
        self.succeeded = true;
        self.cache.computing.pop().map(|(_, key)| key)
    }
}

impl<K, V, O: Kit> Drop for Computing<'_, K, V, O> {
    fn drop(&mut self) {
        let engine = &self.cache.engine;
        engine.counters.end(&engine.hooks, self.start, self.succeeded);
        self.cache.computing.truncate(self.depth);
    }
}

impl<K, V, O: Kit> Deref for Computing<'_, K, V, O> {
    type Target = ComputeCache<K, V, O>;

    fn deref(&self) -> &Self::Target {
        self.cache
    }
}

impl<K, V, O: Kit> DerefMut for Computing<'_, K, V, O> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        self.cache
    }
}

/// Of bytes: what is [`charged`](ComputeCache::charged), and the capacity if it is in bytes.
impl<K, V, O: Kit> MemoryUsage for ComputeCache<K, V, O> {
    fn used(&self) -> usize {
        self.charged()
    }

    fn capacity(&self) -> Option<usize> {
        match self.capacity() {
            Capacity::Bytes(bytes) => Some(bytes.get()),
            Capacity::Entries(_) => None,
        }
    }
}

impl<K, V, O: Kit> fmt::Debug for ComputeCache<K, V, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ComputeCache")
            .field("len", &self.len())
            .field("weight", &self.weight())
            .field("capacity", &self.capacity())
            .field("policy", &self.policy())
            .finish_non_exhaustive()
    }
}
