//! One budget of a tree: its figures, and the path that charges and credits without a lock.
//!
//! A node has *funds*: its guaranteed part, and what it borrowed from its parent on top. Its parent
//! counts all of them as committed. Of its funds, a node keeps what is not spent in one atomic,
//! `free`; a charge takes from it, a credit adds to it, and as long as that goes well nobody else
//! is involved: not the parent, whatever the depth, and no lock. So funds, and with them every
//! ancestor's `committed`, move only on the slow path (see `arbitration`), in chunks. Owners that
//! work on one thread take chunks in turn (see `slack`), and then not even atomics are needed.
//!
//! `committed` is `funded - free`. It cannot exceed the capacity, because `funded` does not: a root
//! is funded with its capacity once and for all, a child never beyond its own. (Two exceptions are
//! the user's wish: a capacity lowered below what is committed already, and budgets that only
//! observe.)

use std::{collections::BTreeMap, sync::OnceLock};

use nebula_memory_core::{
    MemoryError, ReclaimRegistry, Refusal,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicU8, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
        },
    },
};

use crate::{
    BudgetConfig, BudgetState, Enforcement,
    events::Hooks,
    funds::{Free, MAX_FUNDS},
    slack::Slack,
    tree::Tree,
};

/// What a charge or credit touches, on cache lines that no other budget's charges touch.
#[repr(align(64))]
pub(crate) struct Hot {
    /// Funds that are not spent. Moved by atomic read-modify-writes alone, by anybody.
    pub(crate) free: Free,
    /// Guaranteed part and what was borrowed. Written under the tree's lock. Where it changes, it
    /// is lowered before `free` and raised after it, so that `funded - free`, read without the
    /// lock, may be too small for a moment but never too large.
    funded: AtomicUsize,
    /// A charge that leaves more than this committed has news: a new peak, or the high mark.
    notice: AtomicUsize,
    /// Charges above this go through the slow path, to be refused: zero once released and while
    /// the priority is too low, otherwise what a throttle says.
    largest_charge: AtomicUsize,
    /// A credit that leaves more than this free goes through the slow path. Written under the lock.
    ceiling: AtomicUsize,
}

pub(crate) struct Node {
    pub(crate) hot: Hot,
    /// The largest `committed` seen.
    peak: AtomicUsize,
    /// What throttles say of single charges, here and above: the tightest; `usize::MAX` for
    /// nothing. Written under the lock.
    throttle: AtomicUsize,
    /// What was said here of them. Written under the lock.
    own_throttle: AtomicUsize,
    /// What throttles say of priorities, here and above: the lowest that may charge. Written under
    /// the lock.
    least_priority: AtomicU8,
    /// What was said here of them. Written under the lock.
    own_least_priority: AtomicU8,
    /// The lowest of all from here to the root.
    priority: u8,
    /// Where the user wants to hear of `committed`; `usize::MAX` for nowhere.
    high: AtomicUsize,
    /// `high` was passed, and `committed` has not fallen well below it since. Written under the
    /// lock.
    over_high: AtomicBool,
    /// The part of `committed` that children and local accounts hold as their funds: raised after
    /// `free` was lowered, lowered before it is raised.
    lent: AtomicUsize,
    state: AtomicU8,
    enforcement: AtomicU8,
    /// The part of `funded` that is never given back while the budget lives. Written under the
    /// lock.
    guaranteed: AtomicUsize,
    /// Written under the lock.
    capacity: AtomicUsize,
    /// How much is borrowed at a time; doubles as chunks are used up, small again once drained.
    /// Written under the lock.
    chunk: AtomicUsize,
    /// How many wait for funds of this node. Written under the lock.
    pub(crate) waiting: AtomicUsize,
    /// How many wait further up, for bytes that are to be charged here or below. Written under the
    /// lock.
    pub(crate) awaited: AtomicUsize,
    pub(crate) counts: Counts,
    pub(crate) id: u64,
    /// Knows the path. Handed out with refusals.
    pub(crate) refusal: Arc<Refusal>,
    pub(crate) parent: Option<Arc<Self>>,
    pub(crate) tree: Arc<Tree>,
    /// Changed under the tree's lock; read under its own alone.
    pub(crate) family: Mutex<Family>,
    reclaimers: OnceLock<ReclaimRegistry>,
    /// Boxed, because few nodes have any.
    pub(crate) hooks: OnceLock<Box<Hooks>>,
}

/// What came of taking bytes from `free`.
pub(crate) enum Spent {
    /// They were not there.
    Not,
    Quietly,
    /// The peak is to be raised, or the high mark was passed.
    WithNews {
        committed: usize,
    },
}

/// Who holds funds of a node.
#[derive(Default)]
pub(crate) struct Family {
    /// Live children, and released ones with bytes still charged, by age.
    pub(crate) children: BTreeMap<u64, Arc<Node>>,
    /// Of those, the ones that have borrowed beyond their guaranteed part.
    pub(crate) borrowers: BTreeMap<u64, Arc<Node>>,
    pub(crate) owners: Vec<Arc<Slack>>,
}

/// What has happened at a node.
#[derive(Default)]
pub(crate) struct Counts {
    pub(crate) refusals: AtomicU64,
    /// Charges that were let through because the budget only observes, and their bytes.
    pub(crate) excused: AtomicU64,
    pub(crate) excused_bytes: AtomicU64,
    /// Bytes credited that nobody held.
    pub(crate) over_credited: AtomicU64,
}

/// The first chunk that is borrowed, and the largest; smaller for small budgets.
const FIRST_CHUNK: usize = 16 << 10;
const LARGEST_CHUNK: usize = 1 << 20;

impl Node {
    /// A node that holds its guaranteed part as funds (which its parent has parted with).
    pub(crate) fn new(
        name: &str,
        id: u64,
        config: &BudgetConfig,
        parent: Option<Arc<Self>>,
        tree: Arc<Tree>,
    ) -> Self {
        let path: Box<str> = match &parent {
            Some(parent) => format!("{}/{name}", parent.refusal.path()).into(),
            None => name.into(),
        };
        let throttle = parent.as_ref().map_or(usize::MAX, |p| p.throttle.load(Relaxed));
        let least = parent.as_ref().map_or(0, |p| p.least_priority());
        let priority = parent.as_ref().map_or(u8::MAX, |p| p.priority).min(config.priority);
        let largest = if priority < least { 0 } else { throttle };
        let guaranteed = config.guaranteed_bytes().min(MAX_FUNDS);
        let hot = Hot {
            // Nothing is free before the first charge, so that the first one takes the slow path
            // and finds the state to be `Created`.
            free: Free::new(),
            funded: AtomicUsize::new(guaranteed),
            notice: AtomicUsize::new(0),
            largest_charge: AtomicUsize::new(largest),
            ceiling: AtomicUsize::new(0),
        };
        Self {
            hot,
            peak: AtomicUsize::new(0),
            throttle: AtomicUsize::new(throttle),
            own_throttle: AtomicUsize::new(usize::MAX),
            least_priority: AtomicU8::new(least),
            own_least_priority: AtomicU8::new(0),
            priority,
            high: AtomicUsize::new(config.high_bytes()),
            over_high: AtomicBool::new(false),
            lent: AtomicUsize::new(0),
            state: AtomicU8::new(BudgetState::Created as u8),
            enforcement: AtomicU8::new(config.enforcement as u8),
            guaranteed: AtomicUsize::new(guaranteed),
            capacity: AtomicUsize::new(config.capacity.get()),
            chunk: AtomicUsize::new(FIRST_CHUNK),
            waiting: AtomicUsize::new(0),
            awaited: AtomicUsize::new(0),
            counts: Counts::default(),
            id,
            refusal: Arc::new(Refusal::new(path)),
            parent,
            tree,
            family: Mutex::new(Family::default()),
            reclaimers: OnceLock::new(),
            hooks: OnceLock::new(),
        }
    }

    /// Charges `bytes`.
    #[inline]
    pub(crate) fn try_charge(self: &Arc<Self>, bytes: usize) -> Result<(), MemoryError> {
        if bytes <= self.hot.largest_charge.load(Relaxed) {
            match self.spend::<true>(bytes) {
                Spent::Quietly => return Ok(()),
                Spent::WithNews { committed } => {
                    self.note_slowly(committed);
                    return Ok(());
                }
                Spent::Not => {}
            }
        }
        self.charge_slowly(bytes)
    }

    /// Takes `bytes` from `free`, counting a charge if `COUNT`.
    #[inline]
    pub(crate) fn spend<const COUNT: bool>(&self, bytes: usize) -> Spent {
        let look = || self.hot.funded.load(Relaxed);
        let Some((left, before)) = self.hot.free.take::<COUNT, _>(bytes, look) else {
            return Spent::Not;
        };
        // Where funds came or went meanwhile, the smaller reading is the safe one.
        let committed = self.hot.funded.load(Relaxed).min(before).saturating_sub(left);
        if committed > self.hot.notice.load(Relaxed) {
            Spent::WithNews { committed }
        } else {
            Spent::Quietly
        }
    }

    /// Gives back `bytes` that were charged.
    #[inline]
    pub(crate) fn credit(self: &Arc<Self>, bytes: usize) {
        if bytes == 0 {
            return;
        }
        // What is beyond all funds was never charged.
        let bytes = bytes.min(MAX_FUNDS);
        // Release, and Acquire for the `ceiling` of whoever lowered it and took from `free` before:
        // either this call sees the new ceiling, or that one saw these bytes.
        if self.hot.free.add(bytes) > self.hot.ceiling.load(Relaxed) {
            self.settle_slowly();
        }
    }

    /// Raises the peak. Returns whether `committed` is the first to pass the high mark.
    pub(crate) fn raise_peak(&self, committed: usize) -> bool {
        self.peak.fetch_max(committed, Relaxed);
        self.tune_notice();
        committed > self.high.load(Relaxed) && !self.over_high.load(Relaxed)
    }

    /// Sets `notice` to what the peak and the high mark call for.
    fn tune_notice(&self) {
        loop {
            // Whoever changes the mark stores it before `notice`: either this sees the change, or
            // that store is the later one. A peak that is too small only costs another call.
            let high = self.high.load(SeqCst);
            self.hot.notice.store(self.peak().min(high), SeqCst);
            if self.high.load(SeqCst) == high {
                return;
            }
        }
    }

    /// The last of the names in its path.
    pub(crate) fn name(&self) -> &str {
        let path = self.refusal.path();
        path.rsplit_once('/').map_or(path, |(_, name)| name)
    }

    pub(crate) fn state(&self) -> BudgetState {
        BudgetState::from_u8(self.state.load(Acquire))
    }

    pub(crate) fn enforcement(&self) -> Enforcement {
        Enforcement::from_u8(self.enforcement.load(Relaxed))
    }

    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Relaxed)
    }

    pub(crate) fn capacity(&self) -> usize {
        self.capacity.load(Relaxed)
    }

    pub(crate) fn guaranteed(&self) -> usize {
        self.guaranteed.load(Relaxed)
    }

    pub(crate) fn high(&self) -> usize {
        self.high.load(Relaxed)
    }

    /// The largest single charge that a throttle allows, if the priority is high enough for any.
    pub(crate) fn throttle_limit(&self) -> usize {
        self.throttle.load(Relaxed)
    }

    /// The lowest of all priorities from here to the root.
    pub(crate) fn priority(&self) -> u8 {
        self.priority
    }

    /// The lowest priority that may charge.
    pub(crate) fn least_priority(&self) -> u8 {
        self.least_priority.load(Relaxed)
    }

    /// Whether charges are looked at one by one, because some are refused.
    pub(crate) fn is_throttled(&self) -> bool {
        self.hot.largest_charge.load(Relaxed) < usize::MAX
    }

    pub(crate) fn funded(&self) -> usize {
        self.hot.funded.load(Relaxed)
    }

    pub(crate) fn free(&self) -> usize {
        self.hot.free.get()
    }

    /// Bytes spent: charged here, or funds of children and owners.
    pub(crate) fn committed(&self) -> usize {
        match self.state() {
            BudgetState::Created => 0,
            _ => {
                // Without the lock, funds may come or go between the two: the smaller reading is
                // the safe one.
                let before = self.funded();
                let free = self.free();
                self.funded().min(before).saturating_sub(free)
            }
        }
    }

    pub(crate) fn lent(&self) -> usize {
        self.lent.load(Acquire)
    }

    /// Notes bytes that were credited and that nobody held.
    pub(crate) fn count_excess(&self, bytes: usize) {
        self.counts.over_credited.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn reclaimers(&self) -> &ReclaimRegistry {
        self.reclaimers.get_or_init(ReclaimRegistry::new)
    }

    /// The reclaimers, if anybody ever asked for them.
    pub(crate) fn known_reclaimers(&self) -> Option<&ReclaimRegistry> {
        self.reclaimers.get()
    }

    /// This node, its parent, and so on up to the root.
    pub(crate) fn path(self: &Arc<Self>) -> impl Iterator<Item = &Arc<Self>> {
        std::iter::successors(Some(self), |node| node.parent.as_ref())
    }
}

/// What only the holder of the tree's lock may do.
impl Node {
    /// Free funds that are not guaranteed, and so could go back to the parent.
    pub(crate) fn surplus(&self) -> usize {
        self.free().min(self.borrowed())
    }

    /// What it holds beyond its guaranteed part.
    pub(crate) fn borrowed(&self) -> usize {
        self.funded() - self.guaranteed()
    }

    /// The size in which this node borrows.
    pub(crate) fn chunk(&self) -> usize {
        self.chunk.load(Relaxed).min(self.capacity() / 32)
    }

    /// A chunk was used up, and is followed by a larger one.
    pub(crate) fn enlarge_chunk(&self) {
        let chunk = self.chunk.load(Relaxed);
        self.chunk.store((2 * chunk).min(LARGEST_CHUNK), Relaxed);
    }

    /// Others needed what was borrowed.
    pub(crate) fn shrink_chunk(&self) {
        self.chunk.store(FIRST_CHUNK, Relaxed);
    }

    /// Whether credits are waited for: here, by those who passed here on their way up, or further
    /// up, where what is credited here would go.
    pub(crate) fn is_short(&self) -> bool {
        let mut node = self;
        loop {
            if node.waiting.load(Relaxed) > 0
                || node.awaited.load(Relaxed) > 0
                || node.state() == BudgetState::Exhausted
                || node.funded() > node.capacity()
            {
                return true;
            }
            match &node.parent {
                Some(parent) if node.funded() > node.guaranteed() => node = parent,
                _ => return false,
            }
        }
    }

    pub(crate) fn store_state(&self, state: BudgetState) {
        self.state.store(state as u8, Release);
        if state == BudgetState::Released {
            self.hot.largest_charge.store(0, Release);
            self.store_guaranteed(0);
        }
        self.tune_for_credits();
    }

    pub(crate) fn store_enforcement(&self, enforcement: Enforcement) {
        self.enforcement.store(enforcement as u8, Relaxed);
    }

    pub(crate) fn store_capacity(&self, capacity: usize) {
        self.capacity.store(capacity, Relaxed);
    }

    pub(crate) fn store_guaranteed(&self, guaranteed: usize) {
        self.guaranteed.store(guaranteed, Relaxed);
        self.list_as_borrower();
    }

    pub(crate) fn store_high(&self, high: usize) {
        self.high.store(high, SeqCst);
        self.tune_notice();
    }

    pub(crate) fn is_over_high(&self) -> bool {
        self.over_high.load(Relaxed)
    }

    pub(crate) fn set_over_high(&self, over: bool) {
        self.over_high.store(over, Relaxed);
        self.tune();
    }

    /// Where `committed` has to fall for the high mark to be left behind: a sixteenth below it.
    pub(crate) fn low(&self) -> usize {
        let high = self.high();
        high - high / 16
    }

    /// Changes what a throttle says here; `None` leaves that wish as it is. It takes effect by
    /// [`tune_throttle`](Self::tune_throttle).
    pub(crate) fn set_throttle(&self, largest: Option<usize>, least: Option<u8>) {
        if let Some(largest) = largest {
            self.own_throttle.store(largest, Relaxed);
        }
        if let Some(least) = least {
            self.own_least_priority.store(least, Relaxed);
        }
    }

    /// Takes over what throttles say here and above, where that is right already.
    pub(crate) fn tune_throttle(&self) {
        let above = |parent: &Arc<Self>| (parent.throttle_limit(), parent.least_priority());
        let (largest, least) = self.parent.as_ref().map_or((usize::MAX, 0), above);
        self.throttle.store(self.own_throttle.load(Relaxed).min(largest), Relaxed);
        self.least_priority.store(self.own_least_priority.load(Relaxed).max(least), Relaxed);
        if self.state() != BudgetState::Released {
            let refused = self.priority < self.least_priority();
            let largest = if refused { 0 } else { self.throttle_limit() };
            self.hot.largest_charge.store(largest, Relaxed);
        }
    }

    /// Sets the ceiling to what the state and the funds call for.
    pub(crate) fn tune(&self) {
        let (funded, guaranteed) = (self.funded(), self.guaranteed());
        let ceiling = if self.state() == BudgetState::Released || self.is_short() {
            0
        } else {
            // Above this, somebody credits what was never charged.
            let mut ceiling = funded.saturating_sub(self.lent());
            if funded > guaranteed {
                // What was borrowed goes back once two chunks are free.
                ceiling = ceiling.min(2 * self.chunk());
            }
            if self.is_over_high() {
                // To be left as soon as no more than `low` is committed.
                ceiling = ceiling.min(funded.saturating_sub(self.low()).saturating_sub(1));
            }
            ceiling
        };
        self.hot.ceiling.store(ceiling, Relaxed);
    }

    /// As [`tune`](Self::tune), for a ceiling that no credit may miss: either the credit sees it,
    /// or it is seen by whoever looks at `free` from now on.
    pub(crate) fn tune_for_credits(&self) {
        self.tune();
        self.hot.free.add(0);
    }

    /// Hands the guaranteed part over for spending.
    pub(crate) fn open(&self) {
        self.hot.free.add(self.guaranteed());
    }

    /// Adds funds that the parent parted with.
    pub(crate) fn add_funds(&self, bytes: usize) {
        self.hot.free.add(bytes);
        self.store_funded(self.funded() + bytes);
        // A charge that spent them already may have read the smaller funds.
        self.raise_peak(self.committed());
        if let Some(parent) = &self.parent {
            parent.lend(bytes);
        }
    }

    /// Takes up to `bytes` of the surplus out of the node; returns how much that was.
    pub(crate) fn remove_funds(&self, bytes: usize) -> usize {
        loop {
            let funded = self.funded();
            let free = self.free();
            let take = bytes.min(free).min(self.borrowed());
            if take == 0 {
                return 0;
            }
            self.store_funded(funded - take);
            // Release: a credit that comes after this sees the ceiling.
            if self.hot.free.take_from(free, take) {
                if let Some(parent) = &self.parent {
                    parent.take_back(take);
                }
                return take;
            }
            self.store_funded(funded);
        }
    }

    /// Lets `bytes` that are spent leave the node, or enter it.
    pub(crate) fn store_funded(&self, funded: usize) {
        self.hot.funded.store(funded, Relaxed);
        self.list_as_borrower();
        self.tune();
    }

    fn list_as_borrower(&self) {
        let Some(parent) = &self.parent else { return };
        let mut family = parent.family.lock();
        let is_listed = family.borrowers.contains_key(&self.id);
        // What a released one holds is charged, and comes back by itself.
        let is_borrower = self.borrowed() > 0 && self.state() != BudgetState::Released;
        if is_listed != is_borrower {
            if is_listed {
                family.borrowers.remove(&self.id);
            } else if let Some(this) = family.children.get(&self.id).cloned() {
                family.borrowers.insert(self.id, this);
            }
        }
    }

    pub(crate) fn lend(&self, bytes: usize) {
        self.lent.fetch_add(bytes, AcqRel);
        self.tune();
    }

    /// To be followed by a [`refund`](Self::refund) of as much, or by spending it.
    pub(crate) fn take_back(&self, bytes: usize) {
        self.lent.fetch_sub(bytes, AcqRel);
    }

    /// Adds bytes that came back. To be followed by a settlement.
    pub(crate) fn refund(&self, bytes: usize) {
        self.hot.free.add(bytes);
    }

    /// Takes away what was credited without ever having been charged; returns how much.
    pub(crate) fn clamp(&self) -> usize {
        // Before the first charge nothing has been handed over yet.
        let funded = if self.state() == BudgetState::Created { 0 } else { self.funded() };
        let mut clamped = 0_usize;
        loop {
            // In this order: bytes on their way between the two are counted nowhere, never twice.
            let free = self.free();
            let excess = free.saturating_add(self.lent()).saturating_sub(funded).min(free);
            if excess == 0 {
                return clamped;
            }
            // There may be more than `free` can say.
            if self.hot.free.take_from(free, excess) {
                clamped = clamped.saturating_add(excess);
            }
        }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("path", &self.refusal.path()).finish_non_exhaustive()
    }
}
