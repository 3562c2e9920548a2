//! `nebula-budget` beside the plain way to build the same: a tree of atomics, each charge going up
//! to the root by compare-and-swap, with a roll-back where a level refuses. Both keep hard limits
//! exactly. Nothing is guaranteed to a child, so that ours has to borrow from its parents, too.

use std::{
    hint::black_box,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use nebula_budget::{BudgetAccount, BudgetConfig, MemoryBudget};
use nebula_memory_core::{Account, ByteSize};

use crate::{Case, Contender, Thread, repeat};

const BYTES: usize = 64;
const CAPACITY: usize = 1 << 30;

/// A level of the plain tree.
struct Level {
    used: AtomicUsize,
    parent: Option<Arc<Self>>,
}

impl Level {
    fn new(parent: Option<Arc<Self>>) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), parent })
    }

    fn levels(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |level| level.parent.as_deref())
    }

    fn try_charge(&self, bytes: usize) -> Result<(), usize> {
        for (charged, level) in self.levels().enumerate() {
            let sum = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= CAPACITY);
            if let Err(used) = level.used.fetch_update(Relaxed, Relaxed, sum) {
                for level in self.levels().take(charged) {
                    level.used.fetch_sub(bytes, Relaxed);
                }
                return Err(CAPACITY - used);
            }
        }
        Ok(())
    }

    fn credit(&self, bytes: usize) {
        for level in self.levels() {
            level.used.fetch_sub(bytes, Relaxed);
        }
    }
}

/// A leaf of our tree. A budget closes when its last handle goes, so that one is kept.
struct Leaf {
    account: BudgetAccount,
    _budget: MemoryBudget,
}

/// What the cases do with a leaf.
trait Charged: Sync {
    fn charge(&self, bytes: usize);
    fn credit(&self, bytes: usize);

    #[inline(always)]
    fn pair(&self) {
        let bytes = black_box(BYTES);
        self.charge(bytes);
        self.credit(bytes);
    }
}

impl Charged for Leaf {
    #[inline(always)]
    fn charge(&self, bytes: usize) {
        self.account.try_charge(bytes).expect("far from the limit");
    }

    #[inline(always)]
    fn credit(&self, bytes: usize) {
        self.account.credit(bytes);
    }
}

impl Charged for Arc<Level> {
    #[inline(always)]
    fn charge(&self, bytes: usize) {
        self.try_charge(bytes).expect("far from the limit");
    }

    #[inline(always)]
    fn credit(&self, bytes: usize) {
        Level::credit(self, bytes);
    }
}

/// The leaves of a tree of that depth, all below one parent; a root is all leaves at once.
fn ours(depth: usize, leaves: usize) -> Vec<Leaf> {
    let config = BudgetConfig::builder(ByteSize::new(CAPACITY)).guaranteed(ByteSize::ZERO).build();
    let config = config.expect("a valid configuration");
    let child = |parent: &MemoryBudget, name: &str| {
        parent.child_with(name, &config).expect("nothing is guaranteed")
    };
    let mut budget = MemoryBudget::root("root", CAPACITY).expect("a valid capacity");
    for _ in 2..depth {
        budget = child(&budget, "level");
    }
    (0..leaves)
        .map(|i| if depth == 1 { budget.clone() } else { child(&budget, &format!("leaf {i}")) })
        .map(|budget| Leaf { account: budget.account(), _budget: budget })
        .collect()
}

fn plain(depth: usize, leaves: usize) -> Vec<Arc<Level>> {
    let mut level = Level::new(None);
    for _ in 2..depth {
        level = Level::new(Some(level));
    }
    let leaf =
        || if depth == 1 { Arc::clone(&level) } else { Level::new(Some(Arc::clone(&level))) };
    (0..leaves).map(|_| leaf()).collect()
}

/// The same work on a leaf of either tree.
macro_rules! case {
    ($name:literal, $unit:literal, $depth:literal, |$leaf:ident| $work:expr) => {
        Case::new(
            $name,
            Contender::each(
                "ours",
                || ours($depth, 1),
                |leaves| {
                    let $leaf = &leaves[0];
                    $work
                },
            ),
        )
        .unit($unit)
        .peer(Contender::each(
            "tree of atomics",
            || plain($depth, 1),
            |leaves| {
                let $leaf = &leaves[0];
                $work
            },
        ))
    };
}

/// More than a leaf borrows at a time.
fn fill_and_empty(leaf: &impl Charged) {
    for _ in 0..10_000 {
        leaf.charge(black_box(BYTES));
    }
    for _ in 0..10_000 {
        leaf.credit(black_box(BYTES));
    }
}

/// Two threads, on one leaf or each on its own.
fn two_threads(name: &'static str, leaves: usize) -> Case {
    fn work<L: Charged>(leaves: &[L], thread: Thread) {
        let leaf = &leaves[thread.index % leaves.len()];
        repeat(thread.iterations, || leaf.pair());
    }
    let a = Contender::threads("ours", 2, move || ours(4, leaves), |leaves, t| work(leaves, t));
    let b = Contender::threads("tree of atomics", 2, move || plain(4, leaves), |l, t| work(l, t));
    Case::new(name, a).unit("ns/pair").peer(b)
}

/// The cases.
pub fn cases() -> Vec<Case> {
    vec![
        case!("charge and credit 64 B, depth 1", "ns/pair", 1, |leaf| leaf.pair()),
        case!("charge and credit 64 B, depth 4", "ns/pair", 4, |leaf| leaf.pair()),
        case!("charge and credit 64 B, depth 8", "ns/pair", 8, |leaf| leaf.pair()),
        case!("10000 charges, then credits, depth 4", "ns/10000 pairs", 4, |leaf| {
            fill_and_empty(leaf);
        }),
        two_threads("2 threads, a leaf each, depth 4", 2),
        two_threads("2 threads, one leaf, depth 4", 1),
    ]
}
