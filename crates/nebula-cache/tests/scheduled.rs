//! Entries leave on time, and values are renewed before they do.

mod common;

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
    time::Duration,
};

use common::{LIMIT, SameHashes, until};
use nebula_cache::{
    AnyPolicy, CacheConfig, ConcurrentComputeCache, Counted, EntryOptions, Job, RemovalCause,
    Scheduled, ScheduledCache, Timed, TimedAndIdle, Untagged, With,
};
use nebula_memory_core::{ManualClock, MemoryError, PressureLevel, Reclaim, ReclaimRegistry};
use nebula_testing::CountingAccount;
use static_assertions::assert_impl_all;

assert_impl_all!(ScheduledCache<u64, String>: Send, Sync);

type Cache = ScheduledCache<u64, u64>;

const SECOND: Duration = Duration::from_secs(1);

fn config() -> CacheConfig {
    CacheConfig::builder().entries(1000).shards(2).ttl(10 * SECOND).build().unwrap()
}

/// With a clock by hand, and nobody who comes by on his own.
fn idle() -> (Cache, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new());
    let cache = ConcurrentComputeCache::<u64, u64>::builder(config())
        .with_expiry()
        .with_clock(clock.clone())
        .scheduled()
        .build_without_thread()
        .unwrap();
    (cache, clock)
}

#[test]
fn what_is_due_leaves_without_being_touched() {
    let (cache, clock) = idle();
    for key in 0..100 {
        let options = EntryOptions::new().ttl(Duration::from_millis(10 * (key + 1)));
        cache.insert_with(key, key, options).unwrap();
    }
    cache.insert(1000, 0).unwrap();
    for step in 1..=100 {
        clock.advance(Duration::from_millis(10));
        assert!(!cache.run_due());
        // (A millisecond is not exactly a tick.)
        let left = cache.len() - 1;
        assert!((100 - step..=101 - step).contains(&left), "{left} at {step}");
        assert_eq!(cache.validate(), Ok(()));
    }
    clock.advance(Duration::from_millis(2));
    cache.run_due();
    assert_eq!(cache.len(), 1);
    assert_eq!((cache.stats().expired, cache.schedule_stats().expired), (100, 100));
    assert_eq!(cache.schedule_stats().turns, 101);
    assert_eq!(cache.get(&1000), Some(0));
}

#[test]
fn a_thread_of_its_own_removes_what_is_due_and_tells_the_listener() {
    let (sender, told) = mpsc::channel();
    let config = CacheConfig::builder().entries(1000).ttl(Duration::from_millis(20)).build();
    let cache = ConcurrentComputeCache::<u64, u64>::builder(config.unwrap())
        .with_expiry()
        .with_listener(move |key, _, cause| sender.send((*key, cause)).unwrap())
        .scheduled()
        .interval(Duration::from_millis(1))
        .build()
        .unwrap();
    for key in 0..10 {
        cache.insert(key, key).unwrap();
    }
    let mut keys: Vec<_> = (0..10).map(|_| told.recv_timeout(LIMIT).unwrap()).collect();
    keys.sort_unstable_by_key(|&(key, _)| key);
    assert!(keys.iter().map(|&(key, _)| key).eq(0..10));
    assert!(keys.iter().all(|&(_, cause)| cause == RemovalCause::Expired));
    until(|| cache.is_empty());
}

#[test]
fn a_turn_is_a_slice() {
    let clock = Arc::new(ManualClock::new());
    let cache = ConcurrentComputeCache::<u64, u64>::builder(config())
        .with_expiry()
        .with_clock(clock.clone())
        .scheduled()
        .slice(10)
        .build_without_thread()
        .unwrap();
    (0..100).for_each(|key| _ = cache.insert(key, key).unwrap());
    clock.advance(11 * SECOND);
    let before = cache.len();
    assert!(cache.run_due());
    assert!(before - cache.len() <= 10);
    let mut turns = 1;
    while cache.run_due() {
        turns += 1;
        assert!(turns < 100);
    }
    assert!(cache.is_empty());
}

#[test]
fn used_entries_live_on_where_idle_ones_leave() {
    let clock = Arc::new(ManualClock::new());
    let config = CacheConfig { ttl: None, idle: Some(10 * SECOND), ..config() };
    let cache = ConcurrentComputeCache::<u64, u64>::builder(config)
        .with_idle_expiry()
        .with_clock(clock.clone())
        .scheduled()
        .build_without_thread()
        .unwrap();
    (0..10).for_each(|key| _ = cache.insert(key, key).unwrap());
    for _ in 0..5 {
        clock.advance(6 * SECOND);
        assert_eq!(cache.get(&3), Some(3));
        cache.run_due();
        assert_eq!(cache.validate(), Ok(()));
    }
    assert_eq!((cache.len(), cache.get(&3)), (1, Some(3)));
}

#[test]
fn removed_replaced_moved_and_pinned_entries_are_kept_in_order() {
    let (cache, clock) = idle();
    for key in 0..1000 {
        let options = EntryOptions::new().ttl(Duration::from_millis(1000 + key * 7));
        let options = if key % 10 == 0 { options.pinned() } else { options };
        cache.insert_with(key, key, options).unwrap();
    }
    for key in (0..1000).filter(|key| key % 3 == 0) {
        cache.remove(&key);
    }
    for key in (0..1000).filter(|key| key % 7 == 0) {
        cache.insert(key, key).unwrap();
    }
    // Entries change slots.
    cache.evict(20_000);
    assert_eq!(cache.validate(), Ok(()));
    while !cache.is_empty() {
        clock.advance(Duration::from_millis(100));
        cache.run_due();
        assert_eq!(cache.validate(), Ok(()));
        let lived = cache.iter().count();
        assert!(cache.len() <= lived + 200);
    }
    cache.insert(1, 1).unwrap();
    cache.clear();
    clock.advance(100 * SECOND);
    assert!(!cache.run_due());
    assert_eq!(cache.validate(), Ok(()));
}

/// A cache with a loader that says what it was asked for, and jobs that wait to be run.
struct Renewing {
    cache: Arc<ScheduledCache<u64, u64>>,
    clock: Arc<ManualClock>,
    jobs: Arc<Mutex<Vec<Job>>>,
    loads: Arc<AtomicUsize>,
    fails: Arc<AtomicBool>,
}

impl Renewing {
    /// Ten seconds to live, a new value in the last two, stale for five more.
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new());
        let jobs: Arc<Mutex<Vec<Job>>> = Arc::default();
        let loads: Arc<AtomicUsize> = Arc::default();
        let fails: Arc<AtomicBool> = Arc::default();
        let (queue, count, fail) = (jobs.clone(), loads.clone(), fails.clone());
        let cache = ConcurrentComputeCache::<u64, u64>::builder(config())
            .with_expiry()
            .with_clock(clock.clone())
            .scheduled()
            .refresh_ahead(2 * SECOND, move |key| {
                count.fetch_add(1, SeqCst);
                if fail.load(SeqCst) { Err("no") } else { Ok(key + 1000) }
            })
            .stale_for(5 * SECOND)
            .retry_after(SECOND)
            .refresh_by(move |job| queue.lock().unwrap().push(job))
            .build_without_thread()
            .unwrap();
        Self { cache: Arc::new(cache), clock, jobs, loads, fails }
    }

    fn run(&self) -> usize {
        let jobs = std::mem::take(&mut *self.jobs.lock().unwrap());
        let number = jobs.len();
        for job in jobs {
            job();
        }
        number
    }
}

#[test]
fn values_are_renewed_before_they_expire_once_however_many_ask() {
    let this = Renewing::new();
    this.cache.insert(1, 1).unwrap();
    this.clock.advance(7 * SECOND);
    assert_eq!(this.cache.get(&1), Some(1));
    assert_eq!(this.run(), 0, "it is not time");
    this.clock.advance(SECOND);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..100).for_each(|_| assert_eq!(this.cache.get(&1), Some(1))));
        }
    });
    assert_eq!(this.run(), 1);
    assert_eq!((this.loads.load(SeqCst), this.cache.get(&1)), (1, Some(1001)));
    assert_eq!(this.cache.schedule_stats().refreshed, 1);
    // With a life of its own.
    this.clock.advance(9 * SECOND);
    assert_eq!(this.cache.get(&1), Some(1001));
    assert_eq!(this.run(), 1);
}

#[test]
fn stale_values_are_there_until_new_ones_are() {
    let this = Renewing::new();
    this.cache.insert(1, 1).unwrap();
    this.clock.advance(14 * SECOND);
    let computed = this.cache.get_or_compute(&1, || unreachable!("there is a stale one"));
    assert_eq!(computed.unwrap(), 1);
    this.cache.run_due();
    assert_eq!(this.cache.len(), 1, "not due before it is too stale");
    assert_eq!(this.run(), 1);
    assert_eq!(this.cache.get(&1), Some(1001));
    // Too stale.
    this.clock.advance(15 * SECOND);
    assert_eq!(this.cache.get(&1), None);
    assert_eq!(this.cache.get_or_compute(&1, || 5).unwrap(), 5);
    assert_eq!(this.run(), 0);
}

#[test]
fn a_loader_that_fails_is_asked_again_after_a_while_and_costs_nothing_else() {
    let this = Renewing::new();
    this.cache.insert(1, 1).unwrap();
    this.fails.store(true, SeqCst);
    this.clock.advance(8 * SECOND);
    assert_eq!(this.cache.get(&1), Some(1));
    assert_eq!(this.run(), 1);
    for _ in 0..10 {
        this.clock.advance(Duration::from_millis(99));
        assert_eq!(this.cache.get(&1), Some(1));
        assert_eq!(this.run(), 0);
    }
    this.clock.advance(Duration::from_millis(10));
    this.fails.store(false, SeqCst);
    assert_eq!(this.cache.get(&1), Some(1));
    assert_eq!(this.run(), 1);
    assert_eq!(this.cache.get(&1), Some(1001));
    let stats = this.cache.schedule_stats();
    assert_eq!((stats.failed, stats.refreshed), (1, 1));
}

#[test]
fn a_job_that_is_dropped_is_asked_for_again() {
    let this = Renewing::new();
    this.cache.insert(1, 1).unwrap();
    this.clock.advance(8 * SECOND);
    this.cache.get(&1);
    this.jobs.lock().unwrap().clear();
    assert_eq!(this.cache.schedule_stats().skipped, 1);
    this.clock.advance(SECOND);
    this.cache.get(&1);
    assert_eq!(this.run(), 1);
    assert_eq!(this.cache.get(&1), Some(1001));
}

#[test]
fn a_key_that_is_removed_while_it_is_loaded_stays_removed() {
    let clock = Arc::new(ManualClock::new());
    let own: Arc<Mutex<Weak<ScheduledCache<u64, u64>>>> = Arc::default();
    let (its, jobs) = (own.clone(), Arc::<Mutex<Vec<Job>>>::default());
    let queue = jobs.clone();
    let cache = ConcurrentComputeCache::<u64, u64>::builder(config())
        .with_expiry()
        .with_clock(clock.clone())
        .scheduled()
        .refresh_ahead(SECOND, move |key| {
            its.lock().unwrap().upgrade().unwrap().remove(key);
            Ok::<_, Infallible>(7)
        })
        .refresh_by(move |job| queue.lock().unwrap().push(job))
        .build_without_thread()
        .unwrap();
    let cache = Arc::new(cache);
    *own.lock().unwrap() = Arc::downgrade(&cache);
    cache.insert(1, 1).unwrap();
    clock.advance(Duration::from_millis(9500));
    assert_eq!(cache.get(&1), Some(1));
    let jobs = std::mem::take(&mut *jobs.lock().unwrap());
    assert_eq!(jobs.len(), 1);
    for job in jobs {
        job();
    }
    assert_eq!(cache.get(&1), None);
}

#[test]
fn a_value_that_is_replaced_while_another_is_loaded_stays() {
    let clock = Arc::new(ManualClock::new());
    let own: Arc<Mutex<Weak<ScheduledCache<u64, u64>>>> = Arc::default();
    let (its, jobs) = (own.clone(), Arc::<Mutex<Vec<Job>>>::default());
    let queue = jobs.clone();
    let cache = ConcurrentComputeCache::<u64, u64>::builder(config())
        .with_expiry()
        .with_clock(clock.clone())
        .scheduled()
        .refresh_ahead(SECOND, move |key| {
            // What it found is out of date before it is cached.
            its.lock().unwrap().upgrade().unwrap().insert(*key, 2).unwrap();
            Ok::<_, Infallible>(1)
        })
        .retry_after(100 * SECOND)
        .refresh_by(move |job| queue.lock().unwrap().push(job))
        .build_without_thread()
        .unwrap();
    let cache = Arc::new(cache);
    *own.lock().unwrap() = Arc::downgrade(&cache);
    cache.insert(1, 0).unwrap();
    let run = || {
        clock.advance(Duration::from_millis(9500));
        _ = cache.get(&1);
        let jobs = std::mem::take(&mut *jobs.lock().unwrap());
        let number = jobs.len();
        for job in jobs {
            job();
        }
        number
    };
    assert_eq!(run(), 1);
    assert_eq!((cache.get(&1), cache.schedule_stats().failed), (Some(2), 1));
    // It is renewed in its turn.
    assert_eq!(run(), 1);
}

#[test]
fn values_that_can_be_stale_for_ever_are_renewed_when_they_should_be() {
    let clock = Arc::new(ManualClock::new());
    let cache = ConcurrentComputeCache::<u64, u64>::builder(config())
        .with_expiry()
        .with_clock(clock.clone())
        .scheduled()
        .refresh_ahead(SECOND, |key| Ok::<_, Infallible>(key + 1))
        .stale_for(Duration::MAX)
        .refresh_by(|job| job())
        .build_without_thread()
        .unwrap();
    cache.insert(1, 1).unwrap();
    clock.advance(8 * SECOND);
    assert_eq!((cache.get(&1), cache.get(&1)), (Some(1), Some(1)));
    clock.advance(1000 * SECOND);
    assert_eq!((cache.get(&1), cache.get(&1)), (Some(1), Some(2)));
}

#[test]
fn dropping_it_waits_for_the_loader_that_runs_and_not_for_those_to_come() {
    let clock = Arc::new(ManualClock::new());
    let loads = Arc::new(AtomicUsize::new(0));
    let count = loads.clone();
    let ((began, begins), (go, goes)) = (mpsc::channel(), mpsc::channel());
    let goes = Mutex::new(goes);
    let cache = ConcurrentComputeCache::<u64, u64>::builder(config())
        .with_expiry()
        .with_clock(clock.clone())
        .scheduled()
        .refresh_ahead(SECOND, move |_| {
            let number = count.fetch_add(1, SeqCst);
            began.send(()).unwrap();
            // The second one goes on when the cache is being dropped, or soon after.
            let pause = if number == 0 { LIMIT } else { Duration::from_millis(100) };
            let _ = goes.lock().unwrap().recv_timeout(pause);
            Ok::<_, Infallible>(1)
        })
        .build_without_thread()
        .unwrap();
    for key in 0..50 {
        cache.insert(key, 0).unwrap();
    }
    clock.advance(Duration::from_millis(9500));
    cache.get(&0);
    begins.recv_timeout(LIMIT).unwrap();
    (1..50).for_each(|key| _ = cache.get(&key));
    go.send(()).unwrap();
    begins.recv_timeout(LIMIT).unwrap();
    drop(cache);
    assert!(loads.load(SeqCst) < 25, "{loads:?}");
}

#[test]
fn jobs_that_outlive_the_cache_do_nothing() {
    let this = Renewing::new();
    this.cache.insert(1, 1).unwrap();
    this.clock.advance(8 * SECOND);
    this.cache.get(&1);
    let Renewing { cache, jobs, loads, .. } = this;
    drop(cache);
    let jobs = std::mem::take(&mut *jobs.lock().unwrap());
    for job in jobs {
        job();
    }
    assert_eq!(loads.load(SeqCst), 0);
}

#[test]
fn a_thread_of_its_own_renews_values_and_outlives_a_panic() {
    let config = CacheConfig::builder().entries(100).ttl(Duration::from_secs(3600)).build();
    let panics = Arc::new(AtomicBool::new(true));
    let first = panics.clone();
    let cache = ConcurrentComputeCache::<u64, u64>::builder(config.unwrap())
        .with_expiry()
        .scheduled()
        .refresh_ahead(Duration::from_secs(3599), move |key| {
            if first.swap(false, SeqCst) {
                std::panic::resume_unwind(Box::new(nebula_testing::InjectedPanic));
            }
            Ok::<_, Infallible>(key + 1)
        })
        .retry_after(Duration::ZERO)
        .build()
        .unwrap();
    cache.insert_with(1, 1, EntryOptions::new().ttl(Duration::from_secs(60))).unwrap();
    until(|| cache.get(&1) == Some(2));
    // (It is counted after it is there.)
    until(|| cache.schedule_stats().refreshed == 1);
    assert_eq!(cache.schedule_stats().failed, 1);
    drop(cache);
}

#[test]
fn a_panicking_listener_does_not_end_the_turns() {
    let config = CacheConfig::builder().entries(100).ttl(Duration::from_millis(1)).build();
    let told: Arc<AtomicUsize> = Arc::default();
    let count = told.clone();
    let cache = ConcurrentComputeCache::<u64, u64>::builder(config.unwrap())
        .with_expiry()
        .with_listener(move |_, _, _| {
            if count.fetch_add(1, SeqCst) == 0 {
                std::panic::resume_unwind(Box::new(nebula_testing::InjectedPanic));
            }
        })
        .scheduled()
        .interval(Duration::from_millis(1))
        .build()
        .unwrap();
    cache.insert(1, 1).unwrap();
    until(|| cache.schedule_stats().panicked == 1);
    cache.insert(2, 2).unwrap();
    until(|| told.load(SeqCst) == 2);
    assert_eq!(cache.validate(), Ok(()));
}

#[test]
fn a_runtime_can_take_the_turns() {
    let clock = Arc::new(ManualClock::new());
    let cache = ConcurrentComputeCache::<u64, u64>::builder(config())
        .with_expiry()
        .with_clock(clock.clone())
        .scheduled()
        .interval(Duration::from_millis(7))
        .build_without_thread()
        .unwrap();
    cache.insert(1, 1).unwrap();
    clock.advance(11 * SECOND);
    let (slept, waker) = (std::cell::Cell::new(0), std::task::Waker::noop());
    let mut task = std::pin::pin!(cache.run(|pause| {
        assert_eq!(pause, Duration::from_millis(7));
        slept.set(slept.get() + 1);
        let done = slept.get() < 3;
        std::future::poll_fn(move |_| {
            if done { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
    }));
    let mut context = std::task::Context::from_waker(waker);
    assert!(std::future::Future::poll(task.as_mut(), &mut context).is_pending());
    assert_eq!((slept.get(), cache.len(), cache.schedule_stats().turns), (3, 0, 3));
}

#[test]
fn faults_of_a_schedule_are_told() {
    let builder =
        || ConcurrentComputeCache::<u64, u64>::builder(config()).with_expiry().scheduled();
    let message = |result: Result<Cache, MemoryError>| result.unwrap_err().to_string();
    assert!(message(builder().interval(Duration::ZERO).build()).contains("interval = 0ns"));
    assert!(message(builder().slice(0).build()).contains("slice"));
    assert!(message(builder().stale_for(SECOND).build()).contains("stale_for"));
    assert!(message(builder().refresh_by(|job| job()).build()).contains("refresh_by"));
    let ahead = |ahead| builder().refresh_ahead(ahead, |key| Ok::<_, Infallible>(*key)).build();
    assert!(message(ahead(Duration::ZERO)).contains("refresh_ahead"));
    assert!(message(ahead(10 * SECOND)).contains("refresh_ahead = 10s"));
    assert!(ahead(9 * SECOND).is_ok());
    assert!(Cache::new(CacheConfig { ttl: Some(Duration::ZERO), ..config() }).is_err());
}

#[test]
fn its_books_are_exact_and_it_gives_memory_back() {
    type Kit = With<AnyPolicy, Counted, Scheduled<Timed>, Untagged, CountingAccount, SameHashes>;
    let (account, clock) = (CountingAccount::new(), Arc::new(ManualClock::new()));
    let cache: ScheduledCache<u64, u64, Kit> = ConcurrentComputeCache::builder(config())
        .with_expiry()
        .with_clock(clock.clone())
        .with_account(account.clone())
        .with_hasher(SameHashes::default())
        .scheduled()
        .build_without_thread()
        .unwrap();
    let cache = Arc::new(cache);
    (0..5000).for_each(|key| _ = cache.insert(key, key).unwrap());
    account.assert_balance(cache.charged());
    let registry = ReclaimRegistry::new();
    let weak: Weak<dyn Reclaim> = Arc::downgrade(&cache) as _;
    let registration = registry.register("scheduled", 0, weak);
    assert!(registry.reclaim(10_000, PressureLevel::Critical).given >= 10_000);
    account.assert_balance(cache.charged());
    clock.advance(20 * SECOND);
    cache.run_due();
    assert!(cache.is_empty());
    account.assert_balance(cache.charged());
    drop((registration, cache));
    account.assert_settled();
}

#[test]
fn idle_and_living_times_are_both_on_the_wheel() {
    type Kit = With<AnyPolicy, Counted, Scheduled<TimedAndIdle>>;
    let clock = Arc::new(ManualClock::new());
    let cache: ScheduledCache<u64, u64, Kit> = ConcurrentComputeCache::builder(config())
        .with_idle_expiry()
        .with_clock(clock.clone())
        .scheduled()
        .build_without_thread()
        .unwrap();
    let idle = EntryOptions::new().idle(SECOND).ttl(100 * SECOND);
    cache.insert_with(1, 1, idle).unwrap();
    cache.insert(2, 2).unwrap();
    clock.advance(2 * SECOND);
    cache.run_due();
    assert_eq!((cache.contains(&1), cache.contains(&2), cache.len()), (false, true, 1));
    clock.advance(9 * SECOND);
    cache.run_due();
    assert!(cache.is_empty());
}
