//! The configuration of every cache of this crate.

use std::thread::available_parallelism;

use nebula_memory_core::{ByteSize, ConfigFaults, MemoryError};

/// The most shards that can be asked for.
const MAX_SHARDS: usize = 1 << 12;

/// How many of the smallest possible entries a shard should be able to hold, when shards are chosen
/// by the cache: policies that see too little of the whole choose worse.
const ENTRIES_PER_SHARD: usize = 1 << 10;

/// How large a cache is, and into how many shards it is divided.
///
/// ```
/// use nebula_cache::CacheConfig;
/// use nebula_memory_core::ByteSize;
///
/// let config = CacheConfig::builder().capacity(ByteSize::mib(16)).shards(8).build()?;
/// assert_eq!(config.capacity, ByteSize::mib(16));
/// let error = CacheConfig::builder().shards(3).build().unwrap_err();
/// assert_eq!(error.to_string(), "invalid configuration: shards = 3: must be a power of two");
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct CacheConfig {
    /// The most that all entries together may weigh, in bytes; above zero. 64 MiB by default.
    pub capacity: ByteSize,
    /// Into how many independently locked parts the entries are divided: a power of two, or `None`
    /// (the default) to have it chosen by the machine and the capacity. The capacity is one for all
    /// of them.
    pub shards: Option<usize>,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self { capacity: ByteSize::mib(64), shards: None }
    }
}

impl CacheConfig {
    /// A builder that starts from the defaults.
    pub fn builder() -> CacheConfigBuilder {
        CacheConfigBuilder::default()
    }

    /// Checks every rule.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] with all faults.
    pub fn validate(&self) -> Result<(), MemoryError> {
        let mut faults = ConfigFaults::new();
        let capacity = self.capacity.get();
        faults.check(capacity > 0, "capacity", self.capacity, "must be above zero");
        if let Some(shards) = self.shards {
            faults.check(shards.is_power_of_two(), "shards", shards, "must be a power of two");
            faults.check(shards <= MAX_SHARDS, "shards", shards, "must be at most 4096");
        }
        faults.into_result()
    }

    /// The number of shards for entries that weigh `least` bytes at least.
    pub(crate) fn shards_for(&self, least: usize) -> usize {
        self.shards.unwrap_or_else(|| {
            // More shards than threads, so that two rarely meet in one.
            let threads = available_parallelism().map_or(1, std::num::NonZero::get);
            let useful = self.capacity.get() / least.max(1) / ENTRIES_PER_SHARD;
            let shards = (threads * 4).min(useful).clamp(1, MAX_SHARDS);
            1 << shards.ilog2()
        })
    }
}

/// Builds a [`CacheConfig`].
#[derive(Clone, Debug, Default)]
#[must_use = "a builder does nothing until it is built"]
pub struct CacheConfigBuilder(CacheConfig);

impl CacheConfigBuilder {
    /// Sets [`CacheConfig::capacity`].
    pub fn capacity(mut self, capacity: ByteSize) -> Self {
        self.0.capacity = capacity;
        self
    }

    /// Sets [`CacheConfig::shards`].
    pub fn shards(mut self, shards: impl Into<Option<usize>>) -> Self {
        self.0.shards = shards.into();
        self
    }

    /// The configuration, if it keeps every rule.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] with all faults.
    pub fn build(self) -> Result<CacheConfig, MemoryError> {
        self.0.validate()?;
        Ok(self.0)
    }
}
