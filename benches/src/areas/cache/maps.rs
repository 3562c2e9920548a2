//! The caches, one way to use each: from `u64` to `u64`, the same hash function with the same seeds,
//! room for so many entries, hits and misses counted where the peer can.

use std::{
    convert::Infallible,
    sync::{Mutex, OnceLock},
};

use nebula_budget::{BudgetAccount, MemoryBudget};
use nebula_cache::{
    CacheConfig, ComputeCache, ConcurrentComputeCache, Counted, Policy, Untagged, Untimed, With,
};

/// What the cases need of a cache.
pub(super) trait Map: 'static {
    fn with_room_for(entries: usize) -> Self;
    fn get(&self, key: u64) -> Option<u64>;
    fn insert(&self, key: u64);
    fn get_or_insert(&self, key: u64) -> u64;
}

/// What the cases need of a cache for one thread.
pub(super) trait LocalMap: 'static {
    fn with_room_for(entries: usize) -> Self;
    fn get(&mut self, key: u64) -> Option<u64>;
    fn insert(&mut self, key: u64);
    fn get_or_insert(&mut self, key: u64) -> u64;
}

/// What ours are made of: charged to a budget.
pub(super) type Made<P> = With<P, Counted, Untimed, Untagged, BudgetAccount, ahash::RandomState>;

/// Ours.
pub(super) type Ours<P> = ConcurrentComputeCache<u64, u64, Made<P>>;

/// Ours for one thread.
pub(super) type OursLocal<P> = ComputeCache<u64, u64, Made<P>>;

/// One budget for all: it would close with its handle.
pub(super) fn account() -> BudgetAccount {
    static ROOT: OnceLock<MemoryBudget> = OnceLock::new();
    let root = || MemoryBudget::root("bench", 16 << 30).expect("a valid budget");
    ROOT.get_or_init(root).account()
}

pub(super) fn config(entries: usize) -> CacheConfig {
    CacheConfig::builder().entries(entries).build().expect("a valid capacity")
}

impl<P: Policy> Map for Ours<P> {
    fn with_room_for(entries: usize) -> Self {
        let builder = ConcurrentComputeCache::builder(config(entries)).with_policy::<P>();
        builder.with_account(account()).with_hasher(hasher()).build().expect("room in the budget")
    }

    #[inline]
    fn get(&self, key: u64) -> Option<u64> {
        self.get(&key)
    }

    #[inline]
    fn insert(&self, key: u64) {
        self.insert(key, key).expect("room for one");
    }

    #[inline]
    fn get_or_insert(&self, key: u64) -> u64 {
        self.get_or_compute(&key, || key).expect("no circle")
    }
}

impl<P: Policy> LocalMap for OursLocal<P> {
    fn with_room_for(entries: usize) -> Self {
        let builder = ComputeCache::builder(config(entries)).with_policy::<P>();
        builder.with_account(account()).with_hasher(hasher()).build().expect("room in the budget")
    }

    #[inline]
    fn get(&mut self, key: u64) -> Option<u64> {
        self.get(&key).copied()
    }

    #[inline]
    fn insert(&mut self, key: u64) {
        self.insert(key, key).expect("room for one");
    }

    #[inline]
    fn get_or_insert(&mut self, key: u64) -> u64 {
        *self.get_or_compute(&key, || key).expect("room for one")
    }
}

pub(super) fn hasher() -> ahash::RandomState {
    ahash::RandomState::with_seeds(1, 2, 3, 4)
}

pub(super) type Quick =
    quick_cache::sync::Cache<u64, u64, quick_cache::UnitWeighter, ahash::RandomState>;

impl Map for Quick {
    fn with_room_for(entries: usize) -> Self {
        let lifecycle = quick_cache::sync::DefaultLifecycle::default();
        Self::with(entries, entries as u64, quick_cache::UnitWeighter, hasher(), lifecycle)
    }

    #[inline]
    fn get(&self, key: u64) -> Option<u64> {
        self.get(&key)
    }

    #[inline]
    fn insert(&self, key: u64) {
        self.insert(key, key);
    }

    #[inline]
    fn get_or_insert(&self, key: u64) -> u64 {
        self.get_or_insert_with(&key, || Ok::<_, Infallible>(key)).expect("infallible")
    }
}

pub(super) type QuickLocal =
    quick_cache::unsync::Cache<u64, u64, quick_cache::UnitWeighter, ahash::RandomState>;

impl LocalMap for QuickLocal {
    fn with_room_for(entries: usize) -> Self {
        let lifecycle = quick_cache::unsync::DefaultLifecycle::default();
        Self::with(entries, entries as u64, quick_cache::UnitWeighter, hasher(), lifecycle)
    }

    #[inline]
    fn get(&mut self, key: u64) -> Option<u64> {
        Self::get(self, &key).copied()
    }

    #[inline]
    fn insert(&mut self, key: u64) {
        self.insert(key, key);
    }

    #[inline]
    fn get_or_insert(&mut self, key: u64) -> u64 {
        let value = self.get_or_insert_with(&key, || Ok::<_, Infallible>(key));
        value.expect("infallible").copied().unwrap_or(key)
    }
}

pub(super) type Moka = moka::sync::Cache<u64, u64, ahash::RandomState>;

impl Map for Moka {
    fn with_room_for(entries: usize) -> Self {
        moka::sync::Cache::builder().max_capacity(entries as u64).build_with_hasher(hasher())
    }

    #[inline]
    fn get(&self, key: u64) -> Option<u64> {
        self.get(&key)
    }

    #[inline]
    fn insert(&self, key: u64) {
        self.insert(key, key);
    }

    #[inline]
    fn get_or_insert(&self, key: u64) -> u64 {
        self.get_with(key, || key)
    }
}

pub(super) type Foyer = foyer_memory::Cache<u64, u64, ahash::RandomState>;

impl Map for Foyer {
    fn with_room_for(entries: usize) -> Self {
        foyer_memory::CacheBuilder::new(entries)
            .with_shards(8)
            .with_eviction_config(foyer_memory::S3FifoConfig::default())
            .with_hash_builder(hasher())
            .build()
    }

    #[inline]
    fn get(&self, key: u64) -> Option<u64> {
        self.get(&key).map(|entry| *entry.value())
    }

    #[inline]
    fn insert(&self, key: u64) {
        drop(self.insert(key, key));
    }

    #[inline]
    fn get_or_insert(&self, key: u64) -> u64 {
        match self.get(&key) {
            Some(entry) => *entry.value(),
            None => *self.insert(key, key).value(),
        }
    }
}

/// Never evicts: what a lookup costs at least.
pub(super) type Dash = dashmap::DashMap<u64, u64, ahash::RandomState>;

impl Map for Dash {
    fn with_room_for(entries: usize) -> Self {
        Self::with_capacity_and_hasher(entries, hasher())
    }

    #[inline]
    fn get(&self, key: u64) -> Option<u64> {
        self.get(&key).map(|value| *value)
    }

    #[inline]
    fn insert(&self, key: u64) {
        self.insert(key, key);
    }

    #[inline]
    fn get_or_insert(&self, key: u64) -> u64 {
        *self.entry(key).or_insert(key)
    }
}

/// What many do at first: an LRU list behind a lock.
pub(super) type Locked = Mutex<hashlink::LruCache<u64, u64, ahash::RandomState>>;

impl Map for Locked {
    fn with_room_for(entries: usize) -> Self {
        Self::new(LocalMap::with_room_for(entries))
    }

    #[inline]
    fn get(&self, key: u64) -> Option<u64> {
        LocalMap::get(&mut *self.lock().expect("no panics"), key)
    }

    #[inline]
    fn insert(&self, key: u64) {
        LocalMap::insert(&mut *self.lock().expect("no panics"), key);
    }

    #[inline]
    fn get_or_insert(&self, key: u64) -> u64 {
        LocalMap::get_or_insert(&mut *self.lock().expect("no panics"), key)
    }
}

pub(super) type Hashlink = hashlink::LruCache<u64, u64, ahash::RandomState>;

impl LocalMap for Hashlink {
    fn with_room_for(entries: usize) -> Self {
        Self::with_hasher(entries, hasher())
    }

    #[inline]
    fn get(&mut self, key: u64) -> Option<u64> {
        self.get(&key).copied()
    }

    #[inline]
    fn insert(&mut self, key: u64) {
        self.insert(key, key);
    }

    #[inline]
    fn get_or_insert(&mut self, key: u64) -> u64 {
        match self.get(&key) {
            Some(&value) => value,
            None => {
                self.insert(key, key);
                key
            }
        }
    }
}

pub(super) type Schnellru = schnellru::LruMap<u64, u64, schnellru::ByLength, ahash::RandomState>;

impl LocalMap for Schnellru {
    fn with_room_for(entries: usize) -> Self {
        let limit = u32::try_from(entries).expect("not so many entries");
        Self::with_hasher(schnellru::ByLength::new(limit), hasher())
    }

    #[inline]
    fn get(&mut self, key: u64) -> Option<u64> {
        self.get(&key).copied()
    }

    #[inline]
    fn insert(&mut self, key: u64) {
        self.insert(key, key);
    }

    #[inline]
    fn get_or_insert(&mut self, key: u64) -> u64 {
        self.get_or_insert(key, || key).copied().unwrap_or(key)
    }
}
