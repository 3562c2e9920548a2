//! Objects that grow old.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use common::{Factory, LIMIT, Object, until};
use nebula_memory_core::{Clock, ManualClock, Unlimited};
use nebula_pool::{PoolConfig, PoolConfigBuilder, TtlPool};
use nebula_testing::{CountingAccount, watchdog};

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

/// A clock that counts how often it is read.
#[derive(Default)]
struct Watched {
    clock: ManualClock,
    reads: AtomicUsize,
}

impl Clock for Watched {
    fn now(&self) -> Duration {
        self.reads.fetch_add(1, SeqCst);
        self.clock.now()
    }
}

type Pool = TtlPool<Object, CountingAccount>;

fn pool(config: PoolConfigBuilder) -> (Arc<Pool>, Arc<Watched>, Factory) {
    let (clock, factory) = (Arc::new(Watched::default()), Factory::of(10));
    let (config, make) = (config.build().unwrap(), factory.clone());
    let account = CountingAccount::new();
    let pool = TtlPool::with_clock(&config, account, clock.clone(), move || make.make());
    (Arc::new(pool.unwrap()), clock, factory)
}

fn of(capacity: usize) -> PoolConfigBuilder {
    PoolConfig::builder().capacity(capacity)
}

#[test]
fn an_object_that_is_too_old_is_not_lent() {
    let (pool, clock, _) = pool(of(1).lifetime(HOUR));
    drop(pool.try_get().unwrap());
    clock.clock.advance(HOUR * 7 / 8);
    pool.tick();
    drop(pool.try_get().unwrap());
    assert_eq!(pool.stats().created, 1, "at least seven eighths of its time");
    clock.clock.advance(HOUR / 8);
    pool.tick();
    drop(pool.try_get().unwrap());
    assert_eq!((pool.stats().created, pool.stats().expired), (2, 1));
}

#[test]
fn an_object_that_is_lent_grows_old_as_well_but_is_left_to_its_holder() {
    let (pool, clock, factory) = pool(of(1).lifetime(HOUR));
    let guard = pool.try_get().unwrap();
    clock.clock.advance(HOUR);
    pool.maintain().unwrap();
    factory.counter.assert_live(1);
    drop(guard);
    assert_eq!(pool.maintain().unwrap().dropped, 1);
    factory.counter.assert_all_dropped();
}

#[test]
fn the_sweep_drops_what_was_idle_for_too_long() {
    let (pool, clock, factory) = pool(of(3).idle_time(HOUR));
    let (a, b) = (pool.try_get().unwrap(), pool.try_get().unwrap());
    drop(a);
    clock.clock.advance(HOUR / 2);
    pool.tick();
    drop(b);
    clock.clock.advance(HOUR / 2);
    assert_eq!(pool.maintain().unwrap().dropped, 1, "the one that was idle for an hour");
    clock.clock.advance(HOUR / 2);
    assert_eq!(pool.maintain().unwrap().dropped, 1);
    factory.counter.assert_all_dropped();
    assert_eq!(pool.stats().expired, 2);
}

#[test]
fn idle_times_begin_when_the_time_was_read_last_before_the_return() {
    let (pool, clock, _) = pool(of(1).idle_time(HOUR));
    let guard = pool.try_get().unwrap();
    clock.clock.advance(HOUR * 3);
    pool.tick();
    drop(guard);
    clock.clock.advance(HOUR * 6 / 7);
    drop(pool.try_get().unwrap());
    assert_eq!(pool.stats().created, 1, "not cut short");
    let guard = pool.try_get().unwrap();
    clock.clock.advance(HOUR);
    drop(guard); // Nobody knows what time it is.
    drop(pool.try_get().unwrap());
    assert_eq!(pool.stats().created, 2, "it may have been idle for an hour");
}

#[test]
fn what_is_over_its_time_is_never_lent_on_any_path() {
    let (pool, clock, _) = pool(of(4).lifetime(MINUTE).idle_time(MINUTE / 6));
    drop(pool.get().unwrap());
    for hours in 1..100 {
        clock.clock.advance(HOUR);
        // The thread's own slot.
        drop(pool.get().unwrap());
        assert_eq!(pool.stats().expired, hours);
    }
}

#[test]
fn a_clock_that_was_wrong_for_a_while_does_not_make_objects_last() {
    /// A clock that breaks its contract.
    struct Jumpy(AtomicUsize);
    impl Clock for Jumpy {
        fn now(&self) -> Duration {
            Duration::from_secs(self.0.load(SeqCst) as u64)
        }
    }
    let clock = Arc::new(Jumpy(AtomicUsize::new(1_000_000)));
    let config = of(1).lifetime(MINUTE).build().unwrap();
    let pool = TtlPool::with_clock(&config, Unlimited, clock.clone(), || Ok(String::new()));
    let pool = pool.unwrap();
    drop(pool.get().unwrap());
    clock.0.store(10, SeqCst);
    for seconds in (10..6010).step_by(60) {
        clock.0.store(seconds, SeqCst);
        drop(pool.get().unwrap());
    }
    assert_eq!(pool.stats().created, 101);
    clock.0.store(usize::MAX, SeqCst);
    drop(pool.get().unwrap());
    assert!(pool.try_get().is_ok());
}

#[test]
fn the_machines_clock_does_for_times_of_any_length() {
    for time in [Duration::from_millis(20), Duration::from_secs(1)] {
        for config in [of(1).idle_time(time), of(1).lifetime(time)] {
            let pool = TtlPool::new(&config.build().unwrap(), String::new).unwrap();
            drop(pool.get().unwrap());
            let start = Instant::now();
            while pool.stats().expired == 0 {
                assert!(start.elapsed() < LIMIT, "it never ends");
                pool.maintain().unwrap();
                std::thread::yield_now();
            }
            // Seven eighths, and less what the pool's time and the clock may be late by.
            assert!(start.elapsed() >= time * 3 / 4, "it ended too early");
        }
    }
}

#[test]
fn what_is_over_its_idle_time_is_not_lent() {
    let (pool, clock, _) = pool(of(1).idle_time(HOUR));
    drop(pool.try_get().unwrap());
    pool.maintain().unwrap();
    clock.clock.advance(HOUR);
    pool.tick();
    drop(pool.try_get().unwrap());
    assert_eq!((pool.stats().created, pool.stats().expired), (2, 1));
}

#[test]
fn a_get_that_has_to_look_around_reads_the_clock() {
    let (pool, clock, _) = pool(of(1).lifetime(HOUR));
    drop(pool.try_get().unwrap());
    clock.clock.advance(HOUR);
    // A new thread has no object of its own.
    std::thread::scope(|s| {
        s.spawn(|| drop(pool.try_get().unwrap()));
    });
    assert_eq!(pool.stats().expired, 1);
}

#[test]
fn a_get_reads_the_clock_and_a_return_does_not() {
    let (pool, clock, _) = pool(of(1).lifetime(HOUR).idle_time(MINUTE));
    drop(pool.try_get().unwrap());
    for _ in 0..10 {
        let reads = clock.reads.load(SeqCst);
        let guard = pool.try_get().unwrap();
        assert_eq!(clock.reads.load(SeqCst), reads + 1);
        drop(guard);
        assert_eq!(clock.reads.load(SeqCst), reads + 1);
    }
}

#[test]
fn a_clock_that_was_given_is_read_by_every_get_also_while_a_thread_maintains_the_pool() {
    watchdog(LIMIT, || {
        let (pool, clock, _) = pool(of(1).lifetime(HOUR * 256));
        drop(pool.try_get().unwrap());
        let maintainer = pool.maintain_every(HOUR).unwrap();
        let reads_of_a_get = || {
            let reads = clock.reads.load(SeqCst);
            drop(pool.try_get().unwrap());
            clock.reads.load(SeqCst) - reads
        };
        until(|| maintainer.rounds() == 1);
        for _ in 0..100 {
            assert_eq!(reads_of_a_get(), 1);
        }
        drop(maintainer);
        assert_eq!(reads_of_a_get(), 1);
    });
}

#[test]
fn a_thread_that_keeps_the_time_does_so_between_its_rounds() {
    watchdog(LIMIT, || {
        let config = of(1).lifetime(Duration::from_millis(32)).build().unwrap();
        let pool = Arc::new(TtlPool::new(&config, String::new).unwrap());
        drop(pool.try_get().unwrap());
        let maintainer = pool.maintain_every(HOUR).unwrap();
        until(|| maintainer.rounds() == 1);
        // Gets read no clock now, and yet they notice.
        until(|| {
            drop(pool.try_get().unwrap());
            pool.stats().expired > 0
        });
        assert_eq!(maintainer.rounds(), 1);
    });
}

#[test]
fn what_was_made_together_does_not_end_together() {
    let (pool, clock, _) = pool(of(64).warm_up(64).lifetime(HOUR));
    let mut ends = Vec::new();
    clock.clock.advance(MINUTE * 52);
    for _ in 0..=10 {
        clock.clock.advance(HOUR / 80);
        ends.push(pool.maintain().unwrap().dropped);
    }
    assert_eq!(ends.iter().sum::<u64>(), 64);
    assert!(ends.iter().all(|ended| *ended <= 10), "{ends:?}");
}

#[test]
fn those_that_ended_are_made_up_for() {
    let (pool, clock, factory) = pool(of(4).min_idle(3).lifetime(HOUR));
    pool.maintain().unwrap();
    clock.clock.advance(HOUR);
    let done = pool.maintain().unwrap();
    assert_eq!((done.dropped, done.made), (3, 3));
    factory.counter.assert_live(3);
}

#[test]
fn a_thread_maintains_the_pool_until_it_is_told_to_end() {
    watchdog(LIMIT, || {
        let (pool, clock, factory) = pool(of(4).min_idle(1).lifetime(HOUR));
        let maintainer = pool.maintain_every(Duration::from_millis(1)).unwrap();
        until(|| pool.stats().idle == 1);
        clock.clock.advance(HOUR);
        until(|| pool.stats().expired == 1 && pool.stats().idle == 1);
        factory.failures.store(1, SeqCst);
        clock.clock.advance(HOUR);
        until(|| maintainer.failures() == 1);
        let rounds = maintainer.rounds();
        until(|| maintainer.rounds() > rounds);
        drop(maintainer);
        assert_eq!(Arc::strong_count(&pool), 1);
    });
}

#[test]
fn the_thread_does_not_keep_the_pool_alive() {
    watchdog(LIMIT, || {
        let (pool, _, factory) = pool(of(4).min_idle(2).lifetime(HOUR));
        let maintainer = pool.maintain_every(Duration::from_millis(1)).unwrap();
        until(|| maintainer.rounds() > 0);
        drop(pool);
        until(|| factory.counter.live() == 0);
        drop(maintainer);
    });
}

#[test]
fn a_maintainer_that_sleeps_for_ever_ends_at_once() {
    watchdog(LIMIT, || {
        let (pool, ..) = pool(of(1).lifetime(HOUR));
        let maintainer = pool.maintain_every(Duration::MAX).unwrap();
        until(|| maintainer.rounds() == 1);
        drop(maintainer);
    });
}

#[test]
fn an_interval_of_zero_is_refused() {
    let (pool, ..) = pool(of(1).lifetime(HOUR));
    assert_eq!(pool.maintain_every(Duration::ZERO).unwrap_err().code(), "invalid_config");
}

#[test]
fn a_maintainer_ends_with_its_pool_and_not_at_its_next_round() {
    watchdog(LIMIT, || {
        let (pool, ..) = pool(of(1).lifetime(HOUR));
        let maintainer = pool.maintain_every(HOUR).unwrap();
        until(|| maintainer.rounds() == 1);
        assert!(!maintainer.is_over());
        drop(pool);
        until(|| maintainer.is_over());
    });
}
