//! Several levels for tasks, driven by hand: what is found where and counted, what fails or dawdles,
//! and what a future leaves behind that is dropped, wherever it is.

mod common;

use std::{
    future::{Future, pending},
    sync::{
        Arc, Barrier, Mutex, Weak,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::Poll,
    thread,
    time::Duration,
};

use common::{
    async_shelf::{AsyncShelf, Pace},
    counting::{self, Counting},
    shelf::{Mood, Shelf},
    tasks::{Task, Yields, block_on},
};
use nebula_cache::{
    AnyPolicy, AsyncMultiLevelBuilder, AsyncMultiLevelCache, Blocking, Breaker, BreakerState,
    CacheConfig, ComputeError, ConcurrentComputeCache, Counted, DefaultHashBuilder, Demotion,
    EntryOptions, InPlace, Job, LevelStats, PolicyKind, Promotion, Timed, Untagged, WhenFull, With,
    Writing,
};
use nebula_memory_core::{
    ManualClock, MemoryError, MemoryUsage, PressureLevel, Reclaim, Unlimited,
};
use static_assertions::assert_impl_all;

#[global_allocator]
static COUNTING: Counting = Counting;

type Timing = With<AnyPolicy, Counted, Timed>;
type Builder = AsyncMultiLevelBuilder<
    u64,
    u64,
    AnyPolicy,
    Counted,
    Timed,
    Untagged,
    Unlimited,
    DefaultHashBuilder,
>;
type Cache = AsyncMultiLevelCache<u64, u64, Timing>;
type Under = Arc<AsyncShelf<u64, u64>>;

const SECOND: Duration = Duration::from_secs(1);
const BEHIND: Writing = Writing::Behind { queue: 8, when_full: WhenFull::Write };

/// Level one of so many entries, oldest first out, over two shelves.
fn over_two(entries: usize, with: impl FnOnce(Builder) -> Builder) -> (Cache, Under, Under) {
    let clock = Arc::<ManualClock>::default();
    let (upper, lower) = (AsyncShelf::new(&clock), AsyncShelf::new(&clock));
    let config = CacheConfig::builder().entries(entries).policy(PolicyKind::Fifo).shards(1);
    let first = ConcurrentComputeCache::builder(config.build().unwrap())
        .with_expiry()
        .with_clock(clock as _);
    let builder =
        AsyncMultiLevelCache::builder(first).level(Arc::clone(&upper)).level(Arc::clone(&lower));
    (with(builder).build().unwrap(), upper, lower)
}

fn level(cache: &Cache, index: usize) -> LevelStats {
    cache.stats().levels.swap_remove(index)
}

fn breaker() -> Breaker {
    Breaker::default().failures(3).slow(SECOND).cool_down(10 * SECOND)
}

/// What is ready at once.
#[track_caller]
fn now<T>(future: impl Future<Output = T>) -> T {
    Task::new(future).poll_ready()
}

/// Sleeps that are over when the test says so.
#[derive(Clone, Default)]
struct Alarm(Arc<Mutex<Vec<Weak<Mutex<bool>>>>>);

impl Alarm {
    fn sleep(&self) -> impl Future<Output = ()> + Send + use<> {
        let over = Arc::new(Mutex::new(false));
        self.0.lock().unwrap().push(Arc::downgrade(&over));
        async move {
            while !*over.lock().unwrap() {
                Yields(1).await;
            }
        }
    }

    /// How many sleep.
    fn sleepers(&self) -> usize {
        self.0.lock().unwrap().iter().filter(|over| over.strong_count() > 0).count()
    }

    fn ring(&self) {
        for over in self.0.lock().unwrap().drain(..).filter_map(|over| over.upgrade()) {
            *over.lock().unwrap() = true;
        }
    }
}

#[test]
fn futures_are_send_and_so_is_the_cache() {
    assert_impl_all!(Cache: Send, Sync, Reclaim, MemoryUsage);
    fn send<T: Send>(future: T) -> T {
        future
    }
    let (cache, upper, _) = over_two(10, |builder| builder);
    drop(send(cache.get(&1)));
    drop(send(cache.get_or_compute(&1, async { 1 })));
    drop(send(cache.try_get_or_compute(&1, async { Err::<u64, _>("no") })));
    drop(send(cache.insert(1, 1)));
    drop(send(cache.remove(&1)));
    drop(send(cache.clear()));
    drop(send(cache.maintain(1)));
    drop(send(cache.flush()));
    drop(send(cache.run()));
    assert_eq!((cache.len(), upper.calls(), cache.stats().first.lookups()), (0, 0, 0));
    assert_eq!(cache.reclaim(usize::MAX, PressureLevel::High), 0);
}

#[test]
fn a_hit_in_level_one_is_ready_at_once_and_goes_no_further() {
    let (cache, upper, lower) = over_two(10, |builder| builder);
    now(cache.insert(1, 10)).unwrap();
    let calls = (upper.calls(), lower.calls());
    upper.go(Pace::Never);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    for _ in 0..10 {
        let mut get = std::pin::pin!(cache.get(&1));
        let mut compute = std::pin::pin!(cache.get_or_compute(&1, pending()));
        let before = counting::calls();
        assert_eq!(get.as_mut().poll(&mut context), Poll::Ready(Some(10)));
        assert!(matches!(compute.as_mut().poll(&mut context), Poll::Ready(Ok(10))));
        assert_eq!(counting::calls(), before, "nothing is allocated");
    }
    assert_eq!((upper.calls(), lower.calls()), calls);
    assert_eq!((cache.stats().first.hits, cache.stats().first.misses), (20, 0));
    cache.validate().unwrap();
}

#[test]
fn what_level_one_lost_is_found_below_and_counted() {
    let (cache, upper, lower) = over_two(2, |builder| builder);
    for shelf in [&upper, &lower] {
        shelf.go(Pace::Yields(2));
    }
    block_on(async {
        for key in 0..10 {
            assert_eq!(cache.insert(key, key * 10).await.unwrap(), None);
        }
        assert_eq!((cache.len(), upper.len(), lower.len()), (2, 10, 10));
        assert_eq!(cache.get(&3).await, Some(30));
        assert!(cache.is_in_first(&3), "it has been promoted");
        assert_eq!(cache.get(&99).await, None);
        assert_eq!(cache.get_or_compute(&50, async { 500 }).await.unwrap(), 500);
        assert_eq!(cache.remove(&50).await.unwrap(), Some(500));
        assert_eq!(cache.remove(&0).await.unwrap(), None, "level one has lost it");
        assert_eq!((cache.get(&0).await, cache.get(&50).await), (None, None));
        // From the third level to the second.
        lower.plant(77, 7, None);
        assert_eq!(cache.get(&77).await, Some(7));
    });
    assert_eq!(upper.holds(&77), Some(7));
    let mut upper = LevelStats::default();
    upper.name = "async shelf".to_owned();
    (upper.hits, upper.misses, upper.writes, upper.removals) = (1, 5, 12, 2);
    assert_eq!(level(&cache, 0), upper);
    let lower = level(&cache, 1);
    assert_eq!((lower.hits, lower.misses, lower.writes, lower.removals), (1, 4, 11, 2));
    cache.validate().unwrap();
}

#[test]
fn deadlines_hold_in_every_level() {
    let (cache, upper, lower) = over_two(1, |builder| builder.promotion(Promotion::AfterHits(2)));
    let options = EntryOptions::new().ttl(10 * SECOND);
    now(cache.insert_with(1, 10, options)).unwrap();
    now(cache.insert(2, 20)).unwrap();
    upper.clock.advance(4 * SECOND);
    assert_eq!((now(cache.get(&1)), cache.is_in_first(&1)), (Some(10), false));
    assert_eq!((now(cache.get(&1)), cache.is_in_first(&1)), (Some(10), true));
    upper.clock.advance(6 * SECOND);
    assert_eq!((now(cache.get(&1)), now(cache.get(&2))), (None, Some(20)));
    let failing = now(cache.try_get_or_compute_with(&1, options, async { Err::<u64, _>("no") }));
    assert!(matches!(failing, Err(ComputeError::Compute(error)) if *error == "no"));
    assert_eq!(lower.len(), 2);
}

#[test]
fn one_looks_and_computes_and_the_others_wait() {
    let (cache, upper, lower) = over_two(10, |builder| builder);
    upper.go(Pace::Yields(3));
    let computed = AtomicUsize::new(0);
    let compute = || async {
        computed.fetch_add(1, SeqCst);
        Yields(2).await;
        70
    };
    let mut tasks: Vec<_> =
        (0..20).map(|_| Task::new(cache.get_or_compute(&7, compute()))).collect();
    tasks.iter_mut().for_each(Task::poll_pending);
    let mut getting: Vec<_> = (0..20).map(|_| Task::new(cache.get(&7))).collect();
    getting.iter_mut().for_each(Task::poll_pending);
    let value = loop {
        if let Poll::Ready(value) = tasks[0].poll() {
            break value;
        }
    };
    assert_eq!(value.unwrap(), 70);
    tasks.iter_mut().skip(1).for_each(|task| assert_eq!(task.poll_ready().unwrap(), 70));
    for task in &mut getting {
        assert_eq!(task.poll_ready(), Some(70));
    }
    assert_eq!((computed.load(SeqCst), upper.calls(), lower.calls()), (1, 2, 2));
    assert_eq!((cache.stats().first.computes, cache.stats().first.waits), (1, 39));
    // Nothing is found once as well.
    let mut getting: Vec<_> = (0..20).map(|_| Task::new(cache.get(&8))).collect();
    getting.iter_mut().for_each(Task::poll_pending);
    while getting[0].poll().is_pending() {}
    getting.iter_mut().skip(1).for_each(|task| assert_eq!(task.poll_ready(), None));
    assert_eq!((upper.gets.load(SeqCst), lower.gets.load(SeqCst)), (2, 2));
    cache.validate().unwrap();
}

#[test]
fn errors_are_shared_and_a_dropped_leader_hands_over() {
    let (cache, upper, _lower) = over_two(10, |builder| builder);
    upper.go(Pace::Yields(1));
    let failing = || cache.try_get_or_compute(&1, async { Err::<u64, _>("no") });
    let mut tasks = [Task::new(failing()), Task::new(failing())];
    tasks.iter_mut().for_each(Task::poll_pending);
    let results = [
        block_on(async {
            loop {
                if let Poll::Ready(r) = tasks[0].poll() {
                    break r;
                }
            }
        }),
        tasks[1].poll_ready(),
    ];
    for result in results {
        assert!(matches!(result, Err(ComputeError::Compute(error)) if *error == "no"));
    }
    upper.go(Pace::Never);
    let mut leader = Task::new(cache.get_or_compute(&2, async { 20 }));
    let mut second = Task::new(cache.get_or_compute(&2, async { 21 }));
    leader.poll_pending();
    second.poll_pending();
    upper.go(Pace::AtOnce);
    second.poll_pending();
    drop(leader);
    assert_eq!(second.rings(), 1);
    assert_eq!(second.poll_ready().unwrap(), 21);
    assert_eq!((level(&cache, 0).errors, level(&cache, 0).doubts), (0, 0));
    cache.validate().unwrap();
}

#[test]
fn a_computation_that_asks_for_its_own_key_is_an_error() {
    let (cache, _upper, _lower) = over_two(10, |builder| builder);
    let own = async {
        let reentrant = |error: &MemoryError| matches!(error, MemoryError::Reentrant { .. });
        assert!(cache.get_or_compute(&1, async { 0 }).await.is_err_and(|e| reentrant(&e)));
        assert!(cache.remove(&1).await.is_err_and(|error| reentrant(&error)));
        let refused = cache.insert(1, 5).await.unwrap_err();
        assert_eq!(refused.into_value(), (1, 5));
        assert_eq!(cache.get(&1).await, None);
        cache.get_or_compute(&2, async { 20 }).await.unwrap() + 1
    };
    assert_eq!(now(cache.get_or_compute(&1, own)).unwrap(), 21);
}

/// All that may be asked of a cache whose every level holds 10 under key 1, and is slow.
type Ask = for<'c> fn(&'c Cache) -> Task<'c, ()>;
const ASKS: [(&str, Ask); 9] = [
    ("get", |cache| {
        Task::new(async {
            cache.get(&1).await;
        })
    }),
    ("compute", |cache| {
        Task::new(async {
            let compute = async {
                Yields(2).await;
                30
            };
            drop(cache.get_or_compute(&3, compute).await);
        })
    }),
    ("insert", |cache| Task::new(async { drop(cache.insert(1, 11).await) })),
    ("remove", |cache| Task::new(async { drop(cache.remove(&1).await) })),
    ("clear", |cache| Task::new(cache.clear())),
    ("maintain", |cache| {
        Task::new(async {
            cache.maintain(10).await;
        })
    }),
    ("flush", |cache| Task::new(async { drop(cache.flush().await) })),
    ("insert, flush", |cache| {
        Task::new(async {
            cache.insert(1, 11).await.unwrap();
            cache.flush().await.unwrap();
        })
    }),
    ("remove, flush", |cache| {
        Task::new(async {
            cache.remove(&1).await.unwrap();
            cache.flush().await.unwrap();
        })
    }),
];

#[test]
fn a_future_dropped_at_any_await_leaves_order_and_counts() {
    let mut dropped = 0;
    for writing in [Writing::Through, BEHIND] {
        for owing in [false, true] {
            for (name, ask) in ASKS {
                for polls in 1.. {
                    let (cache, upper, lower) =
                        over_two(10, |builder| builder.writing(writing).breaker(breaker()));
                    now(cache.insert(1, 10)).unwrap();
                    now(cache.flush()).unwrap();
                    if owing {
                        // There is something to be made up for on the way.
                        now(cache.insert(2, 20)).unwrap();
                        now(cache.flush()).unwrap();
                        upper.be(Mood::Fails);
                        now(cache.remove(&2)).unwrap();
                        now(cache.flush()).unwrap_err();
                        upper.be(Mood::Well);
                    }
                    if name == "get" {
                        cache.evict(usize::MAX);
                        upper.be(Mood::Well);
                    }
                    for shelf in [&upper, &lower] {
                        shelf.go(Pace::Yields(1));
                    }
                    let errors = level(&cache, 0).errors;
                    let mut task = ask(&cache);
                    let done = (0..polls).any(|_| task.poll().is_ready());
                    drop(task);
                    for shelf in [&upper, &lower] {
                        shelf.go(Pace::AtOnce);
                    }
                    cache.validate().unwrap();
                    let place = format!("{name}, {writing:?}, {owing}, {polls}");
                    let seen = now(cache.get(&1));
                    let may_be: &[Option<u64>] = match name {
                        "insert" | "insert, flush" => &[Some(11)],
                        "remove" | "clear" | "remove, flush" => &[None],
                        _ => &[Some(10)],
                    };
                    assert!(may_be.contains(&seen), "{place}: {seen:?}");
                    // Nothing older comes up from below, then or after everything is made up for.
                    for round in 0..3 {
                        cache.evict(usize::MAX);
                        let again = now(cache.get(&1));
                        assert!(again.is_none() || again == seen, "{place}, {round}: {again:?}");
                        assert_eq!(now(cache.get(&2)), None, "{place}");
                        match round {
                            0 => assert!(now(cache.maintain(100)) == 0),
                            _ => now(cache.flush()).unwrap(),
                        }
                    }
                    for (index, shelf) in [&upper, &lower].into_iter().enumerate() {
                        let stats = level(&cache, index);
                        assert_eq!((stats.doubts, stats.breaker), (0, BreakerState::Closed));
                        assert!(shelf.holds(&1).is_none_or(|value| Some(value) == seen), "{place}");
                    }
                    assert_eq!(level(&cache, 0).errors, errors, "{place}");
                    assert_eq!(cache.stats().queue.waiting, 0, "{place}");
                    // And what was not dropped reached every level.
                    if done {
                        let wanted = if seen.is_some() { seen } else { None };
                        assert_eq!((upper.holds(&1), lower.holds(&1)), (wanted, wanted), "{place}");
                        break;
                    }
                    dropped += 1;
                }
            }
        }
    }
    assert!(dropped > 60, "{dropped} futures were dropped under way");
}

#[test]
fn a_slow_level_is_passed_over_and_counts_for_its_breaker() {
    let alarm = Alarm::default();
    let sleeps = alarm.clone();
    let (cache, upper, lower) = over_two(10, |builder| {
        builder.breaker(breaker()).timeout(SECOND, move |time| {
            assert_eq!(time, SECOND);
            sleeps.sleep()
        })
    });
    (1..10).for_each(|key| lower.plant(key, key, None));
    assert_eq!((now(cache.get(&9)), alarm.sleepers()), (Some(9), 0), "who is quick needs none");
    upper.go(Pace::Never);
    for key in 1..=3 {
        let mut task = Task::new(cache.get(&key));
        task.poll_pending();
        assert_eq!(alarm.sleepers(), 1);
        alarm.ring();
        // The write by which it is promoted is on time.
        upper.go(Pace::AtOnce);
        assert_eq!(task.poll_ready(), Some(key));
        upper.go(Pace::Never);
    }
    let stats = level(&cache, 0);
    assert_eq!((stats.errors, stats.writes, stats.breaker), (3, 4, BreakerState::Closed));
    // Three in a row.
    upper.go(Pace::NeverAfterwards);
    for key in 20..23 {
        let mut task = Task::new(cache.insert(key, key));
        // (First what makes up for the one before it, which is late as well.)
        while task.poll().is_pending() {
            assert!(alarm.sleepers() <= 1);
            alarm.ring();
        }
    }
    let stats = level(&cache, 0);
    assert_eq!((stats.errors, stats.doubts, stats.breaker), (6, 3, BreakerState::Open));
    assert_eq!((now(cache.get(&5)), alarm.sleepers()), (Some(5), 0), "it is left alone");
    // The probe is dropped, and another one is let through.
    upper.clock.advance(10 * SECOND);
    let mut task = Task::new(cache.get(&6));
    task.poll_pending();
    assert_eq!(level(&cache, 0).breaker, BreakerState::HalfOpen);
    drop(task);
    assert_eq!((level(&cache, 0).breaker, level(&cache, 0).errors), (BreakerState::Open, 6));
    upper.go(Pace::AtOnce);
    assert_eq!(now(cache.get(&6)), Some(6));
    let stats = level(&cache, 0);
    assert_eq!((stats.breaker, stats.opened, stats.doubts), (BreakerState::Closed, 1, 0));
    assert_eq!((upper.holds(&20), lower.holds(&20)), (None, Some(20)));
    cache.validate().unwrap();
}

#[test]
fn a_dropped_call_that_took_too_long_counts_as_slow() {
    let (cache, upper, _lower) = over_two(10, |builder| builder.breaker(breaker()));
    upper.go(Pace::Never);
    for key in 0..3 {
        let mut task = Task::new(cache.get(&key));
        task.poll_pending();
        upper.clock.advance(SECOND);
    }
    let stats = level(&cache, 0);
    assert_eq!((stats.slow, stats.errors, stats.breaker), (3, 0, BreakerState::Open));
}

#[test]
fn a_level_that_fails_is_a_miss_and_hits_elsewhere_are_served() {
    for mood in [Mood::Fails, Mood::Panics, Mood::FailsAfterwards] {
        for pace in [Pace::AtOnce, Pace::Yields(1)] {
            let (cache, upper, lower) = over_two(1, |builder| builder.breaker(breaker()));
            upper.be(mood);
            upper.go(pace);
            block_on(async {
                for key in 0..10 {
                    cache.insert(key, key * 10).await.unwrap();
                }
                for key in 0..10 {
                    assert_eq!(cache.get(&key).await, Some(key * 10), "{mood:?}");
                    let computed = cache.get_or_compute(&(key + 100), async { key }).await;
                    assert_eq!(computed.unwrap(), key);
                }
            });
            let (sick, well) = (level(&cache, 0), level(&cache, 1));
            assert_eq!((sick.errors, sick.opened, sick.breaker), (3, 1, BreakerState::Open));
            assert!(sick.bypassed > 0 && sick.hits + sick.writes == 0, "{sick:?}");
            assert_eq!((well.errors, well.writes, lower.len()), (0, 20, 20));
            cache.validate().unwrap();
        }
    }
}

#[test]
fn values_that_a_level_refuses_or_spoils_are_counted() {
    let (cache, upper, lower) = over_two(1, |builder| builder);
    upper.plant(1, 9, None);
    upper.be(Mood::Refuses);
    now(cache.insert(1, 10)).unwrap();
    assert_eq!((upper.holds(&1), lower.holds(&1)), (None, Some(10)), "the old one is gone");
    upper.plant(1, 9, None);
    upper.be(Mood::Corrupt);
    cache.evict(usize::MAX);
    assert_eq!(now(cache.get(&1)), Some(10));
    let stats = level(&cache, 0);
    assert_eq!((stats.dropped, stats.corrupt, stats.misses, stats.errors), (1, 1, 1, 0));
}

#[test]
fn a_clear_takes_what_is_on_its_way_up() {
    for promotion_waits in [false, true] {
        let (cache, upper, lower) = over_two(10, |builder| builder);
        lower.plant(1, 10, None);
        let slow = if promotion_waits { &upper } else { &lower };
        slow.go(Pace::Yields(3));
        let mut task = Task::new(cache.get(&1));
        (0..5).for_each(|_| task.poll_pending());
        slow.go(Pace::AtOnce);
        let mut clear = Task::new(cache.clear());
        clear.poll_ready();
        while task.poll().is_pending() {}
        for _ in 0..2 {
            assert_eq!(now(cache.get(&1)), None);
            now(cache.maintain(10));
        }
        assert_eq!((upper.len(), lower.len(), cache.len()), (0, 0, 0));
        cache.validate().unwrap();
    }
}

#[test]
fn what_is_queued_is_seen_and_written_by_run() {
    let (cache, upper, lower) = over_two(2, |builder| builder.writing(BEHIND));
    for key in 0..4 {
        now(cache.insert(key, key)).unwrap();
    }
    now(cache.remove(&2)).unwrap();
    now(cache.insert(3, 33)).unwrap();
    cache.evict(usize::MAX);
    assert_eq!((upper.calls(), now(cache.get(&0)), now(cache.get(&2))), (0, Some(0), None));
    assert_eq!(cache.stats().queue.hits, 1);
    lower.go(Pace::Yields(1));
    let mut run = Task::new(cache.run());
    run.poll_pending();
    // Who flushes waits for what run is at, and does the rest itself if that is dropped.
    let mut flush = Task::new(cache.flush());
    flush.poll_pending();
    assert_eq!(upper.len(), 1);
    drop(run);
    assert_eq!(flush.rings(), 1);
    lower.go(Pace::AtOnce);
    flush.poll_ready().unwrap();
    for shelf in [&upper, &lower] {
        let held: Vec<_> = (0..4).map(|key| shelf.holds(&key)).collect();
        assert_eq!(held, [Some(0), Some(1), None, Some(33)]);
    }
    let queue = cache.stats().queue;
    assert_eq!((queue.queued, queue.merged, queue.waiting, queue.dropped), (6, 2, 0, 0));
    // What comes later wakes it.
    let mut run = Task::new(cache.run());
    run.poll_pending();
    assert_eq!(run.rings(), 0);
    now(cache.insert(5, 50)).unwrap();
    assert!(run.rings() > 0);
    run.poll_pending();
    assert_eq!(lower.holds(&5), Some(50));
    cache.validate().unwrap();
}

#[test]
fn a_full_queue_has_the_caller_write_or_nobody() {
    for when_full in [WhenFull::Write, WhenFull::Drop] {
        let writing = Writing::Behind { queue: 2, when_full };
        let (cache, upper, lower) = over_two(10, |builder| builder.writing(writing));
        upper.plant(3, 3, None);
        for key in 1..=3 {
            now(cache.insert(key, key * 10)).unwrap();
        }
        cache.evict(usize::MAX);
        let queue = cache.stats().queue;
        if when_full == WhenFull::Write {
            assert_eq!((queue.written, queue.dropped, lower.holds(&3)), (1, 0, Some(30)));
            assert_eq!(now(cache.get(&3)), Some(30));
        } else {
            assert_eq!((queue.written, queue.dropped, lower.holds(&3)), (0, 1, None));
            assert_eq!((level(&cache, 0).dropped, level(&cache, 0).doubts), (1, 1));
            assert_eq!((now(cache.get(&3)), upper.holds(&3)), (None, None));
        }
        now(cache.flush()).unwrap();
        assert_eq!((lower.holds(&1), lower.holds(&2)), (Some(10), Some(20)));
    }
}

#[test]
fn what_level_one_evicts_goes_to_the_next_level_alone() {
    let (cache, upper, lower) =
        over_two(2, |builder| builder.writing(BEHIND).demotion(Demotion::Only));
    for key in 1..=3 {
        now(cache.insert(key, key * 10)).unwrap();
    }
    // On a thread that is no task.
    thread::scope(|scope| drop(scope.spawn(|| cache.evict(usize::MAX))));
    assert_eq!((now(cache.get(&1)), upper.len()), (Some(10), 0), "what waits is seen");
    now(cache.remove(&2)).unwrap();
    now(cache.flush()).unwrap();
    assert_eq!((upper.holds(&1), upper.holds(&2), upper.holds(&3)), (Some(10), None, Some(30)));
    now(cache.insert(3, 31)).unwrap();
    now(cache.flush()).unwrap();
    assert_eq!((upper.holds(&3), lower.len()), (None, 0));
    // A queue that is full loses what is on its way, and no more than that.
    for key in 100..120 {
        now(cache.insert(key, key)).unwrap();
    }
    let stats = cache.stats();
    assert!(stats.queue.written > 0 && stats.levels[0].dropped > 0, "{stats:?}");
    cache.validate().unwrap();
}

#[test]
fn choices_that_break_the_rules_are_refused() {
    type Fault = (fn(Builder) -> Builder, &'static str);
    let build = |with: fn(Builder) -> Builder| {
        let shelf = AsyncShelf::<u64, u64>::new(&Arc::default());
        let first = ConcurrentComputeCache::builder(CacheConfig::default()).with_expiry();
        with(AsyncMultiLevelCache::builder(first).level(shelf)).build().map(drop)
    };
    build(|builder| builder).unwrap();
    let faults: [Fault; 4] = [
        (|builder| builder.demotion(Demotion::Evicted), "demotion"),
        (|builder| builder.timeout(Duration::ZERO, |_| pending()), "timeout"),
        (|builder| builder.promotion(Promotion::AfterHits(0)), "promotion"),
        (
            |builder| builder.writing(Writing::Behind { queue: 0, when_full: WhenFull::Drop }),
            "writing.queue",
        ),
    ];
    for (with, path) in faults {
        assert!(build(with).unwrap_err().to_string().contains(path), "{path}");
    }
    let first = ConcurrentComputeCache::<u64, u64>::builder(CacheConfig::default());
    assert!(AsyncMultiLevelCache::builder(first).build().is_err());
}

/// A level that blocks, whose jobs wait until the test runs them.
type Jobs = Arc<Mutex<Vec<Job>>>;

fn over_blocking() -> (Cache, Arc<Shelf<u64, u64>>, Jobs) {
    let clock = Arc::<ManualClock>::default();
    let (shelf, jobs) = (Shelf::new(&clock), Jobs::default());
    let queue = Arc::clone(&jobs);
    let blocking = Blocking::new(Arc::clone(&shelf), move |job| queue.lock().unwrap().push(job));
    let first = ConcurrentComputeCache::builder(CacheConfig::default())
        .with_expiry()
        .with_clock(clock as _);
    (AsyncMultiLevelCache::builder(first).level(blocking).build().unwrap(), shelf, jobs)
}

fn take(jobs: &Jobs) -> Job {
    jobs.lock().unwrap().remove(0)
}

#[test]
fn a_call_that_blocks_is_made_elsewhere_and_not_at_all_if_nobody_waits() {
    let (cache, shelf, jobs) = over_blocking();
    let mut insert = Task::new(cache.insert(1, 10));
    insert.poll_pending();
    assert_eq!((shelf.calls(), jobs.lock().unwrap().len()), (0, 1));
    take(&jobs)();
    assert_eq!(insert.rings(), 1);
    insert.poll_ready().unwrap();
    assert_eq!(shelf.holds(&1), Some(10));
    let mut insert = Task::new(cache.insert(2, 20));
    insert.poll_pending();
    drop(insert);
    take(&jobs)();
    assert_eq!(shelf.holds(&2), None);
    assert_eq!(level(&cache, 0).doubts, 1);
    // An executor that drops it.
    let mut get = Task::new(cache.get(&3));
    get.poll_pending();
    take(&jobs)(); // the removal that makes up for the above
    get.poll_pending();
    drop(take(&jobs));
    assert_eq!(get.poll_ready(), None);
    assert_eq!((level(&cache, 0).errors, level(&cache, 0).doubts), (1, 0));
    // A panic.
    shelf.be(Mood::Panics);
    let mut get = Task::new(cache.get(&3));
    get.poll_pending();
    take(&jobs)();
    assert_eq!((get.poll_ready(), level(&cache, 0).errors), (None, 2));
    let stats = level(&cache, 0);
    assert_eq!((stats.name.as_str(), stats.writes, stats.removals), ("shelf", 1, 0));
}

#[test]
fn a_dropped_call_that_has_begun_is_over_before_the_next_of_its_key() {
    let (cache, shelf, jobs) = over_blocking();
    shelf.close_gate();
    let mut insert = Task::new(cache.insert(1, 10));
    insert.poll_pending();
    let late = thread::spawn(take(&jobs));
    shelf.await_visitor();
    drop(insert);
    // What makes up for it waits for its end, and so does a clear.
    let mut remove = Task::new(cache.remove(&1));
    remove.poll_pending();
    let (start, job) = (Arc::new(Barrier::new(2)), take(&jobs));
    let started = Arc::clone(&start);
    let removal = thread::spawn(move || {
        started.wait();
        job();
    });
    start.wait();
    // (It has every chance to overtake.)
    (0..1000).for_each(|_| thread::yield_now());
    assert_eq!((shelf.removes.load(SeqCst), removal.is_finished()), (0, false));
    shelf.open_gate();
    late.join().unwrap();
    removal.join().unwrap();
    while remove.poll().is_pending() {
        take(&jobs)();
    }
    assert_eq!((shelf.puts.load(SeqCst), shelf.holds(&1)), (1, None));
    let mut clear = Task::new(cache.clear());
    clear.poll_pending();
    take(&jobs)();
    clear.poll_ready();
    let mut maintain = Task::new(cache.maintain(1));
    maintain.poll_pending();
    take(&jobs)();
    maintain.poll_ready();
    let mut flush = Task::new(cache.flush());
    flush.poll_pending();
    take(&jobs)();
    flush.poll_ready().unwrap();
    assert_eq!((shelf.clears.load(SeqCst), shelf.flushes.load(SeqCst)), (1, 1));
}

#[test]
fn memory_in_place_is_ready_at_once() {
    let below = Arc::new(ConcurrentComputeCache::<u64, u64>::new(CacheConfig::default()).unwrap());
    let config = CacheConfig::builder().entries(1).build().unwrap();
    let cache = AsyncMultiLevelCache::builder(ConcurrentComputeCache::builder(config))
        .level(InPlace::new(Arc::clone(&below)))
        .build()
        .unwrap();
    for key in 0..10 {
        assert_eq!(now(cache.get_or_compute(&key, async { key })).unwrap(), key);
    }
    assert_eq!((below.len(), now(cache.get(&3)), cache.stats().levels[0].hits), (10, Some(3), 1));
    now(cache.clear());
    assert_eq!((below.len(), cache.is_empty()), (0, true));
}
