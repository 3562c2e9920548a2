//! The handle of a budget.

use std::fmt;

use nebula_memory_core::{
    Account, Accounted, Allocator, Charge, ConfigFaults, Global, MemoryError, MemoryUsage,
    PressureReading, PressureSource, ReclaimRegistry, Throttle,
    sync::{Arc, Mutex},
};

use crate::{
    BudgetAccount, BudgetAllocator, BudgetConfig, BudgetSnapshot, BudgetState, Reservation,
    node::{Node, Tree},
};

/// A limit on memory, in a tree of limits: the process, its tenants, their queries.
///
/// A charge counts here and in every ancestor, and is refused as a whole if one of them has no
/// room; then nothing is charged anywhere. No level ever exceeds its capacity, whatever the threads
/// do. A child's *guaranteed* part is taken from the parent when the child is made; what it needs
/// beyond that, up to its capacity, it borrows while the parent has it.
///
/// A charge or credit is an atomic operation on this budget alone as long as its funds last,
/// however deep the tree is; funds are borrowed from the parent in chunks of up to 64 KiB. Unspent
/// chunks count as committed at the parent ([`committed`](Self::committed)) and are collected
/// before anything is refused.
///
/// Handles are cheap to clone and usable from any thread. When the last one is dropped, the budget
/// is released. A child keeps its parent.
///
/// ```
/// use nebula_budget::{Account, MemoryBudget};
/// use nebula_memory_core::allocator_api2::vec::Vec;
///
/// let process = MemoryBudget::root("process", 1 << 20)?;
/// let tenant = process.child("acme", 64 << 10)?;
///
/// // By hand, by guard, or through an allocator.
/// tenant.try_charge(1000)?;
/// let reservation = tenant.try_reserve(2000)?;
/// let mut rows = Vec::new_in(tenant.allocator());
/// rows.try_reserve_exact(500).unwrap();
/// rows.push(7_u64);
/// assert_eq!(tenant.used(), 1000 + 2000 + 500 * 8);
///
/// let error = tenant.try_reserve(64 << 10).unwrap_err();
/// assert!(error.to_string().contains("`process/acme` has used"));
///
/// tenant.credit(1000);
/// drop((reservation, rows));
/// assert_eq!(process.used(), 0);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
#[derive(Clone)]
pub struct MemoryBudget(Arc<Handle>);

/// Releases the budget when the last clone is dropped.
struct Handle {
    node: Arc<Node>,
    /// Keeps the parent from being released first.
    parent: Option<MemoryBudget>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Children hold their parent's handle, so that none is alive here, and without live
        // children releasing cannot fail.
        let released = self.node.release();
        debug_assert!(released.is_ok(), "{released:?}");
    }
}

fn check_name(name: &str, faults: &mut ConfigFaults) {
    faults.check(
        !name.is_empty() && !name.contains('/'),
        "name",
        name,
        "must not be empty or contain a slash",
    );
}

impl MemoryBudget {
    /// A tree of its own, with `capacity` bytes to give.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] if `capacity` is zero, or the name is empty or contains a `/`.
    pub fn root(name: &str, capacity: usize) -> Result<Self, MemoryError> {
        Self::root_with(name, &BudgetConfig { capacity: capacity.into(), guaranteed: None })
    }

    /// As [`root`](Self::root), from a configuration.
    ///
    /// # Errors
    /// As [`root`](Self::root), and if the configuration has a guaranteed part: a root has no
    /// parent that could guarantee it.
    pub fn root_with(name: &str, config: &BudgetConfig) -> Result<Self, MemoryError> {
        let mut faults = ConfigFaults::new();
        check_name(name, &mut faults);
        faults.nest("budget", config.validate());
        if let Some(guaranteed) = config.guaranteed {
            faults.add("budget.guaranteed", guaranteed, "must be left out for a root");
        }
        faults.into_result()?;
        let tree = Arc::new(Tree { lock: Mutex::new(1) });
        let capacity = config.capacity.get();
        let node = Arc::new(Node::new(name.into(), 0, capacity, capacity, None, tree));
        Ok(Self(Arc::new(Handle { node, parent: None })))
    }

    /// A child that is guaranteed all of its `capacity`: the bytes are taken from this budget now,
    /// and come back when the child is released.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] if `capacity` is zero or above this budget's, or the name is
    /// empty or contains a `/`; [`MemoryError::BudgetExceeded`] if this budget (or an ancestor) has
    /// not that much left; [`MemoryError::Closed`] if it is released.
    pub fn child(&self, name: &str, capacity: usize) -> Result<Self, MemoryError> {
        self.child_with(name, &BudgetConfig { capacity: capacity.into(), guaranteed: None })
    }

    /// A child with a guaranteed part, and a capacity up to which it may borrow beyond it.
    ///
    /// # Errors
    /// As [`child`](Self::child); what has to be left is the guaranteed part.
    pub fn child_with(&self, name: &str, config: &BudgetConfig) -> Result<Self, MemoryError> {
        let mut faults = ConfigFaults::new();
        check_name(name, &mut faults);
        faults.nest("budget", config.validate());
        faults.check(
            config.capacity.get() <= self.capacity(),
            "budget.capacity",
            config.capacity,
            "must be at most the parent's capacity",
        );
        faults.into_result()?;
        let (capacity, guaranteed) = (config.capacity.get(), config.guaranteed_bytes());
        let node = self
            .node()
            .add_child(name.into(), capacity, guaranteed)
            .map_err(|error| self.node().explain(error))?;
        Ok(Self(Arc::new(Handle { node, parent: Some(self.clone()) })))
    }

    fn node(&self) -> &Arc<Node> {
        &self.0.node
    }

    /// Gives the capacity back to the parent at once; charges are refused from now on. What is
    /// still charged stays counted at the parent until it is credited.
    ///
    /// Releasing twice is fine.
    ///
    /// # Errors
    /// [`MemoryError::LiveChildren`] if children are not released; it names them.
    pub fn release(&self) -> Result<(), MemoryError> {
        self.node().release()
    }

    /// A handle that charges this budget without keeping it from being released.
    #[must_use]
    pub fn account(&self) -> BudgetAccount {
        BudgetAccount(Arc::clone(self.node()))
    }

    /// The heap, charged to this budget: for collections and arenas.
    #[must_use]
    pub fn allocator(&self) -> BudgetAllocator {
        self.allocator_in(Global)
    }

    /// `base`, charged to this budget.
    pub fn allocator_in<A: Allocator>(&self, base: A) -> Accounted<A, BudgetAccount> {
        Accounted::new(base, self.account())
    }

    /// Charges `bytes` until the reservation is dropped.
    ///
    /// # Errors
    /// [`MemoryError::BudgetExceeded`], with the largest consumers; nothing is charged then.
    pub fn try_reserve(&self, bytes: usize) -> Result<Reservation, MemoryError> {
        Charge::try_new(self.account(), bytes)
    }

    /// The budget's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.node().name
    }

    /// The names from the root, joined by `/`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.node().refusal.path()
    }

    /// The parent, or `None` for a root.
    #[must_use]
    pub fn parent(&self) -> Option<&Self> {
        self.0.parent.as_ref()
    }

    /// Where the budget is in its life.
    #[must_use]
    pub fn state(&self) -> BudgetState {
        self.node().state()
    }

    /// The most bytes that may be charged.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.node().capacity
    }

    /// The bytes that are this budget's own, whatever others do. Zero once released.
    #[must_use]
    pub fn guaranteed(&self) -> usize {
        match self.parent() {
            Some(_) => self.node().guaranteed(),
            None => self.capacity(),
        }
    }

    /// Bytes that count against the capacity: what is charged here, and all that children hold,
    /// their unspent guarantees and chunks included. Never above the capacity.
    #[must_use]
    pub fn committed(&self) -> usize {
        let _lock = self.node().lock();
        self.node().committed()
    }

    /// Bytes that are really charged, here and below. Exact while no charge is in flight. O(n) in
    /// the number of budgets below.
    #[must_use]
    pub fn used(&self) -> usize {
        let _lock = self.node().lock();
        self.node().figures().1
    }

    /// The largest [`committed`](Self::committed) so far, in bytes.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.node().peak()
    }

    /// The figures of this budget and of all below. O(n) in their number.
    #[must_use]
    pub fn snapshot(&self) -> BudgetSnapshot {
        let _lock = self.node().lock();
        self.node().snapshot()
    }

    /// Who is asked to give memory back before this budget, or one below it, refuses.
    ///
    /// Register what is charged here: caches, pools. A budget that is short asks its own reclaimers
    /// first, then those of its ancestors up to the level that has no room, then those of all others
    /// below that level.
    #[must_use]
    pub fn reclaimers(&self) -> &ReclaimRegistry {
        &self.node().reclaimers
    }
}

impl Account for MemoryBudget {
    #[inline]
    fn try_charge(&self, bytes: usize) -> Result<(), MemoryError> {
        self.node().try_charge(bytes)
    }

    #[inline]
    fn credit(&self, bytes: usize) {
        self.node().credit(bytes);
    }

    fn explain(&self, error: MemoryError) -> MemoryError {
        self.node().explain(error)
    }

    fn books(&self) -> Option<usize> {
        Some(Arc::as_ptr(self.node()).addr())
    }
}

impl MemoryUsage for MemoryBudget {
    fn used(&self) -> usize {
        MemoryBudget::used(self)
    }

    fn capacity(&self) -> Option<usize> {
        Some(MemoryBudget::capacity(self))
    }
}

/// How full the budget is: the bytes really charged against its capacity. Guarantees that nobody
/// makes use of are no pressure. O(n) in the number of budgets below.
impl PressureSource for MemoryBudget {
    fn name(&self) -> &str {
        MemoryBudget::name(self)
    }

    fn read(&self) -> Result<PressureReading, MemoryError> {
        Ok(PressureReading { used: self.used(), limit: Some(self.capacity()) })
    }
}

/// Limits single charges in this budget and in all below, also in children made later.
impl Throttle for MemoryBudget {
    fn limit_single_charges(&self, largest: Option<usize>) {
        self.node().throttle(largest.unwrap_or(usize::MAX));
    }
}

/// The tree as a table.
impl fmt::Display for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.snapshot(), f)
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudget")
            .field("path", &self.path())
            .field("state", &self.state())
            .field("committed", &self.committed())
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}
