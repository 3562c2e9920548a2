//! The configuration: its rules, and the effect of every field.

mod common;

use std::time::Duration;

use common::Factory;
use nebula_memory_core::{ByteSize, MemoryError, Unlimited};
#[allow(unused_imports, reason = "serde's tests use the others")]
use nebula_pool::{
    Growth, Order, Oversized, PoolConfig, PoolConfigBuilder, Shrink, ThreadSafePool,
};
use nebula_testing::CountingAccount;

#[test]
fn every_broken_rule_is_reported() {
    let Err(MemoryError::InvalidConfig(faults)) =
        PoolConfig::builder().capacity(0).warm_up(1).build()
    else {
        panic!("not refused")
    };
    let paths: Vec<_> = faults.as_slice().iter().map(|fault| fault.path.as_str()).collect();
    assert_eq!(paths, ["capacity", "warm_up"]);
    let broken = |config: PoolConfigBuilder| match config.build() {
        Err(MemoryError::InvalidConfig(faults)) => faults.as_slice()[0].path.clone(),
        other => panic!("{other:?}"),
    };
    let config = || PoolConfig::builder().capacity(4);
    assert_eq!(broken(config().min_idle(5)), "min_idle");
    assert_eq!(broken(config().min_idle(2).max_idle(1)), "max_idle");
    assert_eq!(broken(config().growth(Growth::Fixed(0))), "growth");
    assert_eq!(broken(config().growth(Growth::Doubling(0))), "growth");
    assert_eq!(broken(config().block_size(ByteSize::new(24))), "block_size");
    assert_eq!(broken(config().idle_time(Duration::ZERO)), "idle_time");
    assert_eq!(broken(config().lifetime(Duration::ZERO)), "lifetime");
    assert!(PoolConfig::default().validate().is_ok());
}

#[test]
fn construction_validates() {
    let mut config = PoolConfig::default();
    config.capacity = 0;
    let account = CountingAccount::new();
    let pool = ThreadSafePool::new_in(&config, account.clone(), String::new);
    assert_eq!(pool.unwrap_err().code(), "invalid_config");
    assert_eq!(account.charges(), 0);
}

#[test]
#[cfg_attr(miri, ignore = "miri takes a system without memory for its own end")]
fn a_table_that_cannot_be_is_refused() {
    let huge = usize::try_from(1_u64 << 50).unwrap_or(usize::MAX);
    for capacity in [usize::MAX, isize::MAX as usize / 64, huge] {
        let config = PoolConfig::builder().capacity(capacity).build().unwrap();
        let account = CountingAccount::new();
        let error = ThreadSafePool::new_in(&config, account.clone(), String::new).unwrap_err();
        assert!(["invalid_layout", "out_of_memory"].contains(&error.code()), "{error}");
        account.assert_settled();
    }
}

#[test]
fn capacity_is_the_most_that_are_lent() {
    for capacity in [1, 2, 7] {
        let (pool, ..) = common::pool(capacity, 0);
        let guards: Vec<_> = std::iter::from_fn(|| pool.try_get().ok()).collect();
        assert_eq!(guards.len(), capacity);
    }
}

#[test]
fn warm_up_makes_objects_ahead() {
    let config = PoolConfig::builder().capacity(4).warm_up(3).build().unwrap();
    let (factory, account) = (Factory::of(50), CountingAccount::new());
    let pool = factory.pool_in(&config, account.clone()).unwrap();
    assert_eq!(factory.counter.made(), 3);
    let stats = pool.stats();
    assert_eq!((stats.created, stats.idle, stats.gets), (3, 3, 0));
    let guards: Vec<_> = (0..4).map(|_| pool.try_get().unwrap()).collect();
    assert_eq!((pool.stats().gets, pool.stats().reuses), (4, 3));
    drop(guards);
    drop(pool);
    account.assert_settled();
}

#[test]
fn a_warm_up_that_fails_leaves_nothing() {
    let config = PoolConfig::builder().capacity(4).warm_up(3).build().unwrap();
    let (factory, account) = (Factory::of(50), CountingAccount::new());
    factory.panics.factory.arm(1);
    assert!(nebula_testing::catch(|| factory.pool_in(&config, account.clone())).is_err());
    factory.counter.assert_all_dropped();
    account.assert_settled();

    factory.failures.store(1, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(factory.pool_in(&config, account.clone()).unwrap_err().code(), "closed");
    factory.counter.assert_all_dropped();
    account.assert_settled();
}

#[test]
fn retained_size_drops_what_grew_beyond_it() {
    let config =
        PoolConfig::builder().capacity(2).retained_size(ByteSize::new(1000)).build().unwrap();
    let (factory, account) = (Factory::of(10), CountingAccount::new());
    let pool = factory.pool_in(&config, account.clone()).unwrap();
    let before = account.balance();
    pool.try_get().unwrap().bytes = 1000;
    account.assert_balance(before + 1000);
    pool.try_get().unwrap().bytes = 1001;
    account.assert_balance(before);
    assert_eq!(factory.counter.dropped(), [0]);
    assert_eq!((pool.stats().oversized, pool.stats().destroyed), (1, 1));
}

#[test]
fn retained_size_holds_for_objects_that_are_too_large_from_the_start() {
    let config = PoolConfig::builder().retained_size(ByteSize::ZERO).build().unwrap();
    let pool = ThreadSafePool::new(&config, || Vec::<u8>::with_capacity(8)).unwrap();
    drop(pool.try_get().unwrap());
    assert_eq!((pool.stats().oversized, pool.stats().idle), (1, 0));
}

#[test]
fn without_a_retained_size_everything_is_kept() {
    let (pool, ..) = common::pool(1, 10);
    pool.try_get().unwrap().bytes = usize::MAX / 4;
    assert_eq!((pool.stats().destroyed, pool.stats().idle), (0, 1));
}

#[test]
fn the_peak_is_kept_if_it_is_wanted() {
    let peak = |track: bool| {
        let config = PoolConfig::builder().capacity(4).warm_up(4).track_peak(track).build();
        let pool = Factory::of(0).pool_in(&config.unwrap(), Unlimited).unwrap();
        let three: Vec<_> = (0..3).map(|_| pool.try_get().unwrap()).collect();
        drop(three);
        let _object = pool.try_get().unwrap().detach();
        let two = [pool.try_get().unwrap(), pool.try_get().unwrap()];
        drop(two);
        pool.stats().peak_lent
    };
    assert_eq!(peak(true), Some(3));
    assert_eq!(peak(false), None);
}

#[cfg(feature = "serde")]
#[test]
fn configurations_are_read_and_written() {
    let text = r#"{"capacity": 8, "warm_up": 2, "retained_size": "64KiB"}"#;
    let config: PoolConfig = serde_json::from_str(text).unwrap();
    let built = PoolConfig::builder().capacity(8).warm_up(2).retained_size(ByteSize::kib(64));
    assert_eq!(config, built.build().unwrap());
    let text = r#"{
        "capacity": 9, "warm_up": 1, "min_idle": 2, "max_idle": 4, "growth": {"doubling": 2},
        "shrink": "half_of_unused", "order": "fifo", "retained_size": "1KiB", "oversized": "trim",
        "block_size": "2KiB", "idle_time": "5m", "lifetime": "1h", "track_peak": true,
        "track_holders": true
    }"#;
    let full: PoolConfig = serde_json::from_str(text).unwrap();
    let built = PoolConfig::builder()
        .capacity(9)
        .warm_up(1)
        .min_idle(2)
        .max_idle(4)
        .growth(Growth::Doubling(2))
        .shrink(Shrink::HalfOfUnused)
        .order(Order::Fifo)
        .retained_size(ByteSize::kib(1))
        .oversized(Oversized::Trim)
        .block_size(ByteSize::kib(2))
        .idle_time(Duration::from_secs(300))
        .lifetime(Duration::from_secs(3600))
        .track_peak(true)
        .track_holders(true);
    assert_eq!(full, built.build().unwrap());
    let again = serde_json::to_string(&full).unwrap();
    assert_eq!(serde_json::from_str::<PoolConfig>(&again).unwrap(), full);
    let again = serde_json::to_string(&config).unwrap();
    assert_eq!(serde_json::from_str::<PoolConfig>(&again).unwrap(), config);
    assert_eq!(serde_json::from_str::<PoolConfig>("{}").unwrap(), PoolConfig::default());
    assert!(serde_json::from_str::<PoolConfig>(r#"{"capacty": 8}"#).is_err());
}

#[cfg(feature = "serde")]
#[test]
fn statistics_are_written() {
    let pool = ThreadSafePool::new(&PoolConfig::default(), String::new).unwrap();
    drop(pool.try_get().unwrap());
    let stats = pool.stats();
    let text = serde_json::to_string(&stats).unwrap();
    assert!(text.contains("\"gets\":1"), "{text}");
    assert_eq!(serde_json::from_str::<nebula_pool::PoolStats>(&text).unwrap(), stats);
}
