//! What is particular to the cache for one thread.

use std::rc::Rc;

use nebula_cache::{AnyPolicy, CacheConfig, ComputeCache, ComputeError, Lru, With};
use nebula_memory_core::{ByteSize, MemoryError};
use nebula_testing::catch;

fn small(entries: usize) -> ComputeCache<u64, u64> {
    ComputeCache::new(CacheConfig::builder().entries(entries).build().unwrap()).unwrap()
}

#[test]
fn lookups_lend_the_value() {
    let mut cache = ComputeCache::<u64, Vec<u8>>::new(CacheConfig::default()).unwrap();
    cache.insert(1, vec![1; 10]).unwrap();
    let address = cache.peek(&1).unwrap().as_ptr();
    assert_eq!(cache.get(&1).unwrap().as_ptr(), address);
    assert_eq!(cache.get_or_compute(&1, || unreachable!()).unwrap().as_ptr(), address);
    let entries: Vec<(&u64, &Vec<u8>)> = cache.iter().collect();
    assert_eq!(entries[0].1.as_ptr(), address);
    let removed = cache.remove(&1).unwrap();
    assert_eq!(removed.as_ptr(), address);
}

#[test]
fn there_is_one_shard_whatever_the_configuration_says() {
    let config = CacheConfig::builder().entries(100).shards(16).build().unwrap();
    let cache = ComputeCache::<u64, u64>::new(config).unwrap();
    assert_eq!(cache.charged(), small(100).charged());
}

#[test]
fn a_refused_computation_hands_the_value_back() {
    let config = CacheConfig::builder().bytes(ByteSize::kib(8)).build().unwrap();
    let mut cache = ComputeCache::<String, Vec<u8>>::builder(config)
        .with_weigher(|key, value| key.capacity() + value.capacity())
        .build()
        .unwrap();
    let refused = cache.get_or_compute("large", || vec![1; 10_000]).unwrap_err();
    assert_eq!(refused.into_value(), ("large".to_owned(), vec![1; 10_000]));
    let failed = cache.try_get_or_compute("large", || Ok::<_, ()>(vec![1; 10_000]));
    assert!(matches!(failed, Err(ComputeError::Memory(MemoryError::CapacityExceeded { .. }))));
    assert!(cache.is_empty());
    cache.validate().unwrap();
}

/// The n-th Fibonacci number, by way of those below.
fn fibonacci(cache: &mut ComputeCache<u64, u64>, n: u64) -> u64 {
    if n < 2 {
        return n;
    }
    let computed =
        cache.get_or_compute_within(&n, |cache| fibonacci(cache, n - 1) + fibonacci(cache, n - 2));
    *computed.unwrap()
}

#[test]
fn computations_may_use_the_cache_that_they_are_for() {
    let mut cache = small(100);
    assert_eq!(fibonacci(&mut cache, 80), 23_416_728_348_467_685);
    assert_eq!((cache.stats().computes, cache.len()), (79, 79));
    cache.validate().unwrap();
    // In a cache that is too small for all of them, too.
    let mut cache = small(2);
    assert_eq!(fibonacci(&mut cache, 15), 610);
    assert_eq!(cache.len(), 2);
    cache.validate().unwrap();
}

#[test]
fn a_computation_that_asks_for_itself_is_an_error() {
    let mut cache = small(10);
    let outer = cache.get_or_compute_within(&1, |cache| {
        let again = cache.get_or_compute_within(&1, |_| 5);
        assert!(matches!(again, Err(ComputeError::Memory(MemoryError::Reentrant { .. }))));
        let inner = cache.get_or_compute_within(&2, |cache| {
            assert!(cache.get_or_compute_within(&1, |_| 5).is_err());
            *cache.get_or_compute_within(&3, |_| 30).unwrap()
        });
        *inner.unwrap()
    });
    assert_eq!(outer.unwrap(), &30);
    assert!((1..4).all(|key| cache.peek(&key) == Some(&30)));
    // It is over: the key can be computed again.
    cache.remove(&1);
    assert_eq!(cache.get_or_compute_within(&1, |_| 6).unwrap(), &6);
    cache.validate().unwrap();
}

#[test]
fn what_a_computation_inserts_under_its_own_key_is_replaced_by_what_it_returns() {
    let mut cache = small(10);
    let computed = cache.get_or_compute_within(&1, |cache| {
        cache.insert(1, 5).unwrap();
        assert_eq!(cache.get_or_compute_within(&1, |_| unreachable!()).unwrap(), &5);
        cache.clear();
        cache.insert(1, 6).unwrap();
        7
    });
    assert_eq!(computed.unwrap(), &7);
    assert_eq!((cache.len(), cache.stats().replaced), (1, 1));
    cache.validate().unwrap();
}

#[test]
fn a_panic_ends_the_computations_that_it_passes() {
    let mut cache = small(10);
    let panicked = catch(|| {
        let _ = cache.get_or_compute_within(&1, |cache| {
            let _ = cache.get_or_compute_within(&2, |_| panic!("it fails"));
            0
        });
    });
    assert_eq!(panicked.unwrap_err(), "it fails");
    assert_eq!((cache.stats().computes, cache.stats().failures), (2, 2));
    // None is under way any more.
    assert_eq!(cache.get_or_compute_within(&2, |_| 2).unwrap(), &2);
    assert_eq!(cache.get_or_compute_within(&1, |_| 1).unwrap(), &1);
    cache.validate().unwrap();
}

#[test]
fn a_cache_within_a_cache_is_dropped_with_it() {
    type Inner = ComputeCache<u64, Rc<()>, With<Lru>>;
    let value = Rc::new(());
    let config = CacheConfig::builder().entries(3).build().unwrap();
    let mut outer = ComputeCache::<u64, Inner, With<AnyPolicy>>::new(config.clone()).unwrap();
    for key in 0..10 {
        let inner = ComputeCache::builder(config.clone()).with_policy::<Lru>();
        let mut inner: Inner = inner.build().unwrap();
        inner.insert(key, Rc::clone(&value)).unwrap();
        outer.insert(key, inner).unwrap();
    }
    assert_eq!((outer.len(), Rc::strong_count(&value)), (3, 4));
    drop(outer);
    assert_eq!(Rc::strong_count(&value), 1);
}
