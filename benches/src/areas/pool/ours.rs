//! Our pools.

use std::{sync::Arc, time::Duration};

use nebula_pool::{
    HierarchicalPool, LockFreePool, ObjectPool, PoolConfig, PriorityPool, ThreadSafePool, TtlPool,
};

use super::{OBJECTS, Subject};
use crate::{Contender, Thread, repeat};

fn config() -> PoolConfig {
    let config = PoolConfig::builder().capacity(OBJECTS).warm_up(OBJECTS).build();
    config.expect("a valid configuration")
}

/// A contender of a pool that threads share.
macro_rules! shared {
    ($(#[$meta:meta])* $name:ident, || $setup:expr) => {
        $(#[$meta])*
        pub(super) fn $name<T: Subject>(threads: usize) -> Contender {
            let setup = || $setup.expect("a pool");
            Contender::threads("ours", threads, setup, |pool, thread: Thread| {
                repeat(thread.iterations, || pool.try_get().expect("an object").touch());
            })
        }
    };
}

shared!(thread_safe, || ThreadSafePool::new(&config(), T::make));
shared!(lock_free, || LockFreePool::new(&config(), T::make));
shared!(priority, || PriorityPool::new(&config(), 16, T::make));
shared!(hierarchical, || HierarchicalPool::new(&config(), T::make));
shared!(
    /// Gets read the clock.
    ttl, || TtlPool::new(&ttl_config(), T::make)
);

fn ttl_config() -> PoolConfig {
    let mut config = config();
    config.idle_time = Some(Duration::from_mins(10));
    config.lifetime = Some(Duration::from_hours(1));
    config
}

/// A thread keeps the time.
pub(super) fn ttl_kept<T: Subject>(threads: usize) -> Contender {
    let setup = || {
        let pool = Arc::new(TtlPool::new(&ttl_config(), T::make).expect("a pool"));
        let maintainer = pool.maintain_every(Duration::from_mins(1)).expect("a thread");
        while maintainer.rounds() == 0 {
            std::thread::yield_now();
        }
        (pool, maintainer)
    };
    Contender::threads("ours", threads, setup, |(pool, _), thread: Thread| {
        repeat(thread.iterations, || pool.try_get().expect("an object").touch());
    })
}

pub(super) fn object_pool<T: Subject>() -> Contender {
    let setup = || ObjectPool::new(&config(), T::make).expect("a pool");
    Contender::each("ours", setup, |pool| pool.try_get().expect("an object").touch())
}

pub(super) fn owned<T: Subject>(threads: usize) -> Contender {
    let setup = || Arc::new(ThreadSafePool::new(&config(), T::make).expect("a pool"));
    Contender::threads("ours", threads, setup, |pool, thread: Thread| {
        repeat(thread.iterations, || pool.try_get_owned().expect("an object").touch());
    })
}
