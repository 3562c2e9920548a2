//! How an arena grows and how far.

use nebula_memory_core::{ByteSize, ConfigFaults, MemoryError};

use crate::chunk::{HEADER, MIN_CHUNK};

/// How the size of an arena's chunks develops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Growth {
    /// Every chunk has the size of the first.
    Fixed,
    /// Every chunk is larger than the one before by the size of the first, up to the largest size.
    Linear,
    /// Every chunk is twice as large as the one before, up to the largest size.
    #[default]
    Doubling,
}

/// Which chunks a reset keeps for the next use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum Keep {
    /// All of them: the same work takes nothing from the allocator again.
    #[default]
    All,
    /// The one that was filled last, usually the largest.
    Last,
    /// None: every byte goes back to the allocator.
    Nothing,
}

/// The settings of an arena.
///
/// ```
/// use nebula_arena::{Arena, ArenaConfig, Growth};
/// use nebula_memory_core::{ByteSize, MemoryUsage};
///
/// let config = ArenaConfig::builder()
///     .chunk_size(ByteSize::kib(64))
///     .growth(Growth::Fixed)
///     .capacity(ByteSize::mib(1))
///     .build()?;
/// let arena = Arena::with_config(config)?;
/// assert_eq!(arena.capacity(), Some(1 << 20));
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct ArenaConfig {
    /// The size of the first chunk in bytes, its header included. At least 256 bytes; 4 KiB by
    /// default.
    pub chunk_size: ByteSize,
    /// The size that doubling stops at. At least `chunk_size`; 1 MiB by default. A request that
    /// needs more gets a chunk of its own.
    pub max_chunk_size: ByteSize,
    /// How the size develops.
    pub growth: Growth,
    /// The most bytes that the arena takes from its allocator, headers included. Unlimited by
    /// default.
    pub capacity: Option<ByteSize>,
    /// What a reset keeps. All chunks by default.
    pub keep: Keep,
}

impl Default for ArenaConfig {
    fn default() -> Self {
        Self {
            chunk_size: ByteSize::kib(4),
            max_chunk_size: ByteSize::mib(1),
            growth: Growth::Doubling,
            capacity: None,
            keep: Keep::All,
        }
    }
}

impl ArenaConfig {
    /// Starts from the defaults.
    pub fn builder() -> ArenaConfigBuilder {
        ArenaConfigBuilder { config: Self::default() }
    }

    /// These settings, with a first chunk that holds `bytes`, such as the
    /// [high-water mark](crate::Arena::high_water) of an arena that did the same work before:
    /// the next one then needs one chunk. At most half of the capacity, if there is one.
    ///
    /// ```
    /// use nebula_arena::Arena;
    ///
    /// let work = |arena: &Arena| (0..10_000_u64).for_each(|i| *arena.alloc(i) += 1);
    /// let first = Arena::new();
    /// work(&first);
    /// let second = Arena::with_config(first.config().clone().sized_for(first.high_water()))?;
    /// work(&second);
    /// assert!(first.chunk_count() > 1 && second.chunk_count() == 1);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    #[must_use]
    pub fn sized_for(mut self, bytes: usize) -> Self {
        let most = isize::MAX as usize;
        let most = self.capacity.map_or(most, |capacity| capacity.get().min(most)) / 2;
        // Rounded up to what chunks are aligned to; the sums cannot overflow.
        let wanted = (bytes.min(most) + HEADER.size() + HEADER.align() - 1).min(most);
        self.chunk_size = self.chunk_size.max(ByteSize::new(wanted));
        self.max_chunk_size = self.max_chunk_size.max(self.chunk_size);
        self
    }

    /// Checks every rule.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] with all faults.
    pub fn validate(&self) -> Result<(), MemoryError> {
        let mut faults = ConfigFaults::new();
        faults.check(
            self.chunk_size.get() >= MIN_CHUNK,
            "chunk_size",
            self.chunk_size,
            "must be at least 256 bytes",
        );
        faults.check(
            self.max_chunk_size >= self.chunk_size,
            "max_chunk_size",
            self.max_chunk_size,
            "must be at least `chunk_size`",
        );
        faults.check(
            self.max_chunk_size.get() <= isize::MAX as usize / 2,
            "max_chunk_size",
            self.max_chunk_size,
            "must be at most half of the address space's signed range",
        );
        if let Some(capacity) = self.capacity {
            faults.check(
                capacity >= self.chunk_size,
                "capacity",
                capacity,
                "must be at least `chunk_size`",
            );
        }
        faults.into_result()
    }
}

/// Builds an [`ArenaConfig`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct ArenaConfigBuilder {
    config: ArenaConfig,
}

impl ArenaConfigBuilder {
    /// Sets [`ArenaConfig::chunk_size`], and raises [`ArenaConfig::max_chunk_size`] to it if that
    /// is smaller.
    pub fn chunk_size(mut self, bytes: ByteSize) -> Self {
        self.config.chunk_size = bytes;
        self.config.max_chunk_size = self.config.max_chunk_size.max(bytes);
        self
    }

    /// Sets [`ArenaConfig::max_chunk_size`].
    pub fn max_chunk_size(mut self, bytes: ByteSize) -> Self {
        self.config.max_chunk_size = bytes;
        self
    }

    /// Sets [`ArenaConfig::growth`].
    pub fn growth(mut self, growth: Growth) -> Self {
        self.config.growth = growth;
        self
    }

    /// Sets [`ArenaConfig::capacity`].
    pub fn capacity(mut self, bytes: ByteSize) -> Self {
        self.config.capacity = Some(bytes);
        self
    }

    /// Sets [`ArenaConfig::keep`].
    pub fn keep(mut self, keep: Keep) -> Self {
        self.config.keep = keep;
        self
    }

    /// The checked configuration.
    ///
    /// # Errors
    /// As [`ArenaConfig::validate`].
    pub fn build(self) -> Result<ArenaConfig, MemoryError> {
        self.config.validate()?;
        Ok(self.config)
    }
}
