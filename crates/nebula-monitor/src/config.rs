//! What can be set about a monitor.

use std::time::Duration;

use nebula_memory_core::{ConfigFaults, MemoryError, PressureLevel};

/// Thresholds and intervals of a [`MemoryMonitor`](crate::MemoryMonitor).
///
/// Thresholds are parts of the limit: at 0.85, a source with a limit of 1 GiB is at `High` from
/// 870 MiB on.
///
/// ```
/// use std::time::Duration;
/// use nebula_monitor::MonitoringConfig;
///
/// let config = MonitoringConfig::builder()
///     .thresholds(0.6, 0.8, 0.9)
///     .interval(Duration::from_millis(200))
///     .build()?;
/// assert_eq!(config.high, 0.8);
/// assert!(MonitoringConfig::builder().thresholds(0.9, 0.8, 0.7).build().is_err());
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(default, deny_unknown_fields))]
pub struct MonitoringConfig {
    /// Usage from which on the level is `Elevated`; 0.70 by default.
    pub elevated: f64,
    /// Usage from which on the level is `High`; 0.85 by default.
    pub high: f64,
    /// Usage from which on the level is `Critical`; 0.95 by default.
    pub critical: f64,
    /// How far usage must fall below a level's threshold before that level is left; 0.05 by
    /// default.
    pub hysteresis: f64,
    /// Time between checks while memory is plenty; 100 ms by default.
    #[cfg_attr(feature = "serde", serde(with = "nebula_memory_core::human_duration"))]
    pub interval: Duration,
    /// Time between checks above `Normal`, and while usage rises so fast that it would be there
    /// within `interval`; 5 ms by default.
    #[cfg_attr(feature = "serde", serde(with = "nebula_memory_core::human_duration"))]
    pub fast_interval: Duration,
    /// Time between two rounds of reclaiming of the same level; 1 s by default. Zero reclaims at
    /// every check above `Normal`.
    #[cfg_attr(feature = "serde", serde(with = "nebula_memory_core::human_duration"))]
    pub cool_down: Duration,
}

impl Default for MonitoringConfig {
    fn default() -> Self {
        Self {
            elevated: 0.70,
            high: 0.85,
            critical: 0.95,
            hysteresis: 0.05,
            interval: Duration::from_millis(100),
            fast_interval: Duration::from_millis(5),
            cool_down: Duration::from_secs(1),
        }
    }
}

impl MonitoringConfig {
    /// A builder that starts with the defaults.
    pub fn builder() -> MonitoringConfigBuilder {
        MonitoringConfigBuilder { config: Self::default() }
    }

    /// Checks every rule: `0 < elevated < high < critical <= 1`, `0 <= hysteresis < elevated`,
    /// intervals above zero, and `fast_interval` at most `interval`.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] with every fault.
    pub fn validate(&self) -> Result<(), MemoryError> {
        let mut faults = ConfigFaults::new();
        let Self { elevated, high, critical, hysteresis, .. } = *self;
        // Each comparison is false for a NaN, which makes it a fault.
        faults.check(elevated > 0.0, "elevated", elevated, "must be above zero");
        faults.check(high > elevated, "high", high, "must be above `elevated`");
        faults.check(critical > high, "critical", critical, "must be above `high`");
        faults.check(critical <= 1.0, "critical", critical, "must be at most 1");
        let between = hysteresis >= 0.0 && hysteresis < elevated;
        faults.check(between, "hysteresis", hysteresis, "must be from 0 to below `elevated`");

        let millis = |duration: Duration| format!("{duration:?}");
        let (interval, fast) = (self.interval, self.fast_interval);
        faults.check(!interval.is_zero(), "interval", millis(interval), "must be above zero");
        faults.check(!fast.is_zero(), "fast_interval", millis(fast), "must be above zero");
        let rule = "must be at most `interval`";
        faults.check(fast <= interval, "fast_interval", millis(fast), rule);
        faults.into_result()
    }

    /// The usage from which on `level` holds; zero for `Normal`.
    pub fn threshold(&self, level: PressureLevel) -> f64 {
        match level {
            PressureLevel::Normal => 0.0,
            PressureLevel::Elevated => self.elevated,
            PressureLevel::High => self.high,
            PressureLevel::Critical => self.critical,
        }
    }
}

/// Builds a [`MonitoringConfig`].
#[derive(Clone, Copy, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct MonitoringConfigBuilder {
    config: MonitoringConfig,
}

impl MonitoringConfigBuilder {
    /// Sets the usage from which on `Elevated`, `High` and `Critical` hold.
    pub const fn thresholds(mut self, elevated: f64, high: f64, critical: f64) -> Self {
        self.config.elevated = elevated;
        self.config.high = high;
        self.config.critical = critical;
        self
    }

    /// Sets how far usage must fall below a threshold before its level is left.
    pub const fn hysteresis(mut self, hysteresis: f64) -> Self {
        self.config.hysteresis = hysteresis;
        self
    }

    /// Sets the time between checks while memory is plenty.
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.config.interval = interval;
        self
    }

    /// Sets the time between checks under pressure.
    pub const fn fast_interval(mut self, interval: Duration) -> Self {
        self.config.fast_interval = interval;
        self
    }

    /// Sets the time between two rounds of reclaiming of the same level.
    pub const fn cool_down(mut self, cool_down: Duration) -> Self {
        self.config.cool_down = cool_down;
        self
    }

    /// The configuration.
    ///
    /// # Errors
    /// As [`MonitoringConfig::validate`].
    pub fn build(self) -> Result<MonitoringConfig, MemoryError> {
        self.config.validate()?;
        Ok(self.config)
    }
}
