//! The handles through which others charge a budget.

use std::fmt;

use nebula_memory_core::{Account, Accounted, Global, MemoryError, sync::Arc};

use crate::node::Node;

/// Charges a budget; cheap to clone, and usable from any thread.
///
/// It does not keep the budget alive: once the last [`MemoryBudget`](crate::MemoryBudget) handle is
/// dropped (or the budget released), further charges are refused, while what is charged already
/// stays counted at the parent until it is credited.
#[derive(Clone)]
pub struct BudgetAccount(pub(crate) Arc<Node>);

/// The heap, charged to a budget. What [`MemoryBudget::allocator`](crate::MemoryBudget::allocator)
/// returns.
pub type BudgetAllocator = Accounted<Global, BudgetAccount>;

impl BudgetAccount {
    /// The budget's names from the root, joined by `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.0.refusal.path()
    }
}

impl Account for BudgetAccount {
    #[inline]
    fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
        self.0.try_charge(bytes)
    }

    #[inline]
    fn credit(&self, bytes: usize) {
        self.0.credit(bytes);
    }

    fn explain(&self, error: MemoryError) -> MemoryError {
        self.0.explain(error)
    }

    fn books(&self) -> Option<usize> {
        Some(Arc::as_ptr(&self.0).addr())
    }
}

impl fmt::Debug for BudgetAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BudgetAccount").field(&self.path()).finish()
    }
}
