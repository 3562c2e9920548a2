#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

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
mod kit;
mod local;
mod methods;
mod mode;
mod options;
mod partitioned;
mod place;
mod policy;
mod reclaim;
mod room;
mod shard;
mod shares;
mod slab;
mod stats;
mod store;
mod sweep;
mod table;
mod tags;
mod times;
mod weight;

pub use equivalent::Equivalent;

pub use {
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
    shares::Share,
    stats::CacheStats,
    tags::{Tagged, Tags, Untagged},
    times::{Timed, TimedAndIdle, Times, Untimed},
    weight::{Counted, Weighed, WeighedAndCharged, Weight},
};
