//! Funds in the hands of one owner, who spends them without the cost of atomics.
//!
//! An owner works on one thread at a time. What it may spend it keeps in one number that it alone
//! writes, with plain stores; after each, it looks whether the tree wants its *attention*. Whoever
//! needs the funds (under the tree's lock) raises that flag, and then reads the number. With a fence
//! between the two steps on either side at least one sees the other: the owner takes its charge back
//! and goes the slow way, or the collector sees it. The owner's fence is free, because the collector
//! runs it on the owner's behalf (see `nebula_memory_core::fence`). What the collector claims it
//! notes beside the owner's number; the owner subtracts it when it pays attention. Where the system
//! has no such fence, owners get no funds, and charge the budget directly.

use nebula_memory_core::{
    MemoryError, fence,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64, AtomicUsize,
            Ordering::{AcqRel, Acquire, Relaxed, Release},
        },
    },
};

use crate::{BudgetState, node::Node, tree::Locked};

/// What an owner and the tree share. The methods of the owner's side are only for the one thread
/// that is the owner at the time; anything else would make the books wrong (though nothing worse).
#[repr(align(64))]
pub(crate) struct Slack {
    /// Bytes that may be spent, claims included. Written by the owner. While a credit finds out
    /// that it has to go the slow way, it may be above `funds`.
    left: AtomicUsize,
    /// A credit that leaves more than this goes the slow way: because it is too much to keep, or
    /// more than was charged, or because the owner's attention is wanted. Written under the tree's
    /// lock.
    ceiling: AtomicUsize,
    /// Charges go the slow way, too. Written under the tree's lock.
    attention: AtomicBool,
    /// Charges that `left` covered. Written by the owner.
    charges: AtomicU64,
    /// All funds: what is left, and what is spent. Written by the owner, under the tree's lock.
    funds: AtomicUsize,
    /// Bytes charged to the node directly. Written by the owner.
    direct: AtomicUsize,
    /// Of `left`, what has been collected and is not the owner's any more. Written under the tree's
    /// lock. Above zero only while `attention` is raised.
    claimed: AtomicUsize,
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
    /// Registers an owner.
    pub(crate) fn open(node: &Arc<Node>) -> Arc<Self> {
        let slack = Arc::new(Self {
            left: AtomicUsize::new(0),
            ceiling: AtomicUsize::new(0),
            attention: AtomicBool::new(false),
            charges: AtomicU64::new(0),
            funds: AtomicUsize::new(0),
            direct: AtomicUsize::new(0),
            claimed: AtomicUsize::new(0),
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

    /// Charges `bytes` if what is left covers them.
    #[inline]
    pub(crate) fn spend(&self, bytes: usize) -> bool {
        // A charge that is not covered leaves no trace, not for a moment: it would hide funds.
        let Some(left) = self.left.load(Relaxed).checked_sub(bytes) else { return false };
        self.left.store(left, Release);
        fence::light();
        // Relaxed: it only tells to go the slow way, through the lock. So does the ceiling.
        if self.attention.load(Relaxed) {
            return self.unspend(bytes);
        }
        self.charges.store(self.charges.load(Relaxed).wrapping_add(1), Relaxed);
        true
    }

    /// Takes a charge back.
    #[cold]
    #[inline(never)]
    fn unspend(&self, bytes: usize) -> bool {
        self.left.store(self.left.load(Relaxed) + bytes, Release);
        false
    }

    /// Charges `bytes` to the node, and takes funds along if that is worth the while.
    #[cold]
    #[inline(never)]
    pub(crate) fn charge_slowly(&self, bytes: usize) -> Result<(), MemoryError> {
        if self.attention.load(Acquire) && self.left.load(Relaxed) > 0 && self.spend_rest(bytes) {
            return Ok(());
        }
        self.node.try_charge(bytes)?;
        self.take_over(bytes);
        if bytes <= LARGEST_CHUNK / CHARGES_A_CHUNK && self.node.may_lend() && !self.node.is_short()
        {
            self.node.tree.locked(|locked| self.top_up(bytes, locked));
        }
        Ok(())
    }

    /// Charges `bytes` out of what nobody has claimed; gives it back if it is less, or if the charge
    /// may not be made.
    fn spend_rest(&self, bytes: usize) -> bool {
        self.node.tree.locked(|locked| {
            self.hand_in_claims();
            let left = self.left.load(Relaxed);
            // What is left of a budget that is released was being spent when that looked: its report
            // counts this charge as made.
            let may =
                || self.node.state() == BudgetState::Released || self.node.permit(bytes).is_ok();
            let spent = bytes <= left && may();
            if spent {
                self.left.store(left - bytes, Release);
                self.charges.store(self.charges.load(Relaxed).wrapping_add(1), Relaxed);
            } else {
                self.give_back(left, locked);
            }
            spent
        })
    }

    /// Credits `bytes`. Returns how many of them had not been charged; those are ignored.
    #[inline]
    pub(crate) fn credit(&self, bytes: usize) -> usize {
        if let Some(left) = self.left.load(Relaxed).checked_add(bytes) {
            self.left.store(left, Release);
            fence::light();
            if left <= self.ceiling.load(Relaxed) {
                return 0;
            }
            return self.balance();
        }
        self.credit_too_much(bytes)
    }

    /// Credits what was charged of more bytes than there can be.
    #[cold]
    #[inline(never)]
    fn credit_too_much(&self, bytes: usize) -> usize {
        let charged = bytes.min(self.bytes());
        bytes - charged + self.credit(charged)
    }

    /// Looks after a credit that left more than the ceiling. Returns what had not been charged.
    #[cold]
    #[inline(never)]
    fn balance(&self) -> usize {
        let left = self.left.load(Relaxed);
        // More than the funds: it was charged to the node directly, if at all. No claim reaches
        // beyond the funds, so that this much is the owner's to take away.
        let over = left.saturating_sub(self.funds.load(Relaxed));
        let direct = over.min(self.direct());
        self.left.store(left - over, Release);
        if direct > 0 {
            self.hand_over(direct);
            self.node.credit(direct);
        }
        if left - over > self.ceiling.load(Acquire) {
            self.attend();
        }
        over - direct
    }

    /// Bytes charged through this owner.
    #[inline]
    pub(crate) fn bytes(&self) -> usize {
        self.spent() + self.direct()
    }

    #[inline]
    fn spent(&self) -> usize {
        self.funds.load(Relaxed) - self.left.load(Relaxed)
    }

    #[inline]
    fn direct(&self) -> usize {
        self.direct.load(Relaxed)
    }

    /// Takes over `bytes` that are charged to the node directly.
    pub(crate) fn take_over(&self, bytes: usize) {
        self.direct.store(self.direct() + bytes, Relaxed);
    }

    /// Gives up `bytes` that are charged to the node directly; see
    /// [`charge_directly`](Self::charge_directly).
    pub(crate) fn hand_over(&self, bytes: usize) {
        self.direct.store(self.direct() - bytes, Relaxed);
    }

    /// Sees to it that, of what is charged, `bytes` are charged to the node directly.
    pub(crate) fn charge_directly(&self, bytes: usize) {
        let more = bytes.saturating_sub(self.direct());
        if more > 0 {
            self.node.tree.locked(|_| {
                // They stay spent, but not out of these funds any more.
                self.funds.store(self.funds.load(Relaxed) - more, Relaxed);
                self.node.take_back(more);
                self.tune();
            });
            self.take_over(more);
        }
    }

    /// Looks after what the tree wants, and gives back what is too much.
    #[cold]
    #[inline(never)]
    fn attend(&self) {
        self.node.tree.locked(|locked| {
            self.hand_in_claims();
            let wanted = self.node.is_short() || !self.node.may_lend();
            let keep = if wanted { 0 } else { self.chunk.load(Relaxed) / 2 };
            let surplus = self.left.load(Relaxed).saturating_sub(keep);
            self.attention.store(wanted, Relaxed);
            self.give_back(surplus, locked);
        });
    }

    /// Gives `bytes` of what is left back to the node. Under the lock.
    fn give_back(&self, bytes: usize, locked: &mut Locked<'_>) {
        self.lower(bytes);
        self.tune();
        self.node.take_back(bytes);
        self.node.refund(bytes);
        self.node.settle(locked);
    }

    /// Gives what was claimed out of the owner's numbers. Under the lock.
    fn hand_in_claims(&self) {
        let claimed = self.claimed.load(Relaxed);
        self.lower(claimed);
        self.claimed.store(0, Relaxed);
    }

    /// Lowers the funds by `bytes` that are left. Under the lock.
    fn lower(&self, bytes: usize) {
        self.left.store(self.left.load(Relaxed) - bytes, Release);
        self.funds.store(self.funds.load(Relaxed) - bytes, Relaxed);
    }

    /// Sets the ceiling: two chunks, or nothing. Under the lock.
    fn tune(&self) {
        // `chunk` is the next one, twice as large as the latest.
        let two_chunks = self.chunk.load(Relaxed).min(self.funds.load(Relaxed));
        let ceiling = if self.attention.load(Relaxed) { 0 } else { two_chunks };
        self.ceiling.store(ceiling, Release);
    }

    /// Takes funds for charges of `bytes`. Under the lock.
    fn top_up(&self, bytes: usize, locked: &mut Locked<'_>) {
        let node = &self.node;
        self.hand_in_claims();
        if !node.may_lend() || node.is_short() {
            return;
        }
        self.attention.store(false, Relaxed);
        self.tune();
        let owners = node.family.lock().owners.len();
        let most = (node.capacity() / 32 / owners.max(1)).min(LARGEST_CHUNK);
        let chunk = self.chunk.load(Relaxed).max(CHARGES_A_CHUNK * bytes);
        // Near the limit the rest is left to those who need it at once.
        let chunk = chunk.min(most).min(node.obtainable() / 4);
        if chunk < bytes.max(SMALLEST_CHUNK) || node.spend_funded(chunk, locked).is_err() {
            return;
        }
        node.lend(chunk);
        self.funds.store(self.funds.load(Relaxed) + chunk, Relaxed);
        self.left.store(self.left.load(Relaxed) + chunk, Release);
        self.chunk.store((2 * chunk).min(2 * LARGEST_CHUNK), Relaxed);
        self.tune();
    }

    /// Ends the ownership. All that is charged stays charged, at the node directly.
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
            self.hand_in_claims();
            let (left, spent) = (self.left.load(Relaxed), self.spent());
            self.lower(left);
            self.funds.store(0, Relaxed);
            self.take_over(spent);
            self.attention.store(true, Relaxed);
            self.tune();
            node.hot.free.count(self.charges.swap(0, Relaxed));
            node.take_back(left + spent);
            node.refund(left);
            node.settle(locked);
            drop(gone);
        });
    }
}

/// The tree's side.
impl Slack {
    /// What the owner could spend.
    pub(crate) fn unspent(&self) -> usize {
        let left = self.left.load(Acquire).min(self.funds.load(Relaxed));
        left.saturating_sub(self.claimed.load(Relaxed))
    }

    pub(crate) fn charges(&self) -> u64 {
        self.charges.load(Relaxed)
    }

    /// Raises the flag. `false` if it was raised before and nothing is left to collect.
    /// [`collect`](Self::collect) has to follow, after a fence. Under the lock.
    pub(crate) fn call(&self) -> bool {
        let called = !self.attention.swap(true, AcqRel);
        self.tune();
        called || self.unspent() > 0
    }

    /// Claims what is left, after the fence, and returns how much. Without a fence nothing can be.
    /// Under the lock.
    pub(crate) fn collect(&self, fenced: bool) -> usize {
        if fenced {
            // From here on the owner can only come the slow way, and wait for the lock. What it is
            // about to take back is not seen yet, and stays with it.
            let more = self.unspent();
            self.claimed.store(self.claimed.load(Relaxed) + more, Relaxed);
            self.chunk.store(FIRST_CHUNK, Relaxed);
            self.node.take_back(more);
            self.node.refund(more);
            more
        } else {
            // Claims may be there from before.
            self.attention.store(self.claimed.load(Relaxed) > 0, Relaxed);
            self.tune();
            0
        }
    }
}

impl Node {
    /// Whether owners may have funds: not while some charges are refused for their size or priority,
    /// because theirs are not looked at one by one.
    pub(crate) fn may_lend(&self) -> bool {
        !self.is_throttled()
            && self.state() != BudgetState::Released
            && self.funded() <= self.capacity()
            && fence::is_available()
    }

    /// Collects what those owners have not spent whose flags have been raised. Returns how much.
    /// Under the lock.
    pub(crate) fn collect_from(owners: &[Arc<Slack>]) -> usize {
        if owners.is_empty() {
            return 0;
        }
        let fenced = fence::heavy();
        owners.iter().map(|owner| owner.collect(fenced)).sum()
    }
}
