//! What a fallible computation through the cache may fail with.

use nebula_memory_core::MemoryError;
use thiserror::Error;

/// Why [`try_get_or_compute`](crate::ConcurrentComputeCache::try_get_or_compute) has no value.
///
/// ```
/// use nebula_cache::{CacheConfig, ComputeError, ConcurrentComputeCache};
///
/// let cache = ConcurrentComputeCache::<u64, u64>::new(CacheConfig::default())?;
/// let error = cache.try_get_or_compute(&1, || "x".parse()).unwrap_err();
/// assert!(matches!(error, ComputeError::Compute(_)));
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Debug, Error)]
#[non_exhaustive]
pub enum ComputeError<E> {
    /// The caller's own computation failed. Other threads that waited for it run theirs; tasks
    /// ([`AsyncCache`](crate::AsyncCache)) have a share of the error.
    #[error("the computation failed: {0}")]
    Compute(E),
    /// [`MemoryError::Reentrant`]: the computation asked for its own result. Or
    /// [`MemoryError::Timeout`], where there is one.
    #[error(transparent)]
    Memory(#[from] MemoryError),
}
