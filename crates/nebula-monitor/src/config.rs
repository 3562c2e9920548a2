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
    /// Time over which the growth of usage and the stalls of tasks are measured; 500 ms by default.
    #[cfg_attr(feature = "serde", serde(with = "nebula_memory_core::human_duration"))]
    pub window: Duration,
    /// `Elevated` if, growing as it does, usage meets its limit within this time; 5 s by default.
    /// Growth counts from half of the limit on. Zero in all three fields: growth does not count.
    #[cfg_attr(feature = "serde", serde(with = "nebula_memory_core::human_duration"))]
    pub elevated_within: Duration,
    /// `High` if usage meets its limit within this time; 1 s by default.
    #[cfg_attr(feature = "serde", serde(with = "nebula_memory_core::human_duration"))]
    pub high_within: Duration,
    /// `Critical` if usage meets its limit within this time; 200 ms by default.
    #[cfg_attr(feature = "serde", serde(with = "nebula_memory_core::human_duration"))]
    pub critical_within: Duration,
    /// `Elevated` if tasks stall on memory for this part of the time; 0.1 by default. Zero in all
    /// three fields: stalls do not count.
    pub elevated_stall: f64,
    /// `High` if tasks stall on memory for this part of the time; 0.3 by default.
    pub high_stall: f64,
    /// `Critical` if tasks stall on memory for this part of the time; 0.6 by default.
    pub critical_stall: f64,
    /// Time between checks while memory is plenty; 100 ms by default. Limits, the system's memory
    /// (while a control group is limited and the system is far from full), stalls and resident
    /// memory are read no more often than that.
    #[cfg_attr(feature = "serde", serde(with = "nebula_memory_core::human_duration"))]
    pub interval: Duration,
    /// Time between checks above `Normal`, and the shortest while usage rises: then it is a quarter
    /// of the time that is left until `Elevated`. 1 ms by default.
    #[cfg_attr(feature = "serde", serde(with = "nebula_memory_core::human_duration"))]
    pub fast_interval: Duration,
    /// Time between two rounds of reclaiming of the same level; 1 s by default. Zero reclaims at
    /// every check above `Normal`.
    #[cfg_attr(feature = "serde", serde(with = "nebula_memory_core::human_duration"))]
    pub cool_down: Duration,
    /// How many samples are kept for pictures; 512 by default, 48 KiB. Zero keeps none.
    pub history: usize,
}

impl Default for MonitoringConfig {
    fn default() -> Self {
        Self {
            elevated: 0.70,
            high: 0.85,
            critical: 0.95,
            hysteresis: 0.05,
            window: Duration::from_millis(500),
            elevated_within: Duration::from_secs(5),
            high_within: Duration::from_secs(1),
            critical_within: Duration::from_millis(200),
            elevated_stall: 0.1,
            high_stall: 0.3,
            critical_stall: 0.6,
            interval: Duration::from_millis(100),
            fast_interval: Duration::from_millis(1),
            cool_down: Duration::from_secs(1),
            history: 512,
        }
    }
}

impl MonitoringConfig {
    /// A builder that starts with the defaults.
    pub fn builder() -> MonitoringConfigBuilder {
        MonitoringConfigBuilder { config: Self::default() }
    }

    /// Checks every rule: `0 < elevated < high < critical <= 1`, `0 <= hysteresis < elevated`,
    /// `window` and intervals above zero, `fast_interval` at most `interval`; of times to exhaustion
    /// `elevated_within >= high_within >= critical_within > 0`, or all zero; of stalls
    /// `0 < elevated_stall <= high_stall <= critical_stall <= 1`, or all zero; and at most
    /// 1,048,576 samples of `history`.
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
        faults.check(!self.window.is_zero(), "window", millis(self.window), "must be above zero");
        let withins = [self.elevated_within, self.high_within, self.critical_within];
        if withins.iter().any(|within| !within.is_zero()) {
            let [elevated, high, critical] = withins;
            let rule = "must be at least `high_within`";
            faults.check(elevated >= high, "elevated_within", millis(elevated), rule);
            let rule = "must be at least `critical_within`";
            faults.check(high >= critical, "high_within", millis(high), rule);
            let rule = "must be above zero, unless all three are zero";
            faults.check(!critical.is_zero(), "critical_within", millis(critical), rule);
        }
        let stalls = [self.elevated_stall, self.high_stall, self.critical_stall];
        if stalls.iter().any(|stall| *stall != 0.0) {
            let [elevated, high, critical] = stalls;
            let rule = "must be above zero, unless all three are zero";
            faults.check(elevated > 0.0, "elevated_stall", elevated, rule);
            faults.check(high >= elevated, "high_stall", high, "must be at least `elevated_stall`");
            let rule = "must be from `high_stall` to 1";
            let between = critical >= high && critical <= 1.0;
            faults.check(between, "critical_stall", critical, rule);
        }
        let rule = "must be at most 1048576";
        faults.check(self.history <= 1 << 20, "history", self.history, rule);

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

impl MonitoringConfig {
    /// The time to exhaustion at which `level` holds; zero for `Normal`, and if growth does not
    /// count.
    pub(crate) fn within(&self, level: PressureLevel) -> Duration {
        match level {
            PressureLevel::Normal => Duration::ZERO,
            PressureLevel::Elevated => self.elevated_within,
            PressureLevel::High => self.high_within,
            PressureLevel::Critical => self.critical_within,
        }
    }

    /// The stalled part of the time from which on `level` holds; zero as in [`Self::within`].
    pub(crate) fn stall(&self, level: PressureLevel) -> f64 {
        match level {
            PressureLevel::Normal => 0.0,
            PressureLevel::Elevated => self.elevated_stall,
            PressureLevel::High => self.high_stall,
            PressureLevel::Critical => self.critical_stall,
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

    /// Sets the time over which growth and stalls are measured.
    pub const fn window(mut self, window: Duration) -> Self {
        self.config.window = window;
        self
    }

    /// Sets the times to exhaustion at which `Elevated`, `High` and `Critical` hold.
    pub const fn exhaustion_within(
        mut self,
        elevated: Duration,
        high: Duration,
        critical: Duration,
    ) -> Self {
        self.config.elevated_within = elevated;
        self.config.high_within = high;
        self.config.critical_within = critical;
        self
    }

    /// Levels come from usage (and stalls) alone, however fast it grows.
    pub const fn without_trend(self) -> Self {
        self.exhaustion_within(Duration::ZERO, Duration::ZERO, Duration::ZERO)
    }

    /// Sets the stalled parts of the time from which on `Elevated`, `High` and `Critical` hold.
    pub const fn stalls(mut self, elevated: f64, high: f64, critical: f64) -> Self {
        self.config.elevated_stall = elevated;
        self.config.high_stall = high;
        self.config.critical_stall = critical;
        self
    }

    /// Stalls are not looked at.
    pub const fn without_stalls(self) -> Self {
        self.stalls(0.0, 0.0, 0.0)
    }

    /// Sets how many samples are kept.
    pub const fn history(mut self, samples: usize) -> Self {
        self.config.history = samples;
        self
    }

    /// Sets the time between checks while memory is plenty.
    pub const fn interval(mut self, interval: Duration) -> Self {
        self.config.interval = interval;
        self
    }

    /// Sets the time between checks under pressure, and the shortest one while usage rises.
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
