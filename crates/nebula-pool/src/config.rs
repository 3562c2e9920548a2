//! The settings that all pools share.

use std::time::Duration;

use nebula_memory_core::{ByteSize, ConfigFaults, MemoryError};

use crate::{Growth, Order, Oversized, Shrink};

/// Blocks' sizes are multiples of this, and their addresses, too.
pub(crate) const BLOCK_ALIGN: usize = 16;

/// How many objects a pool may have, how they come about, and which of them it keeps.
///
/// All pools understand all of it, with two exceptions that the pools' constructors report as
/// faults instead of ignoring them: [`Order::Fifo`] is for `ObjectPool` and `HierarchicalPool`,
/// and [`idle_time`](Self::idle_time) and [`lifetime`](Self::lifetime) are for `TtlPool`.
///
/// ```
/// use nebula_memory_core::ByteSize;
/// use nebula_pool::{Growth, PoolConfig};
///
/// let config = PoolConfig::builder()
///     .capacity(32)
///     .warm_up(4)
///     .growth(Growth::Doubling(4))
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
    /// The most objects that can be lent at once; above zero.
    pub capacity: usize,

    /// Objects made when the pool is made; at most `capacity`.
    pub warm_up: usize,

    /// Idle objects that `maintain` makes up for, and that shrinking and all but critical reclaims
    /// leave; at most `capacity`, and at most `max_idle`. (A `trim` drops them as well.)
    pub min_idle: usize,

    /// Idle objects beyond this are dropped by `maintain`, least valuable first; at least
    /// `min_idle`. Without it, only `shrink` says which go.
    pub max_idle: Option<usize>,

    /// How places for objects come about.
    pub growth: Growth,

    /// Which idle objects `maintain` drops.
    pub shrink: Shrink,

    /// Which idle object is lent next.
    pub order: Order,

    /// The largest [`heap_size`](crate::Poolable::heap_size) with which an object is kept when it
    /// comes back. Without it, every object is kept.
    pub retained_size: Option<ByteSize>,

    /// What happens to an object that is larger than that.
    pub oversized: Oversized,

    /// The size of a [`Block`](crate::Block) in a pool of blocks: above zero, and a multiple of 16.
    pub block_size: ByteSize,

    /// For `TtlPool`: how long an object may be idle; above zero.
    #[cfg_attr(feature = "serde", serde(with = "optional_duration"))]
    pub idle_time: Option<Duration>,

    /// For `TtlPool`: how old an object may become; above zero.
    #[cfg_attr(feature = "serde", serde(with = "optional_duration"))]
    pub lifetime: Option<Duration>,

    /// Whether [`PoolStats::peak_lent`](crate::PoolStats::peak_lent) is kept. Between threads it
    /// costs every get and every return a read-modify-write of one shared counter, and with it the
    /// scaling over threads; everything else that the statistics tell is free of that.
    pub track_peak: bool,

    /// Whether the pool notes who holds which object since when: for finding leaks and long holds.
    /// It costs every get and every return a lock. Off, it costs nothing.
    pub track_holders: bool,
}

impl Default for PoolConfig {
    /// 64 objects, none made ahead, all kept, no peak; blocks of 4 KiB.
    fn default() -> Self {
        Self {
            capacity: 64,
            warm_up: 0,
            min_idle: 0,
            max_idle: None,
            growth: Growth::None,
            shrink: Shrink::Never,
            order: Order::Lifo,
            retained_size: None,
            oversized: Oversized::Drop,
            block_size: ByteSize::kib(4),
            idle_time: None,
            lifetime: None,
            track_peak: false,
            track_holders: false,
        }
    }
}

/// What one kind of pool understands beyond the settings that all do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Abilities {
    pub(crate) fifo: bool,
    pub(crate) ttl: bool,
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
        self.faults().into_result()
    }

    /// Checks every rule, and that a pool with these abilities can do what is asked for.
    pub(crate) fn validate_for(&self, abilities: Abilities) -> Result<(), MemoryError> {
        let mut faults = self.faults();
        if self.order == Order::Fifo && !abilities.fifo {
            faults.add("order", "fifo", "this kind of pool lends last in, first out");
        }
        if !abilities.ttl {
            for (path, time) in [("idle_time", self.idle_time), ("lifetime", self.lifetime)] {
                if let Some(time) = time {
                    faults.add(path, format_args!("{time:?}"), "is for a `TtlPool` alone");
                }
            }
        }
        faults.into_result()
    }

    fn faults(&self) -> ConfigFaults {
        let mut faults = ConfigFaults::new();
        faults.check(self.capacity > 0, "capacity", self.capacity, "must be above zero");
        let room = |objects| objects <= self.capacity;
        let rule = "must be at most `capacity`";
        faults.check(room(self.warm_up), "warm_up", self.warm_up, rule);
        faults.check(room(self.min_idle), "min_idle", self.min_idle, rule);
        if let Some(max) = self.max_idle {
            faults.check(max >= self.min_idle, "max_idle", max, "must be at least `min_idle`");
        }
        if let Growth::Fixed(step) | Growth::Doubling(step) = self.growth {
            faults.check(step > 0, "growth", step, "must be above zero");
        }
        let size = self.block_size.get();
        let fits = size > 0 && size % BLOCK_ALIGN == 0 && size <= isize::MAX as usize - BLOCK_ALIGN;
        let rule = "must be above zero, a multiple of 16, and a size that can be allocated";
        faults.check(fits, "block_size", size, rule);
        for (path, time) in [("idle_time", self.idle_time), ("lifetime", self.lifetime)] {
            if let Some(time) = time {
                faults.check(!time.is_zero(), path, format_args!("{time:?}"), "must be above zero");
            }
        }
        faults
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

    /// Sets [`PoolConfig::min_idle`].
    pub fn min_idle(mut self, objects: usize) -> Self {
        self.config.min_idle = objects;
        self
    }

    /// Sets [`PoolConfig::max_idle`].
    pub fn max_idle(mut self, objects: usize) -> Self {
        self.config.max_idle = Some(objects);
        self
    }

    /// Sets [`PoolConfig::growth`].
    pub fn growth(mut self, growth: Growth) -> Self {
        self.config.growth = growth;
        self
    }

    /// Sets [`PoolConfig::shrink`].
    pub fn shrink(mut self, shrink: Shrink) -> Self {
        self.config.shrink = shrink;
        self
    }

    /// Sets [`PoolConfig::order`].
    pub fn order(mut self, order: Order) -> Self {
        self.config.order = order;
        self
    }

    /// Sets [`PoolConfig::retained_size`].
    pub fn retained_size(mut self, largest: impl Into<ByteSize>) -> Self {
        self.config.retained_size = Some(largest.into());
        self
    }

    /// Sets [`PoolConfig::oversized`].
    pub fn oversized(mut self, oversized: Oversized) -> Self {
        self.config.oversized = oversized;
        self
    }

    /// Sets [`PoolConfig::block_size`].
    pub fn block_size(mut self, size: impl Into<ByteSize>) -> Self {
        self.config.block_size = size.into();
        self
    }

    /// Sets [`PoolConfig::idle_time`].
    pub fn idle_time(mut self, time: Duration) -> Self {
        self.config.idle_time = Some(time);
        self
    }

    /// Sets [`PoolConfig::lifetime`].
    pub fn lifetime(mut self, time: Duration) -> Self {
        self.config.lifetime = Some(time);
        self
    }

    /// Sets [`PoolConfig::track_peak`].
    pub fn track_peak(mut self, track: bool) -> Self {
        self.config.track_peak = track;
        self
    }

    /// Sets [`PoolConfig::track_holders`].
    pub fn track_holders(mut self, track: bool) -> Self {
        self.config.track_holders = track;
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

/// Durations in words that may be absent.
#[cfg(feature = "serde")]
mod optional_duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    struct InWords(#[serde(with = "nebula_memory_core::human_duration")] Duration);

    #[allow(clippy::ref_option, reason = "the signature that serde asks for")]
    pub(super) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        duration.map(InWords).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let time: Option<InWords> = Option::deserialize(deserializer)?;
        Ok(time.map(|InWords(time)| time))
    }
}
