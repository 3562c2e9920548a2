//! Many threads at once: the capacity holds, values are computed once, nobody waits for ever.

use std::{
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
    time::Duration,
};

use nebula_cache::{CacheConfig, ConcurrentComputeCache};
use nebula_memory_core::{ByteSize, MemoryError};
use nebula_testing::{CountingAccount, Rng, catch, watchdog};

const LIMIT: Duration = Duration::from_secs(120);

fn config(capacity: usize, shards: usize) -> CacheConfig {
    CacheConfig::builder().capacity(ByteSize::new(capacity)).shards(shards).build().unwrap()
}

/// Spins until `done`; the watchdog sees to it that this ends.
fn wait_until(done: impl Fn() -> bool) {
    while !done() {
        thread::yield_now();
    }
}

#[test]
fn the_capacity_is_never_exceeded_by_any_number_of_writers() {
    watchdog(LIMIT, || {
        // Small entries, and some that need several shards' share, or nearly everything.
        let capacity = 40_000;
        let account = CountingAccount::new();
        let cache = ConcurrentComputeCache::<u64, Vec<u8>>::builder(config(capacity, 8))
            .with_account(account.clone())
            .with_weigher(|_, value| value.capacity())
            .build()
            .unwrap();
        let (running, start) = (AtomicUsize::new(8), Barrier::new(9));
        thread::scope(|s| {
            for seed in 0..8 {
                let (cache, running, start) = (&cache, &running, &start);
                s.spawn(move || {
                    start.wait();
                    let mut rng = Rng::new(seed);
                    for _ in 0..4000 {
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
                            _ => drop(cache.insert(key, Vec::with_capacity(size)).unwrap()),
                        }
                        assert!(cache.weight() <= capacity);
                    }
                    running.fetch_sub(1, SeqCst);
                });
            }
            start.wait();
            while running.load(SeqCst) > 0 {
                assert!(cache.weight() <= capacity);
                thread::yield_now();
            }
        });
        cache.validate().unwrap();
        account.assert_balance(cache.charged());
        assert!(cache.weight() > capacity / 4, "{} of {capacity}", cache.weight());
        drop(cache);
        account.assert_settled();
    });
}

#[test]
fn everything_at_once_leaves_order_behind() {
    watchdog(LIMIT, || {
        let account = CountingAccount::with_limit(120_000);
        let cache = ConcurrentComputeCache::<u64, Vec<u8>>::builder(config(60_000, 4))
            .with_account(account.clone())
            .with_weigher(|_, value| value.capacity())
            .build()
            .unwrap();
        thread::scope(|s| {
            for seed in 0..6 {
                let cache = &cache;
                s.spawn(move || {
                    let mut rng = Rng::new(seed);
                    for _ in 0..3000 {
                        let key = rng.below(600) as u64;
                        match rng.below(200) {
                            0 => cache.clear(),
                            1 => drop(cache.evict(rng.below(20_000))),
                            2 => cache.retain(|key, _| key % 7 != 0),
                            3..60 => drop(cache.get_or_compute(&key, || vec![1; 80])),
                            60..90 => drop(cache.remove(&key)),
                            90..120 => drop(cache.get(&key)),
                            _ => drop(cache.insert(key, Vec::with_capacity(rng.below(300)))),
                        }
                    }
                });
            }
        });
        cache.validate().unwrap();
        account.assert_balance(cache.charged());
    });
}

#[test]
fn a_value_is_computed_once_however_many_ask() {
    watchdog(LIMIT, || {
        let cache = ConcurrentComputeCache::<u64, u64>::new(config(1 << 20, 4)).unwrap();
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
        let cache = ConcurrentComputeCache::<u64, [u64; 40]>::new(config(100, 1)).unwrap();
        thread::scope(|s| {
            for _ in 0..8 {
                s.spawn(|| {
                    let value = cache.get_or_compute(&1, || {
                        wait_until(|| cache.stats().waits == 7);
                        [5; 40]
                    });
                    assert_eq!(value.unwrap(), [5; 40]);
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
        let cache = ConcurrentComputeCache::<u64, u64>::new(config(1 << 20, 1)).unwrap();
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
        let cache = ConcurrentComputeCache::<u64, u64>::new(config(1 << 20, 4)).unwrap();
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
        let cache = ConcurrentComputeCache::<u64, u64>::new(config(1 << 20, 4)).unwrap();
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
