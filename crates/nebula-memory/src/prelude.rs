//! What most programs use, in one import.
//!
//! ```
//! use nebula_memory::prelude::*;
//!
//! # #[cfg(all(feature = "budget", feature = "arena"))] {
//! let budget = MemoryBudget::root("process", 1 << 20)?;
//! let arena = Arena::new_in(budget.allocator());
//! arena.try_alloc_str("charged to the process")?;
//! # }
//! # Ok::<(), MemoryError>(())
//! ```

pub use nebula_memory_core::{
    Account, Allocator, ByteSize, MemoryError, MemoryUsage, PressureLevel, Reclaim, Refused,
    StatisticsProvider, TypedAllocator,
};

#[cfg(feature = "allocators")]
pub use nebula_alloc::{AllocatorManager, BumpAllocator, SystemAllocator, Tracked};
#[cfg(feature = "arena")]
pub use nebula_arena::Arena;
#[cfg(feature = "budget")]
pub use nebula_budget::{BudgetConfig, LocalBudget, MemoryBudget, Reservation};
#[cfg(feature = "cache")]
pub use nebula_cache::ConcurrentComputeCache;
#[cfg(feature = "monitor")]
pub use nebula_monitor::{MemoryMonitor, PressureAction};
#[cfg(feature = "pool")]
pub use nebula_pool::{Poolable, ThreadSafePool};

pub use crate::MemoryConfig;
#[cfg(feature = "budget")]
pub use crate::{Memory, Tenant};
