//! The configuration of every cache of this crate.

use std::{fmt, str::FromStr, thread::available_parallelism, time::Duration};

use nebula_memory_core::{ByteSize, ConfigFaults, MemoryError};

/// The most shards that can be asked for.
const MAX_SHARDS: usize = 1 << 12;

/// How many entries a shard should be able to hold, when shards are chosen by the cache: policies
/// that see too little of the whole choose worse.
const ENTRIES_PER_SHARD: usize = 1 << 10;

/// How much a cache holds: a number of entries, or of bytes.
///
/// ```
/// use nebula_cache::{CacheConfig, Capacity};
/// use nebula_memory_core::ByteSize;
///
/// assert_eq!(CacheConfig::default().capacity, Capacity::Bytes(ByteSize::mib(64)));
/// let config = CacheConfig::builder().entries(1000).build()?;
/// assert_eq!(config.capacity, Capacity::Entries(1000));
/// // In configuration files it is a text.
/// assert_eq!("1000 entries".parse::<Capacity>()?, Capacity::Entries(1000));
/// assert_eq!("32MiB".parse::<Capacity>()?, Capacity::Bytes(ByteSize::mib(32)));
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(into = "String", try_from = "String"))]
pub enum Capacity {
    /// So many entries, whatever they weigh.
    Entries(usize),
    /// So many bytes: of all that the cache has allocated (slots with keys and values, tables, the
    /// policy's memory), and of what the weigher says that entries own beside.
    Bytes(ByteSize),
}

impl Capacity {
    /// The number, whatever it counts.
    pub(crate) const fn get(self) -> usize {
        match self {
            Self::Entries(entries) => entries,
            Self::Bytes(bytes) => bytes.get(),
        }
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Entries(entries) => write!(f, "{entries} entries"),
            Self::Bytes(bytes) => write!(f, "{bytes}"),
        }
    }
}

impl FromStr for Capacity {
    type Err = MemoryError;

    /// Reads a number of entries (`1000 entries`) or a size in bytes (`64MiB`).
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] if it is neither.
    fn from_str(text: &str) -> Result<Self, MemoryError> {
        let text = text.trim();
        let bare = text.bytes().all(|byte| byte.is_ascii_digit());
        let parsed = match text.strip_suffix("entries") {
            Some(entries) => entries.trim().parse().ok().map(Self::Entries),
            // A number alone may mean either.
            None if bare => None,
            None => text.parse().ok().map(Self::Bytes),
        };
        let rule = "must be a number of entries or a size in bytes, such as \"1000 entries\" or \
                    \"64MiB\"";
        parsed.ok_or_else(|| MemoryError::invalid_config("capacity", text, rule))
    }
}

impl TryFrom<String> for Capacity {
    type Error = MemoryError;

    fn try_from(text: String) -> Result<Self, MemoryError> {
        text.parse()
    }
}

/// As [`FromStr`] reads it, exactly.
impl From<Capacity> for String {
    fn from(capacity: Capacity) -> Self {
        match capacity {
            Capacity::Entries(entries) => format!("{entries} entries"),
            Capacity::Bytes(bytes) => bytes.to_exact_string(),
        }
    }
}

/// Which policy a cache evicts by, where that is chosen at run time; see
/// [`AnyPolicy`](crate::AnyPolicy).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum PolicyKind {
    /// First in, first out: [`Fifo`](crate::Fifo).
    Fifo,
    /// Least recently used: [`Lru`](crate::Lru).
    Lru,
    /// Least frequently used, with ageing: [`Lfu`](crate::Lfu).
    Lfu,
    /// Adaptive replacement: [`Arc`](crate::Arc).
    Arc,
    /// [`S3Fifo`](crate::S3Fifo).
    S3Fifo,
    /// [`Sieve`](crate::Sieve).
    Sieve,
    /// The default: [`Steady`](crate::Steady).
    #[default]
    Steady,
    /// [`WTinyLfu`](crate::WTinyLfu).
    WTinyLfu,
}

/// How large a cache is, how its entries are chosen and how long they live.
///
/// ```
/// use nebula_cache::{CacheConfig, Capacity};
/// use nebula_memory_core::ByteSize;
///
/// let config = CacheConfig::builder().bytes(ByteSize::mib(16)).shards(8).build()?;
/// assert_eq!(config.capacity, Capacity::Bytes(ByteSize::mib(16)));
/// let error = CacheConfig::builder().shards(3).build().unwrap_err();
/// assert_eq!(error.to_string(), "invalid configuration: shards = 3: must be a power of two");
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct CacheConfig {
    /// The most that the cache holds; above zero. 64 MiB by default.
    pub capacity: Capacity,
    /// Into how many independently locked parts a concurrent cache's entries are divided: a power
    /// of two, or `None` (the default) to have it chosen by the machine and the capacity. The
    /// capacity is one for all of them.
    pub shards: Option<usize>,
    /// Which policy evicts. `None` is the default of the cache's type; a type whose policy is fixed
    /// takes no other.
    pub policy: Option<PolicyKind>,
    /// How long entries live that are inserted without a time of their own; `None` (the default) is
    /// without end. Needs a cache built [`with_expiry`](crate::CacheBuilder::with_expiry).
    #[cfg_attr(feature = "serde", serde(with = "nebula_memory_core::human_duration::option"))]
    pub ttl: Option<Duration>,
    /// How long entries live that nobody uses; `None` (the default) is without end. Needs a cache
    /// built [`with_idle_expiry`](crate::CacheBuilder::with_idle_expiry).
    #[cfg_attr(feature = "serde", serde(with = "nebula_memory_core::human_duration::option"))]
    pub idle: Option<Duration>,
    /// Whether the time that computations take is measured, for the statistics. Off by default:
    /// the clock is read twice for each.
    pub time_computations: bool,
}

impl Default for CacheConfig {
    fn default() -> Self {
        Self {
            capacity: Capacity::Bytes(ByteSize::mib(64)),
            shards: None,
            policy: None,
            ttl: None,
            idle: None,
            time_computations: false,
        }
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
        faults.check(self.capacity.get() > 0, "capacity", self.capacity, "must be above zero");
        if let Some(shards) = self.shards {
            faults.check(shards.is_power_of_two(), "shards", shards, "must be a power of two");
            faults.check(shards <= MAX_SHARDS, "shards", shards, "must be at most 4096");
        }
        for (time, path) in [(self.ttl, "ttl"), (self.idle, "idle")] {
            faults.check(time != Some(Duration::ZERO), path, "0s", "must be above zero");
        }
        faults.into_result()
    }

    /// The number of shards for entries that take `least` bytes at least.
    pub(crate) fn shards_for(&self, least: usize) -> usize {
        self.shards.unwrap_or_else(|| {
            // More shards than threads, so that two rarely meet in one.
            let threads = available_parallelism().map_or(1, std::num::NonZero::get);
            let entries = match self.capacity {
                Capacity::Entries(entries) => entries,
                Capacity::Bytes(bytes) => bytes.get() / least.max(1),
            };
            let shards = (threads * 4).min(entries / ENTRIES_PER_SHARD).clamp(1, MAX_SHARDS);
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
    pub const fn capacity(mut self, capacity: Capacity) -> Self {
        self.0.capacity = capacity;
        self
    }

    /// Sets [`CacheConfig::capacity`] to a number of entries.
    pub const fn entries(self, entries: usize) -> Self {
        self.capacity(Capacity::Entries(entries))
    }

    /// Sets [`CacheConfig::capacity`] to a number of bytes.
    pub const fn bytes(self, bytes: ByteSize) -> Self {
        self.capacity(Capacity::Bytes(bytes))
    }

    /// Sets [`CacheConfig::shards`].
    pub fn shards(mut self, shards: impl Into<Option<usize>>) -> Self {
        self.0.shards = shards.into();
        self
    }

    /// Sets [`CacheConfig::policy`].
    pub fn policy(mut self, policy: impl Into<Option<PolicyKind>>) -> Self {
        self.0.policy = policy.into();
        self
    }

    /// Sets [`CacheConfig::ttl`].
    pub fn ttl(mut self, ttl: impl Into<Option<Duration>>) -> Self {
        self.0.ttl = ttl.into();
        self
    }

    /// Sets [`CacheConfig::idle`].
    pub fn idle(mut self, idle: impl Into<Option<Duration>>) -> Self {
        self.0.idle = idle.into();
        self
    }

    /// Sets [`CacheConfig::time_computations`].
    pub const fn time_computations(mut self, measured: bool) -> Self {
        self.0.time_computations = measured;
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
