//! Which allocator to build, as plain data.

use std::{alloc::Layout, fmt};

use nebula_memory_core::{
    Allocator, ByteSize, ConfigFaults, MemoryError,
    layout::{MAX_SIZE, layout},
};

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
    /// A [`StackAllocator`](crate::StackAllocator) over one region of the base allocator.
    Stack,
    /// A [`PoolAllocator`](crate::PoolAllocator) with pages from the base allocator.
    Pool,
}

impl fmt::Display for AllocatorChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::System => "system",
            Self::Bump => "bump",
            Self::Stack => "stack",
            Self::Pool => "pool",
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
    /// The size of the region, for [`AllocatorChoice::Bump`] and [`AllocatorChoice::Stack`] (must
    /// be above zero); the most bytes in blocks, for [`AllocatorChoice::Pool`] (a block at least,
    /// or zero for no maximum); the system's heap has none (must be zero).
    pub capacity: ByteSize,
    /// The size of a block, for [`AllocatorChoice::Pool`] (must be above zero; it is rounded up to
    /// the alignment); the others have none (must be zero).
    pub block_size: ByteSize,
    /// The alignment of a block in bytes, for [`AllocatorChoice::Pool`] (a power of two; a pointer's
    /// if it is less, or zero); the others have none (must be zero).
    pub block_align: usize,
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
        let capacity = self.capacity;
        let mut check = |ok, rule| faults.check(ok, "capacity", capacity, rule);
        check(capacity.get() <= MAX_SIZE, "must be at most half the address space");
        match self.kind {
            AllocatorChoice::System => check(
                capacity == ByteSize::ZERO,
                "must be zero for the system's heap, which has no capacity; \
                 put it under a budget to limit it",
            ),
            AllocatorChoice::Bump => {
                check(capacity > ByteSize::ZERO, "must be above zero for a bump allocator");
            }
            AllocatorChoice::Stack => {
                check(capacity > ByteSize::ZERO, "must be above zero for a stack");
            }
            AllocatorChoice::Pool => check(
                capacity == ByteSize::ZERO
                    || self.block().map_or(true, |block| capacity.get() >= block.size()),
                "must be a block at least for a pool, or zero for no maximum",
            ),
        }
        self.validate_block(&mut faults);
        faults.into_result()
    }

    fn validate_block(&self, faults: &mut ConfigFaults) {
        let (size, align) = (self.block_size, self.block_align);
        if self.kind != AllocatorChoice::Pool {
            let rule = "must be zero for what is not a pool";
            faults.check(size == ByteSize::ZERO, "block_size", size, rule);
            faults.check(align == 0, "block_align", align, rule);
            return;
        }
        faults.check(size > ByteSize::ZERO, "block_size", size, "must be above zero for a pool");
        let fits = align == 0 || align.is_power_of_two();
        faults.check(fits, "block_align", align, "must be a power of two, or zero for a pointer's");
        if fits && self.block().is_err() {
            let rule =
                "must be at most half the address space, in whole multiples of the alignment";
            faults.add("block_size", size, rule);
        }
    }

    /// The layout of a pool's block: whole multiples of the alignment, at least a pointer's.
    pub(crate) fn block(&self) -> Result<Layout, MemoryError> {
        let align = self.block_align.max(align_of::<usize>());
        Ok(layout(self.block_size.get(), align)?.pad_to_align())
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

    /// Sets [`AllocatorConfig::block_size`].
    pub const fn block_size(mut self, block_size: ByteSize) -> Self {
        self.config.block_size = block_size;
        self
    }

    /// Sets [`AllocatorConfig::block_align`].
    pub const fn block_align(mut self, block_align: usize) -> Self {
        self.config.block_align = block_align;
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
