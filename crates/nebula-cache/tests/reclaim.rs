//! Giving memory back, by request and through a registry.

use std::sync::{Arc, Barrier, Weak};

use nebula_cache::{CacheConfig, ConcurrentComputeCache};
use nebula_memory_core::{Account, ByteSize, MemoryError, PressureLevel, Reclaim, ReclaimRegistry};
use nebula_testing::CountingAccount;

type Cache = ConcurrentComputeCache<u64, u64, CountingAccount>;

/// 10,000 entries on four shards, charged to `account`.
fn filled(account: &CountingAccount) -> Cache {
    let capacity = ByteSize::new(16 * 10_000);
    let config = CacheConfig::builder().capacity(capacity).shards(4).build().unwrap();
    let cache = ConcurrentComputeCache::<u64, u64>::builder(config)
        .with_account(account.clone())
        .build()
        .unwrap();
    (0..10_000).for_each(|key| _ = cache.insert(key, key).unwrap());
    cache
}

#[test]
fn what_is_said_to_be_given_back_is_credited() {
    let account = CountingAccount::new();
    let cache = filled(&account);
    for wanted in [1, 5000, 20_000, 100_000] {
        let before = account.balance();
        let given = cache.evict(wanted);
        assert!(given >= wanted, "{given} of {wanted}");
        account.assert_balance(before - given);
        assert_eq!(cache.charged(), account.balance());
        cache.validate().unwrap();
    }
    assert!(cache.len() < 10_000 && !cache.is_empty());
    let rest = cache.reclaimable();
    assert_eq!(cache.evict(usize::MAX), rest);
    assert_eq!((cache.len(), cache.weight(), cache.reclaimable()), (0, 0, 0));
    assert_eq!(cache.evict(1), 0);
    cache.validate().unwrap();
}

#[test]
fn the_coldest_entries_go_first() {
    let cache = filled(&CountingAccount::new());
    let hot = |key: &u64| key % 10 == 0;
    for _ in 0..3 {
        (0..10_000).filter(hot).for_each(|key| assert!(cache.get(&key).is_some()));
    }
    cache.evict(cache.charged() / 2);
    assert!((0..10_000).filter(hot).all(|key| cache.contains(&key)));
    assert!(cache.len() < 6000);
    assert!(cache.stats().evictions > 4000);
}

#[test]
fn urgency_decides_how_much_is_given() {
    for (urgency, percent) in PressureLevel::ALL.into_iter().zip([25, 25, 50, 100]) {
        let cache = filled(&CountingAccount::new());
        let held = cache.reclaimable();
        let given = cache.reclaim(usize::MAX, urgency);
        assert_eq!(cache.reclaimable(), held - given);
        // Memory goes in chunks, and shards give in turns.
        let most = held * percent / 100;
        assert!((most..=most + 4 * 8192).contains(&given), "{given} of {held} at {urgency}");
        assert_eq!(cache.is_empty(), percent == 100);
        cache.validate().unwrap();
    }
}

#[test]
fn a_registry_reaches_a_shared_cache() {
    let account = CountingAccount::new();
    let cache = Arc::new(filled(&account));
    let registry = ReclaimRegistry::new();
    let weak: Weak<dyn Reclaim> = Arc::downgrade(&cache) as _;
    let _registration = registry.register("cache", 10, weak);
    assert_eq!(registry.reclaimable(), cache.reclaimable());
    let before = account.balance();
    let report = registry.reclaim(50_000, PressureLevel::Critical);
    assert!(report.given >= 50_000);
    account.assert_balance(before - report.given);
}

/// Clones slowly: holds the shard's lock until told.
struct Slow<'b>(&'b Barrier);

impl Clone for Slow<'_> {
    fn clone(&self) -> Self {
        self.0.wait();
        self.0.wait();
        Self(self.0)
    }
}

#[test]
fn shards_in_use_are_skipped() {
    let barrier = Barrier::new(2);
    let config = CacheConfig::builder().capacity(ByteSize::kib(64)).shards(1).build().unwrap();
    let cache = ConcurrentComputeCache::<u64, Slow<'_>>::new(config).unwrap();
    cache.insert(1, Slow(&barrier)).unwrap();
    std::thread::scope(|s| {
        s.spawn(|| assert!(cache.get(&1).is_some()));
        barrier.wait();
        // The shard is locked now, by a reader; this neither blocks nor gives anything.
        assert_eq!(cache.reclaim(1000, PressureLevel::Critical), 0);
        barrier.wait();
    });
    assert!(cache.reclaim(1000, PressureLevel::Critical) > 0);
    assert!(cache.is_empty());
}

/// An account that reclaims before it refuses, as budgets do.
struct Reclaiming {
    books: CountingAccount,
    registry: ReclaimRegistry,
}

impl Account for Reclaiming {
    fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
        self.books.try_charge(bytes).or_else(|error| {
            if self.registry.reclaim(bytes, PressureLevel::High).given == 0 {
                return Err(error);
            }
            self.books.try_charge(bytes)
        })
    }

    fn credit(&self, bytes: usize) {
        self.books.credit(bytes);
    }
}

#[test]
fn a_cache_that_is_reclaimed_by_its_own_charge_does_not_lock_up() {
    let books = CountingAccount::with_limit(60_000);
    let registry = ReclaimRegistry::new();
    let account = Reclaiming { books: books.clone(), registry: registry.clone() };
    let config = CacheConfig::builder().capacity(ByteSize::mib(1)).shards(2).build().unwrap();
    let cache = ConcurrentComputeCache::<u64, Vec<u8>>::builder(config)
        .with_account(account)
        .with_weigher(|_, value| value.capacity())
        .build()
        .unwrap();
    let cache = Arc::new(cache);
    let weak: Weak<dyn Reclaim> = Arc::downgrade(&cache) as _;
    registry.register("cache", 0, weak).detach();
    for key in 0..3000 {
        cache.insert(key, Vec::with_capacity(100)).unwrap();
        assert!(cache.contains(&key));
    }
    assert!(cache.len() > 100);
    books.assert_balance(cache.charged());
    cache.validate().unwrap();
}
