//! The races of a shared cache, under every order of events that a few threads can have:
//! `RUSTFLAGS="--cfg nebula_loom" cargo test --release -p nebula-cache --test loom_cache`
#![cfg(nebula_loom)]

use std::sync::Arc;

use loom::{model::Builder, thread};
use nebula_cache::{
    CacheConfig, Capacity, ConcurrentComputeCache, EntryOptions, Fifo, Lru, Policy, With,
};
use nebula_memory_core::{PressureLevel, Reclaim};
use std::hash::{BuildHasherDefault, Hasher};

/// Keys go to the shards that they name.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64")
    }
    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

type Hash = BuildHasherDefault<Identity>;
type Kit<P> = With<
    P,
    nebula_cache::Counted,
    nebula_cache::Untimed,
    nebula_cache::Untagged,
    nebula_memory_core::Unlimited,
    Hash,
>;
type Cache<P> = ConcurrentComputeCache<u64, u64, Kit<P>>;

/// A cache of `entries` entries.
fn cache<P: Policy>(entries: usize, shards: usize) -> Arc<Cache<P>> {
    let config = CacheConfig::builder().entries(entries).shards(shards).build().unwrap();
    let cache = ConcurrentComputeCache::builder(config)
        .with_policy::<P>()
        .with_hasher(Hash::default())
        .build()
        .unwrap();
    Arc::new(cache)
}

fn model(preemptions: usize, body: impl Fn() + Send + Sync + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(preemptions);
    builder.max_branches = 20_000;
    builder.check(body);
}

fn spawn<P: Policy>(
    cache: &Arc<Cache<P>>,
    body: impl FnOnce(&Cache<P>) + 'static,
) -> thread::JoinHandle<()> {
    let cache = Arc::clone(cache);
    thread::spawn(move || body(&cache))
}

/// What is there is what was inserted, and the cache is in order.
fn assert_whole<P: Policy>(cache: &Cache<P>, most: usize) {
    cache.validate().unwrap();
    assert!(cache.len() <= most && cache.weight() == cache.len());
    assert!(cache.iter().all(|(key, value)| value % 10 == key % 10));
}

fn two_insertions_for_one_place<P: Policy>(shards: usize) {
    model(3, move || {
        let cache = cache::<P>(1, shards);
        cache.insert(1, 1).unwrap();
        let other = spawn(&cache, |cache| {
            cache.insert(2, 2).unwrap();
            assert!(cache.weight() <= 1);
        });
        cache.insert(3, 3).unwrap();
        assert!(cache.weight() <= 1);
        other.join().unwrap();
        assert_eq!(cache.len(), 1, "the last one is there");
        assert!(!cache.contains(&1));
        assert_whole(&cache, 1);
    });
}

#[test]
fn two_insertions_for_one_place_on_one_shard() {
    two_insertions_for_one_place::<Fifo>(1);
}

#[test]
fn two_insertions_for_one_place_on_two_shards() {
    two_insertions_for_one_place::<Fifo>(2);
}

#[test]
fn a_reader_sees_one_value_or_the_other() {
    fn run<P: Policy>() {
        model(3, || {
            let cache = cache::<P>(2, 1);
            cache.insert(1, 1).unwrap();
            let other = spawn(&cache, |cache| {
                assert_eq!(cache.insert(1, 11).unwrap(), Some(1));
            });
            let first = cache.get(&1).unwrap();
            let second = cache.get(&1).unwrap();
            assert!([(1, 1), (1, 11), (11, 11)].contains(&(first, second)));
            other.join().unwrap();
            assert_eq!(cache.get(&1), Some(11));
            assert_whole(&cache, 2);
        });
    }
    run::<Fifo>();
    run::<Lru>();
}

#[test]
fn insertion_against_reclaim() {
    model(3, || {
        let cache = cache::<Fifo>(2, 1);
        cache.insert(1, 1).unwrap();
        let other = spawn(&cache, |cache| {
            let before = cache.reclaimable();
            let given = cache.reclaim(usize::MAX, PressureLevel::Critical);
            assert!(given == 0 || given >= before);
        });
        cache.insert(2, 2).unwrap();
        assert!(cache.get(&2).is_none_or(|value| value == 2));
        other.join().unwrap();
        assert_whole(&cache, 2);
    });
}

#[test]
fn insertion_against_a_smaller_capacity() {
    for shards in [1, 2] {
        model(3, move || {
            let cache = cache::<Fifo>(2, shards);
            cache.insert(1, 1).unwrap();
            let other = spawn(&cache, |cache| cache.set_capacity(Capacity::Entries(1)).unwrap());
            cache.insert(2, 2).unwrap();
            other.join().unwrap();
            assert_whole(&cache, 1);
        });
    }
}

#[test]
fn insertion_against_a_smaller_capacity_beside_a_pin() {
    model(3, || {
        let cache = cache::<Fifo>(2, 2);
        cache.insert_with(0, 0, EntryOptions::new().pinned()).unwrap();
        // The other shard has memory, and nothing in it.
        cache.insert(1 << 16, 6).unwrap();
        cache.remove(&(1 << 16));
        let other = spawn(&cache, |cache| cache.set_capacity(Capacity::Entries(1)).unwrap());
        drop(cache.insert(1 << 16, 6));
        other.join().unwrap();
        assert_whole(&cache, 1);
    });
}

#[test]
fn the_end_of_a_pin_against_a_smaller_capacity() {
    model(2, || {
        let cache = cache::<Fifo>(2, 2);
        let pinned = EntryOptions::new().pinned();
        (0..2).for_each(|key| _ = cache.insert_with(key << 16, key, pinned).unwrap());
        let unpins = spawn(&cache, |cache| assert!(cache.unpin(&0)));
        cache.set_capacity(Capacity::Entries(1)).unwrap();
        unpins.join().unwrap();
        // Whoever comes second sees to it.
        assert_eq!((cache.len(), cache.weight(), cache.pinned()), (1, 1, 1));
        assert!(cache.contains(&(1 << 16)));
        assert_eq!(cache.validate(), Ok(()));
    });
}

#[test]
fn removal_against_replacement() {
    model(3, || {
        let cache = cache::<Lru>(2, 1);
        cache.insert(1, 1).unwrap();
        let other = spawn(&cache, |cache| assert!(cache.remove(&1).is_some()));
        let old = cache.insert(1, 11).unwrap();
        other.join().unwrap();
        // Whoever was second met what the first left.
        assert_eq!(cache.contains(&1), old.is_none());
        assert_whole(&cache, 2);
    });
}

#[test]
fn a_computation_against_an_insertion_and_an_eviction() {
    model(3, || {
        let cache = cache::<Fifo>(1, 1);
        let other = spawn(&cache, |cache| {
            assert_eq!(cache.get_or_compute(&1, || 1).unwrap() % 10, 1);
        });
        let value = cache.get_or_compute(&1, || 11).unwrap();
        assert_eq!(value % 10, 1);
        other.join().unwrap();
        assert_eq!(cache.stats().computes, 1, "nobody has evicted it");
        cache.insert(2, 2).unwrap();
        assert_whole(&cache, 1);
    });
}

#[test]
fn updates_are_one_after_the_other() {
    model(3, || {
        let cache = cache::<Fifo>(1, 1);
        let count = |value: Option<u64>| Some(value.map_or(1, |value| value + 10));
        let other = spawn(&cache, move |cache| _ = cache.update(&1, count).unwrap());
        cache.update(&1, count).unwrap();
        other.join().unwrap();
        assert_eq!(cache.get(&1), Some(11));
        assert_whole(&cache, 1);
    });
}
