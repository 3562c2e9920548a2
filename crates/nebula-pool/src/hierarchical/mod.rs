//! The tree of pools.

mod getting;
mod line;
mod node;
mod returning;
mod tree;

use std::{
    fmt,
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use nebula_memory_core::{
    Account, ConfigFaults, MemoryError, Unlimited,
    sync::{Arc, thread::yield_now},
};

use self::{
    node::{Node, Place},
    tree::{Level, Tree},
};
use crate::{
    Growth, Holder, Order, PoolConfig, PoolStats, Poolable,
    alike::{constructors, told_in_bytes},
    books::Books,
    config::Abilities,
    factory::{self, Create, SharedFactory},
    keeping::Keeping,
    slot::Slot,
    table::Table,
    workshop::Workshop,
};

/// A pool that belongs to a tree of pools: a level. A service has one, its tenants have theirs below
/// it, and their requests below those.
///
/// - **Limits**: an object counts for the level that holds it and for all above; no level ever has
///   more than its capacity, with all that is below it.
/// - **Borrowing**: a level that has nothing idle takes what is idle above it; where a level above is
///   at its limit, it takes what is idle anywhere below that; only then it makes a new object.
/// - **Giving back**: what a level has idle beyond its [`max_idle`](PoolConfig::max_idle) goes to
///   the level above it when it comes back; what `maintain` finds to be too much does, too, and all
///   that is left when the level ends. (The root drops such objects, when it is maintained.)
/// - **Books**: each level has an account of its own. Objects that change levels are credited to one
///   and charged to the other, and stay where they are in memory.
///
/// Levels are made by [`child`](Self::child), share the root's factory, and keep those above them
/// alive. All of them share one lock, which is held for a few instructions at a time (where a level
/// has nothing and is full, for some more for each level of the tree).
///
/// Those who wait ([`get`](Self::get)) stand in one line. Whatever comes free goes to the first who
/// can have it; who waits because his own level is full stands in nobody's way.
///
/// ```
/// use nebula_memory_core::Unlimited;
/// use nebula_pool::{HierarchicalPool, PoolConfig};
///
/// let at_most = |capacity| PoolConfig::builder().capacity(capacity).build();
/// let root = HierarchicalPool::new(&at_most(3)?, String::new)?;
/// let (a, b) = (root.child(&at_most(2)?, Unlimited)?, root.child(&at_most(2)?, Unlimited)?);
///
/// let (first, second) = (a.try_get()?, a.try_get()?);
/// assert!(a.try_get().is_err()); // its own limit
/// let third = b.try_get()?;
/// assert!(b.try_get().is_err()); // the root's
/// drop(first); // `a` keeps it idle, and yet:
/// let borrowed = b.try_get()?;
/// assert_eq!((b.stats().borrowed, root.tree_stats().created), (1, 3));
/// # drop((second, third));
/// # Ok::<(), nebula_memory_core::MemoryError>(())
/// ```
pub struct HierarchicalPool<T: Poolable, A: Account = Unlimited> {
    number: usize,
    capacity: usize,
    keeping: Keeping,
    borrowed: AtomicU64,
    passed: AtomicU64,
    // In the order in which they are dropped: what is charged is freed before it is credited.
    tree: Arc<Tree<T, A>>,
    workshop: Workshop<A, Arc<SharedFactory<T>>>,
    parent: Option<Arc<Self>>,
}

impl<T, C: Create<T>> Create<T> for Arc<C> {
    fn create(&self) -> Result<T, MemoryError> {
        (**self).create()
    }
}

constructors!(HierarchicalPool, [Send + Sync + 'static] -> Arc<Self>);

impl<T: Poolable, A: Account> HierarchicalPool<T, A> {
    /// The root of a tree, whose objects are made by `factory`, which can fail, and charged to
    /// `account`.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] if `config` is not valid for this pool; the refusal of the
    /// account (or of the system) if there is no room for the table of slots, the factory, or the
    /// objects of the warm-up; the error of the factory. Then nothing stays charged.
    pub fn try_new_in<F>(
        config: &PoolConfig,
        account: A,
        factory: F,
    ) -> Result<Arc<Self>, MemoryError>
    where
        F: Fn() -> Result<T, MemoryError> + Send + Sync + 'static,
    {
        config.validate_for(Abilities { fifo: true, ttl: false })?;
        let own = Table::<Place<T>>::bytes(config.capacity, config.growth)?;
        let books = Books::open(account, own.saturating_add(size_of::<F>()))?;
        let table = Table::new(config.capacity, config.growth)?;
        let factory: SharedFactory<T> = factory::boxed(factory)?;
        let tree = Arc::new(Tree::new(table));
        let pool = Self::level(config, books, Arc::new(factory), tree, None)?;
        pool.grow()?;
        pool.fill(config.warm_up)?;
        Ok(pool)
    }

    /// A level below this one, whose objects are charged to `account`. How the table of places grows
    /// is the root's matter.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] if `config` is not valid for this pool, has a capacity above
    /// this level's, or sets a growth; [`MemoryError::Closed`] if this level is
    /// [closed](Self::close); [`MemoryError::PoolExhausted`] if a level above has no room for the
    /// warm-up; the refusal of the account or the error of the factory if the objects of the warm-up
    /// could not be made. Then nothing stays charged, and what was borrowed for it is back where it was.
    ///
    /// # Panics
    /// If the factory does; as above.
    pub fn child(
        self: &Arc<Self>,
        config: &PoolConfig,
        account: A,
    ) -> Result<Arc<Self>, MemoryError> {
        config.validate_for(Abilities { fifo: true, ttl: false })?;
        let mut faults = ConfigFaults::new();
        let (capacity, rule) = (config.capacity, "must be at most that of the level above");
        faults.check(capacity <= self.capacity, "capacity", capacity, rule);
        let (growth, rule) = (config.growth, "is for the root of a tree");
        faults.check(growth == Growth::None, "growth", format_args!("{growth:?}"), rule);
        faults.into_result()?;
        let books = Books::open(account, 0)?;
        let factory = Arc::clone(self.workshop.factory());
        let (tree, parent) = (Arc::clone(&self.tree), Some(Arc::clone(self)));
        let pool = Self::level(config, books, factory, tree, parent)?;
        pool.warm_up(config.warm_up)?;
        Ok(pool)
    }

    fn level(
        config: &PoolConfig,
        books: Books<A>,
        factory: Arc<SharedFactory<T>>,
        tree: Arc<Tree<T, A>>,
        parent: Option<Arc<Self>>,
    ) -> Result<Arc<Self>, MemoryError> {
        let workshop = Workshop::new(config, books, factory);
        // The root drops what is too much when it is maintained.
        let surplus = config.max_idle.filter(|_| parent.is_some()).unwrap_or(usize::MAX);
        let above = parent.as_ref().map(|parent| parent.number);
        let fifo = config.order == Order::Fifo;
        let number = tree.register(Level::new(above, config.capacity, surplus, fifo))?;
        let pool = Arc::new(Self {
            number,
            capacity: config.capacity,
            keeping: Keeping::new(config),
            borrowed: AtomicU64::new(0),
            passed: AtomicU64::new(0),
            tree,
            workshop,
            parent,
        });
        pool.tree.lock().levels[number].pool = Arc::downgrade(&pool);
        Ok(pool)
    }

    /// The level above, if this is not the root.
    pub fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    fn root(&self) -> &Self {
        let mut level = self;
        while let Some(parent) = &level.parent {
            level = parent;
        }
        level
    }

    /// The most objects that this level and all below it can have.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// The account that is charged for what this level holds.
    pub fn account(&self) -> &A {
        self.workshop.books.account()
    }

    /// How many stand in line, in the whole tree.
    pub fn waiting(&self) -> usize {
        self.tree.lock().line.len()
    }

    /// The figures of this level, without those below, as they are now. Of objects that came from
    /// other levels or went there, `borrowed` and `passed` tell:
    /// `created + borrowed == lent + idle + destroyed + detached + passed`.
    ///
    /// (`places` are those of the whole tree.)
    pub fn stats(&self) -> PoolStats {
        let (idle, lent, returned) = {
            let state = self.tree.lock();
            let level = &state.levels[self.number];
            (level.idle, level.lent, level.returned)
        };
        PoolStats {
            capacity: self.capacity,
            places: self.tree.table.len(),
            lent,
            idle,
            borrowed: self.borrowed.load(Relaxed),
            passed: self.passed.load(Relaxed),
            ..self.workshop.stats(returned.wrapping_add(lent as u64))
        }
    }

    /// The sums of the figures of all levels that the tree has, or has had; the capacity is the
    /// root's. (Of the levels' peaks, the sum is an upper bound of the tree's, and so is the capacity;
    /// of levels that are gone, the highest peak counts.)
    pub fn tree_stats(&self) -> PoolStats {
        let mut levels = Vec::new();
        let ended = loop {
            let state = self.tree.lock();
            if levels.capacity() >= state.levels.len() {
                levels.extend(state.levels.iter().filter_map(|level| level.pool.upgrade()));
                break state.ended;
            }
            let needed = state.levels.len();
            drop(state);
            levels = Vec::with_capacity(needed);
        };
        let add = |sum: PoolStats, level: &Arc<Self>| sum.plus(&level.stats());
        let sum = levels.iter().fold(ended, add);
        let capacity = self.root().capacity;
        let peak_lent = sum.peak_lent.map(|peak| peak.min(capacity));
        PoolStats { capacity, places: self.tree.table.len(), peak_lent, ..sum }
    }

    /// Who holds which object of this level since when, if
    /// [`track_holders`](PoolConfig::track_holders) is on; those who have held theirs for longest
    /// first.
    pub fn holders(&self) -> Vec<Holder> {
        self.workshop.holders()
    }

    /// Adds places, if there can be more.
    fn grow(&self) -> Result<(), MemoryError> {
        let (table, books) = (&self.tree.table, &self.root().workshop.books);
        let Some(_growing) = table.begin() else {
            // Somebody else is about to add places.
            yield_now();
            return Ok(());
        };
        let Some(bytes) = table.next_segment() else {
            // Somebody else has just added the last ones.
            yield_now();
            return Ok(());
        };
        books.expand(bytes)?;
        let slots = table.grow(bytes, |_| Slot::new(Node::new()));
        match slots {
            Ok(Some(slots)) => {
                let state = self.tree.lock();
                // The first place is used first.
                for slot in slots.iter().rev() {
                    // SAFETY: it is new, and on no list.
                    unsafe { state.vacant.push_front(NonNull::from(slot)) };
                }
                Ok(())
            }
            other => {
                books.contract(bytes);
                other.map(|_| ())
            }
        }
    }
}

told_in_bytes!([T: Poolable, A: Account] HierarchicalPool<T, A>);

impl<T: Poolable, A: Account> fmt::Debug for HierarchicalPool<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HierarchicalPool")
            .field("stats", &self.stats())
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}
