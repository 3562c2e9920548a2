//! The tree of pools.

mod getting;
mod tree;

use std::{
    fmt,
    ptr::NonNull,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use nebula_memory_core::{
    Account, MemoryError, MemoryUsage, PressureLevel, Reclaim, StatisticsProvider, StatsSnapshot,
    Unlimited,
    panics::quietly,
    sync::{Arc, Mutex, Weak, thread::yield_now},
};

use self::tree::{Level, Node, Place, State, Tree};
use crate::{
    Growth, Holder, Maintained, Order, PoolConfig, PoolStats, Poolable,
    books::{Books, Cause},
    config::Abilities,
    factory::{self, Create, SharedFactory},
    home::Home,
    keeping::{Keeping, Quota},
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
/// alive. All of them share one lock, which is held for a few instructions at a time; those who wait
/// ([`get`](Self::get)) stand in one line, in which the first who can be served is.
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
    /// Idle objects beyond which those that come back go to the parent.
    surplus: usize,
    gets: AtomicU64,
    borrowed: AtomicU64,
    passed: AtomicU64,
    // In the order in which they are dropped: what is charged is freed before it is credited.
    tree: Arc<Tree<T, A>>,
    workshop: Workshop<A, Arc<SharedFactory<T>>>,
    parent: Option<Arc<Self>>,
}

/// An object, or the place for one, on its way to the level that it was taken for.
pub(crate) struct Taken<T: Poolable, A: Account> {
    place: NonNull<Place<T>>,
    /// The level that it was borrowed from, in whose books it still is.
    from: Option<Arc<HierarchicalPool<T, A>>>,
}

// SAFETY: it stands for an object that is its holder's alone, and a shared level.
unsafe impl<T: Poolable + Send, A: Account + Send + Sync> Send for Taken<T, A> {}

impl<T, C: Create<T>> Create<T> for Arc<C> {
    fn create(&self) -> Result<T, MemoryError> {
        (**self).create()
    }
}

impl<T: Poolable> HierarchicalPool<T> {
    /// The root of a tree, whose objects are made by `factory` and charged to nobody.
    ///
    /// # Errors
    /// Those of [`try_new_in`](Self::try_new_in).
    pub fn new<F>(config: &PoolConfig, factory: F) -> Result<Arc<Self>, MemoryError>
    where
        F: Fn() -> T + Send + Sync + 'static,
    {
        Self::try_new_in(config, Unlimited, move || Ok(factory()))
    }
}

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
        let state = Mutex::new(State::new());
        let tree = Arc::new(Tree { table, state, waiting: AtomicUsize::new(0) });
        let pool = Self::level(config, books, Arc::new(factory), tree, None);
        pool.grow()?;
        pool.fill(config.warm_up)?;
        Ok(pool)
    }

    /// A level below this one, whose objects are charged to `account`. How the table of places grows
    /// is the root's matter.
    ///
    /// # Errors
    /// [`MemoryError::InvalidConfig`] if `config` is not valid for this pool, or sets a growth; the
    /// refusal of the
    /// account or the error of the factory if the objects of the warm-up could not be made. Then
    /// nothing stays charged.
    pub fn child(
        self: &Arc<Self>,
        config: &PoolConfig,
        account: A,
    ) -> Result<Arc<Self>, MemoryError> {
        config.validate_for(Abilities { fifo: true, ttl: false })?;
        if config.growth != Growth::None {
            let (growth, rule) = (format!("{:?}", config.growth), "is for the root of a tree");
            return Err(MemoryError::invalid_config("growth", growth, rule));
        }
        let books = Books::open(account, 0)?;
        let factory = Arc::clone(self.workshop.factory());
        let (tree, parent) = (Arc::clone(&self.tree), Some(Arc::clone(self)));
        let pool = Self::level(config, books, factory, tree, parent);
        pool.fill(config.warm_up)?;
        Ok(pool)
    }

    fn level(
        config: &PoolConfig,
        books: Books<A>,
        factory: Arc<SharedFactory<T>>,
        tree: Arc<Tree<T, A>>,
        parent: Option<Arc<Self>>,
    ) -> Arc<Self> {
        let workshop = Workshop::new(config, books, factory);
        Arc::new_cyclic(|weak| {
            let above = parent.as_ref().map(|parent| parent.number);
            let fifo = config.order == Order::Fifo;
            let level = Level::new(Weak::clone(weak), above, config.capacity, fifo);
            let number = Self::register(&tree, level);
            Self {
                surplus: config.max_idle.filter(|_| parent.is_some()).unwrap_or(usize::MAX),
                number,
                capacity: config.capacity,
                keeping: Keeping::new(config),
                gets: AtomicU64::new(0),
                borrowed: AtomicU64::new(0),
                passed: AtomicU64::new(0),
                tree,
                workshop,
                parent,
            }
        })
    }

    /// Adds a level to the tree; its number.
    fn register(tree: &Tree<T, A>, level: Level<T, A>) -> usize {
        // Room for more levels; what it replaces is freed at the end, without the lock.
        let mut room = Vec::new();
        loop {
            let mut state = tree.state.lock();
            let len = state.levels.len();
            let over = state.levels.iter().position(|level| !level.live);
            if let Some(over) = over {
                let older = std::mem::replace(&mut state.levels[over], level);
                drop(state);
                drop(older);
                return over;
            }
            if len == state.levels.capacity() {
                if room.capacity() <= len {
                    drop(state);
                    room = Vec::with_capacity((2 * len).max(4));
                    continue;
                }
                room.append(&mut state.levels);
                std::mem::swap(&mut room, &mut state.levels);
            }
            state.levels.push(level);
            return len;
        }
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

    /// Drops all idle objects of this level and returns the bytes credited for them. The table of
    /// slots stays.
    pub fn trim(&self) -> usize {
        let credited = self.discard(Quota::ALL, Cause::Reclaimed, |_| true);
        self.serve();
        credited
    }

    /// Gives the idle objects of this level that are more than its configuration allows or needs to
    /// the level above (the root drops them), and makes up for those that are missing from
    /// [`min_idle`](PoolConfig::min_idle). To be called from time to time.
    ///
    /// O(n²) in the number of idle objects that go.
    ///
    /// # Errors
    /// The error of the factory or the account's refusal, explained, if an object had to be made.
    ///
    /// # Panics
    /// If the factory does.
    pub fn maintain(&self) -> Result<Maintained, MemoryError> {
        let before = self.workshop.books.stats(0);
        let (idle, unused) = {
            let state = self.tree.state.lock();
            let unused = state.idle(self.number).filter(|slot| slot.is_unused()).count();
            (state.levels[self.number].idle, unused)
        };
        let (stale, rest) = self.keeping.surplus(idle, unused);
        for number in 0..stale + rest {
            let place = {
                let mut state = self.tree.state.lock();
                let place = state.pick(self.number, |slot| number >= stale || slot.is_unused());
                if place.is_some() {
                    state.levels[self.number].lent += 1;
                }
                place
            };
            let Some(place) = place else { continue };
            if self.parent.is_none() {
                self.drop_object(place, Cause::Surplus);
            } else if !self.pass_up(place) {
                // SAFETY: the place is this tree's, and ours until now.
                unsafe { self.tree.state.lock().put(self.number, place) };
            }
        }
        {
            let state = self.tree.state.lock();
            state.idle(self.number).for_each(Slot::look);
        }
        let idle = self.tree.state.lock().levels[self.number].idle;
        self.fill(self.keeping.min_idle.saturating_sub(idle))?;
        self.serve();
        Ok(Maintained::between(&before, &self.workshop.books.stats(0)))
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
        self.tree.waiting.load(Relaxed)
    }

    /// The figures of this level, without those below, as they are now. Of objects that came from
    /// other levels or went there, `borrowed` and `passed` tell:
    /// `created + borrowed == lent + idle + destroyed + detached + passed`.
    ///
    /// (`places` are those of the whole tree.)
    pub fn stats(&self) -> PoolStats {
        let (idle, lent) = {
            let state = self.tree.state.lock();
            let level = &state.levels[self.number];
            (level.idle, level.lent)
        };
        let count = |count: &AtomicU64| count.load(Relaxed);
        PoolStats {
            capacity: self.capacity,
            places: self.tree.table.len(),
            lent,
            idle,
            borrowed: count(&self.borrowed),
            passed: count(&self.passed),
            ..self.workshop.stats(count(&self.gets))
        }
    }

    /// The sums of the figures of all levels of the tree that live; the capacity is the root's.
    pub fn tree_stats(&self) -> PoolStats {
        let mut levels = Vec::new();
        loop {
            let state = self.tree.state.lock();
            if levels.capacity() >= state.levels.len() {
                levels.extend(state.levels.iter().filter_map(|level| level.pool.upgrade()));
                break;
            }
            let needed = state.levels.len();
            drop(state);
            levels = Vec::with_capacity(needed);
        }
        let add = |sum: PoolStats, level: &Arc<Self>| sum.plus(&level.stats());
        let sum = levels.iter().fold(PoolStats::default(), add);
        PoolStats { capacity: self.root().capacity, places: self.tree.table.len(), ..sum }
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
        let Some(bytes) = table.next_segment() else {
            // Somebody else is about to add the last places.
            yield_now();
            return Ok(());
        };
        books.expand(bytes)?;
        let slots = table.grow(bytes, |_| Slot::new(Node::new()));
        match slots {
            Ok(Some(slots)) => {
                let mut state = self.tree.state.lock();
                // The first place is used first.
                for slot in slots.iter().rev() {
                    // SAFETY: it is new, and on no list.
                    unsafe { state.add_place(NonNull::from(slot)) };
                }
                Ok(())
            }
            other => {
                books.contract(bytes);
                other.map(|_| ())
            }
        }
    }

    /// Makes idle objects, as far as there are places.
    fn fill(&self, objects: usize) -> Result<(), MemoryError> {
        for _ in 0..objects {
            let take = |state: &mut State<T, A>| state.take_from_others(self.number, false);
            match self.take_by(take)? {
                Some(taken) => drop(self.accept(taken)?),
                None => break,
            }
        }
        Ok(())
    }

    /// Gives an object of this level, which counts as lent, to the level above. `false` if that
    /// could not afford it: then it is this level's as before.
    fn pass_up(&self, place: NonNull<Place<T>>) -> bool {
        let Some(parent) = &self.parent else { return false };
        // SAFETY: slots live for as long as the tree's table.
        let slot = unsafe { place.as_ref() };
        let bytes = slot.charged();
        self.workshop.books.release(bytes);
        if parent.workshop.books.admit(bytes).is_err() {
            if self.workshop.books.admit(bytes).is_ok() {
                return false;
            }
            // Neither can this one, by now.
            // SAFETY: the slot is ours, and has an object, which is in nobody's books.
            let (object, _) = unsafe { slot.take() };
            quietly(move || object.destroy());
            self.workshop.books.destroy_uncharged(Cause::Unaffordable);
            // SAFETY: the place is this tree's, and ours until now.
            unsafe { self.tree.state.lock().vacate(self.number, place) };
            return true;
        }
        self.passed.fetch_add(1, Relaxed);
        parent.borrowed.fetch_add(1, Relaxed);
        slot.head.set_level(parent.number);
        let further = {
            let mut state = self.tree.state.lock();
            state.levels[self.number].lent -= 1;
            state.move_held(self.number, parent.number);
            state.levels[parent.number].lent += 1;
            let further = state.levels[parent.number].idle >= parent.surplus;
            if !further {
                // SAFETY: the place is this tree's, and ours until now.
                unsafe { state.put(parent.number, place) };
            }
            further
        };
        if further && !parent.pass_up(place) {
            // SAFETY: the place is this tree's, and ours until now.
            unsafe { self.tree.state.lock().put(parent.number, place) };
        }
        true
    }

    /// Ends an object of this level, which counts as lent.
    fn drop_object(&self, place: NonNull<Place<T>>, cause: Cause) {
        // SAFETY: slots live for as long as the tree's table.
        let slot = unsafe { place.as_ref() };
        // SAFETY: the slot is ours, and has an object.
        let (object, bytes) = unsafe { slot.take() };
        // SAFETY: the place is this tree's, and ours until now.
        unsafe { self.tree.state.lock().vacate(self.number, place) };
        self.workshop.destroy(object, bytes, cause);
    }

    /// Drops idle objects of this level that are `wanted`, those of the least value first. Returns
    /// the bytes credited. It gives up where it would have to wait for the lock.
    fn discard(&self, quota: Quota, cause: Cause, wanted: impl Fn(&Place<T>) -> bool) -> usize {
        let mut quota = quota;
        while !quota.is_met() {
            let (object, bytes) = {
                let Some(mut state) = self.tree.state.try_lock() else { break };
                let Some(place) = state.pick(self.number, &wanted) else { break };
                // SAFETY: slots live for as long as the tree's table.
                let slot = unsafe { place.as_ref() };
                // SAFETY: the slot was idle and is ours now, and has an object.
                let taken = unsafe { slot.take() };
                // SAFETY: the place is this tree's, and ours until now.
                unsafe { state.vacate_idle(self.number, place) };
                taken
            };
            quota.give(bytes);
            self.workshop.destroy(object, bytes, cause);
        }
        quota.bytes_given()
    }
}

// SAFETY: places that guards get were taken off their list, and no list gets them until they come
// back; the table's slots stay where they are, and every level keeps the table alive.
unsafe impl<T: Poolable, A: Account> Home for HierarchicalPool<T, A> {
    type Object = T;
    type Head = Node<T>;
    type Handle = Arc<Self>;

    unsafe fn take_back(&self, place: NonNull<Place<T>>) {
        // SAFETY: slots live for as long as the tree's table.
        let slot = unsafe { place.as_ref() };
        // SAFETY: the slot was a guard's, and is ours now.
        let kept = unsafe { self.workshop.take_back(slot) };
        let surplus = {
            let mut state = self.tree.state.lock();
            let surplus = kept && state.levels[self.number].idle >= self.surplus;
            if !kept {
                // SAFETY: the place is this tree's, and ours until now.
                unsafe { state.vacate(self.number, place) };
            } else if !surplus {
                // SAFETY: the place is this tree's, and ours until now.
                unsafe { state.put(self.number, place) };
            }
            surplus
        };
        if surplus && !self.pass_up(place) {
            // SAFETY: the place is this tree's, and ours until now.
            unsafe { self.tree.state.lock().put(self.number, place) };
        }
        self.serve();
    }

    unsafe fn detach(&self, place: NonNull<Place<T>>) -> T {
        // SAFETY: slots live for as long as the tree's table.
        let slot = unsafe { place.as_ref() };
        // SAFETY: the slot was a guard's, and is ours now.
        let object = unsafe { self.workshop.detach(slot) };
        // SAFETY: the place is this tree's, and ours until now.
        unsafe { self.tree.state.lock().vacate(self.number, place) };
        self.serve();
        object
    }
}

impl<T: Poolable, A: Account> Drop for HierarchicalPool<T, A> {
    /// Gives what is idle to the level above, or drops it; and drops all objects whose guards were
    /// leaked: nobody can reach them any more.
    fn drop(&mut self) {
        loop {
            let place = {
                let mut state = self.tree.state.lock();
                let place = state.pick(self.number, |_| true);
                if place.is_some() {
                    state.levels[self.number].lent += 1;
                }
                place
            };
            let Some(place) = place else { break };
            if !self.pass_up(place) {
                self.drop_object(place, Cause::Reclaimed);
            }
        }
        for slot in self.tree.table.iter() {
            if slot.is_full() && slot.head.level() == self.number {
                self.drop_object(NonNull::from(slot), Cause::Reclaimed);
            }
        }
        self.tree.state.lock().levels[self.number].live = false;
        self.serve();
    }
}

/// Idle objects of this level that something is charged for are dropped, those of the least value
/// first. All but critical requests leave the least number of idle objects there. It stops where it
/// would have to wait for the tree's lock.
impl<T: Poolable + Send, A: Account + Send + Sync> Reclaim for HierarchicalPool<T, A> {
    fn reclaimable(&self) -> usize {
        let Some(state) = self.tree.state.try_lock() else { return 0 };
        state.idle(self.number).map(Slot::charged).fold(0, usize::saturating_add)
    }

    fn reclaim(&self, wanted: usize, urgency: PressureLevel) -> usize {
        let kept = if urgency == PressureLevel::Critical { 0 } else { self.keeping.min_idle };
        let most = match self.tree.state.try_lock() {
            Some(state) => state.levels[self.number].idle.saturating_sub(kept),
            None => return 0,
        };
        self.discard(Quota::new(most, wanted), Cause::Reclaimed, |slot| slot.charged() > 0)
    }
}

/// In bytes; the number of objects is in [`stats`](HierarchicalPool::stats).
impl<T: Poolable, A: Account> MemoryUsage for HierarchicalPool<T, A> {
    /// Bytes charged to this level's account: for its objects, and, of the root, for the table.
    fn used(&self) -> usize {
        self.workshop.books.used()
    }

    /// `None`: a pool limits objects, not bytes; that is for its account to do.
    fn capacity(&self) -> Option<usize> {
        None
    }
}

/// The level as an allocator: each object is an allocation, and so is the level itself and, of the
/// root, each segment of the table.
impl<T: Poolable, A: Account> StatisticsProvider for HierarchicalPool<T, A> {
    fn statistics(&self) -> Option<StatsSnapshot> {
        Some(self.workshop.books.charges())
    }
}

impl<T: Poolable, A: Account> fmt::Debug for HierarchicalPool<T, A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HierarchicalPool")
            .field("stats", &self.stats())
            .field("waiting", &self.waiting())
            .finish_non_exhaustive()
    }
}
