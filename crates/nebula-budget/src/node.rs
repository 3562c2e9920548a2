//! One budget of a tree: its figures, and the path that charges and credits without a lock.
//!
//! A node has *funds*: its guaranteed part, and what it borrowed from its parent on top. Its parent
//! counts all of them as committed. Of its funds, a node keeps what is not spent in one atomic,
//! `free`; a charge takes from it, a credit adds to it, and as long as that goes well nobody else
//! is involved: not the parent, whatever the depth, and no lock. So funds, and with them every
//! ancestor's `committed`, move only on the slow path (see `arbitration`), in chunks.
//!
//! `committed` is `funded - free`. It cannot exceed the capacity, because `funded` does not: a root
//! is funded with its capacity once and for all, a child never beyond its own.

use std::collections::BTreeMap;

use nebula_memory_core::{
    MemoryError, ReclaimRegistry, Refusal,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicU8, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
};

use crate::BudgetState;

/// What all budgets of a tree share.
#[derive(Debug)]
pub(crate) struct Tree {
    /// Arbitration: whoever moves funds, changes a state or walks the tree holds this lock. The
    /// number is the next node's.
    pub(crate) lock: Mutex<u64>,
}

pub(crate) struct Node {
    /// Funds that are not spent. Moved by atomic read-modify-writes alone, by anybody.
    free: AtomicUsize,
    /// Guaranteed part and what was borrowed. Written under the tree's lock. Where it changes, it
    /// is lowered before `free` and raised after it, so that `funded - free`, read without the
    /// lock, may be too small for a moment but never too large.
    funded: AtomicUsize,
    /// The largest `committed` seen.
    peak: AtomicUsize,
    /// A credit that leaves more than this free goes through the slow path. Written under the lock.
    ceiling: AtomicUsize,
    /// Charges above this go through the slow path, to be refused: zero once released, otherwise
    /// what a throttle says.
    largest_charge: AtomicUsize,
    state: AtomicU8,
    /// The part of `funded` that is never given back while the budget lives. Written under the
    /// lock.
    guaranteed: AtomicUsize,
    pub(crate) refusals: AtomicU64,
    pub(crate) capacity: usize,
    pub(crate) id: u64,
    pub(crate) name: Box<str>,
    /// Knows the path. Handed out with refusals.
    pub(crate) refusal: Arc<Refusal>,
    pub(crate) parent: Option<Arc<Node>>,
    pub(crate) tree: Arc<Tree>,
    /// Live children, and released ones with bytes still charged, by age. Locked under the tree's
    /// lock only.
    pub(crate) children: Mutex<BTreeMap<u64, Arc<Node>>>,
    pub(crate) reclaimers: ReclaimRegistry,
}

/// Funds are borrowed in chunks of this size, smaller ones for small budgets.
const CHUNK: usize = 64 << 10;

impl Node {
    /// A node that holds `guaranteed` bytes of funds (which its parent has parted with).
    pub(crate) fn new(
        name: Box<str>,
        id: u64,
        capacity: usize,
        guaranteed: usize,
        parent: Option<Arc<Self>>,
        tree: Arc<Tree>,
    ) -> Self {
        let path: Box<str> = match &parent {
            Some(parent) => format!("{}/{name}", parent.refusal.path()).into(),
            None => name.clone(),
        };
        let largest = parent.as_ref().map_or(usize::MAX, |p| p.largest_charge.load(Relaxed));
        Self {
            // Nothing is free before the first charge, so that the first one takes the slow path
            // and finds the state to be `Created`.
            free: AtomicUsize::new(0),
            funded: AtomicUsize::new(guaranteed),
            peak: AtomicUsize::new(0),
            ceiling: AtomicUsize::new(0),
            largest_charge: AtomicUsize::new(largest),
            state: AtomicU8::new(BudgetState::Created as u8),
            guaranteed: AtomicUsize::new(guaranteed),
            refusals: AtomicU64::new(0),
            capacity,
            id,
            name,
            refusal: Arc::new(Refusal::new(path)),
            parent,
            tree,
            children: Mutex::new(BTreeMap::new()),
            reclaimers: ReclaimRegistry::new(),
        }
    }

    /// Charges `bytes`.
    #[inline]
    pub(crate) fn try_charge(self: &Arc<Self>, bytes: usize) -> Result<(), MemoryError> {
        if bytes <= self.largest_charge.load(Relaxed) && self.spend(bytes) {
            return Ok(());
        }
        self.charge_slowly(bytes)
    }

    /// Takes `bytes` from `free`, if they are there.
    #[inline]
    pub(crate) fn spend(&self, bytes: usize) -> bool {
        let mut free = self.free.load(Relaxed);
        loop {
            let before = self.funded.load(Relaxed);
            let Some(left) = free.checked_sub(bytes) else { return false };
            match self.free.compare_exchange_weak(free, left, AcqRel, Relaxed) {
                Ok(_) => {
                    // Where funds came or went meanwhile, the smaller reading is the safe one.
                    let funded = self.funded.load(Relaxed).min(before);
                    self.raise_peak(funded.saturating_sub(left));
                    return true;
                }
                Err(now) => free = now,
            }
        }
    }

    #[inline]
    fn raise_peak(&self, committed: usize) {
        if committed > self.peak.load(Relaxed) {
            self.peak.fetch_max(committed, Relaxed);
        }
    }

    /// Gives back `bytes` that were charged.
    #[inline]
    pub(crate) fn credit(self: &Arc<Self>, bytes: usize) {
        if bytes == 0 {
            return;
        }
        // Release, and Acquire for the `ceiling` of whoever lowered it and took from `free` before:
        // either this call sees the new ceiling, or that one saw these bytes.
        let free = self.free.fetch_add(bytes, AcqRel).wrapping_add(bytes);
        if free > self.ceiling.load(Relaxed) {
            self.settle_slowly();
        }
    }

    pub(crate) fn state(&self) -> BudgetState {
        BudgetState::from_u8(self.state.load(Acquire))
    }

    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Relaxed)
    }

    pub(crate) fn guaranteed(&self) -> usize {
        self.guaranteed.load(Relaxed)
    }

    pub(crate) fn largest_charge(&self) -> usize {
        self.largest_charge.load(Relaxed)
    }
}

/// What only the holder of the tree's lock may do.
impl Node {
    pub(crate) fn funded(&self) -> usize {
        self.funded.load(Relaxed)
    }

    pub(crate) fn free(&self) -> usize {
        self.free.load(Acquire)
    }

    /// Bytes spent: charged here, or funding children.
    pub(crate) fn committed(&self) -> usize {
        match self.state() {
            BudgetState::Created => 0,
            _ => self.funded().saturating_sub(self.free()),
        }
    }

    /// Free funds that are not guaranteed, and so could go back to the parent.
    pub(crate) fn surplus(&self) -> usize {
        self.free().min(self.funded() - self.guaranteed())
    }

    /// The size in which this node borrows.
    pub(crate) fn chunk(&self) -> usize {
        (self.capacity / 32).min(CHUNK)
    }

    pub(crate) fn set_state(&self, state: BudgetState) {
        self.state.store(state as u8, Release);
        if state == BudgetState::Released {
            self.largest_charge.store(0, Release);
            self.guaranteed.store(0, Relaxed);
        }
        self.tune();
    }

    pub(crate) fn set_largest_charge(&self, bytes: usize) {
        if self.state() != BudgetState::Released {
            self.largest_charge.store(bytes, Relaxed);
        }
    }

    /// Sets the ceiling to what the state and the funds call for.
    fn tune(&self) {
        let (funded, guaranteed) = (self.funded(), self.guaranteed());
        let ceiling = match self.state() {
            // The next credit ends the exhaustion, or goes to the parent.
            BudgetState::Exhausted | BudgetState::Released => 0,
            // What was borrowed goes back once two chunks are free.
            _ if funded > guaranteed => (2 * self.chunk()).min(funded),
            // Everything is guaranteed: only a credit of what was never charged is above this.
            _ => funded,
        };
        self.ceiling.store(ceiling, Relaxed);
    }

    /// Hands the guaranteed part over for spending, on the first charge.
    pub(crate) fn open(&self) {
        if self.state() == BudgetState::Created {
            self.free.fetch_add(self.guaranteed(), AcqRel);
            self.set_state(BudgetState::Active);
        }
    }

    /// Adds funds that the parent parted with.
    pub(crate) fn add_funds(&self, bytes: usize) {
        self.free.fetch_add(bytes, AcqRel);
        let funded = self.funded() + bytes;
        self.funded.store(funded, Relaxed);
        self.tune();
        // Exact here, and a charge in flight may have read a `funded` from before.
        self.raise_peak(funded.saturating_sub(self.free()).min(funded));
    }

    /// Takes up to `bytes` of the surplus out of the node; returns how much that was.
    pub(crate) fn remove_funds(&self, bytes: usize) -> usize {
        loop {
            let funded = self.funded();
            let free = self.free();
            let take = bytes.min(free).min(funded - self.guaranteed());
            if take == 0 {
                return 0;
            }
            self.funded.store(funded - take, Relaxed);
            self.tune();
            // Release: a credit that comes after this sees the ceiling.
            if self.free.compare_exchange(free, free - take, AcqRel, Relaxed).is_ok() {
                return take;
            }
            self.funded.store(funded, Relaxed);
            self.tune();
        }
    }

    /// Adds bytes that children gave back. To be followed by a settlement.
    pub(crate) fn refund(&self, bytes: usize) {
        self.free.fetch_add(bytes, AcqRel);
    }

    /// Takes away what was credited without ever having been charged; returns how much.
    pub(crate) fn clamp(&self) -> usize {
        loop {
            let free = self.free();
            let excess = free.saturating_sub(self.funded());
            if excess == 0 {
                return 0;
            }
            if self.free.compare_exchange(free, free - excess, AcqRel, Relaxed).is_ok() {
                return excess;
            }
        }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("path", &self.refusal.path()).finish_non_exhaustive()
    }
}
