//! A process's memory, put together from its configuration.

use std::sync::Arc;

use nebula_budget::{BudgetConfig, MemoryBudget};
use nebula_memory_core::{MemoryError, ReclaimRegistry};

use crate::{MemoryConfig, Tenant};

/// A process's memory: the root budget, the tenants under it, and who gives memory back.
///
/// A cheap handle; clones share.
///
/// ```
/// # #[cfg(all(feature = "arena", feature = "cache"))] {
/// use nebula_memory::{Memory, MemoryConfig, budget::BudgetConfig, core::ByteSize};
///
/// let process = BudgetConfig::builder(ByteSize::mib(256)).build()?;
/// let memory = Memory::new(MemoryConfig::builder().budget(process).build()?)?;
///
/// // 8 MiB are acme's own; up to 64 MiB it may have while others don't need them.
/// let limits = BudgetConfig::builder(ByteSize::mib(64)).guaranteed(ByteSize::mib(8)).build()?;
/// let acme = memory.tenant("acme", &limits)?;
/// let arena = acme.arena()?;
/// arena.try_alloc_str("charged to acme")?;
/// let answers = acme.cache("answers", |_question: &String, answer: &String| answer.capacity())?;
/// answers.insert("6 * 7".to_owned(), "42".to_owned())?;
/// assert!(acme.budget().used() > 0);
/// println!("{}", memory.budget());
/// # }
/// # Ok::<(), nebula_memory::core::MemoryError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Memory {
    pub(crate) parts: Arc<Parts>,
}

/// What a process and its tenants share.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) config: MemoryConfig,
    root: MemoryBudget,
    /// Everybody's reclaimers, for the monitor; each budget has its own as well.
    pub(crate) reclaimers: ReclaimRegistry,
    /// The tenants, for monitors to watch.
    #[cfg(feature = "monitor")]
    pub(crate) suspects: nebula_monitor::Suspects,
    #[cfg(feature = "allocators")]
    pub(crate) allocators: nebula_alloc::AllocatorManager,
}

impl Memory {
    /// Puts a process's memory together.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] with every fault of `config`.
    pub fn new(config: MemoryConfig) -> Result<Self, MemoryError> {
        config.validate()?;
        let root = MemoryBudget::root_with("process", &config.budget)?;
        let reclaimers = ReclaimRegistry::new();
        #[cfg(feature = "arena")]
        {
            // Threads' scratch memory is nobody's in particular.
            let scratch = Arc::downgrade(&nebula_arena::LocalArena::reclaimer());
            reclaimers.register("scratch", 0, scratch).detach();
        }
        let parts = Parts {
            config,
            root,
            reclaimers,
            #[cfg(feature = "monitor")]
            suspects: nebula_monitor::Suspects::new(),
            #[cfg(feature = "allocators")]
            allocators: nebula_alloc::AllocatorManager::new(),
        };
        Ok(Self { parts: Arc::new(parts) })
    }

    /// The configuration.
    #[must_use]
    pub fn config(&self) -> &MemoryConfig {
        &self.parts.config
    }

    /// The whole process's budget.
    #[must_use]
    pub fn budget(&self) -> &MemoryBudget {
        &self.parts.root
    }

    /// A tenant with limits of its own, under the process's budget.
    ///
    /// # Errors
    /// As [`MemoryBudget::child_with`].
    pub fn tenant(&self, name: &str, limits: &BudgetConfig) -> Result<Tenant, MemoryError> {
        let budget = self.parts.root.child_with(name, limits)?;
        Ok(Tenant::new(Arc::clone(&self.parts), budget))
    }

    /// Whoever can give memory back on pressure: the streams, pools and caches of all tenants, and what is
    /// registered here by hand.
    #[must_use]
    pub fn reclaimers(&self) -> &ReclaimRegistry {
        &self.parts.reclaimers
    }

    /// The registry in which tenants' allocators are listed, if `stats.track_tenants` is set.
    #[cfg(feature = "allocators")]
    #[must_use]
    pub fn allocators(&self) -> &nebula_alloc::AllocatorManager {
        &self.parts.allocators
    }

    /// The beginnings of a monitor as configured: it watches the limits of the system and of the
    /// process's budget, and from `Elevated` on asks the [`reclaimers`](Self::reclaimers) for what
    /// is missing, for each level by itself: where pressure rises further, it does not wait for a
    /// cool-down to end. It watches how the tenants grow, those that come later too, and names the one
    /// that has grown most when pressure rises; and its reconciliation sets the process's budget
    /// against what the process holds. Add what else should happen, and build it.
    ///
    /// ```
    /// use nebula_memory::{
    ///     Memory, MemoryConfig, budget::BudgetConfig, core::{ByteSize, PressureLevel},
    ///     monitor::PressureAction,
    /// };
    ///
    /// let process = BudgetConfig::builder(ByteSize::mib(256)).build()?;
    /// let memory = Memory::new(MemoryConfig::builder().budget(process).build()?)?;
    /// let tell = PressureAction::notify(|event| eprintln!("{event}"));
    /// let mut monitor = memory.monitor().on(PressureLevel::High, tell).build()?;
    /// monitor.check()?; // or `monitor.spawn()`, to have it run on a thread of its own
    /// # Ok::<(), nebula_memory::core::MemoryError>(())
    /// ```
    #[cfg(feature = "monitor")]
    pub fn monitor(&self) -> nebula_monitor::MonitorBuilder {
        use nebula_monitor::{MemoryMonitor, PressureAction, PressureLevel};

        let monitor = MemoryMonitor::builder(self.parts.config.monitoring)
            .source(Arc::new(self.parts.root.clone()))
            .book(Arc::new(self.parts.root.clone()))
            .suspects(&self.parts.suspects);
        // Each level has a cool-down of its own: a higher one does not wait for that of a lower one.
        [PressureLevel::Critical, PressureLevel::High, PressureLevel::Elevated]
            .into_iter()
            .fold(monitor, |monitor, level| {
                monitor.on(level, PressureAction::reclaim(&self.parts.reclaimers))
            })
    }
}
