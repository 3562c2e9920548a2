#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod bag;
mod builder;
mod compute;
mod concurrent;
mod config;
mod error;
#[cfg(not(nebula_loom))]
#[allow(unreachable_pub, reason = "public for its loom model alone")]
mod flight;
#[cfg(nebula_loom)]
#[doc(hidden)]
pub mod flight;
mod hasher;
mod place;
mod policy;
mod reclaim;
mod room;
mod shard;
mod slab;
mod stats;
mod store;
mod weigher;

pub use {
    builder::CacheBuilder,
    concurrent::ConcurrentComputeCache,
    config::{CacheConfig, CacheConfigBuilder},
    error::ComputeError,
    hasher::{DefaultHashBuilder, DefaultHasher},
    stats::CacheStats,
    weigher::{SizeOf, Weigher},
};
