//! Our budgets.

use nebula_budget::{BudgetAccount, BudgetConfig, LocalBudget, MemoryBudget, Reservation};
use nebula_memory_core::{Account, ByteSize};

use super::{BYTES, Books, CAPACITY, Parent, Shape};

/// The leaf of each thread.
fn leaves(shape: Shape) -> Vec<MemoryBudget> {
    let config = BudgetConfig::builder(ByteSize::new(CAPACITY)).guaranteed(ByteSize::ZERO).build();
    let config = config.expect("a valid configuration");
    let child = |parent: &MemoryBudget, name: &str| {
        parent.child_with(name, &config).expect("nothing is guaranteed")
    };
    let mut budget = MemoryBudget::root("root", CAPACITY).expect("a valid capacity");
    for _ in 2..shape.depth {
        budget = child(&budget, "level");
    }
    let leaf =
        |i| if shape.depth == 1 { budget.clone() } else { child(&budget, &format!("leaf {i}")) };
    let leaves: Vec<_> = (0..shape.leaves).map(leaf).collect();
    leaves.iter().cycle().take(shape.threads).cloned().collect()
}

/// A budget, charged through an account. The budget closes when its last handle goes, so that one
/// is kept.
pub(super) struct Shared {
    account: BudgetAccount,
    _budget: MemoryBudget,
}

impl Books for Shared {
    const NAME: &'static str = "ours";

    fn open(shape: Shape) -> Vec<Self> {
        let books = |budget: MemoryBudget| Self { account: budget.account(), _budget: budget };
        leaves(shape).into_iter().map(books).collect()
    }

    #[inline(always)]
    fn charge(&mut self, bytes: usize) {
        self.account.try_charge(bytes).expect("far from the limit");
    }

    #[inline(always)]
    fn credit(&mut self, bytes: usize) {
        self.account.credit(bytes);
    }
}

/// A reservation that is in use already.
pub(super) struct Reserved {
    reservation: Reservation,
    _budget: MemoryBudget,
}

impl Reserved {
    fn new(budget: MemoryBudget) -> Self {
        let reservation = budget.try_reserve(BYTES).expect("far from the limit");
        Self { reservation, _budget: budget }
    }
}

impl Books for Reserved {
    const NAME: &'static str = "ours";

    fn open(shape: Shape) -> Vec<Self> {
        leaves(shape).into_iter().map(Self::new).collect()
    }

    #[inline(always)]
    fn charge(&mut self, bytes: usize) {
        self.reservation.try_grow(bytes).expect("far from the limit");
    }

    #[inline(always)]
    fn credit(&mut self, bytes: usize) {
        self.reservation.shrink(bytes);
    }
}

/// A thread's own account of a budget.
pub(super) struct Local {
    account: LocalBudget,
    _budget: MemoryBudget,
}

impl Books for Local {
    const NAME: &'static str = "ours";

    fn open(shape: Shape) -> Vec<Self> {
        let books = |budget: MemoryBudget| Self { account: budget.local(), _budget: budget };
        leaves(shape).into_iter().map(books).collect()
    }

    #[inline(always)]
    fn charge(&mut self, bytes: usize) {
        self.account.try_charge(bytes).expect("far from the limit");
    }

    #[inline(always)]
    fn credit(&mut self, bytes: usize) {
        self.account.credit(bytes);
    }
}

/// A root and its children, to each of which a page is guaranteed.
pub(super) struct Tree;

impl Parent for Tree {
    const NAME: &'static str = "ours";
    type Root = MemoryBudget;
    type Child = MemoryBudget;
    type InUse = Reserved;

    fn root() -> MemoryBudget {
        MemoryBudget::root("root", CAPACITY).expect("a valid capacity")
    }

    fn child(root: &MemoryBudget, name: &str) -> MemoryBudget {
        root.child(name, 4096).expect("far from the limit")
    }

    fn in_use(root: &MemoryBudget, name: &str) -> Reserved {
        Reserved::new(Self::child(root, name))
    }
}
