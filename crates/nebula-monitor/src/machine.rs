//! From readings to levels: a state machine that knows neither clocks nor sources, so that a
//! recorded series replays to the same end every time.

use std::{fmt, time::Duration};

use nebula_memory_core::{MemoryError, PressureLevel, PressureReading};

use crate::MonitoringConfig;

/// What a monitor is doing: `Idle -> Monitoring -> PressureDetected -> ActionTriggered -> Idle`.
///
/// Without pressure it stays in `Monitoring`; under pressure with every action cooling down, in
/// `PressureDetected`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum MonitorState {
    /// Nothing was checked yet, or a round of actions has ended; the next check begins anew.
    #[default]
    Idle,
    /// Readings are taken, and show nothing to act on.
    Monitoring,
    /// The level is above `Normal`, or has just left that.
    PressureDetected,
    /// Actions are running.
    ActionTriggered,
}

impl MonitorState {
    /// All states, in the order of the cycle.
    pub const ALL: [Self; 4] =
        [Self::Idle, Self::Monitoring, Self::PressureDetected, Self::ActionTriggered];
}

impl fmt::Display for MonitorState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Idle => "idle",
            Self::Monitoring => "monitoring",
            Self::PressureDetected => "pressure detected",
            Self::ActionTriggered => "action triggered",
        })
    }
}

/// What an observation means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "the level may have changed"]
pub struct Step {
    /// The level before.
    pub from: PressureLevel,
    /// The level now.
    pub to: PressureLevel,
    /// The highest level, up to the present one, that has cooled down and may reclaim. `None` at
    /// `Normal`, or if all are cooling down.
    pub due: Option<PressureLevel>,
    /// When to look again.
    pub next: Duration,
}

impl Step {
    /// Whether the level has changed.
    pub fn is_edge(&self) -> bool {
        self.from != self.to
    }
}

/// Levels with hysteresis, cool-down and the pace of checks.
///
/// A level is reached when usage reaches its threshold, and left when usage falls below that by
/// the hysteresis. [`MemoryMonitor`](crate::MemoryMonitor) runs one; feed one by hand to replay a
/// series.
///
/// ```
/// use std::time::Duration;
/// use nebula_monitor::{MonitoringConfig, PressureLevel, PressureMachine, PressureReading};
///
/// let mut machine = PressureMachine::new(MonitoringConfig::default())?;
/// let mut levels = Vec::new();
/// for (second, used) in [50, 72, 69, 66, 64, 96].into_iter().enumerate() {
///     let reading = PressureReading { used, limit: Some(100) };
///     let step = machine.observe(Duration::from_secs(second as u64), reading);
///     levels.push(step.to);
/// }
/// use PressureLevel::*;
/// assert_eq!(levels, [Normal, Elevated, Elevated, Elevated, Normal, Critical]);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Debug)]
pub struct PressureMachine {
    config: MonitoringConfig,
    level: PressureLevel,
    state: MonitorState,
    /// The latest observation: when, and the used part of the limit.
    last: Option<(Duration, f64)>,
    /// When each level last reclaimed.
    reclaimed: [Option<Duration>; PressureLevel::ALL.len()],
}

impl PressureMachine {
    /// A machine at `Normal` that has seen nothing.
    ///
    /// # Errors
    /// As [`MonitoringConfig::validate`].
    pub fn new(config: MonitoringConfig) -> Result<Self, MemoryError> {
        config.validate()?;
        Ok(Self {
            config,
            level: PressureLevel::Normal,
            state: MonitorState::Idle,
            last: None,
            reclaimed: [None; PressureLevel::ALL.len()],
        })
    }

    /// The level as of the latest observation.
    pub const fn level(&self) -> PressureLevel {
        self.level
    }

    /// What is being done.
    pub const fn state(&self) -> MonitorState {
        self.state
    }

    /// The configuration.
    pub const fn config(&self) -> &MonitoringConfig {
        &self.config
    }

    /// A check begins: `Idle` becomes `Monitoring`.
    pub const fn begin(&mut self) {
        if matches!(self.state, MonitorState::Idle | MonitorState::ActionTriggered) {
            self.state = MonitorState::Monitoring;
        }
    }

    /// Takes in a reading made at `now`: that of the fullest source.
    ///
    /// Times before the previous one count as that one.
    pub fn observe(&mut self, now: Duration, reading: PressureReading) -> Step {
        self.begin();
        let from = self.level;
        let to = self.level_of(reading);
        self.level = to;
        self.state = if to > PressureLevel::Normal || from != to {
            MonitorState::PressureDetected
        } else {
            MonitorState::Monitoring
        };
        let due = above_normal().rev().find(|level| *level <= to && self.has_cooled(*level, now));
        let next = self.pace(now, reading.ratio());
        Step { from, to, due, next }
    }

    /// Actions begin: the state becomes `ActionTriggered`.
    pub const fn trigger(&mut self) {
        self.state = MonitorState::ActionTriggered;
    }

    /// `level` reclaims at `now`, and cools down from then on.
    pub const fn reclaimed(&mut self, level: PressureLevel, now: Duration) {
        self.reclaimed[level as usize] = Some(now);
    }

    /// Actions have ended: the state becomes `Idle`.
    pub const fn settle(&mut self) {
        self.state = MonitorState::Idle;
    }

    /// Whether `level` may reclaim at `now`.
    pub fn has_cooled(&self, level: PressureLevel, now: Duration) -> bool {
        let since =
            |then| now.checked_sub(then).is_some_and(|since| since >= self.config.cool_down);
        self.reclaimed[level as usize].is_none_or(since)
    }

    fn level_of(&self, reading: PressureReading) -> PressureLevel {
        let Some(limit) = reading.limit else { return PressureLevel::Normal };
        let reached = |level: &PressureLevel| reading.used >= entry(&self.config, *level, limit);
        let rising = above_normal().rev().find(reached).unwrap_or_default();
        rising.max(held(&self.config, self.level, reading))
    }

    /// The time until the next check: short under pressure, and if usage would be at `Elevated`
    /// within the long interval, should it go on rising as it did since the previous check.
    fn pace(&mut self, now: Duration, ratio: f64) -> Duration {
        let before = self.last.replace((now, ratio));
        let soon = before.is_some_and(|(then, before)| {
            let elapsed = now.saturating_sub(then).as_secs_f64();
            let rise = ratio - before;
            let ahead = self.config.interval.as_secs_f64();
            // Nothing can be said of a rise in no time at all: it counts as steep.
            rise > 0.0 && (self.config.elevated - ratio) * elapsed <= rise * ahead
        });
        if self.level > PressureLevel::Normal || soon {
            self.config.fast_interval
        } else {
            self.config.interval
        }
    }
}

fn above_normal() -> impl DoubleEndedIterator<Item = PressureLevel> {
    PressureLevel::ALL.into_iter().filter(|level| *level > PressureLevel::Normal)
}

/// The bytes from which on `level` is reached.
fn entry(config: &MonitoringConfig, level: PressureLevel, limit: usize) -> usize {
    part(limit, config.threshold(level))
}

/// The bytes from which on `level` is not left once it holds.
fn exit(config: &MonitoringConfig, level: PressureLevel, limit: usize) -> usize {
    part(limit, config.threshold(level) - config.hysteresis)
}

/// A part of a limit in whole bytes; at least one byte, unless the limit is zero: then nothing
/// used is too much already.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn part(limit: usize, ratio: f64) -> usize {
    ((limit as f64 * ratio).round() as usize).max(usize::from(limit > 0))
}

/// The level, up to `level`, that `reading` does not leave.
pub(crate) fn held(
    config: &MonitoringConfig,
    level: PressureLevel,
    reading: PressureReading,
) -> PressureLevel {
    let Some(limit) = reading.limit else { return PressureLevel::Normal };
    let held = |held: &PressureLevel| *held <= level && reading.used >= exit(config, *held, limit);
    above_normal().rev().find(held).unwrap_or_default()
}

/// The fewest bytes that must be given back so that `level` is left: the distance from what is
/// used down to below the threshold less the hysteresis. Zero if there is no limit, or if usage is
/// below that already.
///
/// ```
/// use nebula_monitor::{MonitoringConfig, PressureLevel, PressureReading, reclaim_target};
///
/// let config = MonitoringConfig::default(); // high at 0.85, hysteresis 0.05
/// let reading = PressureReading { used: 900, limit: Some(1000) };
/// assert_eq!(reclaim_target(&config, PressureLevel::High, reading), 101);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub fn reclaim_target(
    config: &MonitoringConfig,
    level: PressureLevel,
    reading: PressureReading,
) -> usize {
    match reading.limit {
        Some(limit) if level > PressureLevel::Normal => {
            // The largest usage at which the level is not held any more is one less.
            let goal = exit(config, level, limit).saturating_sub(1);
            reading.used.saturating_sub(goal)
        }
        _ => 0,
    }
}
