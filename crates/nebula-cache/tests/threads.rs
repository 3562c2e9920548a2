//! Many threads at once: the capacity holds, values are computed once, nobody waits for ever.

mod common;

use std::{
    collections::HashSet,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use common::{KINDS, LIMIT, until as wait_until};
use nebula_cache::{
    CacheConfig, Capacity, ComputeError, ConcurrentComputeCache, EntryOptions, PolicyKind,
};
use nebula_memory_core::{ByteSize, ManualClock, MemoryError, PressureLevel, Reclaim};
use nebula_testing::{CountingAccount, Rng, catch, watchdog};

fn entries(entries: usize, shards: usize) -> CacheConfig {
    CacheConfig::builder().entries(entries).shards(shards).build().unwrap()
}

/// A cache of so many bytes beside what it takes when it is empty.
fn bytes(bytes: usize, shards: usize, kind: PolicyKind) -> (CacheConfig, usize) {
    let config = |bytes| {
        let builder = CacheConfig::builder().bytes(ByteSize::new(bytes)).shards(shards);
        builder.policy(kind).build().unwrap()
    };
    let empty = ConcurrentComputeCache::<u64, Vec<u8>>::builder(config(1 << 26))
        .with_weigher(|_, _| 0)
        .build()
        .unwrap()
        .charged();
    (config(empty + bytes), empty + bytes)
}

/// Calls `watch` over and over while `work` runs on so many threads, each with a number of its own.
fn watched(threads: u32, work: impl Fn(u64) + Sync, watch: impl Fn()) {
    let (running, start) = (AtomicU64::new(threads.into()), Barrier::new(threads as usize + 1));
    thread::scope(|s| {
        for thread in 0..threads {
            let (work, running, start) = (&work, &running, &start);
            s.spawn(move || {
                // Counted down by a panic too, so that the watcher ends.
                struct Leave<'a>(&'a AtomicU64);
                impl Drop for Leave<'_> {
                    fn drop(&mut self) {
                        self.0.fetch_sub(1, SeqCst);
                    }
                }
                let _leave = Leave(running);
                start.wait();
                work(thread.into());
            });
        }
        start.wait();
        while running.load(SeqCst) > 0 {
            watch();
            thread::yield_now();
        }
    });
}

#[test]
fn no_burst_of_writers_exceeds_a_capacity_in_bytes() {
    watchdog(LIMIT, || {
        for kind in KINDS {
            // Small entries, and some that need several shards' share, or nearly everything.
            let (config, capacity) = bytes(60_000, 8, kind);
            let account = CountingAccount::new();
            let cache = ConcurrentComputeCache::<u64, Vec<u8>>::builder(config)
                .with_account(account.clone())
                .with_weigher(|_, value| value.capacity())
                .build()
                .unwrap();
            let refused = AtomicUsize::new(0);
            let within = || {
                let (weight, charged) = (cache.weight(), account.balance());
                assert!(weight <= capacity, "{kind:?}: {weight} of {capacity} taken");
                // Charged before, and credited after it is placed, by each of the writers.
                assert!(charged <= capacity + 8 * 40_000, "{kind:?}: {charged} charged");
            };
            let work = |seed| {
                let mut rng = Rng::new(seed);
                for _ in 0..800 {
                    let key = rng.below(3000) as u64;
                    let size = match rng.below(400) {
                        0 => 35_000,
                        1..8 => 9000,
                        _ => rng.below(200),
                    };
                    match rng.below(10) {
                        0 => drop(cache.remove(&key)),
                        1 => drop(cache.get(&key)),
                        2 => drop(cache.get_or_compute(&key, || vec![0; 50]).unwrap()),
                        _ => {
                            if cache.insert(key, Vec::with_capacity(size)).is_err() {
                                refused.fetch_add(1, SeqCst);
                            }
                        }
                    }
                    within();
                }
            };
            watched(8, work, within);
            assert_eq!(refused.load(SeqCst), 0, "{kind:?}: what fits the total is not refused");
            cache.validate().unwrap();
            account.assert_balance(cache.charged());
            assert!(cache.weight() > capacity / 4, "{} of {capacity}", cache.weight());
            drop(cache);
            account.assert_settled();
        }
    });
}

#[test]
fn no_burst_of_writers_exceeds_a_capacity_in_entries() {
    watchdog(LIMIT, || {
        for kind in KINDS {
            for (capacity, shards) in [(1, 1), (3, 8), (100, 8)] {
                let mut config = entries(capacity, shards);
                config.policy = Some(kind);
                let cache = ConcurrentComputeCache::<u64, u64>::new(config).unwrap();
                let within = || assert!(cache.weight() <= capacity && cache.len() <= capacity + 8);
                let work = |seed| {
                    let mut rng = Rng::new(seed);
                    for _ in 0..400 {
                        let key = rng.below(capacity * 3) as u64;
                        match rng.below(10) {
                            0 => assert!(cache.remove(&key).is_none_or(|value| value == key)),
                            1..3 => assert!(cache.get(&key).is_none_or(|value| value == key)),
                            3 => assert_eq!(cache.get_or_compute(&key, || key).unwrap(), key),
                            _ => assert!(cache.insert(key, key).unwrap().is_none_or(|v| v == key)),
                        }
                    }
                };
                watched(8, work, within);
                assert_eq!(cache.weight(), cache.len());
                let stats = cache.stats();
                assert_eq!(stats.rejected, 0, "{kind:?} of {capacity} on {shards}: {stats}");
                cache.validate().unwrap();
            }
        }
    });
}

#[test]
fn the_capacity_changes_under_load() {
    watchdog(LIMIT, || {
        for kind in KINDS {
            let mut config = entries(400, 4);
            config.policy = Some(kind);
            let cache = ConcurrentComputeCache::<u64, u64>::new(config).unwrap();
            let (most, rounds) = (AtomicUsize::new(400), AtomicUsize::new(0));
            let work = |thread| {
                if thread == 0 {
                    for capacity in [10, 200, 1, 400, 50].into_iter().cycle().take(40) {
                        most.fetch_max(capacity, SeqCst);
                        cache.set_capacity(Capacity::Entries(capacity)).unwrap();
                        rounds.fetch_add(1, SeqCst);
                    }
                    return;
                }
                let mut rng = Rng::new(thread);
                for _ in 0..1500 {
                    let key = rng.below(1000) as u64;
                    drop(cache.insert(key, key));
                    _ = cache.get(&key);
                }
            };
            watched(4, work, || assert!(cache.weight() <= most.load(SeqCst)));
            assert_eq!(rounds.load(SeqCst), 40);
            assert!(cache.weight() <= 50, "{kind:?}: {} of 50", cache.weight());
            cache.validate().unwrap();
            cache.set_capacity(Capacity::Entries(50)).unwrap();
            assert!(cache.len() <= 50);
            (0..100).for_each(|key| _ = cache.insert(key, key).unwrap());
            assert_eq!(cache.len(), 50, "{kind:?}");
            cache.validate().unwrap();
        }
    });
}

#[test]
fn everything_at_once_leaves_order_behind() {
    watchdog(LIMIT, || {
        for kind in KINDS {
            let (config, _) = bytes(60_000, 4, kind);
            let account = CountingAccount::with_limit(50_000);
            let clock = Arc::new(ManualClock::new());
            let shown = Mutex::new(0_u64);
            let shown = Arc::new(shown);
            let count = Arc::clone(&shown);
            let cache = ConcurrentComputeCache::<u64, Vec<u8>>::builder(config)
                .with_account(account.clone())
                .with_weigher(|_, value| value.capacity())
                .with_idle_expiry()
                .with_tags()
                .with_clock(Arc::clone(&clock) as _)
                .with_listener(move |_, _, _| *count.lock().unwrap() += 1)
                .build()
                .unwrap();
            let work = |seed| {
                let mut rng = Rng::new(seed);
                for _ in 0..600 {
                    let key = rng.below(600) as u64;
                    let options = EntryOptions::new()
                        .ttl(Duration::from_nanos(rng.below(50) as u64))
                        .tag(key % 9);
                    match rng.below(200) {
                        0 => cache.clear(),
                        1 => drop(cache.evict(rng.below(20_000))),
                        2 => cache.retain(|key, _| key % 7 != 0),
                        3 => drop(cache.invalidate_tag(key % 9)),
                        4 => drop(cache.maintain(rng.below(100))),
                        5 => drop(cache.reclaim(rng.below(9000), PressureLevel::High)),
                        6..9 => drop(cache.pin(&key)),
                        9..20 => drop(cache.unpin(&key)),
                        20..24 => clock.advance(Duration::from_nanos(5)),
                        24..30 => drop(cache.update(&key, |old| old)),
                        30..33 => assert!(cache.iter().all(|(_, value)| value.len() <= 80)),
                        33..60 => drop(cache.get_or_compute(&key, || vec![1; 80])),
                        60..90 => drop(cache.remove(&key)),
                        90..120 => drop(cache.get(&key)),
                        120..150 => drop(cache.insert_with(key, Vec::new(), options)),
                        _ => drop(cache.insert(key, Vec::with_capacity(rng.below(300)))),
                    }
                }
            };
            watched(6, work, || _ = cache.stats());
            cache.validate().unwrap();
            account.assert_balance(cache.charged());
            let stats = cache.stats();
            let left = stats.evictions() + stats.expired + stats.replaced + stats.removed;
            assert_eq!(*shown.lock().unwrap(), left, "all that left were shown: {stats}");
            assert_eq!(stats.inserts - left, cache.len() as u64);
        }
    });
}

#[test]
fn no_insertion_of_another_key_is_lost() {
    watchdog(LIMIT, || {
        let cache = ConcurrentComputeCache::<u64, u64>::new(entries(10_000, 4)).unwrap();
        let work = |thread: u64| {
            for i in 0..500 {
                let key = i * 8 + thread;
                cache.insert(key, key).unwrap();
                assert_eq!(cache.get(&key), Some(key), "nobody else touches it");
            }
        };
        watched(8, work, || {
            let keys: Vec<u64> = cache.iter().map(|(key, _)| key).collect();
            assert_eq!(keys.len(), keys.iter().collect::<HashSet<_>>().len(), "none is met twice");
        });
        assert_eq!(cache.len(), 4000);
        assert!((0..4000).all(|key| cache.contains(&key)));
        cache.validate().unwrap();
    });
}

#[test]
fn hits_and_misses_of_many_threads_are_all_counted() {
    watchdog(LIMIT, || {
        for kind in KINDS {
            let mut config = entries(100, 4);
            config.policy = Some(kind);
            let cache = ConcurrentComputeCache::<u64, u64>::new(config).unwrap();
            cache.insert(1, 1).unwrap();
            let work = |thread| {
                for _ in 0..500 {
                    assert_eq!((cache.get(&1), cache.get(&(1000 + thread))), (Some(1), None));
                }
            };
            watched(4, work, || assert!(cache.stats().hits <= 2000));
            assert_eq!((cache.stats().hits, cache.stats().misses), (2000, 2000), "{kind:?}");
        }
    });
}

#[test]
fn updates_of_one_key_by_many_threads_are_all_counted() {
    watchdog(LIMIT, || {
        let cache = ConcurrentComputeCache::<u64, u64>::new(entries(10, 1)).unwrap();
        let work = |_| {
            for _ in 0..200 {
                cache.update(&1, |count| Some(count.unwrap_or(0) + 1)).unwrap();
            }
        };
        watched(4, work, || ());
        assert_eq!(cache.get(&1), Some(800));
        cache.validate().unwrap();
    });
}

#[test]
fn a_value_is_computed_once_however_many_ask() {
    watchdog(LIMIT, || {
        let cache = ConcurrentComputeCache::<u64, u64>::new(entries(1000, 4)).unwrap();
        for round in 0..20 {
            let (computed, start) = (AtomicUsize::new(0), Barrier::new(32));
            thread::scope(|s| {
                for _ in 0..32 {
                    s.spawn(|| {
                        start.wait();
                        let value = cache.get_or_compute(&round, || {
                            computed.fetch_add(1, SeqCst);
                            round * 10
                        });
                        assert_eq!(value.unwrap(), round * 10);
                    });
                }
            });
            assert_eq!(computed.load(SeqCst), 1);
        }
        assert_eq!(cache.stats().computes, 20);
        cache.validate().unwrap();
    });
}

#[test]
fn waiters_get_the_value_even_if_it_is_not_cached() {
    watchdog(LIMIT, || {
        let (config, _) = bytes(5000, 1, PolicyKind::default());
        let cache = ConcurrentComputeCache::<u64, Vec<u8>>::builder(config)
            .with_weigher(|_, value| value.capacity())
            .build()
            .unwrap();
        thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    let value = cache.get_or_compute(&1, || {
                        wait_until(|| cache.stats().waits == 7);
                        vec![5; 9000]
                    });
                    assert_eq!(value.unwrap(), vec![5; 9000]);
                });
            }
        });
        let stats = cache.stats();
        assert_eq!((stats.computes, stats.waits, stats.rejected, cache.len()), (1, 7, 1, 0));
        cache.validate().unwrap();
    });
}

#[test]
fn an_error_or_a_panic_wakes_the_waiters_and_one_of_them_computes() {
    watchdog(LIMIT, || {
        let cache = ConcurrentComputeCache::<u64, u64>::new(entries(1000, 1)).unwrap();
        for (key, panics) in [(1, false), (2, true)] {
            let waits = cache.stats().waits;
            let (leading, computes) = (AtomicBool::new(false), AtomicUsize::new(0));
            thread::scope(|s| {
                s.spawn(|| {
                    let failed = catch(|| {
                        cache.try_get_or_compute(&key, || {
                            leading.store(true, SeqCst);
                            wait_until(|| cache.stats().waits == waits + 5);
                            assert!(!panics, "the computation panics");
                            Err("the computation fails")
                        })
                    });
                    assert_eq!(failed.is_err(), panics);
                    assert!(!failed.is_ok_and(|result| result.is_ok()));
                });
                wait_until(|| leading.load(SeqCst));
                for _ in 0..5 {
                    s.spawn(|| {
                        let value = cache.get_or_compute(&key, || {
                            computes.fetch_add(1, SeqCst);
                            key * 10
                        });
                        assert_eq!(value.unwrap(), key * 10);
                    });
                }
            });
            assert_eq!(computes.load(SeqCst), 1);
        }
        cache.validate().unwrap();
    });
}

#[test]
fn threads_that_compute_in_a_circle_get_an_error_instead_of_a_deadlock() {
    watchdog(LIMIT, || {
        let cache = ConcurrentComputeCache::<u64, u64>::new(entries(1000, 4)).unwrap();
        let inside = Barrier::new(3);
        let errors = AtomicUsize::new(0);
        thread::scope(|s| {
            for key in 0..3_u64 {
                let (cache, inside, errors) = (&cache, &inside, &errors);
                s.spawn(move || {
                    let value = cache.get_or_compute(&key, || {
                        inside.wait();
                        match cache.get_or_compute(&((key + 1) % 3), || 100) {
                            Ok(value) => value + 1,
                            Err(MemoryError::Reentrant { .. }) => {
                                errors.fetch_add(1, SeqCst);
                                1
                            }
                            Err(error) => panic!("{error}"),
                        }
                    });
                    assert!((1..=3).contains(&value.unwrap()));
                });
            }
        });
        assert_eq!(errors.load(SeqCst), 1, "the one that closes the circle is told");
        cache.validate().unwrap();
    });
}

/// Computes `key` from the key below it, and so on.
fn depth(cache: &ConcurrentComputeCache<u64, u64>, key: u64) -> u64 {
    let below = || if key == 0 { 0 } else { depth(cache, key - 1) + 1 };
    cache.get_or_compute(&key, below).unwrap()
}

#[test]
fn computing_in_order_is_no_circle() {
    watchdog(LIMIT, || {
        let cache = ConcurrentComputeCache::<u64, u64>::new(entries(1000, 4)).unwrap();
        for round in 0..50 {
            thread::scope(|s| {
                for thread in 0..8 {
                    let cache = &cache;
                    s.spawn(move || assert_eq!(depth(cache, 20 - thread), 20 - thread));
                }
            });
            assert_eq!(cache.stats().computes, (round + 1) * 21);
            cache.clear();
        }
        cache.validate().unwrap();
    });
}

#[test]
fn a_refused_update_has_its_waiters_go_on() {
    watchdog(LIMIT, || {
        let (config, _) = bytes(5000, 1, PolicyKind::default());
        let cache = ConcurrentComputeCache::<u64, Vec<u8>>::builder(config)
            .with_weigher(|_, value| value.capacity())
            .build()
            .unwrap();
        let updating = AtomicBool::new(false);
        thread::scope(|s| {
            s.spawn(|| {
                let refused = cache.update(&1, |_| {
                    updating.store(true, SeqCst);
                    wait_until(|| cache.stats().waits == 1);
                    Some(vec![1; 9000])
                });
                assert_eq!(refused.unwrap_err().into_value(), Some(vec![1; 9000]));
            });
            wait_until(|| updating.load(SeqCst));
            let computed = cache.try_get_or_compute(&1, || Ok::<_, ()>(vec![2; 20]));
            assert!(matches!(computed, Ok(value) if value == vec![2; 20]));
        });
        assert_eq!(cache.get(&1), Some(vec![2; 20]));
        cache.validate().unwrap();
    });
}

#[test]
fn an_update_that_asks_for_itself_is_an_error() {
    let cache = ConcurrentComputeCache::<u64, u64>::new(entries(10, 1)).unwrap();
    let updated = cache.update(&1, |_| {
        let refused = cache.update(&1, |_| Some(5)).unwrap_err();
        assert!(matches!(refused.error, MemoryError::Reentrant { .. }));
        assert_eq!(refused.value, None);
        let computed = cache.try_get_or_compute(&1, || Ok::<_, ()>(6));
        assert!(matches!(computed, Err(ComputeError::Memory(MemoryError::Reentrant { .. }))));
        // Another key is fine, and so is what waits for nobody.
        cache.insert(1, 8).unwrap();
        cache.update(&2, |_| Some(7)).unwrap()
    });
    assert_eq!((updated.unwrap(), cache.get(&1), cache.get(&2)), (Some(7), Some(7), Some(7)));
    cache.validate().unwrap();
}

#[test]
fn a_computation_that_asks_for_itself_is_an_error() {
    let cache = ConcurrentComputeCache::<u64, u64>::new(entries(10, 1)).unwrap();
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
fn what_is_inserted_or_removed_meanwhile_is_followed_by_the_computed_value() {
    let cache = ConcurrentComputeCache::<u64, u64>::new(entries(10, 1)).unwrap();
    let computed = cache.get_or_compute(&1, || {
        assert_eq!(cache.insert(1, 5).unwrap(), None);
        assert_eq!(cache.get_or_compute(&1, || unreachable!("it is there")).unwrap(), 5);
        7
    });
    assert_eq!((computed.unwrap(), cache.get(&1)), (7, Some(7)));
    cache.remove(&1);
    let computed = cache.get_or_compute(&1, || {
        cache.clear();
        9
    });
    assert_eq!((computed.unwrap(), cache.get(&1)), (9, Some(9)));
    cache.validate().unwrap();
}

#[test]
fn retain_may_use_the_cache_and_misses_nothing_when_entries_move() {
    let config = CacheConfig::builder().bytes(ByteSize::mib(1)).shards(1).build().unwrap();
    let cache = ConcurrentComputeCache::<u64, u64>::new(config).unwrap();
    (0..10_000).for_each(|key| _ = cache.insert(key, 0).unwrap());
    // Holes in the front, into which entries of the back will move.
    (0..3000).for_each(|key| _ = cache.remove(&key));
    let mut calls = 0;
    cache.retain(|key, value| {
        assert_eq!(cache.peek(key), Some(*value));
        calls += 1;
        if calls == 2000 {
            assert!(cache.evict(8 << 10) > 0);
        }
        false
    });
    assert_eq!(cache.len(), 0);
    cache.validate().unwrap();
}
