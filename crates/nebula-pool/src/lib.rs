#![doc = include_str!("../README.md")]

mod alike;
mod block;
mod books;
mod coarse;
mod config;
mod factory;
mod guard;
mod hierarchical;
mod home;
mod hooks;
mod keeping;
mod list;
mod lock_free;
mod maintainer;
mod object_pool;
mod poolable;
mod priority;
mod settings;
mod slot;
mod slots;
mod stats;
mod table;
mod thread_safe;
mod ttl;
mod watch;
mod workshop;

pub use {
    block::Block,
    config::{PoolConfig, PoolConfigBuilder},
    guard::{OwnedGuard, Pool, PoolGuard},
    hierarchical::HierarchicalPool,
    hooks::{Hooked, Hooks, LocalHooked, LocalHooks},
    keeping::Maintained,
    lock_free::LockFreePool,
    maintainer::Maintainer,
    object_pool::ObjectPool,
    poolable::Poolable,
    priority::PriorityPool,
    settings::{Growth, Order, Oversized, Shrink},
    slots::SlotPool,
    stats::PoolStats,
    thread_safe::ThreadSafePool,
    ttl::TtlPool,
    watch::Holder,
};
