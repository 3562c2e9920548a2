//! Which allocator to build, as plain data.

use std::fmt;

use nebula_memory_core::{Allocator, ByteSize, ConfigFaults, MemoryError, layout::MAX_SIZE};

use crate::{ConfiguredAllocator, SystemAllocator};

/// What an [`AllocatorConfig`] builds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum AllocatorChoice {
    /// Every block straight from the base allocator: the system's heap, unless another is given.
    #[default]
    System,
    /// A [`BumpAllocator`](crate::BumpAllocator) over one region of the base allocator.
    Bump,
}

impl fmt::Display for AllocatorChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::System => "system",
            Self::Bump => "bump",
        })
    }
}

/// Which allocator to build. By default the system's, without statistics.
///
/// ```
/// use nebula_alloc::{AllocatorChoice, AllocatorConfig};
/// use nebula_memory_core::{ByteSize, MemoryUsage, StatisticsProvider, TypedAllocator};
///
/// let config = AllocatorConfig::builder()
///     .kind(AllocatorChoice::Bump)
///     .capacity(ByteSize::kib(64))
///     .track_stats(true)
///     .build()?;
/// let allocator = config.build()?;
/// let number = allocator.try_new(1_u64)?;
/// assert_eq!((allocator.used(), allocator.capacity()), (8, Some(64 << 10)));
/// assert_eq!(allocator.statistics().unwrap().allocations, 1);
/// # drop(number);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct AllocatorConfig {
    /// What to build.
    pub kind: AllocatorChoice,
    /// The size of the region, for [`AllocatorChoice::Bump`] (must be above zero); the system's
    /// heap has none (must be zero).
    pub capacity: ByteSize,
    /// Whether to count what the allocator does.
    pub track_stats: bool,
}

impl AllocatorConfig {
    /// A builder that begins with the defaults.
    pub fn builder() -> AllocatorConfigBuilder {
        AllocatorConfigBuilder { config: Self::default() }
    }

    /// Checks every rule.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] with all faults.
    pub fn validate(&self) -> Result<(), MemoryError> {
        let mut faults = ConfigFaults::new();
        match self.kind {
            AllocatorChoice::System => faults.check(
                self.capacity == ByteSize::ZERO,
                "capacity",
                self.capacity,
                "must be zero for the system's heap, which has no capacity; \
                 put it under a budget to limit it",
            ),
            AllocatorChoice::Bump => {
                faults.check(
                    self.capacity > ByteSize::ZERO,
                    "capacity",
                    self.capacity,
                    "must be above zero for a bump allocator",
                );
                faults.check(
                    self.capacity.get() <= MAX_SIZE,
                    "capacity",
                    self.capacity,
                    "must be at most half the address space",
                );
            }
        }
        faults.into_result()
    }

    /// Builds it on the system's heap.
    ///
    /// # Errors
    /// If the configuration is invalid, or the memory is not to be had.
    pub fn build(&self) -> Result<ConfiguredAllocator, MemoryError> {
        self.build_in(SystemAllocator::new())
    }

    /// Builds it on `base`, named after its kind.
    ///
    /// # Errors
    /// If the configuration is invalid, or `base` refuses the region.
    pub fn build_in<A: Allocator>(&self, base: A) -> Result<ConfiguredAllocator<A>, MemoryError> {
        self.build_named_in(&self.kind.to_string(), base)
    }

    /// Builds it on `base`, under a name by which a registry lists it if it tracks statistics.
    ///
    /// # Errors
    /// If the configuration is invalid, or `base` refuses the region.
    pub fn build_named_in<A: Allocator>(
        &self,
        name: &str,
        base: A,
    ) -> Result<ConfiguredAllocator<A>, MemoryError> {
        self.validate()?;
        ConfiguredAllocator::new(self, name, base)
    }
}

/// Builds an [`AllocatorConfig`].
#[derive(Clone, Debug)]
#[must_use = "call `build`"]
pub struct AllocatorConfigBuilder {
    config: AllocatorConfig,
}

impl AllocatorConfigBuilder {
    /// Sets [`AllocatorConfig::kind`].
    pub const fn kind(mut self, kind: AllocatorChoice) -> Self {
        self.config.kind = kind;
        self
    }

    /// Sets [`AllocatorConfig::capacity`].
    pub const fn capacity(mut self, capacity: ByteSize) -> Self {
        self.config.capacity = capacity;
        self
    }

    /// Sets [`AllocatorConfig::track_stats`].
    pub const fn track_stats(mut self, track_stats: bool) -> Self {
        self.config.track_stats = track_stats;
        self
    }

    /// The configuration, checked.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] with all faults.
    pub fn build(self) -> Result<AllocatorConfig, MemoryError> {
        self.config.validate()?;
        Ok(self.config)
    }
}
