//! Putting a monitor together.

use std::path::PathBuf;

use nebula_memory_core::{
    Clock, MemoryError, MonotonicClock, PressureLevel, PressureSource, sync::Arc,
};

use crate::{MemoryMonitor, MonitoringConfig, PressureAction, action::Actions, source::Sources};

/// Builds a [`MemoryMonitor`]; from [`MemoryMonitor::builder`].
#[must_use = "a builder does nothing until `build` is called"]
pub struct MonitorBuilder {
    config: MonitoringConfig,
    system: Option<PathBuf>,
    sources: Vec<Arc<dyn PressureSource>>,
    clock: Arc<dyn Clock>,
    actions: Vec<(PressureLevel, PressureAction)>,
}

impl MonitorBuilder {
    pub(crate) fn new(config: MonitoringConfig) -> Self {
        Self {
            config,
            system: Some(PathBuf::from("/")),
            sources: Vec::new(),
            clock: Arc::new(MonotonicClock::new()),
            actions: Vec::new(),
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

    /// Does `action` at `level`.
    ///
    /// A level holds, with all levels below it, from its threshold on until usage has fallen below
    /// that by the hysteresis. At a change of level the actions of the highest level run first, and
    /// those of one level in the order in which they were added:
    /// - [`Notify`](PressureAction::Notify) at every change that crosses `level`, upwards or
    ///   downwards, whether or not other levels are crossed with it;
    /// - [`Throttle`](PressureAction::Throttle) likewise: it is set upwards and lifted downwards;
    /// - [`Reclaim`](PressureAction::Reclaim) while `level` holds, at most once in a cool-down.
    ///   It asks for the distance from the usage, less what actions before it have given back,
    ///   down to where `level` is left; the urgency is the level of that usage.
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
        MemoryMonitor::with(self.config, sources, actions, self.clock)
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
