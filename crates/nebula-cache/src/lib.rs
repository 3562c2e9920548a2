#![doc = include_str!("../README.md")]
#![deny(unsafe_code)]

mod async_cache;
mod async_compute;
mod bag;
mod builder;
mod cause;
mod compute;
mod concurrent;
mod config;
mod engine;
mod error;
#[cfg(not(nebula_loom))]
#[allow(unreachable_pub, reason = "public for its loom model alone")]
mod flight;
#[cfg(nebula_loom)]
#[doc(hidden)]
pub mod flight;
mod hasher;
mod hooks;
mod inside;
mod kit;
mod lanes;
#[cfg(not(nebula_loom))]
mod levels;
mod local;
mod methods;
mod mode;
mod options;
mod partitioned;
mod place;
mod policy;
mod reclaim;
mod room;
mod scheduled;
mod shard;
mod shares;
mod slab;
#[cfg(all(feature = "codec", not(nebula_loom)))]
mod snapshot;
mod stats;
mod steps;
mod store;
mod sweep;
mod table;
mod tags;
mod times;
mod weight;
mod wheel;
mod worker;

pub use equivalent::Equivalent;

#[cfg(not(nebula_loom))]
pub use levels::{
    AsyncLevel, AsyncMultiLevelBuilder, AsyncMultiLevelCache, Blocking, InPlace, LevelFuture,
};
#[cfg(not(nebula_loom))]
pub use levels::{
    Breaker, BreakerState, Demotion, Hit, Level, LevelError, LevelStats, MultiLevelBuilder,
    MultiLevelCache, MultiLevelStats, Promotion, QueueStats, WhenFull, Writing,
};
#[cfg(all(feature = "codec", not(nebula_loom)))]
pub use levels::{Codec, Decoded};
#[cfg(all(feature = "disk", not(nebula_loom)))]
pub use levels::{DiskBuilder, DiskLevel, DiskStats, OnDamage};
#[cfg(all(feature = "redis", not(nebula_loom)))]
pub use levels::{RedisBuilder, RedisLevel};
#[cfg(all(feature = "codec", not(nebula_loom)))]
pub use snapshot::{Restored, SnapshotError};
pub use {
    async_cache::AsyncCache,
    builder::{CacheBuilder, LocalBuilder, SharedBuilder},
    cause::RemovalCause,
    concurrent::{ConcurrentComputeCache, Iter},
    config::{CacheConfig, CacheConfigBuilder, Capacity, PolicyKind},
    error::ComputeError,
    hasher::{DefaultHashBuilder, DefaultHasher},
    kit::{Kit, With},
    local::ComputeCache,
    options::EntryOptions,
    partitioned::{Partition, PartitionUsage, PartitionedCache},
    policy::{AnyPolicy, Arc, Fifo, Lfu, Lru, Policy, S3Fifo, Sieve, Steady, WTinyLfu},
    scheduled::{Job, ScheduleStats, ScheduledBuilder, ScheduledCache},
    shares::Share,
    stats::CacheStats,
    tags::{Tagged, Tags, Untagged},
    times::{Scheduled, Timed, TimedAndIdle, Times, Untimed},
    weight::{Counted, Weighed, WeighedAndCharged, Weight},
};
