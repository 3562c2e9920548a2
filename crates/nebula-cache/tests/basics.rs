//! What each operation does, one thread at a time.

use std::{hash::RandomState, sync::Arc};

use nebula_cache::{
    CacheBuilder, CacheConfig, CacheConfigBuilder, CacheStats, ComputeError,
    ConcurrentComputeCache, DefaultHashBuilder, DefaultHasher,
};
use nebula_memory_core::{ByteSize, MemoryError, MemoryUsage, Unlimited};
use static_assertions::assert_impl_all;

type Cache<K, V> = ConcurrentComputeCache<K, V>;

assert_impl_all!(Cache<String, Vec<u8>>: Send, Sync, std::fmt::Debug, MemoryUsage);
assert_impl_all!(CacheConfig: Send, Sync, Clone, Default);
assert_impl_all!(CacheConfigBuilder: Send, Sync);
assert_impl_all!(CacheBuilder<String, std::cell::Cell<u8>>: Send, Sync);
assert_impl_all!(CacheStats: Send, Sync, Copy, std::fmt::Display);
assert_impl_all!(ComputeError<std::fmt::Error>: Send, Sync, std::error::Error);
assert_impl_all!(DefaultHashBuilder: Send, Sync, Clone, Default, std::fmt::Debug);
assert_impl_all!(DefaultHasher: Send, Sync, std::fmt::Debug);

/// `entries` entries of 16 bytes, on one shard.
fn small(entries: usize) -> Cache<u64, u64> {
    let capacity = ByteSize::new(entries * 16);
    Cache::new(CacheConfig::builder().capacity(capacity).shards(1).build().unwrap()).unwrap()
}

#[test]
fn what_is_inserted_is_found_until_it_is_removed() {
    let cache = small(100);
    assert_eq!(cache.get(&1), None);
    assert_eq!(cache.insert(1, 10).unwrap(), None);
    assert_eq!(cache.insert(1, 11).unwrap(), Some(10));
    assert_eq!((cache.get(&1), cache.peek(&1), cache.contains(&1)), (Some(11), Some(11), true));
    assert_eq!((cache.len(), cache.weight()), (1, 16));
    assert_eq!(cache.remove(&1), Some(11));
    assert_eq!(cache.remove(&1), None);
    assert_eq!((cache.get(&1), cache.contains(&1), cache.is_empty()), (None, false, true));
    assert_eq!(cache.weight(), 0);
    cache.validate().unwrap();
}

#[test]
fn keys_are_looked_up_by_what_they_borrow() {
    let cache = Cache::<String, u32>::new(CacheConfig::default()).unwrap();
    cache.insert("one".to_owned(), 1).unwrap();
    assert_eq!((cache.get("one"), cache.get("two")), (Some(1), None));
    assert_eq!(cache.get_or_compute("two", || 2).unwrap(), 2);
    assert_eq!((cache.remove("two"), cache.contains("two")), (Some(2), false));
}

#[test]
fn the_capacity_is_used_up_and_never_exceeded() {
    let cache = small(100);
    for key in 0..1000 {
        cache.insert(key, key).unwrap();
        assert_eq!(cache.len(), usize::try_from(key + 1).unwrap().min(100));
        assert_eq!(cache.weight(), cache.len() * 16);
    }
    assert_eq!(cache.stats().evictions, 900);
    cache.validate().unwrap();
}

#[test]
fn a_value_larger_than_the_capacity_is_handed_back() {
    let config = CacheConfig::builder().capacity(ByteSize::new(1000)).shards(4).build().unwrap();
    let cache = ConcurrentComputeCache::<u64, Vec<u8>>::builder(config)
        .with_weigher(|_, value| value.capacity())
        .build()
        .unwrap();
    cache.insert(1, Vec::with_capacity(10)).unwrap();
    let fits = 1000 - size_of::<(u64, Vec<u8>)>();
    let refused = cache.insert(2, Vec::with_capacity(fits + 1)).unwrap_err();
    assert!(matches!(
        refused.error,
        MemoryError::CapacityExceeded { requested: 1001, available: 1000, .. }
    ));
    assert_eq!((refused.value.0, refused.value.1.capacity()), (2, fits + 1));
    assert!(cache.contains(&1), "nothing is evicted for what cannot fit");
    assert_eq!(cache.stats().rejected, 1);
    // What fits the total fits, though no shard's share is as large.
    cache.insert(2, Vec::with_capacity(fits)).unwrap();
    assert_eq!((cache.len(), cache.weight()), (1, 1000));
    cache.validate().unwrap();
}

#[test]
fn a_weigher_that_overflows_is_refused() {
    let cache = ConcurrentComputeCache::<u64, usize>::builder(CacheConfig::default())
        .with_weigher(|_, value| *value)
        .build()
        .unwrap();
    assert!(cache.insert(1, usize::MAX).is_err());
    assert_eq!(cache.weight(), 0);
}

#[test]
fn replacing_changes_the_weight() {
    let config = CacheConfig::builder().capacity(ByteSize::new(10_000)).shards(1).build().unwrap();
    let cache = ConcurrentComputeCache::<u64, Vec<u8>>::builder(config)
        .with_weigher(|_, value| value.capacity())
        .build()
        .unwrap();
    let inline = size_of::<(u64, Vec<u8>)>();
    for owned in [100, 5000, 0, 9000, 1] {
        cache.insert(1, Vec::with_capacity(owned)).unwrap();
        assert_eq!(cache.weight(), inline + owned);
        cache.validate().unwrap();
    }
    // Growing in place evicts the others, not more.
    (2..20).for_each(|key| assert!(cache.insert(key, Vec::with_capacity(400)).is_ok()));
    let old = cache.insert(1, Vec::with_capacity(9000)).unwrap();
    assert_eq!(old.map(|v| v.capacity()), Some(1));
    assert!(cache.weight() <= 10_000 && cache.contains(&1));
    cache.validate().unwrap();
}

#[test]
fn entries_without_size_are_limited_too() {
    let cache =
        Cache::<(), ()>::new(CacheConfig::builder().capacity(ByteSize::new(1)).build().unwrap())
            .unwrap();
    cache.insert((), ()).unwrap();
    assert_eq!((cache.len(), cache.weight()), (1, 1));
    assert_eq!(cache.insert((), ()).unwrap(), Some(()));
}

#[test]
fn looking_without_touching_leaves_no_trace() {
    let cache = small(20);
    cache.insert(1, 1).unwrap();
    let before = cache.stats();
    for _ in 0..10 {
        cache.peek(&1);
        cache.contains(&1);
    }
    assert_eq!(cache.stats(), before);
    // Not hit as far as the policy knows, so it goes with the rest.
    (100..140).for_each(|key| _ = cache.insert(key, 0));
    assert!(!cache.contains(&1));
}

#[test]
fn statistics_count_what_happened() {
    let cache = small(10);
    assert_eq!(cache.stats(), CacheStats::default());
    assert_eq!(cache.stats().to_string().split(';').next(), Some("no lookups"));
    (0..12).for_each(|key| _ = cache.insert(key, 0));
    cache.get(&11);
    cache.get(&99);
    cache.get_or_compute(&50, || 1).unwrap();
    cache.get_or_compute(&50, || 1).unwrap();
    let stats = cache.stats();
    assert_eq!((stats.hits, stats.misses, stats.lookups()), (2, 2, 4));
    assert_eq!((stats.inserts, stats.evictions, stats.rejected), (13, 3, 0));
    assert_eq!((stats.computes, stats.waits, stats.hit_rate()), (1, 0, Some(0.5)));
    assert_eq!(
        stats.to_string(),
        "50.0 % of 4 lookups hit; 13 inserts, 3 evictions, 0 rejected, 1 computes, 0 waits"
    );
}

#[test]
fn retain_asks_about_every_entry_and_may_use_the_cache() {
    let cache = small(1000);
    (0..500).for_each(|key| _ = cache.insert(key, key * 2));
    let mut asked = 0;
    cache.retain(|key, value| {
        asked += 1;
        assert_eq!(cache.peek(key), Some(*value));
        key % 3 == 0
    });
    assert_eq!((asked, cache.len()), (500, 167));
    assert!((0..500).all(|key| cache.contains(&key) == (key % 3 == 0)));
    cache.validate().unwrap();
}

#[test]
fn retain_misses_nothing_when_entries_move() {
    let cache = Cache::<u64, u64>::new(
        CacheConfig::builder().capacity(ByteSize::kib(256)).shards(1).build().unwrap(),
    )
    .unwrap();
    (0..10_000).for_each(|key| _ = cache.insert(key, 0));
    // Holes in the front, into which entries of the back will move.
    (0..3000).for_each(|key| _ = cache.remove(&key));
    let mut calls = 0;
    cache.retain(|_, _| {
        calls += 1;
        if calls == 2000 {
            assert!(cache.evict(8 << 10) > 0);
        }
        false
    });
    assert_eq!(cache.len(), 0);
    cache.validate().unwrap();
}

#[test]
fn clear_empties_and_keeps_the_statistics() {
    let cache = small(100);
    (0..200).for_each(|key| _ = cache.insert(key, 0));
    let (stats, empty) = (cache.stats(), small(100).charged());
    cache.clear();
    assert_eq!((cache.len(), cache.weight(), cache.charged()), (0, 0, empty));
    assert_eq!(cache.stats(), stats);
    cache.insert(1, 1).unwrap();
    assert_eq!(cache.get(&1), Some(1));
    cache.validate().unwrap();
}

#[test]
fn a_failed_computation_leaves_nothing_and_the_next_one_runs() {
    let cache = small(10);
    let failed = cache.try_get_or_compute(&1, || Err::<u64, _>("no"));
    assert!(matches!(failed, Err(ComputeError::Compute("no"))));
    assert!(!cache.contains(&1));
    assert_eq!(cache.try_get_or_compute(&1, || Ok::<_, ()>(7)).unwrap(), 7);
    assert_eq!(cache.try_get_or_compute(&1, || Err("unused")).unwrap(), 7);
    assert_eq!(cache.stats().computes, 2);
    cache.validate().unwrap();
}

#[test]
fn a_computed_value_that_does_not_fit_is_returned_all_the_same() {
    let cache = Cache::<u64, [u64; 100]>::new(
        CacheConfig::builder().capacity(ByteSize::new(500)).build().unwrap(),
    )
    .unwrap();
    assert_eq!(cache.get_or_compute(&1, || [3; 100]).unwrap(), [3; 100]);
    assert_eq!((cache.len(), cache.stats().rejected, cache.stats().computes), (0, 1, 1));
}

#[test]
fn a_computation_that_asks_for_itself_is_an_error() {
    let cache = small(10);
    let outer = cache.get_or_compute(&1, || {
        assert!(matches!(cache.get_or_compute(&1, || 5), Err(MemoryError::Reentrant { .. })));
        cache
            .get_or_compute(&2, || {
                assert!(cache.get_or_compute(&1, || 5).is_err());
                cache.get_or_compute(&3, || 30).unwrap()
            })
            .unwrap()
    });
    assert_eq!(outer.unwrap(), 30);
    assert_eq!((cache.get(&1), cache.get(&2), cache.get(&3)), (Some(30), Some(30), Some(30)));
    cache.validate().unwrap();
}

#[test]
fn an_unfit_configuration_is_refused_with_every_fault() {
    let error = CacheConfig { capacity: ByteSize::ZERO, shards: Some(6000) }.validate();
    let MemoryError::InvalidConfig(faults) = error.unwrap_err() else { panic!("another error") };
    let paths: Vec<&str> = faults.as_slice().iter().map(|f| f.path.as_str()).collect();
    assert_eq!(paths, ["capacity", "shards", "shards"]);
    assert!(Cache::<u8, u8>::new(CacheConfig { capacity: ByteSize::ZERO, shards: None }).is_err());
    assert!(CacheConfig::builder().shards(0).build().is_err());
}

#[test]
fn shards_are_as_asked_or_chosen() {
    let shards = |shards: Option<usize>, capacity| {
        let config = CacheConfig::builder().capacity(capacity).shards(shards).build().unwrap();
        Cache::<u64, u64>::new(config).unwrap().shards()
    };
    assert_eq!(shards(Some(64), ByteSize::new(100)), 64);
    assert_eq!(shards(None, ByteSize::kib(1)), 1, "a tiny cache is not divided");
    assert!(shards(None, ByteSize::gib(1)).is_power_of_two());
    assert!(shards(None, ByteSize::gib(1)) >= 4, "a large one is");
}

#[test]
fn the_builder_sets_account_weigher_and_hasher() {
    let cache = ConcurrentComputeCache::<Arc<str>, u64>::builder(CacheConfig::default())
        .with_account(Unlimited)
        .with_weigher(|key, _value| key.len() + 16)
        .with_hasher(RandomState::new())
        .build()
        .unwrap();
    assert_eq!(cache.get_or_compute(&Arc::from("key"), || 1).unwrap(), 1);
    assert_eq!(cache.get("key"), Some(1));
    assert_eq!(cache.account(), &Unlimited);
    assert_eq!(cache.weight(), size_of::<(Arc<str>, u64)>() + 3 + 16);
}

#[test]
fn usage_is_told_in_weight() {
    let cache = small(100);
    cache.insert(1, 1).unwrap();
    assert_eq!(cache.used(), 16);
    assert_eq!(MemoryUsage::capacity(&cache), Some(1600));
    assert_eq!(cache.available(), Some(1584));
}

#[test]
fn equal_hashes_are_told_apart() {
    #[derive(Clone, Default)]
    struct Same;
    impl std::hash::Hasher for Same {
        fn finish(&self) -> u64 {
            0
        }
        fn write(&mut self, _: &[u8]) {}
    }
    let cache = ConcurrentComputeCache::<u64, u64>::builder(
        CacheConfig::builder().capacity(ByteSize::kib(8)).build().unwrap(),
    )
    .with_hasher(std::hash::BuildHasherDefault::<Same>::default())
    .build()
    .unwrap();
    (0..300).for_each(|key| _ = cache.insert(key, key));
    assert!((0..300).all(|key| cache.get(&key) == Some(key)));
    let nested = cache.get_or_compute(&1000, || cache.get_or_compute(&1001, || 1).unwrap() + 1);
    assert_eq!(nested.unwrap(), 2);
    cache.validate().unwrap();
}

#[cfg(feature = "serde")]
#[test]
fn configuration_and_statistics_survive_a_round_trip() {
    let config: CacheConfig = serde_json::from_str(r#"{"capacity": "16MiB"}"#).unwrap();
    assert_eq!(config, CacheConfig { capacity: ByteSize::mib(16), shards: None });
    let text = serde_json::to_string(&CacheConfig { shards: Some(4), ..config }).unwrap();
    assert_eq!(text, r#"{"capacity":"16MiB","shards":4}"#);
    assert!(serde_json::from_str::<CacheConfig>(r#"{"size": 1}"#).is_err());
    let stats = CacheStats { hits: 3, misses: 1, ..CacheStats::default() };
    let text = serde_json::to_string(&stats).unwrap();
    assert_eq!(serde_json::from_str::<CacheStats>(&text).unwrap(), stats);
}
