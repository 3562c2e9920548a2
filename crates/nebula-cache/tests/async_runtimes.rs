//! The same futures under several executors: tokio's for one thread and for many, and the smallest
//! there is.

mod common;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use common::{LIMIT, tasks::block_on};
use nebula_cache::{AsyncCache, CacheConfig, ComputeError};
use nebula_memory_core::MemoryError;
use nebula_testing::{Rng, watchdog};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Barrier,
    task::{JoinSet, yield_now},
    time::{sleep, timeout},
};

type Cache = Arc<AsyncCache<u64, u64>>;

fn cache(entries: usize) -> Cache {
    let config = CacheConfig::builder().entries(entries).shards(4).build().unwrap();
    Arc::new(AsyncCache::new(config).unwrap())
}

/// One thread; its clock goes on when nobody has anything to do.
fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().unwrap()
}

fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(4).enable_time().build().unwrap()
}

fn on_every_runtime<F: Future<Output = ()>>(body: impl Fn() -> F + Sync) {
    watchdog(LIMIT, || {
        current_thread().block_on(body());
        multi_thread().block_on(body());
    });
}

#[test]
fn a_value_is_computed_once_however_many_tasks_ask() {
    on_every_runtime(async || {
        let cache = cache(1000);
        for round in 0..20 {
            let (computed, start) = (Arc::new(AtomicUsize::new(0)), Arc::new(Barrier::new(50)));
            let mut tasks = JoinSet::new();
            for _ in 0..50 {
                let (cache, computed) = (Arc::clone(&cache), Arc::clone(&computed));
                let start = Arc::clone(&start);
                tasks.spawn(async move {
                    start.wait().await;
                    let compute = async {
                        computed.fetch_add(1, SeqCst);
                        yield_now().await;
                        round * 10
                    };
                    cache.get_or_compute(&round, compute).await.unwrap()
                });
            }
            assert!(tasks.join_all().await.iter().all(|value| *value == round * 10));
            assert_eq!(computed.load(SeqCst), 1);
        }
        assert_eq!(cache.stats().computes, 20);
        cache.validate().unwrap();
    });
}

#[test]
fn an_aborted_task_hands_over() {
    on_every_runtime(async || {
        let cache = cache(10);
        let spawn = |compute: Option<u64>| {
            let cache = Arc::clone(&cache);
            tokio::spawn(async move {
                let compute = async {
                    match compute {
                        Some(value) => value,
                        None => std::future::pending().await,
                    }
                };
                cache.get_or_compute(&1, compute).await.unwrap()
            })
        };
        let leader = spawn(None);
        while cache.stats().computes == 0 {
            yield_now().await;
        }
        let others = [spawn(Some(7)), spawn(Some(7)), spawn(Some(7))];
        while cache.stats().waits < 3 {
            yield_now().await;
        }
        leader.abort();
        assert!(leader.await.unwrap_err().is_cancelled());
        for other in others {
            assert_eq!(other.await.unwrap(), 7);
        }
        assert_eq!(cache.stats().computes, 2);
        cache.validate().unwrap();
    });
}

#[test]
fn a_task_that_panics_hands_over() {
    on_every_runtime(async || {
        let cache = cache(10);
        let leading = Arc::clone(&cache);
        let leader = tokio::spawn(async move {
            let cache = Arc::clone(&leading);
            let compute = async move {
                while cache.stats().waits == 0 {
                    yield_now().await;
                }
                std::panic::resume_unwind(Box::new(nebula_testing::InjectedPanic))
            };
            leading.get_or_compute(&1, compute).await.unwrap()
        });
        while cache.stats().computes == 0 {
            yield_now().await;
        }
        assert_eq!(cache.get_or_compute(&1, async { 7 }).await.unwrap(), 7);
        assert!(leader.await.unwrap_err().is_panic());
        cache.validate().unwrap();
    });
}

#[test]
fn time_outs_by_the_runtime_and_by_the_cache() {
    on_every_runtime(async || {
        let cache = cache(10);
        let (short, long) = (Duration::from_millis(1), Duration::from_secs(1000));
        let never = std::future::pending::<u64>;
        let waited = cache.get_or_compute_timeout(&1, sleep(short), never()).await.unwrap_err();
        assert!(matches!(waited, MemoryError::Timeout { .. }));
        assert!(timeout(short, cache.get_or_compute(&1, never())).await.is_err());
        let computed = cache.get_or_compute_timeout(&1, sleep(long), async { 7 });
        assert_eq!(computed.await.unwrap(), 7);
        let failing = async { Err::<u64, _>("no") };
        let failed = cache.try_get_or_compute_timeout(&2, sleep(long), failing).await;
        assert!(matches!(failed, Err(ComputeError::Compute(error)) if *error == "no"));
        assert_eq!((cache.stats().computes, cache.stats().failures), (4, 3));
        cache.validate().unwrap();
    });
}

/// Tasks that compute, fail, time out, are dropped at any await, update, and ask for each other's
/// keys, in order; threads among them.
async fn storm(cache: Cache, seed: u64, steps: usize, updates: Arc<AtomicU64>) {
    let mut rng = Rng::new(seed);
    for _ in 0..steps {
        let key = rng.below(12) as u64;
        let (yields, choice) = (rng.below(4), rng.below(20));
        let busy = async |yields: usize| {
            for _ in 0..yields {
                yield_now().await;
            }
        };
        let compute = async {
            busy(yields).await;
            // From keys above only, so that there is no circle.
            if choice < 8 && key < 11 {
                cache.get_or_compute(&(key + 1), async { key + 1 }).await.unwrap() - 1
            } else {
                key
            }
        };
        match choice {
            0..10 => assert_eq!(cache.get_or_compute(&key, compute).await.unwrap(), key),
            10..13 => {
                // Dropped after so many yields, or polls.
                tokio::select! {
                    biased;
                    value = cache.get_or_compute(&key, compute) => assert_eq!(value.unwrap(), key),
                    () = busy(rng.below(4)) => {}
                }
            }
            13 => {
                let failing = async {
                    busy(yields).await;
                    Err::<u64, _>(key)
                };
                match cache.try_get_or_compute(&key, failing).await {
                    Ok(value) => assert_eq!(value, key),
                    Err(ComputeError::Compute(error)) => assert_eq!(*error, key),
                    Err(error) => panic!("{error}"),
                }
            }
            14 => {
                let value = cache.get_or_compute_timeout(&key, busy(rng.below(3)), compute).await;
                assert!(
                    matches!(value, Ok(found) if found == key)
                        || matches!(value, Err(MemoryError::Timeout { .. }))
                );
            }
            15 | 16 => {
                let counted = async |count: Option<u64>| {
                    busy(1).await;
                    Some(count.unwrap_or(0) + 1)
                };
                cache.update(&1000, counted).await.unwrap();
                updates.fetch_add(1, SeqCst);
            }
            17 => drop(cache.insert(key, key).unwrap()),
            18 => assert!(cache.get(&key).is_none_or(|value| value == key)),
            _ => drop(cache.remove(&key)),
        }
    }
}

#[test]
fn a_storm_of_tasks_leaves_order_behind() {
    watchdog(LIMIT, || {
        for runtime in [current_thread(), multi_thread()] {
            let (cache, updates) = (cache(100), Arc::new(AtomicU64::new(0)));
            runtime.block_on(async {
                let mut tasks = JoinSet::new();
                let mut rng = Rng::new(9);
                for seed in 0..24 {
                    let (cache, updates) = (Arc::clone(&cache), Arc::clone(&updates));
                    tasks.spawn(storm(cache, seed, 300, updates));
                }
                // Some are aborted wherever they are, and take their last update with them.
                let aborted: Vec<_> = (0..200)
                    .map(|seed| {
                        let storm = storm(Arc::clone(&cache), 100 + seed, 300, Arc::default());
                        tasks.spawn(storm)
                    })
                    .collect();
                for task in aborted {
                    for _ in 0..rng.below(20) {
                        yield_now().await;
                    }
                    task.abort();
                }
                while let Some(ended) = tasks.join_next().await {
                    assert!(ended.is_ok() || ended.is_err_and(|error| error.is_cancelled()));
                }
            });
            assert!(cache.get(&1000).unwrap() >= updates.load(SeqCst));
            assert!(cache.iter().all(|(key, value)| key == value || key == 1000));
            assert_eq!(cache.weight(), cache.len());
            cache.validate().unwrap();
        }
    });
}

#[test]
fn threads_with_the_smallest_of_executors() {
    watchdog(LIMIT, || {
        let cache = cache(100);
        std::thread::scope(|s| {
            for thread in 0..8_u64 {
                let cache = &cache;
                s.spawn(move || {
                    let mut rng = Rng::new(thread);
                    for round in 0..200 {
                        let key = rng.below(4) as u64;
                        let value = if thread < 2 {
                            // Threads that block, for tasks among others.
                            cache.blocking().get_or_compute(&key, || key)
                        } else {
                            block_on(cache.get_or_compute(&key, async {
                                common::tasks::Yields(rng.below(3)).await;
                                key
                            }))
                        };
                        assert_eq!(value.unwrap(), key);
                        if round % 3 == 0 {
                            cache.remove(&key);
                        }
                    }
                });
            }
        });
        cache.validate().unwrap();
    });
}
