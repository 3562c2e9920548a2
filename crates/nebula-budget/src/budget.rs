//! The handle of a budget.

use std::fmt;

use nebula_memory_core::{
    Account, Accounted, Allocator, ConfigFaults, Global, MemoryError, MemoryUsage, PressureLevel,
    PressureReading, PressureSource, ReclaimRegistry, Throttle,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use crate::{
    BudgetAccount, BudgetAllocator, BudgetConfig, BudgetNotice, BudgetSnapshot, BudgetState,
    Enforcement, LeakReport, LocalBudget, Reservation, Reserve, Watch, node::Node, tree::Tree,
};

/// A limit on memory, in a tree of limits: the process, its tenants, their queries.
///
/// A charge counts here and in every ancestor, and is refused as a whole if one of them has no
/// room; then nothing is charged anywhere. No level ever exceeds its capacity, whatever the threads
/// do. A child's *guaranteed* part is taken from the parent when the child is made; what it needs
/// beyond that, up to its capacity, it borrows while the parent has it.
///
/// A charge or credit is an atomic operation on this budget alone as long as its funds last,
/// however deep the tree is; funds are borrowed from the parent in chunks of up to 1 MiB, smaller
/// ones for small budgets and near the limit. A [`local`](Self::local) account does without atomics.
/// Unspent chunks count as committed at the parent ([`committed`](Self::committed)) and are collected
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
        if self.parent.is_none() {
            self.node.part_with_children();
        }
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
        Self::root_with(
            name,
            &BudgetConfig { capacity: capacity.into(), ..BudgetConfig::default() },
        )
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
        let node = Arc::new(Node::new(name, 0, config, None, Arc::new(Tree::new())));
        Ok(Self(Arc::new(Handle { node, parent: None })))
    }

    /// A child that is guaranteed all of its `capacity`: the bytes are taken from this budget now,
    /// and come back when the child is released.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] if `capacity` is zero or above this budget's, or the name is
    /// empty or contains a `/`; [`MemoryError::BudgetExceeded`] if this budget (or an ancestor) has
    /// not that much left; [`MemoryError::LowPriority`] while this budget's priority is too low for
    /// a [throttle](Throttle::limit_priority); [`MemoryError::Closed`] if it is released.
    pub fn child(&self, name: &str, capacity: usize) -> Result<Self, MemoryError> {
        self.child_with(
            name,
            &BudgetConfig { capacity: capacity.into(), ..BudgetConfig::default() },
        )
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
        let node =
            self.node().add_child(name, config).map_err(|error| self.node().explain(error))?;
        Ok(Self(Arc::new(Handle { node, parent: Some(self.clone()) })))
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.0.node
    }

    /// Gives the capacity back to the parent at once; charges are refused from now on. What is
    /// still charged stays counted at the parent until it is credited.
    ///
    /// Returns a report if something is still charged. Releasing twice is fine. Those who wait for
    /// this budget's bytes get [`MemoryError::Closed`].
    ///
    /// # Errors
    /// [`MemoryError::LiveChildren`] if children are not released; it names them.
    pub fn release(&self) -> Result<Option<LeakReport>, MemoryError> {
        self.node().release()
    }

    /// A handle that charges this budget without keeping it from being released.
    #[must_use]
    pub fn account(&self) -> BudgetAccount {
        BudgetAccount(Arc::clone(self.node()))
    }

    /// An account for one thread at a time, at about a nanosecond for a charge and its credit.
    /// O(1); worth it for an owner that charges more than a few times.
    #[must_use]
    pub fn local(&self) -> LocalBudget {
        LocalBudget::new(self.node())
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
        Reservation::try_new(self.node(), bytes)
    }

    /// Waits for `bytes`, and charges them until the reservation is dropped: await it, or block on
    /// it with [`wait_timeout`](Reserve::wait_timeout).
    ///
    /// Reclaimers are asked first. Those who wait for the same level are served by priority, and
    /// first come first served among equals: whoever stands first takes what is credited, until it
    /// is enough. Charges that do not wait go on meanwhile as long as there is something free for
    /// them.
    ///
    /// ```
    /// use std::{thread, time::Duration};
    /// use nebula_budget::MemoryBudget;
    ///
    /// let budget = MemoryBudget::root("process", 1000)?;
    /// let first = budget.try_reserve(800)?;
    /// thread::scope(|s| {
    ///     let second = s.spawn(|| budget.reserve(500).wait_timeout(Duration::from_secs(60)));
    ///     drop(first);
    ///     assert_eq!(second.join().unwrap()?.bytes(), 500);
    ///     // More than the budget can ever hold is no matter of waiting.
    ///     assert!(budget.reserve(1001).wait().is_err());
    ///     Ok::<(), nebula_memory_core::MemoryError>(())
    /// })?;
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    ///
    /// # Errors
    /// [`MemoryError::BudgetExceeded`] at once if a capacity on the way to the root is smaller than
    /// that (also when it becomes so during the wait); [`MemoryError::Deadlock`] if those who wait
    /// hold so much themselves that the wait could never end (see [`Reserve::holding`]);
    /// [`MemoryError::Throttled`] and [`MemoryError::LowPriority`] while a throttle says so;
    /// [`MemoryError::Closed`] once the budget is released. Nothing is
    /// charged then.
    pub fn reserve(&self, bytes: usize) -> Reserve {
        Reserve::new(self.node(), bytes)
    }

    /// Calls `hook` for what happens here and in all budgets below, until the watch is dropped.
    ///
    /// Hooks run on the thread that caused the event, after it, with no lock held; they may use the
    /// budget. A panic in a hook is caught and ignored.
    ///
    /// ```
    /// use std::sync::mpsc;
    /// use nebula_budget::{Account, BudgetEvent, BudgetState, MemoryBudget};
    ///
    /// let process = MemoryBudget::root("process", 1000)?;
    /// let (sender, events) = mpsc::channel();
    /// let watch = process.watch(move |notice| {
    ///     let _ = sender.send((notice.path.to_owned(), notice.event));
    /// });
    /// process.child("acme", 100)?.try_charge(101).unwrap_err();
    /// # drop(watch);
    /// let exhausted = |(path, event): &(String, BudgetEvent)| {
    ///     path == "process/acme"
    ///         && matches!(event, BudgetEvent::StateChanged { to: BudgetState::Exhausted, .. })
    /// };
    /// assert!(events.iter().any(|event| exhausted(&event)));
    /// # Ok::<(), nebula_memory_core::MemoryError>(())
    /// ```
    pub fn watch(&self, hook: impl Fn(&BudgetNotice<'_>) + Send + Sync + 'static) -> Watch {
        self.node().watch(Arc::new(hook))
    }

    /// The budget's name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.node().name()
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
        self.node().capacity()
    }

    /// Which priority its charges have while [`Throttle::limit_priority`] is in force: the lowest of
    /// the [configured](BudgetConfig::priority) ones from here to the root.
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.node().priority()
    }

    /// The bytes that are this budget's own, whatever others do. Zero once released.
    #[must_use]
    pub fn guaranteed(&self) -> usize {
        match self.parent() {
            None if self.state() != BudgetState::Released => self.capacity(),
            _ => self.node().guaranteed(),
        }
    }

    /// Bytes that count against the capacity: what is charged here, and all that children hold,
    /// their unspent guarantees and chunks included. Never above the capacity, unless that was
    /// lowered since, or the budget only observes.
    #[must_use]
    pub fn committed(&self) -> usize {
        self.node().tree.locked(|_| self.node().committed())
    }

    /// Bytes that are really charged, here and below. Exact while no charge is in flight. O(n) in
    /// the number of budgets below; charges go on meanwhile.
    #[must_use]
    pub fn used(&self) -> usize {
        self.node().figures().1
    }

    /// The largest [`committed`](Self::committed) so far, in bytes. (A charge that comes and goes
    /// within the few instructions in which another thread moves funds here may be missed.)
    #[must_use]
    pub fn peak(&self) -> usize {
        self.node().peak()
    }

    /// The figures of this budget and of all below. O(n) in their number.
    #[must_use]
    pub fn snapshot(&self) -> BudgetSnapshot {
        self.node().tree.locked(|_| self.node().snapshot())
    }

    /// How many charges were made to this budget itself. Each counts once: a reservation that grows
    /// is another charge, and so is each chunk of an arena.
    #[must_use]
    pub fn charges(&self) -> u64 {
        self.node().charges()
    }

    /// How many charges this level refused, its own and those of budgets below.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.node().counts.refusals.load(Relaxed)
    }

    /// The mark above which hooks are called and reclaimers asked, in bytes.
    #[must_use]
    pub fn high(&self) -> Option<usize> {
        Some(self.node().high()).filter(|high| *high != usize::MAX)
    }

    /// What happens to charges that do not fit.
    #[must_use]
    pub fn enforcement(&self) -> Enforcement {
        self.node().enforcement()
    }

    /// Changes the capacity. If more is committed than the new one allows, new charges are refused
    /// until enough has been credited, and reclaimers are asked for the difference at once.
    ///
    /// Children keep their own maximum, but are never given more than this budget has.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] if it is zero, below the guaranteed part, or above the
    /// parent's capacity; [`MemoryError::Closed`] once released. Nothing changes then.
    pub fn set_capacity(&self, bytes: usize) -> Result<(), MemoryError> {
        self.node().set_capacity(bytes)
    }

    /// Changes the guaranteed part. What it grows by is taken from the parent, as at creation,
    /// unless the budget has borrowed as much already; what it shrinks by goes back as far as it is
    /// not in use.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] if it is above the capacity, or this is a root;
    /// [`MemoryError::BudgetExceeded`] if the parent has not that much left;
    /// [`MemoryError::Closed`] once released. Nothing changes then.
    pub fn set_guaranteed(&self, bytes: usize) -> Result<(), MemoryError> {
        self.node().set_guaranteed(bytes)
    }

    /// Changes the mark above which hooks are called and reclaimers asked.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] if it is above the capacity.
    pub fn set_high(&self, bytes: Option<usize>) -> Result<(), MemoryError> {
        self.node().set_high(bytes)
    }

    /// Changes what happens to charges that do not fit. What was let through before stays charged.
    pub fn set_enforcement(&self, enforcement: Enforcement) {
        self.node().set_enforcement(enforcement);
    }

    /// Asks reclaimers for `bytes`: this budget's own first, then those of the budgets below, each
    /// up to what it has borrowed. Returns how much they gave.
    pub fn reclaim(&self, bytes: usize, urgency: PressureLevel) -> usize {
        self.node().reclaim_below(self.node(), bytes, urgency)
    }

    /// Who is asked to give memory back before this budget, or one below it, refuses.
    ///
    /// Register what is charged here: caches, pools. A budget that is short asks its own reclaimers
    /// and those of its ancestors up to the level that has no room, then those of all others below
    /// that level, each budget up to what it has borrowed beyond its guaranteed part; in both groups
    /// lower priorities (what is idle) before higher ones (what is in use).
    #[must_use]
    pub fn reclaimers(&self) -> &ReclaimRegistry {
        self.node().reclaimers()
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

/// Limits single charges in this budget and in all below, also in children made later. Where several
/// budgets from here to the root are limited, the tightest wish counts, and each is lifted by itself.
///
/// What is charged already stays, and who waits in line already is served. Unspent funds of
/// [local accounts](MemoryBudget::local) are called in, so that from the return of the call on
/// nobody charges past it.
///
/// ```
/// use nebula_budget::{Account, BudgetConfig, MemoryBudget};
/// use nebula_memory_core::{ByteSize, Throttle};
///
/// let process = MemoryBudget::root("process", 1 << 20)?;
/// let batch = BudgetConfig::builder(ByteSize::kib(64)).priority(10).build()?;
/// let batch = process.child_with("batch", &batch)?;
/// let paying = process.child("paying", 64 << 10)?;
///
/// process.limit_priority(Some(100));
/// assert_eq!(batch.try_charge(1).unwrap_err().code(), "low_priority");
/// paying.try_charge(1)?;
/// process.limit_priority(None);
/// batch.try_charge(1)?;
/// # batch.credit(1);
/// # paying.credit(1);
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
impl Throttle for MemoryBudget {
    fn limit_single_charges(&self, largest: Option<usize>) {
        self.node().throttle(Some(largest.unwrap_or(usize::MAX)), None);
    }

    /// Children of a lower priority ([`BudgetConfig::priority`]) are not made meanwhile either, if
    /// they are to be guaranteed anything.
    fn limit_priority(&self, least: Option<u8>) {
        self.node().throttle(None, Some(least.unwrap_or(0)));
    }
}

/// The tree as a table.
impl fmt::Display for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.snapshot(), f)
    }
}

/// The path, and the tree as a table.
impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MemoryBudget `{}`\n{self}", self.path())
    }
}
