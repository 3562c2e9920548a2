//! The configuration of everything: one struct of the parts' own configurations.

use nebula_memory_core::{ConfigFaults, MemoryError};

/// What is counted beyond what has to be.
///
/// ```
/// use nebula_memory::StatsConfig;
/// assert!(!StatsConfig::default().track_tenants);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[cfg(all(feature = "allocators", feature = "budget"))]
pub struct StatsConfig {
    /// Whether the allocators that tenants build ([`Tenant::allocator`](crate::Tenant::allocator))
    /// keep statistics and are listed in [`Memory::allocators`](crate::Memory::allocators),
    /// whatever `allocator.track_stats` says. Off by default.
    pub track_tenants: bool,
}

/// How a process divides its memory: the configurations of all parts.
///
/// Only the budget's capacity has no default: it has to be said how much the process may use.
/// Parts whose feature is off have no field.
///
/// With the feature `toml`, [`from_toml`](Self::from_toml) reads it from a file:
///
/// ```
/// # #[cfg(all(feature = "toml", feature = "budget", feature = "cache", feature = "monitor"))] {
/// use nebula_memory::{MemoryConfig, cache::Capacity, core::ByteSize};
///
/// let config = MemoryConfig::from_toml(r#"
///     [budget]
///     capacity = "256MiB"
///
///     [cache]
///     capacity = "32MiB"
///
///     [monitoring]
///     interval = "50ms"
/// "#)?;
/// assert_eq!(config.cache.capacity, Capacity::Bytes(ByteSize::mib(32)));
/// # }
/// # Ok::<(), nebula_memory::core::MemoryError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
#[non_exhaustive]
pub struct MemoryConfig {
    /// What [`Tenant::allocator`](crate::Tenant::allocator) builds.
    #[cfg(feature = "allocators")]
    pub allocator: nebula_alloc::AllocatorConfig,
    /// The pools that [`Tenant::pool`](crate::Tenant::pool) builds.
    #[cfg(feature = "pool")]
    pub pool: nebula_pool::PoolConfig,
    /// The arenas that [`Tenant::arena`](crate::Tenant::arena) builds.
    #[cfg(feature = "arena")]
    pub arena: nebula_arena::ArenaConfig,
    /// The caches that [`Tenant::cache`](crate::Tenant::cache) builds.
    #[cfg(feature = "cache")]
    pub cache: nebula_cache::CacheConfig,
    /// The whole process's budget. Its capacity has to be set.
    #[cfg(feature = "budget")]
    pub budget: nebula_budget::BudgetConfig,
    /// What is counted beyond what has to be.
    #[cfg(all(feature = "allocators", feature = "budget"))]
    pub stats: StatsConfig,
    /// The monitor that [`Memory::monitor`](crate::Memory::monitor) builds.
    #[cfg(feature = "monitor")]
    pub monitoring: nebula_monitor::MonitoringConfig,
}

impl MemoryConfig {
    /// Starts from the defaults of all parts.
    pub fn builder() -> MemoryConfigBuilder {
        MemoryConfigBuilder { config: Self::default() }
    }

    /// Checks every rule of every part.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] with all faults, each with the path to its field, its value
    /// and the rule.
    ///
    /// ```
    /// # #[cfg(all(feature = "budget", feature = "cache"))] {
    /// use nebula_memory::{MemoryConfig, cache::Capacity, core::MemoryError};
    ///
    /// let mut config = MemoryConfig::default();
    /// config.cache.capacity = Capacity::Entries(0);
    /// let MemoryError::InvalidConfig(faults) = config.validate().unwrap_err() else { panic!() };
    /// let paths: Vec<_> = faults.as_slice().iter().map(|fault| &fault.path[..]).collect();
    /// assert_eq!(paths, ["cache.capacity", "budget.capacity"]);
    /// # }
    /// ```
    pub fn validate(&self) -> Result<(), MemoryError> {
        #[allow(unused_mut, reason = "without any part there is nothing to check")]
        let mut faults = ConfigFaults::new();
        #[cfg(feature = "allocators")]
        faults.nest("allocator", self.allocator.validate());
        #[cfg(feature = "pool")]
        faults.nest("pool", self.pool.validate());
        #[cfg(feature = "arena")]
        faults.nest("arena", self.arena.validate());
        #[cfg(feature = "cache")]
        faults.nest("cache", self.cache.validate());
        #[cfg(feature = "budget")]
        faults.nest("budget", self.budget.validate());
        #[cfg(feature = "budget")]
        if let Some(guaranteed) = self.budget.guaranteed {
            let rule = "must be left out: nobody guarantees the process its memory";
            faults.add("budget.guaranteed", guaranteed, rule);
        }
        #[cfg(feature = "monitor")]
        faults.nest("monitoring", self.monitoring.validate());
        faults.into_result()
    }

    /// Reads and checks a configuration. Sizes are texts such as `"64MiB"` (or numbers of bytes),
    /// durations such as `"250ms"`; unknown keys are errors.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`]: with the place in the text if it is not such a
    /// configuration, otherwise as [`validate`](Self::validate).
    #[cfg(feature = "toml")]
    pub fn from_toml(text: &str) -> Result<Self, MemoryError> {
        let config: Self = toml::from_str(text).map_err(|error| {
            let rule = "must be TOML with known keys and values of their types";
            MemoryError::invalid_config("toml", error, rule)
        })?;
        config.validate()?;
        Ok(config)
    }
}

/// Builds a [`MemoryConfig`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct MemoryConfigBuilder {
    config: MemoryConfig,
}

impl MemoryConfigBuilder {
    /// Sets [`MemoryConfig::allocator`].
    #[cfg(feature = "allocators")]
    pub fn allocator(mut self, config: nebula_alloc::AllocatorConfig) -> Self {
        self.config.allocator = config;
        self
    }

    /// Sets [`MemoryConfig::pool`].
    #[cfg(feature = "pool")]
    pub fn pool(mut self, config: nebula_pool::PoolConfig) -> Self {
        self.config.pool = config;
        self
    }

    /// Sets [`MemoryConfig::arena`].
    #[cfg(feature = "arena")]
    pub fn arena(mut self, config: nebula_arena::ArenaConfig) -> Self {
        self.config.arena = config;
        self
    }

    /// Sets [`MemoryConfig::cache`].
    #[cfg(feature = "cache")]
    pub fn cache(mut self, config: nebula_cache::CacheConfig) -> Self {
        self.config.cache = config;
        self
    }

    /// Sets [`MemoryConfig::budget`].
    #[cfg(feature = "budget")]
    pub fn budget(mut self, config: nebula_budget::BudgetConfig) -> Self {
        self.config.budget = config;
        self
    }

    /// Sets [`MemoryConfig::stats`].
    #[cfg(all(feature = "allocators", feature = "budget"))]
    pub fn stats(mut self, config: StatsConfig) -> Self {
        self.config.stats = config;
        self
    }

    /// Sets [`MemoryConfig::monitoring`].
    #[cfg(feature = "monitor")]
    pub fn monitoring(mut self, config: nebula_monitor::MonitoringConfig) -> Self {
        self.config.monitoring = config;
        self
    }

    /// The checked configuration.
    ///
    /// # Errors
    /// As [`MemoryConfig::validate`].
    pub fn build(self) -> Result<MemoryConfig, MemoryError> {
        self.config.validate()?;
        Ok(self.config)
    }
}
