//! How much a budget may hold, how much of that is its own, and what happens at the limits.

use nebula_memory_core::{ByteSize, ConfigFaults, MemoryError};

use crate::Enforcement;

/// The limits of a budget. They can be changed while it lives: see the `set_` methods of
/// [`MemoryBudget`](crate::MemoryBudget).
///
/// ```
/// use nebula_budget::{BudgetConfig, MemoryBudget};
/// use nebula_memory_core::ByteSize;
///
/// let process = MemoryBudget::root("process", 100 << 20)?;
/// // 10 MiB are the tenant's own; up to 40 MiB it may have while nobody else needs them. Above
/// // 30 MiB, its caches are asked to give back.
/// let config = BudgetConfig::builder(ByteSize::mib(40))
///     .guaranteed(ByteSize::mib(10))
///     .high(ByteSize::mib(30))
///     .build()?;
/// let tenant = process.child_with("tenant", &config)?;
/// assert_eq!(process.committed(), 10 << 20);
/// assert_eq!((tenant.guaranteed(), tenant.capacity()), (10 << 20, 40 << 20));
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct BudgetConfig {
    /// The most bytes that may be charged: for a child, its maximum. Above zero; the default, zero,
    /// is to be replaced.
    pub capacity: ByteSize,
    /// The part that is taken from the parent at creation and so always there; the rest is borrowed
    /// from the parent as far as the parent has it. `None` is all of the capacity. At most
    /// `capacity`; a root has no parent and takes `None` only.
    #[cfg_attr(feature = "serde", serde(default))]
    pub guaranteed: Option<ByteSize>,
    /// A mark below the capacity: when more than this is committed, hooks are called
    /// ([`BudgetEvent::HighMarkPassed`](crate::BudgetEvent::HighMarkPassed)) and reclaimers asked
    /// for the difference; nothing is refused. `None` is no mark.
    #[cfg_attr(feature = "serde", serde(default))]
    pub high: Option<ByteSize>,
    /// What happens to charges that do not fit.
    #[cfg_attr(feature = "serde", serde(default))]
    pub enforcement: Enforcement,
    /// Who goes without first while memory is short: charges of budgets whose priority is below
    /// what [`Throttle::limit_priority`] admits are refused. It holds for all budgets below, whose
    /// own can only be lower. 255, the default, is never refused for its priority.
    ///
    /// [`Throttle::limit_priority`]: nebula_memory_core::Throttle::limit_priority
    #[cfg_attr(feature = "serde", serde(default = "highest"))]
    pub priority: u8,
}

const fn highest() -> u8 {
    u8::MAX
}

impl Default for BudgetConfig {
    fn default() -> Self {
        Self {
            capacity: ByteSize::default(),
            guaranteed: None,
            high: None,
            enforcement: Enforcement::default(),
            priority: highest(),
        }
    }
}

impl BudgetConfig {
    /// Starts from a budget of `capacity` that is guaranteed all of it.
    pub fn builder(capacity: ByteSize) -> BudgetConfigBuilder {
        BudgetConfigBuilder { config: Self { capacity, ..Self::default() } }
    }

    /// The guaranteed part, in bytes.
    #[must_use]
    pub fn guaranteed_bytes(&self) -> usize {
        self.guaranteed.unwrap_or(self.capacity).get()
    }

    pub(crate) fn high_bytes(&self) -> usize {
        self.high.map_or(usize::MAX, ByteSize::get)
    }

    /// Checks every rule that can be checked without knowing the parent.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] with all faults.
    pub fn validate(&self) -> Result<(), MemoryError> {
        let mut faults = ConfigFaults::new();
        faults.check(self.capacity.get() > 0, "capacity", self.capacity, "must be above zero");
        let mut check_part = |name, part: Option<ByteSize>| {
            if let Some(part) = part {
                faults.check(part <= self.capacity, name, part, "must be at most `capacity`");
            }
        };
        check_part("guaranteed", self.guaranteed);
        check_part("high", self.high);
        faults.into_result()
    }
}

/// Builds a [`BudgetConfig`].
#[derive(Clone, Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct BudgetConfigBuilder {
    config: BudgetConfig,
}

impl BudgetConfigBuilder {
    /// Sets [`BudgetConfig::guaranteed`].
    pub fn guaranteed(mut self, bytes: ByteSize) -> Self {
        self.config.guaranteed = Some(bytes);
        self
    }

    /// Sets [`BudgetConfig::high`].
    pub fn high(mut self, bytes: ByteSize) -> Self {
        self.config.high = Some(bytes);
        self
    }

    /// Sets [`BudgetConfig::enforcement`].
    pub fn enforcement(mut self, enforcement: Enforcement) -> Self {
        self.config.enforcement = enforcement;
        self
    }

    /// Sets [`BudgetConfig::priority`].
    pub fn priority(mut self, priority: u8) -> Self {
        self.config.priority = priority;
        self
    }

    /// The checked configuration.
    ///
    /// # Errors
    /// As [`BudgetConfig::validate`].
    pub fn build(self) -> Result<BudgetConfig, MemoryError> {
        self.config.validate()?;
        Ok(self.config)
    }
}
