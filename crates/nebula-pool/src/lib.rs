#![doc = include_str!("../README.md")]

mod affinity;
mod books;
mod claim;
mod config;
mod factory;
mod guard;
mod poolable;
mod slots;
mod stats;
mod thread_safe;

pub use {
    config::{PoolConfig, PoolConfigBuilder},
    guard::{OwnedGuard, PoolGuard},
    poolable::Poolable,
    stats::PoolStats,
    thread_safe::ThreadSafePool,
};
