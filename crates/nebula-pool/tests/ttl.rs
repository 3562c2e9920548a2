//! Objects that grow old.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use common::{Factory, LIMIT, Object, until};
use nebula_memory_core::{Clock, ManualClock};
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
    let pool = TtlPool::try_new_in(&config, account, clock.clone(), move || make.make());
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
    pool.maintain().unwrap();
    clock.clock.advance(HOUR / 2);
    drop(b);
    pool.maintain().unwrap();
    clock.clock.advance(HOUR / 2);
    assert_eq!(pool.maintain().unwrap().dropped, 1, "the one that was idle for an hour");
    clock.clock.advance(HOUR / 2);
    assert_eq!(pool.maintain().unwrap().dropped, 1);
    factory.counter.assert_all_dropped();
    assert_eq!(pool.stats().expired, 2);
}

#[test]
fn idle_times_are_never_cut_short() {
    let (pool, clock, _) = pool(of(1).idle_time(HOUR));
    drop(pool.try_get().unwrap());
    for _ in 0..10 {
        // Nobody looked for much longer than the idle time, and then it has just come back.
        clock.clock.advance(HOUR * 3);
        drop(pool.try_get().unwrap());
        assert_eq!(pool.maintain().unwrap().dropped, 0);
        clock.clock.advance(HOUR * 6 / 7);
        assert_eq!(pool.maintain().unwrap().dropped, 0);
    }
    assert_eq!(pool.stats().created, 1);
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
fn neither_a_return_nor_a_get_of_ones_own_reads_the_clock() {
    let (pool, clock, _) = pool(of(1).lifetime(HOUR).idle_time(MINUTE));
    drop(pool.try_get().unwrap());
    let reads = clock.reads.load(SeqCst);
    for _ in 0..100 {
        drop(pool.try_get().unwrap());
    }
    assert_eq!(clock.reads.load(SeqCst), reads);
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
