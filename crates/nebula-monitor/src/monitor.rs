//! The monitor: reads the sources, feeds the state machine, runs the actions.

use std::{fmt, time::Duration};

use nebula_memory_core::{Clock, MemoryError, PressureLevel, Refused, sync::Arc};

use crate::{
    Limits, MonitorBuilder, MonitorHandle, MonitorState, MonitorStatus, MonitoringConfig,
    PressureEvent, PressureMachine, SourceReport, action::Actions, handle, source::Sources,
};

/// Watches how near this process is to the limits of its memory, and acts before they are met.
///
/// Either call [`check`](Self::check) from a loop of your own, every
/// [`next_check`](Self::next_check), or let [`spawn`](Self::spawn) do it on a thread.
///
/// Every part of it that is code of others (callbacks, reclaimers, throttles, injected sources) may
/// panic; that is counted and reported, and the monitor goes on. (Under `panic = "abort"` nothing
/// can.)
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use nebula_memory_core::{ManualClock, MemoryError, PressureReading, PressureSource};
/// use nebula_monitor::{MemoryMonitor, MonitoringConfig, PressureAction, PressureLevel};
///
/// struct NearlyFull;
/// impl PressureSource for NearlyFull {
///     fn name(&self) -> &str { "shelf" }
///     fn read(&self) -> Result<PressureReading, MemoryError> {
///         Ok(PressureReading { used: 90, limit: Some(100) })
///     }
/// }
///
/// let mut monitor = MemoryMonitor::builder(MonitoringConfig::default())
///     .without_system()
///     .source(Arc::new(NearlyFull))
///     .clock(Arc::new(ManualClock::new()))
///     .on(PressureLevel::High, PressureAction::notify(|event| println!("{event}")))
///     .build()?;
/// let event = monitor.check()?.expect("the level has changed");
/// assert_eq!((event.from, event.to), (PressureLevel::Normal, PressureLevel::High));
/// assert_eq!(monitor.check()?, None);
/// # Ok::<(), MemoryError>(())
/// ```
pub struct MemoryMonitor {
    machine: PressureMachine,
    sources: Sources,
    actions: Actions,
    clock: Arc<dyn Clock>,
    status: MonitorStatus,
    next: Duration,
}

impl MemoryMonitor {
    /// A monitor of this machine without actions, to be asked for its level.
    ///
    /// # Errors
    /// As [`MonitorBuilder::build`].
    pub fn new(config: MonitoringConfig) -> Result<Self, MemoryError> {
        Self::builder(config).build()
    }

    /// A builder; without further ado, it watches this machine.
    pub fn builder(config: MonitoringConfig) -> MonitorBuilder {
        MonitorBuilder::new(config)
    }

    pub(crate) fn with(
        config: MonitoringConfig,
        sources: Sources,
        actions: Actions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, MemoryError> {
        let machine = PressureMachine::new(config)?;
        let status = MonitorStatus::new(sources.reports().to_vec());
        Ok(Self { machine, sources, actions, clock, status, next: Duration::ZERO })
    }

    /// Reads every source, updates the level, and acts.
    ///
    /// The fullest source decides. Returns what has happened, if anything has: one event for each
    /// change of level, and one for each further round of reclaiming while pressure lasts.
    /// Allocates only if something happens.
    ///
    /// # Errors
    /// [`MemoryError::SourceUnavailable`], with the reason of each, if no source can be read; the
    /// level stays as it was. A source that fails while others can be read is reported in
    /// [`sources`](Self::sources).
    pub fn check(&mut self) -> Result<Option<PressureEvent>, MemoryError> {
        self.machine.begin();
        self.status.set_state(self.machine.state());
        let now = self.clock.now();
        let round = self.sources.read();
        let tightest = round.tightest.map(|(_, reading)| reading);
        self.status.checked(now, tightest, round.failures);
        if round.changed {
            self.status.set_sources(self.sources.reports().to_vec());
        }
        let Some((source, reading)) = round.tightest else {
            self.next = self.machine.config().interval;
            return Err(self.sources.nothing_left());
        };

        let step = self.machine.observe(now, reading);
        self.next = step.next;
        self.status.set_state(self.machine.state());
        if step.is_edge() {
            self.status.entered(step.to);
        } else if !self.actions.is_due(&self.machine, step, now) {
            return Ok(None);
        }

        let source = self.sources.reports().get(source);
        let mut event = PressureEvent {
            at: now,
            from: step.from,
            to: step.to,
            source: source.map_or_else(String::new, |report| report.name.clone()),
            reading,
            actions: Vec::new(),
        };
        self.machine.trigger();
        self.status.set_state(self.machine.state());
        self.actions.run(&mut self.machine, step, &*self.clock, &mut event);
        self.status.acted(&event);
        self.machine.settle();
        self.status.set_state(self.machine.state());
        Ok(Some(event))
    }

    /// How long to wait before the next check: `interval` in calm, `fast_interval` under pressure
    /// and when usage rises steeply. Zero before the first check.
    pub fn next_check(&self) -> Duration {
        self.next
    }

    /// Checks at once and then again and again, on a thread of its own, until the handle is
    /// dropped.
    ///
    /// # Errors
    /// The monitor is handed back if the system gives no thread.
    #[allow(clippy::result_large_err, reason = "what is large is the monitor that is handed back")]
    pub fn spawn(self) -> Result<MonitorHandle, Refused<Self>> {
        handle::spawn(self)
    }

    /// The level as of the latest check.
    pub fn level(&self) -> PressureLevel {
        self.machine.level()
    }

    /// What is being done.
    pub fn state(&self) -> MonitorState {
        self.machine.state()
    }

    /// What was probed, and what is in force, as of the latest check.
    pub fn sources(&self) -> &[SourceReport] {
        self.sources.reports()
    }

    /// The limits that apply now, read anew: "what is my cap?"
    pub fn limits(&self) -> Limits {
        Limits::of(&self.sources)
    }

    /// A view for other threads: level, state, latest reading, statistics.
    pub fn status(&self) -> MonitorStatus {
        self.status.clone()
    }

    /// The configuration.
    pub fn config(&self) -> &MonitoringConfig {
        self.machine.config()
    }
}

impl Drop for MemoryMonitor {
    fn drop(&mut self) {
        // Nobody would lift these any more.
        self.actions.lift(self.machine.level());
    }
}

impl fmt::Debug for MemoryMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryMonitor")
            .field("level", &self.level())
            .field("state", &self.state())
            .field("sources", &self.sources())
            .field("actions", &self.actions)
            .finish_non_exhaustive()
    }
}
