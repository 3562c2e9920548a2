//! What a level may fail with.

use std::{error::Error, io, time::Duration};

use nebula_memory_core::MemoryError;
use thiserror::Error;

/// Why a level could not do what it was asked.
///
/// A [`MultiLevelCache`](crate::MultiLevelCache) counts these and goes on with its other levels; its
/// callers never see one, but from [`flush`](crate::MultiLevelCache::flush).
///
/// ```
/// use nebula_cache::LevelError;
///
/// let error = LevelError::backend("the tape is torn");
/// assert_eq!(error.to_string(), "the level failed: the tape is torn");
/// assert!(error.is_failure());
/// assert!(!LevelError::Corrupt.is_failure());
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum LevelError {
    /// Reading or writing failed.
    #[error("input or output failed: {0}")]
    Io(#[from] io::Error),
    /// The level is well, but does not take this value (too large, for example); it holds none for
    /// the key now.
    #[error("the level takes no such value: {0}")]
    Refused(MemoryError),
    /// What was found is not what was written. The level holds it no longer.
    #[error("what was found is not what was written")]
    Corrupt,
    /// A key or value could not be put into bytes.
    #[error("a key or value can't be encoded: {0}")]
    Encode(Box<str>),
    /// It took too long.
    #[error("timed out after {0:?}")]
    TimedOut(Duration),
    /// The level's code panicked.
    #[error("the level panicked")]
    Panicked,
    /// The level's store is damaged as a whole, and serves nothing.
    #[error("the store is damaged: {0}; delete it, or open it so that it starts anew")]
    Damaged(Box<str>),
    /// Whatever else is behind the level failed.
    #[error("the level failed: {0}")]
    Backend(#[source] Box<dyn Error + Send + Sync>),
}

impl LevelError {
    /// An error of what is behind the level.
    pub fn backend(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Backend(error.into())
    }

    /// Whether the level itself is in trouble, rather than one value: counts for its
    /// [breaker](crate::Breaker).
    #[must_use]
    pub const fn is_failure(&self) -> bool {
        !matches!(self, Self::Refused(_) | Self::Corrupt | Self::Encode(_))
    }
}
