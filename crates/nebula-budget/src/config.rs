//! How much a budget may hold, and how much of that is its own.

use nebula_memory_core::{ByteSize, ConfigFaults, MemoryError};

/// The limits of a budget.
///
/// ```
/// use nebula_budget::{BudgetConfig, MemoryBudget};
/// use nebula_memory_core::ByteSize;
///
/// let process = MemoryBudget::root("process", 100 << 20)?;
/// // 10 MiB are the tenant's own; up to 40 MiB it may have while nobody else needs them.
/// let config = BudgetConfig::builder(ByteSize::mib(40)).guaranteed(ByteSize::mib(10)).build()?;
/// let tenant = process.child_with("tenant", &config)?;
/// assert_eq!(process.committed(), 10 << 20);
/// assert_eq!((tenant.guaranteed(), tenant.capacity()), (10 << 20, 40 << 20));
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
pub struct BudgetConfig {
    /// The most bytes that may be charged. Above zero; the default, zero, is to be replaced.
    pub capacity: ByteSize,
    /// The part that is taken from the parent at creation and so always there; the rest is borrowed
    /// from the parent as far as the parent has it. `None` is all of the capacity. At most
    /// `capacity`; a root has no parent and takes `None` only.
    #[cfg_attr(feature = "serde", serde(default))]
    pub guaranteed: Option<ByteSize>,
}

impl BudgetConfig {
    /// Starts from a budget of `capacity` that is guaranteed all of it.
    pub fn builder(capacity: ByteSize) -> BudgetConfigBuilder {
        BudgetConfigBuilder { config: Self { capacity, guaranteed: None } }
    }

    /// The guaranteed part, in bytes.
    #[must_use]
    pub fn guaranteed_bytes(&self) -> usize {
        self.guaranteed.unwrap_or(self.capacity).get()
    }

    /// Checks every rule that can be checked without knowing the parent.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] with all faults.
    pub fn validate(&self) -> Result<(), MemoryError> {
        let mut faults = ConfigFaults::new();
        faults.check(self.capacity.get() > 0, "capacity", self.capacity, "must be above zero");
        if let Some(guaranteed) = self.guaranteed {
            faults.check(
                guaranteed <= self.capacity,
                "guaranteed",
                guaranteed,
                "must be at most `capacity`",
            );
        }
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

    /// The checked configuration.
    ///
    /// # Errors
    /// As [`BudgetConfig::validate`].
    pub fn build(self) -> Result<BudgetConfig, MemoryError> {
        self.config.validate()?;
        Ok(self.config)
    }
}
