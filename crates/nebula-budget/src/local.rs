//! An account for one thread at a time.

use std::{cell::Cell, fmt, marker::PhantomData};

use nebula_memory_core::{Account, Accounted, Allocator, Global, MemoryError, sync::Arc};

use crate::{BudgetEvent, node::Node, slack::Slack};

/// Charges a budget from one thread at a time, without the cost of atomics: a charge and a credit
/// take about a nanosecond together. What [`MemoryBudget::local`](crate::MemoryBudget::local)
/// returns.
///
/// It can be sent to another thread, but not shared. It takes funds from its budget in chunks (up
/// to 64 KiB, less for small budgets and among many owners), and spends them by itself. Unspent
/// ones count as committed at the budget, but not as used; they are collected before the budget, or
/// one above it, refuses anybody. Charges too large for that go to the budget directly, and cost
/// what they cost there. So does everything on systems that have no process-wide fence (see
/// [`is_fast`](Self::is_fast)).
///
/// Like a [`BudgetAccount`](crate::BudgetAccount) it does not keep its budget from being released.
/// What is charged when it is dropped stays charged, to be credited to the budget.
///
/// ```
/// use nebula_budget::{Account, MemoryBudget};
/// use nebula_memory_core::allocator_api2::vec::Vec;
///
/// let budget = MemoryBudget::root("process", 1 << 20)?;
/// let local = budget.local();
/// local.try_charge(100)?;
/// assert_eq!(budget.used(), 100);
/// local.credit(100);
///
/// // For collections and arenas; they borrow the account.
/// let mut list = Vec::new_in(local.allocator());
/// list.extend(0..100_u64);
/// assert!(budget.used() >= 800);
/// drop(list);
/// assert_eq!(budget.used(), 0);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub struct LocalBudget {
    slack: Arc<Slack>,
    /// Not to be shared: the owner's side of `slack` is for one thread at a time.
    _one_thread: PhantomData<Cell<()>>,
}

impl LocalBudget {
    pub(crate) fn new(node: &Arc<Node>) -> Self {
        Self { slack: Slack::open(node), _one_thread: PhantomData }
    }

    /// The heap, charged to this account.
    #[must_use]
    pub fn allocator(&self) -> Accounted<Global, &Self> {
        self.allocator_in(Global)
    }

    /// `base`, charged to this account.
    pub fn allocator_in<A: Allocator>(&self, base: A) -> Accounted<A, &Self> {
        Accounted::new(base, self)
    }

    /// Bytes charged through this account, and not credited through it.
    #[must_use]
    pub fn charged(&self) -> usize {
        self.slack.bytes()
    }

    /// The budget's names from the root, joined by `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.slack.node.refusal.path()
    }

    /// Whether this system can collect unspent funds from owners that use no atomics: Linux since
    /// 4.14 and Windows can. Elsewhere each charge is an atomic operation on the budget.
    #[must_use]
    pub fn is_fast() -> bool {
        nebula_memory_core::fence::is_available()
    }
}

impl Account for LocalBudget {
    #[inline]
    fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
        if self.slack.spend(bytes) {
            return Ok(());
        }
        self.slack.charge_slowly(bytes)
    }

    #[inline]
    fn credit(&self, bytes: usize) {
        let excess = self.slack.credit(bytes);
        if excess > 0 {
            self.slack.report(excess);
        }
    }

    fn explain(&self, error: MemoryError) -> MemoryError {
        self.slack.node.explain(error)
    }

    fn books(&self) -> Option<usize> {
        Some(Arc::as_ptr(&self.slack).addr())
    }
}

impl Slack {
    /// Tells of bytes that were credited and not charged.
    #[cold]
    #[inline(never)]
    fn report(&self, excess: usize) {
        self.node.tree.locked(|locked| {
            self.node.count_excess(excess);
            locked.event(&self.node, BudgetEvent::OverCredited { excess });
        });
    }
}

impl Drop for LocalBudget {
    fn drop(&mut self) {
        self.slack.close();
    }
}

impl fmt::Debug for LocalBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalBudget")
            .field("path", &self.path())
            .field("charged", &self.charged())
            .finish_non_exhaustive()
    }
}
