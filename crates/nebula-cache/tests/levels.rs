//! Several levels: what is found where, what goes where, and what is counted.

mod common;

use std::{
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use nebula_cache::{
    AnyPolicy, CacheConfig, Capacity, ComputeError, ConcurrentComputeCache, Counted,
    DefaultHashBuilder, Demotion, EntryOptions, Lru, MultiLevelBuilder, MultiLevelCache,
    MultiLevelStats, PolicyKind, Promotion, RemovalCause, Timed, Untagged, Untimed, WhenFull, With,
    Writing,
};
use nebula_memory_core::{ManualClock, MemoryError, PressureLevel, Reclaim, Unlimited};

use self::common::{
    shelf::{Mood, Shelf},
    until,
};

type Timing = With<AnyPolicy, Counted, Timed>;
type Builder =
    MultiLevelBuilder<u64, u64, AnyPolicy, Counted, Timed, Untagged, Unlimited, DefaultHashBuilder>;
type Cache = MultiLevelCache<u64, u64, Timing>;

const SECOND: Duration = Duration::from_secs(1);

/// Level one holds so many entries, oldest first out; below it is a shelf.
fn over_shelf(
    entries: usize,
    with: impl FnOnce(Builder) -> Builder,
) -> (Cache, Arc<Shelf<u64, u64>>) {
    let clock = Arc::<ManualClock>::default();
    let shelf = Shelf::new(&clock);
    let config =
        CacheConfig::builder().entries(entries).policy(PolicyKind::Fifo).shards(1).build().unwrap();
    let first = ConcurrentComputeCache::builder(config).with_expiry().with_clock(clock as _);
    let builder = MultiLevelCache::builder(first).level(Arc::clone(&shelf));
    (with(builder).build().unwrap(), shelf)
}

fn flush(cache: &Cache) {
    cache.flush(common::LIMIT).unwrap();
}

const BEHIND: Writing = Writing::Behind { queue: 8, when_full: WhenFull::Write };

#[test]
fn a_hit_in_level_one_goes_no_further() {
    let (cache, shelf) = over_shelf(10, |builder| builder);
    cache.insert(1, 10).unwrap();
    let calls = shelf.calls();
    for _ in 0..100 {
        assert_eq!(cache.get(&1), Some(10));
        assert_eq!(cache.get_or_compute(&1, || unreachable!()).unwrap(), 10);
    }
    assert_eq!(shelf.calls(), calls);
    let stats = cache.stats();
    assert_eq!((stats.first.hits, stats.first.misses), (200, 0));
    cache.validate().unwrap();
}

#[test]
fn writes_go_to_every_level_and_what_level_one_lost_is_found_below() {
    let (cache, shelf) = over_shelf(2, |builder| builder);
    for key in 0..10 {
        cache.insert(key, key * 10).unwrap();
    }
    assert_eq!((cache.len(), shelf.len()), (2, 10));
    assert!(!cache.is_in_first(&3));
    assert_eq!(cache.get(&3), Some(30));
    assert!(cache.is_in_first(&3), "it has been promoted");
    assert_eq!(cache.get(&99), None);
    let level = &cache.stats().levels[0];
    assert_eq!((level.hits, level.misses, level.writes), (1, 1, 10));
    assert_eq!((level.name.as_str(), level.errors, level.dropped), ("shelf", 0, 0));
}

#[test]
fn a_removal_and_a_clear_reach_every_level() {
    for writing in [Writing::Through, BEHIND] {
        let (cache, shelf) = over_shelf(2, |builder| builder.writing(writing));
        for key in 0..5 {
            cache.insert(key, key).unwrap();
        }
        assert_eq!(cache.remove(&4).unwrap(), Some(4));
        assert_eq!(cache.remove(&0).unwrap(), None, "level one has lost it");
        assert_eq!((cache.get(&4), cache.get(&0), cache.get(&1)), (None, None, Some(1)));
        flush(&cache);
        assert_eq!((shelf.holds(&0), shelf.holds(&4)), (None, None));
        cache.clear();
        assert_eq!((cache.len(), shelf.len()), (0, 0));
        assert_eq!(cache.get(&1), None);
    }
}

#[test]
fn hits_below_are_promoted_as_the_rule_says() {
    let promoted_after = |promotion| {
        let (cache, shelf) = over_shelf(10, |builder| builder.promotion(promotion));
        shelf.plant(7, 70, None);
        (1..=5).find(|_| cache.get(&7) == Some(70) && cache.is_in_first(&7))
    };
    assert_eq!(promoted_after(Promotion::Always), Some(1));
    assert_eq!(promoted_after(Promotion::AfterHits(3)), Some(3));
    assert_eq!(promoted_after(Promotion::Never), None);
}

#[test]
fn a_hit_in_the_third_level_goes_to_the_second_too() {
    let clock = Arc::<ManualClock>::default();
    let (upper, lower) = (Shelf::new(&clock), Shelf::new(&clock));
    let first = ConcurrentComputeCache::<u64, u64>::builder(CacheConfig::default());
    let cache = MultiLevelCache::builder(first).level(Arc::clone(&upper)).level(Arc::clone(&lower));
    let cache = cache.build().unwrap();
    lower.plant(1, 10, None);
    assert_eq!(cache.get(&1), Some(10));
    assert_eq!(upper.holds(&1), Some(10));
    let MultiLevelStats { levels, .. } = cache.stats();
    assert_eq!(
        (levels[0].misses, levels[0].writes, levels[1].hits, levels[1].writes),
        (1, 1, 1, 0)
    );
}

#[test]
fn what_level_one_evicts_goes_to_the_next_level_alone() {
    let (cache, shelf) = over_shelf(2, |builder| builder.demotion(Demotion::Only));
    cache.insert(1, 10).unwrap();
    cache.insert(2, 20).unwrap();
    assert_eq!(shelf.len(), 0);
    cache.insert(3, 30).unwrap();
    assert_eq!((shelf.len(), shelf.holds(&1)), (1, Some(10)));
    // What is inserted anew makes the old value below go.
    cache.insert(1, 11).unwrap();
    assert_eq!((shelf.holds(&1), shelf.holds(&2)), (None, Some(20)));
    assert_eq!(cache.get(&2), Some(20));
    // Memory asked back goes down as well; what is removed or has expired does not.
    cache.remove(&1).unwrap();
    cache.evict(usize::MAX);
    assert_eq!((cache.len(), shelf.len(), shelf.holds(&1)), (0, 2, None));
    assert_eq!(shelf.holds(&3), Some(30));
    assert_eq!(cache.capacity(), Capacity::Entries(2));
    cache.set_capacity(Capacity::Entries(1)).unwrap();
    cache.validate().unwrap();
}

#[test]
fn evicted_entries_are_written_again_if_that_is_wished() {
    for (demotion, wanted) in [(Demotion::None, None), (Demotion::Evicted, Some(10))] {
        let (cache, shelf) = over_shelf(1, |builder| builder.demotion(demotion));
        cache.insert(1, 10).unwrap();
        // The lower level forgets, as caches do.
        nebula_cache::Level::remove(&*shelf, &1).unwrap();
        cache.insert(2, 20).unwrap();
        assert_eq!((shelf.holds(&1), shelf.holds(&2)), (wanted, Some(20)));
    }
}

#[test]
fn reclaimed_entries_are_demoted_at_the_next_call() {
    let (cache, shelf) = over_shelf(100, |builder| builder.demotion(Demotion::Only));
    for key in 0..100 {
        cache.insert(key, key).unwrap();
    }
    assert_eq!(cache.reclaim(usize::MAX, PressureLevel::Critical), 0);
    assert_eq!(shelf.len(), 0, "not inside a stranger's allocation");
    cache.maintain(0);
    assert_eq!((cache.len(), shelf.len()), (0, 100));
}

#[test]
fn a_listener_of_level_one_is_told_beside_demotion() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (told, clock) = (Arc::clone(&seen), Arc::default());
    let shelf = Shelf::new(&clock);
    let config = CacheConfig::builder().entries(1).build().unwrap();
    let first = ConcurrentComputeCache::<u64, u64>::builder(config)
        .with_policy::<Lru>()
        .with_listener(move |key, _, cause| told.lock().unwrap().push((*key, cause)));
    let cache = MultiLevelCache::builder(first).level(Arc::clone(&shelf)).demotion(Demotion::Only);
    let cache = cache.build().unwrap();
    cache.insert(1, 10).unwrap();
    cache.insert(2, 20).unwrap();
    assert_eq!(*seen.lock().unwrap(), [(1, RemovalCause::Capacity)]);
    assert_eq!(shelf.holds(&1), Some(10));
}

#[test]
fn entries_keep_their_deadline_in_every_level() {
    let (cache, shelf) = over_shelf(10, |builder| builder);
    cache.insert_with(1, 10, EntryOptions::new().ttl(3 * SECOND)).unwrap();
    shelf.clock.advance(SECOND);
    cache.evict(usize::MAX);
    assert_eq!(cache.get(&1), Some(10));
    assert!(cache.is_in_first(&1));
    shelf.clock.advance(2 * SECOND);
    assert_eq!(cache.get(&1), None, "expired above and below");
    // An entry that is evicted late has little left below.
    let (cache, shelf) = over_shelf(10, |builder| builder.demotion(Demotion::Only));
    cache.insert_with(1, 10, EntryOptions::new().ttl(3 * SECOND)).unwrap();
    shelf.clock.advance(2 * SECOND);
    cache.evict(usize::MAX);
    assert_eq!(shelf.holds(&1), Some(10));
    assert_eq!(cache.get(&1), Some(10));
    shelf.clock.advance(SECOND);
    assert_eq!(cache.get(&1), None);
}

#[test]
fn level_one_without_times_takes_nothing_that_expires() {
    let clock = Arc::<ManualClock>::default();
    let shelf = Shelf::new(&clock);
    let first = ConcurrentComputeCache::<u64, u64>::builder(CacheConfig::default());
    let cache = MultiLevelCache::builder(first).level(Arc::clone(&shelf)).build().unwrap();
    shelf.plant(1, 10, Some(SECOND));
    assert_eq!((cache.get(&1), cache.is_in_first(&1)), (Some(10), false));
    clock.advance(SECOND);
    assert_eq!(cache.get(&1), None);
}

#[test]
fn the_default_time_to_live_of_level_one_bounds_what_is_promoted() {
    let clock = Arc::<ManualClock>::default();
    let shelf = Shelf::new(&clock);
    let config = CacheConfig::builder().ttl(2 * SECOND).build().unwrap();
    let first = ConcurrentComputeCache::<u64, u64>::builder(config)
        .with_expiry()
        .with_clock(Arc::clone(&clock) as _);
    let cache = MultiLevelCache::builder(first).level(Arc::clone(&shelf)).build().unwrap();
    shelf.plant(1, 10, Some(5 * SECOND));
    assert_eq!((cache.get(&1), cache.is_in_first(&1)), (Some(10), true));
    clock.advance(2 * SECOND);
    assert!(!cache.is_in_first(&1));
    assert_eq!(cache.get(&1), Some(10));
}

#[test]
fn memory_over_memory_keeps_times_and_refuses_those_it_can_not_keep() {
    let clock = Arc::<ManualClock>::default();
    let config = || CacheConfig::builder().entries(100);
    let timed = Arc::new(
        ConcurrentComputeCache::<u64, u64>::builder(config().build().unwrap())
            .with_expiry()
            .with_clock(Arc::clone(&clock) as _)
            .build()
            .unwrap(),
    );
    let plain =
        Arc::new(ConcurrentComputeCache::<u64, u64>::new(config().build().unwrap()).unwrap());
    let first = ConcurrentComputeCache::builder(config().build().unwrap())
        .with_expiry()
        .with_clock(Arc::clone(&clock) as _);
    let cache = MultiLevelCache::builder(first)
        .level(Arc::clone(&plain))
        .level(Arc::clone(&timed))
        .build()
        .unwrap();
    cache.insert(1, 10).unwrap();
    cache.insert_with(1, 11, EntryOptions::new().ttl(2 * SECOND)).unwrap();
    assert_eq!((plain.get(&1), timed.get(&1)), (None, Some(11)));
    let dropped: Vec<u64> = cache.stats().levels.iter().map(|level| level.dropped).collect();
    assert_eq!(dropped, [1, 0]);
    cache.evict(usize::MAX);
    clock.advance(SECOND);
    assert_eq!(cache.get(&1), Some(11));
    clock.advance(SECOND);
    assert_eq!(cache.get(&1), None);
}

#[test]
fn one_caller_looks_below_and_computes_for_all() {
    const THREADS: usize = 8;
    let (cache, shelf) = over_shelf(10, |builder| builder);
    let (start, computed) = (Barrier::new(THREADS), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                start.wait();
                let value = cache.get_or_compute(&1, || {
                    // The others are here by now, or find it in level one.
                    computed.fetch_add(1, SeqCst);
                    10
                });
                assert_eq!(value.unwrap(), 10);
            });
        }
    });
    assert_eq!((computed.load(SeqCst), shelf.gets.load(SeqCst)), (1, 1));
    assert_eq!((shelf.holds(&1), cache.stats().first.computes), (Some(10), 1));
    // What is below is not computed.
    cache.evict(usize::MAX);
    assert_eq!(cache.get_or_compute(&1, || unreachable!()).unwrap(), 10);
}

#[test]
fn a_failed_computation_caches_nothing_anywhere() {
    let (cache, shelf) = over_shelf(10, |builder| builder);
    let error = cache.try_get_or_compute(&1, || Err::<u64, _>("no")).unwrap_err();
    assert!(matches!(error, ComputeError::Compute("no")));
    assert_eq!((cache.get(&1), shelf.len()), (None, 0));
    let panicked = nebula_testing::catch(|| cache.get_or_compute(&1, || panic!("no")));
    assert!(panicked.is_err());
    let options = EntryOptions::new().ttl(SECOND);
    assert_eq!(cache.try_get_or_compute_with(&1, options, || Ok::<_, ()>(5)).unwrap(), 5);
    shelf.clock.advance(SECOND);
    assert_eq!(cache.get(&1), None);
    cache.validate().unwrap();
}

#[test]
fn a_computation_that_asks_for_itself_is_told() {
    let (cache, _shelf) = over_shelf(10, |builder| builder);
    let value = cache.get_or_compute(&1, || {
        assert_eq!(cache.get(&1), None);
        let reentrant = |error: MemoryError| error.code() == "reentrant";
        assert!(cache.get_or_compute(&1, || 0).is_err_and(reentrant));
        assert!(cache.insert(1, 0).is_err_and(|refused| refused.into_value() == (1, 0)));
        assert!(cache.remove(&1).is_err_and(reentrant));
        cache.get_or_compute(&2, || 20).unwrap() + 1
    });
    assert_eq!((value.unwrap(), cache.get(&2)), (21, Some(20)));
}

#[test]
fn what_level_one_refuses_is_handed_back_and_nobody_is_told() {
    let clock = Arc::<ManualClock>::default();
    let shelf = Shelf::new(&clock);
    let config = CacheConfig::builder().bytes(100_000.into()).build().unwrap();
    let first = ConcurrentComputeCache::<u64, Vec<u8>>::builder(config)
        .with_weigher(|_, value| value.capacity());
    let cache = MultiLevelCache::builder(first).level(Arc::clone(&shelf)).build().unwrap();
    let refused = cache.insert(1, vec![0; 200_000]).unwrap_err();
    assert_eq!((refused.into_value().0, shelf.len()), (1, 0));
    // What is computed may be too large for memory, and not for what is below.
    assert_eq!(cache.get_or_compute(&1, || vec![7; 200_000]).unwrap().len(), 200_000);
    assert_eq!((cache.len(), shelf.len()), (0, 1));
    assert_eq!(cache.get(&1).unwrap().len(), 200_000);
    assert_eq!(cache.stats().first.rejected, 3);
}

#[test]
fn a_builder_names_every_fault() {
    let first = || ConcurrentComputeCache::<u64, u64>::builder(CacheConfig::default());
    let error = MultiLevelCache::builder(first())
        .promotion(Promotion::AfterHits(0))
        .writing(Writing::Behind { queue: 0, when_full: WhenFull::Write })
        .breaker(
            nebula_cache::Breaker::default()
                .failures(0)
                .slow(Duration::ZERO)
                .cool_down(Duration::ZERO),
        )
        .build()
        .unwrap_err();
    for name in ["levels", "promotion", "queue", "failures", "slow", "cool_down"] {
        assert!(error.to_string().contains(name), "{name} in {error}");
    }
    let endless = Writing::Behind { queue: usize::MAX, when_full: WhenFull::Write };
    let below = ConcurrentComputeCache::new(CacheConfig::default()).unwrap();
    let error =
        MultiLevelCache::builder(first()).level(below).writing(endless).build().unwrap_err();
    assert!(error.to_string().contains("queue"), "{error}");
}

#[test]
fn many_threads_write_through_and_both_levels_agree() {
    let (cache, shelf) = over_shelf(4, |builder| builder.demotion(Demotion::Evicted));
    thread::scope(|scope| {
        for thread in 0..4_u64 {
            let cache = &cache;
            scope.spawn(move || {
                for turn in 0..500 {
                    let key = (turn * 7 + thread) % 16;
                    match turn % 4 {
                        0 => drop(cache.remove(&key).unwrap()),
                        1 => drop(cache.get(&key)),
                        _ => drop(cache.insert(key, turn).unwrap()),
                    }
                }
            });
        }
    });
    cache.validate().unwrap();
    for key in 0..16 {
        if cache.is_in_first(&key) {
            assert_eq!(cache.get(&key), shelf.holds(&key));
        }
    }
}

#[test]
fn refused_and_corrupt_values_are_counted_and_no_trouble_of_the_level() {
    let (cache, shelf) =
        over_shelf(10, |builder| builder.breaker(nebula_cache::Breaker::default().failures(1)));
    cache.insert(1, 10).unwrap();
    shelf.be(Mood::Refuses);
    cache.insert(1, 11).unwrap();
    assert_eq!(shelf.holds(&1), None, "an old value must not stay");
    shelf.be(Mood::Well);
    cache.insert(1, 12).unwrap();
    shelf.be(Mood::Corrupt);
    cache.evict(usize::MAX);
    assert_eq!(cache.get(&1), None);
    let level = &cache.stats().levels[0];
    assert_eq!((level.dropped, level.corrupt, level.misses, level.hits), (1, 1, 1, 0));
    assert_eq!((level.writes, level.removals, level.errors, level.opened), (2, 1, 0, 0));
}

#[test]
fn an_untimed_cache_of_levels_is_send_and_sync() {
    static_assertions::assert_impl_all!(MultiLevelCache<u64, u64>: Send, Sync, std::fmt::Debug);
    type Default = MultiLevelCache<u64, u64, With<AnyPolicy, Counted, Untimed>>;
    static_assertions::assert_type_eq_all!(MultiLevelCache<u64, u64>, Default);
    until(|| true);
}
