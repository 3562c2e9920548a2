//! Putting a monitor together.

use std::{io::Write, path::PathBuf};

use nebula_memory_core::{
    Clock, MemoryError, MonotonicClock, PressureLevel, PressureSource,
    sync::{Arc, Weak},
};

use crate::{
    MemoryMonitor, MonitoringConfig, PressureAction, Suspects, action::Actions, monitor::Parts,
    recording::Recorder, source::Sources,
};

/// Builds a [`MemoryMonitor`]; from [`MemoryMonitor::builder`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct MonitorBuilder {
    config: MonitoringConfig,
    system: Option<PathBuf>,
    sources: Vec<Arc<dyn PressureSource>>,
    clock: Arc<dyn Clock>,
    actions: Vec<(PressureLevel, PressureAction)>,
    suspects: Suspects,
    books: Vec<Arc<dyn PressureSource>>,
    allocated: Option<Box<dyn Fn() -> usize + Send>>,
    recorder: Option<Recorder>,
}

impl MonitorBuilder {
    pub(crate) fn new(config: MonitoringConfig) -> Self {
        Self {
            config,
            system: Some(PathBuf::from("/")),
            sources: Vec::new(),
            clock: Arc::new(MonotonicClock::new()),
            actions: Vec::new(),
            suspects: Suspects::new(),
            books: Vec::new(),
            allocated: None,
            recorder: None,
        }
    }

    /// Watches `source` too: a budget tree, for example, or a series in a test.
    pub fn source(mut self, source: Arc<dyn PressureSource>) -> Self {
        self.sources.push(source);
        self
    }

    /// Looks for `/proc` and `/sys/fs/cgroup` under `root` instead of `/`: a copy of a machine's
    /// files in a test, or where a container mounts its host's.
    pub fn system_root(mut self, root: impl Into<PathBuf>) -> Self {
        self.system = Some(root.into());
        self
    }

    /// Watches the injected sources alone.
    pub fn without_system(mut self) -> Self {
        self.system = None;
        self
    }

    /// Tells the time by `clock`.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Watches how `suspect` grows, to name it if it grows most; see
    /// [`Suspects`](crate::Suspects), by which more can be added later.
    pub fn suspect(self, suspect: Weak<dyn PressureSource>) -> Self {
        self.suspects.watch(suspect);
        self
    }

    /// Watches how those on `suspects` grow: on this list, which others may share and add to, and
    /// not on one of the monitor's own. To be called before [`suspect`](Self::suspect), which adds to
    /// the list.
    pub fn suspects(mut self, suspects: &Suspects) -> Self {
        self.suspects = suspects.clone();
        self
    }

    /// Takes what `book` says is used for a part of the process's memory, in
    /// [`MemoryMonitor::reconcile`]: the root of a budget tree, for example.
    pub fn book(mut self, book: Arc<dyn PressureSource>) -> Self {
        self.books.push(book);
        self
    }

    /// Where the allocator tells how many bytes it has handed out, for
    /// [`MemoryMonitor::reconcile`].
    pub fn allocated(mut self, figure: impl Fn() -> usize + Send + 'static) -> Self {
        self.allocated = Some(Box::new(figure));
        self
    }

    /// Writes every check to `out`, to be read and replayed as a
    /// [`Recording`](crate::Recording). Wrap a file into a `BufWriter`. The first error ends the
    /// recording and is counted in the statistics.
    pub fn record(mut self, out: impl Write + Send + 'static) -> Self {
        self.recorder = Some(Recorder::new(Box::new(out)));
        self
    }

    /// Does `action` at `level`.
    ///
    /// A level holds, with all levels below it, from its threshold on until usage has fallen below
    /// that by the hysteresis. At a change of level the actions of the highest level run first, and
    /// those of one level in the order in which they were added:
    /// - [`notify`](PressureAction::notify), [`channel`](PressureAction::channel) and
    ///   [`stream`](PressureAction::stream) at every change that crosses `level`, upwards or
    ///   downwards, whether or not other levels are crossed with it;
    /// - [`throttle`](PressureAction::throttle) likewise: it is set upwards and lifted downwards;
    /// - [`blame`](PressureAction::blame) upwards;
    /// - [`reclaim`](PressureAction::reclaim) while `level` holds, at most once in a cool-down.
    ///   It asks for the distance from the usage, less what actions before it have given back,
    ///   down to where `level` is left; or, if growth is the reason, for what makes the rest last
    ///   for twice the level's time; or, if stalls are, for a part as large as the hysteresis.
    pub fn on(mut self, level: PressureLevel, action: PressureAction) -> Self {
        self.actions.push((level, action));
        self
    }

    /// Probes the sources and builds the monitor.
    ///
    /// A source that is missing is no error: it is reported by
    /// [`sources`](MemoryMonitor::sources).
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] as [`MonitoringConfig::validate`] says, if an action is
    /// given for `Normal` (which is never crossed), or if there is no source to look for.
    pub fn build(self) -> Result<MemoryMonitor, MemoryError> {
        self.config.validate()?;
        if self.system.is_none() && self.sources.is_empty() {
            let rule = "must be at least one if the system is not watched";
            return Err(MemoryError::invalid_config("sources", 0, rule));
        }
        let mut actions = Actions::default();
        for (level, action) in self.actions {
            if level == PressureLevel::Normal {
                let rule = "must be of a level above normal; leaving one is notified there, too";
                return Err(MemoryError::invalid_config("actions", level, rule));
            }
            actions.add(level, action);
        }
        let mut sources = Sources::default();
        if let Some(root) = &self.system {
            sources.add_system(root);
        }
        for source in self.sources {
            sources.inject(source);
        }
        let (books, allocated, recorder) = (self.books, self.allocated, self.recorder);
        let parts = Parts { sources, actions, clock: self.clock, books, allocated, recorder };
        MemoryMonitor::with(self.config, parts, self.suspects)
    }
}

impl std::fmt::Debug for MonitorBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MonitorBuilder")
            .field("config", &self.config)
            .field("system", &self.system)
            .field("injected", &self.sources.len())
            .field("actions", &self.actions)
            .finish_non_exhaustive()
    }
}
