//! The monitor: reads the sources, feeds the state machine, runs the actions.

use std::{convert::Infallible, fmt, future::Future, time::Duration};

use nebula_memory_core::{
    Clock, MemoryError, PressureLevel, PressureSource, Refused, panics::quietly, sync::Arc,
};

use crate::{
    Limits, MonitorBuilder, MonitorHandle, MonitorState, MonitorStatus, MonitoringConfig,
    Observation, PressureEvent, PressureMachine, Reconciliation, Sample, SourceReport, Suspects,
    action::Actions,
    alarm::{Alarms, Rung},
    handle,
    recording::Recorder,
    source::Sources,
    suspects::Watch,
};

/// Watches how near this process is to the limits of its memory, and acts before they are met.
///
/// Either call [`check`](Self::check) from a loop of your own, every
/// [`next_check`](Self::next_check), or let [`spawn`](Self::spawn) do it on a thread, or
/// [`run`](Self::run) in a task.
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
    parts: Parts,
    watch: Watch,
    status: MonitorStatus,
    next: Duration,
}

/// What a monitor is built from.
pub(crate) struct Parts {
    pub(crate) sources: Sources,
    pub(crate) actions: Actions,
    pub(crate) clock: Arc<dyn Clock>,
    /// What keeps books of the process's memory.
    pub(crate) books: Vec<Arc<dyn PressureSource>>,
    pub(crate) allocated: Option<Box<dyn Fn() -> usize + Send>>,
    pub(crate) recorder: Option<Recorder>,
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
        parts: Parts,
        suspects: Suspects,
    ) -> Result<Self, MemoryError> {
        let machine = PressureMachine::new(config)?;
        let status = MonitorStatus::new(parts.sources.reports().to_vec(), config.history);
        let watch = Watch::of(suspects);
        Ok(Self { machine, parts, watch, status, next: Duration::ZERO })
    }

    /// Reads the sources, updates the level, and acts.
    ///
    /// The source with the highest level decides, the fullest of several. Returns what has happened,
    /// if anything has: one event for each change of level, and one for each further round of
    /// reclaiming while pressure lasts. Allocates only if something happens.
    ///
    /// # Errors
    /// [`MemoryError::SourceUnavailable`], with the reason of each, if no source can be read; the
    /// level stays as it was. A source that fails while others can be read is reported in
    /// [`sources`](Self::sources).
    pub fn check(&mut self) -> Result<Option<PressureEvent>, MemoryError> {
        self.machine.begin();
        self.status.set_state(self.machine.state());
        let (now, config) = (self.parts.clock.now(), *self.machine.config());
        let sources = &mut self.parts.sources;
        // Under pressure, limits and stalls are not left alone for a long interval.
        let every = match self.machine.level() {
            PressureLevel::Normal => config.interval,
            _ => config.interval.min(config.window),
        };
        let round = sources.read(now, every, &config);
        if round.changed {
            self.status.set_sources(sources.reports().to_vec());
        }
        if round.full {
            self.watch.read(now, config.window);
        }
        let (readings, stall) = (sources.readings(), sources.stall());
        let observation = Observation { readings, stall };
        let record = |to: &mut Recorder| to.record(sources.names(), now, observation);
        let recorded = self.parts.recorder.as_mut().is_none_or(record);
        if readings.iter().all(Option::is_none) {
            self.status.checked(None, round.failures, sources.events(), recorded);
            self.next = config.interval;
            return Err(sources.nothing_left());
        }

        let step = self.machine.observe_all(now, observation);
        self.next = step.next;
        let (level, reading, rate) = (step.to, step.reading, step.rate);
        let sample = Sample { at: now, level, reading, rate, stall, resident: sources.held() };
        self.status.checked(Some(sample), round.failures, sources.events(), recorded);
        self.status.set_state(self.machine.state());
        if step.is_edge() {
            self.status.entered(step.to);
        } else if !self.parts.actions.is_due(&self.machine, step, now) {
            return Ok(None);
        }

        let mut blame = None;
        if step.from < step.to {
            if !round.full {
                self.watch.read(now, config.window);
            }
            blame = self.watch.blame();
        }
        let source = self.parts.sources.names().nth(step.source).unwrap_or_default().to_owned();
        let mut event = PressureEvent {
            at: now,
            from: step.from,
            to: step.to,
            source,
            reading,
            cause: step.cause,
            rate,
            exhaustion: step.exhaustion,
            blame,
            after: None,
            actions: Vec::new(),
        };
        self.machine.trigger();
        self.status.set_state(self.machine.state());
        self.parts.actions.run(&mut self.machine, step, &*self.parts.clock, &mut event);
        if event.has_reclaimed() {
            event.after = self.parts.sources.read_again(step.source);
        }
        self.status.acted(&event);
        self.machine.settle();
        self.status.set_state(self.machine.state());
        // A round of reclaiming that had nothing to ask for is no event.
        Ok((event.is_edge() || !event.actions.is_empty()).then_some(event))
    }

    /// How long to wait before the next check: `interval` in calm, `fast_interval` under pressure,
    /// and between them while usage rises. Zero before the first check.
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

    /// Checks at once and then again and again, for as long as this future is polled: on any
    /// runtime, with that runtime's `sleep`. Dropping the future stops it at once and leaves the
    /// monitor as after its latest check. Callbacks and reclaimers run where it is polled.
    ///
    /// ```
    /// # use std::{future::{Future, ready}, pin::pin, task::{Context, Waker}};
    /// # use nebula_monitor::{MemoryMonitor, MonitoringConfig};
    /// # let mut monitor = MemoryMonitor::new(MonitoringConfig::default())?;
    /// // With tokio: `monitor.run(tokio::time::sleep).await`
    /// let mut naps = 0;
    /// let sleep = |_| { naps += 1; std::future::poll_fn(move |_| match naps {
    ///     1..=3 => std::task::Poll::Ready(()),
    ///     _ => std::task::Poll::Pending,
    /// }) };
    /// let mut context = Context::from_waker(Waker::noop());
    /// assert!(pin!(monitor.run(sleep)).poll(&mut context).is_pending());
    /// assert_eq!(monitor.status().stats().checks, 4);
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub async fn run<S, F>(&mut self, mut sleep: S) -> Infallible
    where
        S: FnMut(Duration) -> F,
        F: Future<Output = ()>,
    {
        loop {
            // A check at which no source could be read is counted and reported in the status.
            drop(self.check());
            sleep(self.next).await;
        }
    }

    /// Compares what the [books](MonitorBuilder::book) say with what the process holds.
    ///
    /// # Errors
    /// [`MemoryError::SourceUnavailable`] if resident memory or a book cannot be read, or if a book
    /// panics.
    pub fn reconcile(&self) -> Result<Reconciliation, MemoryError> {
        let panicked = || MemoryError::source_unavailable("reconciliation", "a book panicked");
        let read = |book: &Arc<dyn PressureSource>| {
            let entry = quietly(|| Ok((book.name().to_owned(), book.read()?.used)));
            entry.unwrap_or_else(|| Err(panicked()))
        };
        let books = self.parts.books.iter().map(read).collect::<Result<_, _>>()?;
        let figure = self.parts.allocated.as_deref();
        let allocated = figure.map(|figure| quietly(figure).ok_or_else(panicked)).transpose()?;
        let resident = self.parts.sources.resident()?;
        Ok(Reconciliation { resident, allocated, books })
    }

    /// Sets the notifications that the monitor's own thread waits for, or looks whether they are
    /// still right; `true` if a check should follow at once.
    pub(crate) fn set_alarms(&mut self, hears: bool) -> bool {
        let changed = self.parts.sources.set_alarms(self.machine.config(), hears);
        if changed.is_some() {
            self.status.set_sources(self.sources().to_vec());
        }
        changed.unwrap_or(false)
    }

    pub(crate) fn alarms(&self) -> &Alarms {
        self.parts.sources.alarms()
    }

    pub(crate) fn clear_alarms(&mut self) {
        self.parts.sources.clear_alarms();
        self.status.set_sources(self.sources().to_vec());
    }

    /// The next check reads everything.
    pub(crate) fn read_anew(&mut self) {
        self.parts.sources.read_anew();
    }

    /// Notifications have come.
    pub(crate) fn rung(&mut self, rung: Rung) {
        if self.parts.sources.rung(rung, self.machine.config()) {
            self.status.set_sources(self.sources().to_vec());
        }
        self.status.rung();
    }

    /// Those whose growth is watched; the handle may be kept to add more.
    pub fn suspects(&self) -> &Suspects {
        self.watch.suspects()
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
        self.parts.sources.reports()
    }

    /// The limits that apply now, read anew: "what is my cap?"
    pub fn limits(&self) -> Limits {
        Limits::of(&self.parts.sources)
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
        self.parts.actions.lift(self.machine.level());
    }
}

impl fmt::Debug for MemoryMonitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryMonitor")
            .field("level", &self.level())
            .field("state", &self.state())
            .field("sources", &self.sources())
            .field("actions", &self.parts.actions)
            .finish_non_exhaustive()
    }
}
