//! Caches of several levels: level one as everywhere in this crate, and what lies below it.

mod async_builder;
mod async_cache;
mod async_level;
mod async_lower;
mod blocking;
mod breaker;
mod builder;
mod cache;
#[cfg(feature = "codec")]
mod codec;
mod debts;
#[cfg(feature = "disk")]
mod disk;
mod error;
mod first;
mod level;
mod limbo;
mod lower;
mod memory;
mod queue;
#[cfg(feature = "redis")]
mod redis;
mod remote;
mod rules;
mod stats;
mod tier;

#[cfg(feature = "redis")]
pub use self::redis::{RedisBuilder, RedisLevel};
#[cfg(feature = "codec")]
pub use codec::{Codec, Decoded};
#[cfg(feature = "disk")]
pub use disk::{DiskBuilder, DiskLevel, DiskStats, OnDamage};
pub use {
    async_builder::AsyncMultiLevelBuilder,
    async_cache::AsyncMultiLevelCache,
    async_level::{AsyncLevel, InPlace, LevelFuture},
    blocking::Blocking,
    breaker::{Breaker, BreakerState},
    builder::MultiLevelBuilder,
    cache::MultiLevelCache,
    error::LevelError,
    level::{Hit, Level},
    rules::{Demotion, Promotion, WhenFull, Writing},
    stats::{LevelStats, MultiLevelStats, QueueStats},
};
