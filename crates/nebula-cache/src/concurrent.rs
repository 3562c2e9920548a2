//! The face for many threads. Computing is in `compute.rs`.

use std::{
    fmt,
    hash::{BuildHasher, Hash},
};

use equivalent::Equivalent;
use nebula_memory_core::{MemoryError, MemoryUsage, PressureLevel, Reclaim, Refused};

use crate::{
    CacheConfig, CacheStats, Capacity, EntryOptions, Kit, PolicyKind, SharedBuilder, With,
    builder::CacheBuilder, engine::Engine, flight::Flights, hooks::Hooks, methods::figures,
    mode::Shared, shares::Tenancy, sweep::Walk, tags::hash_of,
};

/// A cache for many threads, with a capacity that is never exceeded and values that are computed
/// once.
///
/// - Lookups share a lock with other lookups; a hit is one relaxed store to the entry, and a clone
///   of the value (take an `Arc` for values that are large to clone). Policies that move entries at
///   each hit ([`Lru`](crate::Lru), [`Lfu`](crate::Lfu), [`Arc`](crate::Arc),
///   [`WTinyLfu`](crate::WTinyLfu)) have lookups of one shard wait for each other.
/// - The capacity is one for all shards and is held exactly, by any number of writers: room is
///   taken before an entry is placed. A large entry fits wherever the total allows it.
/// - The account is charged for what entries own and for the cache's own memory, to the byte,
///   before either is there.
/// - Values that leave are dropped, and the listener is told, after the locks are released.
///
/// `Hash`, `Eq` and `Clone` of keys and values run inside lookups; they must not use the cache.
/// A panic in them, in `Drop` or in a function of yours leaves the cache as it should be.
///
/// ```
/// use nebula_cache::{CacheConfig, ConcurrentComputeCache};
/// use nebula_memory_core::ByteSize;
///
/// let config = CacheConfig::builder().bytes(ByteSize::mib(1)).build()?;
/// let cache = ConcurrentComputeCache::<String, usize>::new(config)?;
/// let length = cache.get_or_compute("nebula", || "nebula".len())?;
/// assert_eq!(length, 6);
/// assert_eq!(cache.get("nebula"), Some(6));
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub struct ConcurrentComputeCache<K, V, O: Kit = With> {
    pub(crate) engine: Engine<K, V, O, Shared>,
    pub(crate) flights: Flights<K, V>,
}

impl<K, V> ConcurrentComputeCache<K, V> {
    /// An empty cache that charges nobody, for entries that own nothing outside themselves.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] for a configuration that breaks its rules.
    pub fn new(config: CacheConfig) -> Result<Self, MemoryError> {
        Self::builder(config).build()
    }

    /// Builds a cache with a policy, an account, a weigher and so on of its own.
    pub fn builder(config: CacheConfig) -> SharedBuilder<K, V> {
        CacheBuilder::new(config)
    }
}

impl<K, V, O: Kit> ConcurrentComputeCache<K, V, O> {
    pub(crate) fn from_parts(
        config: &CacheConfig,
        hooks: Hooks<K, V, Shared>,
        account: O::Account,
        hasher: O::Hasher,
        tenancy: Option<Tenancy>,
    ) -> Result<Self, MemoryError> {
        let flights = Flights::<K, V>::bytes;
        let engine = Engine::new(config, flights, hooks, account, hasher, tenancy)?;
        let flights = Flights::new(engine.shards.len());
        Ok(Self { engine, flights })
    }

    figures!();

    /// Checks the structure inside against itself, and, if no other thread is using the cache, the
    /// sums too.
    #[doc(hidden)]
    pub fn validate(&self) -> Result<(), String> {
        self.engine.validate()?;
        if self.flights.is_idle() { Ok(()) } else { Err("computations are listed".to_owned()) }
    }

    /// Into how many independently locked parts the entries are divided.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.engine.shards.len()
    }

    /// Changes the capacity, in the unit in which it is counted. What is too much is evicted before
    /// this returns (pinned entries stay).
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] for zero, or for bytes where entries are counted and the
    /// other way round.
    ///
    /// ```
    /// use nebula_cache::{CacheConfig, Capacity, ConcurrentComputeCache};
    ///
    /// let config = CacheConfig::builder().entries(100).build()?;
    /// let cache = ConcurrentComputeCache::<u64, u64>::new(config)?;
    /// for key in 0..100 {
    ///     cache.insert(key, key)?;
    /// }
    /// cache.set_capacity(Capacity::Entries(10))?;
    /// assert_eq!(cache.len(), 10);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn set_capacity(&self, capacity: Capacity) -> Result<(), MemoryError> {
        self.engine.set_capacity(capacity)
    }

    /// Removes every entry, and frees the memory that held them. The statistics stay.
    ///
    /// Entries placed while it runs may stay. Takes O(entries), most of it with no lock held.
    pub fn clear(&self) {
        self.engine.clear();
    }

    /// Evicts entries, coldest first, until `bytes` bytes have been given back or nothing is left,
    /// and returns how many it was. No more entries leave than there are when it begins, though a
    /// listener put some back.
    ///
    /// Counted is what is really given back: what the evicted entries owned (as far as weigher or
    /// charger told), and the cache's own memory as far as it is freed, which happens in chunks of
    /// some kilobytes. So the weight may fall by more or by less.
    pub fn evict(&self, bytes: usize) -> usize {
        self.engine.give_back(bytes, true)
    }

    /// Does what is due, in a bounded slice: looks at `slots` slots at most, where the last call
    /// ended, and removes what is expired; and gives back what was asked for under pressure if
    /// there is a listener to be told. Returns how many entries were expired.
    ///
    /// Nobody has to call this: expired entries are never returned, and leave when somebody asks
    /// for them or the policy comes by. It only frees their memory sooner.
    pub fn maintain(&self, slots: usize) -> usize {
        self.engine.maintain(slots)
    }

    /// Removes the entries with this [tag](EntryOptions::tag), and returns how many there were.
    ///
    /// Takes O(slots), a few at a time under a lock. Tags are told apart by four bytes of their
    /// hash: once in four billion times, an entry with another tag goes as well.
    pub fn invalidate_tag(&self, tag: impl Hash) -> usize {
        self.engine.invalidate_tag(hash_of(tag))
    }

    /// All entries, as clones, in no particular order.
    ///
    /// No lock is held between them: an entry that is there all the while is met at least once (more
    /// often if the cache frees memory meanwhile), others perhaps.
    pub fn iter(&self) -> Iter<'_, K, V, O>
    where
        K: Clone,
        V: Clone,
    {
        Iter { cache: self, walk: Walk::default() }
    }
}

impl<K, V, O: Kit> ConcurrentComputeCache<K, V, O>
where
    K: Hash + Eq,
    O::Hasher: BuildHasher,
{
    /// A clone of the value of `key`, if it is cached; a hit for the policy and the statistics.
    #[inline]
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
        V: Clone,
    {
        self.engine.look_up(self.engine.hash(key), key, |entry, _| entry.value.clone())
    }

    /// As [`get`](Self::get), but neither the policy nor the statistics notice.
    pub fn peek<Q>(&self, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
        V: Clone,
    {
        self.engine.peek(self.engine.hash(key), key, |entry| entry.value.clone())
    }

    /// Whether `key` is cached. Neither the policy nor the statistics notice.
    pub fn contains<Q>(&self, key: &Q) -> bool
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        self.engine.peek(self.engine.hash(key), key, |_| ()).is_some()
    }

    /// Caches `value` under `key`, and returns the value that was cached there before.
    ///
    /// Other entries are evicted as far as that is needed. While others hold all of the capacity
    /// for entries that they are about to place, it waits for them.
    ///
    /// # Errors
    /// Key and value are handed back if they weigh more than the capacity, or than what pinned
    /// entries leave of it; if the account refuses the charge (after the cache has evicted as many
    /// bytes as were asked for, and asked again); or if the system has no memory. An earlier value
    /// of `key` then stays, unless it was evicted on the way.
    #[inline]
    pub fn insert(&self, key: K, value: V) -> Result<Option<V>, Refused<(K, V)>> {
        let hash = self.engine.hash(&key);
        self.engine.place(hash, key, value, None)
    }

    /// As [`insert`](Self::insert), with options for this entry.
    ///
    /// # Errors
    /// As [`insert`](Self::insert); [`MemoryError::InvalidConfig`] if the options name something
    /// that entries of this cache do not keep.
    pub fn insert_with(
        &self,
        key: K,
        value: V,
        options: EntryOptions,
    ) -> Result<Option<V>, Refused<(K, V)>> {
        let hash = self.engine.hash(&key);
        self.engine.place(hash, key, value, Some(&options))
    }

    /// Takes the value of `key` out of the cache.
    ///
    /// A computation of it that is under way is not stopped, and will cache what it finds.
    pub fn remove<Q>(&self, key: &Q) -> Option<V>
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        let (key, value) = self.engine.remove(self.engine.hash(key), key)?;
        // Not on return, when the value would be lost to a panic.
        drop(key);
        Some(value)
    }

    /// Keeps the entry of `key` from being evicted, until it is [unpinned](Self::unpin), replaced
    /// entries included; whether there is one. A pinned entry still expires, and can be removed.
    ///
    /// What is pinned is not there for others: insertions that find no room because of it are
    /// refused.
    ///
    /// ```
    /// use nebula_cache::{CacheConfig, Capacity, ConcurrentComputeCache};
    ///
    /// let config = CacheConfig::builder().entries(2).build()?;
    /// let cache = ConcurrentComputeCache::<u32, u32>::new(config)?;
    /// cache.insert(1, 1)?;
    /// cache.insert(2, 2)?;
    /// assert!(cache.pin(&1) && cache.pin(&2));
    /// assert!(cache.insert(3, 3).is_err());
    /// // What is pinned stays even if the capacity is made smaller, until it is unpinned.
    /// cache.set_capacity(Capacity::Entries(1))?;
    /// assert_eq!(cache.len(), 2);
    /// assert!(cache.unpin(&2) && !cache.contains(&2));
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn pin<Q>(&self, key: &Q) -> bool
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        self.engine.pin(self.engine.hash(key), key, true).is_some()
    }

    /// Lets the entry of `key` be evicted again; whether it was pinned. If the capacity has been made
    /// smaller than what is in the cache, something is evicted at once.
    pub fn unpin<Q>(&self, key: &Q) -> bool
    where
        Q: Hash + Equivalent<K> + ?Sized,
    {
        self.engine.pin(self.engine.hash(key), key, false) == Some(true)
    }

    /// Removes the entries for which `keep` does not hold.
    ///
    /// `keep` is called with clones, with no lock held, and may use the cache. An entry that is
    /// there all the while is asked about at least once; one whose value is replaced while `keep`
    /// looks at the old one may be removed with it. Takes O(slots).
    pub fn retain(&self, mut keep: impl FnMut(&K, &V) -> bool)
    where
        K: Clone,
        V: Clone,
    {
        for (key, value) in self {
            if !keep(&key, &value) {
                self.remove(&key);
            }
        }
    }
}

/// The entries of a [`ConcurrentComputeCache`]; made by [`iter`](ConcurrentComputeCache::iter).
pub struct Iter<'c, K, V, O: Kit> {
    cache: &'c ConcurrentComputeCache<K, V, O>,
    walk: Walk,
}

impl<K: Clone, V: Clone, O: Kit> Iterator for Iter<'_, K, V, O> {
    type Item = (K, V);

    fn next(&mut self) -> Option<(K, V)> {
        let read = |entry: &crate::store::Entry<K, V, O>| (entry.key.clone(), entry.value.clone());
        self.cache.engine.next_entry(&mut self.walk, read)
    }
}

impl<K, V, O: Kit> fmt::Debug for Iter<'_, K, V, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").field("walk", &self.walk).finish_non_exhaustive()
    }
}

impl<'c, K: Clone, V: Clone, O: Kit> IntoIterator for &'c ConcurrentComputeCache<K, V, O> {
    type Item = (K, V);
    type IntoIter = Iter<'c, K, V, O>;

    fn into_iter(self) -> Iter<'c, K, V, O> {
        self.iter()
    }
}

impl<K, V, O> Reclaim for ConcurrentComputeCache<K, V, O>
where
    O: Kit,
    Self: Send + Sync,
{
    fn reclaimable(&self) -> usize {
        self.engine.reclaimable()
    }

    /// At `Normal` and `Elevated` it gives at most a quarter of what it holds, at `High` half, at
    /// `Critical` everything. Shards that are in use are skipped. A cache with a listener gives
    /// nothing now, and what was asked for at its next miss, insertion or [`maintain`](Self::maintain).
    fn reclaim(&self, wanted: usize, urgency: PressureLevel) -> usize {
        self.engine.reclaim(wanted, urgency)
    }
}

/// Of bytes: what is [`charged`](ConcurrentComputeCache::charged), and the capacity if it is in
/// bytes.
impl<K, V, O: Kit> MemoryUsage for ConcurrentComputeCache<K, V, O> {
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

impl<K, V, O: Kit> fmt::Debug for ConcurrentComputeCache<K, V, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurrentComputeCache")
            .field("len", &self.len())
            .field("weight", &self.weight())
            .field("capacity", &self.capacity())
            .field("policy", &self.policy())
            .field("shards", &self.shards())
            .finish_non_exhaustive()
    }
}
