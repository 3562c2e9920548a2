//! From readings to levels: a state machine that knows neither clocks nor sources, so that a
//! recorded series replays to the same end every time.

use std::{fmt, time::Duration};

use nebula_memory_core::{MemoryError, PressureLevel, PressureReading};

use crate::{MonitoringConfig, trend::Trend};

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

/// Why a level holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "snake_case"))]
pub enum Cause {
    /// So much is in use.
    #[default]
    Usage,
    /// So soon it will be at its limit, growing as it does.
    Growth,
    /// So much of the time tasks stall on memory.
    Stalls,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Usage => "usage",
            Self::Growth => "growth",
            Self::Stalls => "stalls",
        })
    }
}

/// What is known at one moment: the latest reading of each source, and how much tasks stall.
#[derive(Clone, Copy, Debug, Default)]
pub struct Observation<'a> {
    /// By source, always in the same order: when it was read, and what it said; `None` if it
    /// failed. A source that was not read anew keeps its time.
    pub readings: &'a [Option<(Duration, PressureReading)>],
    /// The part of the time in which some task stalled on memory; `None` if that is not known.
    pub stall: Option<f64>,
}

/// What an observation means.
#[derive(Clone, Copy, Debug, PartialEq)]
#[must_use = "the level may have changed"]
#[non_exhaustive]
pub struct Step {
    /// The level before.
    pub from: PressureLevel,
    /// The level now.
    pub to: PressureLevel,
    /// Why the level holds: the first of usage, growth and stalls that is enough for it.
    pub cause: Cause,
    /// The source that decided, by its place; of those with the highest level, the fullest.
    pub source: usize,
    /// What that source said.
    pub reading: PressureReading,
    /// How fast it grows, in bytes a second, over the window; `None` if too little is known.
    pub rate: Option<f64>,
    /// When the first source meets its limit, should all grow on as they do.
    pub exhaustion: Option<Duration>,
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
/// A level holds if any of these says so, for any source, each by itself:
/// - usage: reached at its threshold, and left when usage falls below that by the hysteresis;
/// - growth: reached when at least half of the limit is in use and what is left will be gone within
///   its time, going by the growth over the window (least squares); left when it would last for
///   twice that time;
/// - stalls: reached when tasks stall for its part of the time, and left below half of that.
///
/// [`MemoryMonitor`](crate::MemoryMonitor) runs one; feed one by hand to replay a
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
    sources: Vec<Seen>,
    /// The level that stalls call for.
    stalls: PressureLevel,
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
            sources: Vec::new(),
            stalls: PressureLevel::Normal,
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

    /// Takes in a reading made at `now`: that of the only source, or of the fullest.
    ///
    /// A time a little before the previous one adds nothing to what is known of growth; from one
    /// that is more than a window before it on, growth is watched anew.
    pub fn observe(&mut self, now: Duration, reading: PressureReading) -> Step {
        let readings = [Some((now, reading))];
        self.observe_all(now, Observation { readings: &readings, stall: None })
    }

    /// Takes in what is known of all sources at `now`. Allocates only when there are more of them
    /// than ever before. If none could be read, it counts as an empty one without a limit: whoever
    /// would rather keep the level does not observe.
    pub fn observe_all(&mut self, now: Duration, observation: Observation<'_>) -> Step {
        self.begin();
        let readings = observation.readings;
        if self.sources.len() < readings.len() {
            self.sources.resize_with(readings.len(), Seen::default);
        }
        let from = self.level;
        let mut best = Verdict::default();
        let mut exhaustion: Option<Duration> = None;
        for (source, (seen, reading)) in self.sources.iter_mut().zip(readings).enumerate() {
            let Some((at, reading)) = *reading else {
                // What comes after a gap says nothing of growth.
                *seen = Seen::default();
                continue;
            };
            seen.trend.push(at, reading.used, self.config.window);
            let verdict = seen.judge(&self.config, source, reading);
            let left = time_left(reading, verdict.rate);
            exhaustion = [exhaustion, left].into_iter().flatten().min();
            if best.is_below(&verdict) {
                best = verdict;
            }
        }
        self.stalls = level_of_stalls(&self.config, self.stalls, observation.stall);
        if self.stalls > best.level {
            (best.level, best.cause) = (self.stalls, Cause::Stalls);
        }
        let to = best.level;
        self.level = to;
        self.state = if to > PressureLevel::Normal || from != to {
            MonitorState::PressureDetected
        } else {
            MonitorState::Monitoring
        };
        let due = above_normal().rev().find(|level| *level <= to && self.has_cooled(*level, now));
        let next = self.pace(readings);
        let Verdict { cause, source, reading, rate, .. } = best;
        Step { from, to, cause, source, reading, rate, exhaustion, due, next }
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
        // A clock that has gone back must not keep anybody from reclaiming until it has caught up.
        let cooled =
            |then| now.checked_sub(then).is_none_or(|since| since >= self.config.cool_down);
        self.reclaimed[level as usize].is_none_or(cooled)
    }

    /// The time until the next check: short under pressure; while usage rises, a quarter of the
    /// time that it would take to be at `Elevated`, so that the checks come closer together as it
    /// comes nearer; and long otherwise.
    fn pace(&self, readings: &[Option<(Duration, PressureReading)>]) -> Duration {
        let (fast, slow) = (self.config.fast_interval, self.config.interval);
        if self.level > PressureLevel::Normal {
            return fast;
        }
        let mut next = slow;
        for (Seen { trend, .. }, reading) in self.sources.iter().zip(readings) {
            let Some((_, PressureReading { used, limit: Some(limit) })) = *reading else {
                continue;
            };
            let rates = [trend.latest(), trend.rate()];
            let rate = rates.into_iter().flatten().fold(0.0, f64::max);
            if rate > 0.0 {
                let goal = entry(&self.config, PressureLevel::Elevated, limit);
                next = next.min(seconds(goal.saturating_sub(used) as f64 / rate / 4.0));
            }
        }
        next.max(fast)
    }
}

/// What is known of a source: how it grows, and the levels that it has called for. Each is held by
/// what has reached it: one source that is nearly at a level does not keep what another has left.
#[derive(Clone, Debug, Default)]
struct Seen {
    trend: Trend,
    usage: PressureLevel,
    growth: PressureLevel,
}

impl Seen {
    fn judge(
        &mut self,
        config: &MonitoringConfig,
        source: usize,
        reading: PressureReading,
    ) -> Verdict {
        let rate = self.trend.rate();
        self.usage = level_of_usage(config, self.usage, reading);
        self.growth = level_of_growth(config, self.growth, reading, rate);
        let cause = if self.usage >= self.growth { Cause::Usage } else { Cause::Growth };
        Verdict { level: self.usage.max(self.growth), cause, source, reading, rate }
    }
}

fn level_of_usage(
    config: &MonitoringConfig,
    before: PressureLevel,
    reading: PressureReading,
) -> PressureLevel {
    let Some(limit) = reading.limit else { return PressureLevel::Normal };
    let reached = |level: &PressureLevel| reading.used >= entry(config, *level, limit);
    let rising = above_normal().rev().find(reached).unwrap_or_default();
    rising.max(held(config, before, reading))
}

fn level_of_growth(
    config: &MonitoringConfig,
    before: PressureLevel,
    reading: PressureReading,
    rate: Option<f64>,
) -> PressureLevel {
    let half = reading.limit.is_some_and(|limit| reading.used >= limit.div_ceil(2));
    let Some(left) = time_left(reading, rate).filter(|_| half) else {
        return PressureLevel::Normal;
    };
    let holds = |level: &PressureLevel| {
        let within = config.within(*level);
        let lasting = *level <= before && left <= within.saturating_mul(2);
        !within.is_zero() && (left <= within || lasting)
    };
    above_normal().rev().find(holds).unwrap_or_default()
}

fn level_of_stalls(
    config: &MonitoringConfig,
    before: PressureLevel,
    stall: Option<f64>,
) -> PressureLevel {
    let Some(stall) = stall else { return PressureLevel::Normal };
    let holds = |level: &PressureLevel| {
        let threshold = config.stall(*level);
        threshold > 0.0 && (stall >= threshold || *level <= before && stall >= threshold / 2.0)
    };
    above_normal().rev().find(holds).unwrap_or_default()
}

/// What one source says.
#[derive(Clone, Copy, Debug)]
struct Verdict {
    level: PressureLevel,
    cause: Cause,
    source: usize,
    reading: PressureReading,
    rate: Option<f64>,
}

impl Default for Verdict {
    fn default() -> Self {
        Self {
            level: PressureLevel::Normal,
            cause: Cause::Usage,
            source: usize::MAX,
            reading: PressureReading { used: 0, limit: None },
            rate: None,
        }
    }
}

impl Verdict {
    /// Higher levels come first, then fuller sources; any limit is fuller than none.
    fn is_below(&self, other: &Self) -> bool {
        let key = |it: &Self| (it.level, it.reading.limit.is_some());
        match key(self).cmp(&key(other)) {
            std::cmp::Ordering::Less => true,
            std::cmp::Ordering::Greater => false,
            std::cmp::Ordering::Equal => {
                self.source == usize::MAX || other.reading.ratio() > self.reading.ratio()
            }
        }
    }
}

/// When the limit is met.
fn time_left(reading: PressureReading, rate: Option<f64>) -> Option<Duration> {
    let (limit, rate) = (reading.limit?, rate?);
    (rate > 0.0).then(|| seconds(limit.saturating_sub(reading.used) as f64 / rate))
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

/// The fewest bytes whose return takes away the reason of `step` to be at `level`, if that is not
/// usage: what makes the rest last for twice the level's time; and for stalls, of which nobody
/// knows what would end them, a piece as large as the hysteresis.
pub(crate) fn extra_target(config: &MonitoringConfig, level: PressureLevel, step: Step) -> usize {
    let Some(limit) = step.reading.limit else { return 0 };
    match step.cause {
        Cause::Usage => 0,
        Cause::Growth => {
            let lasting = config.within(level).saturating_mul(2).as_secs_f64();
            let needed = bytes(step.rate.unwrap_or(0.0) * lasting).saturating_add(1);
            let left = limit.saturating_sub(step.reading.used);
            needed.saturating_sub(left).min(step.reading.used)
        }
        Cause::Stalls => bytes(limit as f64 * config.hysteresis).min(step.reading.used),
    }
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
fn bytes(bytes: f64) -> usize {
    bytes as usize
}

fn above_normal() -> impl DoubleEndedIterator<Item = PressureLevel> {
    PressureLevel::ALL.into_iter().filter(|level| *level > PressureLevel::Normal)
}

/// The bytes from which on `level` is reached.
pub(crate) fn entry(config: &MonitoringConfig, level: PressureLevel, limit: usize) -> usize {
    part(limit, config.threshold(level))
}

/// The bytes from which on `level` is not left once it holds.
fn exit(config: &MonitoringConfig, level: PressureLevel, limit: usize) -> usize {
    part(limit, config.threshold(level) - config.hysteresis)
}

/// A part of a limit in whole bytes; at least one byte, unless the limit is zero: then nothing
/// used is too much already.
fn part(limit: usize, ratio: f64) -> usize {
    bytes((limit as f64 * ratio).round()).max(usize::from(limit > 0))
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
