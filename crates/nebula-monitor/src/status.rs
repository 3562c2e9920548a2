//! What others may know of a monitor while it runs.

use std::{fmt, time::Duration};

use nebula_memory_core::{
    PressureLevel, PressureReading,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
};

use crate::{
    ActionEffect, GroupEvents, History, MonitorState, PressureEvent, Sample, SourceReport,
    history::Ring,
};

/// What a monitor has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct MonitorStats {
    /// Checks made.
    pub checks: u64,
    /// Checks at which no source could be read.
    pub blind_checks: u64,
    /// Checks that a notification of the system has brought forward.
    pub notified_checks: u64,
    /// Readings that failed.
    pub failed_readings: u64,
    /// Changes of level, by the level that was entered, lowest first.
    pub entered: [u64; PressureLevel::ALL.len()],
    /// Actions that ran to their end.
    pub actions: u64,
    /// Actions that panicked.
    pub panics: u64,
    /// Bytes that reclaimers were asked for. What one registry did not give, and another was asked
    /// for next, counts twice.
    pub bytes_asked: u64,
    /// Bytes that reclaimers gave back.
    pub bytes_given: u64,
    /// What the kernel has counted for the process's control groups since the monitor was built.
    pub group: GroupEvents,
    /// Checks that could not be recorded; recording ends with the first.
    pub unrecorded: u64,
}

impl MonitorStats {
    /// How often `level` was entered, from below or from above.
    #[must_use]
    pub const fn entered(&self, level: PressureLevel) -> u64 {
        self.entered[level as usize]
    }

    fn add(&mut self, event: &PressureEvent) {
        for action in &event.actions {
            match action.effect {
                ActionEffect::Panicked => self.panics += 1,
                ActionEffect::Reclaimed { wanted, report } => {
                    self.actions += 1;
                    self.bytes_asked = self.bytes_asked.saturating_add(wanted as u64);
                    self.bytes_given = self.bytes_given.saturating_add(report.given as u64);
                    self.panics += report.panicked as u64;
                }
                ActionEffect::Notified
                | ActionEffect::Unheard
                | ActionEffect::Blamed
                | ActionEffect::Throttled { .. }
                | ActionEffect::PriorityLimited { .. } => self.actions += 1,
            }
        }
    }
}

impl fmt::Display for MonitorStats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} checks ({} blind)", self.checks, self.blind_checks)?;
        write!(f, ", {} failed readings, entered", self.failed_readings)?;
        for level in PressureLevel::ALL {
            write!(f, " {level} {}", self.entered(level))?;
        }
        write!(f, ", {} actions ({} panics)", self.actions, self.panics)?;
        write!(f, ", {} of {} bytes given", self.bytes_given, self.bytes_asked)
    }
}

#[derive(Debug)]
struct Shared {
    level: AtomicU8,
    state: AtomicU8,
    slow: Mutex<Slow>,
}

/// What is not asked for on hot paths. No code of others runs under its lock.
#[derive(Debug, Default)]
struct Slow {
    stats: MonitorStats,
    last: Option<Sample>,
    history: Ring,
    sources: Arc<[SourceReport]>,
}

/// A view of a running monitor: cheap to clone, and to ask from any thread.
///
/// ```
/// use nebula_monitor::{MemoryMonitor, MonitoringConfig, PressureLevel};
///
/// let mut monitor = MemoryMonitor::new(MonitoringConfig::default())?;
/// let status = monitor.status();
/// monitor.check()?;
/// if status.level() >= PressureLevel::High {
///     // A good moment to refuse new work.
/// }
/// assert_eq!(status.stats().checks, 1);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Debug)]
pub struct MonitorStatus {
    shared: Arc<Shared>,
}

impl MonitorStatus {
    pub(crate) fn new(sources: Vec<SourceReport>, history: usize) -> Self {
        let history = Ring::new(history);
        let slow = Mutex::new(Slow { history, sources: sources.into(), ..Slow::default() });
        let (level, state) = (AtomicU8::new(0), AtomicU8::new(0));
        Self { shared: Arc::new(Shared { level, state, slow }) }
    }

    /// The level as of the latest check; a single load.
    pub fn level(&self) -> PressureLevel {
        let level = usize::from(self.shared.level.load(Ordering::Acquire));
        PressureLevel::ALL.get(level).copied().unwrap_or_default()
    }

    /// What the monitor is doing; a single load.
    pub fn state(&self) -> MonitorState {
        let state = usize::from(self.shared.state.load(Ordering::Acquire));
        MonitorState::ALL.get(state).copied().unwrap_or_default()
    }

    /// The latest reading of the source that decided, and when it was made on the monitor's clock.
    pub fn last_reading(&self) -> Option<(Duration, PressureReading)> {
        self.last_sample().map(|sample| (sample.at, sample.reading))
    }

    /// All that the latest check saw.
    pub fn last_sample(&self) -> Option<Sample> {
        self.shared.slow.lock().last
    }

    /// The latest samples, as many as [`MonitoringConfig::history`] says, or fewer if it has not
    /// made so many checks.
    ///
    /// [`MonitoringConfig::history`]: crate::MonitoringConfig::history
    pub fn history(&self) -> History {
        // Nothing is allocated under the lock.
        let length = self.shared.slow.lock().history.len();
        let mut samples = Vec::with_capacity(length);
        self.shared.slow.lock().history.copy_into(&mut samples);
        samples.into()
    }

    /// What was done so far.
    pub fn stats(&self) -> MonitorStats {
        self.shared.slow.lock().stats
    }

    /// What is known about each source.
    pub fn sources(&self) -> Vec<SourceReport> {
        // Nothing is allocated under the lock.
        let sources = Arc::clone(&self.shared.slow.lock().sources);
        sources.to_vec()
    }

    pub(crate) fn set_state(&self, state: MonitorState) {
        self.shared.state.store(state as u8, Ordering::Release);
    }

    /// Notes a check, and what it saw; `None` if no source could be read.
    pub(crate) fn checked(
        &self,
        sample: Option<Sample>,
        failures: u64,
        group: GroupEvents,
        recorded: bool,
    ) {
        let mut slow = self.shared.slow.lock();
        slow.stats.checks += 1;
        slow.stats.failed_readings += failures;
        slow.stats.group = group;
        slow.stats.unrecorded += u64::from(!recorded);
        match sample {
            Some(sample) => {
                slow.last = Some(sample);
                slow.history.push(sample);
            }
            None => slow.stats.blind_checks += 1,
        }
    }

    pub(crate) fn rung(&self) {
        self.shared.slow.lock().stats.notified_checks += 1;
    }

    /// Notes a change of level before its actions run.
    pub(crate) fn entered(&self, level: PressureLevel) {
        self.shared.level.store(level as u8, Ordering::Release);
        self.shared.slow.lock().stats.entered[level as usize] += 1;
    }

    pub(crate) fn acted(&self, event: &PressureEvent) {
        self.shared.slow.lock().stats.add(event);
    }

    pub(crate) fn set_sources(&self, sources: Vec<SourceReport>) {
        let sources = sources.into();
        let old = std::mem::replace(&mut self.shared.slow.lock().sources, sources);
        drop(old);
    }
}
