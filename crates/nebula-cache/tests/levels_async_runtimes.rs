//! Several levels under tokio: many tasks, levels that fail and dawdle, calls that are aborted.

mod common;

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use common::{
    LIMIT,
    async_shelf::{AsyncShelf, Pace},
    shelf::Mood,
};
use nebula_cache::{
    AsyncMultiLevelCache, Blocking, Breaker, BreakerState, CacheConfig, ConcurrentComputeCache,
    WhenFull, Writing,
};
use nebula_memory_core::ManualClock;
use nebula_testing::{Rng, watchdog};
use tokio::{
    runtime::{Builder, Runtime},
    sync::Barrier,
    task::{JoinSet, spawn_blocking, yield_now},
    time::{sleep, timeout},
};

type Cache = Arc<AsyncMultiLevelCache<u64, u64>>;
type Under = Arc<AsyncShelf<u64, u64>>;

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

/// Level one of few entries, memory by blocking threads, and a shelf.
fn three_levels(entries: usize, writing: Writing) -> (Cache, Under) {
    let clock = Arc::<ManualClock>::default();
    let shelf = AsyncShelf::new(&clock);
    let config = CacheConfig::builder().entries(entries).build().unwrap();
    let middle = ConcurrentComputeCache::<u64, u64>::new(config.clone()).unwrap();
    let second = Duration::from_secs(1);
    let breaker = Breaker::default().failures(3).slow(1000 * second).cool_down(second);
    let cache =
        AsyncMultiLevelCache::builder(ConcurrentComputeCache::builder(config).with_clock(clock))
            .level(Blocking::new(middle, |job| drop(spawn_blocking(job))))
            .level(Arc::clone(&shelf))
            .breaker(breaker)
            .timeout(Duration::from_millis(5), sleep)
            .writing(writing)
            .build()
            .unwrap();
    (Arc::new(cache), shelf)
}

#[test]
fn a_value_is_computed_once_however_many_tasks_ask() {
    on_every_runtime(async || {
        let (cache, shelf) = three_levels(1000, Writing::Through);
        shelf.go(Pace::Yields(2));
        for round in 0..10 {
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
        assert_eq!((cache.stats().first.computes, shelf.len()), (10, 10));
        cache.validate().unwrap();
    });
}

#[test]
fn a_level_that_never_answers_is_timed_out() {
    on_every_runtime(async || {
        let (cache, shelf) = three_levels(10, Writing::Through);
        shelf.go(Pace::Never);
        for key in 0..5 {
            assert_eq!(cache.get_or_compute(&key, async { key }).await.unwrap(), key);
        }
        let stats = cache.stats().levels.swap_remove(1);
        assert_eq!((stats.errors, stats.breaker, stats.doubts), (3, BreakerState::Open, 5));
        shelf.go(Pace::AtOnce);
        shelf.clock.advance(Duration::from_secs(1));
        cache.maintain(10).await;
        assert_eq!(cache.stats().levels[1].doubts, 0);
    });
}

/// Keys and how far each has come: every write and removal takes a number, in one task for each key.
const KEYS: usize = 24;

/// How often the level changes its mood, at least.
const MOODS: usize = 150;

#[test]
fn nothing_old_is_ever_seen_whatever_fails_or_is_aborted() {
    const BEHIND: Writing = Writing::Behind { queue: 8, when_full: WhenFull::Write };
    for writing in [Writing::Through, BEHIND] {
        watchdog(LIMIT, || multi_thread().block_on(stress(writing)));
    }
}

async fn stress(writing: Writing) {
    let (cache, shelf) = three_levels(6, writing);
    let floors: Arc<Vec<AtomicU64>> = Arc::new((0..KEYS).map(|_| AtomicU64::new(0)).collect());
    let over = Arc::new(AtomicBool::new(false));
    let server = tokio::spawn({
        let cache = Arc::clone(&cache);
        async move { cache.run().await }
    });
    let mut tasks = JoinSet::new();
    for (index, key) in (0..KEYS).zip(0_u64..) {
        let (cache, floors) = (Arc::clone(&cache), Arc::clone(&floors));
        let over = Arc::clone(&over);
        tasks.spawn(async move {
            let mut random = Rng::new(key + 1);
            for number in 1.. {
                if over.load(SeqCst) {
                    break;
                }
                yield_now().await;
                let hurry = Duration::from_micros(random.next_u64() % 300);
                let done = match random.below(8) {
                    0 => cache.remove(&key).await.is_ok(),
                    1 => timeout(hurry, cache.remove(&key)).await.is_ok(),
                    2 => timeout(hurry, cache.insert(key, number)).await.is_ok(),
                    3 => {
                        cache.evict(usize::MAX);
                        false
                    }
                    _ => cache.insert(key, number).await.is_ok(),
                };
                if done {
                    floors[index].store(number, SeqCst);
                }
            }
        });
    }
    for reader in 0..4 {
        let (cache, floors) = (Arc::clone(&cache), Arc::clone(&floors));
        let over = Arc::clone(&over);
        tasks.spawn(async move {
            let mut random = Rng::new(1000 + reader);
            while !over.load(SeqCst) {
                let index = random.below(KEYS);
                let (key, floor) = (index as u64, floors[index].load(SeqCst));
                let hurry = Duration::from_micros(random.next_u64() % 300);
                if random.below(3) == 0 {
                    cache.evict(usize::MAX);
                }
                let seen = match random.below(2) {
                    0 => cache.get(&key).await,
                    _ => timeout(hurry, cache.get(&key)).await.unwrap_or_default(),
                };
                assert!(seen.is_none_or(|seen| seen >= floor), "{key}: {seen:?} after {floor}");
                yield_now().await;
            }
        });
    }
    let (moods, moody) = (Arc::clone(&shelf), Arc::clone(&cache));
    tasks.spawn(async move {
        let mut random = Rng::new(77);
        // On a machine that has much else to do, what has to happen takes more of them.
        let all_happened = || {
            let below = &moody.stats().levels[1];
            below.errors > 0 && below.writes > 0 && below.hits > 0
        };
        for passed in 0_usize.. {
            if passed >= MOODS && all_happened() {
                break;
            }
            moods.be([Mood::Well, Mood::Well, Mood::Fails, Mood::FailsAfterwards][random.below(4)]);
            moods.go([Pace::AtOnce, Pace::Yields(1), Pace::Yields(3), Pace::NeverAfterwards]
                [random.below(4)]);
            moods.clock.advance(Duration::from_secs(1));
            sleep(Duration::from_micros(200)).await;
        }
        over.store(true, SeqCst);
    });
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    server.abort();
    assert!(server.await.unwrap_err().is_cancelled());
    shelf.be(Mood::Well);
    shelf.go(Pace::AtOnce);
    shelf.clock.advance(Duration::from_secs(2));
    cache.flush().await.unwrap();
    cache.maintain(1000).await;
    for (key, floor) in (0..).zip(floors.iter()) {
        let floor = floor.load(SeqCst);
        cache.evict(usize::MAX);
        let seen = cache.get(&key).await;
        assert!(seen.is_none_or(|seen| seen >= floor), "{key}: {seen:?} after {floor}");
    }
    // What has been promoted to the level between.
    cache.flush().await.unwrap();
    let stats = cache.stats();
    assert_eq!((stats.queue.waiting, stats.levels[1].doubts), (0, 0));
    cache.validate().unwrap();
}
