#![doc = include_str!("../README.md")]
#![forbid(unsafe_code)]

mod config;
#[cfg(feature = "budget")]
mod memory;
#[cfg(feature = "budget")]
mod tenant;

pub mod prelude;

/// The contracts that all parts share: accounts, allocators, reclaim, statistics, errors.
pub mod core {
    #[doc(inline)]
    pub use nebula_memory_core::*;
}

/// Allocators: the system's heap, bump allocators, exact statistics, and a registry of what is
/// alive.
#[cfg(feature = "allocators")]
pub mod alloc {
    #[doc(inline)]
    pub use nebula_alloc::*;
}

/// Bump arenas over any allocator.
#[cfg(feature = "arena")]
pub mod arena {
    #[doc(inline)]
    pub use nebula_arena::*;
}

/// Object pools whose objects are charged and given back under pressure.
#[cfg(feature = "pool")]
pub mod pool {
    #[doc(inline)]
    pub use nebula_pool::*;
}

/// Caches that compute once, hold their capacity exactly, and give back under pressure.
#[cfg(feature = "cache")]
pub mod cache {
    #[doc(inline)]
    pub use nebula_cache::*;
}

/// Trees of memory budgets with exact limits.
#[cfg(feature = "budget")]
pub mod budget {
    #[doc(inline)]
    pub use nebula_budget::*;
}

/// Memory pressure, from control groups, the system and budgets, turned into levels and actions.
#[cfg(feature = "monitor")]
pub mod monitor {
    #[doc(inline)]
    pub use nebula_monitor::*;
}

#[cfg(all(feature = "allocators", feature = "budget"))]
pub use config::StatsConfig;
pub use config::{MemoryConfig, MemoryConfigBuilder};
#[cfg(all(feature = "budget", feature = "cache"))]
pub use tenant::{TenantCache, TenantKit, TenantPartition, TenantPartitions};
#[cfg(feature = "budget")]
pub use {memory::Memory, tenant::Tenant};

// The repository's README has an example, too; only its test is compiled from here.
#[cfg(all(doctest, feature = "full"))]
#[doc = include_str!("../../../README.md")]
mod readme {}
