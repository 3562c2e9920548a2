//! The settings that all pools share.

use nebula_memory_core::{ByteSize, ConfigFaults, MemoryError};

/// How many objects a pool may have, and which of them it keeps.
///
/// ```
/// use nebula_memory_core::ByteSize;
/// use nebula_pool::PoolConfig;
///
/// let config = PoolConfig::builder()
///     .capacity(32)
///     .warm_up(4)
///     .retained_size(ByteSize::kib(64))
///     .build()?;
/// assert_eq!(config.capacity, 32);
/// assert!(PoolConfig::builder().capacity(0).build().is_err());
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct PoolConfig {
    /// The most objects that can be lent at once; above zero. The table of slots for them is
    /// allocated, and charged, when the pool is made.
    pub capacity: usize,

    /// Objects made when the pool is made; at most `capacity`.
    pub warm_up: usize,

    /// The largest [`heap_size`](crate::Poolable::heap_size) with which an object is kept when it
    /// comes back; a larger one is dropped. Without it, every object is kept.
    pub retained_size: Option<ByteSize>,

    /// Whether [`PoolStats::peak_lent`](crate::PoolStats::peak_lent) is kept. It costs every get
    /// and every return a read-modify-write of one shared counter, and with it the scaling over
    /// threads; everything else that the statistics tell is free of that.
    pub track_peak: bool,
}

impl Default for PoolConfig {
    /// 64 objects, none made ahead, all kept, no peak.
    fn default() -> Self {
        Self { capacity: 64, warm_up: 0, retained_size: None, track_peak: false }
    }
}

impl PoolConfig {
    /// A builder that starts from the default.
    pub fn builder() -> PoolConfigBuilder {
        PoolConfigBuilder { config: Self::default() }
    }

    /// Checks every rule.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] with all broken rules.
    pub fn validate(&self) -> Result<(), MemoryError> {
        let mut faults = ConfigFaults::new();
        faults.check(self.capacity > 0, "capacity", self.capacity, "must be above zero");
        let room = self.warm_up <= self.capacity;
        faults.check(room, "warm_up", self.warm_up, "must be at most `capacity`");
        faults.into_result()
    }
}

/// Makes a [`PoolConfig`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct PoolConfigBuilder {
    config: PoolConfig,
}

impl PoolConfigBuilder {
    /// Sets [`PoolConfig::capacity`].
    pub fn capacity(mut self, objects: usize) -> Self {
        self.config.capacity = objects;
        self
    }

    /// Sets [`PoolConfig::warm_up`].
    pub fn warm_up(mut self, objects: usize) -> Self {
        self.config.warm_up = objects;
        self
    }

    /// Sets [`PoolConfig::retained_size`].
    pub fn retained_size(mut self, largest: impl Into<ByteSize>) -> Self {
        self.config.retained_size = Some(largest.into());
        self
    }

    /// Sets [`PoolConfig::track_peak`].
    pub fn track_peak(mut self, track: bool) -> Self {
        self.config.track_peak = track;
        self
    }

    /// The configuration, validated.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] with all broken rules.
    pub fn build(self) -> Result<PoolConfig, MemoryError> {
        self.config.validate()?;
        Ok(self.config)
    }
}
