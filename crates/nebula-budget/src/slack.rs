//! Funds in the hands of one owner, who spends them without atomics' cost.
//!
//! An owner works on one thread at a time. It alone writes `spent`; the tree, under its lock,
//! writes `granted`. A charge raises `spent` and then looks whether `granted` covers it; whoever
//! needs the funds lowers `granted` and then looks at `spent`. With a fence between the two steps on
//! either side at least one sees the other: the owner takes its charge back and goes the slow way,
//! or the funds stay with it. The owner's fence is free, because the collector runs it on the
//! owner's behalf (see `nebula_memory_core::fence`). Where the system cannot do that, owners get no
//! funds, and charge the budget directly.

use nebula_memory_core::{
    MemoryError, fence,
    sync::{
        Arc,
        atomic::{
            AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
};

use crate::{BudgetState, node::Node, tree::Locked};

/// What an owner and the tree share. The methods of the owner's side are only for the one thread
/// that is the owner at the time; anything else would make the books wrong (though nothing worse).
#[repr(align(64))]
pub(crate) struct Slack {
    /// Bytes charged out of `granted`. Written by the owner. For a moment it may be above
    /// `granted`, while a charge finds out that its funds have been collected.
    spent: AtomicUsize,
    /// The funds. Changed under the tree's lock.
    granted: AtomicUsize,
    /// A credit that leaves less than this spent goes the slow way: to give back what has become
    /// too much, or, at `usize::MAX`, always. Written under the tree's lock.
    floor: AtomicUsize,
    /// Charges that `granted` covered. Written by the owner.
    charges: AtomicU64,
    /// Bytes charged to the node directly. Written by the owner.
    direct: AtomicUsize,
    /// The size of the next grant. Written under the tree's lock.
    chunk: AtomicUsize,
    /// Where the node lists it. Written under the tree's lock.
    index: AtomicUsize,
    pub(crate) node: Arc<Node>,
}

/// The first grant, and the largest; smaller for small budgets and among many owners.
const FIRST_CHUNK: usize = 4 << 10;
const LARGEST_CHUNK: usize = 64 << 10;
/// It is not worth the while to hand out less.
const SMALLEST_CHUNK: usize = 128;
/// A grant is for this many charges at least.
const CHARGES_A_CHUNK: usize = 4;

/// The owner's side.
impl Slack {
    /// Charges `bytes` if the funds at hand cover them.
    #[inline]
    pub(crate) fn spend(&self, bytes: usize) -> bool {
        let spent = self.spent.load(Relaxed);
        let Some(after) = spent.checked_add(bytes) else { return false };
        // A charge that is not covered anyway must not hide funds from a collector.
        if after > self.granted.load(Relaxed) {
            return false;
        }
        self.spent.store(after, Relaxed);
        fence::light();
        if after <= self.granted.load(Acquire) {
            self.charges.store(self.charges.load(Relaxed).wrapping_add(1), Relaxed);
            true
        } else {
            self.spent.store(spent, Relaxed);
            false
        }
    }

    /// Charges `bytes` to the node, and takes funds along if that is worth the while.
    #[cold]
    #[inline(never)]
    pub(crate) fn charge_slowly(&self, bytes: usize) -> Result<(), MemoryError> {
        self.node.try_charge(bytes)?;
        self.set_direct(self.direct() + bytes);
        if bytes <= LARGEST_CHUNK / CHARGES_A_CHUNK && self.node.may_lend() {
            self.node.tree.locked(|locked| self.top_up(bytes, locked));
        }
        Ok(())
    }

    /// Credits `bytes` that were charged, if they leave no more funds at hand than is good.
    #[inline]
    pub(crate) fn restore(&self, bytes: usize) -> bool {
        let spent = self.spent.load(Relaxed);
        let Some(after) = spent.checked_sub(bytes) else { return false };
        self.spent.store(after, Relaxed);
        fence::light();
        if after >= self.floor.load(Acquire) {
            true
        } else {
            self.spent.store(spent, Relaxed);
            false
        }
    }

    /// Credits `bytes` to the node, or to the funds at hand. Returns what was not charged at all.
    #[cold]
    #[inline(never)]
    pub(crate) fn credit_slowly(&self, bytes: usize) -> usize {
        let direct = bytes.min(self.direct());
        if direct > 0 {
            self.set_direct(self.direct() - direct);
            self.node.credit(direct);
        }
        let rest = (bytes - direct).min(self.spent.load(Relaxed));
        if rest > 0 {
            self.node.tree.locked(|locked| {
                self.spent.store(self.spent.load(Relaxed) - rest, Release);
                self.give_back(locked);
            });
        }
        bytes - direct - rest
    }

    /// Bytes charged through this owner.
    #[inline]
    pub(crate) fn charged(&self) -> usize {
        self.spent.load(Relaxed) + self.direct()
    }

    #[inline]
    fn direct(&self) -> usize {
        self.direct.load(Relaxed)
    }

    fn set_direct(&self, bytes: usize) {
        self.direct.store(bytes, Relaxed);
    }

    /// Takes over `bytes` that are charged to the node directly.
    pub(crate) fn take_over(&self, bytes: usize) {
        self.set_direct(self.direct() + bytes);
    }

    /// Gives up `bytes` that are charged to the node directly; see
    /// [`charge_directly`](Self::charge_directly).
    pub(crate) fn hand_over(&self, bytes: usize) {
        self.set_direct(self.direct() - bytes);
    }

    /// Sees to it that, of what is charged, `bytes` are charged to the node directly.
    pub(crate) fn charge_directly(&self, bytes: usize) {
        let more = bytes.saturating_sub(self.direct());
        if more == 0 {
            return;
        }
        self.node.tree.locked(|_| {
            // They stay spent, but not out of this owner's funds any more.
            self.granted.fetch_sub(more, AcqRel);
            self.spent.store(self.spent.load(Relaxed) - more, Release);
            self.floor.store(usize::MAX, Release);
            self.node.take_back(more);
        });
        self.set_direct(bytes);
    }

    /// Ends the ownership. All that is charged stays charged, at the node.
    pub(crate) fn close(&self) {
        self.node.tree.locked(|locked| {
            let node = &self.node;
            let gone = {
                let mut family = node.family.lock();
                let index = self.index.load(Relaxed);
                let gone = family.owners.swap_remove(index);
                if let Some(moved) = family.owners.get(index) {
                    moved.index.store(index, Relaxed);
                }
                gone
            };
            let (granted, spent) = (self.granted.swap(0, AcqRel), self.spent.swap(0, AcqRel));
            self.set_direct(self.direct() + spent);
            node.hot.free.count(self.charges.load(Relaxed));
            node.take_back(granted);
            node.refund(granted - spent);
            node.settle(locked);
            drop(gone);
        });
    }
}

/// The tree's side, under its lock.
impl Slack {
    /// Registers an owner.
    pub(crate) fn open(node: &Arc<Node>) -> Arc<Self> {
        let slack = Arc::new(Self {
            spent: AtomicUsize::new(0),
            granted: AtomicUsize::new(0),
            floor: AtomicUsize::new(usize::MAX),
            charges: AtomicU64::new(0),
            direct: AtomicUsize::new(0),
            chunk: AtomicUsize::new(FIRST_CHUNK),
            index: AtomicUsize::new(0),
            node: Arc::clone(node),
        });
        node.tree.locked(|_| {
            let mut family = node.family.lock();
            slack.index.store(family.owners.len(), Relaxed);
            family.owners.push(Arc::clone(&slack));
        });
        slack
    }

    /// What the owner could spend.
    pub(crate) fn unspent(&self) -> usize {
        let granted = self.granted.load(Acquire);
        granted.saturating_sub(self.spent.load(Acquire))
    }

    pub(crate) fn charges(&self) -> u64 {
        self.charges.load(Relaxed)
    }

    /// Hands funds for charges of `bytes` to the owner, whose thread this is.
    fn top_up(&self, bytes: usize, locked: &mut Locked<'_>) {
        let node = &self.node;
        if !node.may_lend() || node.is_short() {
            return;
        }
        let owners = node.family.lock().owners.len();
        let most = (node.capacity() / 32 / owners.max(1)).min(LARGEST_CHUNK);
        // Near the limit the rest is left to those who need it at once.
        let chunk = self.chunk.load(Relaxed).max(CHARGES_A_CHUNK * bytes);
        let chunk = chunk.min(most).min(node.obtainable() / 4);
        if chunk < bytes.max(SMALLEST_CHUNK) || node.spend_funded(chunk, locked).is_err() {
            return;
        }
        node.lend(chunk);
        self.granted.fetch_add(chunk, AcqRel);
        self.tune(chunk);
        self.chunk.store((2 * chunk).clamp(SMALLEST_CHUNK, LARGEST_CHUNK), Relaxed);
    }

    /// Takes all but a chunk from the owner, whose thread this is; all, where funds are short.
    fn give_back(&self, locked: &mut Locked<'_>) {
        let node = &self.node;
        let keep = if node.is_short() || !node.may_lend() { 0 } else { self.last_chunk() };
        let surplus = self.unspent().saturating_sub(keep);
        self.granted.fetch_sub(surplus, AcqRel);
        self.tune(keep);
        node.take_back(surplus);
        node.refund(surplus);
        node.settle(locked);
    }

    /// The size of the last grant.
    fn last_chunk(&self) -> usize {
        self.chunk.load(Relaxed) / 2
    }

    /// Lets the owner keep two chunks, or send every credit on if `chunk` is zero.
    fn tune(&self, chunk: usize) {
        let granted = self.granted.load(Relaxed);
        let floor = if chunk == 0 { usize::MAX } else { granted.saturating_sub(2 * chunk) };
        self.floor.store(floor, Release);
    }

    /// From now on, every credit is sent on. A fence has to follow before `spent` is relied on.
    pub(crate) fn send_credits_on(&self) {
        self.tune(0);
    }

    /// Claims what is not spent; returns how much. [`settle_recall`](Self::settle_recall) has to
    /// follow, after a fence.
    pub(crate) fn begin_recall(&self) -> usize {
        let claimed = self.unspent();
        if claimed > 0 {
            self.granted.fetch_sub(claimed, AcqRel);
            self.chunk.store(FIRST_CHUNK, Relaxed);
            self.tune(0);
        }
        claimed
    }

    /// Leaves to the owner what it spent in the meantime, or everything if there was no fence;
    /// returns what is left of the claim.
    pub(crate) fn settle_recall(&self, claimed: usize, fenced: bool) -> usize {
        let overdrawn = if fenced {
            let granted = self.granted.load(Relaxed);
            self.spent.load(Acquire).saturating_sub(granted).min(claimed)
        } else {
            claimed
        };
        self.granted.fetch_add(overdrawn, AcqRel);
        claimed - overdrawn
    }
}

impl Node {
    /// Whether owners may have funds: not while single charges are limited, because theirs are not
    /// looked at one by one.
    pub(crate) fn may_lend(&self) -> bool {
        self.largest_charge() == usize::MAX
            && self.state() != BudgetState::Released
            && self.funded() <= self.capacity()
            && fence::is_available()
    }
}
