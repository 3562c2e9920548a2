//! The face for many threads: lookups, removals and figures. Placing entries is in `place.rs`,
//! computing them in `compute.rs`, giving memory back in `reclaim.rs`.

use std::{
    borrow::Borrow,
    fmt,
    hash::{BuildHasher, Hash},
    sync::atomic::Ordering::Relaxed,
};

use crossbeam_utils::CachePadded;
use nebula_memory_core::{Account, MemoryError, Refused, Unlimited, sync::atomic::AtomicUsize};

use crate::{
    CacheBuilder, CacheConfig, CacheStats, DefaultHashBuilder, SizeOf, Weigher,
    bag::Credit,
    flight::Flights,
    policy::{Policy, S3Fifo},
    room::Total,
    shard::Shard,
    slab::Slot,
    stats::Counters,
    store::{EntryOf, Store, inline_weight},
    weigher::sealed,
};

pub(crate) type KeptOf<K, V, W> = <W as sealed::Weigher<K, V>>::Kept;
pub(crate) type ShardOf<K, V, W> = Shard<K, V, KeptOf<K, V, W>, S3Fifo>;

/// Chunks of entries are about this large, unless a few entries are larger, or the whole capacity
/// is smaller.
const CHUNK_BYTES: usize = 8 << 10;

/// A cache for many threads, with a capacity in bytes that is never exceeded and values that are
/// computed once.
///
/// - Lookups share a lock with other lookups; a hit is one relaxed store to the entry, and a clone
///   of the value (take an `Arc` for values that are large to clone).
/// - The capacity is one for all shards and is held exactly, by any number of writers: weight is
///   taken before an entry is placed. A large entry fits wherever the total allows it.
/// - What has to go is chosen by S3-FIFO (Yang et al., SOSP 2023), per shard.
/// - The account is charged for what entries own (see [`Weigher`]) and for the cache's own memory,
///   to the byte, before either is there.
/// - Values that leave are dropped after the locks are released.
///
/// `Hash`, `Eq` and `Clone` of keys and values run inside lookups; they must not use the cache.
/// A panic in them, in `Drop` or in a closure leaves the cache as it should be.
///
/// ```
/// use nebula_cache::{CacheConfig, ConcurrentComputeCache};
/// use nebula_memory_core::ByteSize;
///
/// let config = CacheConfig::builder().capacity(ByteSize::mib(1)).build()?;
/// let cache = ConcurrentComputeCache::<String, usize>::new(config)?;
/// let length = cache.get_or_compute("nebula", || "nebula".len())?;
/// assert_eq!(length, 6);
/// assert_eq!(cache.get("nebula"), Some(6));
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub struct ConcurrentComputeCache<K, V, A = Unlimited, W = SizeOf, S = DefaultHashBuilder>
where
    A: Account,
    W: Weigher<K, V>,
{
    pub(crate) shards: Box<[CachePadded<ShardOf<K, V, W>>]>,
    pub(crate) total: CachePadded<Total>,
    /// What each shard holds if all hold the same.
    pub(crate) fair: usize,
    /// The shard at which giving back begins next.
    pub(crate) next: AtomicUsize,
    pub(crate) flights: Flights<K, V>,
    pub(crate) counters: Box<Counters>,
    hasher: S,
    pub(crate) weigher: W,
    pub(crate) account: A,
}

impl<K, V> ConcurrentComputeCache<K, V> {
    /// An empty cache that charges nobody, for entries that own nothing outside themselves.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] for a configuration that breaks its rules.
    pub fn new(config: CacheConfig) -> Result<Self, MemoryError> {
        CacheBuilder::new(config).build()
    }

    /// Builds a cache with an account, a weigher or a hasher of its own.
    pub fn builder(config: CacheConfig) -> CacheBuilder<K, V> {
        CacheBuilder::new(config)
    }
}

impl<K, V, A: Account, W: Weigher<K, V>, S> ConcurrentComputeCache<K, V, A, W, S> {
    pub(crate) fn from_parts(
        config: &CacheConfig,
        account: A,
        weigher: W,
        hasher: S,
    ) -> Result<Self, MemoryError> {
        config.validate()?;
        let capacity = config.capacity.get();
        let least = inline_weight::<K, V>();
        let shards = config.shards_for(least);
        let fixed = Self::fixed_bytes(shards);
        if let Err(error) = account.try_charge(fixed) {
            return Err(account.explain(error));
        }
        let slot = size_of::<Slot<EntryOf<K, V, KeptOf<K, V, W>, S3Fifo>>>();
        let useful = (capacity / least / shards).max(1).next_power_of_two();
        let shift = (CHUNK_BYTES / slot).clamp(1, useful).ilog2();
        let shard = |_| CachePadded::new(Shard::new(Store::new(shift)));
        Ok(Self {
            shards: (0..shards).map(shard).collect(),
            total: CachePadded::new(Total::new(capacity)),
            fair: capacity / shards,
            next: AtomicUsize::new(0),
            flights: Flights::new(shards),
            counters: Box::default(),
            hasher,
            weigher,
            account,
        })
    }

    /// Bytes that a cache of so many shards allocates before it holds anything.
    fn fixed_bytes(shards: usize) -> usize {
        shards * size_of::<CachePadded<ShardOf<K, V, W>>>()
            + Flights::<K, V>::bytes(shards)
            + size_of::<Counters>()
    }

    /// How many entries there are. Takes O(shards).
    #[must_use]
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.gauges().len()).sum()
    }

    /// Whether there are no entries. Takes O(shards).
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What all entries weigh, in bytes, those about to be placed included: at no moment more than
    /// the capacity.
    #[must_use]
    pub fn weight(&self) -> usize {
        self.total.taken()
    }

    /// The most that all entries together may weigh, in bytes.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.total.capacity()
    }

    /// Into how many independently locked parts the entries are divided.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Bytes charged to the account: what the entries own, and all that the cache has allocated for
    /// itself. Takes O(shards).
    ///
    /// A computation under way keeps a small record besides, which is not charged.
    #[must_use]
    pub fn charged(&self) -> usize {
        let held: usize = self.shards.iter().map(|shard| shard.gauges().bytes()).sum();
        Self::fixed_bytes(self.shards.len()) + held
    }

    /// The account that is charged.
    #[must_use]
    pub const fn account(&self) -> &A {
        &self.account
    }

    /// What the cache has done. Takes O(shards).
    #[must_use]
    pub fn stats(&self) -> CacheStats {
        let counters = &*self.counters;
        let gauges = || self.shards.iter().map(|shard| shard.gauges());
        CacheStats {
            hits: counters.hits.sum(),
            misses: counters.misses.sum(),
            inserts: gauges().map(super::shard::Gauges::inserts).sum(),
            evictions: gauges().map(super::shard::Gauges::evictions).sum(),
            rejected: counters.rejected.load(Relaxed),
            computes: counters.computes.load(Relaxed),
            waits: counters.waits.load(Relaxed),
        }
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "only some of the bits are used")]
    pub(crate) fn shard_index(&self, hash: u64) -> usize {
        (hash >> 32) as usize & (self.shards.len() - 1)
    }

    #[inline]
    pub(crate) fn shard(&self, hash: u64) -> &ShardOf<K, V, W> {
        &self.shards[self.shard_index(hash)]
    }

    /// Removes every entry, and frees the memory that held them. The statistics stay.
    ///
    /// Entries placed while it runs may stay. Takes O(entries), most of it with no lock held.
    pub fn clear(&self) {
        for shard in &self.shards {
            let old = {
                let mut store = shard.write();
                let empty = Store::new(store.chunk_shift());
                std::mem::replace(&mut *store, empty)
            };
            self.total.give_back(old.weight());
            let _credit = Credit::of(&self.account, old.owned() + old.bytes());
            drop(old);
        }
    }

    /// Checks the structure inside against itself, and, if no other thread is using the cache, the
    /// sums too.
    #[doc(hidden)]
    pub fn validate(&self) -> Result<(), String> {
        let mut weight = 0;
        for (index, shard) in self.shards.iter().enumerate() {
            let store = shard.read();
            store.validate().map_err(|error| format!("shard {index}: {error}"))?;
            let gauges = shard.gauges();
            let shown = (gauges.len(), gauges.weight(), gauges.bytes());
            let real = (store.len(), store.weight(), store.owned() + store.bytes());
            if shown != real {
                return Err(format!("shard {index} shows {shown:?}, but has {real:?}"));
            }
            weight += store.weight();
        }
        if self.weight() != weight {
            return Err(format!("{} bytes are taken, {weight} in use", self.weight()));
        }
        if !self.flights.is_idle() {
            return Err("computations are listed".to_owned());
        }
        Ok(())
    }
}

impl<K, V, A, W, S> ConcurrentComputeCache<K, V, A, W, S>
where
    K: Hash + Eq,
    A: Account,
    W: Weigher<K, V>,
    S: BuildHasher,
{
    #[inline]
    pub(crate) fn hash<Q: Hash + ?Sized>(&self, key: &Q) -> u64 {
        self.hasher.hash_one(key)
    }

    /// A clone of the value of `key`, if it is cached; a hit for the policy and the statistics.
    #[inline]
    pub fn get<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
        V: Clone,
    {
        self.look_up(self.hash(key), key)
    }

    #[inline]
    pub(crate) fn look_up<Q>(&self, hash: u64, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
        V: Clone,
    {
        let found = {
            let store = self.shard(hash).read();
            store.get(low(hash), |other| other.borrow() == key).map(|entry| {
                S3Fifo::hit(&entry.node);
                entry.value.clone()
            })
        };
        let counter = if found.is_some() { &self.counters.hits } else { &self.counters.misses };
        counter.add(1);
        found
    }

    /// As [`get`](Self::get), but neither the policy nor the statistics notice.
    pub fn peek<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
        V: Clone,
    {
        self.peek_at(self.hash(key), key)
    }

    pub(crate) fn peek_at<Q>(&self, hash: u64, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + ?Sized,
        V: Clone,
    {
        let store = self.shard(hash).read();
        store.get(low(hash), |other| other.borrow() == key).map(|entry| entry.value.clone())
    }

    /// Whether `key` is cached. Neither the policy nor the statistics notice.
    pub fn contains<Q>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.hash(key);
        self.shard(hash).read().get(low(hash), |other| other.borrow() == key).is_some()
    }

    /// Caches `value` under `key`, and returns the value that was cached there before (unless that
    /// one was just evicted to make room).
    ///
    /// Other entries are evicted as far as that is needed. While others hold all of the capacity
    /// for entries that they are about to place, it waits for them.
    ///
    /// # Errors
    /// Key and value are handed back if they weigh more than the capacity, if the account refuses
    /// the charge (after the cache has evicted as many bytes as were asked for, and asked again), or
    /// if the system has no memory. An earlier value of `key` then stays, unless it was evicted on
    /// the way.
    pub fn insert(&self, key: K, value: V) -> Result<Option<V>, Refused<(K, V)>> {
        let hash = self.hash(&key);
        self.place(hash, key, value)
    }

    /// Takes the value of `key` out of the cache.
    ///
    /// A computation of it that is under way is not stopped, and will cache what it finds.
    pub fn remove<Q>(&self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let hash = self.hash(key);
        let entry = {
            let mut store = self.shard(hash).write();
            let token = store.find(low(hash), |other| other.borrow() == key)?;
            store.remove(token)
        };
        self.total.give_back(entry.weight());
        let _credit = Credit::of(&self.account, entry.owned());
        drop(entry.key);
        Some(entry.value)
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
        for shard in &self.shards {
            let (mut from, mut moves) = (0, shard.read().moves());
            loop {
                let found = {
                    let store = shard.read();
                    if store.moves() != moves {
                        // Entries changed slots meanwhile: some may be where this walk has been.
                        (from, moves) = (0, store.moves());
                    }
                    store.next_from(from).map(|slot| {
                        let entry = store.entry(slot);
                        (slot, entry.key.clone(), entry.value.clone())
                    })
                };
                let Some((slot, key, value)) = found else { break };
                if !keep(&key, &value) {
                    self.remove(&key);
                }
                from = slot + 1;
            }
        }
    }
}

/// The half of a hash that places an entry within its shard.
#[inline]
#[allow(clippy::cast_possible_truncation, reason = "it is the low half that is wanted")]
pub(crate) const fn low(hash: u64) -> u32 {
    hash as u32
}

impl<K, V, A: Account, W: Weigher<K, V>, S> Drop for ConcurrentComputeCache<K, V, A, W, S> {
    fn drop(&mut self) {
        let mut bytes = Self::fixed_bytes(self.shards.len());
        for shard in &mut self.shards {
            let store = shard.get_mut();
            bytes += store.owned() + store.bytes();
        }
        // Credited last, and also if the drop of a value panics.
        let _credit = Credit::of(&self.account, bytes);
        self.shards = Box::new([]);
    }
}

impl<K, V, A, W, S> fmt::Debug for ConcurrentComputeCache<K, V, A, W, S>
where
    A: Account,
    W: Weigher<K, V>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConcurrentComputeCache")
            .field("len", &self.len())
            .field("weight", &self.weight())
            .field("capacity", &self.capacity())
            .field("shards", &self.shards())
            .finish_non_exhaustive()
    }
}
